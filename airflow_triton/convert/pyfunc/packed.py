"""The archive of a model's packages that Triton's Python backend unpacks for it (`EXECUTION_ENV_PATH`).

It is a virtual environment without a Python of its own: the stub of the server's Python backend, with the Python that it is linked
with, takes the first `python3` on PATH for its executable, and finds `pyvenv.cfg` and the packages from there (PYTHONPATH is no way: the
stub's interpreter is isolated). Triton puts `bin` first on PATH: up to release 25.07 by sourcing `bin/activate`, since 25.08 by itself
(python_backend, src/stub_launcher.cc and src/pb_utils.cc).
"""

from __future__ import annotations

import gzip
import io
import platform
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from airflow_triton.built_once import find_uv
from airflow_triton.convert import environments, requirements
from airflow_triton.convert.environments import this_python
from airflow_triton.convert.requirements import Requirements, name_of
from airflow_triton.errors import ConversionError

ARCHIVE = "environment.tar.gz"
FORMAT = "3"
LEAST = ("numpy", "pandas", "mlflow-skinny")
"""What `served/model.py` imports."""

PLATFORMS = {"x86_64": "x86_64-manylinux_2_28", "amd64": "x86_64-manylinux_2_28", "aarch64": "aarch64-manylinux_2_28"}
PLATFORMS["arm64"] = PLATFORMS["aarch64"]
"""What the server is taken to be, by this machine's processor: Linux with glibc 2.28 or newer (NVIDIA's containers have 2.35 and newer)."""

ACTIVATE = """\
# Sourced by Triton up to release 25.07; later ones do what the first two lines do, and do not read it.
VIRTUAL_ENV="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_python="$(command -v python3)"
export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
unset PYTHONHOME
if [ -n "$_python" ]; then
    printf 'home = %s\\ninclude-system-site-packages = true\\n' "$(dirname "$(readlink -f "$_python")")" > "$VIRTUAL_ENV/pyvenv.cfg.$$"
    mv "$VIRTUAL_ENV/pyvenv.cfg.$$" "$VIRTUAL_ENV/pyvenv.cfg"
fi
"""

CONFIGURATION = """\
home = /usr/bin
include-system-site-packages = true
"""
"""What makes a folder a virtual environment for Python; `home` is where NVIDIA's containers have the Python of their Python backend."""

BYTECODE = "import os, sys; sys.pycache_prefix = os.path.join(sys.prefix, 'bytecode')\n"
"""Bytecode is kept in the unpacked environment: a new file in a version directory would make a polling server load the model again."""


def archive(
    model_dir: Path,
    *,
    requirements: tuple[str, ...] = (),
    python_version: str | None = None,
    progress: environments.Progress = lambda _: None,
) -> Path:
    """The archive for a model, made where it is not kept yet; equal requirements give equal bytes, as long as the index offers the same.

    Only wheels are installed, so that it can be made for another Python than this one. The model's `mlflow` becomes `mlflow-skinny` of the
    same version, which is enough to load and ask a model, unless the user's requirements name `mlflow`.

    Args:
        model_dir: a downloaded MLflow model.
        requirements: the user's, which win over the model's.
        python_version: the Python of the server's Python backend. Default: this one's.
        progress: told one line before a long step.

    Raises:
        ConversionError: a requirement cannot be installed from a wheel.

    """
    version = python_version or this_python()
    system = PLATFORMS.get(platform.machine().lower())
    if system is None:
        raise ConversionError(f"no packed environment can be made on a {platform.machine()}: use `convert.python.environment: server`")
    wanted = _wanted(model_dir, requirements)

    def build(home: Path) -> None:
        progress(f"packing the requirements of {model_dir} for Python {version} (once): {home}")
        packages = home / "packages"
        packages.mkdir(parents=True)
        uv = find_uv() is not None
        where = ("--python-platform", system) if uv else ("--platform", system.partition("-")[2] + "_" + system.partition("-")[0])
        more = ("--target", str(packages), "--only-binary", ":all:", "--python-version", version, *where)
        environments.install(home, wanted, of=model_dir, more=more)
        _pack(packages, home / ARCHIVE, version)

    digest = wanted.digest("packed", FORMAT, version, system)
    return environments.kept(digest, build, is_there=lambda home: (home / ARCHIVE).is_file(), progress=progress) / ARCHIVE


def _wanted(model_dir: Path, users: tuple[str, ...]) -> Requirements:
    model = requirements.of_model(model_dir)
    if "mlflow" not in {name_of(line) for line in users}:
        model = Requirements(tuple(_skinny(line) for line in model.lines), tuple(_skinny(line) for line in model.constraints))
    named = {name_of(line) for line in (*model.lines, *users)}
    least = [name for name in LEAST if name not in named and not (name == "mlflow-skinny" and "mlflow" in named)]
    return requirements.merged(model, least, users)


def _skinny(line: str) -> str:
    if name_of(line) != "mlflow":
        return line
    from packaging.requirements import Requirement

    return f"mlflow-skinny{Requirement(line).specifier}"


def _pack(packages: Path, target: Path, version: str) -> None:
    """Everything below `packages` and the few files that make it an environment; no times, no owners, sorted."""
    site = f"lib/python{version}/site-packages"
    entries: dict[str, bytes | Path] = {
        "bin/activate": ACTIVATE.encode(),
        "bin/python3": b'#!/bin/sh\nexec /usr/bin/python3 "$@"\n',
        "pyvenv.cfg": CONFIGURATION.encode(),
        f"{site}/airflow_triton_bytecode.pth": BYTECODE.encode(),
        **{f"{site}/{path.relative_to(packages).as_posix()}": path for path in _files(packages)},
    }
    draft = target.with_suffix(".part")
    with (
        draft.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, content in sorted(entries.items()):
            _add(tar, name, content)
    draft.replace(target)


def _files(packages: Path) -> Iterator[Path]:
    for path in packages.rglob("*"):
        parts = path.relative_to(packages).parts
        if path.is_file() and parts[0] != "bin" and "__pycache__" not in parts and path.name not in (".lock", "uv_cache.json"):
            yield path


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    data = content if isinstance(content, bytes) else content.read_bytes()
    if name.endswith(".dist-info/RECORD"):  # the scripts in bin, which are left out, say where they were installed
        data = b"".join(line for line in data.splitlines(keepends=True) if not line.startswith((b"bin/", b"../")))
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    runs = name.startswith("bin/") or (isinstance(content, Path) and content.stat().st_mode & stat.S_IXUSR)
    entry.mode = 0o755 if runs else 0o644
    tar.addfile(entry, io.BytesIO(data))
