"""An MLflow model of a supported flavor becomes what Triton serves; each call works in a child process of its own.

Nothing heavy is imported here: MLflow, ONNX and the model itself are loaded in the child.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import get_args

from airflow_triton.convert import base, mlmodel
from airflow_triton.convert.base import Conversion, Form
from airflow_triton.errors import ConversionError
from airflow_triton.isolate import run_in_child
from airflow_triton.servable import Servable

__all__ = [
    "NO_ORIGINAL",
    "SUPPORTED_FLAVORS",
    "Conversion",
    "Form",
    "convert",
    "has_original",
    "input_example",
    "reference",
    "signature_columns",
]

SUPPORTED_FLAVORS: tuple[str, ...] = tuple(base.CONVERTERS)
"""The flavors that can be converted; of a model with several, the first in this order is used."""

NO_ORIGINAL = base.NO_ORIGINAL
"""What to tell the user who wants a model without an original compared with it."""


def has_original(flavors: Collection[str]) -> bool:
    """Whether a model of these flavors can answer outside of Triton, so that `reference` has something to ask.

    A ready Triton model (the flavor `triton`) cannot: it needs `validate.parity: false`, and other checks.
    """
    return base.TRITON not in flavors


def convert(model_dir: Path, into: Path, *, to: str = "onnx", shared: bool = True, timeout: float = 600.0) -> Conversion:
    """Make the files of one Triton version directory of an MLflow model; answer what they are, and the digest of each.

    Guarantee: the inputs, outputs and batching of the result were observed by running the files where that was possible, and
    are what Triton's onnxruntime backend compares with the file when it loads it. With `to="onnx"` a graph whose declared
    shapes are missing or wrong is written with corrected declarations (weights and nodes untouched); with `to="as-is"` an
    ONNX file is copied byte for byte, and refused if its declarations are wrong. A ready Triton model (the flavor `triton`) is
    taken as it is with either, and its inputs and outputs are those of its own config.pbtxt; its files may be hard links to those
    of `model_dir`, so do not change them in place afterwards. On any error `into` is as it was.

    Cost: a child process that imports MLflow and the model's library (seconds), and up to about ten runs of the model on two
    or three rows.

    Args:
        model_dir: a downloaded MLflow model (`MLmodel` and its files).
        into: the folder to write; it is created, and must be empty or absent.
        to: "onnx" or "as-is".
        shared: whether Triton will open these very files, perhaps as another user. Default True.
        timeout: seconds for the child process. Default 600.

    Raises:
        ConversionError: the flavor is not supported, the file is corrupt, the signature contradicts the model, an operator
            or output cannot be served, or the child process crashed or ran out of time.
        RepositoryError: the files have names that not every store takes (`repository.content.check_files`).

    """
    if to not in get_args(Form):
        raise ConversionError(f"`{to}` cannot be made; valid: {', '.join(get_args(Form))}")
    flavor = base.flavor_of(mlmodel.read(model_dir))
    existed = into.exists()
    if existed and any(into.iterdir()):
        raise ConversionError(f"{into} is not empty; the converter writes only into a folder of its own")
    into.mkdir(parents=True, exist_ok=True)
    try:
        made = run_in_child(
            "airflow_triton.convert.child:convert",
            {"model_dir": str(model_dir), "into": str(into), "to": to, "shared": shared},
            timeout=timeout,
            what=f"the conversion of {model_dir} ({flavor})",
        )
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        if existed:
            into.mkdir(exist_ok=True)
        raise
    return Conversion.model_validate(made)


def reference(model_dir: Path, servable: Servable, inputs: Path, outputs: Path, *, timeout: float = 600.0) -> None:
    """Write the MLflow model's OWN answers to the inputs: what a converted model is compared with.

    sklearn: `predict` gives the output `label` (or a regressor's `variable`), `predict_proba` gives `probabilities`; where a
    model lacks it, `decision_function`; `transform` gives a clusterer's `scores`. onnx: onnxruntime on the original file.
    triton: nothing, for there is no original (`has_original`).

    Args:
        model_dir: the downloaded MLflow model.
        servable: what `convert` made of it.
        inputs: an .npz with one array per input of the servable, full shapes, batch axis included.
        outputs: the .npz to write: one array per output of the servable, of its element type and a shape that it allows.
        timeout: seconds for the child process. Default 600.

    Raises:
        ConversionError: the model could not answer.
        ValidationDataError: `inputs` does not fit the servable, or there is no original.

    """
    run_in_child(
        "airflow_triton.convert.child:reference",
        {
            "model_dir": str(model_dir),
            "servable": servable.model_dump(mode="json"),
            "inputs": str(inputs),
            "outputs": str(outputs),
        },
        timeout=timeout,
        what=f"asking the MLflow model in {model_dir}",
    )


def input_example(model_dir: Path, servable: Servable, inputs: Path, *, timeout: float = 600.0) -> bool:
    """Write the model's logged input example as the .npz that `reference` takes; false where the model has none.

    The values are cast to the servable's types; a table's columns are stacked in the signature's order where the servable
    takes one matrix.

    Raises:
        ValidationDataError: the example does not fit the model's inputs.

    """
    if not mlmodel.read(model_dir).meta.get("saved_input_example_info"):
        return False
    written = run_in_child(
        "airflow_triton.convert.child:input_example",
        {"model_dir": str(model_dir), "servable": servable.model_dump(mode="json"), "inputs": str(inputs)},
        timeout=timeout,
        what=f"reading the input example of {model_dir}",
    )
    return written is True


def signature_columns(model_dir: Path) -> tuple[str, ...] | None:
    """The columns of the model's signature, in its order, for `tensors.rows_to_inputs`; None where it has none.

    Raises:
        ConversionError: there is no MLmodel file, or it cannot be understood.

    """
    return mlmodel.read(model_dir).columns
