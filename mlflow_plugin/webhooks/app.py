"""The ASGI application: one door for MLflow's deliveries, for a server of its own or mounted in another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from airflow_triton.errors import DeployError
from mlflow_plugin.webhooks.check import MAX_AGE, MOST_BYTES, RefusedDeliveryError, check
from mlflow_plugin.webhooks.receiver import Answer, Receiver

PATH = "/mlflow"
_BODY_SECONDS = 15.0
_RETRY_SECONDS = 5


def make_app(receiver: Receiver, *, secret: Callable[[], str], max_age: float = MAX_AGE) -> FastAPI:
    """The application: `POST /mlflow` takes a delivery, `GET /health` says that it is up.

    202 accepted; 200 ignored, with the reason, or accepted before; 400 no event; 401 not signed with `secret`, or more than `max_age`
    seconds ago; 408 the body does not come; 409 another delivery had the id; 413 more than 1 MiB; 429 too many wait; 503 the journal cannot
    be written, or there is no secret any more (`secret` raises a DeployError).
    """
    app = FastAPI(title="airflow-provider-triton: MLflow's webhooks", docs_url=None, redoc_url=None, openapi_url=None)

    def take(headers: dict[str, str], body: bytes) -> Answer:
        try:
            known = secret()
        except DeployError:
            raise RefusedDeliveryError(503, "this receiver has no secret any more") from None
        return receiver.accept(check(headers, body, secret=known, now=time.time(), max_age=max_age))

    @app.post(PATH)
    async def deliver(request: Request) -> JSONResponse:
        try:
            body = await asyncio.wait_for(_body(request), _BODY_SECONDS)
            answer = await run_in_threadpool(take, dict(request.headers), body)
        except RefusedDeliveryError as error:
            return _refused(error.status, str(error))
        except asyncio.TimeoutError:
            return _refused(408, f"the body did not come within {_BODY_SECONDS:g} s")
        except ClientDisconnect:
            return _refused(400, "the body did not come to its end")
        return JSONResponse(answer.body, status_code=answer.status)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "up"}

    return app


async def _body(request: Request) -> bytes:
    """The body; refused as soon as it is known to be too large."""
    refused = RefusedDeliveryError(413, f"the body has more than {MOST_BYTES} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MOST_BYTES:
        raise refused
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise refused
    return bytes(body)


def _refused(status: int, why: str) -> JSONResponse:
    headers = {"retry-after": str(_RETRY_SECONDS)} if status in {429, 503} else {}
    if status in {408, 413}:
        headers["connection"] = "close"  # the rest of the body is not read
    return JSONResponse({"status": "refused", "why": why}, status_code=status, headers=headers)
