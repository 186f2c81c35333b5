"""How the files of a deployment come into each of its repositories, and its candidate before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from airflow_triton import model_config, repository
from airflow_triton.errors import ConflictError, RepositoryError, ServerError
from airflow_triton.repository import CandidateNote, FileDigest, Item, Repository
from airflow_triton.repository.layout import CANDIDATE_FILE, CONFIG_FILE
from airflow_triton.repository.places import Place, etag_of
from airflow_triton.rollout.promotion import Fleet
from airflow_triton.rollout.records import Candidate, Converted
from airflow_triton.rollout.trial import trial_config


class Staging:
    """The way of the files of one model from the first repository, where they were converted, into the others.

    They cross this machine at most once for each repository, and are read from the first one at most once by one process: `workspace`
    is a folder of its own.
    """

    def __init__(self, model: str, fleets: Sequence[Fleet], workspace: Path) -> None:
        self.model = model
        self.fleets = fleets
        self.first = fleets[0].store
        self.workspace = workspace

    def staged(self, candidate: Candidate) -> list[tuple[Fleet, str | None]]:
        """The fleets, each with the etag of config.pbtxt that the candidate was staged on; ConflictError where the spec names others."""
        staged_on = (candidate.before, *candidate.elsewhere)
        if len(staged_on) != len(self.fleets):
            raise ConflictError(f"the spec names other repositories than when `{candidate.name}` was staged: run it again from the start")
        return list(zip(self.fleets, staged_on, strict=True))

    def behind(self, candidate: Candidate) -> list[tuple[Fleet, str | None]]:
        """Those of `staged` that have not released this deployment yet: all, unless an attempt was cut off between two of them."""
        found = [repository.releases(fleet.store, self.model) for fleet in self.fleets]
        return [row for row, past in zip(self.staged(candidate), found, strict=True) if not past or past[-1].id != candidate.id]

    def load(self, candidate: Candidate, *, told: Callable[[str], None]) -> None:
        """Put the candidate into the repositories, and load it on their servers.

        Raises:
            ServerError: a server does not take it, or has another repository.

        """
        only, loaded_with = (candidate.converted.source.version,), trial_config(candidate.config)
        for fleet, staged_on in self.behind(candidate) or self.staged(candidate):
            self.put_candidate(fleet.store, candidate, staged_on)
            try:
                fleet.servers.serve(candidate.name, only, None, config=loaded_with, told=told)
            except ServerError as error:
                foreign = "failed to poll from model repository" in str(error)
                hint = f"the candidate lies in {fleet.store}: that is not this server's repository; " if foreign else ""
                raise type(error)(f"{error} ({hint}what served still serves)") from None

    def load_where_lacking(self, candidate: Candidate) -> None:
        """Load the candidate on replicas that came, or came back empty, since it was staged; or that it was withdrawn from."""
        only, loaded_with = (candidate.converted.source.version,), trial_config(candidate.config)
        for fleet, staged_on in self.behind(candidate) or self.staged(candidate):
            late = fleet.servers.among(fleet.servers.lacking(candidate.name, only))
            if late.clients and etag_of(fleet.store.read_config(self.model)) == staged_on:
                self.put_candidate(fleet.store, candidate, staged_on)
            late.serve(candidate.name, only, None, config=loaded_with)

    def put_candidate(self, store: Repository, candidate: Candidate, before: str | None) -> None:
        """Put the candidate into a repository, unless it is there; `before` is the etag of the model's config.pbtxt."""
        if store.read_config(candidate.name) is not None:
            return
        config = model_config.parse(trial_config(candidate.config))
        config.name = candidate.name
        version = candidate.converted.source.version
        store.put(
            store.model_place(candidate.name),
            [item.under(version) for item in self.items(store, candidate.converted)],
            first={CANDIDATE_FILE: CandidateNote(before=before).model_dump_json()},
            last={CONFIG_FILE: model_config.render(model_config.with_versions(config, [version]))},
        )

    def items(self, store: Repository, converted: Converted, candidate: str | None = None) -> list[Item]:
        """The servable's files, to be put into `store`, the one that Triton opens last.

        From the nearest place that has them: the candidate in `store`, a version there that is made of the same, or the first repository.

        Raises:
            RepositoryError: the first repository has them only in a version that is damaged.

        """
        if store is self.first:
            return self._converted(converted)
        version, files = converted.source.version, _in_order(converted)
        if candidate is not None and store.read_config(candidate) is not None:
            return store.items(store.model_place(candidate) / version, files)
        stored = store.manifest(self.model, version)
        if stored is not None and stored.servable_id == converted.servable_id and not store.damage(self.model, version):
            return store.items(store.version_place(self.model, version), files)
        return self._brought_here(self._converted(converted))

    def _converted(self, converted: Converted) -> list[Item]:
        """The files in the first repository: in its work area, or in the stored version that is made of the same."""
        store, version, files = self.first, converted.source.version, _in_order(converted)
        place: Place = store.servable_place(self.model, converted.servable_id)
        if store.servable(self.model, converted.servable_id) is not None:
            return store.items(place, files, by_digest=True)
        if problems := store.damage(self.model, version):
            raise RepositoryError(f"version {version} of `{self.model}` is damaged: {'; '.join(problems)}")
        return store.items(store.version_place(self.model, version), files)

    def _brought_here(self, items: Sequence[Item]) -> list[Item]:
        """The same files on this machine; those of a disk are. Whoever puts them compares their digests."""
        folder = self.workspace / "crossing"
        folder.mkdir(exist_ok=True)
        here = []
        for item in items:
            path = folder / item.file.sha256
            if isinstance(item.origin, Path):
                path = item.origin
            elif not path.exists():
                self.first.fetch(item.origin, path.with_suffix(".part"))
                path.with_suffix(".part").rename(path)
            here.append(Item(item.file, path))
        return here


def _in_order(converted: Converted) -> list[FileDigest]:
    return sorted(converted.files, key=lambda file: file.path == converted.servable.entry)
