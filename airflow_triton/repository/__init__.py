"""The versioned model repository: layout, transaction, local disk, object stores."""

from airflow_triton.repository.adoption import Adoption, ForeignModel, adopt, foreign
from airflow_triton.repository.base import Repository
from airflow_triton.repository.deletion import Claim, DeletionNote, claim
from airflow_triton.repository.fsck import Finding, fsck
from airflow_triton.repository.garbage import CandidateNote, ServableNote, stale_candidates, sweep
from airflow_triton.repository.layout import candidate_name, check_model_name, mode_probe
from airflow_triton.repository.local import LocalRepository
from airflow_triton.repository.manifest import FileDigest, Manifest, Probe, digest_files, same_files
from airflow_triton.repository.opening import open_repository
from airflow_triton.repository.places import Item, StoredConfig, items_in
from airflow_triton.repository.release import Release
from airflow_triton.repository.survey import StoredModel, stored_model, survey
from airflow_triton.repository.transaction import (
    commit,
    prune,
    publish,
    releases,
    revert,
    still_loaded,
    store_version,
    superfluous,
)

__all__ = [
    "Adoption",
    "CandidateNote",
    "Claim",
    "DeletionNote",
    "FileDigest",
    "Finding",
    "ForeignModel",
    "Item",
    "LocalRepository",
    "Manifest",
    "Probe",
    "Release",
    "Repository",
    "ServableNote",
    "StoredConfig",
    "StoredModel",
    "adopt",
    "candidate_name",
    "check_model_name",
    "claim",
    "commit",
    "digest_files",
    "foreign",
    "fsck",
    "items_in",
    "mode_probe",
    "open_repository",
    "prune",
    "publish",
    "releases",
    "revert",
    "same_files",
    "stale_candidates",
    "still_loaded",
    "store_version",
    "stored_model",
    "superfluous",
    "survey",
    "sweep",
]
