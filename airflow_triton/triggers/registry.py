"""Waiting, in the triggerer, for a version, an alias or a tag in MLflow's registry; and watching it, to start deployments.

MLflow has no asynchronous client, and its own one knows every way to log in: so each registry is listed by one thread, once per
interval, for all who wait for anything in it. A thousand waits cost as much as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_triton.asked import KEPT_AS, mark_of
from airflow_triton.triggers.shared import Seen, SharedLook, in_thread, shared
from airflow_triton.triggers.waiting import WaitTrigger

if TYPE_CHECKING:
    from airflow.sdk import Asset

    from airflow_triton.registry import Registered, Registry
    from airflow_triton.spec import Spec

WATCH_SECONDS = 30
"""How often a registry is listed for the deployments that follow it, unless `[triton] registry_poll_seconds` says otherwise."""


class ModelVersionTrigger(WaitTrigger):
    """Fires `there` once the registry has a version of `model` that fits: see ModelVersionSensor, whose arguments these are.

    :param poll_interval: seconds between two looks at the registry; see WaitTrigger for it and the further ones
    """

    def __init__(
        self,
        *,
        model: str,
        version: int | None = None,
        alias: str | None = None,
        tag: str | None = None,
        tag_value: str | None = None,
        newer_than: int | None = None,
        tracking_uri: str | None = None,
        poll_interval: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(poll_interval=poll_interval, **kwargs)
        self.model = model
        self.version = version
        self.alias = alias
        self.tag = tag
        self.tag_value = tag_value
        self.newer_than = newer_than
        self.tracking_uri = tracking_uri
        self._held: list[SharedLook[Any]] = []
        self._told = ""

    @property
    def wait_id(self) -> str:
        """See WaitTrigger."""
        return f"models:/{self.model}"

    def arguments(self) -> dict[str, Any]:
        """See WaitTrigger."""
        return {
            "model": self.model,
            "version": self.version,
            "alias": self.alias,
            "tag": self.tag,
            "tag_value": self.tag_value,
            "newer_than": self.newer_than,
            "tracking_uri": self.tracking_uri,
        }

    async def look(self) -> tuple[bool, float]:
        """See WaitTrigger."""
        looks: list[SharedLook[Any]] = [_models(self.tracking_uri, self.poll_interval)]
        if self.tag is not None:
            looks.append(_tagged(self.tracking_uri, self.tag, self.tag_value, self.poll_interval))
        self._held = looks
        seen = await asyncio.gather(*(look.latest() for look in looks))
        self._told = _warn(self, self._told, seen)
        next_at = min(each.next_at for each in seen)
        models, tagged = seen[0].answer, seen[-1].answer if self.tag is not None else {}
        if models is None or tagged is None:
            return False, next_at
        from airflow_triton.rollout.wanted import Wish

        wish = Wish(self.version, self.alias, self.tag, self.newer_than)
        return wish.fulfilled_by(models.get(self.model), tagged.get(self.model, ())) is not None, next_at


class RegistryTrigger(BaseEventTrigger):
    """The watcher of a deployment: fires whenever the registry asks for another version than it did, or the spec is another one.

    The payload is `{"name": "iris", "model": "models:/iris@challenger", "version": 7}`. It also fires when it looks for the first time.
    What was asked for last is kept with the asset (Airflow 3.3 and newer), once the event is on its way: after a crash of the triggerer
    an event may come twice, and is never lost; the deployment of a version that is released already has nothing to do. A receiver of
    webhooks keeps there what it started a run for: the watcher makes no second one of it.

    :param name: the model's name on Triton
    :param model: models:/NAME@ALIAS or models:/NAME/latest
    :param digest: the spec's
    :param tracking_uri: MLflow's; default: the triggerer's environment
    """

    def __init__(self, *, name: str, model: str, digest: str, tracking_uri: str | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name
        self.model = model
        self.digest = digest
        self.tracking_uri = tracking_uri

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See Airflow's class."""
        return f"{__name__}.RegistryTrigger", {
            "name": self.name,
            "model": self.model,
            "digest": self.digest,
            "tracking_uri": self.tracking_uri,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """See Airflow's class."""
        from airflow.sdk import conf

        look = _models(self.tracking_uri, conf.getfloat("triton", "registry_poll_seconds", fallback=WATCH_SECONDS))
        kept = await self._kept()
        last, told = kept, ""
        while True:
            seen = await look.latest()
            if last != kept:
                kept = await self._keep(last)
            told = _warn(self, told, [seen])
            version = None if seen.answer is None else self._asked(seen.answer)
            if version is not None and last != mark_of(version, self.digest):
                last, kept = mark_of(version, self.digest), await self._kept()
                if last != kept:
                    yield TriggerEvent({"name": self.name, "model": self.model, "version": version})  # type: ignore[no-untyped-call]
            await asyncio.sleep(max(0.0, seen.next_at - asyncio.get_running_loop().time()))

    def _asked(self, registered: Mapping[str, Registered]) -> int | None:
        from airflow_triton.rollout.wanted import wanted

        return wanted(self.model, registered)

    async def _kept(self) -> str | None:
        store = getattr(self, "asset_state_store", None)
        return None if store is None else await store.aget(KEPT_AS)

    async def _keep(self, asked: str | None) -> str | None:
        store = getattr(self, "asset_state_store", None)
        if store is not None:
            await store.aset(KEPT_AS, asked)
        return asked


def watched(spec: Spec) -> Asset:
    """What a deployment that follows the registry is scheduled on: its asset, with the watcher that makes events on it."""
    from airflow.sdk import AssetWatcher

    from airflow_triton.assets import asked_model

    asset = asked_model(spec.name)
    trigger = RegistryTrigger(name=spec.name, model=spec.model, digest=spec.digest(), tracking_uri=spec.tracking_uri)
    asset.watchers = [AssetWatcher(name=f"registry/{spec.name}", trigger=trigger)]
    return asset


def _models(tracking_uri: str | None, every: float) -> SharedLook[Mapping[str, Registered]]:
    return shared(("models", tracking_uri), lambda: in_thread(lambda: _registry(tracking_uri).models()), every)


def _tagged(tracking_uri: str | None, key: str, value: str | None, every: float) -> SharedLook[Mapping[str, tuple[int, ...]]]:
    question = ("tagged", tracking_uri, key, value)
    return shared(question, lambda: in_thread(lambda: _registry(tracking_uri).tagged_models(key, value)), every)


def _registry(tracking_uri: str | None) -> Registry:
    """For a thread: what is imported here would hold the event loop up."""
    import airflow_triton.rollout.wanted  # noqa: F401 for those who read the answer
    from airflow_triton.registry import Registry

    return Registry(tracking_uri)


def _warn(trigger: Any, told: str, seen: list[Seen[Any]]) -> str:
    """Log a problem that is new; answer it, or "" where there is none."""
    problem = next((str(each.problem) for each in seen if each.problem), "")
    if problem and problem != told:
        trigger.log.warning("%s", problem)
    return problem
