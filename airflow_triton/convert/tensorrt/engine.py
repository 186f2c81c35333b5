"""An engine that was built: loaded, and asked for its inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton.convert.tensorrt.build_log import BuildLog
from airflow_triton.convert.tensorrt.profiles import DATATYPES
from airflow_triton.errors import ConversionError
from airflow_triton.servable import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt


def logger(log: BuildLog) -> trt.ILogger:
    """A logger of TensorRT's that writes into the log; what is only for TensorRT's own developers (verbose) is left out."""
    import tensorrt as trt

    kinds = {
        trt.ILogger.Severity.INTERNAL_ERROR: "error",
        trt.ILogger.Severity.ERROR: "error",
        trt.ILogger.Severity.WARNING: "warning",
        trt.ILogger.Severity.INFO: "info",
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in kinds:
                log.write(kinds[severity], msg)

    return Logger()


def load(plan: Path, to: trt.ILogger) -> trt.ICudaEngine:
    """The engine of a plan that this package built (a version-compatible one holds code that is run).

    Raises:
        ConversionError: this TensorRT, or this GPU, cannot load it.

    """
    import tensorrt as trt

    runtime = trt.Runtime(to)
    runtime.engine_host_code_allowed = True
    loaded: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan.read_bytes())
    if loaded is None:
        raise ConversionError(f"{plan} cannot be loaded by TensorRT {trt.__version__} on this GPU; its log has the reason")
    return loaded


def tensors(engine: trt.ICudaEngine) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs, with Triton's names of their element types.

    Raises:
        ConversionError: one has an element type that Triton's TensorRT backend does not serve.

    """
    import tensorrt as trt

    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in DATATYPES:
            raise ConversionError(f"the engine's tensor {name!r} is {kind}, and Triton's TensorRT backend serves {', '.join(DATATYPES)}")
        spec = TensorSpec(name=name, datatype=DATATYPES[kind], shape=sizes(engine.get_tensor_shape(name)))
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(spec)
    return tuple(inputs), tuple(outputs)


def sizes(dims: trt.Dims) -> tuple[int, ...]:
    """TensorRT's writing of a shape as a tuple; -1 for a size that varies."""
    return tuple(dims[axis] for axis in range(len(dims)))
