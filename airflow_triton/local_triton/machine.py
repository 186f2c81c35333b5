"""Can this machine run the server's wheel at all? Answered before anything is downloaded."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from airflow_triton.errors import LocalTritonError
from airflow_triton.local_triton import pins

GLIBC = (2, 35)
INSTEAD = "Use a real server instead: start one from NVIDIA's Triton container, and pass its URL with `--server http://HOST:8000`."


def check_platform(*, system: str | None = None, machine: str | None = None, glibc: str | None = None) -> None:
    """Raise LocalTritonError unless this is Linux on x86_64 with glibc 2.35 or newer.

    Each argument stands in for what this machine says; `glibc` is a version such as "2.36", and "" where there is none (musl).
    """
    system = platform.system() if system is None else system
    machine = platform.machine() if machine is None else machine
    glibc = _glibc() if glibc is None else glibc
    problems = []
    if system != "Linux":
        problems.append(f"the system is {system or 'unknown'}")
    if machine.lower() not in ("x86_64", "amd64"):
        problems.append(f"the processor is {machine or 'unknown'}")
    if system == "Linux" and _version(glibc) < GLIBC:
        problems.append(f"the C library is glibc {glibc}" if glibc else "the C library is not glibc")
    if problems:
        needed = "the local Triton needs Linux on x86_64 with glibc 2.35 or newer"
        raise LocalTritonError(f"The local Triton does not run on this machine: {'; '.join(problems)}; {needed}. {INSTEAD}")


def choose_python(
    *,
    running: tuple[int, int] | None = None,
    find: Callable[[str], str | None] = shutil.which,
) -> Path:
    """The interpreter to build the server's environment with: this one if the server can use it, else a `python3.X` on PATH.

    The server's environment is its own, so its Python need not be the one that runs this package. Raises LocalTritonError
    where there is none that fits.
    """
    running = sys.version_info[:2] if running is None else running
    if running in pins.PYTHONS:
        return Path(sys.executable)
    for version in pins.PYTHONS:
        found = find("python{}.{}".format(*version))
        if found and _answers(found, version):
            return Path(found)
    usable = ", ".join("{}.{}".format(*version) for version in reversed(pins.PYTHONS))
    raise LocalTritonError(
        f"The local Triton cannot use Python {running[0]}.{running[1]}: its Python backend works with {usable} (with numpy 1), "
        f"and none of them was found on PATH. Install one of them, so that for example `python3.12` starts. {INSTEAD}"
    )


def _answers(executable: str, version: tuple[int, int]) -> bool:
    # A pyenv shim is on PATH for every version that is installed and starts only the ones that are active.
    code = f"import sys; sys.exit(sys.version_info[:2] != {version!r})"
    try:
        return subprocess.run([executable, "-c", code], check=False, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _glibc() -> str:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, OSError, ValueError):
        return ""
    return version if name == "glibc" else ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
