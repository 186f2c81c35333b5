"""The pipeline against real Tritons in POLL and in NONE mode."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests_support import everything_below

from airflow_triton.cli import main
from airflow_triton.errors import ControlModeError, LocalTritonError, RejectedError, ServerError, ServerUnreachableError, SpecError
from airflow_triton.hooks import AirflowConnections
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository
from airflow_triton.rollout import Deleted, Outcome, Rollout, control, delete, deploy, find_target, opened, rollback
from airflow_triton.rollout.serving import Servers
from airflow_triton.rollout.trial import TRIAL_SERVER
from airflow_triton.sensors.ready import ModelReadySensor
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

Mapping = dict[str, Any]
Make = Callable[..., Mapping]
ARGUMENTS = ["--disable-auto-complete-config"]


def run(mapping: Mapping, step: Callable[[Rollout], Any] = deploy) -> Any:
    """Do something with a rollout of this spec; by default all of it."""
    spec = spec_from_mapping(mapping)
    with opened(spec, find_target(spec)) as rollout:
        return step(rollout)


def roll_back(mapping: Mapping) -> Outcome:
    """Roll the spec's model back."""
    spec = spec_from_mapping(mapping)
    target = find_target(spec)
    with Servers.connected(target.addresses) as servers:
        return rollback(spec.name, store=target.store, servers=servers, registry=Registry(spec.tracking_uri))


def made(server: LocalTriton, mode: str, tracking_uri: str, holdout: Any) -> Make:
    """Makes the content of a spec for this server."""

    def make(version: int = 1, **keys: Any) -> Mapping:
        return {
            "name": "blobs",
            "model": f"models:/blobs/{version}",
            "repository": str(server.repository),
            "servers": [server.grpc_url],
            "control_mode": mode,
            "tracking_uri": tracking_uri,
            "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},
            "validate": {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}}},
            "promote": {"alias": "champion"},
            **keys,
        }

    return make


def client_of(server: LocalTriton) -> TritonClient:
    """A client, to be closed."""
    return TritonClient(ServerAddress.parse(server.grpc_url))


@pytest.fixture(scope="module")
def polling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A server in POLL mode, which polls each second, for the whole module."""
    with LocalTriton(tmp_path_factory.mktemp("poll") / "models", mode="poll", extra_args=ARGUMENTS) as server:
        yield server


@pytest.fixture
def polled(polling: LocalTriton, tracking_uri: str, holdout: Any) -> Iterator[Make]:
    """Makes specs for `polling`, whose repository is empty before and after."""
    root = LocalRepository(polling.repository).root

    def empty() -> None:
        for folder in root.iterdir():
            shutil.rmtree(folder)
        with client_of(polling) as client:
            client.wait_unloaded("blobs")

    empty()
    yield made(polling, "poll", tracking_uri, holdout)
    empty()


def loads(log: str) -> list[str]:
    """The model of each load that the server's log tells of, in order."""
    return re.findall(r'"loading: (\S+):\d+"', log)


@contextmanager
def watched(server: LocalTriton) -> Iterator[list[tuple[str, str, str]]]:
    """What the server's index showed meanwhile, as (name, state, reason), each once."""
    seen: dict[tuple[str, str, str], None] = {}
    stop = threading.Event()

    def look() -> None:
        with client_of(server) as client:
            while not stop.wait(0.02):
                seen.update(dict.fromkeys((row.name, row.state, row.reason) for row in client.index()))

    thread = threading.Thread(target=look)
    thread.start()
    found: list[tuple[str, str, str]] = []
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        found.extend(seen)


def test_poll_serves_release_after_release_and_goes_back(polled: Make, polling: LocalTriton) -> None:
    """Deploy, another version, another configuration, a rejected version, back and back; no load fails and no half model is seen."""
    store = LocalRepository(polling.repository)
    assert polling.log_file is not None
    start = len(polling.log_file.read_text())
    with client_of(polling) as client, watched(polling) as seen:
        first = run(polled(1))
        assert (first.action, first.warnings, client.ready_versions("blobs")) == ("promoted", (), (1,))
        assert run(polled(1)).action == "unchanged"
        assert (run(polled(3)).action, client.ready_versions("blobs")) == ("promoted", (3,))
        run(polled(3, config={"instance_group": [{"count": 1, "kind": "KIND_CPU"}], "max_batch_size": 16}))
        assert client.config("blobs", 3)["max_batch_size"] == 16
        before = everything_below(store.root, content=True)
        with pytest.raises(RejectedError):
            run(polled(2))
        assert everything_below(store.root, content=True) == before
        assert client.ready_versions("blobs") == (3,)
        assert {row.name for row in client.index() if row.state == "READY"} == {"blobs"}
        assert (roll_back(polled()).version, client.config("blobs", 3)["max_batch_size"]) == (3, 64)
        assert sorted(path.name for path in store.root.iterdir()) == ["blobs"]
    log = polling.log_file.read_text()[start:]
    assert [line for line in log.splitlines() if line.startswith("E") or "failed" in line] == []
    assert all(name == "blobs" or name.startswith("blobs--candidate-") for name, _, _ in seen)
    assert {reason for _, _, reason in seen} <= {"", "unloaded"}
    candidates = {name for (name, state, _) in seen if state == "READY" and name != "blobs"}
    assert len(candidates) == 4
    assert sorted(name for name in loads(log) if name != "blobs") == sorted(candidates)


def test_poll_takes_nothing_for_changed_that_is_not(polled: Make, polling: LocalTriton) -> None:
    """By mtime and ctime: neither clearing away after a release, nor another candidate of the same files, loads again what serves."""
    model = Path(polling.repository) / "blobs" / "1" / "model.onnx"

    def loaded(mapping: Mapping) -> list[str]:
        assert polling.log_file is not None
        start = len(polling.log_file.read_text())
        run(mapping)
        time.sleep(2.5)  # two polls
        return loads(polling.log_file.read_text()[start:])

    first = loaded(polled(1))
    changed = model.stat().st_ctime_ns
    again = loaded(polled(1, config={"instance_group": [{"count": 1, "kind": "KIND_CPU"}], "max_batch_size": 16}))

    assert [name.partition("--")[:2] for name in first + again] == [("blobs", "--"), ("blobs", "")] * 2
    assert (model.stat().st_ctime_ns, model.stat().st_nlink) == (changed, 1)


def test_pollers_share_a_release(tracking_uri: str, holdout: Any, tmp_path: Path) -> None:
    """Two servers that poll one repository at other moments: a release and the way back reach both, or none.

    One that is down ends a deployment and a rollback at their first step. One that goes down before the release has reached it: the
    release is put back, and it follows config.pbtxt when it starts again.
    """
    root = tmp_path / "models"
    first, second = (LocalTriton(root, mode="poll", poll_seconds=seconds, extra_args=ARGUMENTS) for seconds in (1, 2))
    store = LocalRepository(root)
    with first, second, client_of(first) as one, client_of(second) as other:
        make = made(first, "poll", tracking_uri, holdout)
        servers = [first.grpc_url, second.grpc_url]

        def ready() -> list[tuple[int, ...]]:
            return [client.ready_versions("blobs") for client in (one, other)]

        def dying(rollout: Rollout) -> Outcome:
            rollout.progress = lambda line: second.stop() if line.startswith("promote:") else None
            return deploy(rollout)

        run(make(1, servers=servers))
        assert ready() == [(1,), (1,)]
        before = everything_below(root), store.read_config("blobs")

        with pytest.raises(ServerUnreachableError, match=r"it will follow config\.pbtxt when it starts again") as told:
            run(make(3, servers=servers), dying)
        assert "what served before serves again" in str(told.value)
        assert (everything_below(root), store.read_config("blobs")) == before
        with pytest.raises(ServerUnreachableError, match=second.grpc_url.removeprefix("grpc://")):
            run(make(3, servers=servers))
        assert one.ready_versions("blobs") == (1,)
        assert (everything_below(root), store.read_config("blobs")) == before

        second.start()
        assert ready() == [(1,), (1,)]
        run(make(3, servers=servers))
        assert ready() == [(3,), (3,)]
        before = everything_below(root), store.read_config("blobs")
        with pytest.raises(ServerUnreachableError):
            roll_back(make(servers=[*servers, f"grpc://127.0.0.1:{free_port()}"]))
        assert (everything_below(root), store.read_config("blobs")) == before
        assert ready() == [(3,), (3,)]
        assert roll_back(make(servers=servers)).version == 1
        assert ready() == [(1,), (1,)]
        assert [path.name for path in store.root.iterdir()] == ["blobs"]


def test_poll_release_that_is_not_taken_is_put_back(polled: Make, polling: LocalTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version whose file Triton cannot open, and a server that does not poll: config.pbtxt is as before, and what served serves."""
    store = LocalRepository(polling.repository)
    run(polled(1))
    config = store.read_config("blobs")

    def broken(rollout: Rollout) -> Outcome:
        source = rollout.resolve()
        converted = rollout.convert(source)
        candidate = rollout.stage(converted, rollout.configure(converted))
        report = rollout.validate(candidate)
        put = store.__class__.put

        def put_broken(self: LocalRepository, place: Any, items: Any, **options: Any) -> bool:
            done = put(self, place, items, **options)
            model = self.path(place) / "model.onnx"
            model.unlink()
            model.write_bytes(b"\0no")
            return done

        with monkeypatch.context() as patched:
            patched.setattr(LocalRepository, "put", put_broken)
            try:
                return rollout.promote(candidate, report)
            finally:
                patched.undo()
                rollout.clean_up(source)

    def impatient(rollout: Rollout) -> Outcome:
        source = rollout.resolve()
        converted = rollout.convert(source)
        candidate = rollout.stage(converted, rollout.configure(converted))
        report = rollout.validate(candidate)
        with monkeypatch.context() as patched:
            patched.setattr(control, "POLL_SECONDS", 0.0)
            try:
                return rollout.promote(candidate, report)
            finally:
                patched.undo()
                rollout.clean_up(source)

    with client_of(polling) as client:
        with pytest.raises(ServerError, match=r"(?s)cannot load version 3 of `blobs`.*INVALID_PROTOBUF.*what served before serves again"):
            run(polled(3), broken)
        assert client.ready_versions("blobs") == (1,)
        assert store.read_config("blobs") == config

        other = {"instance_group": [{"count": 1, "kind": "KIND_CPU"}], "max_batch_size": 16}
        with pytest.raises(ServerError, match=r"is the server in POLL mode.*what served before serves again"):
            run(polled(1, config=other), impatient)
        assert client.ready_versions("blobs") == (1,)
        assert store.read_config("blobs") == config
        assert run(polled(3)).action == "promoted"


def test_configuration_is_taken_when_it_differs_from_the_one_before() -> None:
    """A field that is removed is seen to be gone; what the server adds does not count."""
    satisfies = control.satisfies
    loaded = {
        "name": "blobs",
        "max_batch_size": 16,
        "instance_group": [{"name": "blobs_0", "count": 1}],
        "parameters": {"a": {"string_value": "b"}},
    }
    assert satisfies(loaded, "max_batch_size: 16 instance_group { count: 1 } version_policy { specific { versions: 7 } }")
    assert satisfies(loaded, 'parameters { key: "a" value { string_value: "b" } }')
    assert not satisfies(loaded, 'parameters { key: "a" value { string_value: "c" } }')
    assert not satisfies(loaded, "max_batch_size: 8")
    assert not satisfies(loaded, "instance_group { count: 2 }")
    assert not satisfies(loaded, "dynamic_batching { }")


def test_wrong_mode_is_named(mapping: Make, polled: Make) -> None:
    """A declared mode that the server contradicts ends the deployment at its first step; nothing changes."""
    for mode in ("poll", "none"):
        with pytest.raises(ControlModeError, match=f"EXPLICIT mode, and `control_mode` says {mode}"):
            run(mapping(1, control_mode=mode))
    with pytest.raises(ControlModeError, match="control_mode: poll"):
        run(polled(1, control_mode="explicit"))


def test_fleet_has_one_mode() -> None:
    """Connections that say otherwise are refused."""
    addresses = [ServerAddress("http", "h", port, control_mode=mode) for port, mode in ((1, "poll"), (2, None))]
    with pytest.raises(SpecError, match="one control mode"), Servers.connected(addresses):
        pass


def test_none_is_validated_elsewhere_and_serves_after_a_restart(tracking_uri: str, holdout: Any, tmp_path: Path) -> None:
    """The servers are not touched and the repository never holds a candidate; after a restart the released version serves."""
    with LocalTriton(tmp_path / "models", mode="none", extra_args=ARGUMENTS) as server, client_of(server) as client:
        make = made(server, "none", tracking_uri, holdout)
        store = LocalRepository(tmp_path / "models")
        outcome = run(make(1))
        assert outcome.action == "promoted"
        assert [warning.split(";")[0] for warning in outcome.warnings] == ["restart: NONE mode"]
        assert {check.server for check in outcome.report.checks} == {TRIAL_SERVER}
        assert client.ready_versions("blobs") == ()
        restart(server)
        assert client.ready_versions("blobs") == (1,)
        assert run(make(1)).warnings == ()

        seen: list[str] = []
        assert run(make(3), lambda rollout: deploy_watched(rollout, store, seen)).version == 3
        assert set(seen) == {"blobs"}
        again = run(make(3))
        assert (again.action, len(again.warnings)) == ("unchanged", 1)
        with pytest.raises(RejectedError):
            run(make(2))
        assert client.ready_versions("blobs") == (1,)
        assert everything_below(store.work) == {"locks/blobs.lock"}
        sensor = ModelReadySensor(task_id="wait", spec=make(3))
        assert not sensor.poke({})
        restart(server)
        assert client.ready_versions("blobs") == (3,)
        assert sensor.poke({})

        assert roll_back(make()).warnings[0].startswith("restart: NONE mode")
        assert client.ready_versions("blobs") == (3,)
        assert not sensor.poke({})
        assert ModelReadySensor(task_id="three", model="blobs", servers=[server.grpc_url], version=3).poke({})
    assert not sensor.poke({})


def deploy_watched(rollout: Rollout, store: LocalRepository, seen: list[str]) -> Outcome:
    """The pipeline; `seen` gets what the repository holds at each line of its progress."""
    rollout.progress = lambda _: seen.extend(path.name for path in store.root.iterdir())
    return deploy(rollout)


def restart(server: LocalTriton) -> None:
    """Stop the server and start it again, on the same ports."""
    server.stop()
    server.start()


def test_none_says_what_it_needs(polling: LocalTriton, polled: Make) -> None:
    """Where no local Triton can be installed, the deployment ends before anything is published, and says why."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LocalTriton, "start", unable)
        with pytest.raises(LocalTritonError, match=r"control_mode: none.*needs Linux.*no wheel"):
            run(polled(1, control_mode="none"))
    assert list(LocalRepository(polling.repository).root.iterdir()) == []


def unable(_: LocalTriton) -> LocalTriton:
    """A worker on which the local Triton cannot be installed."""
    raise LocalTritonError("no wheel")


def test_spec_wins_over_connection_and_command_over_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the mode comes from; a connection's wrong word is refused."""
    for name, mode in (("said", "poll"), ("silent", None), ("wrong", "polling")):
        extra = {"control_mode": mode} if mode else {}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "triton", "host": "http://h", "extra": extra}))

    def mode_of(connection: str, declared: str | None = None, given: Any = None) -> str | None:
        mapping = {"name": "blobs", "model": "models:/blobs/1", "repository": str(tmp_path), "servers": [connection]}
        spec = spec_from_mapping(mapping | ({"control_mode": declared} if declared else {}))
        return find_target(spec, connections=AirflowConnections(), control_mode=given).addresses[0].control_mode

    assert (mode_of("said"), mode_of("silent"), mode_of("silent", "none")) == ("poll", None, "none")
    assert (mode_of("said", "explicit"), mode_of("said", "explicit", "none")) == ("explicit", "none")
    with pytest.raises(SpecError, match="`wrong` has control_mode `polling`"):
        mode_of("wrong")


def test_command_line_takes_the_mode(polled: Make, polling: LocalTriton) -> None:
    """`rollback NAME --control-mode poll` goes back; without it, the error names the way out."""
    run(polled(1))
    run(polled(3))
    command = ["rollback", "blobs", "--repository", str(polling.repository), "--server", polling.grpc_url]
    environment = {"MLFLOW_TRACKING_URI": polled()["tracking_uri"]}

    refused = CliRunner().invoke(main, command, env=environment)
    done = CliRunner().invoke(main, [*command, "--control-mode", "poll"], env=environment)

    assert (refused.exit_code, done.exit_code) == (1, 0)
    with client_of(polling) as client:
        assert client.ready_versions("blobs") == (1,)


def gone(mapping: Mapping) -> Deleted:
    """Delete the spec's model."""
    spec = spec_from_mapping(mapping)
    with find_target(spec).connected() as fleets:
        return delete(spec.name, fleets, Registry(spec.tracking_uri))


def test_poll_notices_a_deletion(polled: Make, polling: LocalTriton) -> None:
    """The files go, and it ends when the server has let go of the model."""
    run(polled(1))
    outcome = gone(polled(1))
    assert (outcome.action, outcome.warnings) == ("deleted", ())
    with client_of(polling) as client:
        assert not client.is_ready("blobs")  # the index does not list what is not stored, loaded or not
    assert LocalRepository(polling.repository).models() == []


def test_none_says_that_a_deleted_model_serves_until_a_restart(tracking_uri: str, holdout: Any, tmp_path: Path) -> None:
    """The files go at once; a warning says what the server does, which is true, and a restart ends it."""
    with LocalTriton(tmp_path / "models", extra_args=ARGUMENTS) as server:
        run(made(server, "explicit", tracking_uri, holdout)(1))
    with LocalTriton(tmp_path / "models", mode="none", extra_args=ARGUMENTS) as server, client_of(server) as client:
        make = made(server, "none", tracking_uri, holdout)
        assert client.ready_versions("blobs") == (1,)
        outcome = gone(make(1))
        assert [warning.partition(";")[0] for warning in outcome.warnings] == ["restart: NONE mode"]
        assert client.is_ready("blobs", 1)  # the index does not list it any more
        assert LocalRepository(server.repository).models() == []
        server.stop()
        server.start()
        assert not client.is_ready("blobs", 1)
