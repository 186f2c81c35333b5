"""Triton's control plane and data plane, typed: readiness, index, load, unload, configuration and inference.

`ServerAddress` says where a server is; `TritonClient` talks to it over gRPC or HTTP, every call with a deadline and every error
with the server's own reason.
"""

from airflow_triton.server.address import ServerAddress
from airflow_triton.server.client import LoadedModel, TritonClient, ready
from airflow_triton.server.transport import Inference

__all__ = ["Inference", "LoadedModel", "ServerAddress", "TritonClient", "ready"]
