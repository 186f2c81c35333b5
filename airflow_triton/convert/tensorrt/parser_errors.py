"""What TensorRT's ONNX parser says against a graph, in one message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from airflow_triton.convert.onnx.files import one_line

SHOWN = 5
"""How many failures a message has; the log has all."""


class ParserFailure(NamedTuple):
    """One failure: the node's index, name and operator, and the parser's own words."""

    node: int
    name: str
    operator: str
    reason: str

    @classmethod
    def of(cls, error: Any) -> ParserFailure:
        """From TensorRT's `ParserError`."""
        return cls(error.node(), error.node_name(), error.node_operator(), error.desc())

    def __str__(self) -> str:
        where = f"node {self.node}" + (f" {self.name!r}" if self.name else "") + (f" ({self.operator})" if self.operator else "")
        return f"{where if self.node >= 0 else 'the graph'}: {one_line(ValueError(self.reason))}"


def told(graph: Path, failures: Sequence[ParserFailure], logged: str) -> str:
    """The message of a ConversionError."""
    what = "; ".join(map(str, failures[:SHOWN])) or logged or "it gives no reason"
    more = f"; and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
    return (
        f"{graph}: TensorRT cannot parse the graph: {what}{more}. Export the model without these operators, or use `to: onnx`, which "
        "Triton's onnxruntime backend serves"
    )
