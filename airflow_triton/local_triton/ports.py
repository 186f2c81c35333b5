"""Ports of the loopback address: which are free, which to take, and whether a server answers on them."""

from __future__ import annotations

import http.client
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from airflow_triton.errors import LocalTritonError

ADDRESS = "127.0.0.1"
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Ports:
    """The three ports that a server listens on."""

    http: int
    grpc: int
    metrics: int


def choose_ports(wanted: tuple[int | None, int | None, int | None], before: Ports | None = None) -> Ports:
    """The wanted ports (HTTP, gRPC, metrics), and free ones for each None: those of `before` where they are free again.

    Raises LocalTritonError if a wanted port is taken.
    """
    for name, port in zip(("HTTP", "gRPC", "metrics"), wanted, strict=True):
        if port is not None and not is_free(port):
            raise LocalTritonError(
                f"The local Triton cannot start: the {name} port {port} of {ADDRESS} is in use. Name another, or none to get a free one."
            )
    fresh = free_ports(len(wanted))
    old = (before.http, before.grpc, before.metrics) if before else (None, None, None)
    again = [port if port is not None and is_free(port) else None for port in old]
    return Ports(*(first or second or third for first, second, third in zip(wanted, again, fresh, strict=True)))


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now; nothing keeps another process from taking it the moment after."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """As many different free ports as asked for."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((ADDRESS, 0))
        return [one.getsockname()[1] for one in sockets]


def is_free(port: int) -> bool:
    """Whether a server could listen on that port of 127.0.0.1 now."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: the rest of a closed connection does not count
        try:
            one.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    """Whether something accepts connections on that port of 127.0.0.1."""
    try:
        with socket.create_connection((ADDRESS, port), timeout=LOOK_SECONDS):
            return True
    except OSError:
        return False


def is_live(port: int) -> bool:
    """Whether a Triton on that HTTP port says that it is live (which says nothing about its models)."""
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=LOOK_SECONDS)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
