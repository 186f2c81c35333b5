"""The real server on this machine: installed once, started, stopped without a trace, and never left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from airflow_triton.errors import LocalTritonError
from airflow_triton.local_triton import EXTRAS, LocalTriton, extras_for, free_port, install, pins
from airflow_triton.local_triton.installation import MARKER
from airflow_triton.local_triton.machine import check_platform, choose_python
from airflow_triton.local_triton.ports import choose_ports, is_free

SHM = Path("/dev/shm")
PATIENCE_SECONDS = 30.0
AS_IT_IS = ["--disable-auto-complete-config"]  # a load takes 0.2 s then, and not 1.5 s
DOUBLING = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", request.inputs()[0].as_numpy() * 2)]) for request in requests]
"""
CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [2] }
output { name: "y" data_type: TYPE_FP32 dims: [2] }
instance_group { count: 1 kind: KIND_CPU }
"""


def _put(repository: Path, name: str, code: str = DOUBLING) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(code, encoding="utf-8")
    (version.parent / "config.pbtxt").write_text(CONFIG, encoding="utf-8")


def _ask(url: str, data: bytes | None = None) -> int:
    """The status of a GET, or of a POST if there is data; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=PATIENCE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _until(holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


OTHERS: dict[str, set[object]] = {"children": set(), "traces": set()}
"""What the process has of other tests (the server of the whole run) while one of these runs."""


@pytest.fixture(autouse=True)
def _others() -> None:
    OTHERS.update(children=set(psutil.Process().children(recursive=True)), traces=set(SHM.glob("airflow-triton-*")))


def _children() -> set[object]:
    """The processes that this test started and that are still there."""
    return set(psutil.Process().children(recursive=True)) - OTHERS["children"]


def _traces(owner: int) -> set[object]:
    """The shared memory of the servers that a process started in this test."""
    return set(SHM.glob(f"airflow-triton-{owner}-*")) - OTHERS["traces"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "triton.log"


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that something listens on."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# Install


def test_a_second_install_is_instant_and_says_nothing() -> None:
    """Finding the installed server takes no process, no download and no word."""
    first, said = install(), []
    before = time.perf_counter()
    second = install(progress=said.append)

    assert (second, said) == (first, [])
    assert time.perf_counter() - before < 0.05
    assert second.server.is_file()


def test_an_unfinished_install_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in the middle leaves no marker, so the next call removes the remains and builds; the folder is the caller's to name."""
    monkeypatch.setenv("AIRFLOW_TRITON_LOCAL_HOME", str(tmp_path))
    home = tmp_path / pins.digest(sys.version_info[:2])
    home.mkdir()
    (home / "half").write_text("written")
    said: list[str] = []
    installation = install(progress=said.append)

    assert installation.home == home
    assert (home / MARKER).is_file()
    assert not (home / "half").exists()
    assert [line.split()[0] for line in said] == ["removing", "installing", "checking"]
    assert sys.prefix not in map(str, installation.server.parents)


def test_every_set_of_extras_is_an_environment_of_its_own() -> None:
    """Its name depends on what is in it, however that was asked for; the environments from before there were extras keep theirs."""
    from airflow_triton.local_triton.extras import checked

    wanted = [(), ("torch",), ("tensorflow",), ("tensorflow", "torch")]
    names = [pins.digest((3, 11), checked(with_)) for with_ in wanted]

    assert len(set(names)) == 4
    assert pins.digest((3, 11), checked((), torch=True)) == names[1]
    assert pins.digest((3, 11), checked(["torch", "tensorflow", "torch"])) == names[3]
    parts = [pins.SERVER, pins.NUMPY, pins.onnxruntime((3, 11)), pins.TORCH, "3.11"]
    assert names[1] == hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def test_an_unknown_extra_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    """The server says so when it is made, not when it starts."""
    with pytest.raises(LocalTritonError, match="installed with jax; valid: torch, tensorflow"):
        LocalTriton(tmp_path / "models", with_=["jax"])  # type: ignore[list-item]

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "extras"),
    [
        (("onnxruntime", ""), set()),
        (("pytorch", ""), {"torch"}),
        (("", "pytorch_libtorch"), {"torch"}),
        (("tensorflow", "tensorflow_graphdef"), {"tensorflow"}),
        (("", "tensorflow_savedmodel"), {"tensorflow"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_config_says_which_extra_serves_it(names: tuple[str, str], extras: set[str]) -> None:
    """By its backend, or by the older name of it, its platform."""
    assert extras_for(*names) == extras


def test_serve_takes_the_extras_that_there_are() -> None:
    """`--with`, and `--torch` from before it."""
    from airflow_triton.cli import serve

    options = {option.name: option for option in serve.params}

    assert tuple(options["with_"].type.choices) == EXTRAS
    assert options["with_"].multiple
    assert options["torch"].opts == ["--torch"]


def test_two_installs_at_once_build_once(tmp_path: Path) -> None:
    """Several processes may want the server at the same time: one builds, and all get the same."""
    code = "from airflow_triton.local_triton import install; print(install(progress=print).home)"
    environment = {**os.environ, "AIRFLOW_TRITON_LOCAL_HOME": str(tmp_path)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = [process.communicate(timeout=240)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert sum("installing Triton" in output for output in outputs) == 1


def test_an_environment_without_the_shared_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """A stub that cannot start would make every load hang, so the check starts it, and names the library and how to get it."""
    from airflow_triton.local_triton import build
    from airflow_triton.local_triton.installation import Installation

    backends = tmp_path / "python"
    backends.mkdir()
    stub = backends / "triton_python_backend_stub"
    missing = "error while loading shared libraries: libpython3.11.so.1.0: cannot open shared object file"
    stub.write_text(f"#!/bin/sh\necho '{missing}' >&2\nexit 127\n")
    stub.chmod(0o755)
    real = install()
    broken = Installation(real.home, real.site_packages, tmp_path)

    with pytest.raises(LocalTritonError, match=r"libpython3\.11\.so\.1\.0(.|\n)*apt install libpython3\.11"):
        build.verify(broken, build.PythonFacts((3, 11), real.site_packages, (tmp_path,)))


@pytest.mark.parametrize(
    ("machine", "found"),
    [
        ({"system": "Darwin", "machine": "arm64", "glibc": ""}, "the system is Darwin; the processor is arm64"),
        ({"system": "Linux", "machine": "aarch64", "glibc": "2.36"}, "the processor is aarch64"),
        ({"system": "Linux", "machine": "x86_64", "glibc": "2.31"}, "the C library is glibc 2.31"),
        ({"system": "Linux", "machine": "x86_64", "glibc": ""}, "the C library is not glibc"),
    ],
    ids=["mac", "arm", "old glibc", "musl"],
)
def test_a_machine_that_cannot_run_the_server_is_told_so(machine: dict[str, str], found: str) -> None:
    """The error says what was found, what is needed, and what to do instead."""
    with pytest.raises(LocalTritonError) as caught:
        check_platform(**machine)

    for part in (found, "Linux on x86_64 with glibc 2.35 or newer", "--server"):
        assert part in str(caught.value)


def test_a_machine_that_can_run_the_server_passes() -> None:
    """The oldest and a newer C library are both fine, and so is this machine."""
    for glibc in ("2.35", "2.41"):
        check_platform(system="Linux", machine="x86_64", glibc=glibc)
    check_platform()


def test_a_python_without_numpy_1_uses_another_one_that_starts(tmp_path: Path) -> None:
    """The server's environment may have another Python than the caller; one on PATH that does not start is passed over."""
    dead = tmp_path / "python3.12"
    dead.write_text("#!/bin/sh\nexit 127\n")
    dead.chmod(0o755)
    name = "python{}.{}".format(*sys.version_info[:2])
    known = {"python3.12": str(dead), name: sys.executable}

    assert choose_python(running=(3, 13), find=known.get) == Path(sys.executable)
    with pytest.raises(LocalTritonError, match=r"cannot use Python 3\.13: .* 3\.10, 3\.11, 3\.12"):
        choose_python(running=(3, 13), find=lambda _name: None)


# Start and stop


def test_a_server_starts_answers_and_leaves_nothing_behind(repository: Path) -> None:
    """In a `with` block: live at its three addresses; afterwards no process, no shared memory, no log, but the log's end."""
    _put(repository, "double")
    with LocalTriton(repository, extra_args=AS_IT_IS) as server:
        assert _ask(f"{server.http_url}/v2/repository/models/double/load", b"{}") == 200
        body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}'
        assert _ask(f"{server.http_url}/v2/models/double/infer", body) == 200
        assert _ask(server.metrics_url) == 200
        assert server.grpc_url.startswith("grpc://127.0.0.1:")
        log, family = server.log_file, [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert len(family) > 1, "the model runs in a process of its own"
        assert _traces(os.getpid())

    assert not server.running
    assert not [one for one in family if one.is_running()]
    assert not _children()
    assert not _traces(os.getpid())
    assert log is not None
    assert not log.exists()
    assert "All models are stopped" in server.log_tail()
    assert server.log_tail(1).count("\n") == 0


def test_a_restart_takes_the_same_ports(repository: Path) -> None:
    """Stopped and started again, the server is at the addresses that its clients know; a second start or stop does nothing."""
    server = LocalTriton(repository)
    try:
        server.start()
        first, pid = server.http_url, server.pid
        assert server.start().pid == pid
        server.stop()
        server.stop()
        server.start()

        assert (server.http_url, server.pid != pid) == (first, True)
        assert _ask(f"{first}/v2/health/ready") == 200
    finally:
        server.stop()


def test_a_server_that_was_killed_is_noticed(repository: Path, log_file: Path) -> None:
    """`wait` returns when the server ends by itself, and its backends' processes and shared memory go with it."""
    _put(repository, "double")
    with LocalTriton(repository, log_file=log_file, extra_args=AS_IT_IS) as server:
        assert _ask(f"{server.http_url}/v2/repository/models/double/load", b"{}") == 200
        children = psutil.Process(server.pid).children(recursive=True)
        os.kill(server.pid, signal.SIGKILL)

        assert server.wait() == 128 + signal.SIGKILL
        assert not server.running
        _until(lambda: all(_gone(one.pid) for one in children))
        assert not _traces(os.getpid())
    assert log_file.exists()


@pytest.mark.parametrize("victim", ["parent", "guard"])
def test_a_killed_parent_leaves_no_server(repository: Path, tmp_path: Path, victim: str) -> None:
    """SIGKILL gives the parent no chance to clean up; the server ends all the same, whichever process above it was killed."""
    _put(repository, "double")
    code = f"""
        import os, time
        from airflow_triton.local_triton import LocalTriton
        server = LocalTriton({str(repository)!r}, mode="none", extra_args={AS_IT_IS!r}).start()
        print(os.getpid(), server.pid, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], text=True, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            owner, pid = map(int, parent.stdout.readline().split())
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            assert len(family) > 1
            os.kill(owner if victim == "parent" else psutil.Process(pid).ppid(), signal.SIGKILL)

            _until(lambda: all(_gone(one.pid) for one in family), seconds=15)
            _until(lambda: not _traces(owner), seconds=5)
        finally:
            parent.kill()


def test_a_port_that_is_taken_is_named(repository: Path, listener: int) -> None:
    """A port that was asked for and is in use is an error at once; chosen ones differ from each other."""
    with pytest.raises(LocalTritonError, match=f"gRPC port {listener} of 127.0.0.1 is in use"):
        LocalTriton(repository, grpc_port=listener).start()

    port = free_port()
    assert is_free(port)
    assert not is_free(listener)
    ports = choose_ports((port, None, None))
    assert ports.http == port
    assert len({ports.http, ports.grpc, ports.metrics}) == 3


def test_a_server_that_cannot_start_says_why(repository: Path, log_file: Path) -> None:
    """The error holds the log's last lines and its path, and nothing is left running."""
    with pytest.raises(LocalTritonError) as caught:
        LocalTriton(repository, extra_args=["--no-such-option"], log_file=log_file).start()

    assert "unrecognized option" in log_file.read_text()
    assert "ended with exit status 1 before it answered" in str(caught.value)
    assert str(log_file) in str(caught.value)
    assert not _children()


def test_a_port_lost_at_the_last_moment_is_replaced(repository: Path, listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a free port is taken between choosing and listening, the server starts on others."""
    from airflow_triton.local_triton import ports, process

    taken = iter([ports.Ports(free_port(), listener, free_port())])
    choose = process.choose_ports
    monkeypatch.setattr(process, "choose_ports", lambda wanted, before: next(taken, None) or choose(wanted, before))

    with LocalTriton(repository) as server:
        assert server.grpc_url != f"grpc://127.0.0.1:{listener}"
        assert _ask(f"{server.http_url}/v2/health/ready") == 200


def test_a_server_that_does_not_answer_in_time_is_ended(repository: Path) -> None:
    """The deadline covers loading the models at start, and the server that missed it is gone."""
    _put(
        repository,
        "slow",
        DOUBLING.replace("    def execute", "    def initialize(self, args):\n        import time; time.sleep(60)\n\n    def execute"),
    )
    server = LocalTriton(repository, mode="none", start_timeout=2)
    with pytest.raises(LocalTritonError, match="did not answer within 2 s"):
        server.start()

    assert not server.running
    assert not _children()
    assert server.log_file is not None
    server.log_file.unlink()


# Modes


def test_mode_none_serves_what_is_there_and_outlives_a_broken_model(repository: Path) -> None:
    """All models load at start; one that fails keeps the server not ready but running, and the others serve."""
    _put(repository, "good")
    _put(repository, "broken", "this is no Python")
    with LocalTriton(repository, mode="none", extra_args=AS_IT_IS) as server:
        assert _ask(f"{server.http_url}/v2/models/good/ready") == 200
        assert _ask(f"{server.http_url}/v2/models/broken/ready") == 400
        assert _ask(f"{server.http_url}/v2/health/live") == 200
        assert _ask(f"{server.http_url}/v2/repository/models/good/load", b"{}") != 200


def test_mode_poll_picks_up_a_model_that_appears(repository: Path) -> None:
    """In the mode "poll" the repository is looked at every `poll_seconds`."""
    with LocalTriton(repository, mode="poll", poll_seconds=1, extra_args=AS_IT_IS) as server:
        assert _ask(f"{server.http_url}/v2/models/late/ready") == 400
        _put(repository, "late")
        _until(lambda: _ask(f"{server.http_url}/v2/models/late/ready") == 200)


def test_mode_explicit_loads_on_request_only(repository: Path) -> None:
    """In the mode "explicit" nothing is loaded until someone asks."""
    _put(repository, "asked")
    with LocalTriton(str(repository), extra_args=AS_IT_IS) as server:
        assert _ask(f"{server.http_url}/v2/models/asked/ready") == 400
        assert _ask(f"{server.http_url}/v2/repository/models/asked/load", b"{}") == 200
        assert _ask(f"{server.http_url}/v2/models/asked/ready") == 200


# serve

SERVE = """
    import sys
    from airflow_triton.errors import LocalTritonError
    from airflow_triton.local_triton.serve import serve

    def ready(server):
        print(server.pid, server.http_url, flush=True)

    try:
        sys.exit(serve(sys.argv[1], mode="explicit", http_port=None, grpc_port=None, metrics_port=None, on_ready=ready))
    except LocalTritonError as error:
        print(error)
        sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "to_server", "status"),
    [(signal.SIGTERM, False, 0), (signal.SIGINT, False, 0), (signal.SIGKILL, True, 1)],
    ids=["TERM", "INT", "crash"],
)
def test_serving_ends_with_a_signal_or_with_the_server(repository: Path, number: int, to_server: bool, status: int) -> None:  # noqa: FBT001
    """SIGTERM and SIGINT end it cleanly with 0; a server that dies by itself is an error with the end of its log."""
    command = [sys.executable, "-c", textwrap.dedent(SERVE), str(repository)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            pid, url = process.stdout.readline().split()
            assert _ask(f"{url}/v2/health/live") == 200
            os.kill(int(pid) if to_server else process.pid, number)

            assert process.wait(PATIENCE_SECONDS) == status
            assert _gone(int(pid))
            assert ("ended by itself with exit status 137" in process.stdout.read()) == to_server
        finally:
            with suppress(ProcessLookupError):
                process.kill()
