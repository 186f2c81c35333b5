"""A plan is built on the GPU of this worker, in a child process; what can be found out without a GPU is found out before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from airflow_triton.convert.tensorrt import child, graph, timing_cache
from airflow_triton.convert.tensorrt.build_log import LOG_FILE, followed
from airflow_triton.convert.tensorrt.plan import Order, Plan
from airflow_triton.convert.tensorrt.profiles import check_types, profiles
from airflow_triton.errors import ConversionError
from airflow_triton.isolate import ChildProcess, run_in_child
from airflow_triton.model_config import DEFAULT_MAX_BATCH_SIZE
from airflow_triton.servable import Servable
from airflow_triton.spec.tensorrt import TensorRT

DEFAULTS = TensorRT()
AN_HOUR = ChildProcess(timeout=3600.0)


def check(servable: Servable, options: TensorRT, *, max_batch_size: int = DEFAULT_MAX_BATCH_SIZE) -> Order:
    """What the builder will be told, found out without a GPU: ask this before a task waits for a GPU worker.

    Raises:
        ConversionError: the model is no ONNX model, has an element type that TensorRT lacks, or a profile is missing or does not fit.

    """
    if servable.backend != "onnxruntime":
        raise ConversionError(f"a TensorRT plan is built of an ONNX model, and this is one for Triton's backend {servable.backend}")
    check_types((*servable.inputs, *servable.outputs))
    return Order(
        precision=options.precision,
        profiles=profiles(servable, options.profiles, max_batch_size=max_batch_size),
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
    )


def build_plan(
    onnx_folder: Path,
    servable: Servable,
    into: Path,
    *,
    options: TensorRT = DEFAULTS,
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
    calibration: Path | None = None,
    child_process: ChildProcess = AN_HOUR,
    tell: Callable[[str], None] | None = None,
) -> Plan:
    """Build the plan of an ONNX model for the GPU of this worker, in a child process.

    Guarantee: `into` holds `model.plan`, its record `plan.json` and TensorRT's log `build.log` afterwards; on any error nothing but the
    log. `onnx_folder` stays as it is. The plan was loaded, and its inputs and outputs are the engine's own; that it answers as the
    model does is for `compare_plan` to say.

    Cost: minutes, all of the GPU; memory of several times the model's weights.

    Args:
        onnx_folder: a version folder that `to: onnx` made.
        servable: its description.
        into: the folder to write; it is created, and must be empty or absent.
        options: the spec's section.
        max_batch_size: the rows that Triton may put into one execution. Default 64, as in a generated config.
        calibration: the calibration data, if `options.calibration` is not a path on this worker.
        child_process: its limits of time and memory. Default: an hour. Its Python is that of `options.environment`.
        tell: called with each line of progress, each warning and each error, while it builds.

    Raises:
        ConversionError: there is no TensorRT or no GPU here (at once, naming what is missing), the graph or a profile is refused,
            or the child crashed or ran out of time or memory.

    """
    order = check(servable, options, max_batch_size=max_batch_size)
    graph.path_of(onnx_folder, servable)
    data = _calibration(options, calibration)
    if into.exists() and any(into.iterdir()):
        raise ConversionError(f"{into} is not empty; a plan is built in a folder of its own")
    into.mkdir(parents=True, exist_ok=True)
    try:
        with followed(into / LOG_FILE, tell):
            told = run_in_child(
                "airflow_triton.convert.tensorrt.child:build",
                {
                    "onnx_folder": str(onnx_folder),
                    "servable": servable.model_dump(mode="json"),
                    "into": str(into),
                    "order": order.model_dump(mode="json"),
                    "calibration": None if data is None else str(data),
                    "cache": _cache(options),
                },
                child=in_environment(options, child_process),
                what=f"building a TensorRT plan of {onnx_folder}",
            )
    except BaseException:
        child.clear(into)
        raise
    return Plan.model_validate(told)


def tools_here(options: TensorRT) -> dict[str, str]:
    """What takes part in building a plan on this worker: versions, the GPU and its compute capability. Takes a second.

    Raises:
        ConversionError: TensorRT, CUDA's bindings or a GPU is missing; the message names all that is.

    """
    child_process = in_environment(options, ChildProcess(timeout=60.0))
    found = run_in_child("airflow_triton.convert.tensorrt.child:tools", {}, child=child_process, what="looking for TensorRT and a GPU")
    return {str(name): str(value) for name, value in cast("dict[str, str]", found).items()}


def in_environment(options: TensorRT, child_process: ChildProcess) -> ChildProcess:
    """The child process, by the Python that the spec names."""
    return child_process if options.environment == "worker" else replace(child_process, python=Path(options.environment))


def _calibration(options: TensorRT, given: Path | None) -> Path | None:
    path = given or (Path(options.calibration) if options.calibration else None)
    if path is not None and not path.is_file():
        raise ConversionError(f"convert.tensorrt.calibration: {path} is not there")
    return path


def _cache(options: TensorRT) -> str | None:
    if options.timing_cache is False:
        return None
    return options.timing_cache or str(timing_cache.default_folder())
