"""The soak: promotions, rejections and rollbacks of one model, one after the other, each looked at from outside afterwards."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak.clients import Load, Saw
from soak.resources import Held, look
from test_triton_flavor import lay, register
from typing_extensions import Self

from airflow_triton.errors import RejectedError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.rollout import Outcome, deploy, find_target, opened, rollback
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import Spec, spec_from_mapping

NAME = "soaked"
ALIAS = "champion"
KEEP = 2
CONFIG = """backend: "python"
max_batch_size: 8
instance_group { count: 1 kind: KIND_CPU }
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
"""
MODEL = """
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = utils.get_input_tensor_by_name(request, "x").as_numpy()
            y = {answer}
            answers.append(utils.InferenceResponse([utils.Tensor("y", y.astype(np.float32))]))
        return answers
"""
GOOD = 4
BAD = {"a wrong number": "3 * x + 1", "NaN": "x * np.nan", "an error": "x / None", "another shape": "np.concatenate([x, x], axis=1)"}
PATIENCE = 10.0
"""Seconds within which the server has let go of what was removed."""


@dataclass(frozen=True)
class Serving:
    """What should serve: a version, with this round in its configuration."""

    version: int
    round: int


@dataclass
class Kind:
    """What came of the rounds of one kind: the seconds of each."""

    name: str
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds) if self.seconds else 0.0


class Soak:
    """A model's life: use as a context manager, which asks all the time; then `run`.

    The versions 1 to 4 of the MLflow model are good and known by their answers, those after them are the bad ones.
    """

    def __init__(self, triton: LocalTriton, store: LocalRepository, tracking_uri: str, folder: Path, *, seed: int) -> None:
        self.triton, self.store, self.tracking_uri = triton, store, tracking_uri
        self.random = random.Random(seed)
        self.client = TritonClient(ServerAddress.parse(triton.grpc_url))
        self.kinds = {name: Kind(name) for name in ("promotion", "the same version, configured otherwise", "rejection", "rollback")}
        self.problems: list[str] = []
        self.journal: list[Serving] = []
        self.bad = {GOOD + number: kind for number, kind in enumerate(BAD, 1)}
        self.data, self.cache = folder / "rows.csv", folder / "cache"
        self.data.write_text("x,label\n" + "".join(f"{x},{2 * x}\n" for x in range(20)))
        for version in range(1, GOOD + 1):
            self._register(folder / str(version), f"2 * x + {_known_by(version)}")
        for version, kind in self.bad.items():
            self._register(folder / str(version), BAD[kind])
        self._deploy(1, 0)
        self.journal.append(Serving(1, 0))
        self.load = Load(triton, NAME, {version: _known_by(version) for version in range(1, GOOD + 1)})

    def __enter__(self) -> Self:
        self.load.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self.load.__exit__(*reason)
        self.client.close()

    @property
    def saw(self) -> list[Saw]:
        """What the clients saw, once they have ended."""
        return self.load.saw

    @property
    def serving(self) -> Serving:
        """What should serve now."""
        return self.journal[-1]

    def run(self, first: int, last: int) -> None:
        """The rounds of these numbers; what is not as it should be comes to `problems`."""
        for number in range(first, last + 1):
            kind, change = self._next(number)
            started = time.monotonic()
            try:
                told = change()
            except Exception as error:  # noqa: BLE001 the soak goes on
                told = f"{type(error).__name__}: {error}"
            self.kinds[kind].seconds.append(time.monotonic() - started)
            told = told or self._wrong()
            if told:
                self.problems.append(f"round {number}, {kind}: {told}")

    def held(self) -> Held:
        """What this process and the server hold, once the server has let go of what it unloads: one model is served by one process."""
        deadline = time.monotonic() + PATIENCE
        while (held := look(self.triton, self.store, NAME, len({row.name for row in self.client.index()}))).server_processes > 1:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return held

    def _next(self, number: int) -> tuple[str, Callable[[], str]]:
        """A round's kind, and what makes it: the answer is what went wrong with it."""
        kind = self.random.choices(list(self.kinds), weights=(3, 1, 3, 3))[0]
        others = [version for version in range(1, GOOD + 1) if version != self.serving.version]
        stored = [version for version in self.store.versions(NAME) if version != self.serving.version]
        if kind == "rollback" and stored:
            to = self.random.choice([None, self.random.choice(stored)])
            return kind, lambda: self._roll_back(to)
        if kind == "rejection":
            bad = self.random.choice(list(self.bad))
            return kind, lambda: self._reject(bad, number)
        if kind == "the same version, configured otherwise":
            return kind, lambda: self._promote(self.serving.version, number)
        version = self.random.choice(others)
        return "promotion", lambda: self._promote(version, number)

    def _promote(self, version: int, number: int) -> str:
        before = self.serving.version
        outcome = self._deploy(version, number)
        self.journal.append(Serving(version, number))
        return _unlike(outcome, action="promoted", version=version, previous=before, warnings=())

    def _reject(self, version: int, number: int) -> str:
        try:
            self._deploy(version, number)
        except RejectedError:
            tags = Registry(self.tracking_uri).tags(NAME, version)
            return "" if tags[f"triton.{NAME}.verdict"] == "rejected" else f"MLflow says {tags}"
        return f"version {version}, {self.bad[version]}, was not rejected"

    def _roll_back(self, to: int | None) -> str:
        stored = self.store.versions(NAME)
        before = self.serving
        target = next(
            each for each in reversed(self.journal) if each.version in stored and (each.version == to if to is not None else each != before)
        )
        with find_target(self._spec(before.version, before.round)).connected() as (first, *_):
            outcome = rollback(NAME, store=first.store, servers=first.servers, registry=Registry(self.tracking_uri), to=to)
        self.journal.append(target)
        return _unlike(outcome, action="rolled back", version=target.version, previous=before.version, warnings=())

    def _wrong(self) -> str:
        """What is not as it should be after a round."""
        expected, problems = self.serving, []
        found = self.client.ready_versions(NAME)
        if found != (expected.version,):
            problems.append(f"ready are {found}, not {expected.version}")
        else:
            configured = self.client.config(NAME)["parameters"]["round"]["string_value"]
            problems += [] if configured == str(expected.round) else [f"it is configured as in round {configured}, not {expected.round}"]
        problems += self._left_over()
        at = Registry(self.tracking_uri).resolve(f"models:/{NAME}@{ALIAS}").version
        problems += [] if at == expected.version else [f"the alias is at {at}"]
        return "; ".join(problems)

    def _left_over(self) -> list[str]:
        """What is there that should not be: on the server, and on disk."""
        deadline = time.monotonic() + PATIENCE
        while (names := {row.name for row in self.client.index()}) != {NAME} and time.monotonic() < deadline:
            time.sleep(0.05)
        models, stored = self.store.folders(MODELS), self.store.versions(NAME)
        work = [file.path for file in self.store.files(WORK) if not file.path.startswith("locks/")]
        problems = [] if names == {NAME} else [f"the server has the models {sorted(names)}"]
        problems += [] if models == [NAME] else [f"the repository has the models {models}"]
        problems += [] if len(stored) <= 1 + KEEP else [f"stored are the versions {stored}"]
        return problems + ([f"in the work area lies {work}"] if work else [])

    def _register(self, folder: Path, answer: str) -> None:
        register(self.tracking_uri, NAME, lay(folder / "ready", CONFIG, {"1/model.py": MODEL.replace("{answer}", answer)}))

    def _deploy(self, version: int, number: int) -> Outcome:
        spec = self._spec(version, number)
        with opened(spec, find_target(spec)) as rollout:
            return deploy(rollout)

    def _spec(self, version: int, number: int) -> Spec:
        mapping: dict[str, Any] = {
            "name": NAME,
            "model": f"models:/{NAME}/{version}",
            "convert": {"to": "as-is", "cache": str(self.cache)},
            "config": {"parameters": {"round": {"string_value": str(number)}}},
            "repository": str(self.store),
            "servers": [self.triton.grpc_url if number % 2 else self.triton.http_url],
            "tracking_uri": self.tracking_uri,
            "validate": {"data": str(self.data), "parity": False, "metrics": {"mae": {"max": 0.5}}},
            "promote": {"alias": ALIAS, "keep": KEEP},
        }
        return spec_from_mapping(mapping)


def _known_by(version: int) -> float:
    """What a good version adds to its answers: little enough to pass."""
    return version / 100


def _unlike(outcome: Outcome, **expected: Any) -> str:
    found = {key: getattr(outcome, key) for key in expected}
    return "" if found == expected else f"the outcome is {found}, not {expected}"
