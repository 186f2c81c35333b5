"""The local Triton in the foreground, for `airflow-triton serve`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType

from airflow_triton.errors import LocalTritonError
from airflow_triton.local_triton.command import Mode
from airflow_triton.local_triton.extras import Extra
from airflow_triton.local_triton.process import LocalTriton


class _StopServing(BaseException):
    """SIGTERM or SIGINT came."""


def serve(
    repository: str | Path,
    *,
    mode: Mode,
    http_port: int | None,
    grpc_port: int | None,
    metrics_port: int | None,
    on_ready: Callable[[LocalTriton], None],
    with_: Collection[Extra] = (),
    progress: Callable[[str], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT comes, end the server cleanly, and return 0. To be called in the main thread.

    `on_ready` is called once, when the server answers. Raises LocalTritonError, with the end of the log, if the server cannot
    start or ends by itself.
    """
    server = LocalTriton(
        repository,
        mode=mode,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        with_=with_,
        progress=progress,
    )
    try:
        with _stopped_by_signals(), server:
            on_ready(server)
            status = server.wait()
            tail = server.log_tail()
    except _StopServing:
        return 0
    raise LocalTritonError(f"The local Triton ended by itself with exit status {status}. The end of its log:\n{tail}")


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)  # it is ending; a second signal must not interrupt that
        raise _StopServing

    before = [signal.signal(one, stop) for one in signals]
    try:
        yield
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)
