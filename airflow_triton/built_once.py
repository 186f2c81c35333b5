"""Folders that are built once, by whoever comes first, and the tool that fills them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from airflow_triton.errors import DeployError

LOCK_SECONDS = 3600.0


@contextmanager
def alone(home: Path, progress: Callable[[str], None], *, error: type[DeployError], remedy: str) -> Iterator[None]:
    """Hold the lock beside `home`; `progress` is told where another process has it, which is waited for, an hour at most.

    Raises:
        DeployError: of the class `error`: the lock does not become free, or its folder cannot be written (with `remedy`).

    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(home.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress(f"another process is building {home}: waiting for it")
            lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as reason:
        raise error(f"another process has been building {home} for more than an hour. End it, and try again.") from reason
    except OSError as reason:
        raise error(f"the folder {home.parent} cannot be written: {reason}. {remedy}") from reason
    try:
        yield
    finally:
        lock.release()


def find_uv() -> str | None:
    """Where uv is; None where it is not installed."""
    try:
        import uv  # an optional extra

        return uv.find_uv_bin()
    except (ImportError, FileNotFoundError):
        return shutil.which("uv")
