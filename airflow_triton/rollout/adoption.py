"""Taking over a model that others put into the repository, with its server's help where the repository does not say enough."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_triton import model_config, repository
from airflow_triton.repository import Adoption, Repository
from airflow_triton.server import ServerAddress, TritonClient


def adopt(model: str, store: Repository, addresses: Sequence[ServerAddress] = ()) -> Adoption:
    """`repository.adopt`; a model without config.pbtxt gets the config with which the first server that has it loaded it.

    Nothing is loaded, and servers are not asked at all where there is a config.pbtxt.
    """
    config = _loaded(model, addresses) if store.read_config(model) is None else None
    return repository.adopt(store, model, config=config)


def _loaded(model: str, addresses: Sequence[ServerAddress]) -> str | None:
    from google.protobuf.json_format import ParseDict
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    for address in (replica for each in addresses for replica in each.replicas()):
        with TritonClient(address) as client:
            if client.ready_versions(model):
                return model_config.render(ParseDict(client.config(model), ModelConfig()))
    return None
