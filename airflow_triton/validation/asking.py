"""Putting the rows to the candidate on a server, and to the version that serves, many requests under way at a time.

Triton knows two shapes of a tensor: the model's own and, where config.pbtxt has a `reshape`, another one towards its clients
(a model whose output is one number a row, [-1], answers [-1, 1], for example, and a scalar [1]: Triton has no tensor without
dimensions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton.servable import Servable
from airflow_triton.server import Inference, TritonClient
from airflow_triton.tensors import datatype_of, fits, load_arrays
from airflow_triton.validation.checks import Seen
from airflow_triton.validation.data import Dataset, Part

if TYPE_CHECKING:
    import numpy as np
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    Arrays = Mapping[str, np.ndarray]

ANSWER_SECONDS = 60.0
"""The deadline of one request of a validation: a cold model may take its time for its first ones."""


@dataclass(frozen=True)
class Asked:
    """A model on the server: its name and version there, the config.pbtxt that it was loaded with, and what is known of its tensors."""

    model: str
    version: int
    config: ModelConfig
    servable: Servable | None = None

    def batch(self, rows: int) -> int:
        """The rows of one request, at most `rows`; 0 where the model does not batch."""
        return min(int(self.config.max_batch_size), rows)


@dataclass(frozen=True)
class _Batch(Inference):
    """One request: the rows from number `at` on of part number `part`, put to one of the models that are asked."""

    of: int = 0
    part: int = 0
    at: int = 0


@dataclass
class _Gathered:
    """What came for one part so far: `left` requests have not been answered."""

    part: Part
    left: int = 0
    answers: list[dict[int, Arrays]] = field(default_factory=list)


def ask_all(
    client: TritonClient,
    asked: Sequence[Asked],
    dataset: Dataset,
    *,
    rows: int,
    in_flight: int,
    expected: Sequence[Path] = (),
) -> Iterator[Seen]:
    """Every part of the dataset with the answers of the candidate (`asked[0]`) and of the version that serves (`asked[1]`, if given).

    `rows` is the number of rows in one request, at most (a model that does not batch gets a whole part); `in_flight` requests are under
    way at a time; `expected` are files with the MLflow model's own answers, one for each part. A few parts are in memory at a time.

    Raises:
        ServerError: a request failed, with the server's reason.

    """
    gathered: dict[int, _Gathered] = {}
    upcoming = 0
    for batch, answers in client.infer_many(_questions(asked, dataset, rows, gathered), in_flight=in_flight, seconds=ANSWER_SECONDS):
        found = gathered[batch.part]
        found.answers[batch.of][batch.at] = answers
        found.left -= 1
        while upcoming in gathered and not gathered[upcoming].left:
            yield _seen(gathered.pop(upcoming), asked, expected[upcoming] if expected else None)
            upcoming += 1


def _questions(asked: Sequence[Asked], dataset: Dataset, rows: int, gathered: dict[int, _Gathered]) -> Iterator[_Batch]:
    for number, part in enumerate(_ahead(dataset.parts())):
        total = sum(_requests(part.rows, each.batch(rows)) for each in asked)
        gathered[number] = _Gathered(part, total, [{} for _ in asked])
        for of, each in enumerate(asked):
            for at, inputs in _cut(as_server_takes(each.config, part.inputs), part.rows, each.batch(rows)):
                yield _Batch(each.model, each.version, inputs, of=of, part=number, at=at)


def _ahead(parts: Iterator[Part]) -> Iterator[Part]:
    """The same parts, the next one being read meanwhile: a server that waits for questions is not measured, but slow."""
    with ThreadPoolExecutor(1, thread_name_prefix="rows") as pool:
        upcoming = pool.submit(next, parts, None)
        while (part := upcoming.result()) is not None:
            upcoming = pool.submit(next, parts, None)
            yield part


def _requests(total: int, rows: int) -> int:
    """How many requests `_cut` makes of a part."""
    return -(-total // rows) if rows else 1


def _cut(inputs: Arrays, total: int, rows: int) -> Iterator[tuple[int, Arrays]]:
    if rows == 0:
        yield 0, inputs
        return
    for start in range(0, total, rows):
        yield start, {name: array[start : start + rows] for name, array in inputs.items()}


def _seen(found: _Gathered, asked: Sequence[Asked], expected: Path | None) -> Seen:
    joined = [as_model_gives(each.config, each.servable, _joined(answers)) for each, answers in zip(asked, found.answers, strict=True)]
    return Seen(
        part=found.part,
        answers=joined[0],
        champion=joined[1] if len(joined) > 1 else None,
        expected=load_arrays(expected) if expected else None,
    )


def _joined(answers: Mapping[int, Arrays]) -> Arrays:
    import numpy as np

    ordered = [answers[at] for at in sorted(answers)]
    if len(ordered) == 1:
        return ordered[0]
    return {name: np.concatenate([each[name] for each in ordered]) for name in ordered[0]}


def as_server_takes(config: ModelConfig, inputs: Arrays) -> dict[str, np.ndarray]:
    """The inputs, shaped as the model takes them, in the shapes that the server takes."""
    shaped = {tensor.name: list(tensor.dims) for tensor in config.input if tensor.HasField("reshape")}
    return {
        name: array.reshape([*_batch(config, array), *shaped[name]]) if name in shaped else array.reshape(array.shape or (1,))
        for name, array in inputs.items()
    }


def as_model_gives(config: ModelConfig, servable: Servable | None, answers: Arrays) -> dict[str, np.ndarray]:
    """The server's answers in the shapes in which the model itself gave them, as far as that is known."""
    shaped = {tensor.name: list(tensor.reshape.shape) for tensor in config.output if tensor.HasField("reshape")}
    scalars = {tensor.name for tensor in servable.outputs if tensor.shape == ()} if servable else set()
    own = {
        name: [*_batch(config, array), *shaped[name]] if name in shaped else [] if name in scalars else array.shape
        for name, array in answers.items()
    }
    return {name: array.reshape(own[name]) for name, array in answers.items()}


def misfit(answers: Arrays, servable: Servable, *, rows: int) -> str:
    """What of the answers is not as the servable declares its outputs: one is missing, of another type or shape; "" if all are."""
    for tensor in servable.outputs:
        array = answers.get(tensor.name)
        if array is None:
            return f"the output {tensor.name!r} is missing; it gave {sorted(answers)}"
        if datatype_of(array.dtype) != tensor.datatype and tensor.datatype != "BF16":
            return f"the output {tensor.name!r} is {array.dtype}, declared {tensor.datatype}"
        if not fits(array.shape, tensor.shape) or (servable.batching and array.shape[0] != rows):
            return f"the output {tensor.name!r} {list(array.shape)} for {rows} rows; declared {list(tensor.shape)}"
    return ""


def _batch(config: ModelConfig, array: np.ndarray) -> tuple[int, ...]:
    return array.shape[:1] if config.max_batch_size > 0 else ()
