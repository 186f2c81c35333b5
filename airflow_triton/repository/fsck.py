"""Telling damaged versions from good ones, by the digests in their manifests, and whom a damage would hurt; and what attempts left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.base import MODELS, SERVABLES, Repository
from airflow_triton.repository.deletion import DELETIONS, deletions
from airflow_triton.repository.garbage import (
    SERVABLE_DAYS,
    Waiting,
    waiting_candidates,
    waiting_servables,
)
from airflow_triton.repository.layout import check_model_name, is_candidate
from airflow_triton.repository.places import Place, Upload
from airflow_triton.repository.transaction import releases
from airflow_triton.spec.values import CANDIDATE_MARK


class Finding(BaseModel):
    """One version, or (`version` None) a model as a whole, or something that attempts left. `role` says what depends on it.

    `serves`: config.pbtxt names it, for it serves or stays loaded; a damage hurts the live model at the next load. `kept`: it can be
    rolled back to. `unused`: no release names it; what a dead attempt left. `foreign`: not published by this package, and not looked into.
    `candidate` and `converted`: of a deployment that is not finished. `staging`: a folder whose process died. `upload`: not finished.
    `deletion`: of the whole model; not finished.

    `problems` are damages. Whatever a clean-up removes is none, and has `removed_by`, which says what does so, `about` in words,
    `where` it lies, `size` in bytes and `since` when, as far as that is known. `stale`: whether nobody can use it any more; None where
    that cannot be told. `model` None: it cannot be told whose it is.
    """

    model_config = ConfigDict(frozen=True)

    model: str | None
    version: int | None
    role: Literal["serves", "kept", "unused", "foreign", "candidate", "converted", "staging", "upload", "deletion"]
    problems: tuple[str, ...] = ()
    where: str | None = None
    about: str | None = None
    stale: bool | None = None
    size: int | None = None
    since: str | None = None
    removed_by: str | None = None


def fsck(repository: Repository, *, progress: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Read every byte of every version of ours and compare it with its manifest, and name what attempts left; change nothing."""
    if repository.on_disk:
        repository.check_exists()  # a store says so when it is listed, and would be probed and marked by it
    names = repository.folders(MODELS)
    findings = [finding for model in names if not is_candidate(model) for finding in _model(repository, model, progress)]
    findings += _candidates(repository, names)
    findings += _converted(repository)
    findings += _staging(repository)
    findings += _deletions(repository)
    try:
        findings += [_upload(repository, upload) for upload in repository.unfinished_uploads()]
    except RepositoryError as error:
        progress(f"warning: {error}")  # a store may have no such listing, or not let us see it
    return findings


def _model(repository: Repository, model: str, progress: Callable[[str], None]) -> list[Finding]:
    if not _may_be_ours(model):
        return [Finding(model=model, version=None, role="foreign")]
    versions = repository.versions(model)
    try:
        found = releases(repository, model)
    except RepositoryError as error:
        _unless_unreachable(error)
        ours = any(_has_manifest(repository, model, version) for version in versions)
        return [Finding(model=model, version=None, role="serves" if ours else "foreign", problems=(str(error),) if ours else ())]
    serving = found[-1].versions if found else ()
    released = {release.version for release in found}
    findings = []
    for version in sorted({*versions, *serving}):
        progress(f"fsck: `{model}` version {version}")
        if version in released:
            role: Literal["serves", "kept"] = "serves" if version in serving else "kept"
            findings.append(Finding(model=model, version=version, role=role, problems=_problems(repository, model, version)))
        elif not _has_manifest(repository, model, version):
            findings.append(Finding(model=model, version=version, role="foreign"))
        else:
            findings.append(_unused(repository, model, version))
    return findings


def _may_be_ours(name: str) -> bool:
    try:
        check_model_name(name)
    except RepositoryError:
        return False
    return True


def _has_manifest(repository: Repository, model: str, version: int) -> bool:
    try:
        return repository.manifest(model, version) is not None
    except RepositoryError as error:
        _unless_unreachable(error)
        return True  # there is one, damaged


def _problems(repository: Repository, model: str, version: int) -> tuple[str, ...]:
    try:
        return tuple(repository.damage(model, version))
    except RepositoryError as error:  # its manifest is damaged
        _unless_unreachable(error)
        return (str(error),)


def _unless_unreachable(error: RepositoryError) -> None:
    """Raise it again where it says nothing of what is stored."""
    if error.transient:
        raise error


def _unused(repository: Repository, model: str, version: int) -> Finding:
    """A version that no release names. One that is incomplete is replaced by whoever deploys it; what that would not see is a damage."""
    try:
        missing = repository.damage(model, version, thorough=False)
    except RepositoryError as error:
        _unless_unreachable(error)
        missing = []  # its manifest is damaged
    problems = () if missing else _problems(repository, model, version)
    more = len(missing) - 1 if missing else 0
    return Finding(
        model=model,
        version=version,
        role="unused",
        problems=problems,
        about=f"no release names it{f', and it is incomplete: {missing[0]}' if missing else ''}{f' (and {more} more)' if more else ''}",
        stale=True if missing else None,
        removed_by=None if problems else f"the next apply of `{model}`",
        **_lying(repository, repository.version_place(model, version)),
    )


def _candidates(repository: Repository, names: list[str]) -> Iterator[Finding]:
    """What was staged and is neither promoted nor cleared away, of every model, whether it was ever released or not."""
    told = {
        True: ("something was released since it was staged: it can never be promoted", "the next apply of `{}`"),
        False: ("it may still be promoted", "its own deployment, run again, or the next apply of `{}` that releases another version"),
        None: ("nobody can tell what it was staged on", "its own deployment, run again"),
    }
    for model in sorted({name.partition(CANDIDATE_MARK)[0] for name in names if is_candidate(name)}):
        for each in _waiting(repository, model) if _may_be_ours(model) else []:
            about, removed_by = told[each.stale]
            yield Finding(
                model=model,
                version=None,
                role="candidate",
                about=about,
                stale=each.stale,
                since=each.since,
                removed_by=removed_by.format(model),
                **_lying(repository, MODELS / each.name),
            )


def _waiting(repository: Repository, model: str) -> list[Waiting]:
    try:
        return waiting_candidates(repository, model)
    except RepositoryError as error:  # config.pbtxt is damaged
        _unless_unreachable(error)
        return [Waiting(name, None, None) for name in repository.candidates(model)]


def _converted(repository: Repository) -> Iterator[Finding]:
    """What was converted and waits in the work area."""
    told = {
        True: (f"nobody came back for it in {SERVABLE_DAYS} days", "the next apply of `{}`"),
        False: ("it waits for the rest of its deployment", f"its own deployment, or the next apply of `{{}}` after {SERVABLE_DAYS} days"),
        None: ("nobody can tell since when it waits", "its own deployment, run again"),
    }
    for model in filter(_may_be_ours, repository.folders(SERVABLES)):
        for each in waiting_servables(repository, model):
            about, removed_by = told[each.stale]
            yield Finding(
                model=model,
                version=None,
                role="converted",
                about=about,
                stale=each.stale,
                since=each.since,
                removed_by=removed_by.format(model),
                **_lying(repository, SERVABLES / model / each.name),
            )


def _staging(repository: Repository) -> Iterator[Finding]:
    for place in repository.ownerless_staging():
        yield Finding(
            model=None,
            version=None,
            role="staging",
            about="its process died",
            stale=True,
            removed_by="the next apply of any model",
            **_lying(repository, place),
        )


def _deletions(repository: Repository) -> Iterator[Finding]:
    for model in deletions(repository):
        yield Finding(
            model=model,
            version=None,
            role="deletion",
            about="it was begun and has not ended",
            removed_by=f"airflow-triton delete {model}",
            **_lying(repository, DELETIONS / model),
        )


def _upload(repository: Repository, upload: Upload) -> Finding:
    """An upload goes with the folder that its file belongs to: a version, a candidate, the files of a converted model."""
    parts = upload.place.path.split("/")
    version = None
    if upload.place.area == "work":
        model, folder = "".join(parts[1:2]) or None, parts[:3]
    elif is_candidate(parts[0]):
        model, folder = parts[0].partition(CANDIDATE_MARK)[0], parts[:1]
    else:
        model, folder = parts[0], parts[:2]
        version = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None
    return Finding(
        model=model,
        version=version,
        role="upload",
        where=repository.where(upload.place),
        about="an upload that is under way, or was broken off",
        since=upload.since,
        removed_by=f"the removal of {repository.where(Place(upload.place.area, '/'.join(folder)))}, or a lifecycle rule of the bucket",
    )


def _lying(repository: Repository, place: Place) -> dict[str, Any]:
    """Where a folder lies, and what it weighs: nothing known where it has gone meanwhile."""
    try:
        size = sum(file.size for file in repository.files(place))
    except RepositoryError as error:
        _unless_unreachable(error)
        size = None
    return {"where": repository.where(place), "size": size}
