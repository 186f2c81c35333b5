"""Names and places in a model repository.

    <repository>/iris/config.pbtxt                  the commit record: which version serves, with the journal of releases
    <repository>/iris/7/model.onnx                  a version: complete before config.pbtxt names it, never changed after
    <repository>/iris/7/deployment.json             its manifest
    <repository>/iris--candidate-8-1f0c.../...      a candidate, while it is validated; its candidate.json says what it was staged on
    <beside it>/.<repository>.airflow-triton/       the work area: locks, staging, servables that were converted but not promoted

The work area lies beside the repository and not in it: Triton takes every folder in a repository for a model, hidden ones too.
LAYOUT is the version of all of this. A change that an older release could not read raises it by one; the readers of older
layouts stay, and a layout newer than this code is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from airflow_triton.errors import RepositoryError
from airflow_triton.spec.values import CANDIDATE_MARK

LAYOUT = 1
CONFIG_FILE = "config.pbtxt"
MANIFEST_FILE = "deployment.json"
CANDIDATE_FILE = "candidate.json"
NOTE_FILE = "note.json"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def check_model_name(name: str) -> str:
    """Answer `name` if it is safe as a folder and in Triton's URLs; raise RepositoryError otherwise, before any path is made."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise RepositoryError(
            f"`{name}` cannot be a model's name: letters, digits, `_`, `-` and `.` are valid, not a dot first and no two in a row"
        )
    return name


def candidate_name(model: str, version: int, identity: str) -> str:
    """The name under which a candidate of `model` is staged: stable over retries, new when what is deployed changes."""
    return f"{check_model_name(model)}{CANDIDATE_MARK}{version}-{identity[:12]}"


def is_candidate(name: str) -> bool:
    """Whether this is the name of a candidate, and not of a model."""
    return CANDIDATE_MARK in name


def candidates_of(model: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that are candidates of this model."""
    return [name for name in names if name.startswith(f"{model}{CANDIDATE_MARK}")]


def mode_probe(model: str) -> str:
    """A name that no model has, to ask a server about its control mode with."""
    return f"{check_model_name(model)}{CANDIDATE_MARK}mode-probe"


def check_layout(found: object, where: str) -> None:
    """Raise RepositoryError where `found`, a layout number read at `where`, is newer than this code knows."""
    if not isinstance(found, int) or found > LAYOUT:
        raise RepositoryError(
            f"{where} was written in layout {found}, this release knows layouts up to {LAYOUT}: upgrade airflow-provider-triton"
        )
