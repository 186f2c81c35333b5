"""The two client libraries of Triton behind one shape: deadlines, headers and errors alike over gRPC and HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_triton.errors import ControlModeError, ServerError, ServerUnreachableError

if TYPE_CHECKING:
    from types import ModuleType

    from airflow_triton.server.address import ServerAddress

T = TypeVar("T")

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

    def close(self) -> None:
        """Close the connections."""


class GrpcTransport:
    """gRPC: one channel, safe to share between threads, the deadline is gRPC's own."""

    def __init__(self, address: ServerAddress) -> None:
        import tritonclient.grpc as library

        self.library = library
        self._headers = {name.lower(): value for name, value in address.headers.items()} or None  # HTTP/2 has no capitals
        self._client = library.InferenceServerClient(address.authority, ssl=address.tls)

    def call(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Any:
        """See `Transport`."""
        if method.startswith("get_"):
            kwargs["as_json"] = True
        return getattr(self._client, method)(*args, headers=self._headers, client_timeout=deadline, **kwargs)

    def close(self) -> None:
        """See `Transport`."""
        self._client.close()


class HttpTransport:
    """HTTP: one connection for each thread and deadline (the library is bound to its thread and sets the deadline once)."""

    def __init__(self, address: ServerAddress) -> None:
        import tritonclient.http as library

        self.library = library
        self._address = address
        self._headers = dict(address.headers) or None
        self._local = threading.local()
        self._clients: list[Any] = []

    def _client(self, deadline: float) -> Any:
        clients: dict[float, Any] = self._local.__dict__.setdefault("clients", {})
        if deadline not in clients:
            clients[deadline] = self.library.InferenceServerClient(
                self._address.authority, ssl=self._address.tls, connection_timeout=min(deadline, 10.0), network_timeout=deadline
            )
            self._clients.append(clients[deadline])
        return clients[deadline]

    def call(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Any:
        """See `Transport`."""
        import gevent  # type: ignore[import-untyped]

        with gevent.Timeout(deadline, TimeoutError("timed out")):  # the library's own deadline starts anew with every byte
            return getattr(self._client(deadline), method)(*args, headers=self._headers, **kwargs)

    def close(self) -> None:
        """See `Transport`."""
        for client in self._clients:
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
