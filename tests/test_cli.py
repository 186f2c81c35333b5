"""The command line, as a shell sees it: exit codes, data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from airflow_triton.console import show
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.repository import LocalRepository, releases

Make = Callable[..., dict[str, Any]]


def shell(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the console script."""
    script = Path(sys.executable).parent / "airflow-triton"
    return subprocess.run([script, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False)


@pytest.fixture
def spec(mapping: Make, tmp_path: Path) -> Callable[..., Path]:
    """Writes a spec file that deploys a version of `blobs`."""

    def write(version: int, **keys: Any) -> Path:
        path = tmp_path / f"blobs-{version}.json"
        path.write_text(json.dumps(mapping(version, **keys)))
        return path

    return write


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_life_of_a_model_from_the_shell(
    spec: Callable[..., Path], mlflow_server: str, repository: LocalRepository, triton: LocalTriton
) -> None:
    """Apply, reject, apply, status, history and rollback, through a real MLflow server: each with its exit code and its JSON."""
    first = shell("apply", spec(1, tracking_uri=mlflow_server), "--json")
    assert first.returncode == 0, first.stderr
    assert [(row["action"], row["version"]) for row in json.loads(first.stdout)] == [("promoted", 1)]
    assert "validate: `blobs--candidate-1-" in first.stderr

    bad = shell("apply", spec(2, tracking_uri=mlflow_server), "--json")
    assert bad.returncode == 3
    (row,) = json.loads(bad.stdout)
    assert row["error"]["type"] == "RejectedError"
    assert [check["name"] for check in row["report"]["checks"] if not check["passed"]] == ["accuracy"]

    assert shell("apply", spec(3, tracking_uri=mlflow_server)).returncode == 0
    where = {"TRITON_MODEL_REPO": str(repository.root), "TRITON_URL": triton.http_url, "MLFLOW_TRACKING_URI": mlflow_server}
    told = shell("status", "--json", **where)
    (status,) = json.loads(told.stdout)
    assert (status["name"], status["stored"], status["servers"][0]["ready"], status["problems"]) == ("blobs", 3, [3], [])

    back = shell("rollback", "blobs", "--json", **where)
    assert (back.returncode, json.loads(back.stdout)["version"]) == (0, 1)
    history = json.loads(shell("history", "blobs", "--json", **where).stdout)
    assert [(event["version"], event["how"]) for event in history] == [(1, "rollback"), (3, "promote"), (2, "rejected"), (1, "promote")]
    assert [row["version"] for row in json.loads(shell("fsck", "--json", **where).stdout)] == [1, 3]
    (repository.path(repository.version_place("blobs", 1)) / "model.onnx").unlink()
    damaged = shell("fsck", **where)
    assert damaged.returncode == 1
    assert "blobs 1 is damaged; it serves" in damaged.stderr


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "table"])
def test_broken_spec_is_the_users_error(tmp_path: Path, as_json: bool) -> None:  # noqa: FBT001
    """A broken spec ends with 2 and names file, line and key on stderr."""
    path = tmp_path / "broken.yaml"
    path.write_text("name: ../x\nmodel: models:/a/1\n")

    ended = shell("apply", path, *(["--json"] if as_json else []))

    assert ended.returncode == 2
    assert f"{path}:1: name:" in ended.stderr
    assert (json.loads(ended.stdout)["error"]["type"] == "SpecError") if as_json else (ended.stdout == "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["apply"], "SPEC"),
        (["apply", "no-such-file.yaml"], "no-such-file.yaml"),
        (["status"], "TRITON_MODEL_REPO"),
        (["rollback", "x", "--repository", "nowhere"], "TRITON_URL"),
        (["rollback", "../x", "--repository", "nowhere", "--server", "http://h"], "../x"),
        (["history", "x", "--repository", "nowhere"], "nowhere"),
        (["nonsense"], "nonsense"),
        (["serve", "--repository", "x", "--mode", "wild"], "wild"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_told_apart(tmp_path: Path, arguments: list[str], named: str) -> None:
    """Bad usage ends with 2, says what came, and creates nothing."""
    ended = subprocess.run(
        [Path(sys.executable).parent / "airflow-triton", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )

    assert ended.returncode == 2, ended.stderr
    assert named in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_specs_fails(spec: Callable[..., Path], mapping: Make) -> None:
    """Each spec has its own end; the command's exit code is the gravest."""
    bad = spec(2, name="other")

    ended = shell("apply", spec(1), bad, "--json")

    assert ended.returncode == 3
    assert [row["exit_code"] for row in json.loads(ended.stdout)] == [0, 3]


def test_who_comes_second_is_told(spec: Callable[..., Path], repository: LocalRepository) -> None:
    """Someone else promotes while a deployment is held up in its validation: it ends with 4, and theirs serves."""
    command = [sys.executable, "-m", "airflow_triton", "apply", str(spec(3)), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "validate:" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        try:
            assert shell("apply", spec(1)).returncode == 0
        finally:
            process.send_signal(signal.SIGCONT)
        (row,) = json.loads(process.stdout.read())

    assert (process.returncode, row["error"]["type"]) == (4, "ConflictError")
    assert [release.version for release in releases(repository, "blobs")] == [1]
    assert sorted(path.name for path in repository.root.iterdir()) == ["blobs"]


def test_what_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that names an extra, `package[extra]`, keeps its brackets."""
    table = Table("why")
    table.add_row("pip install 'airflow-provider-triton[tensorrt]'")

    show([], lambda: table, as_json=False)

    assert "airflow-provider-triton[tensorrt]" in capsys.readouterr().out


def test_schema_is_printed() -> None:
    """The schema on stdout is the published one."""
    assert "validate" in json.loads(shell("schema").stdout)["properties"]


COMMANDS = ["apply", "plan", "status", "rollback", "history", "delete", "adopt", "fsck", "serve", "schema", "demo"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str) -> None:
    """Every command has a help that says what it does and takes --json."""
    told = shell(command, "--help").stdout

    assert "--json" in told
    assert len(told.splitlines()) > 5


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_serve_prints_its_addresses_and_ends_cleanly(tmp_path: Path, ending: signal.Signals) -> None:
    """`serve` is up when it prints its addresses, and leaves no server behind."""
    port = free_port()
    command = [sys.executable, "-m", "airflow_triton", "serve", "--repository", tmp_path / "models", "--http-port", str(port), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        while not lines or lines[-1].strip() != "}":
            lines.append(process.stdout.readline())
        addresses = json.loads("".join(lines))
        assert addresses["http"] == f"http://127.0.0.1:{port}"
        assert _answers(f"{addresses['http']}/v2/health/ready")

        process.send_signal(ending)
        assert process.wait(timeout=30) == 0

    assert not _answers(f"{addresses['http']}/v2/health/live")
