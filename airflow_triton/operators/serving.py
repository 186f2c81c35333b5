"""What the operators share that let a model serve: the event of its asset, its lineage, and the link to it on Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperatorLink, Context

from airflow_triton.assets import any_model, openlineage_dataset, served_model
from airflow_triton.operators.base import TritonOperator
from airflow_triton.operators.links import SERVING_LINKS

if TYPE_CHECKING:
    from airflow_triton.repository import Repository
    from airflow_triton.rollout import Outcome
    from airflow_triton.rollout.serving import Servers


class ServingOperator(TritonOperator):
    """The base of the operators that let a model serve.

    Each tells of it by an event of the model's asset (`airflow_triton.assets.served_model`) where `outlets` names that, else by way of the
    alias of all models. OpenLineage sees MLflow's model version as the input and the served model as the output, where Airflow's provider
    for it is installed.
    """

    operator_extra_links: tuple[BaseOperatorLink, ...] = SERVING_LINKS

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outlets = self.outlets or [any_model()]
        self._told: dict[str, Any] = {}
        self._tracking_uri = ""

    def tell_serving(self, context: Context, outcome: Outcome, *, store: Repository, servers: Servers, tracking_uri: str) -> None:
        """Tell of the version that serves, and where Triton shows it (XCom `model_url`)."""
        from airflow_triton.repository import releases

        found = releases(store, outcome.name)
        release = found[-1] if found else None
        self._tracking_uri = tracking_uri
        self._told = {
            "model": outcome.name,
            "version": outcome.version,
            "previous": outcome.previous,
            "action": outcome.action,
            "source": release.source if release else None,
            "digest": release.digest if release else None,
            "by": release.by if release else None,
            "servers": [str(client.address) for client in servers.clients],
        }
        asset = served_model(outcome.name)
        if any(isinstance(outlet, Asset) and outlet.uri == asset.uri for outlet in self.outlets):
            context["outlet_events"][asset].extra = self._told
        else:
            context["outlet_events"][any_model()].add(asset, extra=self._told)
        page = next((client.address.url for client in servers.clients if client.address.protocol == "http"), "")
        url = f"{page}/v2/models/{outcome.name}/versions/{outcome.version}" if page else ""
        context["ti"].xcom_push(key="model_url", value=url)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002 Airflow's signature
        """The lineage of what serves now; for Airflow's provider of OpenLineage. Nothing where nothing came to serve."""
        from airflow.providers.common.compat.openlineage.facet import Dataset
        from airflow.providers.openlineage.extractors import OperatorLineage

        if not self._told:
            return OperatorLineage()
        source = str(self._told["source"] or "")
        inputs = [Dataset(namespace=self._tracking_uri, name=source.removeprefix("models:/"))] if source else []
        return OperatorLineage(inputs=inputs, outputs=[openlineage_dataset(served_model(self._told["model"]), None)])
