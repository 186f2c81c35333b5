"""The child process is real in every test; the functions that it calls are the ones at the end of this file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_triton.errors import ConversionError, RejectedError, ServerUnreachableError
from airflow_triton.isolate import JSON, ChildProcess, run_in_child


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the child import this file by its name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])))


def call(name: str, timeout: float = 30.0, **arguments: JSON) -> JSON:
    return run_in_child(f"test_isolate:{name}", arguments, child=ChildProcess(timeout=timeout), what="the test")


@pytest.mark.parametrize("value", [None, 0, "ä\n", [1.5, {"a": [None]}]], ids=["null", "zero", "text", "nested"])
def test_answer_is_what_the_function_returned(value: JSON) -> None:
    """Any JSON goes in and comes back unchanged."""
    assert call("echo", value=value) == value


def test_print_noise_reaches_neither_the_answer_nor_our_streams(capfd: pytest.CaptureFixture[str]) -> None:
    """What the model's code prints, through Python or straight to the descriptors, corrupts nothing."""
    assert call("noisy") == "answer"

    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize("error", [RejectedError, ServerUnreachableError], ids=lambda error: error.__name__)
def test_errors_of_ours_come_back_as_they_were(error: type[Exception]) -> None:
    """A class of airflow_triton.errors crosses with its message, word for word."""
    with pytest.raises(error, match=r"^why, and what to do$") as caught:
        call("refuse", kind=error.__name__)

    assert type(caught.value) is error


def test_a_subclass_made_elsewhere_comes_back_as_its_nearest_class_of_ours() -> None:
    """Only classes of airflow_triton.errors are ever made from a child's answer."""
    with pytest.raises(RejectedError, match="special") as caught:
        call("refuse_specially")

    assert type(caught.value) is RejectedError


@pytest.mark.parametrize("function", ["divide", "unserializable", "absent"])
def test_any_other_exception_names_its_type_and_place(function: str) -> None:
    """A stranger's exception is one ConversionError with type, message and the innermost frames."""
    expected = {"divide": "ZeroDivisionError", "unserializable": "TypeError", "absent": "AttributeError"}[function]

    with pytest.raises(ConversionError, match=rf"the test failed: {expected}: .*\(at .*\.py:\d+ in \w+"):
        call(function)


@pytest.mark.parametrize(
    ("number", "hint"),
    [(signal.SIGKILL, "SIGKILL; perhaps the machine ran out of memory"), (signal.SIGSEGV, "SIGSEGV")],
    ids=["SIGKILL", "SIGSEGV"],
)
def test_death_by_a_signal_is_one_clear_error(number: int, hint: str) -> None:
    """A crash names the signal, and shows the last that the child wrote."""
    with pytest.raises(ConversionError, match=rf"the test crashed: its process was killed by {hint}(.|\n)*last words"):
        call("die", number=int(number))


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_is_an_error_even_with_code_0(code: int) -> None:
    """Leaving without an answer is never a success."""
    with pytest.raises(ConversionError, match=f"exit code {code} and no answer"):
        call("leave", code=code)


def test_a_hang_ends_at_the_deadline_with_its_descendants(tmp_path: Path) -> None:
    """At the deadline the child and what it started are gone."""
    start = time.monotonic()

    with pytest.raises(ConversionError, match="still running after 2 s and was ended"):
        call("hang", timeout=2, pids=str(tmp_path / "pids"))

    assert time.monotonic() - start < 10
    deadline = time.monotonic() + 5
    while any(map(alive, (tmp_path / "pids").read_text().split())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_left_behind_are_ended_after_an_answer(tmp_path: Path) -> None:
    """A helper that the model's code started does not outlive the call."""
    assert call("leave_a_process", pids=str(tmp_path / "pids")) == "answer"

    deadline = time.monotonic() + 5
    while any(map(alive, (tmp_path / "pids").read_text().split())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_thread_left_behind_does_not_hold_up_the_answer() -> None:
    """The child ends when it has answered, whatever threads the model's library left."""
    assert call("leave_a_thread", timeout=20) == "answer"


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """When the worker is killed outright, the child and what it started end by themselves."""
    import subprocess

    pids = tmp_path / "pids"
    code = f"from airflow_triton.isolate import run_in_child; run_in_child('test_isolate:hang', {{'pids': {str(pids)!r}}})"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        deadline = time.monotonic() + 20
        while not pids.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.kill()

    deadline = time.monotonic() + 10
    while any(map(alive, pids.read_text().split())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_parent_imports_nothing_heavy() -> None:
    """The module that starts the child costs a DAG file nothing."""
    import subprocess

    code = "import sys, airflow_triton.isolate, airflow_triton.convert; print([m for m in ('mlflow', 'numpy', 'onnx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# What the child runs.


def echo(value: JSON) -> JSON:
    return value


def noisy() -> str:
    print('{"value": "noise"}')  # noqa: T201
    print("noise", file=sys.stderr)  # noqa: T201
    os.write(1, b"more noise")
    return "answer"


def refuse(kind: str) -> None:
    from airflow_triton import errors

    raise getattr(errors, kind)("why, and what to do")


def refuse_specially() -> None:
    class SpecialError(RejectedError):
        pass

    raise SpecialError("special")


def divide() -> float:
    return 1 / 0


def unserializable() -> object:
    return object()


def die(number: int) -> None:
    print("last words", flush=True)  # noqa: T201
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    sys.exit(code)


def start_sleeper(pids: str) -> None:
    import subprocess

    child = subprocess.Popen(["sleep", "60"])
    Path(pids).write_text(f"{os.getpid()} {child.pid}")


def hang(pids: str) -> None:
    start_sleeper(pids)
    time.sleep(60)


def leave_a_process(pids: str) -> str:
    start_sleeper(pids)
    return "answer"


def leave_a_thread() -> str:
    import threading

    threading.Thread(target=time.sleep, args=(60,)).start()
    return "answer"


def eat(mib: int) -> str:
    """Take memory in steps, and touch it."""
    kept = []
    for _ in range(mib // 16):
        kept.append(bytearray(b"x") * (16 << 20))
        time.sleep(0.03)
    return f"{len(kept)} pieces"


def eat_in_a_grandchild(mib: int) -> None:
    code = f"import time; kept = bytearray(b'x') * ({mib} << 20); time.sleep(20)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["eat", "eat_in_a_grandchild"])
def test_what_takes_more_memory_than_it_may_is_ended(name: str) -> None:
    """The child's own memory, and that of what it starts."""
    started = time.monotonic()
    with pytest.raises(ConversionError, match=r"took \d+ MiB of memory, more than the 200 MiB that it may, and was ended; give it more"):
        run_in_child(f"test_isolate:{name}", {"mib": 600}, child=ChildProcess(timeout=60, memory_mib=200), what="the test")
    assert time.monotonic() - started < 15


def test_what_stays_below_its_memory_is_left_alone() -> None:
    """The limit is a limit, not a promise to take it."""
    assert run_in_child("test_isolate:eat", {"mib": 64}, child=ChildProcess(memory_mib=400)) == "4 pieces"


def test_another_python_runs_our_function_with_its_own_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees this package and nothing else of ours; what points at our Python is not handed on."""
    import venv

    venv.create(tmp_path / "env", symlinks=True)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/nowhere")
    child = ChildProcess(python=tmp_path / "env/bin/python", timeout=30)

    told = run_in_child("airflow_triton.versions:installed", {"names": ["pydantic", "numpy"]}, child=child)

    assert isinstance(told, dict)
    assert "pydantic" not in told
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Before anything starts."""
    with pytest.raises(ConversionError, match=f"{tmp_path}/none.*cannot be started"):
        run_in_child("test_isolate:eat", {"mib": 1}, child=ChildProcess(python=tmp_path / "none"))


def test_the_working_directory_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the caller's that is called as a library harms nothing."""
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    (tmp_path / "pydantic.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)

    assert call("echo", value=1) == 1
