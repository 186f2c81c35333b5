"""Who made something in a store, and whether that process is known to be dead."""

from __future__ import annotations

import os
from pathlib import Path


def this_process() -> str:
    """What identifies this process on this machine, for as long as the machine runs: boot, namespace, pid, time of start."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 it is no path
        return f"{boot}/{namespace}/{os.getpid()}/{_started(os.getpid())}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def is_dead(process: str) -> bool:
    """Whether that was a process of this machine which runs no more; false where we cannot know."""
    mine = this_process()
    if not mine or not process or mine.split("/")[:2] != process.split("/")[:2]:
        return False
    _, _, pid, started = process.split("/")
    try:
        return _started(int(pid)) != started
    except (OSError, ValueError, IndexError):
        return True
