"""What the crash campaign talks about: what serves, a phase that is killed, and what came of it."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from conftest import CENTRES, blobs

Mapping = dict[str, Any]
MODEL, ALIAS = "blobs", "champion"
ROWS = blobs(seed=5, rows=5)[0]
WEIGHTS = {1: CENTRES, 3: CENTRES * np.float32(1.1)}
"""What versions 1 and 3 were made of (tests/conftest.py)."""


def right_answers(version: int) -> np.ndarray:
    """The probabilities that a version gives for ROWS, computed without it."""
    weights = WEIGHTS[version].T.astype(np.float64)
    scores = ROWS @ weights - (weights**2).sum(axis=0) / 2
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Served:
    """What answers requests: a version, with this `max_batch_size` in its configuration."""

    version: int
    batch: int


@dataclass(frozen=True)
class Phase:
    """One phase of one scenario, ready to be killed any number of times.

    `old` and `new` are what may serve after a kill (`old` None: nothing), `expected` what the repository holds once all is done.
    """

    scenario: str
    name: str
    spec: Mapping
    arguments: Mapping
    snapshot: Any
    loaded: tuple[str, ...]
    old: Served | None
    new: Served | None
    done: Served
    expected: frozenset[str]

    def __str__(self) -> str:
        return f"{self.scenario}: {self.name}"


@dataclass(frozen=True)
class Point:
    """A kill point: a call that is about to be made, its path and where the package makes it, and how to be killed there.

    Of a request to a store: `before` or `after` it, no path, and what kind of request it is.
    """

    event: str
    path: str
    site: str
    order: Mapping

    def __str__(self) -> str:
        return f"{self.event} {f'{Path(self.path).name}, ' if self.path else ''}{self.site}"


@dataclass
class Row:
    """What came of the kills in one phase.

    `old` and `new` count what a server served that started after the kill; `problems` are in words, each with its kill point.
    """

    phase: str
    points: list[Point]
    killed: list[Point] = field(default_factory=list)
    old: int = 0
    new: int = 0
    wrong: int = 0
    left_over: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sites(self) -> set[str]:
        """The call sites of the phase."""
        return {point.site for point in self.points}

    @property
    def sites_missed(self) -> set[str]:
        """Call sites that the phase has and no kill hit."""
        return self.sites - {point.site for point in self.killed}


class WrongAnswerError(AssertionError):
    """What serves is not what may serve, or does not answer as it should."""


class LeftOverError(AssertionError):
    """Something is left that nobody will ever remove."""


def sample(points: list[Point], *, every: int, seed: int) -> list[Point]:
    """Before and after whatever takes its place in the repository at once, and every so many of the rest.

    That is what is renamed on disk, and config.pbtxt in a store.
    """
    root = f"{os.sep}models{os.sep}"
    renames = [number for number, point in enumerate(points) if point.event == "os.rename" and root in point.path]
    commits = [number for number, point in enumerate(points) if point.site.startswith("PUT config.pbtxt")]
    others = range(random.Random(seed).randrange(every), len(points), every)
    chosen = {*renames, *(number + 1 for number in renames), *commits, *others}
    return [points[number] for number in sorted(chosen) if number < len(points)]
