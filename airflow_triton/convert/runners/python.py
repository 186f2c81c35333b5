"""Models of Triton's Python backend: the version's own `model.py`, which needs Triton only where it is served."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from airflow_triton.convert.base import Arrays, Run
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable


def load(folder: Path, servable: Servable) -> Run:
    """See `base.Runner.load`."""
    path = folder / servable.default_model_filename
    found = importlib.util.spec_from_file_location("airflow_triton_served_model", path)
    if found is None or found.loader is None:
        raise ConversionError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
        served = module.Served.load(folder)
    except Exception as error:
        raise ConversionError(f"{folder}: {path.name} does not load the model: {type(error).__name__}: {one_line(error)}") from error

    def run(inputs: Arrays) -> Arrays:
        (answer,) = module.respond([dict(inputs)], served)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    return run
