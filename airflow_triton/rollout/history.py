"""What served when, who let it, and what did not come to serve: the journal of a model, and what MLflow knows of its rejected versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from airflow_triton import model_config, repository
from airflow_triton.errors import RegistryError, RepositoryError, SpecError
from airflow_triton.registry import Registry
from airflow_triton.repository import Manifest, Release, Repository
from airflow_triton.rollout.verdicts import Verdicts

_MODEL = re.compile(r"models:/(?P<name>[^/@]+)[/@].+")


class Event(BaseModel):
    """A release, or (`rejected`, `failed`, `refused` by a person) a version that did not come to serve.

    `source` and `digest` are MLflow's model version and its content. `config` is config.pbtxt without its version policy, `diff` how it
    differs from the release before (empty for the oldest one that is remembered). `stored`: its files are there, it can serve again.
    None is what is not known.
    """

    model_config = ConfigDict(frozen=True)

    at: str
    version: int
    how: Literal["promote", "rollback", "adopt", "rejected", "failed", "refused"]
    by: str | None = None
    source: str | None = None
    digest: str | None = None
    verdict: str | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    alias: str | None = None
    loaded: tuple[int, ...] = ()
    id: str | None = None
    servable_id: str | None = None
    config: str | None = None
    diff: str = ""
    stored: bool = False


def history(
    name: str, store: Repository, registry: Registry, *, model: str | None = None, warn: Callable[[str], None] = lambda _: None
) -> list[Event]:
    """Everything that is known to have become of a model, the newest first. Touches nothing.

    The releases are the repository's (the last 20). The versions that were rejected or refused, or failed on their way, are the tags of the
    registered models that were released, and of `model`, the URI that a spec declares; of several verdicts on one version the last one.
    `warn` is told where MLflow does not answer for them.

    Raises:
        SpecError: nothing is known of such a model.
        RepositoryError: its releases cannot be read.

    """
    found = repository.releases(store, name)
    events = _released(name, store, found)
    events += _refused(name, registry, {_registered(each) for each in (*(event.source for event in events), model)}, warn)
    if not events:
        raise SpecError(f"`{name}` has no releases in {store}")
    return sorted(events, key=lambda event: event.at, reverse=True)  # stable: of one second, the later release stays first


def _released(name: str, store: Repository, found: Sequence[Release]) -> list[Event]:
    """The releases, the newest first; what an older journal does not say is in the manifest of a version that is still stored."""
    manifests = {version: _manifest(store, name, version) for version in dict.fromkeys(release.version for release in found)}
    events = []
    for before, release in zip([None, *found], found, strict=False):
        manifest = manifests[release.version]
        known = manifest if manifest is not None and manifest.is_of(release.servable_id) else None
        row = {"source": _source(known), "digest": known.source.digest if known and known.source else None}
        row |= release.model_dump(exclude={"original"}, exclude_none=True)
        diff = model_config.diff(before.config, release.config) if before else ""
        events.append(Event.model_validate({**row, "diff": diff, "stored": known is not None}))
    return events[::-1]


def _manifest(store: Repository, name: str, version: int) -> Manifest | None:
    """The manifest; None too where it is damaged: such a version cannot serve again."""
    try:
        return store.manifest(name, version)
    except RepositoryError as error:
        if error.transient:
            raise
        return None


def _source(manifest: Manifest | None) -> str | None:
    """The MLflow model version of a manifest; of a version that was taken over, what NVIDIA's plugin noted."""
    if manifest is None:
        return None
    return str(manifest.source) if manifest.source else manifest.mlflow_uri


def _registered(uri: str | None) -> str | None:
    match = _MODEL.fullmatch(uri or "")
    return match["name"] if match else None


def _refused(name: str, registry: Registry, models: Iterable[str | None], warn: Callable[[str], None]) -> list[Event]:
    events = []
    for model in sorted(filter(None, models)):
        try:
            for each in Verdicts(registry, name).refused(model):
                source = f"models:/{model}/{each.version}"
                events.append(Event.model_validate({**vars(each), "how": each.verdict, "verdict": each.why, "source": source}))
        except RegistryError as error:
            warn(f"the versions of `{model}` that were rejected are not known: {error}")
    return events
