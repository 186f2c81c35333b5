"""What a server has ready, asked on an event loop: for a process that waits for many servers at once."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ServerUnreachableError
from airflow_triton.server.client import CALL_SECONDS, LoadedModel, ready
from airflow_triton.server.over_grpc import channel_args, client_options
from airflow_triton.server.tls import context
from airflow_triton.server.transport import translated

if TYPE_CHECKING:
    from airflow_triton.server.address import ServerAddress


async def ready_models(address: ServerAddress, *, seconds: float = CALL_SECONDS) -> dict[str, tuple[int, ...]]:
    """The versions of every model that answer on one server, in rising order: one call, whatever the number of models.

    Nothing stays open behind it. `seconds` is the deadline of all of it.

    Raises:
        ServerUnreachableError: no connection, or no answer within the deadline.
        ServerError: a refusal.
        SpecError: a file of a certificate cannot be used.

    """
    from aiohttp import ClientError

    ask = _ask_grpc if address.protocol == "grpc" else _ask_http
    try:
        rows = await asyncio.wait_for(ask(address, seconds), seconds)
    except (ClientError, asyncio.TimeoutError) as error:
        raise ServerUnreachableError(
            f"{address} did not answer when asked to list its models: {str(error) or type(error).__name__}"
        ) from None
    except Exception as error:  # noqa: BLE001 told apart there
        return translated(address, "list its models", partial(_raise, error))
    return ready(LoadedModel(row["name"], int(row["version"]), row.get("state", ""), "") for row in rows if row.get("version"))


async def _ask_http(address: ServerAddress, seconds: float) -> Any:
    from tritonclient.http.aio import InferenceServerClient

    options = {"ssl_context": context(address)} if address.tls else {}
    async with InferenceServerClient(address.authority, ssl=address.tls, conn_timeout=seconds, **options) as client:
        return await client.get_model_repository_index(headers=dict(address.headers) or None)


async def _ask_grpc(address: ServerAddress, seconds: float) -> Any:
    from tritonclient.grpc.aio import InferenceServerClient

    headers = {name.lower(): value for name, value in address.headers.items()} or None  # HTTP/2 has no capitals
    async with InferenceServerClient(address.authority, channel_args=channel_args(address), **client_options(address)) as client:
        answer = await client.get_model_repository_index(headers=headers, as_json=True, client_timeout=seconds)
    return answer.get("models", [])


def _raise(error: Exception) -> dict[str, tuple[int, ...]]:
    raise error
