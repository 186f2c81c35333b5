"""The server's backend directory: its own Python backend, and our stand-ins for the compiled ONNX, TorchScript and TensorFlow backends."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "backends"
STAND_INS = ("onnxruntime", "pytorch", "tensorflow")


def backend_directory(home: Path, site_packages: Path) -> Path:
    """The folder to pass as `--backend-directory`, made if it is not there yet.

    Its name holds a digest of the stand-ins, so a newer version of them gets a folder of its own and a server that runs keeps
    the files that it started with.
    """
    folder = home / f"backends-{_digest()}"
    if folder.is_dir():
        return folder
    draft = Path(tempfile.mkdtemp(prefix="backends-draft-", dir=home))
    try:
        _fill(draft, site_packages)
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _fill(draft: Path, site_packages: Path) -> None:
    server = site_packages / "pytriton" / "tritonserver"
    shutil.copytree(server / "backends" / "python", draft / "python")
    version = site_packages.parent.name.removeprefix("python")
    shutil.copy2(server / "python_backend_stubs" / version / "triton_python_backend_stub", draft / "python")
    for name in STAND_INS:
        (draft / name).mkdir()
        for source in _files(name):
            shutil.copyfile(source, draft / name / source.name)


def _files(name: str) -> list[Path]:
    return sorted([*(SOURCES / name).glob("*.py"), *(SOURCES / "shared").glob("*.py")])


def _digest() -> str:
    content = hashlib.sha256()
    for name in STAND_INS:
        for source in _files(name):
            content.update(f"{name}{os.sep}{source.name}\n".encode())
            content.update(source.read_bytes())
    return content.hexdigest()[:12]
