"""The precision of a plan goes into its ONNX graph: TensorRT 11, and 10 as it is used here, keeps what the graph says (strong typing).

fp16 and bf16 by ModelOpt's AutoCast, int8 and fp8 by its quantization with calibration data. Both work on a CPU. Inputs and outputs keep
their element types.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_triton import tensors
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.tensorrt import graph as graphs
from airflow_triton.errors import ConversionError, ValidationDataError
from airflow_triton.servable import TensorSpec
from airflow_triton.spec.tensorrt import QUANTIZED, Precision

if TYPE_CHECKING:
    import numpy as np
    import onnx

GRAPH_FILE = "graph.onnx"

_ONNX_TYPES = {"fp16": 10, "bf16": 16}
"""onnx.TensorProto.DataType of what AutoCast makes."""


def prepare(path: Path, into: Path, precision: Precision, *, inputs: Iterable[TensorSpec], calibration: Path | None = None) -> Path:
    """The graph in this precision: `path` itself for fp32 and tf32, else a new one in `into`.

    Of int8 and fp8, what cannot be quantized is fp16 (ModelOpt's own default). Values that fp16 cannot hold keep a node in fp32: AutoCast
    looks for them with the calibration data, or with random inputs.

    Args:
        path: the graph; it and its folder stay as they are.
        into: a folder.
        precision: what is wanted.
        inputs: what the graph takes.
        calibration: an .npz with one array for each input.

    Raises:
        ConversionError: ModelOpt is not installed or refuses the graph, nothing in it could be made of that precision, or the
            calibration data does not fit.

    """
    if precision in ("fp32", "tf32"):
        return path
    data = None if calibration is None else _calibration(calibration, inputs)
    with tempfile.TemporaryDirectory(dir=into, prefix="modelopt-") as scratch:
        source = graphs.copy(path, Path(scratch))  # ModelOpt writes beside what it reads
        target = into / GRAPH_FILE
        try:
            if precision in QUANTIZED:
                _quantize(source, target, precision, data)
            else:
                _cast(source, target, precision, calibration)
        except ModuleNotFoundError as error:
            raise ConversionError(
                f"precision {precision} needs NVIDIA's ModelOpt ({error.name!r} is missing): pip install "
                "'airflow-provider-triton[tensorrt]' into an environment of its own, and name its Python in `convert.tensorrt.environment`"
            ) from error
        except ConversionError:
            raise
        except Exception as error:
            raise ConversionError(f"{path}: ModelOpt could not make the graph {precision}: {onnx_files.one_line(error)}") from error
    if not _changed(onnx_files.read(target), precision):
        raise ConversionError(
            f"{path}: ModelOpt found nothing in the graph that it could make {precision}, so the plan would be fp32 under another name; "
            "choose another precision"
        )
    return target


def _cast(source: Path, target: Path, precision: str, calibration: Path | None) -> None:
    from modelopt.onnx.autocast import convert_to_mixed_precision

    made = convert_to_mixed_precision(
        onnx_path=str(source),
        low_precision_type=precision,
        keep_io_types=True,
        calibration_data=None if calibration is None else str(calibration),
    )
    _save(made, target, external=graphs.size(source) > graphs.EXTERNAL_BYTES)


def _save(made: onnx.ModelProto, target: Path, *, external: bool) -> None:
    import onnx

    onnx.save(made, str(target), save_as_external_data=external, location=f"{target.name}.data")


def _quantize(source: Path, target: Path, precision: str, data: dict[str, np.ndarray[Any, Any]] | None) -> None:
    from modelopt.onnx.quantization import quantize

    assert data is not None, "the spec asks for it"
    quantize(
        str(source),
        quantize_mode=precision,
        calibration_data=data,
        calibration_eps=["cpu"],
        high_precision_dtype="fp16",
        output_path=str(target),
        use_external_data_format=graphs.size(source) > graphs.EXTERNAL_BYTES,
    )


def _calibration(path: Path, inputs: Iterable[TensorSpec]) -> dict[str, np.ndarray[Any, Any]]:
    given = tensors.load_arrays(path)
    specs = {spec.name: spec for spec in inputs}
    if set(given) != set(specs):
        raise ConversionError(
            f"{path}: calibration data for {', '.join(sorted(given))}; one array for each input is needed: {', '.join(specs)}"
        )
    try:
        return {name: tensors.fit(given[name], spec, what=f"{path}: {name}") for name, spec in specs.items()}
    except ValidationDataError as error:
        raise ConversionError(str(error)) from error


def _changed(made: onnx.ModelProto, precision: str) -> bool:
    """Whether anything in the graph has the wanted precision."""
    if precision in QUANTIZED:
        return any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in made.graph.node)
    wanted = _ONNX_TYPES[precision]
    weights = any(tensor.data_type == wanted for tensor in made.graph.initializer)
    casts = (attribute.i for node in made.graph.node if node.op_type == "Cast" for attribute in node.attribute if attribute.name == "to")
    return weights or wanted in casts


def convert(path: str, into: str, precision: str, inputs: list[dict[str, Any]], calibration: str | None = None) -> str:
    """`prepare` for a child process (`isolate.run_in_child`); answers the path of the graph."""
    specs = [TensorSpec.model_validate(spec) for spec in inputs]
    wanted = cast("Precision", precision)
    return str(prepare(Path(path), Path(into), wanted, inputs=specs, calibration=Path(calibration) if calibration else None))


def modelopt_version() -> str | None:
    """The version of ModelOpt here; None where it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version("nvidia-modelopt")
    except importlib.metadata.PackageNotFoundError:
        return None
