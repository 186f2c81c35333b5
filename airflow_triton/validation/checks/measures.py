"""The metrics that come with the package, over any number of rows: what is kept of them is counts, sums, or no more than a metric needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from airflow_triton.validation.checks.closest import WORST_ROWS, Closeness
from airflow_triton.validation.checks.picked import class_labels, classes, scores, targets, values
from airflow_triton.validation.report.plots import Matrix, Plot, Table

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Arrays = Mapping[str, Array]

MOST_CLASSES = 20
"""Rows and columns of a confusion matrix, at most: the classes that come most often, and one for all others."""
_OTHERS = "(others)"


class Measure(Protocol):
    """What one or several metrics are computed of. ValueError, with the reason: they cannot be computed of this."""

    def check_labels(self, labels: Array) -> None:
        """Raise ValueError where the labels are of another kind."""

    def add(self, answers: Arrays, labels: Array, start: int) -> None:
        """Some rows, from number `start` on."""

    def check_whole(self, metric: str) -> None:
        """Raise ValueError where all rows together give no figure; looks at the labels, and at the shape of the answers."""

    def figure(self, metric: str) -> float:
        """The metric of all rows."""

    def plots(self, metric: str) -> tuple[Plot, ...]:
        """What a person would rather look at."""


class Counts:
    """`accuracy`, and `f1` (macro: the mean over all classes that are a label or a prediction): how often which class came for which."""

    def __init__(self) -> None:
        self._pairs: Counter[tuple[Any, Any]] = Counter()
        self._wrong: list[tuple[str, str, str]] = []

    def check_labels(self, labels: Array) -> None:
        """See `Measure`."""
        class_labels(labels)

    def add(self, answers: Arrays, labels: Array, start: int) -> None:
        """See `Measure`."""
        import numpy as np

        predicted, wanted = classes(answers, labels, start)
        known, codes = np.unique(np.concatenate([wanted, predicted]), return_inverse=True)
        label, prediction = codes[: len(wanted)].astype(np.int64), codes[len(wanted) :].astype(np.int64)
        pairs, counts = np.unique(label * len(known) + prediction, return_counts=True)
        names = known.tolist()
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self._pairs[names[pair // len(names)], names[pair % len(names)]] += count
        for row in np.flatnonzero(label != prediction)[: WORST_ROWS - len(self._wrong)].tolist():
            self._wrong.append((str(start + row), str(names[prediction[row]]), str(names[label[row]])))

    def check_whole(self, metric: str) -> None:  # noqa: ARG002 the same for both
        """See `Measure`."""
        if not self._pairs:
            raise ValueError("there are no rows")

    def figure(self, metric: str) -> float:
        """See `Measure`."""
        self.check_whole(metric)
        right = {label: count for (label, predicted), count in self._pairs.items() if label == predicted}
        if metric == "accuracy":
            return sum(right.values()) / self._pairs.total()
        sizes = self._sizes()
        return math.fsum(2 * right.get(name, 0) / size for name, size in sizes.items()) / len(sizes)

    def _sizes(self) -> Counter[Any]:
        """How often each class is a label or a prediction."""
        sizes: Counter[Any] = Counter()
        for pair, count in self._pairs.items():
            for name in pair:
                sizes[name] += count
        return sizes

    def plots(self, metric: str) -> tuple[Plot, ...]:
        """See `Measure`: the confusion matrix, and the first rows that are wrong."""
        sizes = self._sizes()
        kept = {name for name, _ in sizes.most_common(MOST_CLASSES if len(sizes) <= MOST_CLASSES else MOST_CLASSES - 1)}
        names = [*sorted(kept), *([_OTHERS] if len(kept) < len(sizes) else [])]
        at = {name: number for number, name in enumerate(names)}
        counts = [[0] * len(names) for _ in names]
        for (label, predicted), count in self._pairs.items():
            counts[at.get(label, len(kept))][at.get(predicted, len(kept))] += count
        shown = tuple(map(str, names))
        table = tuple(tuple(row) for row in counts)
        plots: list[Plot] = [
            Matrix(title="confusion matrix", row_label="label", column_label="predicted", rows=shown, columns=shown, counts=table)
        ]
        if self._wrong:
            title = f"{metric}: the first rows that are wrong"
            plots.append(Table(title=title, columns=("row", "predicted", "label"), rows=tuple(self._wrong)))
        return tuple(plots)


class Errors:
    """`rmse`, `mae` and `r2`: sums of what the predictions are off, and of what the labels are off their mean."""

    def __init__(self) -> None:
        self._rows = 0
        self._absolute = self._squared = self._mean = self._spread = 0.0
        self._lowest, self._highest = math.inf, -math.inf
        self._closeness = Closeness()

    def check_labels(self, labels: Array) -> None:
        """See `Measure`."""
        targets(labels)

    def add(self, answers: Arrays, labels: Array, start: int) -> None:
        """See `Measure`."""
        import numpy as np

        wanted = targets(labels)
        name, got = values(answers, labels, start)
        with np.errstate(over="ignore"):
            off = got - wanted
            self._absolute += float(np.abs(off).sum())
            self._squared += float(np.square(off).sum())
        self._spread_of(wanted)
        self._closeness.add({name: got}, {name: wanted}, start=start)

    def _spread_of(self, wanted: Array) -> None:
        """The sum of squares about the mean, of these and all rows before (Chan, Golub and LeVeque 1983)."""
        import numpy as np

        rows, mean = len(wanted), float(wanted.mean())
        total, apart = self._rows + rows, mean - self._mean
        with np.errstate(over="ignore"):
            self._spread += float(np.square(wanted - mean).sum()) + apart * apart * self._rows * rows / total
        self._mean += apart * rows / total
        self._rows = total
        self._lowest, self._highest = min(self._lowest, float(wanted.min())), max(self._highest, float(wanted.max()))

    def check_whole(self, metric: str) -> None:
        """See `Measure`."""
        if not self._rows:
            raise ValueError("there are no rows")
        if metric == "r2" and self._rows == 1:
            raise ValueError("r2 needs two rows at least")

    def figure(self, metric: str) -> float:
        """See `Measure`. `r2` of labels that are all the same is 1.0 where every prediction is right, else 0.0, as scikit-learn has it."""
        self.check_whole(metric)
        if metric == "mae":
            return self._absolute / self._rows
        if metric == "rmse":
            return math.sqrt(self._squared / self._rows)
        if self._lowest == self._highest:
            return 0.0 if self._squared else 1.0
        return 1 - self._squared / self._spread

    def plots(self, metric: str) -> tuple[Plot, ...]:
        """See `Measure`: a scatter, and the rows that are furthest off."""
        return self._closeness.plots(metric, against="label", got="predicted")


class Ranks:
    """`auc`: the area under the ROC curve; of three classes and more the mean of one against the rest. It needs the score of every row."""

    def __init__(self) -> None:
        self._labels: list[Array] = []
        self._scores: list[Array] = []
        self._classes: set[Any] = set()

    def check_labels(self, labels: Array) -> None:
        """See `Measure`."""
        import numpy as np

        self._classes.update(np.unique(class_labels(labels)).tolist())

    def add(self, answers: Arrays, labels: Array, start: int) -> None:
        """See `Measure`."""
        self.check_labels(labels)
        self._scores.append(scores(answers, labels, start))
        self._labels.append(class_labels(labels))

    def check_whole(self, metric: str) -> None:
        """See `Measure`."""
        if len(self._classes) < 2:  # noqa: PLR2004 one is told from another
            raise ValueError(f"{metric} needs labels of two classes at least, and got {sorted(self._classes)}")
        columns = {found.shape[1] if found.ndim > 1 else 2 for found in self._scores}
        if self._scores and columns != {len(self._classes)}:
            raise ValueError(f"the labels have {len(self._classes)} classes, and the scores are of {', '.join(map(str, sorted(columns)))}")

    def figure(self, metric: str) -> float:
        """See `Measure`. Of two classes, the score is that of the greater one."""
        import numpy as np
        from sklearn.metrics import roc_auc_score

        self.check_whole(metric)
        return float(roc_auc_score(np.concatenate(self._labels), np.concatenate(self._scores), multi_class="ovr"))

    def plots(self, metric: str) -> tuple[Plot, ...]:  # noqa: ARG002 there are none
        """See `Measure`."""
        return ()


MEASURES: dict[str, type[Counts | Errors | Ranks]] = {
    "accuracy": Counts,
    "f1": Counts,
    "auc": Ranks,
    "rmse": Errors,
    "mae": Errors,
    "r2": Errors,
}
"""The metrics that come with the package, all as scikit-learn has them."""

LOWER_IS_BETTER = frozenset({"rmse", "mae"})
