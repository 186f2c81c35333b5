"""TorchScript files, by PyTorch on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow_triton.convert.base import Run
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.torch.module import Named, arguments
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable


def load(folder: Path, servable: Servable) -> Run:
    """See `base.Runner.load`."""
    path = folder / (servable.entry or servable.default_model_filename)
    return run_file(path, [spec.name for spec in servable.inputs], [spec.name for spec in servable.outputs]).run


def run_file(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Named:
    """The file, asked as Triton's pytorch backend asks it: inputs go to the arguments of their names, else all in order; outputs in order.

    Raises:
        ConversionError: PyTorch cannot load it.

    """
    import torch

    try:
        module: Any = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # torch raises RuntimeError, ValueError and others
        raise ConversionError(f"{path} cannot be loaded by PyTorch: {one_line(error)}") from error
    known = [argument.name for argument in arguments(module)]
    named = set(inputs) <= set(known)
    order = sorted(range(len(inputs)), key=lambda index: known.index(inputs[index])) if named else range(len(inputs))
    return Named(module, lambda values: module(*(values[index] for index in order)), tuple(inputs), tuple(outputs))
