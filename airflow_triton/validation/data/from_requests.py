"""Reader of recorded requests: a .jsonl with one KServe v2 inference request a line, perhaps with its response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import TensorSpec
from airflow_triton.tensors import cast, fit
from airflow_triton.validation.data.dataset import Part
from airflow_triton.validation.data.wanted import Wanted, readable

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, "np.ndarray[Any, Any]"]


def requests(path: Path, wanted: Wanted) -> Requests:
    """A file of recorded requests."""
    return Requests(path, wanted, joined=wanted.servable.batching)


@dataclass
class Requests:
    """See `Source`. The requests of a servable that batches are joined; of another each stays whole."""

    path: Path
    wanted: Wanted
    joined: bool

    def count(self) -> int:
        """See `Source`."""
        return sum(part.rows if self.joined else 1 for part in self.parts())

    def parts(self) -> Iterator[Part]:
        """See `Source`. Blank lines are left out."""
        start, outputs = 0, None
        with readable(self.wanted.origin, "a file of requests"), self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    part = self._part(line, number, start)
                    outputs = outputs or (number, sorted(part.answers))
                    self._check_same(outputs, number, sorted(part.answers))
                    yield part
                    start += part.rows

    def _check_same(self, first: tuple[int, Sequence[str]], number: int, outputs: Sequence[str]) -> None:
        if outputs != first[1]:
            raise ValidationDataError(
                f"{self.wanted.origin}, line {number}: a response with {outputs or 'no outputs'}, while line {first[0]} has one with "
                f"{first[1] or 'no outputs'}: all lines must have the same, or none a response"
            )

    def _part(self, line: bytes, number: int, start: int) -> Part:
        servable = self.wanted.servable
        try:
            request, response = _parsed(line)
            inputs = _tensors(request, "inputs", servable.inputs, batching=servable.batching)
            if missing := [tensor.name for tensor in servable.inputs if tensor.name not in inputs]:
                raise ValueError(f"the request has no input {missing}; it has {sorted(inputs)}")  # noqa: TRY301
            answers = {} if response is None else _tensors(response, "outputs", servable.outputs, batching=servable.batching)
            part = Part(start=start, inputs=inputs, answers=answers)
            self._check_rows(part)
        except (ValidationDataError, ValueError, KeyError, TypeError, OverflowError) as error:
            reason = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else error
            raise ValidationDataError(f"{self.wanted.origin}, line {number}: {reason}") from None
        return part

    def _check_rows(self, part: Part) -> None:
        lengths = {name: array.shape[0] for name, array in {**part.inputs, **part.answers}.items() if array.ndim}
        if self.joined and len(set(lengths.values())) > 1:
            raise ValueError(f"the tensors differ in their number of rows: {lengths}")


def _parsed(line: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The request of a line, and its response where there is one."""
    given = json.loads(line)
    if not isinstance(given, dict) or not {"inputs", "request"} & set(given):
        raise ValueError('it is no inference request: {"inputs": [...]}, or {"request": {...}, "response": {...}}')
    if "inputs" in given:
        return given, None
    request, response = given["request"], given.get("response")
    if not isinstance(request, dict) or not isinstance(response, dict | None):
        raise ValueError("`request` and `response` must be JSON objects")  # noqa: TRY004 - one error for all that does not fit
    if response is not None and "error" in response:
        raise ValueError(f"the response is an error: {response['error']}")
    return request, response


def _tensors(message: Mapping[str, Any], key: str, specs: Sequence[TensorSpec], *, batching: bool) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a message as the servable takes or gives them."""
    known = {tensor.name: tensor for tensor in specs}
    found: dict[str, np.ndarray[Any, Any]] = {}
    tensors = message[key]
    if not isinstance(tensors, list) or not tensors:
        raise ValueError(f"`{key}` must be a list with at least one tensor")
    for tensor in tensors:
        name = tensor["name"]
        if name not in known or name in found:
            problem = "is there twice" if name in found else f"is none of the model's, which are {sorted(known)}"
            raise ValueError(f"`{name}` of `{key}` {problem}")
        found[name] = _tensor(tensor, known[name], batching=batching)
    return found


def _tensor(given: Mapping[str, Any], spec: TensorSpec, *, batching: bool) -> np.ndarray[Any, Any]:
    import numpy as np

    if given["datatype"] != spec.datatype:
        raise ValueError(f"`{spec.name}` is {given['datatype']}, the model has {spec.datatype}")
    if "data" not in given:
        raise ValueError(f"`{spec.name}` has no `data`: requests with binary data have to be recorded as JSON")
    values = np.asarray(given["data"], dtype=object)
    shape = [int(size) for size in given["shape"]]
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"`{spec.name}` has {values.size} values, which are not {shape}")
    fitted = fit(cast(values, spec.datatype).reshape(shape), spec, what=f"`{spec.name}`")
    if batching and fitted.shape[:1] != tuple(shape[:1]):
        raise ValueError(f"`{spec.name}` is shaped {shape}: its rows are no rows of {list(fitted.shape)}")
    return fitted
