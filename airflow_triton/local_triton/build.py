"""The steps of an install. Each raises LocalTritonError with the end of the failing command's output."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from airflow_triton.built_once import find_uv
from airflow_triton.errors import LocalTritonError
from airflow_triton.local_triton.installation import Installation

STEP_SECONDS = 3600.0
VERIFY_SECONDS = 60.0
_FACTS = """
import json, sys, sysconfig
names = ("LIBDIR", "MULTIARCH")
print(json.dumps({
    "version": sys.version_info[:2],
    "site_packages": sysconfig.get_path("purelib"),
    "base": sys.base_prefix,
    "folders": [sysconfig.get_config_var(name) or "" for name in names],
}))
"""


@dataclass(frozen=True)
class PythonFacts:
    """What the environment's interpreter says about itself; `folders` is where its libpython may lie."""

    version: tuple[int, int]
    site_packages: Path
    folders: tuple[Path, ...]


def create_environment(interpreter: Path, home: Path, *, seed: bool) -> None:
    """Make the virtual environment `home`, with pip in it if `seed` (or where uv is not installed, as pip is needed then)."""
    uv = find_uv()
    if uv is None:
        _run([str(interpreter), "-m", "venv", str(home)], "create the environment")
    else:
        extra = ["--seed"] if seed else []
        _run([uv, "venv", "--quiet", "--no-project", "--python", str(interpreter), *extra, str(home)], "create the environment")


def ask_python(home: Path) -> PythonFacts:
    """Ask the environment's interpreter for its version, its packages' folder and where its libpython may lie."""
    told = json.loads(_run([str(home / "bin" / "python"), "-I", "-c", _FACTS], "ask the environment's Python"))
    libdir, multiarch = told["folders"]
    base = Path(told["base"]) / "lib"
    folders = [Path(libdir), Path(libdir) / multiarch, base, base / multiarch]
    major, minor = told["version"]
    return PythonFacts((major, minor), Path(told["site_packages"]), tuple(folders))


def install_packages(home: Path, requirements: list[str], *, dependencies: bool) -> None:
    """Install wheels, never from source: by uv where it is installed, else by pip."""
    uv = find_uv()
    extra = [] if dependencies else ["--no-deps"]
    if uv is None:
        pip_install(home, [*extra, *requirements])
        return
    command = [uv, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), "--only-binary", ":all:"]
    _run([*command, *extra, *requirements], f"install {' '.join(requirements)}")


def pip_install(home: Path, requirements: list[str]) -> None:
    """Install wheels, never from source, by the environment's own pip."""
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    _run([*pip, "--only-binary", ":all:", *requirements], f"install {' '.join(requirements)}")


def link_libpython(home: Path, facts: PythonFacts) -> None:
    """Link the interpreter's libpython into `home/libpython`: it must be that very one, and the loader may find another."""
    target = home / "libpython"
    target.mkdir()
    name = "libpython{}.{}.so.1.0".format(*facts.version)
    found = next((folder / name for folder in facts.folders if (folder / name).is_file()), None)
    if found is not None:
        (target / name).symlink_to(found)


def verify(installation: Installation, facts: PythonFacts) -> None:
    """Raise LocalTritonError unless the server, the backend's stub and its packages start.

    A stub that cannot start makes a later load request hang without an answer, so it is started here, where it only complains
    about its missing arguments.
    """
    variables = installation.environment()
    missing = _missing_library([str(installation.server), "--help"], variables)
    if missing:
        raise LocalTritonError(f"The local Triton cannot start: {missing}. Install that library with the system's packages.")
    missing = _missing_library([str(installation.backends / "python" / "triton_python_backend_stub")], variables)
    if missing:
        python = "{}.{}".format(*facts.version)
        raise LocalTritonError(
            f"The local Triton's Python backend cannot start: {missing}. It needs the shared library of Python {python} "
            f"(looked in {', '.join(map(str, facts.folders))}). Install it (Debian, Ubuntu: `apt install libpython{python}`; "
            f"pyenv: `PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {python}`), or run this under a Python that has it, "
            "such as one from conda or `uv python install`."
        )
    # What is imported is compiled, too, so that the first load need not do that.
    modules = ", ".join(("numpy", "onnxruntime", *sorted(installation.extras - {"torch"})))
    _run([str(installation.python), "-c", f"import {modules}"], f"import {modules}", variables)


def _missing_library(command: list[str], variables: dict[str, str]) -> str:
    """What the loader says is missing, "" if the program starts (both programs end with an error of their own then)."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=variables, timeout=VERIFY_SECONDS)
    return done.stderr.strip() if "error while loading shared libraries" in done.stderr else ""


def _run(command: list[str], what: str, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=STEP_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalTritonError(f"The local Triton could not be installed: {what} failed: {error}") from error
    if done.returncode:
        output = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise LocalTritonError(
            f"The local Triton could not be installed (by Python {sys.version.split()[0]}): failed to {what} "
            f"(exit status {done.returncode}). Is the package index reachable?\n  {' '.join(command)}\n{output}"
        )
    return done.stdout
