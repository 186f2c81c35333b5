"""What lies elsewhere in the same store, such as MLflow's artifacts: the store can copy it without our help."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow_triton.repository.places import StoredObject

if TYPE_CHECKING:
    from airflow_triton.repository.object_store.connect import Connection

_ENDPOINTS = ("MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Where an address without a host is looked for, by MLflow and by boto3, in this order."""


def objects_at(connection: Connection, uri: str) -> dict[str, StoredObject]:
    """The objects below `s3://bucket/prefix`, by their paths below it, if that is the store of `connection` and it lets us list them."""
    if connection.s3 is None or not uri.startswith("s3://") or not _is_the_same(connection.endpoint):
        return {}
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
    found = {}
    try:
        for page in connection.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
            for row in page.get("Contents", []):
                found[row["Key"].removeprefix(f"{prefix}/")] = StoredObject(row["Key"], bucket, row["ETag"])
    except (BotoCoreError, ClientError):
        return {}  # not ours to list: the bytes come by way of this machine, as they always can
    return found


def _is_the_same(endpoint: str) -> bool:
    named = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
    return named.rstrip("/") == endpoint.rstrip("/") if named else endpoint.endswith("amazonaws.com")
