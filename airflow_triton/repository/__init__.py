"""The versioned model repository: layout, transaction, local disk."""

from airflow_triton.repository.fsck import Finding, fsck
from airflow_triton.repository.layout import candidate_name, check_model_name, mode_probe
from airflow_triton.repository.local import LocalRepository, StoredConfig
from airflow_triton.repository.manifest import FileDigest, Manifest, Probe, digest_files
from airflow_triton.repository.release import Release
from airflow_triton.repository.transaction import commit, prune, releases, revert, store_version

__all__ = [
    "FileDigest",
    "Finding",
    "LocalRepository",
    "Manifest",
    "Probe",
    "Release",
    "StoredConfig",
    "candidate_name",
    "check_model_name",
    "commit",
    "digest_files",
    "fsck",
    "mode_probe",
    "prune",
    "releases",
    "revert",
    "store_version",
]
