"""Airflow from inside its API server: its own database, where the REST API would look too."""

from __future__ import annotations

import json

from airflow_triton.asked import KEPT_AS, asset_uri, mark_of
from airflow_triton.rollout.following import RUN_PREFIX, Wanted
from mlflow_plugin.webhooks.dag_runs import UnknownDagError
from mlflow_plugin.webhooks.starting import StartError

_WHO = "mlflow webhook"


class OwnAirflow:
    """The Airflow that this process is an API server of. No user and no token are needed: the delivery's signature let it in."""

    def newest_run(self, dag_id: str, prefix: str = RUN_PREFIX) -> str | None:
        """See mlflow_plugin.webhooks.dag_runs.Airflow."""
        from airflow.models.dag import DagModel
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import select
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with create_session() as session:
                if session.scalar(select(DagModel.dag_id).where(DagModel.dag_id == dag_id, ~DagModel.is_stale)) is None:
                    raise UnknownDagError(dag_id)
                runs = select(DagRun.run_id).where(DagRun.dag_id == dag_id, DagRun.run_id.startswith(prefix, autoescape=True))
                newest: str | None = session.scalar(runs.order_by(DagRun.id.desc()).limit(1))
                return newest
        except SQLAlchemyError as error:
            raise StartError(f"Airflow's database does not answer: {type(error).__name__}") from None

    def start_run(self, dag_id: str, run_id: str) -> bool:
        """See mlflow_plugin.webhooks.dag_runs.Airflow."""
        from airflow.api.common.trigger_dag import trigger_dag
        from airflow.exceptions import DagNotFound, DagRunAlreadyExists
        from airflow.sdk.exceptions import AirflowException
        from airflow.utils.types import DagRunTriggeredByType
        from sqlalchemy.exc import IntegrityError, SQLAlchemyError

        try:
            trigger_dag(dag_id, run_id=run_id, triggered_by=DagRunTriggeredByType.REST_API, triggering_user_name=_WHO)
        except (DagRunAlreadyExists, IntegrityError):
            return False
        except DagNotFound:
            raise UnknownDagError(dag_id) from None
        except SQLAlchemyError as error:
            raise StartError(f"Airflow's database does not answer: {type(error).__name__}") from None
        except (AirflowException, ValueError) as error:
            raise StartError(f"Airflow does not start the run `{run_id}` of `{dag_id}`: {error}") from None
        return True

    def tell_watcher(self, wanted: Wanted) -> None:
        """See mlflow_plugin.webhooks.dag_runs.Airflow. Airflow before 3.3 keeps nothing with an asset."""
        from airflow.models.asset import AssetModel
        from airflow.utils.session import create_session
        from sqlalchemy import select
        from sqlalchemy.exc import SQLAlchemyError

        try:
            from airflow._shared.state import AssetScope, AssetStateStoreWriterKind
            from airflow.state.metastore import MetastoreBackend
        except ImportError:
            return
        kept = json.dumps(mark_of(wanted.version, wanted.spec))
        try:
            with create_session() as session:
                asset = session.scalar(select(AssetModel.id).where(AssetModel.uri == asset_uri(wanted.name)))
                if asset is not None:
                    api = AssetStateStoreWriterKind.API
                    MetastoreBackend().set_asset_state_store(AssetScope(asset_id=asset), KEPT_AS, kept, kind=api, session=session)
        except SQLAlchemyError as error:
            raise StartError(f"Airflow's database does not answer: {type(error).__name__}") from None
