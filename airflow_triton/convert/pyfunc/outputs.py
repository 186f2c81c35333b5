"""What an MLflow model answers, as tensors: seen by asking it, for what a signature says of outputs is often missing or wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_triton import tensors
from airflow_triton.convert import examples
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.probe import FEW, MORE, Probe, Seen
from airflow_triton.convert.pyfunc.types import Question, datatype_of_field
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outputs:
    """What was seen: the outputs, which of them are JSON, and whether requests may be asked as one batch."""

    specs: tuple[TensorSpec, ...]
    json: frozenset[str]
    batching: bool
    notes: tuple[str, ...] = ()


def observe(model: MlflowModel, pyfunc: Any, question: Question, example: Any) -> Outputs:
    """Ask the model with its input example or made-up rows, of two numbers and each alone, and say what it gives.

    Raises:
        ConversionError: it answers none of them, or something that is no tensor.

    """
    watch = _Watch(pyfunc, question)
    given = examples.for_probing(example, _provisional(question), model.columns)
    probe = Probe(watch.run, question.inputs, {})
    seen = probe.look(given)
    if seen is not None and watch.changed:  # an output turned out to be JSON in a later run
        seen = probe.look(given)
    if seen is None:
        asked = "its input example" if given else "made-up rows (it has no input example, or one that does not fit its signature)"
        raise ConversionError(
            f"{model.folder}: the model does not answer {asked}: {watch.error}. Log it with an input example that it can answer"
        )
    batching = _batches(question, seen)
    specs = tuple(_spec(model, name, index, seen, watch, batching=batching) for index, name in enumerate(watch.names))
    notes = [f"The output `{name}` is one JSON text for each row." for name in watch.names if name in watch.json]
    if not batching and all(spec.shape[:1] == (-1,) for spec in question.inputs):
        notes.append(
            "Requests are not batched: the model was seen to answer rows otherwise when it is asked with each alone, or not row by row."
        )
    return Outputs(specs, frozenset(watch.json), batching, tuple(notes))


@dataclass
class _Watch:
    """Asks the model, and remembers the names of what it gives, what has to be JSON, and the first error."""

    pyfunc: Any
    question: Question
    names: list[str] = field(default_factory=list)
    json: set[str] = field(default_factory=set)
    changed: bool = False
    error: str = ""

    def run(self, feed: dict[str, Array]) -> list[Array]:
        from airflow_triton.convert.pyfunc.served import model as served

        asker = served.Served(self.pyfunc, {"kind": self.question.kind, "inputs": [{"name": spec.name} for spec in self.question.inputs]})
        try:
            answer = served.parts(self.pyfunc.predict(asker.question(feed)))
        except Exception as error:
            self.error = self.error or f"{type(error).__name__}: {one_line(error)}"
            raise
        first = not self.names
        self.names = self.names or list(answer)
        if list(answer) != self.names:
            raise ConversionError(f"the model gave {list(answer)} once, and {self.names} before")
        return [self._array(name, value, first=first) for name, value in answer.items()]

    def _array(self, name: str, value: Any, *, first: bool) -> Array:
        from airflow_triton.convert.pyfunc.served import model as served

        array = None if name in self.json else served.plain(value)
        if array is None:
            self.changed = self.changed or (not first and name not in self.json)
            self.json.add(name)
            array = served.as_json(value)
        return array if array.ndim else array.reshape(1)


def _provisional(question: Question) -> Servable:
    return Servable(
        backend="python", default_model_filename="", inputs=question.inputs, outputs=(), batching=False, flavor="", converter=""
    )


def _batches(question: Question, seen: Seen) -> bool:
    if seen.more is None or not all(spec.shape[:1] == (-1,) for spec in question.inputs):
        return False
    follow = all(few.shape[:1] == (FEW,) and more.shape[:1] == (MORE,) for few, more in zip(seen.few, seen.more, strict=True))
    return follow and seen.independent


def _spec(model: MlflowModel, name: str, index: int, seen: Seen, watch: _Watch, *, batching: bool) -> TensorSpec:
    arrays = [run[index] for run in (seen.few, seen.more, seen.wider) if run is not None]
    shapes = [array.shape for array in arrays]
    if len({len(shape) for shape in shapes}) > 1:
        raise ConversionError(f"{model.folder}: the output {name!r} changes its number of axes with its input ({shapes})")
    if len(shapes) == 1:  # one run tells nothing about what varies
        shape = (-1,) * len(shapes[0])
    else:
        shape = tuple(
            -1 if (axis == 0 and batching) or len(set(sizes)) > 1 else int(sizes[0]) for axis, sizes in enumerate(zip(*shapes, strict=True))
        )
    kinds = {tensors.datatype_of(array.dtype) for array in arrays}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        came = ", ".join(sorted({str(array.dtype) for array in arrays}))
        raise ConversionError(f"{model.folder}: the output {name!r} is {came}, and Triton serves one of {', '.join(tensors.NUMPY_TYPES)}")
    said = None if name in watch.json else _said(model, name, len(watch.names))
    if said is not None and said != kind and all(_holds(array, said) for array in arrays):
        kind = said
    return TensorSpec(name=name, datatype=kind, shape=shape)


def _said(model: MlflowModel, name: str, count: int) -> Any:
    """The type that the signature gives the output; None where it does not."""
    fields = model.outputs or ()
    found = [one for one in fields if one.name == name or (one.name is None and len(fields) == count == 1)]
    return datatype_of_field(found[0]) if found else None


def _holds(array: Array, datatype: Any) -> bool:
    try:
        tensors.cast(array, datatype)
    except ValueError:
        return False
    return True
