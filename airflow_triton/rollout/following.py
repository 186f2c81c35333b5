"""The deployments that follow the registry: which concrete version it asks for now, for each of them, and what the run of it is called.

Whoever looks (a webhook's receiver, a poller, a trigger) gets the same answer, and names the run that follows from it alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from pydantic import BaseModel, ConfigDict

from airflow_triton.errors import RegistryError
from airflow_triton.registry import Registered, Registry
from airflow_triton.rollout.wanted import wanted
from airflow_triton.spec import Spec

RUN_PREFIX = "registry__"
_DIGEST_CHARACTERS = 12


class Wanted(BaseModel):
    """A deployment with the version that its spec's model means now. `spec` is the digest of its spec."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    version: int
    spec: str

    @property
    def run_id(self) -> str:
        """The id of the run that deploys it: the same for everyone who looks, another for another version or spec."""
        return f"{RUN_PREFIX}{self.name}__{self.version}__{self.spec[:_DIGEST_CHARACTERS]}"

    def __str__(self) -> str:
        return f"version {self.version} of `{self.model}`"


class Asked(BaseModel):
    """What the registry asks for, by the names of the deployments.

    `nothing` has those that it asks nothing of, and why; `unknown` those whose MLflow did not answer, which is not the same.
    """

    wanted: dict[str, Wanted] = {}
    nothing: dict[str, str] = {}
    unknown: dict[str, str] = {}


def followers(specs: Iterable[Spec]) -> list[Spec]:
    """The specs that follow the registry: those with `schedule: registry`."""
    return [spec for spec in specs if spec.schedule == "registry"]


def followed(uri: str) -> tuple[str, str | None]:
    """The registered model that a URI follows, and the alias (None: its latest version).

    The URI is one that can mean another version tomorrow, as `schedule: registry` wants it.
    """
    name, _, alias = uri.removeprefix("models:/").partition("@")
    return (name, alias) if alias else (name.removesuffix("/latest"), None)


def asked_for(specs: Iterable[Spec], models: Mapping[str, Registered]) -> Asked:
    """What a registry with these models asks for; specs that do not follow it are left out. Asks nobody."""
    asked = Asked()
    for spec in followers(specs):
        version = wanted(spec.model, models)
        name, alias = followed(spec.model)
        if version is not None:
            asked.wanted[spec.name] = Wanted(name=spec.name, model=name, version=version, spec=spec.digest())
        elif name not in models:
            asked.nothing[spec.name] = f"there is no registered model `{name}`"
        else:
            asked.nothing[spec.name] = f"`{name}` has no alias `{alias}`" if alias else f"`{name}` has no versions"
    return asked


def ask(specs: Iterable[Spec]) -> Asked:
    """Look into the registries of the specs, once into each, whatever the number of deployments. Changes nothing.

    An MLflow that does not answer is no error: its deployments are `unknown`, the others have their answer.
    """
    asked = Asked()

    def registry_of(spec: Spec) -> str:
        return spec.tracking_uri or ""

    for uri, group in groupby(sorted(followers(specs), key=registry_of), key=registry_of):
        there = list(group)
        try:
            found = asked_for(there, Registry(uri or None).models())
        except RegistryError as error:
            asked.unknown.update(dict.fromkeys((spec.name for spec in there), str(error)))
            continue
        asked.wanted.update(found.wanted)
        asked.nothing.update(found.nothing)
    return asked
