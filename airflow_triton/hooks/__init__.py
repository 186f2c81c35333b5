"""Airflow's hooks: from a connection to the thing that it means."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_triton.server import ServerAddress


def connection_lookup() -> Callable[[str], ServerAddress] | None:
    """How to get from the id of an Airflow connection to its server; None where Airflow is not installed.

    Airflow is imported by the first look-up, not before.
    """
    return _look_up if importlib.util.find_spec("airflow") else None


def _look_up(conn_id: str) -> ServerAddress:
    from airflow_triton.hooks.triton import TritonHook

    return TritonHook(conn_id).address
