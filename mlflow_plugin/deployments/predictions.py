"""`predict`: what serves is asked, and answers in the shape of the signature of the MLflow model that it was made of."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlflow.deployments import PredictionsResponse  # noqa: TID253 MLflow imports this module, so it is loaded already

from airflow_triton.convert.mlmodel import MlflowModel, understood
from airflow_triton.errors import DeployError, ServerUnreachableError, SpecError
from airflow_triton.registry import Registry
from airflow_triton.repository.layout import is_candidate
from airflow_triton.rollout import Target
from airflow_triton.server import ServerAddress, TritonClient, ready
from mlflow_plugin.asking import Served, as_json, question, served, shaped

if TYPE_CHECKING:
    import numpy as np

Addresses: TypeAlias = tuple[ServerAddress, ...]
_REMEMBERED = 256


class Predictions(PredictionsResponse):
    """`predictions` in the shape of the model's signature, as plain Python. Asked as NVIDIA's plugin is, also its `outputs`: arrays."""

    def to_json(self, path: str | None = None) -> str | None:
        """The predictions as JSON, or written as JSON to a file; asked as NVIDIA's plugin is, its `outputs` alone, as that answers."""
        content = {"outputs": as_json(self["outputs"])} if "outputs" in self else dict(self)
        if path is None:
            return json.dumps(content)
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 a path of any kind, as MLflow's own
            json.dump(content, file)
        return None


def predicted(name: str | None, inputs: Any, target: Callable[[], Target], addresses: Addresses) -> Predictions:
    """Ask the first server that answers. `target` is looked at where the signature is needed."""
    problems: list[str] = []
    for address in addresses:
        client = _client(address)
        try:
            found = served(client, name or _only(client))
            return _answered(client, found, inputs, target)
        except ServerUnreachableError as error:
            problems.append(str(error))
    raise ServerUnreachableError("; ".join(problems))


@functools.lru_cache(maxsize=_REMEMBERED)
def _client(address: ServerAddress) -> TritonClient:
    """A client that stays connected: predictions come one after the other."""
    return TritonClient(address)


def _only(client: TritonClient) -> str:
    """The only model of a server."""
    names = sorted(name for name in ready(client.index()) if not is_candidate(name))
    if len(names) != 1:
        raise SpecError(f"say which deployment: {client.address} serves {', '.join(names) or 'none'}")
    return names[0]


def _answered(client: TritonClient, found: Served, inputs: Any, target: Callable[[], Target]) -> Predictions:
    model, problem = _model(found, target)
    asked = question(inputs, found, model.columns if model else None)
    if problem is not None and not asked.by_tensor:
        raise problem  # in which order a table's columns go, and what the answer is to look like, is not known
    outputs = found.ask(client, asked.arrays)
    response = Predictions(predictions=as_json(shaped(outputs, model.outputs if model else None)))
    if asked.as_plugin:
        response["outputs"] = _texts(outputs)
    return response


def _texts(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shaped_as_they_are: dict[str, np.ndarray] = shaped(outputs, None)
    return shaped_as_they_are


def _model(found: Served, target: Callable[[], Target]) -> tuple[MlflowModel | None, DeployError | None]:
    """The MLflow model that serves (None: it was not made of one); or why that cannot be known."""
    try:
        where = target()
        manifest = where.store.manifest(found.model, found.version)
        source = manifest.source if manifest else None
        if source is None:
            return None, None
        return _described(source.artifacts, source.digest), None
    except DeployError as error:
        return None, error


@functools.lru_cache(maxsize=_REMEMBERED)
def _described(artifacts: str, digest: str) -> MlflowModel:  # noqa: ARG001 the digest is the content's identity
    """What the MLmodel file of a version says; it never changes."""
    return understood(Registry(None).mlmodel(artifacts), Path(artifacts))
