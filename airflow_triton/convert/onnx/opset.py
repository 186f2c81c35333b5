"""An ONNX graph in the words that the server's onnxruntime knows: opset and IR version brought down, or a very old opset raised."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton.convert.onnx.files import one_line
from airflow_triton.errors import ConversionError

if TYPE_CHECKING:
    import onnx

OLDEST = 7
"""The oldest opset that onnxruntime has all operators of (its docs/Versioning.md)."""

TRIES = 20
"""How many operators, at most, are written out as what they are made of, one after another."""


def opset_of(graph: onnx.ModelProto) -> int | None:
    """The version of ONNX's own operators; None where the graph has none of them."""
    return next((entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")), None)


def fit(graph: onnx.ModelProto, *, opset: int | None, ir_version: int | None, of: Path) -> tuple[onnx.ModelProto, str]:
    """The graph within those limits (None: no limit), and what was changed ("" if nothing was). External data stays where it is.

    ONNX's own version converter rewrites the operators; one that the older opset does not have is first written out as the
    operators that ONNX defines it by.

    Raises:
        ConversionError: an operator has no equivalent there; it is named.

    """
    had = opset_of(graph)
    told = []
    if had is not None and had < OLDEST:
        graph = _converted(graph, had, OLDEST, of)
        told.append(f"opset {had} was raised to {OLDEST}, the oldest that onnxruntime has all of")
    elif opset is not None and had is not None and had > opset:
        graph = _converted(graph, had, opset, of)
        told.append(f"opset {had} was brought down to {opset}")
    if ir_version is not None and graph.ir_version > ir_version:
        told.append(f"IR version {graph.ir_version} was brought down to {ir_version}")
        graph.ir_version = ir_version
    return graph, " and ".join(told)


def _converted(graph: onnx.ModelProto, had: int, opset: int, of: Path) -> onnx.ModelProto:
    from onnx import version_converter

    for _ in range(TRIES):
        try:
            return version_converter.convert_version(graph, opset)
        except RuntimeError as error:  # the converter's own errors
            reason = one_line(error)
        newer = re.search(r"No Previous Version of (\w+) exists", reason)
        if newer is None or not _write_out(graph, newer[1]):
            break
    raise ConversionError(
        f"{of}: the graph has opset {had}, and what serves it reads {OLDEST} to {max(opset, OLDEST)}; ONNX cannot rewrite it with {opset}: "
        f"{reason}. Export the model with such an opset"
    )


def _write_out(graph: onnx.ModelProto, operator: str) -> bool:
    """Write an operator out as what ONNX defines it by; false where it is defined by nothing else."""
    from onnx import inliner

    before = sum(node.op_type == operator for node in graph.graph.node)
    try:
        flat = inliner.inline_selected_functions(graph, [("", operator)], inline_schema_functions=True)
    except RuntimeError:  # the inliner's own errors
        return False
    graph.CopyFrom(flat)
    return sum(node.op_type == operator for node in graph.graph.node) < before
