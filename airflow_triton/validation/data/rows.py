"""Some of the rows, drawn at random and repeatably; and rows cut into parts of one size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.validation.data.dataset import PART_ROWS, Part

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_BLOCK = 65_536


def drawn(total: int, sample: int, seed: int) -> Array:
    """The numbers of `sample` of `total` rows (all, where there are no more), each once, ascending: the same for the same seed.

    Every row gets a random number, and those with the smallest are taken, so that what is in memory grows with `sample` alone.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    keys, chosen = np.empty(0), np.empty(0, dtype=np.int64)
    for start in range(0, total, _BLOCK):
        end = min(total, start + _BLOCK)
        keys = np.concatenate([keys, random.random(end - start)])
        chosen = np.concatenate([chosen, np.arange(start, end)])
        if len(keys) > sample:
            smallest = np.argpartition(keys, sample - 1)[:sample]
            keys, chosen = keys[smallest], chosen[smallest]
    return np.sort(chosen)


def picked(parts: Iterator[Part], chosen: Array, *, joined: bool) -> Iterator[Part]:
    """Of parts that are rows of one request, the rows with these numbers; else the parts with these numbers, whole."""
    import numpy as np

    at = start = 0
    for part in parts:
        size = part.rows if joined else 1
        low, high = np.searchsorted(chosen, [at, at + size])
        inside = chosen[low:high] - at
        at += size
        if len(inside):
            taken = _each(part, operator.itemgetter(inside)) if joined else part
            yield _at(taken, start)
            start += taken.rows


def regrouped(parts: Iterator[Part]) -> Iterator[Part]:
    """The same rows in parts of PART_ROWS, the last one perhaps smaller."""
    waiting: list[Part] = []
    rows = start = 0
    for part in parts:
        waiting.append(part)
        rows += part.rows
        while rows >= PART_ROWS:
            whole = _joined(waiting)
            yield _at(_each(whole, operator.itemgetter(slice(PART_ROWS))), start)
            rows, start = rows - PART_ROWS, start + PART_ROWS
            waiting = [_each(whole, operator.itemgetter(slice(PART_ROWS, None)))] if rows else []
    if rows:
        yield _at(_joined(waiting), start)


def _joined(parts: Sequence[Part]) -> Part:
    import numpy as np

    first = parts[0]
    if len(parts) == 1:
        return first
    return Part(
        start=first.start,
        inputs={name: np.concatenate([part.inputs[name] for part in parts]) for name in first.inputs},
        labels=None if first.labels is None else np.concatenate([part.labels for part in parts if part.labels is not None]),
        table={name: np.concatenate([part.table[name] for part in parts]) for name in first.table},
        answers={name: np.concatenate([part.answers[name] for part in parts]) for name in first.answers},
    )


def _each(part: Part, change: Callable[[Array], Array]) -> Part:
    return Part(
        start=part.start,
        inputs={name: change(array) for name, array in part.inputs.items()},
        labels=None if part.labels is None else change(part.labels),
        table={name: change(array) for name, array in part.table.items()},
        answers={name: change(array) for name, array in part.answers.items()},
    )


def _at(part: Part, start: int) -> Part:
    return Part(start, part.inputs, part.labels, part.table, part.answers)
