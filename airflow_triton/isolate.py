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
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from airflow_triton import errors

JSON: TypeAlias = "Mapping[str, JSON] | list[JSON] | str | int | float | bool | None"

POLL_SECONDS = 0.02
ORPHAN_CHECK_SECONDS = 1.0
TAIL_CHARACTERS = 2000
FRAMES = 3


def run_in_child(function: str, arguments: Mapping[str, JSON], *, timeout: float = 600.0, what: str = "the conversion") -> JSON:
    """Call `function` ("package.module:name") with `arguments` as keywords in a child process, and return its answer.

    Guarantee: when this returns or raises, for whatever reason, the child and every process that it left in its process
    group are gone (a descendant that made a session of its own escapes this). Should this process die first, the child ends
    itself within about a second. The child is this Python (`sys.executable`) in this environment and working directory.
    Cost: the start of a Python, plus what `function` imports.

    Args:
        function: what to call; arguments and answer must be JSON.
        arguments: the keywords.
        timeout: seconds until the child is killed. Default 600.
        what: the subject of the error messages, such as "the conversion of iris".

    Raises:
        DeployError: the class of `airflow_triton.errors` that the function raised, with its message.
        ConversionError: the function raised anything else, ran past `timeout`, left by `sys.exit`, or was killed by a signal.

    """
    with tempfile.TemporaryDirectory(prefix="airflow-triton-") as folder:
        question, answer, noise = (Path(folder, name) for name in ("arguments.json", "answer.json", "output.log"))
        question.write_text(json.dumps(arguments), encoding="utf-8")
        with question.open("rb") as stdin, noise.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__, function, str(answer)],
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            in_time = _wait(child.pid, timeout)
        finally:
            _kill_group(child.pid)  # before the child is reaped, so the number cannot be someone else's by now
            code = child.wait()
        if answer.exists():
            return _open(json.loads(answer.read_text(encoding="utf-8")), what)
        raise errors.ConversionError(_obituary(what, code if in_time else None, timeout, _tail(noise)))


def _wait(pid: int, timeout: float) -> bool:
    """Wait for the end of the child without reaping it; false when the time is over."""
    deadline = time.monotonic() + timeout
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


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


def _obituary(what: str, code: int | None, timeout: float, tail: str) -> str:
    if code is None:
        reason = f"{what} was still running after {timeout:g} s and was ended; give it more time, or look at what it waits for"
    elif code < 0:
        name = signal.Signals(-code).name
        hint = "; perhaps the machine ran out of memory" if -code == signal.SIGKILL else ""
        reason = f"{what} crashed: its process was killed by {name}{hint}"
    else:
        reason = f"{what} ended its own process with exit code {code} and no answer (does the model's code call sys.exit?)"
    return f"{reason}. The last that it wrote:\n{tail}" if tail else reason


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


def _child(function: str, answer: str) -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    reply = _reply(function)
    draft = Path(f"{answer}.part")
    draft.write_text(json.dumps(reply), encoding="utf-8")
    draft.replace(answer)
    os._exit(0)  # neither a thread that the model left nor a crash at the interpreter's end can change the answer


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2])
