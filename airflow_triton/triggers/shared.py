"""Looks that all triggers of a process share: a thousand waits for one server ask it once per interval."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from airflow_triton.errors import DeployError, SpecError

T = TypeVar("T")

THREADS = 8
"""Calls of a library without an asynchronous client that are under way at a time, in the whole process."""
MOST_INTERVALS = 8
LONGEST_BACKOFF = 60.0
"""Between two looks at what does not answer lie so many intervals at most, and so many seconds, unless the interval itself is longer."""


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What a look brought: an answer or the error that it ended with, and the loop's time from which on there is a newer one."""

    answer: T | None
    problem: DeployError | None
    next_at: float


class SharedLook(Generic[T]):
    """One question that many ask: it is put once per `every` seconds, and once at a time.

    Where it ends with an error the pauses double, up to `MOST_INTERVALS` and `LONGEST_BACKOFF`. Anything but a DeployError is a bug, and
    reaches all who ask.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], every: float) -> None:
        self._ask = ask
        self._every = every
        self._failures = 0
        self._task: asyncio.Task[Seen[T]] | None = None

    async def latest(self) -> Seen[T]:
        """What was seen last, asked anew if it is time. Who gives up waiting does not end the look of the others.

        Raises:
            SpecError: the question is wrong; no later look mends it.

        """
        if self._task is None or (self._task.done() and self._is_old(self._task)):
            self._task = asyncio.create_task(self._look())
        return await asyncio.shield(self._task)

    @staticmethod
    def _is_old(task: asyncio.Task[Seen[T]]) -> bool:
        return task.cancelled() or task.exception() is not None or _now() >= task.result().next_at

    async def _look(self) -> Seen[T]:
        try:
            answer = await self._ask()
        except SpecError:
            raise
        except DeployError as problem:
            pause = min(self._every * min(2**self._failures, MOST_INTERVALS), max(self._every, LONGEST_BACKOFF))
            self._failures += 1
            return Seen(None, problem, _now() + pause)
        self._failures = 0
        return Seen(answer, None, _now() + self._every)


_looks: WeakValueDictionary[tuple[Any, Hashable], SharedLook[Any]] = WeakValueDictionary()
"""The looks that a trigger holds, by event loop and question."""


def shared(question: Hashable, ask: Callable[[], Awaitable[T]], every: float) -> SharedLook[T]:
    """The look of this question at this interval, the same for all who ask in this event loop; gone with the last who holds it."""
    key = (asyncio.get_running_loop(), (question, every))
    look = _looks.get(key)
    if look is None:
        look = _looks[key] = SharedLook(ask, every)
    return look


async def in_thread(work: Callable[[], T]) -> T:
    """Run what has no asynchronous client in one of `THREADS` threads; the others wait their turn."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), work)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="triton-look")


def _now() -> float:
    return asyncio.get_running_loop().time()
