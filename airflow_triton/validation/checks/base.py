"""What a check is: it sees every row with the answers that came for it, and says at the end what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_triton.servable import Servable
from airflow_triton.server import TritonClient
from airflow_triton.validation.data import Dataset, Part
from airflow_triton.validation.report import CheckResult

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """Some rows (at most `data.PART_ROWS`), and what came for them.

    `answers` are the candidate's, `champion` those of the version that serves now (None: nothing serves, or no check `needs` them),
    `expected` the MLflow model's own (None: no check needs them): one array for each output, in the shapes in which the model itself
    gives them.
    """

    part: Part
    answers: Arrays
    champion: Arrays | None = None
    expected: Arrays | None = None


@dataclass(frozen=True)
class Bench:
    """Where a check that measures may ask by itself.

    `client` is the server, `candidate` and `champion` the names and versions there. No champion: nothing serves, or it cannot be
    asked the same, and `unfit` says why ("" where nothing serves). `inputs` are those of the first part, in the shapes that the server
    takes. A request may hold up to `most_rows` of their rows; 0: all of them, for a model that does not batch.
    """

    client: TritonClient
    candidate: tuple[str, int]
    inputs: Arrays
    most_rows: int
    champion: tuple[str, int] | None = None
    unfit: str = ""


NEEDS = frozenset({"labels", "recorded", "expected", "champion"})
"""What a check may want of the rows: labels or recorded answers in the data, the MLflow model's own answers, those of the champion."""


class Check(Protocol):
    """One check on one server. It is made anew for each server.

    Guarantee to keep: a check that saw nothing, or could not run, does not pass.

    A team's own is a class, or a function that makes an instance, behind an entry point of the group `airflow_triton.checks`; it is called
    with the options of the spec as keywords. It may, and need not, be a subclass of this. A check may raise as it likes: that is
    never a pass.
    """

    name: str
    """How it is called: of a team's own, the name of its entry point counts."""
    needs: frozenset[str]
    """What it wants of the rows: some of `NEEDS`. A deployment whose data lacks labels or recorded answers is refused."""

    def fit(self, dataset: Dataset, servable: Servable) -> None:
        """Raise ValidationDataError where it cannot run on these rows and a model like this; called before anything is staged."""

    def see(self, seen: Seen) -> None:
        """Take in some rows. Called for every part, in their order."""

    def results(self, bench: Bench) -> Sequence[CheckResult]:
        """What was found, once every part was seen: a list of one result at least; `server` is filled in by the caller."""
