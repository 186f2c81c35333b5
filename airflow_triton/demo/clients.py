"""Clients that ask one model without pause, and count every request that fails."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from typing_extensions import Self

from airflow_triton.errors import ServerError
from airflow_triton.server import ServerAddress, TritonClient

if TYPE_CHECKING:
    import numpy as np


class Clients:
    """Threads, each with a connection of its own, that ask `model` until they are stopped. Use as a context manager."""

    def __init__(
        self, address: ServerAddress, model: str, inputs: Mapping[str, np.ndarray], *, count: int = 4, pause: float = 0.005
    ) -> None:
        self.count = count
        self.answered = 0
        self.errors: list[str] = []
        self._address = address
        self._model = model
        self._inputs = inputs
        self._pause = pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with TritonClient(self._address) as client:
            while not self._stop.wait(self._pause):
                try:
                    client.infer(self._model, self._inputs)
                except ServerError as error:
                    with self._lock:
                        self.errors.append(str(error))
                else:
                    with self._lock:
                        self.answered += 1
