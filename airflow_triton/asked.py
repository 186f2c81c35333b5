"""What Airflow keeps of a deployment that follows the registry, by names that all who start its runs share.

The asset `x-mlflow://deployments/NAME` stands for the version that the registry asks for; its state store holds, under `KEPT_AS`, the
one that was asked for last. Whoever started a run for it (the asset's watcher, a receiver of webhooks) writes it there.
"""

from __future__ import annotations

KEPT_AS = "asked"


def asset_uri(name: str) -> str:
    """The URI of the asset of the deployment that serves as `name`."""
    return f"x-mlflow://deployments/{name}"


def mark_of(version: int, digest: str) -> str:
    """What is kept of a version, and of the digest of the spec that it was asked for with."""
    return f"{version} {digest}"
