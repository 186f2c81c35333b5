"""The crash campaign: kill a phase of a deployment at a chosen kill point, then see what serves, run it again and see what is left."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from conftest import CENTRES, blobs
from tests_support import everything_below
from typing_extensions import Self

from airflow_triton import model_config
from airflow_triton import repository as repo
from airflow_triton.errors import DeployError, ServerError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository
from airflow_triton.rollout import Outcome, Rollout, deploy, find_target, opened, rollback
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

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
    snapshot: Path
    loaded: tuple[str, ...]
    old: Served | None
    new: Served
    done: Served
    expected: frozenset[str]

    def __str__(self) -> str:
        return f"{self.scenario}: {self.name}"


@dataclass
class Row:
    """What came of the kills in one phase.

    `old` and `new` count what a server served that started after the kill; `problems` are in words, each with its kill point.
    """

    phase: str
    points: list[Mapping]
    killed: list[Mapping] = field(default_factory=list)
    old: int = 0
    new: int = 0
    wrong: int = 0
    left_over: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sites(self) -> set[str]:
        """The call sites of the phase."""
        return {point["site"] for point in self.points}

    @property
    def sites_missed(self) -> set[str]:
        """Call sites that the phase has and no kill hit."""
        return self.sites - {point["site"] for point in self.killed}


class WrongAnswerError(AssertionError):
    """What serves is not what may serve, or does not answer as it should."""


class LeftOverError(AssertionError):
    """Something is left that nobody will ever remove."""


class Worker:
    """The process that forks for each job (worker.py); a context manager. `folder` takes what the killed leave in $TMPDIR."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, job: Mapping) -> int:
        """Do the job; answer the exit status of the process that did it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline())["exit"])


class Campaign:
    """Everything that is needed to kill phases: the server, the worker, and the phases' starting points.

    `mapping` makes specs (the fixture of tests/conftest.py); `folder` is private to the campaign. Use as a context manager.
    """

    def __init__(self, triton: LocalTriton, mapping: Callable[..., Mapping], worker: Worker, folder: Path) -> None:
        self.store = LocalRepository(triton.repository)
        self.mapping = mapping
        self.folder = folder
        self.client = TritonClient(ServerAddress.parse(triton.grpc_url))
        self.registry = Registry(mapping()["tracking_uri"])
        self._worker = worker
        self._ending = ThreadPoolExecutor()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._empty()
        self._ending.shutdown()
        self.client.close()

    # --- starting points

    def new_version(self) -> list[Phase]:
        """Version 1 serves, version 3 comes; no old version is kept, so that the clean-up removes one."""
        return self._deployment("new version", [self._spec(1)], self._spec(3))

    def first_deployment(self) -> list[Phase]:
        """Nothing was ever there."""
        return self._deployment("first deployment", [], self._spec(3))

    def config_change(self) -> list[Phase]:
        """Version 1 serves and stays, its configuration changes."""
        return self._deployment("config change", [self._spec(1)], self._spec(1, batch=32))

    def roll_back(self) -> list[Phase]:
        """Version 3 serves, 1 is kept; back to it."""
        self._empty()
        self._deploy(self._spec(1))
        spec = self._spec(3, keep=1)
        self._deploy(spec)
        old, expected = self.served(), everything_below(self.store.root)
        assert old == Served(3, 16)
        new = Served(1, 16)
        return [self._phase("rollback", "rollback", spec, {"to": 1}, old=old, new=new, done=new, expected=frozenset(expected))]

    def _spec(self, version: int, *, batch: int = 16, keep: int = 0) -> Mapping:
        """A spec whose checks need no process of their own: the same deployment can run a thousand times."""
        spec = self.mapping(
            version, config={"max_batch_size": batch, "instance_group": [{"count": 1}]}, promote={"alias": ALIAS, "keep": keep}
        )
        return {**spec, "validate": {**spec["validate"], "parity": False}}

    def _deployment(self, scenario: str, earlier: list[Mapping], mapping: Mapping) -> list[Phase]:
        self._empty()
        for each in earlier:
            self._deploy(each)
        old = self.served()
        spec = spec_from_mapping(mapping)
        starts = []
        with opened(spec, find_target(spec)) as rollout:
            source = rollout.resolve()
            converted = rollout.convert(source)
            config = rollout.configure(converted)
            starts.append(("stage", {"converted": converted, "config": config}, self._copied(), self._loaded()))
            candidate = rollout.stage(converted, config)
            report = rollout.validate(candidate)
            starts.append(("promote", {"candidate": candidate, "report": report}, self._copied(), self._loaded()))
            rollout.promote(candidate, report)
            starts.append(("clean up", {"source": source}, self._copied(), self._loaded()))
            rollout.clean_up(source)
        new = self.served()
        assert new is not None
        may = {"stage": (old, old), "promote": (old, new), "clean up": (new, new)}
        expected = frozenset(everything_below(self.store.root))
        return [
            Phase(scenario, name, mapping, _plain(arguments), snapshot, loaded, *may[name], new, expected)  # type: ignore[arg-type]
            for name, arguments, snapshot, loaded in starts
        ]

    def _phase(self, scenario: str, name: str, mapping: Mapping, arguments: Mapping, **states: Any) -> Phase:
        return Phase(scenario, name, mapping, arguments, self._copied(), self._loaded(), **states)

    def _deploy(self, mapping: Mapping) -> None:
        spec = spec_from_mapping(mapping)
        with opened(spec, find_target(spec)) as rollout:
            deploy(rollout)

    def _copied(self) -> Path:
        """A copy of the repository and its work area as they are now."""
        copy = self.folder / f"start-{time.monotonic_ns()}"
        shutil.copytree(self.store.root, copy / "root")
        shutil.copytree(self.store.work, copy / "work")
        return copy

    def _empty(self) -> None:
        self._unload_all()
        self.store.prepare()
        for folder in (self.store.root, self.store.work):
            for path in folder.iterdir():
                shutil.rmtree(path)
        self.store.prepare()

    def _restore(self, phase: Phase) -> None:
        """Disk, server and registry as they were before the phase. Times are new, or Triton would not look into the files again."""
        self._empty()
        shutil.copytree(phase.snapshot / "root", self.store.root, copy_function=shutil.copyfile, dirs_exist_ok=True)
        shutil.copytree(phase.snapshot / "work", self.store.work, copy_function=shutil.copyfile, dirs_exist_ok=True)
        for model in phase.loaded:
            self.client.load(model)
        self.registry.set_alias(MODEL, ALIAS, 2)

    # --- what the server says

    def _loaded(self) -> tuple[str, ...]:
        return tuple(sorted({row.name for row in self.client.index() if row.state == "READY"}))

    def _unload_all(self) -> None:
        """Have nothing loaded. Their processes need another second to end, and nobody has to wait for that."""
        for name in {row.name for row in self.client.index() if row.state in ("READY", "LOADING")}:
            self.client.unload(name)  # the next load starts anew, whether this one is gone by then or not

    def served(self, client: TritonClient | None = None) -> Served | None:
        """What answers now, its answers checked."""
        client = client or self.client
        versions = client.ready_versions(MODEL)
        if not versions:
            return None
        if len(versions) > 1:
            raise WrongAnswerError(f"versions {versions} serve at once")
        got = client.infer(MODEL, {"input": ROWS})["probabilities"]
        if not np.allclose(got, right_answers(versions[0]), rtol=1e-4, atol=1e-5):
            raise WrongAnswerError(f"version {versions[0]} answers {got}")
        return Served(versions[0], int(client.config(MODEL, versions[0])["max_batch_size"]))

    def _fresh(self) -> Served | None:
        """What answers on a server that was started just now and knows nothing but the disk."""
        server = LocalTriton(self.store.root, extra_args=["--disable-auto-complete-config"])
        server.start()
        try:
            with TritonClient(ServerAddress.parse(server.grpc_url)) as client:
                return self._loaded_by(client)
        finally:
            self._ending.submit(server.stop)  # it waits for the models' processes, and we need not

    def _restarted(self) -> Served | None:
        """What answers after the server has let go of everything, as one that starts again does."""
        self._unload_all()
        return self._loaded_by(self.client)

    def _loaded_by(self, client: TritonClient) -> Served | None:
        if self.store.path(self.store.model_place(MODEL)).exists():
            try:
                client.load(MODEL)
            except ServerError as error:
                if self.store.read_config(MODEL) is not None:
                    raise WrongAnswerError(f"a server that starts cannot load it: {error}") from None
        return self.served(client)

    # --- one kill

    def record(self, phase: Phase) -> list[Mapping]:
        """All kill points of a phase, in their order: it runs to its end once."""
        self._restore(phase)
        code, points = self._run(phase, None)
        assert code == 0, f"{phase} failed without being killed"
        assert self.served() == phase.new
        return points

    def kill(self, phase: Phase, number: int, row: Row, *, restart: bool) -> None:
        """Kill the phase at one kill point, check everything, and write the result into `row`.

        The deployment runs again with the server as it was left or, with `restart`, after the server has come up again.
        """
        started = time.monotonic()
        self._restore(phase)
        code, points = self._run(phase, number)
        assert (code, len(points)) == (-signal.SIGKILL, 1), f"{phase}, kill point {number}: exit status {code}"
        row.killed += points
        where = f"{phase}, kill point {number} ({points[0]['event']} {Path(points[0]['path']).name}, {points[0]['site']})"
        try:
            self._check_after_kill(phase, row, restart=restart)
            self._check_again(phase)
        except WrongAnswerError as error:
            row.wrong += 1
            row.problems.append(f"{where}: {error}")
        except LeftOverError as error:
            row.left_over += 1
            row.problems.append(f"{where}: {error}")
        except DeployError as error:
            row.problems.append(f"{where}: run again, it failed: {error}")
        row.seconds += time.monotonic() - started

    def _run(self, phase: Phase, kill_at: int | None) -> tuple[int, list[Mapping]]:
        log = self.folder / "points.jsonl"
        spec = {**phase.spec, "tracking_uri": f"sqlite:///{self.folder}/no-such-store.db"}  # MLflow is down, as far as it knows
        job = {"spec": spec, "phase": phase.name, "arguments": phase.arguments, "kill_at": kill_at, "log": str(log)}
        code = self._worker.run(job)
        return code, [json.loads(line) for line in log.read_text().splitlines()]

    def _check_after_kill(self, phase: Phase, row: Row, *, restart: bool) -> None:
        allowed = {phase.old, phase.new}
        if (now := self.served()) not in allowed:
            raise WrongAnswerError(f"{now} serves on")
        stored = self._stored()
        if stored not in allowed:
            raise WrongAnswerError(f"{stored} is committed")
        if (now := self._restarted() if restart else self._fresh()) != stored:
            raise WrongAnswerError(f"{now} serves after a restart, {stored} is committed")
        is_new = now == (phase.done if phase.old == phase.new else phase.new)
        row.new += is_new
        row.old += not is_new

    def _stored(self) -> Served | None:
        """What config.pbtxt says, every part of it checked."""
        config = self.store.read_config(MODEL)
        if config is None:
            return None
        parsed = model_config.parse(config.text)
        release = repo.releases(self.store, MODEL, config)[-1]
        if model_config.versions(parsed) != (release.version,):
            raise WrongAnswerError(f"the policy names {model_config.versions(parsed)}, the journal {release.version}")
        if problems := self.store.damage(MODEL, release.version):
            raise WrongAnswerError(f"the committed version is damaged: {problems}")
        return Served(release.version, parsed.max_batch_size)

    def _check_again(self, phase: Phase) -> None:
        """Run it again, without being killed: it ends as if nothing had happened, and leaves nothing over."""
        spec = spec_from_mapping(phase.spec)
        with opened(spec, find_target(spec)) as rollout:
            outcome = _again(phase, rollout)
        if outcome.warnings:
            raise LeftOverError(f"run again, it warns: {outcome.warnings}")
        if (now := self.served()) != phase.done:
            raise WrongAnswerError(f"run again, {now} serves")
        if self._stored() != phase.done:
            raise WrongAnswerError(f"run again, {self._stored()} is committed")
        if (alias := self.registry.client.get_model_version_by_alias(MODEL, ALIAS).version) != phase.done.version:
            raise WrongAnswerError(f"run again, the alias stands at version {alias}")
        self._check_nothing_left(phase)

    def _check_nothing_left(self, phase: Phase) -> None:
        found = frozenset(everything_below(self.store.root))
        if found != phase.expected:
            raise LeftOverError(f"the repository has {sorted(found - phase.expected)} and lacks {sorted(phase.expected - found)}")
        folders = {path.name for path in self.store.root.iterdir()}
        if folders != {MODEL}:
            raise LeftOverError(f"the repository has the folders {folders}")
        work = {path.relative_to(self.store.work).as_posix() for path in self.store.work.rglob("*")}
        if over := {path for path in work - {"locks", "staging", "servables"} if not path.startswith("locks/")}:
            raise LeftOverError(f"the work area has {sorted(over)}")
        if self._loaded() != (MODEL,):
            raise LeftOverError(f"the server has {self._loaded()}")


def _again(phase: Phase, rollout: Rollout) -> Outcome:
    if phase.name != "rollback":
        return deploy(rollout)
    return rollback(rollout.spec.name, store=rollout.store, servers=rollout.servers, registry=rollout.registry, to=phase.arguments["to"])


def _plain(arguments: Mapping) -> Mapping:
    """The arguments as JSON has them."""
    return {name: value if isinstance(value, str) else value.model_dump(mode="json") for name, value in arguments.items()}


def sample(points: list[Mapping], *, every: int, seed: int) -> list[int]:
    """Numbers of kill points: before and after whatever is renamed into the repository, and every so many of the rest."""
    root = f"{os.sep}models{os.sep}"
    renames = [number for number, point in enumerate(points, 1) if point["event"] == "os.rename" and root in point["path"]]
    chosen = {*renames, *(number + 1 for number in renames), *range(1 + random.Random(seed).randrange(every), len(points) + 1, every)}
    return sorted(number for number in chosen if number <= len(points))
