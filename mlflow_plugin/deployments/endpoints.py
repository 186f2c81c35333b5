"""Endpoints: the Tritons that run already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow_triton.errors import ServerError, SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.repository.layout import is_candidate
from airflow_triton.rollout.target import SERVER_VARIABLE, find_addresses
from airflow_triton.server import ServerAddress, TritonClient, ready

_AT_ONCE = 16


def addresses(servers: Sequence[str]) -> tuple[ServerAddress, ...]:
    """The servers, names that stand for several resolved; those of `TRITON_URL` where none are named. SpecError where there are none."""
    found = find_addresses(servers=servers, connections=airflow_connections())
    if not found:
        where = f"{SERVER_VARIABLE} is {'empty' if SERVER_VARIABLE in os.environ else 'not set'}"
        raise SpecError(f"no Triton server: the target names none, and {where}")
    return tuple(replica for address in found for replica in address.replicas())


def described(servers: Sequence[ServerAddress]) -> list[dict[str, Any]]:
    """What each server says of itself; one that does not answer is not `live`, and `problem` says why."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_described, servers))


def _described(address: ServerAddress) -> dict[str, Any]:
    try:
        with TritonClient(address) as client:
            client.check_live()
            models = {name: list(versions) for name, versions in ready(client.index()).items() if not is_candidate(name)}
            return {"name": str(address), "live": True, "version": client.server_version(), "models": models}
    except ServerError as error:
        return {"name": str(address), "live": False, "version": None, "models": {}, "problem": str(error)}
