"""The log of a build: written while TensorRT works, followed by whoever waits, and kept beside the plan."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from typing_extensions import Self

LOG_FILE = "build.log"
SHOWN = ("progress", "warning", "error")
"""The kinds of lines that are shown to whoever waits; all others are in the file only."""

_FOLLOW_SECONDS = 0.5
_STEP_SECONDS = 2.0


class BuildLog:
    """Writes lines `SECONDS KIND TEXT`; several threads of TensorRT may call it at a time. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._errors: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, kind: str, text: str) -> None:
        """One line; a line break in the text becomes a space."""
        line = " ".join(text.split())
        with self._lock:
            if kind == "error":
                self._errors.append(line)
            self._file.write(f"{time.monotonic() - self._started:8.1f} {kind:8} {line}\n")
            self._file.flush()

    @property
    def errors(self) -> str:
        """The last errors, for a message."""
        return "; ".join(self._errors[-3:])


class Progress:
    """What TensorRT's progress monitor tells, as lines of the log: a phase's start, its end, and its steps every few seconds."""

    def __init__(self, log: BuildLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[int, float]] = {}

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps began."""
        with self._lock:
            self._phases[phase] = (steps, time.monotonic())
        if parent is None:
            self._log.write("progress", f"{phase}: begun ({steps} steps)")

    def done(self, phase: str, step: int) -> None:
        """The step with this number, from 0, is done."""
        with self._lock:
            steps, told = self._phases.get(phase, (0, 0.0))
            if not steps or time.monotonic() - told < _STEP_SECONDS:
                return
            self._phases[phase] = (steps, time.monotonic())
        self._log.write("progress", f"{phase}: {step + 1} of {steps} steps ({100 * (step + 1) // steps} %)")

    def finished(self, phase: str, *, top: bool) -> None:
        """The phase ended."""
        with self._lock:
            self._phases.pop(phase, None)
        if top:
            self._log.write("progress", f"{phase}: done")


@contextlib.contextmanager
def followed(path: Path, tell: Callable[[str], None] | None) -> Iterator[None]:
    """While the block runs, tell the lines that another process writes to the log and that are to be shown; the last ones at its end."""
    if tell is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, tell, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(path: Path, tell: Callable[[str], None], over: threading.Event) -> None:
    at, rest = 0, ""
    while True:
        last = over.wait(_FOLLOW_SECONDS)
        if path.exists():
            with path.open("rb") as file:
                file.seek(at)
                new = file.read()
            at += len(new)
            *lines, rest = (rest + new.decode("utf-8", "replace")).split("\n")
            for line in lines:
                if line.split()[1:2] and line.split()[1] in SHOWN:
                    tell(line.strip())
        if last:
            return
