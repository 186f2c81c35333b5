"""Triggers on an event loop, against the real Triton and the real MLflow: one process holds a thousand waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from airflow_triton.asked import KEPT_AS, mark_of
from airflow_triton.errors import RegistryUnreachableError, SpecError
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registered
from airflow_triton.repository import LocalRepository
from airflow_triton.rollout.wanted import Wish, wanted
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.triggers import shared
from airflow_triton.triggers.ready import ModelReadyTrigger
from airflow_triton.triggers.registry import ModelVersionTrigger, RegistryTrigger
from airflow_triton.triggers.shared import SharedLook
from airflow_triton.triggers.waiting import PauseTrigger, WaitTrigger

CONFIG = """backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { kind: KIND_CPU }
version_policy { specific { versions: [%d] } }
"""


async def event(trigger: WaitTrigger, seconds: float = 30) -> dict[str, Any]:
    """What a trigger fires, after it went through what Airflow's database keeps of it."""
    path, arguments = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__name__}"
    again = type(trigger)(**json.loads(json.dumps(arguments)))
    payload = (await asyncio.wait_for(anext(again.run()), seconds)).payload
    assert payload.pop("deadline") == arguments["deadline"]
    return dict(payload)


async def until(true: Callable[[], Any]) -> None:
    """Return as soon as it is."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 what is waited for knows no event
            await asyncio.sleep(0.01)


def publish(repository: LocalRepository, model: str, version: int) -> None:
    """A version of a model of Triton's Python backend, named by its config.pbtxt."""
    folder = repository.root / model
    (folder / str(version)).mkdir(parents=True)
    (folder / str(version) / "model.py").write_text("class TritonPythonModel:\n    def execute(self, requests): ...\n")
    (folder / "config.pbtxt").write_text(CONFIG % version)


@contextlib.asynccontextmanager
async def counted(url: str) -> AsyncIterator[tuple[str, list[int]]]:
    """A door to a server that counts who comes in."""
    host, port = url.rpartition("//")[2].split(":")
    came: list[int] = []

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await source.read(65536):
                target.write(chunk)
                await target.drain()
        target.close()

    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(1)
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async with await asyncio.start_server(enter, "127.0.0.1", 0) as door:
        yield f"{url.partition('//')[0]}//127.0.0.1:{door.sockets[0].getsockname()[1]}", came


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """An MLflow store of these tests' own, and MLflow's client of it."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"
    return uri, MlflowClient(uri, uri)


def add(client: Any, name: str, versions: int) -> None:
    """A registered model with so many versions, whatever was there of this name."""
    if client.search_registered_models(f"name='{name}'"):
        client.delete_registered_model(name)
    client.create_registered_model(name)
    for _ in range(versions):
        client.create_model_version(name, "/nowhere")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_ready_once_every_server_serves_the_version_and_no_higher_one(
    triton: LocalTriton, repository: LocalRepository, protocol: str
) -> None:
    """One server of two that has it is not enough, nor is a higher version; then it fires."""
    address = ServerAddress.parse(triton.http_url if protocol == "http" else triton.grpc_url)
    other = LocalTriton(repository.root, extra_args=["--disable-auto-complete-config"])

    async def main(second: TritonClient) -> None:
        wait = asyncio.create_task(
            event(ModelReadyTrigger(model="m", version=2, servers=[address.url, other.grpc_url], poll_interval=0.05))
        )
        await asyncio.to_thread(first.load, "m")
        await asyncio.sleep(0.3)
        assert not wait.done()
        await asyncio.to_thread(second.load, "m")
        assert await wait == {"status": "there", "id": "m", "error_type": None}
        higher = ModelReadyTrigger(model="m", version=1, servers=[address.url], poll_interval=0.05, look_again=0.3)
        assert (await event(higher))["status"] == "due"

    publish(repository, "m", 2)
    with TritonClient(address) as first, other, TritonClient(ServerAddress.parse(other.grpc_url)) as second:
        asyncio.run(main(second))


def test_a_server_that_does_not_answer_is_unknown_until_it_does(repository: LocalRepository) -> None:
    """Nothing fires while nobody listens; the log says it once; it fires when the server is there."""
    port = free_port()
    publish(repository, "m", 1)
    server = LocalTriton(repository.root, mode="none", http_port=port, extra_args=["--disable-auto-complete-config"])

    async def main() -> None:
        wait = asyncio.create_task(
            event(ModelReadyTrigger(model="m", version=1, servers=[f"http://127.0.0.1:{port}"], poll_interval=0.02), seconds=60)
        )
        await until(lambda: told)
        await asyncio.to_thread(server.start)
        assert (await wait)["status"] == "there"

    with contextlib.closing(contextlib.ExitStack()) as after, capture_logs() as told:
        after.callback(server.stop)
        asyncio.run(main())
    warned = [str(line) for line in told]
    assert f"http://127.0.0.1:{port} did not answer" in warned[0]
    assert len(warned) == len(set(warned))


def test_a_thousand_waits_ask_a_server_once_per_interval_and_end_together(triton: LocalTriton, repository: LocalRepository) -> None:
    """A thousand triggers of five models: a handful of calls, a handful of threads, and none is left behind."""
    before = threading.active_count()

    async def main() -> tuple[int, int]:
        async with counted(triton.http_url) as (url, came):
            waits = [
                asyncio.create_task(event(ModelReadyTrigger(model=f"m{number % 5}", version=1, servers=[url], poll_interval=0.5)))
                for number in range(1000)
            ]
            started = asyncio.get_running_loop().time()
            await until(lambda: len(came) >= 4)
            assert not any(wait.done() for wait in waits)
            for number in range(5):
                await asyncio.to_thread(client.load, f"m{number}")
            loaded = asyncio.get_running_loop().time()
            assert {fired["status"] for fired in await asyncio.gather(*waits)} == {"there"}
            rounds = (asyncio.get_running_loop().time() - started) / 0.5 + 2
            assert len(came) <= rounds, f"{len(came)} calls in {loaded - started:.1f} s"
            return len(came), threading.active_count() - before

    for number in range(5):
        publish(repository, f"m{number}", 1)
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        calls, threads = asyncio.run(main())
    assert calls >= 4
    assert threads <= shared.THREADS + 8  # the test's own among them


def test_a_thousand_waits_for_the_registry_list_it_once_per_interval(registry: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand triggers for aliases of ten models, all of one registry: one listing an interval, in one thread."""
    from airflow_triton.registry import Registry

    uri, client = registry
    for number in range(10):
        add(client, f"m{number}", 1)
    listings: list[str] = []
    models = Registry.models

    def counting(self: Registry, name: str | None = None) -> dict[str, Registered]:
        listings.append(threading.current_thread().name)
        return models(self, name)

    monkeypatch.setattr(Registry, "models", counting)

    async def main() -> None:
        waits = [
            asyncio.create_task(event(ModelVersionTrigger(model=f"m{number % 10}", alias="champion", tracking_uri=uri, poll_interval=0.2)))
            for number in range(1000)
        ]
        await until(lambda: len(listings) >= 3)
        assert not any(wait.done() for wait in waits)
        started, listed = asyncio.get_running_loop().time(), len(listings)
        await asyncio.to_thread(lambda: [client.set_registered_model_alias(f"m{number}", "champion", "1") for number in range(10)])
        assert {fired["id"] for fired in await asyncio.gather(*waits)} == {f"models:/m{number}" for number in range(10)}
        assert len(listings) - listed <= (asyncio.get_running_loop().time() - started) / 0.2 + 2

    asyncio.run(main())
    assert all(name.startswith("triton-look") for name in listings)
    assert len(set(listings)) <= shared.THREADS


@pytest.mark.parametrize(
    ("wish", "appears"),
    [
        ({"version": 3}, lambda client: client.create_model_version("iris", "/nowhere")),
        ({"newer_than": 2}, lambda client: client.create_model_version("iris", "/nowhere")),
        ({"alias": "live"}, lambda client: client.set_registered_model_alias("iris", "live", "1")),
        ({"alias": "old", "version": 1}, lambda client: client.set_registered_model_alias("iris", "old", "1")),
        ({"tag": "ok"}, lambda client: client.set_model_version_tag("iris", "2", "ok", "")),
        ({"tag": "state", "tag_value": "good"}, lambda client: client.set_model_version_tag("iris", "2", "state", "good")),
    ],
    ids=["version", "newer", "alias", "alias of a version", "tag", "tag with a value"],
)
def test_a_version_an_alias_and_a_tag_appear(registry: tuple[str, Any], wish: dict[str, Any], appears: Callable[[Any], Any]) -> None:
    """Nothing fires before it is there, by the look of the real store; then it does."""
    uri, client = registry
    add(client, "iris", 2)
    client.set_registered_model_alias("iris", "old", "2")
    client.set_model_version_tag("iris", "1", "state", "bad")

    async def main() -> None:
        early = ModelVersionTrigger(model="iris", **wish, tracking_uri=uri, poll_interval=0.05, look_again=0.2)
        assert (await event(early))["status"] == "due"
        await asyncio.to_thread(appears, client)
        assert await event(ModelVersionTrigger(model="iris", **wish, tracking_uri=uri, poll_interval=0.05)) == {
            "status": "there",
            "id": "models:/iris",
            "error_type": None,
        }

    asyncio.run(main())


def test_a_registry_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    """No store at that place: the trigger says so, and it is time for the sensor to look itself."""
    trigger = ModelVersionTrigger(model="iris", tracking_uri=f"sqlite:///{tmp_path}/none.db", poll_interval=0.02, look_again=0.2)

    with capture_logs() as told:
        assert asyncio.run(event(trigger))["status"] == "due"
    assert "there is no MLflow store" in str(told)
    assert not (tmp_path / "none.db").exists()


def test_a_connection_that_is_not_there_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no later look can mend is told at once, by the kind of error alone; connections are read from Airflow."""
    monkeypatch.setenv("AIRFLOW_CONN_T_BAD", json.dumps({"conn_type": "triton"}))

    fired = asyncio.run(event(ModelReadyTrigger(model="m", version=1, servers=["t_bad"])))

    assert fired == {"status": "failed", "id": "m", "error_type": "SpecError"}


def test_a_pause_is_due_and_can_be_cancelled() -> None:
    """It fires when its time has come; a trigger that is cancelled leaves no task behind."""

    async def main() -> None:
        assert await event(PauseTrigger(name="m", poll_interval=1, look_again=0.01)) == {"status": "due", "id": "m", "error_type": None}
        wait = asyncio.create_task(event(PauseTrigger(name="m", poll_interval=1)))
        await asyncio.sleep(0.05)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_looks_that_fail_are_repeated_with_growing_pauses() -> None:
    """0.01 s becomes 0.02, 0.04, ...; an answer starts it anew; one who gives up does not end the look of the others."""
    asked: list[float] = []

    async def ask() -> str:
        asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        if len(asked) < 5:
            raise RegistryUnreachableError("nobody")
        return "here"

    async def main() -> None:
        look = SharedLook(ask, 0.01)
        loop = asyncio.get_running_loop()
        pauses = []
        for _ in range(4):
            impatient = asyncio.create_task(look.latest())
            await asyncio.sleep(0)
            impatient.cancel()
            seen = await look.latest()
            assert (seen.answer, str(seen.problem)) == (None, "nobody")
            pauses.append(seen.next_at - loop.time())
            await asyncio.sleep(max(0, seen.next_at - loop.time()))
        assert pauses == sorted(pauses)
        assert pauses[-1] > 4 * pauses[0]
        assert (await look.latest()).answer == "here"
        assert (await look.latest()).answer == "here"
        assert len(asked) == 5

    asyncio.run(main())


def test_a_wrong_question_is_no_answer() -> None:
    """SpecError reaches everyone who asks."""

    async def ask() -> str:
        raise SpecError("wrong")

    async def main() -> None:
        look = SharedLook(ask, 60)
        for found in await asyncio.gather(*(look.latest() for _ in range(3)), return_exceptions=True):
            assert isinstance(found, SpecError)

    asyncio.run(main())


class StoreInMemory:
    """Stands in for Airflow's store of an asset's state."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        """What was kept."""
        return self.kept.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        """Keep it."""
        self.kept[key] = value


def test_the_watcher_fires_when_the_alias_moves_and_when_the_spec_changes(
    registry: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look, then each move of the alias; what was asked for already starts nothing, whoever did; a lost event comes again."""
    monkeypatch.setenv("AIRFLOW__TRITON__REGISTRY_POLL_SECONDS", "0.05")
    uri, client = registry
    add(client, "iris", 3)
    client.set_registered_model_alias("iris", "challenger", "1")
    store = StoreInMemory()

    def watcher(digest: str = "d1") -> RegistryTrigger:
        trigger = RegistryTrigger(name="iris", model="models:/iris@challenger", digest=digest, tracking_uri=uri)
        again = RegistryTrigger(**json.loads(json.dumps(trigger.serialize()[1])))
        again.asset_state_store = store  # type: ignore[assignment]
        return again

    async def nothing_comes(events: Any) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(events), 0.3)

    async def main() -> None:
        events = watcher().run()
        first = (await anext(events)).payload
        assert first == {"name": "iris", "model": "models:/iris@challenger", "version": 1}
        lost = watcher().run()  # as after a crash before the event was on its way
        assert (await anext(lost)).payload["version"] == 1
        await asyncio.to_thread(client.set_registered_model_alias, "iris", "champion", "2")
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await asyncio.to_thread(client.set_registered_model_alias, "iris", "challenger", "3")
        assert (await waiting).payload["version"] == 3
        await nothing_comes(events)
        await nothing_comes(watcher().run())
        assert (await anext(watcher("d2").run())).payload["version"] == 3
        waiting = asyncio.create_task(anext(watcher().run()))
        await asyncio.sleep(0.2)
        store.kept[KEPT_AS] = mark_of(1, "d1")  # a receiver of webhooks started the run
        await asyncio.to_thread(client.set_registered_model_alias, "iris", "challenger", "1")
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await asyncio.to_thread(client.set_registered_model_alias, "iris", "challenger", "2")
        assert (await waiting).payload["version"] == 2

    asyncio.run(main())


def test_what_a_registry_asks_for() -> None:
    """Alias and latest by one look; what is not there, or always means the same, is no version."""
    there = {"a": Registered(aliases={"live": 2}, latest=5), "empty": Registered(aliases={}, latest=None)}

    found = [wanted(f"models:/{uri}", there) for uri in ("a@live", "a/latest", "a@other", "empty/latest", "none/latest", "a/2")]

    assert found == [2, 5, None, None, None, None]
    assert Wish(alias="live", version=5).fulfilled_by(there["a"]) is None
    assert Wish(tag="t", newer_than=1).fulfilled_by(there["a"], (1, 3, 4)) == 4
    assert Wish(tag="t", alias="live").fulfilled_by(there["a"], (1, 3)) is None
    assert Wish(version=6).fulfilled_by(there["a"]) is None
