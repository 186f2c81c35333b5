"""The builder's timing cache: what TensorRT measured on one kind of GPU, kept for the next plan that is built on one.

The folder may be one that many workers share. A file holds the measurements of one version of TensorRT on one model of GPU, which is
what TensorRT itself checks before it uses them. Each build reads the file at its start, and at its end puts into the file what it
has measured beside what others have meanwhile.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from airflow_triton.convert.tensorrt.available import Machine

LOCK_SECONDS = 60.0
"""How long a build waits for others that write the same file."""


def default_folder() -> Path:
    """Where timing caches lie if the spec does not say."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("airflow-triton")) / "tensorrt-timing"


def file_for(folder: Path, machine: Machine) -> Path:
    """The file of this TensorRT on this kind of GPU."""
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", machine.gpu).strip("-").lower()
    return folder / f"tensorrt-{machine.tensorrt}-cc{machine.compute_capability}-{gpu}.timing"


def read(path: Path) -> bytes:
    """What is in the file; nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def update(path: Path, merged: Callable[[bytes], bytes]) -> None:
    """Replace the file's content by `merged` of its present content; a reader sees the old or the new one, whole.

    Only one process at a time does so. If this one dies, the file is as it was.

    Raises:
        filelock.Timeout: others held the file for a minute.
        OSError: the folder cannot be written.

    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
        content = merged(read(path))
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).chmod(0o644)
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
