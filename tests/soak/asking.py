"""One client of the soak, as a program: it asks at a steady pace and holds each answer against the version that the response names.

    python asking.py http|grpc HOST:PORT MODEL ANSWERS RATE

ANSWERS is JSON: for each version that may serve the number by which it is known (see `Told`). The program uses Triton's client library
and nothing of the package; it asks until its stdin is closed, and then prints what it saw, as one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

SECONDS = 10.0
"""The deadline of a request."""
MOST_TOLD = 20
"""Failures and wrong answers that are told in words; all are counted."""


def answer(x: float, known_by: float) -> float:
    """What the version that is known by this number makes of `x`."""
    return 2 * x + known_by


class Told:
    """What a client saw."""

    def __init__(self, answers: dict[str, float]) -> None:
        self.answers = answers
        self.versions: Counter[str] = Counter()
        self.counted = {"failed": 0, "wrong": 0}
        self.words: list[str] = []
        self.milliseconds: list[float] = []

    def came(self, x: float, version: str, y: float) -> None:
        """An answer: right if it is that of the version that it names."""
        self.versions[version] += 1
        expected = answer(x, self.answers[version]) if version in self.answers else None
        if expected is None or abs(y - expected) > 1e-4:
            self.problem("wrong", f"version {version} answered {y} to {x}, expected {expected}")

    def problem(self, kind: str, words: str) -> None:
        """A request that failed, or a wrong answer."""
        self.counted[kind] += 1
        if len(self.words) < MOST_TOLD:
            self.words.append(f"{kind} at {time.time():.3f}: {words}")

    def as_json(self) -> str:
        """All of it."""
        ordered = sorted(self.milliseconds) or [0.0]
        figures = {name: ordered[int(share * (len(ordered) - 1))] for name, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))}
        asked = {"asked": len(self.milliseconds), **self.counted}
        return json.dumps({**asked, "milliseconds": figures, "versions": self.versions, "words": self.words})


def main(protocol: str, address: str, model: str, answers: str, rate: str) -> None:
    """Ask until stdin is closed."""
    import numpy as np

    if protocol == "http":
        import tritonclient.http as library

        client = library.InferenceServerClient(address, connection_timeout=SECONDS, network_timeout=SECONDS)
        options: dict[str, Any] = {}
    else:
        import tritonclient.grpc as library

        client = library.InferenceServerClient(address)
        options = {"client_timeout": SECONDS}
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    told, started = Told(json.loads(answers)), time.monotonic()
    tensor = library.InferInput("x", [1, 1], "FP32")
    for number in itertools.count(1):
        x = float(random.randrange(100))
        tensor.set_data_from_numpy(np.array([[x]], np.float32))
        before = time.monotonic()
        try:
            result = client.infer(model, [tensor], **options)
            response = result.get_response()
            version = response["model_version"] if isinstance(response, dict) else response.model_version
            told.came(x, version, float(result.as_numpy("y")[0, 0]))
        except Exception as error:  # noqa: BLE001 whatever it is, the request failed
            told.problem("failed", f"{type(error).__name__}: {error}")
        told.milliseconds.append((time.monotonic() - before) * 1000)
        if ended.wait(max(0.0, started + number / float(rate) - time.monotonic())):
            break
    print(told.as_json())  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
