"""The receiver alone: a real MLflow server's webhooks, the real pipeline on a real Triton; bad requests, a flood, a crash."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from webhooked import SCRIPT, SECRET, MlflowServer, ReceiverProcess, deliver, event, rows, signed, until

from airflow_triton.cli import main
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, releases
from mlflow_plugin.webhooks.check import SECRET_VARIABLE

Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def mlflow(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server over the tests' store that sends webhooks."""
    with MlflowServer(tracking_uri, tmp_path_factory.mktemp("mlflow-server")) as server:
        yield server


@pytest.fixture
def specs(tmp_path: Path, mapping: Make, mlflow: MlflowServer) -> Path:
    """A folder with one spec: `blobs` follows the alias `wanted` of the registered model `blobs`."""
    folder = tmp_path / "specs"
    folder.mkdir()
    spec = mapping(model="models:/blobs@wanted", schedule="registry", tracking_uri=mlflow.url)
    (folder / "blobs.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def command(mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `airflow-triton webhook ... --json` against the MLflow server."""

    def run(*arguments: str, secret: str = SECRET) -> Result:
        monkeypatch.setenv(SECRET_VARIABLE, secret)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
        return CliRunner().invoke(main, ["webhook", *arguments, "--json"])

    return run


def want(mlflow: MlflowServer, version: int) -> None:
    """Let the alias be this version, through the server, which tells of it even where it was that before."""
    Registry(mlflow.url).client.set_registered_model_alias("blobs", "wanted", str(version))


def served(repository: LocalRepository) -> list[int]:
    return [release.version for release in releases(repository, "blobs")]


def test_alias_in_mlflow_deploys(
    mlflow: MlflowServer, command: Callable[..., Result], specs: Path, journal: Path, repository: LocalRepository
) -> None:
    """Register, test, list; an alias set in MLflow is promoted, again the same is nothing, a bad one is rejected, and back is a new run.

    MLflow tells of tags as well: those of the deployments themselves start nothing.
    """
    with ReceiverProcess(specs, "--poll", "0", journal=journal) as receiver:
        tags = ["--event", "model_version_alias.created", "--event", "model_version_tag.set"]
        made = json.loads(command("register", receiver.url, *tags).stdout)
        assert [row["id"] for row in json.loads(command("list").stdout)] == [made["id"]]
        tried = command("test")
        assert (tried.exit_code, json.loads(tried.stdout)["status"]) == (0, 200), tried.stdout
        assert "no deployment follows" in json.loads(tried.stdout)["answer"]

        want(mlflow, 1)
        receiver.wait_for("version 1 was promoted")
        want(mlflow, 1)
        receiver.wait_for("is done")
        want(mlflow, 2)
        receiver.wait_for("what served still serves")
        want(mlflow, 3)
        receiver.wait_for("version 3 was promoted")
        want(mlflow, 1)
        receiver.wait_for("version 1 was promoted", count=2)
        assert served(repository) == [1, 3, 1]
        runs = receiver.rows("SELECT version, state, run_id FROM runs ORDER BY number")
        assert [run[:2] for run in runs] == [(1, "done"), (2, "rejected"), (3, "done"), (1, "done")]
        assert runs[3][2] == f"{runs[0][2]}__2"
        assert {kind for (kind,) in receiver.rows("SELECT event FROM deliveries")} == {"model_version_alias.created"}

        again = json.loads(command("register", receiver.url, secret="another").stdout)
        assert (again["id"], len(json.loads(command("list").stdout))) == (made["id"], 1)
        refused = command("test")
        assert (refused.exit_code, json.loads(refused.stdout)["status"]) == (1, 401)
        assert "another secret" in refused.stderr
        assert command("delete").exit_code == 0
        assert json.loads(command("list").stdout) == []
        assert SECRET not in receiver.told()


def test_poller_works_alone(mlflow: MlflowServer, specs: Path, journal: Path, repository: LocalRepository) -> None:
    """Without any webhook the registry's state is deployed; and an event of what the poller has deployed names the same run."""
    want(mlflow, 3)
    with ReceiverProcess(specs, "--poll", "0.5", journal=journal) as receiver:
        receiver.wait_for("version 3 was promoted")
        assert deliver(receiver.url, event(name="blobs", alias="wanted", version="3")).status_code == 202
        until(lambda: receiver.rows("SELECT 1 FROM deliveries WHERE outcome LIKE '%is done'"), told=receiver.told)
        assert len(receiver.rows("SELECT * FROM runs")) == 1
        receiver.process.terminate()
        assert receiver.process.wait(timeout=30) == 0
    assert served(repository) == [3]


def test_delivery_outlives_the_receiver(mlflow: MlflowServer, specs: Path, journal: Path, repository: LocalRepository) -> None:
    """Killed between the answer 202 and the start, and again in the middle of the pipeline: the next receiver starts it, once."""
    want(mlflow, 3)
    body = event(name="blobs", alias="wanted", version="3")
    with mlflow.mute(), ReceiverProcess(specs, "--poll", "0", journal=journal) as receiver:
        assert deliver(receiver.url, body, delivery_id="kept").status_code == 202
        receiver.wait_for("does not answer")
        receiver.kill()
    assert rows(journal, "SELECT id, outcome FROM deliveries") == [("kept", None)]
    assert rows(journal, "SELECT * FROM runs") == []

    with ReceiverProcess(specs, "--poll", "0", journal=journal) as second:
        second.wait_for("blobs: validate:")
        second.kill()
    assert rows(journal, "SELECT version, state FROM runs") == [(3, "running")]

    with ReceiverProcess(specs, "--poll", "0", journal=journal) as third:
        third.wait_for("version 3 was promoted")
        repeated = deliver(third.url, body, delivery_id="kept")
        assert (repeated.status_code, repeated.json()["status"]) == (200, "repeated")
        assert deliver(third.url, body + b" ", delivery_id="kept").status_code == 409
        until(lambda: third.rows("SELECT state FROM runs") == [("done",)], told=third.told)
    assert served(repository) == [3]


def test_flood_is_answered_and_loses_nothing(mlflow: MlflowServer, specs: Path, journal: Path, repository: LocalRepository) -> None:
    """Three thousand deliveries at once while MLflow is mute: as many as may wait are accepted, the rest is 429; all accepted are done."""
    want(mlflow, 1)
    body = event(name="blobs", alias="wanted", version="1")
    with ReceiverProcess(specs, "--poll", "0", "--backlog", "200", journal=journal) as receiver:
        with mlflow.mute(), requests.Session() as session:
            session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))

            def send(_: int) -> tuple[int, bool]:
                answer = session.post(receiver.url, data=body, headers=signed(body), timeout=60)
                return answer.status_code, "retry-after" in answer.headers

            with ThreadPoolExecutor(32) as pool:
                came = Counter(pool.map(send, range(3000)))
            assert came == {(202, False): 200, (429, True): 2800}
        receiver.wait_for("version 1 was promoted")
        until(lambda: receiver.rows("SELECT COUNT(*) FROM deliveries WHERE outcome IS NOT NULL") == [(200,)], told=receiver.told)
        assert len(receiver.rows("SELECT * FROM runs")) == 1
    assert served(repository) == [1]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    """A receiver for requests that must not lead to anything: its MLflow is not there."""
    home = tmp_path_factory.mktemp("receiver")
    (home / "specs").mkdir()
    spec = {"model": "models:/m@live", "schedule": "registry", "repository": "/nowhere", "servers": ["http://127.0.0.1:1"]}
    for name, more in {
        "m": {},
        "cron": {"schedule": "@daily", "model": "models:/m@other"},
        "newest": {"model": "models:/m/latest"},
    }.items():
        described = {"name": name, "tracking_uri": "http://127.0.0.1:1", **spec, **more}
        (home / "specs" / f"{name}.json").write_text(json.dumps(described))
    with ReceiverProcess(home / "specs", "--poll", "0", journal=home / "journal.db") as process:
        yield process


GOOD = event(name="m", alias="live", version="1")


BIG = b"x" * 10_000_000


@pytest.mark.parametrize(
    ("body", "signing", "changed", "status", "why"),
    [
        (GOOD, {}, {"X-MLflow-Signature": ""}, 401, "X-MLflow-Signature"),
        (GOOD, {"secret": "wrong"}, {}, 401, "signature is wrong"),
        (GOOD, {}, {"X-MLflow-Signature": "nonsense"}, 401, "signature is wrong"),
        (GOOD, {}, {"X-MLflow-Delivery-Id": "another"}, 401, "signature is wrong"),
        (GOOD, {}, {"X-MLflow-Timestamp": "1"}, 401, "signature is wrong"),
        (GOOD, {"body": b"another"}, {}, 401, "signature is wrong"),
        (GOOD, {"late": 4000}, {}, 401, "compare the clocks"),
        (GOOD, {"late": -4000}, {}, 401, "compare the clocks"),
        (GOOD, {"delivery_id": "i" * 300}, {}, 401, "200 characters"),
        (BIG, {}, {}, 413, "1048576 bytes"),
        (b'{"entity": ', {}, {}, 400, "no JSON"),
        (b"\xff", {}, {}, 400, "no JSON"),
        (b"[" * 100_000, {}, {}, 400, "no JSON"),
        (b"[]", {}, {}, 400, "entity"),
        (b'{"entity": "a", "action": "b"}', {}, {}, 400, "data"),
    ],
    ids=[
        "unsigned", "other secret", "no signature", "other id", "other time", "other body", "old", "ahead", "long id", "10 MB",
        "malformed", "no text", "deep", "a list", "no data",
    ],
)  # fmt: skip
def test_bad_delivery_is_refused(  # noqa: PLR0917
    receiver: ReceiverProcess, body: bytes, signing: dict[str, Any], changed: dict[str, str], status: int, why: str
) -> None:
    """Each kind of bad delivery has its answer, with a reason, and leaves nothing in the journal."""
    before = receiver.rows("SELECT COUNT(*) FROM deliveries")
    late = signing.get("late", 0)
    known = {key: value for key, value in signing.items() if key in ("secret", "delivery_id")}

    headers = {**signed(signing.get("body", body), at=time.time() - late, **known), **changed}
    answer = requests.post(receiver.url, data=body, headers=headers, timeout=30)

    assert (answer.status_code, answer.json()["status"]) == (status, "refused")
    assert why in answer.json()["why"]
    assert receiver.rows("SELECT COUNT(*) FROM deliveries") == before
    assert SECRET not in answer.text


def test_large_body_without_a_length_is_refused(receiver: ReceiverProcess) -> None:
    """A body that comes in pieces is cut off where it becomes too large."""
    answer = requests.post(receiver.url, data=(b"x" * 65536 for _ in range(32)), headers=signed(b"x"), timeout=30)

    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (event("registered_model", "created", name="m"), "no version yet"),
        (event("model_version_alias", "deleted", name="m", alias="live"), "removed alias"),
        (event("model_version_tag", "set", name="m", version="1", key="triton.m.verdict", value="passed"), "wrote this tag itself"),
        (event("prompt_alias", "created", name="m", alias="live", version="1"), "prompts"),
        (event("registered_model", "deleted", name="m"), "registered_model.deleted"),
        (event("model_version", "deleted", name="m", version="1"), "model_version.deleted"),
        (event("budget_policy", "exceeded", name="m"), "budget_policy.exceeded"),
        (event(name="m", alias="unknown", version="1"), "no deployment follows models:/m@unknown"),
        (event(name="n", alias="live", version="1"), "no deployment follows models:/n@live"),
        (event("model_version", "created", name="n", version="1"), "no deployment follows models:/n/latest"),
        (event(name="m", alias="other", version="1"), "the spec of `cron` does not say"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_event_that_asks_for_nothing_is_ignored(receiver: ReceiverProcess, body: bytes, why: str) -> None:
    """What moves no deployment is answered with 200 and the reason."""
    answer = deliver(receiver.url, body)

    assert (answer.status_code, answer.json()["status"]) == (200, "ignored")
    assert why in answer.json()["why"]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (GOOD, ["m"]),
        (event("model_version", "created", name="m", version="1"), ["newest"]),
        (event("model_version_tag", "set", name="m", version="1", key="approved", value="yes"), ["m", "newest"]),
        (event("model_version_tag", "deleted", name="m", version="1", key="approved"), ["m", "newest"]),
    ],
    ids=["alias", "new version", "tag set", "tag removed"],
)
def test_event_concerns_those_who_follow(receiver: ReceiverProcess, body: bytes, names: list[str]) -> None:
    """An event is taken for exactly the deployments whose model it may have moved."""
    answer = deliver(receiver.url, body)

    assert (answer.status_code, sorted(answer.json()["deployments"])) == (202, names)


def test_https_is_served(specs: Path, journal: Path, tmp_path: Path) -> None:
    """With a certificate the receiver speaks https, which MLflow wants unless it is told otherwise."""
    certificate, key = self_signed(tmp_path)
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key), "--poll", "0")
    with ReceiverProcess(specs, *tls, journal=journal) as receiver:
        assert receiver.url.startswith("https://")
        body = event(name="unknown", alias="a", version="1")
        answer = requests.post(receiver.url, data=body, headers=signed(body), verify=str(certificate), timeout=30)
    assert (answer.status_code, answer.json()["status"]) == (200, "ignored")


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "tls.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return folder / "tls.crt", folder / "tls.key"


def test_second_receiver_with_the_journal_is_refused(receiver: ReceiverProcess, tmp_path: Path) -> None:
    """Two receivers would run the same pipelines; a missing secret or folder is told before anything starts."""

    def ended(*arguments: str | Path, secret: str = SECRET) -> subprocess.CompletedProcess[str]:
        command = [SCRIPT, "webhook", "serve", "--port", "0", *arguments]
        environment = {**os.environ, SECRET_VARIABLE: secret}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)

    second = ended("--specs", tmp_path, "--journal", receiver.journal)
    assert (second.returncode, "another receiver runs" in second.stderr) == (1, True), second.stderr
    for more, named in (
        ({"secret": ""}, SECRET_VARIABLE),
        ({}, "AIRFLOW_TRITON_API_TOKEN"),
    ):
        told = ended("--specs", tmp_path, "--airflow", "http://127.0.0.1:1", **more)
        assert (told.returncode, named in told.stderr) == (2, True), told.stderr
    for url in ("ftp://airflow", "http://me:pass@airflow:8080"):
        told = ended("--specs", tmp_path, "--airflow", url)
        assert (told.returncode, "URL of its API server" in told.stderr, "pass@" in told.stderr) == (2, True, False), told.stderr
