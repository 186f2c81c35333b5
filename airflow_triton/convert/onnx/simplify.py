"""An ONNX graph made simpler: constants folded, what is there twice or unused removed. Only on request, for it rewrites the graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.repository import external_data

if TYPE_CHECKING:
    import onnx

LARGEST = 2**31
"""Bytes that one protobuf message can have: the simplifier works on the whole model in memory."""


def write(path: Path, into: VersionFolder) -> tuple[onnx.ModelProto, str]:
    """Write the simplified graph of a file as `model.onnx`, weights inside; answer it, and what was done.

    Raises:
        ConversionError: the model is too large for it, or the simplifier fails or is not installed.

    """
    import onnx

    graph = onnx_files.read(path)
    size = path.stat().st_size + sum((path.parent / name).stat().st_size for name in set(external_data.locations(graph)))
    if size >= LARGEST:
        raise ConversionError(f"{path}: {size / 2**30:.1f} GiB cannot be simplified, only less than 2 GiB; leave `convert.simplify` out")
    try:
        import onnxslim

        slim = onnxslim.slim(onnx.load(str(path)))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {onnx_files.one_line(error)}"
        raise ConversionError(f"{path}: onnxslim cannot simplify the graph: {reason}; leave `convert.simplify` out") from error
    into.write(onnx_files.MODEL_FILE, slim.SerializeToString(deterministic=True))
    return slim, f"onnxslim made {len(slim.graph.node)} nodes of {len(graph.graph.node)}"
