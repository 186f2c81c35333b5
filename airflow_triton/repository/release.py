"""The journal of releases, kept in config.pbtxt itself.

Which version serves and with which configuration is decided by config.pbtxt alone, so the history of these decisions is written
with it, in the same atomic write: one comment line at the end of the file. Triton's parser skips comments, and a changed comment
reloads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_triton import model_config
from airflow_triton.errors import ModelConfigError, RepositoryError
from airflow_triton.repository.layout import LAYOUT, check_layout
from airflow_triton.repository.manifest import ADOPTED, now

_MARK = "# airflow-triton-journal: "
_BANNER = "# Written by airflow-provider-triton. Change the spec and apply it; `airflow-triton rollback` goes back.\n"
MOST_RELEASES = 20
"""How many releases the journal remembers."""


class Release(BaseModel):
    """One decision: from `at` on, `version` served with `config` (config.pbtxt's text without version policy).

    `id` is the deployment's identity: stable over retries, new when the model, its conversion or its configuration changes.
    `servable_id` is the manifest's of the version that served. `alias` is the alias in MLflow that follows what serves. `original` is
    the text of the config.pbtxt that was taken over, with its comments. `loaded` are the versions that stayed loaded beside it, all of
    them lower: a request that names no version goes to the highest that is loaded (Triton's rule).

    `by` is who released it, `source` and `digest` are MLflow's model version (`models:/NAME/VERSION`) and its content, `verdict` and
    `figures` what its validation found, in short. A rollback keeps those of the release that it went back to, but for `by`. Journals
    of before have none of them.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    version: int
    servable_id: str
    how: Literal["promote", "rollback", "adopt"]
    at: str = Field(default_factory=now)
    alias: str | None = None
    config: str
    original: str | None = None
    loaded: tuple[int, ...] = ()
    by: str | None = None
    source: str | None = None
    digest: str | None = None
    verdict: str | None = None
    figures: dict[str, float] = Field(default_factory=dict)

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that config.pbtxt names, in rising order: those that stayed loaded, and the one that serves."""
        return (*sorted(self.loaded), self.version)

    @property
    def mlflow_version(self) -> int | None:
        """Its version in MLflow; None for one that was taken over, whose number is Triton's alone."""
        return None if self.servable_id.startswith(ADOPTED) else self.version

    def is_same_as(self, other: Release) -> bool:
        """Whether both serve the same files with the same configuration."""
        return (self.version, self.servable_id, self.config) == (other.version, other.servable_id, other.config)


def render(releases: Sequence[Release]) -> str:
    """The text of config.pbtxt that makes the last of `releases` serve, and remembers the others."""
    current = releases[-1]
    body = model_config.render(model_config.with_versions(model_config.parse(current.config), current.versions))
    rows = []
    for release in releases[-MOST_RELEASES:]:
        row = release.model_dump(mode="json", exclude_none=True)
        if release.config == current.config:
            row["config"] = None  # the same as the file's own
        rows.append(row)
    return f"{_BANNER}{body.rstrip()}\n{_MARK}{json.dumps({'layout': LAYOUT, 'releases': rows}, sort_keys=True)}\n"


def has_journal(text: str) -> bool:
    """Whether a config.pbtxt is ours, whatever state its journal is in."""
    return any(line.startswith(_MARK) for line in text.splitlines())


def parse(text: str, where: str) -> list[Release]:
    """The releases that a config.pbtxt remembers, the one that serves last; empty where the file is not ours.

    Raises:
        RepositoryError: there is a journal, but it is damaged, newer than this release, or edited by hand.

    """
    lines = [line for line in text.splitlines() if line.startswith(_MARK)]
    if not lines:
        return []
    try:
        config = model_config.parse(text, where=where)
    except ModelConfigError as error:
        raise RepositoryError(str(error)) from None
    body = model_config.render(model_config.without_versions(config))
    try:
        journal = json.loads(lines[-1].removeprefix(_MARK))
        check_layout(journal["layout"], where)
        releases = [Release.model_validate({**row, "config": row["config"] or body}) for row in journal["releases"]]
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise RepositoryError(f"{where}: its journal is damaged: {error}") from None
    if not releases or model_config.versions(config) != releases[-1].versions:
        raise RepositoryError(
            f"{where} was edited by hand: it serves versions {model_config.versions(config)}, its journal says "
            f"{releases[-1].versions if releases else 'nothing'}; put the version policy back, or remove the journal line to disown it"
        )
    return releases
