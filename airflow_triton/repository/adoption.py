"""Models that lie in a repository and were not published by this package: read, listed, and taken over when a person asks for it.

Triton's own rules say which of their versions serve. Nothing here loads anything on a server, and nothing is written but by `adopt`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from airflow_triton import model_config
from airflow_triton.errors import DeployError, ModelConfigError, RepositoryError
from airflow_triton.repository import release as journal
from airflow_triton.repository.base import MODELS, Repository
from airflow_triton.repository.content import check_files, check_relative, shown
from airflow_triton.repository.layout import CONFIG_FILE, MANIFEST_FILE, check_model_name, is_candidate
from airflow_triton.repository.manifest import FileDigest, Manifest, adopted_id
from airflow_triton.repository.places import Place, StoredConfig, etag_of
from airflow_triton.repository.release import Release
from airflow_triton.repository.version_layout import is_ensemble

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

META_FILE = "mlflow-meta.json"
"""What NVIDIA's MLflow plugin leaves beside config.pbtxt."""
_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class ForeignModel:
    """A model that this package did not publish.

    `config` is the text of its config.pbtxt (None: there is none, or it cannot be read). `serving` are the versions that Triton takes
    by the model's own policy, `versions` all that lie there, in rising order. `meta` is mlflow-meta.json. `problems` are in words.
    """

    name: str
    config: str | None
    serving: tuple[int, ...]
    versions: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def mlflow_uri(self) -> str | None:
        """The MLflow model that it was made of, as far as NVIDIA's plugin noted it."""
        uri = self.meta.get("mlflow_model_uri")
        return uri if isinstance(uri, str) and uri else None


class Adoption(BaseModel):
    """What `adopt` came to. `adopted` is false where the model was ours already."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    adopted: bool

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        told = "was taken over; nothing was loaded, and what serves is the same" if self.adopted else "is already ours; nothing to do"
        return f"{self.name}: version {self.version} {told}"


def foreign(repository: Repository, model: str) -> ForeignModel | None:
    """The model as whoever put it there meant it; None where it is ours, or not there.

    Guarantee: nothing is written, and whatever is wrong with it (a name that we refuse, a damaged config.pbtxt, none at all) is among
    its `problems`; only a repository that does not answer raises.
    """
    problems = [f"not published by airflow-provider-triton; `airflow-triton adopt {model}` takes it over"]
    try:
        check_model_name(model)
    except RepositoryError as error:
        if "/" in model or model in ("", ".", ".."):
            raise
        problems = [f"not published by airflow-provider-triton, and it cannot be taken over under this name: {error}"]
    place = MODELS / model
    try:
        stored = repository.read(place / CONFIG_FILE)
    except RepositoryError as error:
        if error.transient:
            raise
        return ForeignModel(model, None, (), _versions(repository, place), _meta(repository, place, problems), (*problems, str(error)))
    if stored is not None and journal.has_journal(stored.text):
        return None
    versions = _versions(repository, place)
    if stored is None and not _is_foreign_without_config(repository, model, versions):
        return None
    serving: tuple[int, ...] = ()
    try:
        config = None if stored is None else model_config.parse(stored.text, where=shown(repository.where(place / CONFIG_FILE)))
        serving = _serving(config, versions)
        problems += _told(config, serving, versions)
    except ModelConfigError as error:
        problems.append(str(error))
    return ForeignModel(model, stored.text if stored else None, serving, versions, _meta(repository, place, problems), tuple(problems))


def adopt(repository: Repository, model: str, *, config: str | None = None) -> Adoption:
    """Take over a model that lies there: its one version that serves gets a manifest, and config.pbtxt a journal that starts with it.

    Guarantee: what serves is the same; no file but config.pbtxt is changed, none but the manifest is added, and their config.pbtxt is
    kept, letter by letter, in the journal. Nothing is loaded. Whatever raises has changed nothing.

    Args:
        repository: where it lies.
        model: its name.
        config: the text of its config, for a model that has no config.pbtxt.

    Raises:
        RepositoryError: there is no such model; several of its versions serve, or none; it has no config.pbtxt, or one that does not
            parse; or it has files that cannot be published.
        ConflictError: someone else changed it meanwhile.

    """
    if is_candidate(check_model_name(model)):
        raise RepositoryError(f"`{model}` is a candidate of a deployment, which comes and goes by itself; adopt takes models")
    repository.check_exists()
    if model not in repository.folders(MODELS):
        raise RepositoryError(f"there is no model `{model}` in {repository}; there are: {', '.join(repository.models()) or 'none'}")
    _refuse_links(repository, repository.model_place(model))
    with repository.locked(model):
        stored = repository.read_config(model)
        where = repository.where(repository.config_place(model))
        if stored is not None and (found := journal.parse(stored.text, where)):
            return Adoption(name=model, version=found[-1].version, adopted=False)
        text, where = (stored.text, where) if stored is not None else (_given(config, where), "the config that was given")
        parsed = _parsed(text, where)
        version = _one_version(repository, model, parsed)
        manifest = _manifest(repository, model, version, parsed)
        row = Release(
            id=_digest("adoption", model, version, manifest.servable_id, manifest.config),
            version=version,
            servable_id=manifest.servable_id,
            how="adopt",
            config=manifest.config,
            original=stored.text if stored is not None else None,
        )
        _write(repository, model, manifest, row, before=stored)
    return Adoption(name=model, version=version, adopted=True)


def _write(repository: Repository, model: str, manifest: Manifest, row: Release, *, before: StoredConfig | None) -> None:
    """The manifest, then config.pbtxt; under the lock. Where config.pbtxt is not written, the manifest goes again."""
    note = repository.version_place(model, row.version) / MANIFEST_FILE
    added = None
    if repository.read(note) is None:
        added = repository.swap_held(note, manifest.model_dump_json(indent=1) + "\n", expected=None)
    try:
        repository.swap_held(repository.config_place(model), journal.render([row]), expected=etag_of(before))
    except BaseException:
        with contextlib.suppress(DeployError):
            if added is not None and etag_of(repository.read_config(model)) == etag_of(before):
                repository.swap_held(note, None, expected=added)
        raise


def _manifest(repository: Repository, model: str, version: int, config: ModelConfig) -> Manifest:
    """The manifest of a version that lies there; its own one where it has one that is true (it was ours before)."""
    place = repository.version_place(model, version)
    files = _files(repository, place, may_be_empty=is_ensemble(config))
    body = model_config.render(model_config.without_versions(config))
    own = repository.manifest(model, version)
    if own is not None:
        if {file.path: file for file in own.files} != {file.path: file for file in files}:
            raise RepositoryError(
                f"{repository.where(place)} has a {MANIFEST_FILE} that does not fit its files: put the files back, or remove "
                f"{MANIFEST_FILE} if they are as they should be"
            )
        return own.model_copy(update={"config": body})
    meta = foreign(repository, model)
    return Manifest(
        servable_id=adopted_id(files),
        mlflow_uri=meta.mlflow_uri if meta else None,
        files=files,
        config=body,
    )


def _files(repository: Repository, place: Place, *, may_be_empty: bool) -> tuple[FileDigest, ...]:
    """Every file of a version with its digest; RepositoryError where one of them could not be published."""
    _refuse_links(repository, place)
    found = [file for file in repository.files(place) if file.path != MANIFEST_FILE]
    origin = repository.origin(place)
    if isinstance(origin, Path):
        if any(origin.iterdir()) or not may_be_empty:
            paths = {path for path in check_files(origin) if path != MANIFEST_FILE}
            if linked := paths - {file.path for file in found}:
                raise RepositoryError(
                    f"{shown(origin / min(linked))} lies behind a link to a folder; put the folder itself there (`cp -rL`)"
                )
    else:
        for file in found:
            check_relative(file.path)
    if not found and not may_be_empty:
        raise RepositoryError(f"{repository.where(place)} is empty: there is nothing to take over")
    return tuple(FileDigest(path=file.path, size=file.size, sha256=repository.sha256(place / file.path)) for file in found)


def _refuse_links(repository: Repository, place: Place) -> None:
    origin = repository.origin(place)
    if isinstance(origin, Path) and origin.is_symlink():
        raise RepositoryError(
            f"{shown(origin)} is a link to {shown(origin.readlink())}: taking it over would write there; put the folder itself in its place"
        )


def _given(config: str | None, where: str) -> str:
    if config is None:
        raise RepositoryError(
            f"there is no {where}: load the model and name its server (--server http://host:8000), whose loaded config is taken then; or "
            "write a config.pbtxt"
        )
    return config


def _parsed(text: str, where: str) -> ModelConfig:
    try:
        return model_config.parse(text, where=where)
    except ModelConfigError as error:
        raise RepositoryError(f"{error}; Triton reads it neither, so nothing was taken over") from None


def _one_version(repository: Repository, model: str, config: ModelConfig) -> int:
    versions = _versions(repository, repository.model_place(model))
    serving = _serving(config, versions)
    if len(serving) > 1:
        raise RepositoryError(
            f"versions {list(serving)} of `{model}` serve at once by its version policy, and a deployment here serves one: choose it "
            f"first, for example `version_policy: {{ specific: {{ versions: [{serving[-1]}] }} }}` in "
            f"{repository.where(repository.config_place(model))}"
        )
    if not serving:
        raise RepositoryError(f"no version of `{model}` serves by its version policy; stored are {list(versions)}")
    return serving[0]


def _serving(config: ModelConfig | None, versions: Sequence[int]) -> tuple[int, ...]:
    """The versions that Triton takes of those that lie there, in rising order."""
    choice = None if config is None else config.version_policy.WhichOneof("policy_choice")
    if config is None or choice is None:
        return tuple(versions[-1:])
    if choice == "all":
        return tuple(versions)
    if choice == "specific":
        return tuple(version for version in versions if version in config.version_policy.specific.versions)
    return tuple(versions[-max(1, config.version_policy.latest.num_versions) :])


def _told(config: ModelConfig | None, serving: Sequence[int], versions: Sequence[int]) -> list[str]:
    """What a person should know of the versions before the model is taken over."""
    told = []
    if config is None:
        told.append(f"it has no {CONFIG_FILE}: its server guesses one")
    elif gone := sorted(set(model_config.versions(config) or ()) - set(versions)):
        told.append(f"its version policy lists {gone}, which are not stored")
    if len(serving) > 1:
        told.append(f"versions {list(serving)} serve at once; to take it over, choose one in its version policy")
    if not versions:
        told.append("it has no version folder")
    return told


def _versions(repository: Repository, place: Place) -> tuple[int, ...]:
    """The folders that Triton takes for versions; it ignores numbers that start with 0."""
    return tuple(sorted(int(name) for name in repository.folders(place) if _VERSION.fullmatch(name)))


def _is_foreign_without_config(repository: Repository, model: str, versions: Sequence[int]) -> bool:
    """Whether it is there, and more than the versions that an unfinished first deployment of ours left."""
    if not versions:
        return model in repository.folders(MODELS)
    return any(repository.read(MODELS / model / version / MANIFEST_FILE) is None for version in versions)


def _meta(repository: Repository, place: Place, problems: list[str]) -> dict[str, Any]:
    try:
        stored = repository.read(place / META_FILE)
        meta = json.loads(stored.text) if stored else {}
    except (RepositoryError, ValueError) as error:
        problems.append(f"its {META_FILE} cannot be read: {error}")
        return {}
    return meta if isinstance(meta, dict) else {}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
