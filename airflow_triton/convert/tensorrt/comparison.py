"""The proof of a plan: it and the ONNX model that it was built of are asked the same, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_triton import tensors
from airflow_triton.convert.base import Arrays, Run
from airflow_triton.convert.cases import cases
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.runners import onnxruntime, tensorrt
from airflow_triton.convert.tensorrt.building import AN_HOUR, DEFAULTS, in_environment
from airflow_triton.errors import DeployError, RejectedError
from airflow_triton.isolate import ChildProcess, run_in_child
from airflow_triton.model_config import DEFAULT_MAX_BATCH_SIZE
from airflow_triton.servable import Servable
from airflow_triton.spec import Parity
from airflow_triton.spec.tensorrt import TensorRT
from airflow_triton.validation.agreement import Agreement, Comparison

TOLERANCE = Parity()


def compare_plan(
    onnx_folder: Path,
    servable: Servable,
    folder: Path,
    planned: Servable,
    *,
    example: Path | None = None,
    options: TensorRT = DEFAULTS,
    largest: int = DEFAULT_MAX_BATCH_SIZE,
    tolerance: Parity = TOLERANCE,
    child_process: ChildProcess = AN_HOUR,
) -> Agreement:
    """Ask the plan on this worker's GPU and the ONNX model on its CPU the same, and say how far they agree.

    The ONNX model was compared with the MLflow model when it was made; so nothing of the model's own libraries is needed here.

    Args:
        onnx_folder: the version folder that the plan was built of.
        servable: its description.
        folder: a version folder with a plan for this GPU (`combined`).
        planned: its description.
        example: an .npz with one array for each input; else rows are made up.
        options: the spec's section, for its `environment`.
        largest: the rows of the largest batch.
        tolerance: how far the answers may be apart.
        child_process: its limits of time and memory.

    Raises:
        RejectedError: the plan does not answer as the ONNX model does; `report` is the `Agreement`.
        ConversionError: there is no TensorRT or no GPU here, or the plan does not load.

    """
    told = run_in_child(
        "airflow_triton.convert.tensorrt.comparison:compare",
        {
            "onnx_folder": str(onnx_folder),
            "servable": servable.model_dump(mode="json"),
            "folder": str(folder),
            "planned": planned.model_dump(mode="json"),
            "example": None if example is None else str(example),
            "largest": largest,
            "rtol": tolerance.rtol,
            "atol": tolerance.atol,
        },
        child=in_environment(options, child_process),
        what=f"comparing the TensorRT plan in {folder} with the ONNX model",
    )
    found = Agreement.model_validate(told)
    if not found.passed:
        raise RejectedError(f"{folder}: the TensorRT plan does not answer as the ONNX model does: {found.summary}", report=found)
    return found


def compared(ask: Run, run: Run, servable: Servable, example: Arrays | None, *, largest: int, rtol: float, atol: float) -> Agreement:
    """How far two ways to run a servable agree on the requests of `convert.cases`; missing values are left out.

    A request that `ask` does not answer does not count. (Rows of NaN say nothing here: how a NaN goes through a plan of another
    precision is not defined.)

    Raises:
        RejectedError: `run` does not answer what `ask` answers.

    """
    comparison = Comparison(rtol=rtol, atol=atol)
    for case in cases(servable, example, largest=largest, missing=False):
        try:
            expected = ask(case.inputs)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            comparison.leave_out(case.name, f"the ONNX model does not take it ({one_line(error)})")
            continue
        try:
            got = run(case.inputs)
        except DeployError as error:
            raise RejectedError(f"the plan does not answer {case.name}, which the ONNX model does: {error}") from error
        comparison.add(case.name, got, expected)
    return comparison.agreement


def compare(
    *,
    onnx_folder: str,
    servable: dict[str, Any],
    folder: str,
    planned: dict[str, Any],
    example: str | None,
    largest: int,
    rtol: float,
    atol: float,
) -> dict[str, Any]:
    """See `airflow_triton.convert.tensorrt.compare_plan`; for a child process on a GPU worker."""
    given = tensors.load_arrays(Path(example)) if example else None
    onnx, plan = Servable.model_validate(servable), Servable.model_validate(planned)
    run = tensorrt.load(Path(folder), plan)
    ask = onnxruntime.load(Path(onnx_folder), onnx)
    return compared(ask, run, onnx, given, largest=largest, rtol=rtol, atol=atol).model_dump(mode="json", exclude={"passed"})
