"""A server as a process with its own group: it is ready before the tests go on, and never outlives them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from airflow_triton.local_triton.process import GUARD

if TYPE_CHECKING:
    from typing_extensions import Self

Found = TypeVar("Found")

LOOK_SECONDS = 0.1
STOP_SECONDS = 15.0
OURS = ("AIRFLOW", "AWS_", "MLFLOW_", "TRITON_", "PYTEST_")
BIN = Path(sys.executable).parent


def clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server: this process' own, without what speaks to Airflow, MLflow, Triton or a store; and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **more}


def wait_for(what: str, look: Callable[[], Found], *, timeout: float = 60.0) -> Found:
    """What `look` answers as soon as it is true. Raises TimeoutError, which names `what`, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout:g} s")
        time.sleep(LOOK_SECONDS)
    return found


class Process:
    """A command that serves until it is stopped. As a context manager it runs from the first line to the last.

    `ready` is asked until it is true; `folder` is where it runs and where its log is. When it ends, however that is, its whole group
    ends with it, as it would in a container.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        ready: Callable[[], bool],
        start_timeout: float = 240.0,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.environment = dict(environment)
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.ready = ready
        self._start_timeout = start_timeout
        self._guard: subprocess.Popen[bytes] | None = None
        self.pid = 0

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._guard is not None and self._guard.poll() is None

    def launch(self) -> Self:
        """Start it, and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = f"airflow-triton-live-{secrets.token_hex(4)}-"  # of shared memory, of which there is none
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), prefix, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as told:
            self.pid = int(told.readline() or 0)
        return self

    def await_ready(self) -> Self:
        """Wait until it is ready. Raises RuntimeError or TimeoutError with the end of its log."""
        deadline = time.monotonic() + self._start_timeout
        while not self.ready():
            if not self.running:
                raise RuntimeError(f"{self.name} ended before it was ready.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} was not ready within {self._start_timeout:g} s.\n{self.log_tail()}")
            time.sleep(LOOK_SECONDS)
        return self

    def start(self) -> Self:
        """Start it, and wait until it is ready; what is left of it is killed where that fails."""
        try:
            return self.launch().await_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it in good order, or by force if that takes too long."""
        if self._guard is not None:
            self._guard.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all of it at once, as where the machine goes away."""
        if self._guard is None:
            return
        if self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if self.pid:
                    os.killpg(self.pid, signal.SIGKILL)
            try:
                self._guard.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
        self._guard = None

    def log_tail(self, lines: int = 25) -> str:
        """The last lines of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return f"The end of {self.log}:\n" + "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
