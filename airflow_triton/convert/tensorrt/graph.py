"""The ONNX graph that a plan is built of: its files, copied and digested with the weights that lie beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.errors import ConversionError
from airflow_triton.repository import external_data
from airflow_triton.repository.manifest import FileDigest, sha256
from airflow_triton.servable import Servable

EXTERNAL_BYTES = 1 << 30
"""A graph larger than this is written with its weights in a file of their own; one file of protobuf may have 2 GiB."""


def path_of(folder: Path, servable: Servable) -> Path:
    """The graph in a version folder that `to: onnx` made.

    Raises:
        ConversionError: the servable is no ONNX model, or the file is not there.

    """
    if servable.backend != "onnxruntime":
        raise ConversionError(
            f"{folder}: a TensorRT plan is built of an ONNX model, and this is one for Triton's backend {servable.backend}"
        )
    path = folder / (servable.entry or servable.default_model_filename)
    if not path.is_file():
        raise ConversionError(f"{path} is not there; the ONNX model that the plan is to be built of is a file of that name")
    return path


def weights(path: Path) -> tuple[str, ...]:
    """The files beside the graph that hold weights."""
    return tuple(sorted(set(external_data.locations(onnx_files.read(path)))))


def digests(path: Path) -> tuple[FileDigest, ...]:
    """The graph and its weights, each with its digest; paths are relative to the graph's folder."""
    names = (path.name, *weights(path))
    return tuple(FileDigest(path=name, size=(path.parent / name).stat().st_size, sha256=sha256(path.parent / name)) for name in names)


def size(path: Path) -> int:
    """Bytes of the graph and its weights."""
    return sum((path.parent / name).stat().st_size for name in (path.name, *weights(path)))


def copy(path: Path, into: Path) -> Path:
    """Copy the graph and its weights into a folder; answer the copy of the graph."""
    for name in (path.name, *weights(path)):
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / name, target)
    return into / path.name
