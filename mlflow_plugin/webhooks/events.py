"""What an event says, and which deployments it concerns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_triton.rollout.following import followed
from airflow_triton.rollout.verdicts import TAG_PREFIX
from airflow_triton.spec import Spec
from airflow_triton.spec.values import follows_registry
from mlflow_plugin.webhooks.check import RefusedDeliveryError

DEFAULT_EVENTS = ("model_version.created", "model_version_alias.created")
"""What can move a deployment. The tags that a deployment writes would only come back."""

_OF_TAGS = ("model_version_tag.set", "model_version_tag.deleted")
_IGNORED = {
    "registered_model.created": "a new registered model has no version yet",
    "model_version_alias.deleted": "a removed alias asks for nothing; what serves goes on serving",
}


@dataclass(frozen=True)
class Event:
    """What happened in the registry: `kind` as MLflow writes it (`model_version_alias.created`), and to what."""

    kind: str
    data: dict[str, Any]

    @property
    def model(self) -> str:
        """The registered model that it happened to."""
        return str(self.data.get("name", ""))


@dataclass(frozen=True)
class Concern:
    """The deployments that an event concerns, by their names; where there are none, why."""

    names: tuple[str, ...]
    why: str = ""


def parse(body: bytes) -> Event:
    """The event of a delivery's body.

    Raises:
        RefusedDeliveryError: 400: it is no JSON, or none of MLflow's events.

    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedDeliveryError(400, f"the body is no JSON: {error}") from None
    if not isinstance(told, dict) or not all(isinstance(told.get(key), str) for key in ("entity", "action")):
        raise RefusedDeliveryError(400, "the body is none of MLflow's events: it has no `entity` and `action`")
    if not isinstance(told.get("data"), dict):
        raise RefusedDeliveryError(400, "the body is none of MLflow's events: it has no `data`")
    return Event(f"{told['entity']}.{told['action']}"[:200], told["data"])


def concern(event: Event, specs: Sequence[Spec]) -> Concern:
    """The deployments that have to look at the registry because of the event."""
    if why := _ignored(event):
        return Concern((), why)
    if event.kind in _OF_TAGS:
        return _those(specs, event, every=True)
    if event.kind == "model_version.created":
        return _those(specs, event)
    return _those(specs, event, alias=str(event.data.get("alias", "")))


def _ignored(event: Event) -> str:
    """Why the event concerns no deployment, whatever the specs say; "" where it may."""
    if event.kind.startswith("prompt"):
        return "prompts are not deployed"
    if event.kind in _OF_TAGS and str(event.data.get("key", "")).startswith(TAG_PREFIX):
        return "a deployment wrote this tag itself"
    if event.kind in (*_OF_TAGS, *DEFAULT_EVENTS):
        return ""
    return _IGNORED.get(event.kind, f"the event `{event.kind}` asks for no deployment")


def _those(specs: Sequence[Spec], event: Event, *, alias: str | None = None, every: bool = False) -> Concern:
    """The deployments that follow the alias of the event's model (None: its latest version; `every`: anything of it)."""
    of_model = [spec for spec in specs if follows_registry(spec.model) and followed(spec.model)[0] == event.model]
    meant = [spec for spec in of_model if every or followed(spec.model)[1] == alias]
    names = tuple(spec.name for spec in meant if spec.schedule == "registry")
    if names:
        return Concern(names)
    if meant:
        others = ", ".join(f"`{spec.name}`" for spec in meant)
        return Concern((), f"the spec of {others} does not say `schedule: registry`")
    uri = f"models:/{event.model}" + ("" if every else f"@{alias}" if alias is not None else "/latest")
    return Concern((), f"no deployment follows {uri}")
