"""The end of a deployment: no server has it any more, nothing of it is stored, and MLflow does not say that it serves.

Every server lets go of the model before a file of it is removed. Until the first file goes, whatever fails brings every server back to
what is stored; after that the next deletion goes on where this one was cut off (`repository.deletion`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from airflow_triton import repository
from airflow_triton.errors import DeployError, RepositoryError, ServerError
from airflow_triton.registry import Registry
from airflow_triton.repository import Claim, DeletionNote, Release, Repository, deletion
from airflow_triton.rollout.author import author
from airflow_triton.rollout.promotion import Fleet
from airflow_triton.rollout.verdicts import Verdicts

Told = dict[str, dict[str, tuple[int, ...]]]
"""For each registered model the aliases that a deployment set, each with the versions that it was set to."""


class Deleted(BaseModel):
    """What a deletion came to. `absent`: there was nothing to delete. `versions` are Triton's, of the first repository."""

    model_config = ConfigDict(frozen=True)

    name: str
    action: Literal["deleted", "absent"]
    versions: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        if self.action == "absent":
            return f"{self.name}: nothing of it is there, nothing to delete"
        more = f" (with {len(self.warnings)} warnings)" if self.warnings else ""
        return f"{self.name}: deleted; no server has it, nothing of it is stored{more}"


@dataclass(frozen=True)
class _Part:
    """A fleet, and what of the model is in its repository."""

    fleet: Fleet
    claim: Claim

    @property
    def store(self) -> Repository:
        return self.fleet.store


class Deletion:
    """One model on its way out of every server and every repository of `fleets`. `by` is who deletes it (None: see `author`)."""

    def __init__(
        self,
        model: str,
        fleets: Sequence[Fleet],
        registry: Registry,
        *,
        progress: Callable[[str], None] = lambda _: None,
        by: str | None = None,
    ) -> None:
        self.model = model
        self.fleets = tuple(fleets)
        self.registry = registry
        self.progress = progress
        self.by = author(by)
        self._parts: tuple[_Part, ...] = ()

    def look(self) -> list[str]:
        """What will be deleted, a line for each repository; nothing where there is nothing. Changes nothing.

        Raises:
            RepositoryError: others put the model there, its journal is damaged, or an ensemble has it as a step.
            ServerError: a server does not answer, or is not in its control mode.

        """
        for fleet in self.fleets:
            fleet.servers.renew()
            fleet.servers.check(repository.mode_probe(self.model))
            fleet.store.check_exists()
        self._parts = tuple(_Part(fleet, repository.claim(fleet.store, self.model)) for fleet in self.fleets)
        return [_described(part) for part in self._parts if not part.claim.is_nothing]

    def carry_out(self) -> Deleted:
        """Delete what `look` saw.

        Raises:
            ConflictError: someone else released meanwhile.
            ServerError: a server does not let go of the model; what served still serves.
            RepositoryError: a repository does not let its files be removed. Where it is not the first one, the rest is done by the next
                deletion.

        """
        if all(part.claim.is_nothing for part in self._parts):
            return Deleted(name=self.model, action="absent")
        told = _told(self._parts)
        self._begin(told)
        self._withdraw()
        self._remove()
        problems = self._forget()
        problems += self._tell(told)
        if not problems:
            for part in self._parts:
                deletion.end(part.store, self.model)
        problems += [warning for fleet in self.fleets[:1] for warning in fleet.servers.control.warnings_of_deletion()]
        for problem in problems:
            self.progress(f"warning: {problem}")
        versions = tuple(int(name) for name in self._parts[0].claim.folders if name.isdecimal())
        return Deleted(name=self.model, action="deleted", versions=versions, warnings=tuple(problems))

    def _begin(self, told: Told) -> None:
        noted: list[_Part] = []
        try:
            for part in self._parts:
                folders = dict.fromkeys((*part.claim.folders, *(part.claim.note.folders if part.claim.note else ())))
                note = DeletionNote(before=part.claim.etag, folders=tuple(folders), told=told, by=self.by)
                deletion.begin(part.store, part.claim, note)
                noted.append(part)
        except BaseException:
            self._give_up(noted)
            raise

    def _withdraw(self) -> None:
        """Let every server go; where one does not, every server is brought back."""
        names = [self.model, *dict.fromkeys(name for part in self._parts for name in part.claim.candidates)]
        self.progress(f"delete: `{self.model}` from {sum(len(fleet.servers.clients) for fleet in self.fleets)} server(s)")
        try:
            problems = [problem for part in self._parts for name in names for problem in part.fleet.servers.withdraw(name)]
        except BaseException:
            self._bring_back(self._parts)
            raise
        if problems:
            problems += self._bring_back(self._parts)
            raise ServerError(f"`{self.model}` was not deleted: {'; '.join(problems)}; what served before serves again")

    def _remove(self) -> None:
        for number, part in enumerate(self._parts):
            self.progress(f"delete: `{self.model}` from {part.store}")
            try:
                deletion.remove(part.store, part.claim)
            except DeployError as error:
                if any(before.claim.is_stored for before in self._parts[:number]):
                    gone = ", ".join(str(before.store) for before in self._parts[:number])
                    raise type(error)(f"{error}; it is gone from {gone}: delete `{self.model}` again to finish") from None
                problems = self._bring_back(self._parts[number:])
                raise type(error)("; ".join([str(error), *problems])) from None

    def _forget(self) -> list[str]:
        """What is left beside the model: candidates and converted files; and wait until every server has noticed."""
        problems: list[str] = []
        for part in self._parts:
            for name in part.claim.candidates:
                part.store.remove(part.store.model_place(name))
            problems += deletion.remove_waiting(part.store, self.model)
            for name in (self.model, *part.claim.candidates):
                problems += part.fleet.servers.forget(name)
        return problems

    def _tell(self, told: Told) -> list[str]:
        verdicts = Verdicts(self.registry, self.model)
        return [problem for name, aliases in told.items() for problem in verdicts.deleted(name, aliases)]

    def _bring_back(self, parts: Sequence[_Part]) -> list[str]:
        """Bring every server back to what is stored, and take the notes back; answer what did not work."""
        problems = [problem for part in parts if part.claim.etag for problem in part.fleet.servers.restore(self.model)]
        self._give_up(parts)
        return problems

    def _give_up(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            try:
                deletion.give_up(part.store, part.claim)
            except DeployError as error:
                self.progress(f"warning: {error}")


def delete(
    model: str,
    fleets: Sequence[Fleet],
    registry: Registry,
    *,
    progress: Callable[[str], None] = lambda _: None,
    by: str | None = None,
) -> Deleted:
    """Delete a deployment everywhere: from every server first, then its files, then what MLflow was told of it.

    A deployment of NVIDIA's plugin is deleted too; any other model that this package did not publish is refused. A deletion that was cut
    off is finished by the next one, and one of what is not there does nothing. In NONE mode a server lets go of it when it is started
    again, and a warning says so.

    Raises:
        RepositoryError, ServerError, ConflictError: see `Deletion`.

    """
    doomed = Deletion(model, fleets, registry, progress=progress, by=by)
    doomed.look()
    return doomed.carry_out()


def _described(part: _Part) -> str:
    claimed = part.claim
    what = []
    if versions := [name for name in claimed.folders if name.isdecimal()]:
        serving = claimed.releases[-1].versions if claimed.releases else ()
        serves = f", of which {' and '.join(map(str, serving))} serves" if serving else ""
        what.append(f"version{'s' if len(versions) > 1 else ''} {', '.join(sorted(versions, key=int))}{serves}")
    if claimed.theirs:
        what.append("deployed by NVIDIA's MLflow plugin")
    if claimed.strangers:
        what.append(f"with {', '.join(claimed.strangers)}, which airflow-provider-triton did not put there")
    if claimed.candidates:
        what.append(f"{len(claimed.candidates)} candidate(s)")
    if claimed.note is not None:
        what.append(f"what a deletion of {claimed.note.at} left")
    servers = ", ".join(str(client.address) for client in part.fleet.servers.clients)
    return f"`{claimed.model}` in {part.store} and on {servers}: {'; '.join(what) or 'what an attempt left'}"


def _told(parts: Sequence[_Part]) -> Told:
    """What MLflow was told of the deployment, by its releases and by the note of a deletion that was cut off."""
    told: dict[str, dict[str, set[int]]] = {}
    for part in parts:
        for name, aliases in (part.claim.note.told if part.claim.note else {}).items():
            for alias, versions in aliases.items():
                told.setdefault(name, {}).setdefault(alias, set()).update(versions)
            told.setdefault(name, {})
        for release in part.claim.releases:
            if registered := _registered(part.store, part.claim.model, release):
                aliases_of = told.setdefault(registered, {})
                if release.alias and release.mlflow_version is not None:
                    aliases_of.setdefault(release.alias, set()).add(release.mlflow_version)
    return {name: {alias: tuple(sorted(versions)) for alias, versions in aliases.items()} for name, aliases in told.items()}


def _registered(store: Repository, model: str, release: Release) -> str | None:
    """The registered model that a release is of."""
    if release.mlflow_version is None:
        return None
    if release.source:
        return release.source.removeprefix("models:/").rpartition("/")[0]
    try:
        manifest = store.manifest(model, release.version)
    except RepositoryError as error:
        if error.transient:
            raise
        return None
    return manifest.source.name if manifest and manifest.source else None
