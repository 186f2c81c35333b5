"""Which versions are installed, read without importing anything."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterable

PACKAGE = "airflow-provider-triton"


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those distributions that are installed here; of Python, and of this package where it is installed."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in (PACKAGE, *names):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
