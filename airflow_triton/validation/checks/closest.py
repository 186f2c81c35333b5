"""Pictures of an agreement, in bounded memory: a scatter of both sides, and the rows that are furthest apart."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_triton.tensors import plain_texts
from airflow_triton.validation.report.plots import MOST_POINTS, Plot, Scatter, Table

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

WORST_ROWS = 10
_MOST_CHARACTERS = 120


class Closeness:
    """Collects parts: `add` each, then ask for the `plots`. `floating` are the outputs that hold floating-point numbers."""

    def __init__(self) -> None:
        import numpy as np

        self._random = np.random.default_rng(0)
        self._points: dict[str, list[np.ndarray[Any, Any]]] = {}
        self._worst: list[tuple[float, int, str, str, str]] = []
        self.floating: set[str] = set()

    def add(self, answers: Arrays, expected: Arrays, *, start: int) -> None:
        """One part: both sides' outputs, from row `start` on."""
        for name, wanted in expected.items():
            got = answers.get(name)
            if wanted.dtype.kind == "f":
                self.floating.add(name)
            if got is not None and got.shape == wanted.shape and wanted.size:
                self._look(name, got, wanted, start)

    def _look(self, name: str, got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], start: int) -> None:
        import numpy as np

        rows = len(wanted) if wanted.ndim else 1
        if wanted.dtype.kind == "f" and got.dtype.kind in "biuf":
            left, right = got.astype(np.float64).reshape(rows, -1), wanted.astype(np.float64).reshape(rows, -1)
            with np.errstate(all="ignore"):
                far = np.where(left == right, 0.0, np.abs(left - right))
            far[np.isnan(left) & np.isnan(right)] = 0.0
            far = np.nan_to_num(far, nan=np.inf)
            self._sample(name, left.ravel(), right.ravel())
        else:
            far = (plain_texts(got) != plain_texts(wanted)).reshape(rows, -1).astype(np.float64)
        of_row = far.max(axis=1)
        for row in np.argsort(of_row)[-WORST_ROWS:]:
            if of_row[row] > 0:
                shown = (_shown(got[row] if got.ndim else got), _shown(wanted[row] if wanted.ndim else wanted))
                item = (float(of_row[row]), start + int(row), name, *shown)
                (heapq.heappush if len(self._worst) < WORST_ROWS else heapq.heappushpop)(self._worst, item)

    def _sample(self, name: str, left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> None:
        """A sample of the points: every part gives as many as the first, and too many are thinned out at the end."""
        import numpy as np

        chosen = self._random.choice(left.size, MOST_POINTS // 4, replace=False) if left.size > MOST_POINTS // 4 else np.arange(left.size)
        kept = np.stack([right[chosen], left[chosen]])
        kept = kept[:, np.isfinite(kept).all(axis=0)]
        points = self._points.setdefault(name, [])
        points.append(kept)
        if sum(part.shape[1] for part in points) > 4 * MOST_POINTS:
            whole = np.concatenate(points, axis=1)
            points[:] = [whole[:, self._random.choice(whole.shape[1], 2 * MOST_POINTS, replace=False)]]

    def plots(self, what: str, *, against: str, got: str = "Triton") -> tuple[Plot, ...]:
        """A scatter of each floating-point output, and the worst rows where any are apart at all; `against` and `got` name the axes."""
        import numpy as np

        plots: list[Plot] = []
        for name, parts in self._points.items():
            x, y = np.concatenate(parts, axis=1)
            if x.size > MOST_POINTS:
                chosen = self._random.choice(x.size, MOST_POINTS, replace=False)
                x, y = x[chosen], y[chosen]
            plots.append(Scatter(title=f"{what}: {name}", x_label=against, y_label=got, x=_numbers(x), y=_numbers(y), diagonal=True))
        if self._worst:
            rows = tuple((str(row), name, got, wanted, f"{far:.3g}") for far, row, name, got, wanted in sorted(self._worst, reverse=True))
            plots.append(Table(title=f"{what}: worst rows", columns=("row", "output", "answer", "expected", "apart by"), rows=rows))
        return tuple(plots)


def _numbers(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values.tolist())


def _shown(value: np.ndarray[Any, Any]) -> str:
    import numpy as np

    text = np.array2string(value, threshold=8, precision=6, separator=", ") if isinstance(value, np.ndarray) else str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."
