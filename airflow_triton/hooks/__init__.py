"""Airflow's hooks: from a connection to the thing that it means."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from airflow_triton.errors import RepositoryError, SpecError

if TYPE_CHECKING:
    import boto3

    from airflow_triton.server import ServerAddress


class AirflowConnections:
    """What the ids of Airflow's connections mean. Airflow is imported by the first look-up, not before."""

    def server(self, conn_id: str) -> ServerAddress:
        """The Triton server of a connection of type `triton`."""
        from airflow_triton.hooks.triton import TritonHook

        return TritonHook(conn_id).address

    def session(self, conn_id: str) -> tuple[boto3.Session, str | None]:
        """The boto3 session of a connection of type `aws`, roles and profiles included, and the endpoint that it names, if any.

        Raises:
            SpecError: there is no such connection (Amazon's hook would go on with whatever credentials the machine has).

        """
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            BaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            raise SpecError(
                f"there is no Airflow connection `{conn_id}`, which the repository's address names: add one of type `aws`"
            ) from None
        try:
            from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        except ImportError:
            raise RepositoryError(
                f"the Airflow connection `{conn_id}` needs Amazon's provider: pip install apache-airflow-providers-amazon"
            ) from None
        hook = S3Hook(aws_conn_id=conn_id)
        return hook.get_session(), hook.conn_config.get_service_endpoint_url("s3")


def airflow_connections() -> AirflowConnections | None:
    """Airflow's connections; None where Airflow is not installed."""
    return AirflowConnections() if importlib.util.find_spec("airflow") else None
