"""The receiver of MLflow's webhooks inside Airflow's API server: `POST /triton-webhook/mlflow`.

Airflow does not authenticate the applications of plugins: the signature of a delivery does. Without a secret nothing is served, which is
the state of an Airflow that nobody set up for it. Every Airflow process loads this module, so it imports nothing that is not needed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mlflow_plugin.webhooks.receiver import Receiver

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PREFIX = "/triton-webhook"
_AGAIN_SECONDS = 10.0

_log = logging.getLogger(__name__)


class WebhookApp:
    """The application, made when the API server starts, or by the first request after the secret was set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._app: FastAPI | None = None
        self._receiver: Receiver | None = None
        self._problem = ""
        self._tried = float("-inf")

    def begin(self) -> None:
        """Begin to work, with what an earlier process accepted; where it is not set up, say so once and go on without it."""
        from airflow_triton.errors import DeployError
        from airflow_triton.plugins.webhook_setup import set_up

        with self._lock:
            if self._app is not None or time.monotonic() - self._tried < _AGAIN_SECONDS:
                return
            self._tried = time.monotonic()
            try:
                self._app, self._receiver = set_up()
            except DeployError as error:
                if str(error) != self._problem:
                    _log.info("MLflow's webhooks are not taken: %s", error)
                self._problem = str(error)
                return
            self._receiver.begin()

    def end(self) -> None:
        """Stop working; what waits stays in the journal."""
        with self._lock:
            if self._receiver is not None:
                self._receiver.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the application; 503 where it is not set up."""
        if self._app is None:
            await asyncio.to_thread(self.begin)
        if self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            body = json.dumps({"status": "refused", "why": "this receiver is not set up; the log of the API server says why"}).encode()
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": body})


APP = WebhookApp()


class WithTheServer:
    """Begins and ends the receiver with the API server: an application that is mounted is not told of either."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand everything on."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await asyncio.to_thread(APP.begin)
        try:
            await self._app(scope, receive, send)
        finally:
            await asyncio.to_thread(APP.end)


class TritonWebhookPlugin(AirflowPlugin):
    """What Airflow finds by the entry point `airflow.plugins`."""

    name = "triton_webhook"
    fastapi_apps = [{"app": APP, "url_prefix": PREFIX, "name": "MLflow's webhooks for Triton"}]  # noqa: RUF012 as Airflow declares it
    fastapi_root_middlewares = [{"middleware": WithTheServer, "name": "MLflow's webhooks for Triton"}]  # noqa: RUF012 as Airflow declares it
