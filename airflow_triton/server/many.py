"""Many requests under way at a time, over one client."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from airflow_triton.server.transport import Pending

Question = TypeVar("Question")

_AHEAD = 4
"""Answers that wait for their reader, at most, as a multiple of the requests under way."""


def answered(submit: Callable[[Question], Pending], questions: Iterable[Question], *, in_flight: int) -> Iterator[tuple[Question, Pending]]:
    """Every question with its answer, in the order in which the answers come; each future is done.

    `in_flight` questions are under way at a time: the next one leaves as soon as an answer is there, whether or not that was read;
    only when `_AHEAD` times as many answers wait does it wait for their reader. `questions` is read as they leave, by one thread
    at a time; an error of reading them is raised. Once the reader is gone, no further question leaves.
    """
    return _Flight(submit, iter(questions), in_flight).results()


class _Flight:
    def __init__(self, submit: Callable[[Any], Pending], questions: Iterator[Any], in_flight: int) -> None:
        self._submit, self._questions, self._most = submit, questions, in_flight
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._done: list[tuple[Any, Pending]] = []
        self._under_way = 0
        self._waiting = 0
        self._ended = False
        self._failed = False
        self._error: BaseException | None = None

    def results(self) -> Iterator[tuple[Any, Pending]]:
        try:
            while came := self._next_ones():
                yield from came
                with self._lock:
                    self._waiting -= len(came)
            if self._error is not None:
                raise self._error
        finally:
            self._ended = True

    def _next_ones(self) -> list[tuple[Any, Pending]]:
        """The answers that have come, once they are worth the reader's waking up; none at the end."""
        self._fill()
        with self._lock:
            while not self._is_worth_it():
                self._news.wait()
            came, self._done = self._done, []
            return came

    def _is_worth_it(self) -> bool:
        """Many wait, one of them is a failure, or no more are to come: two threads that hand over each single answer lose time with it."""
        return len(self._done) >= self._most or bool(self._failed and self._done) or not self._under_way or self._error is not None

    def _fill(self) -> None:
        """Let questions leave until enough are under way."""
        with self._lock:
            while not self._ended and self._under_way < self._most and self._waiting < _AHEAD * self._most:
                try:
                    question = next(self._questions)
                    future = self._submit(question)
                except StopIteration:
                    self._ended = True
                    return
                except BaseException as error:  # noqa: BLE001 - it is the reader's, whichever thread it came up in
                    self._ended, self._error = True, error
                    return
                self._under_way += 1
                future.add_done_callback(functools.partial(self._came, question))

    def _came(self, question: Any, done: Pending) -> None:
        with self._lock:
            self._under_way -= 1
            self._waiting += 1
            self._done.append((question, done))
            self._failed = self._failed or done.exception() is not None
            self._fill()
            if self._is_worth_it():
                self._news.notify()
