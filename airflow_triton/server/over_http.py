"""Triton over HTTP, by its client library."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from airflow_triton.server.greenlets import Greenlets
from airflow_triton.server.tls import http_options
from airflow_triton.server.transport import version_text

if TYPE_CHECKING:
    import numpy as np

    from airflow_triton.server.address import ServerAddress
    from airflow_triton.server.transport import Inference, Pending

MOST_CONNECTIONS = 64
"""Requests of one client under way at a time; over gRPC there is no such limit."""


class HttpTransport:
    """HTTP: the library is bound to the thread that made it and sets its deadline once: one thread, and a client for each deadline."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._headers = dict(address.headers) or None
        self._options = http_options(address)
        self._clients: dict[float, Any] = {}
        self._greenlets = Greenlets("triton-http")

    def _client(self, deadline: float) -> Any:
        if deadline not in self._clients:
            from tritonclient.http import InferenceServerClient

            self._clients[deadline] = InferenceServerClient(
                self._address.authority,
                ssl=self._address.tls,
                concurrency=MOST_CONNECTIONS,
                connection_timeout=min(deadline, 10.0),
                network_timeout=deadline,
                **self._options,
            )
        return self._clients[deadline]

    def call(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Any:
        """See `Transport`."""
        return self._submit(method, *args, deadline=deadline, **kwargs).result()

    def infer(self, asked: Inference, *, deadline: float) -> Pending:
        """See `Transport`. 64 connections for each deadline, at most."""
        from tritonclient.http import InferInput, InferRequestedOutput

        sent = []
        for name, array in asked.inputs.items():
            sent.append(InferInput(name, list(array.shape), asked.datatype(name)))
            sent[-1].set_data_from_numpy(array.astype(object) if array.dtype.kind == "U" else array)
        outputs = None if asked.outputs is None else [InferRequestedOutput(name) for name in asked.outputs]
        return self._submit("infer", asked.model, sent, deadline=deadline, model_version=version_text(asked.version), outputs=outputs)

    def arrays(self, answer: Any) -> dict[str, np.ndarray]:
        """See `Transport`."""
        return {output["name"]: answer.as_numpy(output["name"]) for output in answer.get_response()["outputs"]}

    def _submit(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Future[Any]:
        import gevent  # type: ignore[import-untyped]

        def ask() -> Any:
            with gevent.Timeout(deadline, TimeoutError("timed out")):  # the library's own deadline starts anew with every byte
                return getattr(self._client(deadline), method)(*args, headers=self._headers, **kwargs)

        return self._greenlets.submit(ask)

    def close(self) -> None:
        """See `Transport`."""
        self._greenlets.close(self._close_clients)

    def _close_clients(self) -> None:
        for client in self._clients.values():
            client.close()
