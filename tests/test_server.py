"""The client of a Triton: every call and every refusal over gRPC and HTTP, on the real server and against servers that misbehave."""

from __future__ import annotations

import contextlib
import http.server
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from airflow_triton.errors import ControlModeError, DeployError, ServerError, ServerUnreachableError, SpecError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.server import LoadedModel, ServerAddress, TritonClient

PROTOCOLS = ("grpc", "http")
SECRET = "s3cret-token"
CALL_SECONDS = 0.6
SLACK_SECONDS = 1.5  # what a deadline may be late on a busy machine
PROBE = "m--candidate-mode-probe"

ECHO = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            wanted = request.requested_output_names()
            given = {"out_" + tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor(k, v) for k, v in given.items() if k in wanted]))
        return answers
"""
VERSIONED = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = int(args["model_version"])

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", r.inputs()[0].as_numpy() * self.version)]) for r in requests]
"""
SLEEPING = """
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            time.sleep(float(request.inputs()[0].as_numpy().max()))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", r.inputs()[0].as_numpy())]) for r in requests]
"""
ONE_CPU = "instance_group { count: 1 kind: KIND_CPU }\n"
XY = 'input { name: "x" data_type: TYPE_FP32 dims: [2] }\noutput { name: "y" data_type: TYPE_FP32 dims: [2] }\n'
SAMPLES: dict[str, np.ndarray] = {
    "BOOL": np.array([[True, False], [False, True]]),
    "INT8": np.array([[-128, 127]], dtype=np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1]], dtype=np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], dtype=np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], dtype=np.int64),
    "UINT8": np.array([[0, 255]], dtype=np.uint8),
    "UINT16": np.array([[0, 2**16 - 1]], dtype=np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], dtype=np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], dtype=np.uint64),
    "FP16": np.array([[0.5, -65504.0]], dtype=np.float16),
    "FP32": np.array([[1e-30, np.inf], [np.nan, -0.0]], dtype=np.float32),
    "FP64": np.array([[1e-300, np.pi]], dtype=np.float64),
    "STRING": np.array([[b"", b"\xff\x00"], ["日本".encode(), b"plain"]], dtype=object),
}


def _config(name: str, *, versions: tuple[int, ...] = (1,), tensors: str = XY, more: str = "max_batch_size: 8\n") -> str:
    listed = ", ".join(map(str, versions))
    return f'name: "{name}"\nbackend: "python"\n{more}{tensors}{ONE_CPU}version_policy {{ specific {{ versions: [{listed}] }} }}\n'


def _lay(repository: Path, name: str, config: str, code: str, *versions: int) -> None:
    for version in versions or (1,):
        folder = repository / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(code, encoding="utf-8")
    (repository / name / "config.pbtxt").write_text(config, encoding="utf-8")


def _url(server: LocalTriton, protocol: str) -> str:
    return server.grpc_url if protocol == "grpc" else server.http_url


def _connected(url: str, *, seconds: float = 15.0, headers: dict[str, str] | None = None) -> TritonClient:
    return TritonClient(ServerAddress.parse(url, headers=headers), call_seconds=seconds)


def _told(call: Callable[[], object], kind: type[DeployError]) -> str:
    """The message of the error, which must be of exactly this kind."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.fixture(scope="module")
def models(triton: LocalTriton) -> Iterator[Path]:
    """The repository of `triton` with `echo` (an optional input of each type), `versioned` (y = x * version) and `sleeping`, loaded."""
    root = Path(triton.repository)
    sides = "".join(
        f'input {{ name: "{name}" data_type: TYPE_{name} dims: [-1, 2] optional: true }}\n'
        f'output {{ name: "out_{name}" data_type: TYPE_{name} dims: [-1, 2] }}\n'
        for name in SAMPLES
    )
    _lay(root, "echo", _config("echo", tensors=sides, more=""), ECHO)
    _lay(root, "versioned", _config("versioned"), VERSIONED, 1, 2)
    queue = "max_batch_size: 1\ndynamic_batching { default_queue_policy { max_queue_size: 1 } }\n"
    _lay(root, "sleeping", _config("sleeping", more=queue), SLEEPING)
    with _connected(triton.grpc_url) as client:
        for name in ("echo", "versioned", "sleeping"):
            client.load(name)
    yield root
    with _connected(triton.grpc_url) as client:
        for name in ("echo", "versioned", "sleeping"):
            client.unload(name)
            client.wait_unloaded(name)


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, triton: LocalTriton, models: Path) -> Iterator[TritonClient]:
    """A client of the real server, over each protocol."""
    with _connected(_url(triton, request.param)) as connected:
        yield connected


X = np.array([[1.0, 2.0]], dtype=np.float32)


# --- asking


@pytest.mark.parametrize("name", SAMPLES)
def test_every_type_survives_the_way_there_and_back(client: TritonClient, name: str) -> None:
    """What is sent in a type comes back with the same dtype, shape and bits."""
    sent = SAMPLES[name]

    answer = client.infer("echo", {name: sent})[f"out_{name}"]

    assert (answer.dtype, answer.shape) == (sent.dtype, sent.shape)
    assert answer.tobytes() == sent.tobytes() if sent.dtype != object else answer.tolist() == sent.tolist()


@pytest.mark.parametrize("text", [np.array([["a", "é日"]]), np.array([["a", "é日"]], dtype=object)], ids=["unicode array", "objects"])
def test_text_is_sent_as_utf_8(client: TritonClient, text: np.ndarray) -> None:
    """Text arrays of either kind arrive as their UTF-8 bytes."""
    assert client.infer("echo", {"STRING": text})["out_STRING"].tolist() == [[b"a", "é日".encode()]]


def test_several_inputs_make_several_outputs(client: TritonClient) -> None:
    """Every input given has its own answer, under its own name."""
    answers = client.infer("echo", {"INT8": SAMPLES["INT8"], "STRING": SAMPLES["STRING"], "BOOL": SAMPLES["BOOL"]})

    assert sorted(answers) == ["out_BOOL", "out_INT8", "out_STRING"]
    np.testing.assert_array_equal(answers["out_INT8"], SAMPLES["INT8"])
    np.testing.assert_array_equal(answers["out_BOOL"], SAMPLES["BOOL"])


def test_only_the_outputs_asked_for_come_back(client: TritonClient) -> None:
    """`outputs` narrows the answer."""
    answers = client.infer("echo", {"INT8": SAMPLES["INT8"], "FP32": SAMPLES["FP32"]}, outputs=["out_INT8"])

    assert list(answers) == ["out_INT8"]


def test_eight_threads_share_one_client(client: TritonClient) -> None:
    """Each of 160 requests from 8 threads gets its own answer, and the client can be closed by another thread."""
    rows = [np.full((1, 2), number, dtype=np.float32) for number in range(160)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: client.infer("versioned", {"x": row})["y"], rows))

    np.testing.assert_array_equal(np.concatenate(answers), np.concatenate(rows))


def test_the_deadline_of_a_request_is_kept(client: TritonClient) -> None:
    """A model that takes longer than `seconds` is given up in time, and the client is of use afterwards."""
    started = time.monotonic()

    told = _told(lambda: client.infer("sleeping", {"x": X / 2}, seconds=0.3), ServerUnreachableError)

    assert time.monotonic() - started < 0.3 + SLACK_SECONDS
    assert "did not answer when asked to run `sleeping`" in told
    np.testing.assert_array_equal(client.infer("sleeping", {"x": X * 0})["y"], X * 0)


def test_a_full_queue_is_a_refusal(client: TritonClient) -> None:
    """A server that says UNAVAILABLE has answered: the error carries its reason and is not ServerUnreachableError."""

    def ask(_: int) -> ServerError | None:
        try:
            client.infer("sleeping", {"x": X * 0.1})
        except ServerError as error:
            return error
        return None

    with ThreadPoolExecutor(8) as pool:
        refused = [error for error in pool.map(ask, range(8)) if error]

    assert refused
    assert {type(error) for error in refused} == {ServerError}
    assert all("xceeds maximum queue size" in str(error) for error in refused)


# --- refusals of the real server


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        pytest.param(lambda c: c.infer("nope", {"x": X}), "Request for unknown model: 'nope'", id="infer, unknown model"),
        pytest.param(lambda c: c.infer("versioned", {"x": X}, version=9), "version 9 is not found", id="infer, unknown version"),
        pytest.param(lambda c: c.infer("versioned", {"x": X[:, :1]}), r"unexpected shape for input 'x'", id="infer, wrong shape"),
        pytest.param(
            lambda c: c.infer("versioned", {"x": X.astype("f8")}), "is 'FP64', but model 'versioned' expects 'FP32'", id="infer, dtype"
        ),
        pytest.param(lambda c: c.infer("versioned", {"z": X}), "unexpected inference input 'z'", id="infer, unknown input"),
        pytest.param(lambda c: c.infer("versioned", {}), "expected 1 inputs but got 0", id="infer, no input"),
        pytest.param(
            lambda c: c.infer("versioned", {"x": X}, outputs=["q"]), "unexpected inference output 'q'", id="infer, unknown output"
        ),
        pytest.param(lambda c: c.infer("versioned", {"x": X.astype(complex)}), "`x` is complex128", id="infer, no such type"),
        pytest.param(lambda c: c.config("nope"), "Request for unknown model: 'nope'", id="config, unknown model"),
        pytest.param(lambda c: c.load("nope"), "failed to load 'nope'", id="load, unknown model"),
    ],
)
def test_a_refusal_carries_the_servers_reason(client: TritonClient, call: Callable[[TritonClient], object], reason: str) -> None:
    """Triton's own words are in the error, over both protocols."""
    assert reason in _told(lambda: call(client), ServerError)


def test_a_failed_load_carries_the_backends_reason(client: TritonClient, models: Path) -> None:
    """A model that its backend cannot open: the load raises what the backend said."""
    version = models / "corrupt" / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.onnx").write_bytes(b"this is no model")
    (version.parent / "config.pbtxt").write_text(_config("corrupt").replace('"python"', '"onnxruntime"'), encoding="utf-8")

    told = _told(lambda: client.load("corrupt"), ServerError)

    assert "load `corrupt`" in told
    assert "INVALID_PROTOBUF" in told
    assert client.ready_versions("corrupt") == ()
    _told(lambda: client.wait_ready("corrupt", 1, seconds=0.1), ServerError)


# --- control


def test_loaded_versions_follow_the_config(client: TritonClient, models: Path) -> None:
    """Index, readiness and answers follow config.pbtxt on each load; a request without a version goes to the highest."""
    name = "follows"
    seen = []
    for versions in ((1,), (1, 2), (2,)):
        _lay(models, name, _config(name, versions=versions), VERSIONED, 1, 2)
        client.load(name)
        client.wait_ready(name, versions[-1])
        seen.append((client.ready_versions(name), client.infer(name, {"x": X})["y"].tolist()))
        while client.ready_versions(name) != versions:  # an unload ends after the load call
            time.sleep(0.01)

    assert [answer for _, answer in seen] == [X.tolist(), (X * 2).tolist(), (X * 2).tolist()]
    assert LoadedModel(name, 2, "READY", "") in client.index()
    assert (client.is_ready(name), client.is_ready(name, 2), client.is_ready(name, 1), client.is_ready("nope")) == (
        True,
        True,
        False,
        False,
    )
    client.unload(name)
    client.wait_unloaded(name)
    assert client.ready_versions(name) == ()
    assert not client.is_ready(name)
    assert "no available versions" in _told(lambda: client.infer(name, {"x": X}), ServerError)


def test_a_model_that_is_not_loaded_is_listed_without_version(client: TritonClient, models: Path) -> None:
    """The index names what lies in the repository, too."""
    _lay(models, "waiting", _config("waiting"), VERSIONED)

    assert LoadedModel("waiting", None, "", "") in client.index()


def test_the_config_is_the_one_the_version_was_loaded_with(client: TritonClient, models: Path) -> None:
    """config.pbtxt as it is today does not count, and both protocols say the same."""
    path = models / "versioned" / "config.pbtxt"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("max_batch_size: 8", "max_batch_size: 3"), encoding="utf-8")
    try:
        config = client.config("versioned", 1)
    finally:
        path.write_text(before, encoding="utf-8")

    assert config["max_batch_size"] == 8
    assert config["version_policy"] == {"specific": {"versions": ["1"]}}
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["2"]}]


def test_waiting_for_a_version_that_does_not_come_ends(client: TritonClient) -> None:
    """`wait_ready` gives up after `seconds`, and says that the server does not list it."""
    started = time.monotonic()

    told = _told(lambda: client.wait_ready("versioned", 7, seconds=0.2), ServerError)

    assert time.monotonic() - started < 0.2 + SLACK_SECONDS
    assert "version 7 of `versioned` is not ready after 0.2 s (not listed)" in told


def test_waiting_for_an_unload_that_nobody_asked_for_ends(client: TritonClient) -> None:
    """`wait_unloaded` gives up after `seconds`."""
    assert "is still loaded 0.2 s after" in _told(lambda: client.wait_unloaded("versioned", seconds=0.2), ServerError)


def test_a_server_in_explicit_mode_passes_the_check(client: TritonClient) -> None:
    """The check asks for the unload of a model that is not there, and changes nothing."""
    before = client.index()

    client.check_explicit_mode(PROBE)
    client.check_live()

    assert client.index() == before


@pytest.fixture(scope="module", params=["none", "poll"])
def other_mode(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A server in NONE and in POLL mode, over an empty repository."""
    with LocalTriton(tmp_path_factory.mktemp(request.param), mode=request.param) as server:
        yield server


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_other_modes_are_told_apart(other_mode: LocalTriton, protocol: str) -> None:
    """A server that takes no load requests raises ControlModeError, which says how to start it."""
    with _connected(_url(other_mode, protocol)) as client:
        client.check_live()

        assert "--model-control-mode=explicit" in _told(lambda: client.check_explicit_mode(PROBE), ControlModeError)
        assert "Triton said: explicit model load" in _told(lambda: client.load("m"), ControlModeError)


# --- what has to be shown to be let in


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A server whose model repository API wants a header."""
    args = [f"--http-restricted-api=model-repository:x-admin={SECRET}", f"--grpc-restricted-protocol=model-repository:x-admin={SECRET}"]
    with LocalTriton(tmp_path_factory.mktemp("restricted"), extra_args=args) as server:
        yield server


@pytest.mark.parametrize(("protocol", "header"), [("http", "X-Admin"), ("grpc", "Triton-Grpc-Protocol-X-Admin")])
def test_headers_open_a_restricted_server(restricted: LocalTriton, protocol: str, header: str) -> None:
    """With the header the server takes load requests, whatever its name's case; the secret is in no text of address or client."""
    with _connected(_url(restricted, protocol), headers={header: SECRET}) as client:
        client.check_explicit_mode(PROBE)

        assert client.index() == []
        assert SECRET not in f"{client.address} {client.address!r} {client!r} {_told(lambda: client.load('nope'), ServerError)}"


@pytest.mark.parametrize("headers", [{}, {"x-admin": "wrong", "triton-grpc-protocol-x-admin": "wrong"}], ids=["without", "wrong"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_restricted_server_is_not_taken_for_explicit(restricted: LocalTriton, protocol: str, headers: dict[str, str]) -> None:
    """A server that does not let us in fails the check of its mode, with its reason and without our token."""
    with _connected(_url(restricted, protocol), headers=headers) as client:
        client.check_live()

        told = [_told(lambda: client.check_explicit_mode(PROBE), ServerError), _told(client.index, ServerError)]

    assert all("restricted" in text and "wrong" not in text for text in told)


class _HeaderStub(http.server.BaseHTTPRequestHandler):
    """A stub, no Triton: answers every GET with 200 and records its Authorization header."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_http_headers_are_sent_as_they_are() -> None:
    """A header reaches the server with every request, byte for byte."""
    seen: list[str | None] = []
    handler = type("Stub", (_HeaderStub,), {"seen": seen})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        with _connected(f"http://127.0.0.1:{stub.server_port}", headers={"Authorization": f"Bearer {SECRET}"}) as client:
            client.check_live()
            client.check_live()
        stub.shutdown()

    assert seen == [f"Bearer {SECRET}"] * 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("authorization", f"{SECRET}\n"), ("authorization", f"{SECRET}é"), ("two words", SECRET), ("", SECRET), ("x:", SECRET)],
    ids=["two lines", "not ASCII", "name of two words", "no name", "colon in the name"],
)
def test_a_header_that_cannot_be_sent_is_refused_unseen(name: str, value: str) -> None:
    """It is refused before any request, and its value is not shown."""
    told = _told(lambda: ServerAddress.parse("grpc://host", headers={name: value}), SpecError)

    assert SECRET not in told
    assert repr(name) in told


# --- servers that are not there, or misbehave


@contextlib.contextmanager
def _stub_server(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A stub, no Triton: a TCP server that treats each connection with `answer`, in a thread of its own; its `host:port`."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def treat(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection, over)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=treat, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _silent(_: socket.socket, over: threading.Event) -> None:
    over.wait(60)


def _closing(_: socket.socket, __: threading.Event) -> None:
    """Close at once."""


def _babbling(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    over.wait(60)


def _trickling(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not over.wait(CALL_SECONDS / 4):
        connection.sendall(b"x")


@pytest.mark.parametrize("answer", [_silent, _closing, _babbling, _trickling], ids=lambda each: each.__name__[1:])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_misbehaves_is_unreachable_in_time(protocol: str, answer: Callable[[socket.socket, threading.Event], None]) -> None:
    """Silent, closing, speaking something else, or a byte now and then: ServerUnreachableError within the deadline, on each call."""
    with (
        _stub_server(answer) as place,
        _connected(f"{protocol}://{place}", seconds=CALL_SECONDS, headers={"authorization": SECRET}) as client,
    ):
        for call in (client.index, lambda: client.infer("m", {"x": X})):
            started = time.monotonic()
            told = _told(call, ServerUnreachableError)

            assert time.monotonic() - started < CALL_SECONDS + SLACK_SECONDS
            assert place in told
            assert SECRET not in told


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid:8000"], ids=["refused", "unknown host"])
@pytest.mark.parametrize("scheme", ["grpc", "grpcs", "http", "https"])
def test_a_server_that_is_not_there_is_unreachable(scheme: str, host: str) -> None:
    """A refused connection and an unknown host: ServerUnreachableError, transient, that names the address and the attempt."""
    with _connected(f"{scheme}://{host}", seconds=CALL_SECONDS) as client:
        told = _told(client.check_live, ServerUnreachableError)

    assert f"{scheme}://{host} did not answer when asked to say whether it is live" in told
    assert ServerUnreachableError.transient


@pytest.mark.parametrize(("scheme", "protocol"), [("http", "grpc"), ("grpc", "http"), ("https", "http"), ("grpcs", "grpc")], ids=str)
def test_the_wrong_protocol_for_a_port_is_unreachable(triton: LocalTriton, scheme: str, protocol: str) -> None:
    """HTTP to the gRPC port, and every other mistake of this kind: ServerUnreachableError."""
    with _connected(f"{scheme}://{_url(triton, protocol).split('//')[1]}", seconds=2.0) as client:
        _told(client.check_live, ServerUnreachableError)


# --- addresses


@pytest.mark.parametrize(
    ("url", "protocol", "tls", "authority"),
    [
        ("http://triton:8000", "http", False, "triton:8000"),
        ("http://triton", "http", False, "triton:8000"),
        ("https://triton", "http", True, "triton:8000"),
        ("https://triton:443/", "http", True, "triton:443"),
        ("grpc://triton", "grpc", False, "triton:8001"),
        ("grpcs://Triton.Example.COM", "grpc", True, "triton.example.com:8001"),
        ("GRPC://10.0.0.7:9001", "grpc", False, "10.0.0.7:9001"),
        ("http://[::1]", "http", False, "[::1]:8000"),
        ("grpc://[2001:db8::7]:9001", "grpc", False, "[2001:db8::7]:9001"),
    ],
)
def test_a_url_is_read(url: str, protocol: str, tls: bool, authority: str) -> None:  # noqa: FBT001 - a column of the table
    """Protocol, TLS, host and port, with Triton's defaults; the URL shown is read the same again."""
    address = ServerAddress.parse(url)

    assert (address.protocol, address.tls, address.authority) == (protocol, tls, authority)
    assert ServerAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "triton:8000",
        "ftp://triton",
        "http://",
        "http:///v2",
        "http://triton/v2",
        "http://triton?x=1",
        "http://triton#x",
        "http://triton:port",
        "http://triton:70000",
        "http://triton:0",
        "http://[::1",
    ],
)
def test_what_is_no_server_is_refused(url: str) -> None:
    """SpecError, with the forms that are valid or the port that is not."""
    told = _told(lambda: ServerAddress.parse(url), SpecError)

    assert "http://host:8000" in told or "no valid port" in told


@pytest.mark.parametrize(
    "url",
    [
        f"http://alice:{SECRET}@triton:8000",
        f"http://{SECRET}@triton",
        f"grpc://:{SECRET}@triton",
        f"ftp://alice:{SECRET}@triton",
        f"alice:{SECRET}@triton:8000",
        f"//alice:{SECRET}@triton",
        f"http://triton/?token={SECRET}",
        f"ftp://triton/?token={SECRET}",
        f"http://alice:{SECRET}@[::1",
        f"http://alice:{SECRET}@triton:port",
    ],
)
def test_credentials_in_a_url_are_refused_unseen(url: str) -> None:
    """They belong into a connection; no message shows them."""
    assert SECRET not in _told(lambda: ServerAddress.parse(url), SpecError)


def test_an_address_never_shows_its_headers() -> None:
    """Not in `repr`, `str`, the URL; they count in a comparison, and survive a pickle."""
    address = ServerAddress.parse("grpc://triton", headers={"authorization": SECRET})

    assert SECRET not in f"{address!r} {address} {address.url} {address.authority}"
    assert address != ServerAddress.parse("grpc://triton")
    assert pickle.loads(pickle.dumps(address)).headers == {"authorization": SECRET}
    assert len({address, ServerAddress.parse("grpc://triton", headers={"authorization": SECRET})}) == 1
