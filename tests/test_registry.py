"""MLflow's registry: a URI becomes one version, on a real store; what is asked of a registry that does not answer, and its secrets."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow import MlflowClient

from airflow_triton.errors import DeployError, RegistryError, RegistryUnreachableError, SpecError
from airflow_triton.registry import ModelSource, Registry

SECRET = "s3cret"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty folder, so that a database that MLflow makes by mistake shows."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def mlflow_client(tracking_uri: str) -> MlflowClient:
    """MLflow's own client of the store."""
    return MlflowClient(tracking_uri, tracking_uri)


@pytest.fixture(scope="module")
def copies(mlflow_client: MlflowClient) -> str:
    """A registered model of three versions: copies of `blobs` 1 and 3, and a copy of the copy of 1."""
    for uri, name in (("models:/blobs/1", "first-copies"), ("models:/blobs/1", "copies"), ("models:/blobs/3", "copies")):
        mlflow_client.copy_model_version(uri, name)
    mlflow_client.copy_model_version("models:/first-copies/1", "copies")
    return "copies"


@pytest.fixture
def registry(tracking_uri: str) -> Registry:
    """The registry of the store."""
    return Registry(tracking_uri)


def _told(call: Callable[[], object], kind: type[DeployError]) -> str:
    """The message of the error, which must be of exactly this kind."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# --- resolving


def test_a_version_is_resolved(registry: Registry, mlflow_client: MlflowClient, tmp_path: Path) -> None:
    """models:/name/3 says run, flavors and place; nothing is written where we are."""
    source = registry.resolve("models:/blobs/3")

    assert (source.uri, source.name, source.version, str(source)) == ("models:/blobs/3", "blobs", 3, "models:/blobs/3")
    assert source.run_id == mlflow_client.get_model_version("blobs", "3").run_id
    assert "python_function" in source.flavors
    assert source.flavors == tuple(sorted(source.flavors))
    assert source.artifacts == mlflow_client.get_model_version_download_uri("blobs", "3")
    assert ModelSource.model_validate_json(source.model_dump_json()) == source
    assert list(tmp_path.iterdir()) == []


def test_latest_is_the_highest_number(registry: Registry, copies: str) -> None:
    """Not the one that was written last, and of this model only."""
    assert registry.resolve("models:/blobs/latest").version == 3
    assert registry.resolve("models:/plus/latest").version == 1
    assert registry.resolve(f"models:/{copies}/latest").version == 3


def test_ten_comes_after_nine(registry: Registry, mlflow_client: MlflowClient) -> None:
    """Versions are numbers and not text, for `latest` and for the newest tagged one."""
    for _ in range(10):
        mlflow_client.copy_model_version("models:/plus/1", "ten")
    for version in (2, 10, 9):
        registry.set_tags("ten", version, {"t.at": "x"})

    assert registry.resolve("models:/ten/latest").version == 10
    assert registry.newest_tagged("ten", "t.at") == (10, registry.tags("ten", 10))


def test_an_alias_is_followed_when_it_moves(registry: Registry, copies: str) -> None:
    """models:/name@alias is what the alias says now."""
    seen = []
    for version in (1, 2, 1):
        registry.set_alias(copies, "moving", version)
        seen.append(registry.resolve(f"models:/{copies}@moving"))

    assert [source.version for source in seen] == [1, 2, 1]
    assert seen[0] == seen[2]
    assert seen[0].digest != seen[1].digest


def test_a_run_becomes_the_version_that_was_registered_from_it(registry: Registry, mlflow_client: MlflowClient) -> None:
    """runs:/id/path is the registered version, with the content of models:/name/version."""
    run_id = mlflow_client.get_model_version("blobs", "2").run_id

    source = registry.resolve(f"runs:/{run_id}/model")

    assert (source.name, source.version, source.uri) == ("blobs", 2, f"runs:/{run_id}/model")
    assert source.digest == registry.resolve("models:/blobs/2").digest


@pytest.mark.parametrize("path", ["other", "model/sub", "odel"])
def test_another_path_of_a_run_is_not_registered(registry: Registry, mlflow_client: MlflowClient, path: str) -> None:
    """A run with a registered model, and a path that is another: RegistryError that says how to register it."""
    uri = f"runs:/{mlflow_client.get_model_version('blobs', '2').run_id}/{path}"

    assert f'mlflow.register_model("{uri}", "NAME")' in _told(lambda: registry.resolve(uri), RegistryError)


def test_a_run_without_registered_model_says_so(registry: Registry, mlflow_client: MlflowClient) -> None:
    """A run that is there, and nothing was registered from it."""
    experiment = mlflow_client.get_experiment_by_name("tests")
    run_id = mlflow_client.create_run(experiment.experiment_id).info.run_id

    told = _told(lambda: registry.resolve(f"runs:/{run_id}/model"), RegistryError)

    assert f"the model of runs:/{run_id}/model is not registered" in told


def test_a_copy_of_a_copy_leads_to_the_model(registry: Registry, copies: str, tmp_path: Path) -> None:
    """A version that was copied twice has the first one's run and artifacts, and can be downloaded."""
    original, copied = registry.resolve("models:/blobs/1"), registry.resolve(f"models:/{copies}/3")

    assert (copied.run_id, copied.artifacts) == (original.run_id, original.artifacts)
    assert (registry.download(copied, tmp_path / "models") / "MLmodel").is_file()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("models:/nope/1", "name=nope, version=1"),
        ("models:/blobs/99", "name=blobs, version=99"),
        ("models:/nope@champion", "resolve models:/nope@champion"),
        ("models:/blobs@nope", "alias nope not found"),
        ("models:/nope/latest", "the model `nope` has no versions"),
        ("runs:/0123456789abcdef/model", "0123456789abcdef"),
        ("runs:/a'b/model", "a'b"),
    ],
)
def test_what_the_registry_does_not_know_is_named(registry: Registry, tracking_uri: str, uri: str, told: str) -> None:
    """RegistryError with what was asked, and where."""
    message = _told(lambda: registry.resolve(uri), RegistryError)

    assert told in message
    assert f"MLflow at {tracking_uri}" in message


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "blobs",
        "models:/blobs",
        "models:/blobs/",
        "models:/blobs/v1",
        "models:/blobs/1/x",
        "models:/a@b@c",
        "runs:/x",
        "s3://b/x",
        "models:/it's/latest",
    ],
)
def test_what_is_no_model_uri_is_refused(registry: Registry, uri: str) -> None:
    """SpecError, before MLflow is asked."""
    assert f"{uri.split('/')[1] if 'it' in uri else uri}" in _told(lambda: registry.resolve(uri), SpecError)


def test_digests_tell_versions_apart(tracking_uri: str) -> None:
    """The same version has the same digest whoever asks; another version another one."""
    digests = [[Registry(tracking_uri).resolve(f"models:/blobs/{version}").digest for version in (1, 2, 3)] for _ in range(2)]

    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 3


def test_the_environment_says_where_mlflow_is(tracking_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a URI of its own the registry is MLflow's configuration; with one, that configuration does not count."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    assert Registry().resolve("models:/plus/1").name == "plus"
    assert tracking_uri in _told(lambda: Registry().resolve("models:/nope/1"), RegistryError)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    source = Registry(tracking_uri).resolve("models:/plus/1")
    assert Registry(tracking_uri).download(source, tmp_path / "models").is_dir()
    assert not (tmp_path / "other.db").exists()


# --- damaged models


@pytest.fixture
def registered(mlflow_client: MlflowClient, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[bytes | None], str]]:
    """Registers a version whose MLmodel holds these bytes (None: there is none); its URI."""
    mlflow_client.create_registered_model("broken")

    def make(content: bytes | None) -> str:
        folder = tmp_path / "artifacts"
        folder.mkdir()
        if content is not None:
            (folder / "MLmodel").write_bytes(content)
        return f"models:/broken/{mlflow_client.create_model_version('broken', source=folder.as_uri()).version}"

    yield make
    mlflow_client.delete_registered_model("broken")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"flavors: [",
        b"- flavors",
        b"text",
        b"\xff\xfe\x00\x01",
        b"a: \x01",
        b"run_id: x",
        b"flavors: [sklearn]",
        b"flavors: !!python/name:os.system x",
    ],
    ids=["empty", "cut off", "a list", "a text", "no text", "control character", "no flavors", "a list of flavors", "Python in YAML"],
)
def test_a_damaged_mlmodel_is_an_error(registry: Registry, registered: Callable[[bytes | None], str], content: bytes) -> None:
    """Not YAML, or not what MLflow writes: RegistryError that names the version and what is wrong."""
    uri = registered(content)

    assert f"the MLmodel file of {uri} is damaged: " in _told(lambda: registry.resolve(uri), RegistryError)


def test_artifacts_that_are_gone_are_an_error(registry: Registry, registered: Callable[[bytes | None], str]) -> None:
    """A version without MLmodel: RegistryError with the place, and a retry does not help."""
    uri = registered(None)

    told = _told(lambda: registry.resolve(uri), RegistryError)

    assert "artifacts/MLmodel" in told
    assert "No such artifact" in told


@pytest.mark.parametrize(
    ("content", "run_id", "flavors", "example"),
    [
        (b"flavors: {sklearn: {}, onnx: {}}\nsaved_input_example_info: {artifact_path: x.json}\n", None, ("onnx", "sklearn"), True),
        (b"flavors: {onnx: {}}\nrun_id: abc\nsaved_input_example_info: null\n", "abc", ("onnx",), False),
        (b"flavors: {1: {}, onnx: {}}\nrun_id: 12\n", "12", ("1", "onnx"), False),
    ],
    ids=["with an example", "without", "numbers"],
)
def test_an_mlmodel_is_read(  # noqa: PLR0917 - the columns of the table
    registry: Registry,
    registered: Callable[[bytes | None], str],
    content: bytes,
    run_id: str | None,
    flavors: tuple[str, ...],
    example: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """Run, flavors in their order, and whether there is an example; what YAML takes for a number is text all the same."""
    source = registry.resolve(registered(content))

    assert (source.run_id, source.flavors, source.has_input_example) == (run_id, flavors, example)


# --- downloads


def test_a_model_is_downloaded_once(registry: Registry, tmp_path: Path) -> None:
    """The second call answers the same folder as it lies there; another version has another folder."""
    into = tmp_path / "models"
    source = registry.resolve("models:/blobs/1")
    folder = registry.download(source, into)
    (folder / "MLmodel").write_text("touched")

    assert registry.download(source, into) == folder
    assert (folder / "MLmodel").read_text() == "touched"
    other = registry.download(registry.resolve("models:/blobs/2"), into)
    assert other != folder
    assert (other / "MLmodel").read_text() != "touched"


def test_a_download_that_was_cut_off_is_made_again(registry: Registry, tmp_path: Path) -> None:
    """What a killed download left does not count."""
    into = tmp_path / "models"
    source = registry.resolve("models:/plus/1")
    folder = registry.download(source, into)
    whole = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.name != ".complete")
    for path in into.rglob("*"):
        if path.name in (".complete", "MLmodel"):
            path.unlink()

    again = registry.download(source, into)

    assert sorted(path.relative_to(again) for path in again.rglob("*") if path.name != ".complete") == whole


# --- tags and aliases


def test_the_newest_tagged_version_is_found(registry: Registry, copies: str) -> None:
    """The highest version that has the key, with all its tags; None where none has, or there is no such model."""
    registry.set_tags(copies, 1, {"t.at": "1", "t.more": "x"})
    assert registry.newest_tagged(copies, "t.at") == (1, registry.tags(copies, 1))
    registry.set_tags(copies, 3, {"t.at": "3"})
    registry.set_tags(copies, 2, {"t.at": "2"})

    newest = registry.newest_tagged(copies, "t.at")
    assert newest is not None
    assert (newest[0], newest[1]["t.at"]) == (3, "3")
    assert registry.newest_tagged(copies, "t.nope") is None
    assert registry.newest_tagged("nope", "t.at") is None


def test_tags_are_read_back_as_they_were_written(registry: Registry, copies: str) -> None:
    """New, changed and unchanged ones."""
    before = registry.tags(copies, 2)
    registry.set_tags(copies, 2, {"a": "1", "b": "é"})
    registry.set_tags(copies, 2, {"a": "2", "b": "é"})

    assert registry.tags(copies, 2) == {**before, "a": "2", "b": "é"}


@pytest.mark.parametrize(
    "call",
    [
        lambda registry: registry.tags("nope", 1),
        lambda registry: registry.set_tags("nope", 1, {"a": "b"}),
        lambda registry: registry.set_alias("nope", "a", 1),
        lambda registry: registry.set_alias("blobs", "a", 99),
    ],
    ids=["tags", "set_tags", "set_alias", "set_alias, unknown version"],
)
def test_tags_and_aliases_of_what_is_not_there_are_errors(registry: Registry, call: Callable[[Registry], object]) -> None:
    """RegistryError that names the model."""
    assert "nope" in (told := _told(lambda: call(registry), RegistryError)) or "blobs" in told


class _MlflowStub(http.server.BaseHTTPRequestHandler):
    """A stub, no MLflow: one model version with tags; records what is written to it."""

    tags: dict[str, str]
    written: list[dict[str, Any]]

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        tags = [{"key": key, "value": value} for key, value in self.tags.items()]
        self._answer(
            {"model_version": {"name": asked["name"][0], "version": "7", "tags": tags}, "registered_model": {"name": asked["name"][0]}}
        )

    def do_POST(self) -> None:
        self.written.append({"path": self.path, **json.loads(self.rfile.read(int(self.headers["Content-Length"])))})
        self._answer({})

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_only_tags_that_change_are_written() -> None:
    """A tag that has its value already costs no write, which would start a webhook."""
    written: list[dict[str, Any]] = []
    handler = type("Stub", (_MlflowStub,), {"tags": {"same": "1", "changed": "1"}, "written": written})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        Registry(f"http://127.0.0.1:{stub.server_port}").set_tags("m", 7, {"same": "1", "changed": "2", "new": "3"})
        stub.shutdown()

    assert [(row["name"], row["version"], row["key"], row["value"]) for row in written] == [
        ("m", "7", "changed", "2"),
        ("m", "7", "new", "3"),
    ]
    assert all(row["path"].endswith("/model-versions/set-tag") for row in written)


# --- a registry that does not answer, and secrets


@contextmanager
def _listening(*, answer: bool) -> Iterator[int]:
    """A port where a connection is accepted and nobody answers, or where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if answer:
            yield port
            return
    yield port


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("silent", [False, True], ids=["closed port", "silent server"])
@pytest.mark.parametrize(
    ("user", "secrets"),
    [("", []), (f"alice:{SECRET}@", ["alice", SECRET]), (f"alice:{SECRET}@{SECRET}@", [SECRET])],
    ids=["open", "password", "password with @"],
)
def test_a_registry_that_does_not_answer_is_unreachable(silent: bool, user: str, secrets: list[str]) -> None:  # noqa: FBT001
    """RegistryUnreachableError, in time and transient; no credentials are in it, neither ours nor in MLflow's own words."""
    with _listening(answer=silent) as port:
        registry = Registry(f"http://{user}127.0.0.1:{port}")
        for uri in ("models:/m/1",) if silent else ("models:/m/1", "models:/m@a", "models:/m/latest", "runs:/r/m"):
            started = time.monotonic()
            told = _told(lambda uri=uri: registry.resolve(uri), RegistryUnreachableError)  # type: ignore[misc]

            assert time.monotonic() - started < 4
            assert f"127.0.0.1:{port} does not answer (" in told
            assert uri in told
            assert not [secret for secret in secrets if secret in told]

    assert RegistryUnreachableError.transient


@pytest.mark.parametrize(
    "uri",
    [
        f"bogus://alice:{SECRET}@host/x",
        f"mysql+nosuchdriver://alice:{SECRET}@host/x",
        f"http://alice:{SECRET}@host:99999999",
        f"http://alice:{SECRET}@",
    ],
    ids=["unknown scheme", "unknown driver", "no port", "no host"],
)
def test_a_tracking_uri_that_is_wrong_is_an_error(uri: str) -> None:
    """RegistryError without the credentials, also where MLflow cannot even make its client."""
    registry = Registry(uri)

    with pytest.raises(RegistryError) as caught:
        registry.resolve("models:/m/1")
    assert SECRET not in f"{caught.value} {caught.value!r} {registry!r} {registry.tracking_uri}"


@pytest.mark.parametrize("content", [None, b"no database" * 200], ids=["below a file", "no database"])
def test_a_database_that_cannot_be_opened_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """What SQLite or the disk says, and a retry does not help."""
    place = tmp_path / "file"
    place.write_bytes(content or b"")
    registry = Registry(f"sqlite:///{place}" if content else f"sqlite:///{place}/mlflow.db")

    assert str(place) in _told(lambda: registry.resolve("models:/m/1"), RegistryError)
