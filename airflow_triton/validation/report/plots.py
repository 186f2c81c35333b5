"""What a report shows to be looked at, as plain data: small enough for JSON, and drawn by whoever shows it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sized
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from airflow_triton.validation.report.plain import Number, Text

MOST_POINTS = 2_000
"""Points of a scatter, at most: drawn at random from more, the worst ones kept."""


class _Plot(BaseModel):
    model_config = ConfigDict(frozen=True)

    title: Text


class Scatter(_Plot):
    """Points; `diagonal` where both axes hold the same quantity and agreement is the diagonal."""

    kind: Literal["scatter"] = "scatter"
    x_label: Text
    y_label: Text
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    diagonal: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _same_length("`x` and `y`", len(self.x), [self.y])
        return self


class Histogram(_Plot):
    """Counts of several series over the same bins: `edges` (ascending) are one more than the counts of each.

    `marks` are limits, by their names.
    """

    kind: Literal["histogram"] = "histogram"
    x_label: Text
    edges: tuple[Number, ...]
    counts: dict[Text, tuple[int, ...]]
    marks: dict[Text, Number] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _same_length("the counts of each series, and the bins between the `edges`,", len(self.edges) - 1, self.counts.values())
        ascending = all(left < right for left, right in itertools.pairwise(self.edges))
        if len(self.edges) < 2 or not ascending or not all(map(math.isfinite, self.edges)):  # noqa: PLR2004
            raise ValueError("`edges` are two or more finite numbers that ascend")
        return self


class Matrix(_Plot):
    """Counts by row and column, such as a confusion matrix (`rows`: the labels, `columns`: the predictions)."""

    kind: Literal["matrix"] = "matrix"
    row_label: Text
    column_label: Text
    rows: tuple[Text, ...]
    columns: tuple[Text, ...]
    counts: tuple[tuple[int, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _same_length("`rows` and the counts", len(self.rows), [self.counts])
        _same_length("`columns` and the counts of each row", len(self.columns), self.counts)
        return self


class Table(_Plot):
    """Rows of texts, such as the worst ones. `marked` are the numbers of those that a person should look at first, from 0."""

    kind: Literal["table"] = "table"
    columns: tuple[Text, ...]
    rows: tuple[tuple[Text, ...], ...]
    marked: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _same_length("`columns` and the texts of each row", len(self.columns), self.rows)
        return self


def _same_length(what: str, length: int, others: Iterable[Sized]) -> None:
    lengths = {len(other) for other in others}
    if lengths - {length}:
        raise ValueError(f"{what} are of different length: {sorted({length, *lengths})}")


Plot = Annotated[Scatter | Histogram | Matrix | Table, Field(discriminator="kind")]
