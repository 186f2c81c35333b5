"""ONNX files, by onnxruntime on the CPU."""

from __future__ import annotations

from pathlib import Path

from airflow_triton.convert.base import Arrays, Run
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.servable import Servable


def load(folder: Path, servable: Servable) -> Run:
    """See `base.Runner.load`."""
    return run_file(folder / (servable.entry or servable.default_model_filename), servable)


def run_file(path: Path, servable: Servable) -> Run:
    """The file, to be asked for the servable's outputs.

    Raises:
        ConversionError: onnxruntime cannot load it.

    """
    session = inspect_onnx.open_session(path)
    names = [spec.name for spec in servable.outputs]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run
