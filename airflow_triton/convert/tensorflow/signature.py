"""The signature of a SavedModel: what it takes and gives by name, and a function that asks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_triton.convert.base import Arrays, Run
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.errors import ConversionError
from airflow_triton.servable import DataType, TensorSpec

DEFAULT = "serving_default"
"""The signature that Triton serves where its config does not name another one."""

TYPES: dict[str, DataType] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
"""TensorFlow's names of the element types that Triton's tensorflow backend serves (its ConvertDataType)."""


@dataclass(frozen=True)
class Signature:
    """One signature of a loaded SavedModel. `shapeless` names the tensors whose number of axes it does not declare (their shape is ())."""

    key: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shapeless: frozenset[str]
    run: Run


def open_signature(path: Path, *, of: Path, key: str | None = None) -> Signature:
    """Load a SavedModel and its signature: `key`, else `serving_default`, else the only one that it has.

    The graph is asked as it is written: TensorFlow's fused kernels make a number of a NaN that passes a ReLU, as no other
    runtime does, so they are turned off for this process.

    Raises:
        ConversionError: TensorFlow cannot load it, it has no such signature, or one that Triton cannot serve; naming `of`.

    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"remapping": False})
    try:
        loaded = tf.saved_model.load(str(path))
        signatures = dict(loaded.signatures)
    except Exception as error:
        raise ConversionError(f"{of}: TensorFlow cannot load the SavedModel: {type(error).__name__}: {one_line(error)}") from error
    chosen = key or _choose(signatures, of)
    function = signatures[chosen]
    taken, given = function.structured_input_signature[1], function.structured_outputs
    if not taken:
        raise ConversionError(f"{of}: the signature {chosen} takes no input, and Triton serves only models that do")
    return Signature(
        key=chosen,
        inputs=tuple(_spec(name, tensor, of) for name, tensor in taken.items()),
        outputs=tuple(_spec(name, tensor, of) for name, tensor in given.items()),
        shapeless=frozenset(name for name, tensor in (*given.items(), *taken.items()) if tensor.shape.rank is None),
        run=_asking(loaded, function),
    )


def _asking(loaded: Any, function: Any) -> Run:
    import tensorflow as tf

    def run(inputs: Arrays) -> Arrays:
        assert loaded is not None  # its variables live only as long as it does
        given = function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in given.items()}

    return run


def _choose(signatures: Mapping[str, Any], of: Path) -> str:
    if DEFAULT in signatures:
        return DEFAULT
    if len(signatures) == 1:
        return next(iter(signatures))
    had = f"only {', '.join(sorted(signatures))}" if signatures else "none at all"
    raise ConversionError(
        f"{of}: the SavedModel has no signature {DEFAULT}, which Triton serves, but {had}. Give the function that is to be served an "
        "input_signature (@tf.function(input_signature=[tf.TensorSpec(...)])), and log the model with "
        "saved_model_kwargs={'signatures': model.that_function}"
    )


def _spec(name: str, tensor: Any, of: Path) -> TensorSpec:
    kind = tensor.dtype.name
    if kind not in TYPES:
        raise ConversionError(f"{of}: {name!r} is {kind}, and Triton serves {', '.join(TYPES)}: cast it in the model (tf.cast)")
    sizes = () if tensor.shape.rank is None else tensor.shape.as_list()
    return TensorSpec(name=name, datatype=TYPES[kind], shape=tuple(-1 if size is None else size for size in sizes))
