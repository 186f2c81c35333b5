"""SavedModels, by TensorFlow on the CPU."""

from __future__ import annotations

from pathlib import Path

from airflow_triton.convert.base import Run
from airflow_triton.convert.tensorflow.signature import open_signature
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable


def load(folder: Path, servable: Servable) -> Run:
    """See `base.Runner.load`. A GraphDef is refused: it does not say which of its nodes are asked, nor of which type they are."""
    path = folder / servable.default_model_filename
    if not path.is_dir():
        raise ConversionError(f"{path} is no SavedModel, and only a SavedModel can be run here")
    return open_signature(path, of=path, key=servable.parameters.get("TF_SIGNATURE_DEF")).run
