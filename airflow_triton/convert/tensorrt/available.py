"""Whether a plan can be built here: NVIDIA's TensorRT, CUDA's Python bindings and a GPU; and which they are."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import BaseModel, ConfigDict

from airflow_triton.errors import ConversionError

OLDEST = 10
"""The first major version of TensorRT that can be told to keep the graph's own precision (strong typing); in 11 that is the only way."""

_INSTALL = "`pip install 'airflow-provider-triton[tensorrt]'` into an environment of its own, `convert.tensorrt.environment`"
_REMEDY = (
    "Run the task on a GPU worker (`convert.tensorrt.queue`, `pod_override` or `executor`), or set `convert.tensorrt.builder: triton`, "
    "which needs no GPU here: the ONNX model is served then, and TensorRT accelerates it on the server"
)


class Machine(BaseModel):
    """What builds a plan: versions of TensorRT, of CUDA's runtime and of the driver, the GPU's name and its compute capability (8.6)."""

    model_config = ConfigDict(frozen=True)

    tensorrt: str
    cuda: str
    driver: str
    gpu: str
    compute_capability: str


def require() -> Machine:
    """What builds a plan here.

    Raises:
        ConversionError: something is missing; the message names all of it, and the way that needs no GPU.

    """
    if found := missing():
        raise ConversionError(f"a TensorRT plan cannot be built here: {'; '.join(found)}. {_REMEDY}")
    return _machine()


def missing() -> list[str]:
    """What is not here, each as a phrase for people; empty where a plan can be built."""
    found = [why for why in (_without_tensorrt(), _without_gpu()) if why]
    return [*found, *([f"what has to be installed comes with {_INSTALL}"] if any("package" in why for why in found) else [])]


def _without_tensorrt() -> str | None:
    try:
        module: Any = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:  # a library that the package needs, and the machine lacks
        return f"the Python package tensorrt is missing or does not load ({error})"
    if not hasattr(module, "Builder"):  # type stubs alone make it an empty namespace
        return "the Python package tensorrt is missing (what is installed under that name has no Builder)"
    version = str(module.__version__)
    if int(version.partition(".")[0]) < OLDEST:
        return f"the Python package tensorrt is {version}, and {OLDEST}.0 or later is needed"
    return None


def _without_gpu() -> str | None:
    try:
        runtime = cuda()
    except ImportError as error:
        return f"the Python package cuda-python is missing or does not load ({error})"
    try:
        status, count = runtime.cudaGetDeviceCount()
    except RuntimeError as failure:  # the bindings find no CUDA library
        return f"there is no NVIDIA GPU with its driver ({failure})"
    if int(status) or not count:
        return f"there is no NVIDIA GPU with its driver (CUDA says {getattr(status, 'name', status)})"
    return None


def cuda() -> Any:
    """CUDA's runtime API for Python (cuda-python 12 and 13)."""
    return importlib.import_module("cuda.bindings.runtime")


def called(result: tuple[Any, ...]) -> Any:
    """The value of a call of `cuda()`; None where it has none.

    Raises:
        ConversionError: CUDA refused.

    """
    error, *values = result
    if int(error):
        raise ConversionError(f"CUDA refused: {getattr(error, 'name', error)}")
    return values[0] if values else None


def _machine() -> Machine:
    import tensorrt as trt

    runtime = cuda()
    properties = called(runtime.cudaGetDeviceProperties(called(runtime.cudaGetDevice())))
    return Machine(
        tensorrt=str(trt.__version__),
        cuda=_version(called(runtime.cudaRuntimeGetVersion())),
        driver=_driver(),
        gpu=_text(properties.name),
        compute_capability=f"{properties.major}.{properties.minor}",
    )


def _version(number: int) -> str:
    """CUDA's own writing of a version: 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _driver() -> str:
    """The driver's release, such as 580.95.05, by NVML."""
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        return _text(nvml.nvmlSystemGetDriverVersion())
    finally:
        nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return (value.decode() if isinstance(value, bytes) else value).rstrip("\0")
