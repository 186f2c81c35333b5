"""A real Triton server on this machine, as a context manager."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

from airflow_triton.errors import LocalTritonError
from airflow_triton.local_triton.command import Mode, repository_argument, server_command
from airflow_triton.local_triton.extras import Extra, checked
from airflow_triton.local_triton.install import install
from airflow_triton.local_triton.installation import Installation
from airflow_triton.local_triton.ports import ADDRESS, Ports, choose_ports, free_port, is_free, is_live, listens

GUARD = Path(__file__).with_name("guard.py")
START_ATTEMPTS = 5
KILL_SECONDS = 5.0
LOOK_SECONDS = 0.05
KEPT_LINES = 200
NOT_STARTED = "The local Triton was not started yet: call start(), or use it in a `with` block."

__all__ = ["LocalTriton", "free_port"]


class LocalTriton:
    """A Triton server of this machine's own, listening on 127.0.0.1 only.

    `repository` is a folder (made if it is missing) or a URL such as `s3://http://HOST:PORT/bucket/prefix`, whose credentials
    come from the environment (AWS_*). `mode` is the model control mode; `poll_seconds` counts in "poll" only. A port that is not
    given is chosen among the free ones. `start_timeout` is in seconds, and covers loading the models in the modes "poll" and
    "none". The log goes to `log_file`, else to a temporary file that `stop` removes. `with_` names what the server is installed with
    on top: "torch" serves TorchScript models as well (`torch=True` is short for it), "tensorflow" SavedModel and GraphDef.
    `extra_args` are added to the server's command line; `progress` gets the install's lines.

    The server and its backends' processes end with `stop`, with the `with` block, or soon after this process is gone, however
    it ended. Not for use by several threads at once, except that one may `wait` while another calls `stop`.
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        mode: Mode = "explicit",
        http_port: int | None = None,
        grpc_port: int | None = None,
        metrics_port: int | None = None,
        poll_seconds: int = 1,
        log_file: Path | None = None,
        start_timeout: float = 60.0,
        with_: Collection[Extra] = (),
        torch: bool = False,
        extra_args: Sequence[str] = (),
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.repository = repository
        self.mode: Mode = mode
        self.log_file = log_file
        self._wanted = (http_port, grpc_port, metrics_port)
        self._poll_seconds = poll_seconds
        self._start_timeout = start_timeout
        self._extras = checked(with_, torch=torch)
        self._extra_args = tuple(extra_args)
        self._progress = progress
        self._temporary_log = log_file is None
        self._log_start = 0
        self._last_lines: list[str] = []
        self._ports: Ports | None = None
        self._pid: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def http_url(self) -> str:
        """Such as `http://127.0.0.1:8000`. Raises LocalTritonError before the first `start`."""
        return f"http://{ADDRESS}:{self._started_ports().http}"

    @property
    def grpc_url(self) -> str:
        """Such as `grpc://127.0.0.1:8001`. Raises LocalTritonError before the first `start`."""
        return f"grpc://{ADDRESS}:{self._started_ports().grpc}"

    @property
    def metrics_url(self) -> str:
        """Such as `http://127.0.0.1:8002/metrics`. Raises LocalTritonError before the first `start`."""
        return f"http://{ADDRESS}:{self._started_ports().metrics}/metrics"

    @property
    def pid(self) -> int:
        """The process id of tritonserver itself. Raises LocalTritonError before the first `start`."""
        if self._pid is None:
            raise LocalTritonError(NOT_STARTED)
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the server's process is there; a server that was started is live as well."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> LocalTriton:
        """Install the server if need be, start it, and return when it answers. Does nothing if it runs already.

        A restart takes the same ports again if they are free. Raises LocalTritonError, with the log's last lines and its path,
        if the server ends or does not answer in time; nothing of it is left running then.
        """
        if self.running:
            return self
        installation = install(with_=self._extras, progress=self._progress)
        repository = repository_argument(self.repository)
        for attempt in range(1, START_ATTEMPTS + 1):
            self._ports = choose_ports(self._wanted, self._ports)
            self._launch(installation, repository, self._ports)
            try:
                self._await_live(self._ports)
            except _LostPortError:
                self._end(KILL_SECONDS)
                self._ports = None
                if attempt == START_ATTEMPTS:
                    raise
            except BaseException:
                self._end(KILL_SECONDS)
                raise
            else:
                break
        return self

    def stop(self, timeout: float = 15.0) -> None:
        """End the server and its backends' processes: SIGTERM, and SIGKILL after `timeout` seconds. Does nothing if it is down."""
        if self._guard is None:
            return
        self._end(timeout)
        if self._temporary_log and self.log_file is not None:
            self._last_lines = self._read_log()[-KEPT_LINES:]
            self.log_file.unlink(missing_ok=True)
            self.log_file = None
        self._guard = None

    def wait(self) -> int:
        """Block until the server ends, and return its exit status (128 + the signal's number if a signal ended it)."""
        if self._guard is None:
            raise LocalTritonError(NOT_STARTED)
        return self._guard.wait()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log, also after `stop` (200 at most then); "" before the first `start`."""
        return "\n".join((self._read_log() or self._last_lines)[-lines:])

    def __enter__(self) -> LocalTriton:  # noqa: PYI034  # typing.Self is newer than Python 3.10
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _launch(self, installation: Installation, repository: str, ports: Ports) -> None:
        prefix = f"airflow-triton-{os.getpid()}-{secrets.token_hex(4)}-"
        command = server_command(
            installation,
            repository,
            mode=self.mode,
            ports=ports,
            poll_seconds=self._poll_seconds,
            shm_prefix=prefix,
            extra=self._extra_args,
        )
        guard = [str(installation.python), "-I", "-S", str(GUARD), str(os.getpid()), prefix]
        if self.log_file is None:
            handle, name = tempfile.mkstemp(prefix="airflow-triton-", suffix=".log")
            os.close(handle)
            self.log_file = Path(name)
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._guard = subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=installation.environment(),
                cwd=installation.home,
                start_new_session=True,  # Ctrl-C in a terminal is the caller's to handle
            )
        with self._guard.stdout or contextlib.nullcontext() as told:
            line = told.readline() if told else b""
        self._pid = int(line) if line else None

    def _await_live(self, ports: Ports) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not (is_live(ports.http) and listens(ports.metrics)):
            if not self.running:
                ended = self._failure(f"ended with exit status {self.wait()} before it answered")
                raise _LostPortError(ended) if self._may_have_lost_a_port(ports) else LocalTritonError(ended)
            if time.monotonic() > deadline:
                raise LocalTritonError(self._failure(f"did not answer within {self._start_timeout:g} s"))
            time.sleep(LOOK_SECONDS)

    def _may_have_lost_a_port(self, ports: Ports) -> bool:
        chosen = [port for port, given in zip((ports.http, ports.grpc, ports.metrics), self._wanted, strict=True) if given is None]
        return any(not is_free(port) for port in chosen)

    def _end(self, timeout: float) -> None:
        guard = self._guard
        if guard is None:
            return
        guard.terminate()
        try:
            guard.wait(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            try:
                guard.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:
                guard.kill()
                guard.wait()

    def _failure(self, what: str) -> str:
        log = b""
        if self.log_file is not None:
            log = self.log_file.read_bytes()[self._log_start :]
        tail = "\n".join(log.decode(errors="replace").strip().splitlines()[-20:])
        return f"The local Triton {what}. The end of its log {self.log_file}:\n{tail}"

    def _read_log(self) -> list[str]:
        if self.log_file is None or not self.log_file.exists():
            return []
        return self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()

    def _started_ports(self) -> Ports:
        if self._ports is None:
            raise LocalTritonError(NOT_STARTED)
        return self._ports


class _LostPortError(LocalTritonError):
    """Another process took a port that was free when it was chosen."""
