"""An MLflow model of a supported flavor becomes what Triton serves; each call works in a child process of its own.

Nothing heavy is imported here: MLflow, ONNX and the model itself are loaded in the child.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

from airflow_triton.convert import base, mlmodel
from airflow_triton.convert.base import Conversion, Form, Options
from airflow_triton.errors import ConversionError, RejectedError
from airflow_triton.isolate import HERE, ChildProcess, run_in_child
from airflow_triton.model_config import DEFAULT_MAX_BATCH_SIZE
from airflow_triton.servable import Servable
from airflow_triton.spec import Parity
from airflow_triton.versions import installed

__all__ = [
    "NO_ORIGINAL",
    "SUPPORTED_FLAVORS",
    "Conversion",
    "Form",
    "Options",
    "convert",
    "forms_of",
    "has_original",
    "input_example",
    "is_costly",
    "reference",
    "signature_columns",
    "tools",
]

SUPPORTED_FLAVORS: tuple[str, ...] = tuple(dict.fromkeys(route.flavor for route in base.ROUTES))
"""The flavors that can be converted; of a model with several, the first in this order is used."""

NO_ORIGINAL = base.NO_ORIGINAL
"""What to tell the user who wants a model without an original compared with it."""

TO_ONNX = Options()
EXACT = Parity()

forms_of = base.forms_of


def has_original(flavors: Collection[str]) -> bool:
    """Whether a model of these flavors can answer outside of Triton, so that `reference` has something to ask.

    A ready Triton model (the flavor `triton`) cannot: it needs `validate.parity: false`, and other checks.
    """
    return base.TRITON not in flavors


def is_costly(flavors: Collection[str], form: Form) -> bool:
    """Whether a conversion to this form is worth keeping: a ready Triton model is only copied."""
    return base.TRITON not in flavors and form in forms_of(flavors)


def tools(flavors: Collection[str], form: Form, python: Path | None = None) -> dict[str, str]:
    """The versions of all that takes part in a conversion, this package and Python among them, as `python` (default: this one) has them."""
    names = sorted({name for route in base.ROUTES if route.flavor in flavors and route.form == form for name in route.tools})
    if python is None:
        return installed(names)
    told = run_in_child("airflow_triton.versions:installed", {"names": names}, child=ChildProcess(python, timeout=60), what=str(python))
    return {str(name): str(version) for name, version in cast("dict[str, str]", told).items()}


def convert(
    model_dir: Path,
    into: Path,
    options: Options = TO_ONNX,
    *,
    shared: bool = True,
    largest: int = DEFAULT_MAX_BATCH_SIZE,
    tolerance: Parity = EXACT,
    child: ChildProcess = HERE,
) -> Conversion:
    """Make the files of one Triton version directory of an MLflow model; answer what they are, and the digest of each.

    Guarantee: what is answered agrees with the MLflow model. Both were asked the same (`convert.prove`): the model's input example, rows
    like it, a batch of one and of `largest` rows, empty strings, and missing values where the model takes them. The
    inputs, outputs and batching of the result were observed by running the files where that was possible, and are what Triton's
    backend compares with the file when it loads it. A ready Triton model (the flavor `triton`) has no original to be compared
    with; it is taken as it is, its inputs and outputs are those of its own config.pbtxt, and its files may be hard
    links to those of `model_dir`, so do not change them in place afterwards. On any error `into` is as it was.

    Cost: a child process that imports MLflow and the model's library (seconds), up to about ten runs of the model on two or three
    rows, and one run of both models for each request of the comparison.

    Args:
        model_dir: a downloaded MLflow model (`MLmodel` and its files).
        into: the folder to write; it is created, and must be empty or absent.
        options: the form that is wanted, and how it is made.
        shared: whether Triton will open these very files, perhaps as another user. Default True.
        largest: the rows of the largest batch that is compared. Default 64.
        tolerance: how far the answers may be apart. Default 1e-5 + 1e-4 times the expected value.
        child: which Python converts and asks the model, and its limits of time and memory.

    Raises:
        ConversionError: the flavor is not supported, the file is corrupt, the signature contradicts the model, an operator
            or output cannot be served, or the child process crashed or ran out of time or memory.
        RejectedError: the converted model does not answer as the MLflow model does; `report` is the `Agreement`, which names the
            output and the row, unless the files do not load or fail.
        RepositoryError: the files have names that not every store takes (`repository.content.check_files`).

    """
    flavor = base.route_of(mlmodel.read(model_dir), options.to).flavor
    existed = into.exists()
    if existed and any(into.iterdir()):
        raise ConversionError(f"{into} is not empty; the converter writes only into a folder of its own")
    into.mkdir(parents=True, exist_ok=True)
    try:
        told = run_in_child(
            "airflow_triton.convert.child:convert",
            {
                "model_dir": str(model_dir),
                "into": str(into),
                "options": options.model_dump(mode="json"),
                "shared": shared,
                "largest": largest,
                "rtol": tolerance.rtol,
                "atol": tolerance.atol,
            },
            child=child,
            what=f"the conversion of {model_dir} ({flavor})",
        )
        return _agreeing(Conversion.model_validate(told), model_dir)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        if existed:
            into.mkdir(exist_ok=True)
        raise


def _agreeing(made: Conversion, model_dir: Path) -> Conversion:
    if made.agreement is None or made.agreement.passed:
        return made
    reason = f"{model_dir}: the converted model does not answer as the MLflow model does: {made.agreement.summary}"
    raise RejectedError(reason, report=made.agreement)


def reference(model_dir: Path, servable: Servable, inputs: Sequence[Path], outputs: Sequence[Path], *, child: ChildProcess = HERE) -> None:
    """Write the MLflow model's OWN answers to the inputs: what a converted model is compared with.

    sklearn: `predict` gives the output `label` (or a regressor's `variable`), `predict_proba` gives `probabilities`; where a
    model lacks it, `decision_function`; `transform` gives a clusterer's `scores`. onnx: onnxruntime on the original file.
    triton: nothing, for there is no original (`has_original`).

    Args:
        model_dir: the downloaded MLflow model.
        servable: what `convert` made of it.
        inputs: files, each an .npz with one array per input of the servable, full shapes, batch axis included. The model is loaded once,
            and one file is in memory at a time.
        outputs: the .npz to write for each: one array per output of the servable, of its element type and a shape that it allows.
        child: which Python asks the model, and its limits of time and memory.

    Raises:
        ConversionError: the model could not answer.
        ValidationDataError: `inputs` does not fit the servable, or there is no original.

    """
    run_in_child(
        "airflow_triton.convert.child:reference",
        {
            "model_dir": str(model_dir),
            "servable": servable.model_dump(mode="json"),
            "inputs": [str(each) for each in inputs],
            "outputs": [str(each) for each in outputs],
        },
        child=child,
        what=f"asking the MLflow model in {model_dir}",
    )


def input_example(model_dir: Path, servable: Servable, inputs: Path, *, child: ChildProcess = HERE) -> bool:
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
        child=child,
        what=f"reading the input example of {model_dir}",
    )
    return written is True


def signature_columns(model_dir: Path) -> tuple[str, ...] | None:
    """The columns of the model's signature, in its order, for `tensors.rows_to_inputs`; None where it has none.

    Raises:
        ConversionError: there is no MLmodel file, or it cannot be understood.

    """
    return mlmodel.read(model_dir).columns
