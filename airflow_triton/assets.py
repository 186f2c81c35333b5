"""Served models as Airflow's assets: a promotion or a rollback is an event on one, and other DAGs are scheduled on it.

    from airflow_triton.assets import served_model
    with DAG("after_iris", schedule=[served_model("iris")]): ...

The `extra` of an event: `model`, `version` (which serves now), `previous`, `action`, `source` (`models:/NAME/VERSION`), `digest`, `by`
and `servers`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult

from airflow.sdk import Asset, AssetAlias

from airflow_triton.asked import asset_uri

SCHEME = "triton"
_HOST = "models"

ANY_MODEL = "triton-models"
"""The alias of every served model whose name an operator learns at run time: `schedule=[AssetAlias(ANY_MODEL)]`."""


def served_model(name: str) -> Asset:
    """The asset `triton://models/NAME`: what serves under this name on Triton."""
    return Asset(name=f"{SCHEME}/{name}", uri=f"{SCHEME}://{_HOST}/{name}", group="model")


def asked_model(name: str) -> Asset:
    """The asset `x-mlflow://deployments/NAME`: the version that the registry asks for, of the deployment that serves under this name.

    Its events start the deployment where the spec says `schedule: registry`. Their `extra` has `version`, `model` (the spec's) and `name`:
    in `payload` where the watcher found it, beside `from_rest_api` where it came over Airflow's API.
    """
    return Asset(name=f"mlflow/{name}", uri=asset_uri(name), group="model")


def any_model() -> AssetAlias:
    """The alias that stands for every served model of which an operator tells without having named it in its DAG."""
    return AssetAlias(ANY_MODEL)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """What Airflow asks for each URI of the scheme `triton`.

    Raises:
        ValueError: it is not `triton://models/NAME`.

    """
    name = uri.path.strip("/")
    if uri.netloc != _HOST or not name or "/" in name or uri.query or uri.fragment:
        raise ValueError(f"`{uri.geturl()}` is no served model: valid is {SCHEME}://{_HOST}/NAME")
    return uri._replace(path=f"/{name}")


def openlineage_dataset(asset: Asset, lineage_context: Any) -> Any:  # noqa: ARG001 Airflow's signature
    """The asset as a dataset of OpenLineage: namespace `triton://models`, and the model's name."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    return Dataset(namespace=f"{SCHEME}://{_HOST}", name=asset.uri.rpartition("/")[2])
