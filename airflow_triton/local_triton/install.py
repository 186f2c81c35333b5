"""Install the server into an environment of its own, once; afterwards finding it again costs a few file reads."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import platformdirs

from airflow_triton.built_once import alone
from airflow_triton.errors import LocalTritonError
from airflow_triton.local_triton import build, pins
from airflow_triton.local_triton.backend_directory import backend_directory
from airflow_triton.local_triton.extras import Extra, checked
from airflow_triton.local_triton.installation import Installation, read_marker, write_marker
from airflow_triton.local_triton.machine import check_platform, choose_python

HOME_VARIABLE = "AIRFLOW_TRITON_LOCAL_HOME"

__all__ = ["Installation", "install"]


def install(*, with_: Collection[Extra] = (), torch: bool = False, progress: Callable[[str], None] | None = None) -> Installation:
    """The installed server; installs it first where it is not there yet (about 90 MiB to download, extras come on top).

    Lies in `local-triton/<digest>` under the user's cache folder, or under the folder that AIRFLOW_TRITON_LOCAL_HOME names;
    never in the caller's environment. Each set of extras is an environment of its own. `with_={"torch"}` (in short: `torch=True`)
    also serves TorchScript models; torch is installed by plain pip: where the package index offers a CUDA build first, set
    PIP_INDEX_URL or PIP_EXTRA_INDEX_URL to PyTorch's CPU index. `with_={"tensorflow"}` also serves SavedModel and GraphDef.

    Safe to call from several processes at once (one builds, the others wait for up to an hour) and after a crash (a half-built
    environment is built again). `progress` gets one line before each long step. Raises LocalTritonError where this machine
    cannot run the server, before anything is downloaded, and where a step of the install fails.
    """
    check_platform()
    extras = checked(with_, torch=torch)
    home = _home(extras)
    say = progress or _silent
    site_packages = read_marker(home)
    if site_packages is None:
        with alone(home, say, error=LocalTritonError, remedy=f"Set {HOME_VARIABLE} to a folder that can."):
            site_packages = read_marker(home) or _build(home, extras, say)
    return Installation(home, site_packages, backend_directory(home, site_packages), extras)


def _build(home: Path, extras: frozenset[Extra], say: Callable[[str], None]) -> Path:
    interpreter = choose_python()
    if home.exists():
        say(f"removing an unfinished install: {home}")
        shutil.rmtree(home)
    say(f"installing Triton into {home} (once; about 90 MiB to download)")
    build.create_environment(interpreter, home, seed="torch" in extras)
    facts = build.ask_python(home)
    build.install_packages(home, [pins.SERVER], dependencies=False)
    build.install_packages(home, [pins.NUMPY, pins.onnxruntime(facts.version)], dependencies=True)
    if "torch" in extras:
        say(f"installing {pins.TORCH} by pip (200 MiB for a CPU build, several GiB for a CUDA build)")
        build.pip_install(home, [pins.TORCH])
    if "tensorflow" in extras:
        say(f"installing {pins.TENSORFLOW} (about 300 MiB to download)")
        build.install_packages(home, [pins.TENSORFLOW, pins.NUMPY], dependencies=True)
    build.link_libpython(home, facts)
    site_packages = facts.site_packages
    installation = Installation(home, site_packages, backend_directory(home, site_packages), extras)
    say("checking that the server and its Python backend start")
    build.verify(installation, facts)
    write_marker(home, site_packages)
    return site_packages


def _home(extras: frozenset[Extra] = frozenset(), *, torch: bool = False) -> Path:
    root = os.environ.get(HOME_VARIABLE)
    parent = Path(root).expanduser().resolve() if root else Path(platformdirs.user_cache_dir("airflow-triton")) / "local-triton"
    return parent / pins.digest(sys.version_info[:2], checked(extras, torch=torch))


def _silent(_line: str) -> None:
    pass
