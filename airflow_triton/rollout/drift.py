"""How what is declared, registered, stored and served differs, in words, each with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from airflow_triton.errors import DeployError, ServerError
from airflow_triton.registry import Registry
from airflow_triton.repository import Release, Repository, StoredModel
from airflow_triton.rollout.control import satisfies
from airflow_triton.rollout.records import deployment_id
from airflow_triton.server import LoadedModel, TritonClient, ready
from airflow_triton.spec import Spec

_UNLOADED = ("", "unloaded")
"""The reasons of Triton's index for a version that nobody wanted loaded."""


def served(client: TritonClient, rows: Sequence[LoadedModel], stored: StoredModel, serving: tuple[int, ...]) -> list[str]:
    """What one server has otherwise than config.pbtxt says. `rows` are the model's in its index, `serving` the versions that it names."""
    model = stored.name
    found = ready(rows).get(model, ())
    if not serving:
        return _of_unknown(client, stored, found)
    if found == serving:
        return _configured_otherwise(client, stored) if stored.releases else []
    where = f"{client.address} serves {list(found) or 'nothing'}, stored is {' and '.join(map(str, serving))}"
    return [f"{where}: {_why(rows, stored, found, serving)}"]


def _of_unknown(client: TritonClient, stored: StoredModel, found: tuple[int, ...]) -> list[str]:
    if not found or stored.versions or stored.problem:
        return []
    told = f"{client.address} serves {list(found)} of `{stored.name}`, which is not in this repository"
    return [f"{told}: it was loaded by hand, or from another repository; unload it there, or deploy it with a spec"]


def _why(rows: Sequence[LoadedModel], stored: StoredModel, found: tuple[int, ...], serving: tuple[int, ...]) -> str:
    states = {row.version: row for row in rows}
    row = states.get(serving[-1])
    if row is not None and row.state in ("LOADING", "UNLOADING"):
        return f"version {row.version} is {row.state.lower()} just now"
    if row is not None and row.state == "UNAVAILABLE" and row.reason not in _UNLOADED:
        return f"it could not load version {row.version}: {row.reason}"
    if not stored.releases:
        return "it does not serve what config.pbtxt says; load it there"
    if not found:
        return "stored, but not loaded; `apply` lets it be loaded again, and asks it once"
    if set(found) <= {version for release in stored.releases for version in release.versions}:
        return "it is behind, or was taken back by hand; `apply` brings it to the release"
    return "served by hand, for the repository has never let that serve; `apply` brings it to the release"


def _configured_otherwise(client: TritonClient, stored: StoredModel) -> list[str]:
    """A server that has the right version, loaded with another configuration than it was released with."""
    release = stored.releases[-1]
    try:
        if satisfies(client.config(stored.name, release.version), release.config):
            return []
    except ServerError as error:
        return [str(error)]
    told = f"{client.address} serves version {release.version} with another configuration than the released one"
    remedy = f"load `{stored.name}` there again (`rollback --to {release.version}` loads it everywhere)"
    return [f"{told}: it was loaded by hand, or before the last release; {remedy}"]


def damaged(store: Repository, model: str, version: int, *, thorough: bool) -> list[str]:
    """What is wrong with the files of a version that serves."""
    try:
        problems = store.damage(model, version, thorough=thorough)
    except DeployError as error:
        problems = [str(error)]
    return [f"version {version} is damaged, the next load of it fails or answers wrongly: {problem}" for problem in problems]


def between(found: Sequence[tuple[str, StoredModel]]) -> list[str]:
    """Repositories of one model that have released something else than the first one."""
    (_, first), *others = found
    if not first.releases:
        return []
    problems = []
    for where, stored in others:
        if stored.problem:
            problems.append(stored.problem)
        elif not stored.releases:
            problems.append(f"{where} has no release of `{first.name}`; `apply` brings it there")
        elif not stored.releases[-1].is_same_as(first.releases[-1]):
            problems.append(
                f"{where} has released version {stored.releases[-1].version}, the first repository version {first.releases[-1].version}, "
                "or with another configuration; `apply` brings them together"
            )
    return problems


@dataclass
class Registered:
    """What MLflow knows of a model: its `name` there, the `version` that `uri` means now, and the last verdict on any version."""

    uri: str | None
    name: str = ""
    version: int | None = None
    verdict: str | None = None
    verdict_version: int | None = None
    problems: list[str] = field(default_factory=list)


def registered(told: Registered, uri: str, registry: Registry, spec: Spec | None, release: Release | None) -> None:
    """Fill in what the URI means now, and how it differs from the release."""
    source = registry.resolve(uri) if spec else None
    told.name, told.version = (source.name, source.version) if source else registry.find(uri)
    if release is None or release.mlflow_version is None:
        return
    if told.version != release.version:
        back = f" (rolled back, {release.at})" if release.how == "rollback" else ""
        told.problems.append(f"{uri} is version {told.version}, released is {release.version}{back}; `apply` would try {told.version}")
    elif spec and source and deployment_id(spec, source) != release.id:
        told.problems.append(f"the spec, or the model, changed since version {release.version} was released; `plan` shows how")
    alias = spec.promote.alias if spec else release.alias
    if alias and not uri.endswith(f"@{alias}"):
        at = registry.aliases(told.name).get(alias)
        if at != release.version:
            came = f"means version {at}" if at is not None else "is gone"
            told.problems.append(
                f"the alias `{alias}` of `{told.name}` {came} in MLflow, released is {release.version}; `apply` puts it back"
            )
