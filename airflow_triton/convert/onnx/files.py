"""ONNX files: read, checked, copied with their external data, and their declared shapes corrected.

The weights of a file with external data are never read here: only the graph is, and the data files are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton.errors import ConversionError
from airflow_triton.repository import external_data
from airflow_triton.servable import TensorSpec

if TYPE_CHECKING:
    import onnx

    from airflow_triton.convert.version_folder import VersionFolder

MODEL_FILE = "model.onnx"
"""The file that Triton's onnxruntime backend opens in a version directory, or the folder of that name around it."""


def one_line(error: BaseException) -> str:
    """A library's own reason, on one line of readable length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else f"{text[:500]} ..."  # noqa: PLR2004 - about five lines of a terminal


def read(path: Path) -> onnx.ModelProto:
    """The graph of the file, without its external data.

    Raises:
        ConversionError: the file is no ONNX model.

    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ConversionError(f"{path} is no ONNX model: {one_line(error)}") from error


def check(path: Path, *, of: Path) -> None:
    """Run ONNX's own checker over a converted file and its external data; `of` is the original that the error names.

    The checker refuses data files with more than one hard link, so it is asked about our own copies only.

    Raises:
        ConversionError: with the checker's reason.

    """
    import onnx.checker

    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ConversionError(f"{of} is no valid ONNX model: {one_line(error)}") from error


def copy(path: Path, into: VersionFolder, graph: onnx.ModelProto) -> str:
    """Copy the file into a version directory, and return the copy's path in it.

    A single file becomes `model.onnx`; one with external data becomes the folder `model.onnx/` with `model.onnx` and the data
    files under the names that the graph gives them.

    Raises:
        ConversionError: a data file is missing, or outside the model's folder.

    """
    locations = sorted(set(external_data.locations(graph)))
    target = f"{MODEL_FILE}/{MODEL_FILE}" if locations else MODEL_FILE
    home = path.parent.resolve()
    for location in locations:
        source = (home / location).resolve()
        if not source.is_relative_to(home) or not source.is_file():
            raise ConversionError(f"{path}: its external data {location!r} is not a file in the model's folder; log the model again")
        into.copy(source, f"{MODEL_FILE}/{location}")
    into.copy(path, target)
    return target


def shapeless(graph: onnx.ModelProto) -> frozenset[str]:
    """The inputs and outputs whose declarations have no shape at all (which is not the shape of a scalar)."""
    declared = (*graph.graph.input, *graph.graph.output)
    return frozenset(entry.name for entry in declared if not entry.type.tensor_type.HasField("shape"))


def declare(graph: onnx.ModelProto, specs: Sequence[TensorSpec]) -> bool:
    """Make the graph declare these inputs' and outputs' shapes; true if anything changed. Names of axes that stay are kept."""
    wanted = {spec.name: spec.shape for spec in specs}
    changed = False
    for entry in (*graph.graph.input, *graph.graph.output):
        shape = wanted.get(entry.name)
        if shape is None:
            continue
        kind = entry.type.tensor_type
        declared = [axis.dim_value if axis.dim_value > 0 else -1 for axis in kind.shape.dim]
        if kind.HasField("shape") and declared == list(shape):
            continue
        names = [axis.dim_param for axis in kind.shape.dim] if len(declared) == len(shape) else [""] * len(shape)
        kind.shape.Clear()
        kind.shape.SetInParent()
        for size, name in zip(shape, names, strict=True):
            axis = kind.shape.dim.add()
            if size != -1:
                axis.dim_value = size
            elif name:
                axis.dim_param = name
        changed = True
    return changed
