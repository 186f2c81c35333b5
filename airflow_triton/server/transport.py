"""The two client libraries of Triton behind one shape: deadlines, headers and errors alike over gRPC and HTTP."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_triton.errors import ControlModeError, ServerError, ServerUnreachableError
from airflow_triton.server.greenlets import Greenlets
from airflow_triton.server.tls import grpc_options, http_options

if TYPE_CHECKING:
    from types import ModuleType

    from airflow_triton.server.address import ServerAddress

T = TypeVar("T")

MOST_CONNECTIONS = 64
"""Requests of one client over HTTP under way at a time; over gRPC there is no such limit."""

BACK_MS = 500
"""A client over gRPC that could not reach its server tries again so soon; until then its calls fail at once."""

_MODE_REFUSAL = "explicit model load / unload is not allowed"
"""What Triton answers to a load or unload in POLL and in NONE mode alike."""

_UNAVAILABLE_REASONS = ("protocol is restricted", "maximum queue size", "is stopping", "ready state", "no available versions")
"""Where Triton itself answers UNAVAILABLE; gRPC's client library has the same status for a server that it cannot reach."""


class Transport(Protocol):
    """One call of one method of Triton's client library, within `deadline` seconds."""

    @property
    def library(self) -> ModuleType:
        """The client library: it holds `InferInput` and `InferRequestedOutput`."""

    def call(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Any:
        """Call `method` and hand back its answer, JSON-like where it is a message."""

    def submit(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Future[Any]:
        """An inference that is under way; `method` is `infer`."""

    def close(self) -> None:
        """Close the connections."""


class GrpcTransport:
    """gRPC: one channel, safe to share between threads, the deadline is gRPC's own."""

    def __init__(self, address: ServerAddress) -> None:
        import tritonclient.grpc as library

        self.library = library
        self._headers = {name.lower(): value for name, value in address.headers.items()} or None  # HTTP/2 has no capitals
        self._client = library.InferenceServerClient(
            address.authority, ssl=address.tls, channel_args=channel_args(address), **grpc_options(address)
        )

    def call(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Any:
        """See `Transport`."""
        if method.startswith("get_"):
            kwargs["as_json"] = True
        return getattr(self._client, method)(*args, headers=self._headers, client_timeout=deadline, **kwargs)

    def submit(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Future[Any]:
        """See `Transport`. No thread waits for it."""
        future: Future[Any] = Future()

        def came(result: Any, error: Any) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        getattr(self._client, f"async_{method}")(*args, callback=came, headers=self._headers, client_timeout=deadline, **kwargs)
        return future

    def close(self) -> None:
        """See `Transport`."""
        self._client.close()


def channel_args(address: ServerAddress) -> list[tuple[str, Any]]:
    """Messages of any size (as the library has it by itself); a server that is back is noticed at once; the name in its certificate.

    gRPC would look for a dead server more and more seldom, in the end every two minutes, and tell every client of this process that has
    the same address what it saw last.
    """
    arguments: list[tuple[str, Any]] = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    arguments += [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", BACK_MS),
    ]
    if address.certificate_name is not None:
        arguments.append(("grpc.ssl_target_name_override", address.certificate_name))
    return arguments


class HttpTransport:
    """HTTP: the library is bound to the thread that made it and sets its deadline once: one thread, and a client for each deadline."""

    def __init__(self, address: ServerAddress) -> None:
        import tritonclient.http as library

        self.library = library
        self._address = address
        self._headers = dict(address.headers) or None
        self._options = http_options(address)
        self._clients: dict[float, Any] = {}
        self._greenlets = Greenlets("triton-http")

    def _client(self, deadline: float) -> Any:
        if deadline not in self._clients:
            self._clients[deadline] = self.library.InferenceServerClient(
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
        return self.submit(method, *args, deadline=deadline, **kwargs).result()

    def submit(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Future[Any]:
        """See `Transport`. 64 connections for each deadline, at most."""
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


def translated(address: ServerAddress, doing: str, call: Callable[[], T]) -> T:
    """Run `call`; what the client libraries raise becomes one of our errors with the server's own reason.

    Raises:
        ServerUnreachableError: no connection, or no answer within the deadline.
        ControlModeError: the server does not take load and unload requests.
        ServerError: any other refusal.

    """
    from geventhttpclient.response import HTTPParseError
    from tritonclient.utils import InferenceServerException

    try:
        return call()
    except InferenceServerException as error:
        reason = str(error.message()).strip()
        status = str(error.status())
        if _MODE_REFUSAL in reason:
            raise ControlModeError(
                f"{address} refuses to {doing}: it runs in POLL or NONE mode, where Triton takes no load requests; "
                f"start it with --model-control-mode=explicit, or declare `control_mode: poll` or `none` (Triton said: {reason})"
            ) from None
        answered = any(known in reason for known in _UNAVAILABLE_REASONS)
        if status == "StatusCode.DEADLINE_EXCEEDED" or (status == "StatusCode.UNAVAILABLE" and not answered):
            raise ServerUnreachableError(f"{address} did not answer when asked to {doing}: {reason}") from None
        raise ServerError(f"{address} refused to {doing}: {reason}") from None
    except (OSError, EOFError, HTTPParseError) as error:  # HTTP: refused, timed out, closed, unknown host, no HTTP at all
        raise ServerUnreachableError(f"{address} did not answer when asked to {doing}: {str(error) or type(error).__name__}") from None
