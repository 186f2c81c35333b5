"""A function of ours in a process of its own: what someone's model does there cannot take the worker with it.

A crash, a leak, a hang, a `sys.exit` or a pickle ends or harms the child alone.
The arguments and the answer travel as JSON in files of a private folder; whatever the model's code prints goes to a third
file, and is shown only when the child died without an answer. Nothing of the child reaches our own stdout or stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from airflow_triton import errors

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"

POLL_SECONDS = 0.02
ORPHAN_CHECK_SECONDS = 1.0
TAIL_CHARACTERS = 2000
FRAMES = 3
OOM_SCORE = 1000


@dataclass(frozen=True)
class ChildProcess:
    """How a child is run: by which Python (default: this one, in this environment), how long, and in how much memory.

    `timeout` is in seconds. `memory_mib` limits the resident memory of the child and all that it starts, in MiB (default: no limit).
    Another Python has to have what the function imports, but not this package: it finds that here.
    """

    python: Path | None = None
    timeout: float = 600.0
    memory_mib: int | None = None


HERE = ChildProcess()

_START = f"""
import sys
if not sys.path[0]:
    del sys.path[0]  # the working directory: what lies there is not ours to import
from {__name__} import child
child(*sys.argv[1:])
"""

_QUIET = {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Variables of the children, unless they are set: nobody asked for the telemetry of what they import."""


def run_in_child(function: str, arguments: Mapping[str, JSON], *, child: ChildProcess = HERE, what: str = "the conversion") -> JSON:
    """Call `function` ("package.module:name") with `arguments` as keywords in a child process, and return its answer.

    Guarantee: when this returns or raises, for whatever reason, the child and every process that it left in its process
    group are gone (a descendant that made a session of its own escapes this). Should this process die first, the child ends
    itself within about a second; where the machine runs out of memory, the child is what the kernel ends first (Linux). It works
    in this working directory.
    Cost: the start of a Python, plus what `function` imports.

    Args:
        function: what to call; arguments and answer must be JSON.
        arguments: the keywords.
        child: which Python runs it, and its limits. Default: this one, 600 seconds, any memory.
        what: the subject of the error messages, such as "the conversion of iris".

    Raises:
        DeployError: the class of `airflow_triton.errors` that the function raised, with its message.
        ConversionError: the function raised anything else, ran past the time or the memory, left by `sys.exit`, or was killed by a
            signal.

    """
    with tempfile.TemporaryDirectory(prefix="airflow-triton-") as folder:
        question, answer, noise = (Path(folder, name) for name in ("arguments.json", "answer.json", "output.log"))
        question.write_text(json.dumps(arguments), encoding="utf-8")
        with question.open("rb") as stdin, noise.open("wb") as output:
            command = [str(child.python or sys.executable), "-c", _START, function, str(answer)]
            variables = _environment(Path(folder), child.python)
            try:
                process = subprocess.Popen(
                    command, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=variables
                )
            except OSError as error:
                raise errors.ConversionError(f"{command[0]}, which is to run {what}, cannot be started: {error.strerror}") from error
        try:
            ended = _wait(process.pid, child)
        finally:
            _kill_group(process.pid)  # before the child is reaped, so the number cannot be someone else's by now
            code = process.wait()
        if answer.exists():
            return _open(json.loads(answer.read_text(encoding="utf-8")), what)
        raise errors.ConversionError(_obituary(what, ended or _end_of(code), _tail(noise)))


def _environment(folder: Path, python: Path | None) -> dict[str, str] | None:
    """The environment variables for a Python of another environment: it is shown this package, and nothing else of ours."""
    if python is None:
        return None
    package = Path(__file__).parent
    (folder / "packages").mkdir()
    (folder / "packages" / package.name).symlink_to(package)
    ours = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return {**inherited, "PYTHONPATH": str(folder / "packages"), "PYTHONDONTWRITEBYTECODE": "1"}


def _wait(pid: int, child: ChildProcess) -> str | None:
    """Wait for the end of the child without reaping it; why it has to be ended, or None where it ended by itself."""
    deadline = time.monotonic() + child.timeout
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return f"was still running after {child.timeout:g} s and was ended; give it more time, or look at what it waits for"
        if child.memory_mib and (used := _resident_mib(pid)) > child.memory_mib:
            return f"took {used:.0f} MiB of memory, more than the {child.memory_mib} MiB that it may, and was ended; give it more memory"
        time.sleep(POLL_SECONDS)
    return None


def _resident_mib(pid: int) -> float:
    """The resident memory of a process and its descendants, in MiB: what they share is counted once (Linux; elsewhere each time)."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                memory = each.memory_full_info() if each.pid != pid else each.memory_info()
                total += getattr(memory, "uss", memory.rss)
    return total / 2**20


def peak_mib() -> float | None:
    """The largest resident memory that this process has had, in MiB; None where the system does not tell (it is Linux that does)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return None if found is None else round(int(found) / 1024, 1)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM where only the unreaped leader is left
        os.killpg(pid, signal.SIGKILL)


def _open(reply: dict[str, str], what: str) -> JSON:
    if "value" in reply:
        return reply["value"]
    error = getattr(errors, reply["error"])
    if reply.get("trace"):
        raise errors.ConversionError(f"{what} failed: {reply['message']} ({reply['trace']})")
    raise error(reply["message"])


def _end_of(code: int) -> str:
    if code >= 0:
        return f"ended its own process with exit code {code} and no answer (does the model's code call sys.exit?)"
    hint = "; perhaps the machine ran out of memory" if -code == signal.SIGKILL else ""
    return f"crashed: its process was killed by {signal.Signals(-code).name}{hint}"


def _obituary(what: str, end: str, tail: str) -> str:
    return f"{what} {end}. The last that it wrote:\n{tail}" if tail else f"{what} {end}"


def _tail(noise: Path) -> str:
    with noise.open("rb") as file:
        file.seek(max(0, noise.stat().st_size - TAIL_CHARACTERS))
        return file.read().decode("utf-8", "replace").strip()


def _reply(function: str) -> dict[str, object]:
    """In the child: call the function; an error becomes the name of its nearest class in `errors`, and its message."""
    try:
        module, _, name = function.partition(":")
        value = getattr(importlib.import_module(module), name)(**json.load(sys.stdin))
        json.dumps(value)
    except errors.DeployError as error:
        known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return {"error": known.__name__, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever the model's code raises is reported, never swallowed
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
        trace = ", ".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames)
        return {"error": "ConversionError", "message": f"{type(error).__name__}: {error}", "trace": f"at {trace}"}
    return {"value": value}


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_SECONDS)
    os.killpg(0, signal.SIGKILL)


def child(function: str, answer: str) -> None:
    """What a child process does; it does not return."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with contextlib.suppress(OSError):  # not Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    reply = _reply(function)
    draft = Path(f"{answer}.part")
    draft.write_text(json.dumps(reply), encoding="utf-8")
    draft.replace(answer)
    os._exit(0)  # neither a thread that the model left nor a crash at the interpreter's end can change the answer
