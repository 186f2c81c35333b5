"""Telling damaged versions from good ones, by the digests in their manifests, and whom a damage would hurt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.base import Repository
from airflow_triton.repository.layout import check_model_name
from airflow_triton.repository.transaction import releases


class Finding(BaseModel):
    """One version, or (`version` None) a model as a whole. `role` says what depends on it.

    `serves`: the version that config.pbtxt lets serve; a damage hurts the live model at the next load. `kept`: it can be rolled back
    to. `unused`: no release names it; what a dead attempt left. `foreign`: not published by this package, and not looked into.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    version: int | None
    role: Literal["serves", "kept", "unused", "foreign"]
    problems: tuple[str, ...] = ()


def fsck(repository: Repository, *, progress: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Read every byte of every version of ours and compare it with its manifest; change nothing."""
    repository.check_exists()
    return [finding for model in repository.models() for finding in _model(repository, model, progress)]


def _model(repository: Repository, model: str, progress: Callable[[str], None]) -> list[Finding]:
    try:
        check_model_name(model)
    except RepositoryError:
        return [Finding(model=model, version=None, role="foreign")]
    versions = repository.versions(model)
    try:
        found = releases(repository, model)
    except RepositoryError as error:
        ours = any(_has_manifest(repository, model, version) for version in versions)
        return [Finding(model=model, version=None, role="serves" if ours else "foreign", problems=(str(error),) if ours else ())]
    serving = found[-1].version if found else None
    released = {release.version for release in found}
    findings = []
    for version in sorted({*versions, *([serving] if serving is not None else [])}):
        progress(f"fsck: `{model}` version {version}")
        if version not in released and not _has_manifest(repository, model, version):
            findings.append(Finding(model=model, version=version, role="foreign"))
            continue
        role: Literal["serves", "kept", "unused"] = "serves" if version == serving else "kept" if version in released else "unused"
        findings.append(Finding(model=model, version=version, role=role, problems=_problems(repository, model, version)))
    return findings


def _has_manifest(repository: Repository, model: str, version: int) -> bool:
    try:
        return repository.manifest(model, version) is not None
    except RepositoryError:
        return True  # there is one, damaged


def _problems(repository: Repository, model: str, version: int) -> tuple[str, ...]:
    try:
        return tuple(repository.damage(model, version))
    except RepositoryError as error:  # its manifest is damaged
        return (str(error),)
