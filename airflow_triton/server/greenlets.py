"""A thread for a client library that is bound to the thread which made it, and waits in gevent's loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_END_SECONDS = 5.0


class Greenlets:
    """Runs functions side by side as greenlets of one thread, which starts with the first of them and ends with `close`.

    A thread that has used gevent holds open files and a thread of gevent's own until its loop is destroyed, which nobody does when a
    thread ends. Here it is: nothing is left after `close`. Safe to use by several threads; not from within a function that it runs.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]] | None] = deque()
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._closed = False
        self._wake: Callable[[], None] = lambda: None

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Run `function`; the future has what it answers or raises. Raises RuntimeError after `close`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name} is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
                self._started.wait()
            self._waiting.append((future, function))
            self._wake()
        return future

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """End what still runs, with GreenletExit, and the thread; `last` is called in it, if it was started. May be called again."""
        with self._lock:
            if self._thread is None or self._closed:
                self._closed = True
                return
            self._closed, self._last = True, last
            self._waiting.append(None)
            self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        import gevent  # type: ignore[import-untyped]
        from gevent.event import Event  # type: ignore[import-untyped]
        from gevent.pool import Group  # type: ignore[import-untyped]

        hub, running, ended = gevent.get_hub(), Group(), Event()
        watcher = hub.loop.async_()

        def wake() -> None:
            while self._waiting:
                task = self._waiting.popleft()
                if task is None:
                    ended.set()
                else:
                    running.spawn(_perform, *task)

        watcher.start(wake)
        self._wake = watcher.send
        self._started.set()
        ended.wait()
        running.kill()
        self._last()
        watcher.stop()
        watcher.close()
        hub.destroy(destroy_loop=True)


def _perform(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 it is for whoever waits
        future.set_exception(error)
    else:
        future.set_result(result)
