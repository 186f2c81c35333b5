"""The proof of a conversion: the converted files and the MLflow model are asked the same, and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_triton import tensors
from airflow_triton.convert import base, examples
from airflow_triton.convert.base import Arrays
from airflow_triton.convert.cases import Case, cases
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.errors import ConversionError, DeployError, RejectedError
from airflow_triton.servable import Servable
from airflow_triton.validation.agreement import Agreement, Comparison


def prove(
    model: MlflowModel, folder: Path, servable: Servable, example: Any, *, largest: int, rtol: float, atol: float
) -> Agreement | None:
    """Run the files of `folder` and the MLflow model on the same requests, and say how far they agree.

    The requests are the model's input example, rows like it (or made-up ones), a batch of one row, one of `largest` rows, empty strings,
    and missing values (of models of tables, and where the example has some). The example must be answered by both. Any other request
    counts only if the original answers it, and of one with NaN those rows in which it gives finite numbers: a model that passes NaN on
    does not take it.

    None: a ready Triton model, which has no original.

    Raises:
        ConversionError: the original does not answer its own example, or nothing that can be made up.
        RejectedError: the files do not load, or do not answer what the original answers.

    """
    if servable.flavor == base.TRITON:
        return None
    tabular = getattr(base.original_of(servable), "TABULAR", False)
    own = _in_its_precision(servable) if tabular else servable
    given = own_example(model, own, example) or examples.for_probing(example, own, model.columns)
    ask = _original(model, servable)
    run = _converted(model, folder, servable)
    comparison = Comparison(rtol=rtol, atol=atol)
    for case in cases(own, given, largest=largest, missing=tabular or _has_gaps(given)):
        expected = _expected(ask, case, model, comparison)
        if expected is not None:
            _compare(comparison, case, _got(run, case, model, servable), expected, batching=servable.batching)
    found = comparison.agreement
    if not found.runs:
        raise ConversionError(
            f"{model.folder}: the converted model could not be held against the MLflow model: {found.summary}. Log the model with an "
            "input example that it can answer"
        )
    return found


def own_example(model: MlflowModel, servable: Servable, example: Any) -> Arrays | None:
    """The example as the servable takes it, where its converter has a way of its own (`base.Converter`); else None."""
    way = getattr(base.original_of(servable), "example_inputs", None)
    return way(model, servable, example) if way else None


def _in_its_precision(servable: Servable) -> Servable:
    """The servable with the inputs that the original itself takes."""
    wider = [spec.model_copy(update={"datatype": "FP64"}) if spec.datatype == "FP32" else spec for spec in servable.inputs]
    return servable.model_copy(update={"inputs": tuple(wider)})


def _has_gaps(example: Arrays | None) -> bool:
    import numpy as np

    return any(array.dtype.kind == "f" and bool(np.isnan(array).any()) for array in (example or {}).values())


def _original(model: MlflowModel, servable: Servable) -> base.Run:
    original = base.original_of(servable).original(model, servable)

    def ask(inputs: Arrays) -> Arrays:
        answers = original(inputs)
        return {spec.name: tensors.fit(answers[spec.name], spec, what=f"the model's own {spec.name!r}") for spec in servable.outputs}

    return ask


def _converted(model: MlflowModel, folder: Path, servable: Servable) -> base.Run:
    runner = base.runner_of(servable)
    assert runner is not None, "every converter's backend has a runner"
    try:
        return runner.load(folder, servable)
    except DeployError as error:
        raise RejectedError(f"{model.folder}: the converted model does not load: {error}") from error


def _expected(ask: Callable[[Arrays], Arrays], case: Case, model: MlflowModel, comparison: Comparison) -> Arrays | None:
    try:
        return ask(case.inputs)
    except Exception as error:  # whatever the model's code raises
        reason = f"{type(error).__name__}: {one_line(error)}"
        if case.must:
            raise ConversionError(f"{model.folder}: the MLflow model does not answer {case.name}: {reason}") from error
        comparison.leave_out(case.name, f"the MLflow model does not take it ({reason})")
        return None


def _got(run: base.Run, case: Case, model: MlflowModel, servable: Servable) -> Arrays:
    kinds = {spec.name: spec.datatype for spec in servable.inputs}
    try:
        return run({name: tensors.cast(array, kinds[name]) for name, array in case.inputs.items()})
    except Exception as error:
        raise RejectedError(
            f"{model.folder}: the converted model does not answer {case.name}, which the MLflow model does: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error


def _compare(comparison: Comparison, case: Case, got: Arrays, expected: Arrays, *, batching: bool) -> None:
    import numpy as np

    finite = [np.isfinite(array) for array in expected.values() if array.dtype.kind == "f"]
    if not case.finite or all(array.all() for array in finite):
        comparison.add(case.name, got, expected)
        return
    rows = np.logical_and.reduce([array.reshape(len(array), -1).all(axis=1) for array in finite]) if batching else np.zeros(1, bool)
    if rows.any():
        comparison.add(case.name, *({name: array[rows] for name, array in arrays.items()} for arrays in (got, expected)))
    else:
        comparison.leave_out(case.name, "the MLflow model passes it on")
