"""`builder: triton`: the ONNX model is served, and Triton's onnxruntime backend lets TensorRT run what it can of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_triton.convert.tensorrt.profiles import Shapes, profiles
from airflow_triton.servable import Servable
from airflow_triton.spec.tensorrt import TensorRT

MIB = 2**20


def config(servable: Servable, options: TensorRT) -> dict[str, Any]:
    """What goes into the config.pbtxt, as `model_config.build` takes it in `overrides`.

    The names are those of Triton's onnxruntime backend (its README, "ONNX Runtime with TensorRT optimization"). An instance on a CPU
    ignores all of it. Engines are built when the model is loaded, and for every shape that is new, unless the spec gives profiles;
    `engine_cache` keeps them on the server.

    Raises:
        ConversionError: a profile does not fit its input, or another input that varies has none.

    """
    parameters = {"precision_mode": options.precision.upper()}
    if options.workspace_mib is not None:
        parameters["max_workspace_size_bytes"] = str(options.workspace_mib * MIB)
    if options.optimization_level is not None:
        parameters["trt_builder_optimization_level"] = str(options.optimization_level)
    if options.engine_cache is not None:
        parameters |= {"trt_engine_cache_enable": "true", "trt_engine_cache_path": options.engine_cache}
    if options.profiles:
        parameters |= _shapes(profiles(servable, options.profiles, max_batch_size=0))
    accelerator = {"name": "tensorrt", "parameters": parameters}
    return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}}


def _shapes(found: Mapping[str, Shapes]) -> dict[str, str]:
    """The profile in onnxruntime's writing: `input:1x3x224x224,other:1x8`."""
    return {
        f"trt_profile_{kind}_shapes": ",".join(f"{name}:{'x'.join(map(str, getattr(shapes, kind)))}" for name, shapes in found.items())
        for kind in ("min", "opt", "max")
    }
