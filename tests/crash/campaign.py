"""The crash campaign: kill a phase of a deployment at a chosen kill point, then see what serves, run it again and see what is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from crash.grounds import Ground
from crash.records import (
    ALIAS,
    MODEL,
    ROWS,
    LeftOverError,
    Mapping,
    Phase,
    Point,
    Row,
    Served,
    WrongAnswerError,
    right_answers,
)
from typing_extensions import Self

from airflow_triton import model_config
from airflow_triton import repository as repo
from airflow_triton.errors import DeployError, ServerError
from airflow_triton.registry import Registry
from airflow_triton.rollout import Outcome, Rollout, deploy, find_target, opened, rollback
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

PATIENCE = 20.0
"""Seconds within which the run after a kill must be done: it does not wait for the dead (a lease is worth 30)."""

ATTEMPTS = 3
"""A phase that sends several requests at once may send one less than when it was recorded, and not come to the last point."""


class Campaign:
    """Everything that is needed to kill phases: the ground, with the server on it, and the phases' starting points.

    `mapping` makes specs (the fixture of tests/conftest.py) that name the ground's repository and server. `parts`: the size from which
    on the killed send and copy files in parts; None: the package's own. Use as a context manager.
    """

    def __init__(self, ground: Ground, mapping: Callable[..., Mapping], *, parts: int | None = None) -> None:
        self.ground = ground
        self.store = ground.store
        self.mapping = mapping
        self.parts = parts
        self.client = TritonClient(ServerAddress.parse(ground.triton.grpc_url))
        self.registry = Registry(mapping()["tracking_uri"])
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
        return self._deployment("first deployment", [], self._spec(3), convert=True)

    def config_change(self) -> list[Phase]:
        """Version 1 serves and stays, its configuration changes."""
        return self._deployment("config change", [self._spec(1)], self._spec(1, batch=32))

    def large_model(self) -> list[Phase]:
        """As `new_version`; version 3 is so large that it is sent and copied in parts."""
        return self._deployment("large model", [self._spec(1)], self._spec(3), convert=True)

    def roll_back(self) -> list[Phase]:
        """Version 3 serves, 1 is kept; back to it."""
        self._empty()
        self._deploy(self._spec(1))
        spec = self._spec(3, keep=1)
        self._deploy(spec)
        old, expected = self.served(), self.ground.files()
        assert old == Served(3, 16)
        new = Served(1, 16)
        start = (self.ground.copied(), self._loaded())
        return [Phase("rollback", "rollback", spec, {"to": 1}, *start, old=old, new=new, done=new, expected=expected)]

    def _spec(self, version: int, *, batch: int = 16, keep: int = 0) -> Mapping:
        """A spec whose checks need no process of their own: the same deployment can run a thousand times."""
        spec = self.mapping(
            version, config={"max_batch_size": batch, "instance_group": [{"count": 1}]}, promote={"alias": ALIAS, "keep": keep}
        )
        return {**spec, "validate": {**spec["validate"], "parity": False}}

    def _deployment(self, scenario: str, earlier: list[Mapping], mapping: Mapping, *, convert: bool = False) -> list[Phase]:
        self._empty()
        for each in earlier:
            self._deploy(each)
        old = self.served()
        spec = spec_from_mapping(mapping)
        starts = []
        with opened(spec, find_target(spec)) as rollout:
            untouched = (self.ground.copied(), self._loaded())
            source = rollout.resolve()
            if convert:
                starts.append(("convert", {"source": source}, *untouched))
            converted = rollout.convert(source)
            config = rollout.configure(converted)
            starts.append(("stage", {"converted": converted, "config": config}, self.ground.copied(), self._loaded()))
            self.ground.settle()
            candidate = rollout.stage(converted, config)
            report = rollout.validate(candidate)
            starts.append(("promote", {"candidate": candidate, "report": report}, self.ground.copied(), self._loaded()))
            rollout.promote(candidate, report)
            starts.append(("clean up", {"source": source}, self.ground.copied(), self._loaded()))
            rollout.clean_up(source)
        new = self.served()
        assert new is not None
        may = {"convert": (old, old), "stage": (old, old), "promote": (old, new), "clean up": (new, new)}
        expected = self.ground.files()
        return [
            Phase(scenario, name, mapping, _plain(arguments), snapshot, loaded, *may[name], new, expected)
            for name, arguments, snapshot, loaded in starts
        ]

    def _deploy(self, mapping: Mapping) -> None:
        spec = spec_from_mapping(mapping)
        self.ground.settle()
        with opened(spec, find_target(spec)) as rollout:
            deploy(rollout)

    def _empty(self) -> None:
        self._unload_all()
        self.ground.restore(None)

    def _restore(self, phase: Phase) -> None:
        """Repository, server and registry as they were before the phase."""
        self._unload_all()
        self.ground.restore(phase.snapshot)
        for model in phase.loaded:
            self.client.load(model)
        self.registry.set_alias(MODEL, ALIAS, 2)
        self.ground.settle()

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
        """What answers on a server that was started just now and knows nothing but the repository."""
        server = self.ground.fresh_server()
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
        if self.store.files(self.store.model_place(MODEL)):
            try:
                client.load(MODEL)
            except ServerError as error:
                if self.store.read_config(MODEL) is not None:
                    raise WrongAnswerError(f"a server that starts cannot load it: {error}") from None
        return self.served(client)

    # --- one kill

    def record(self, phase: Phase) -> list[Point]:
        """All kill points of a phase: it runs to its end once."""
        self._restore(phase)
        code, points = self.ground.record(self._job(phase))
        assert code == 0, f"{phase} failed without being killed"
        assert self.served() == phase.new
        return points

    def kill(self, phase: Phase, point: Point, row: Row, *, restart: bool) -> None:
        """Kill the phase at one kill point, check everything, and write the result into `row`.

        The deployment runs again with the server as it was left or, with `restart`, after the server has come up again.
        """
        started = time.monotonic()
        for _ in range(ATTEMPTS):
            self._restore(phase)
            code, died = self.ground.kill(self._job(phase), point)
            if code:
                break
        assert code == -signal.SIGKILL, f"{phase}, {point}: exit status {code}"
        assert died is not None, f"{phase}, {point}: it died elsewhere"
        row.killed.append(died)
        where = f"{phase}, kill point {row.points.index(point) + 1} ({died})"
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

    def _job(self, phase: Phase) -> Mapping:
        """What the worker is told. Only a conversion needs MLflow; for all others it is down, as far as they know."""
        down = {} if phase.name == "convert" else {"tracking_uri": f"sqlite:///{self.ground.folder}/no-such-store.db"}
        return {"spec": {**phase.spec, **down}, "phase": phase.name, "arguments": phase.arguments, "parts": self.parts}

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
            if self.store.on_disk and (versions := self.store.versions(MODEL)):
                raise WrongAnswerError(f"versions {versions} lie there without config.pbtxt: Triton may guess what to do with them")
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
        started = time.monotonic()
        with opened(spec, find_target(spec)) as rollout:
            outcome = _again(phase, rollout)
        if (took := time.monotonic() - started) > PATIENCE:
            raise LeftOverError(f"run again, it took {took:.0f} s: it waited for the dead")
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
        found = self.ground.files()
        if found != phase.expected:
            raise LeftOverError(f"the repository has {sorted(found - phase.expected)} and lacks {sorted(phase.expected - found)}")
        if over := self.ground.left_over():
            raise LeftOverError("; ".join(over))
        if self._loaded() != (MODEL,):
            raise LeftOverError(f"the server has {self._loaded()}")


def _again(phase: Phase, rollout: Rollout) -> Outcome:
    if phase.name != "rollback":
        return deploy(rollout)
    return rollback(rollout.spec.name, store=rollout.store, servers=rollout.servers, registry=rollout.registry, to=phase.arguments["to"])


def _plain(arguments: Mapping) -> Mapping:
    """The arguments as JSON has them."""
    return {name: value if isinstance(value, str) else value.model_dump(mode="json") for name, value in arguments.items()}
