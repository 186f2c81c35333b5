"""How long models take to answer, measured in turns, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_triton.errors import ServerError
from airflow_triton.server import Inference, TritonClient

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

MOST_TURNS = 10
"""The measurement of two models is cut into so many turns each, at most; every turn has at least as many requests as are under way."""

_REQUEST_SECONDS = 60.0


class Clocked:
    """One model that is measured: the `seconds` of each request, and why one failed ("" if none did).

    `requests` are sent one after the other and again from the first, `in_flight` at a time.
    """

    def __init__(self, client: TritonClient, model: tuple[str, int], requests: Sequence[Arrays], *, in_flight: int) -> None:
        self._client = client
        self._questions = [Inference(*model, inputs) for inputs in requests]
        self._in_flight = in_flight
        self._next = 0
        self._wall = 0.0
        self.seconds: list[float] = []
        self.problem = ""

    def warm_up(self, count: int) -> None:
        """So many requests that do not count."""
        self._ask(count)

    def measure(self, count: int) -> None:
        """So many requests that count."""
        started = time.perf_counter()
        self.seconds += self._ask(count)
        self._wall += time.perf_counter() - started

    def _ask(self, count: int) -> list[float]:
        taken: list[float] = []
        try:
            taken.extend(
                took for _, took in self._client.time_many(self._upcoming(count), in_flight=self._in_flight, seconds=_REQUEST_SECONDS)
            )
        except ServerError as error:
            self.problem = str(error)
        return taken

    def _upcoming(self, count: int) -> Iterator[Inference]:
        for _ in range(count):
            yield self._questions[self._next % len(self._questions)]
            self._next += 1

    def percentile_ms(self, percent: float) -> float:
        """The smallest of the measured times, in milliseconds, that at least so many percent of them do not exceed (nearest rank)."""
        rank = math.ceil(percent / 100 * len(self.seconds))
        return sorted(self.seconds)[max(rank, 1) - 1] * 1000

    @property
    def requests_a_second(self) -> float:
        """All measured requests by the time from the first one's start to the last one's answer, summed over the turns."""
        return len(self.seconds) / self._wall


def in_turns(models: Sequence[Clocked], count: int, *, in_flight: int, warm_up: int) -> None:
    """Warm every model up, then measure `count` requests of each, in turns; in every other turn the last one goes first.

    A model whose request failed is not asked any more.
    """
    for model in models:
        model.warm_up(warm_up)
    turns = max(1, min(MOST_TURNS, count // in_flight)) if len(models) > 1 else 1
    for turn in range(turns):
        size = count * (turn + 1) // turns - count * turn // turns
        for model in models if turn % 2 == 0 else reversed(models):
            if not model.problem:
                model.measure(size)
