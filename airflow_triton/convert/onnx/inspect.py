"""The inputs, outputs and batching of an ONNX graph: what it declares, corrected by what it does.

Triton's onnxruntime backend compares a config with the file as onnxruntime declares it (`CompareDimsSupported`): every first
axis must vary for `max_batch_size > 0`, and the dims of outputs must be equal, -1 included. So the declarations matter as
much as the truth; `Inspection` has both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_triton.convert import examples
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.probe import FEW, MORE, Probe, Seen
from airflow_triton.errors import ConversionError
from airflow_triton.servable import DataType, Servable, TensorSpec

ONNXRUNTIME_TYPES: dict[str, DataType] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""The element types that Triton's onnxruntime backend serves (its ConvertFromOnnxDataType; bfloat16 is not among them)."""


@dataclass(frozen=True)
class Inspection:
    """The truth about a graph. `observed` is false where it could not be run, and the truth is its own declaration.

    `corrected` names the tensors whose declared shape is missing or wrong.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batching: bool
    observed: bool
    corrected: tuple[str, ...]

    def servable(
        self, *, flavor: str, converter: str, tools: Mapping[str, str], entry: str | None = None, notes: Sequence[str] = ()
    ) -> Servable:
        """What Triton's onnxruntime backend serves of the graph; `tools` are the versions of what made it."""
        return Servable(
            backend="onnxruntime",
            default_model_filename=onnx_files.MODEL_FILE,
            inputs=self.inputs,
            outputs=self.outputs,
            batching=self.batching,
            flavor=flavor,
            converter=converter,
            tools=dict(tools),
            entry=entry,
            notes=tuple(notes),
        )


def open_session(path: Path) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        ConversionError: onnxruntime cannot load the file; with its reason.

    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its warnings about wrong declarations are what we correct
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise ConversionError(f"{path} cannot be loaded by onnxruntime: {onnx_files.one_line(error)}") from error


def declared(session: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs as onnxruntime declares them (initializers are no inputs).

    Raises:
        ConversionError: one is no tensor, or of an element type that Triton does not serve; or there is no input.

    """
    inputs, outputs = (tuple(map(_spec, nodes)) for nodes in (session.get_inputs(), session.get_outputs()))
    if not inputs:
        raise ConversionError("the graph takes no input, and Triton serves only models that do")
    return inputs, outputs


def _spec(node: Any) -> TensorSpec:
    if node.type in ONNXRUNTIME_TYPES:
        shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in node.shape)
        return TensorSpec(name=node.name, datatype=ONNXRUNTIME_TYPES[node.type], shape=shape)
    remedy = (
        "convert it to one of the others in the graph (a Cast node)"
        if node.type.startswith("tensor(")
        else 'export it as a tensor (for a classifier of skl2onnx: options={"zipmap": False})'
    )
    raise ConversionError(f"{node.name!r} is a {node.type}, and Triton serves {', '.join(ONNXRUNTIME_TYPES)}: {remedy}")


def inspect(
    path: Path,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    example: Any = None,
    columns: Sequence[str] | None = None,
) -> Inspection:
    """Load the graph, run it where it runs, and say what is true of it.

    The model batches if every input and output has a varying first axis, all follow the number of rows, and rows that are run
    alone answer as they do together. A graph that runs neither on the example nor on made-up rows is taken at its word.

    Args:
        path: the file.
        input_shapes: the shapes of inputs that the graph declares without one.
        example: the model's input example as MLflow gives it, or None.
        columns: the columns of its signature, for an example that is a table.

    Raises:
        ConversionError: the graph cannot be loaded or served, or its shapes cannot be found out.

    """
    missing = onnx_files.shapeless(onnx_files.read(path))  # before onnxruntime has the weights in memory, too
    session = open_session(path)
    inputs, outputs = declared(session)
    given = input_shapes or {}
    inputs = tuple(spec.model_copy(update={"shape": given[spec.name]}) if spec.name in missing & set(given) else spec for spec in inputs)
    unknown = [spec.name for spec in inputs if spec.name in missing and spec.name not in given]
    if unknown:
        raise ConversionError(f"{path}: the inputs {unknown} are declared without a shape; log the model with a signature of tensors")
    symbols = {n.name: _names(n) if n.name not in missing else [] for n in (*session.get_inputs(), *session.get_outputs())}
    probe = Probe(lambda feed: session.run(None, feed), inputs, {spec.name: symbols[spec.name] for spec in inputs})
    seen = probe.look(examples.for_probing(example, _provisional(inputs, outputs), columns))
    if seen is None:
        if missing:
            raise ConversionError(
                f"{path}: {sorted(missing)} have no declared shape, and the graph does not run on made-up inputs; log the model "
                "with an input example that it can answer"
            )
        return Inspection(inputs, outputs, _declares_batching(inputs, outputs, symbols), observed=False, corrected=())
    batching = _batches(inputs, seen)
    true = tuple(
        spec.model_copy(update={"shape": _true_shape(None if spec.name in missing else spec.shape, index, seen, batching=batching)})
        for index, spec in enumerate(outputs)
    )
    corrected = [new.name for new, old in zip(true, outputs, strict=True) if new != old or new.name in missing]
    corrected += [spec.name for spec in inputs if spec.name in missing]
    return Inspection(inputs, true, batching, observed=True, corrected=tuple(corrected))


def _names(node: Any) -> list[str | None]:
    return [size if isinstance(size, str) else None for size in node.shape]


def _provisional(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Servable:
    return Servable(
        backend="onnxruntime",
        default_model_filename=onnx_files.MODEL_FILE,
        inputs=inputs,
        outputs=outputs,
        batching=False,
        flavor="onnx",
        converter="as-is",
    )


def _declares_batching(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], symbols: Mapping[str, Sequence[str | None]]) -> bool:
    varying = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    return varying and len({names[0] for names in symbols.values() if names and names[0]}) <= 1


def _batches(inputs: Sequence[TensorSpec], seen: Seen) -> bool:
    if seen.more is None or not all(spec.shape[:1] == (-1,) for spec in inputs):
        return False
    follow = all(few.shape[:1] == (FEW,) and more.shape[:1] == (MORE,) for few, more in zip(seen.few, seen.more, strict=True))
    return follow and seen.independent


def _true_shape(said: tuple[int, ...] | None, index: int, seen: Seen, *, batching: bool) -> tuple[int, ...]:
    """What was the same in all runs stays; what varied, or is declared to vary, is -1."""
    shapes = [run[index].shape for run in (seen.few, seen.more, seen.wider) if run is not None]
    if len({len(shape) for shape in shapes}) > 1:
        raise ConversionError(f"output {index} changes its number of axes with its input ({shapes}), which Triton cannot serve")
    known = said if said is not None and len(said) == len(shapes[0]) else shapes[0]
    if len(shapes) == 1:  # one run cannot tell a fixed size from a coincidence: what it denies, varies
        known = tuple(size if size == actual else -1 for size, actual in zip(known, shapes[0], strict=True))
    axes = list(zip(known, *shapes, strict=True))
    return tuple(
        -1 if (axis == 0 and batching) or sizes[0] == -1 or len(set(sizes[1:])) > 1 else int(sizes[1]) for axis, sizes in enumerate(axes)
    )
