"""Whom a TLS server has to be, and who we are to it: certificates, for the client libraries of Triton."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import SpecError

if TYPE_CHECKING:
    import grpc

    from airflow_triton.server.address import ServerAddress


def grpc_credentials(address: ServerAddress) -> grpc.ChannelCredentials | None:
    """What gRPC is told of certificates; None where there is no TLS.

    Raises:
        SpecError: a file is not there, or cannot be read.

    """
    import grpc

    if not address.tls:
        return None
    files = {"root_certificates": address.ca, "certificate_chain": address.certificate, "private_key": _key(address)}
    return grpc.ssl_channel_credentials(**{name: _read(path, address) for name, path in files.items() if path})


def context(address: ServerAddress, make: Callable[..., ssl.SSLContext] = ssl.create_default_context) -> ssl.SSLContext:
    """A TLS context for HTTPS: the server's certificate is verified, and ours is shown where the address has one.

    Raises:
        SpecError: a file is not there, or holds no certificate, no key, or a key that is encrypted or of another certificate.

    """
    for path in filter(None, (address.ca, address.certificate, _key(address))):
        _read(path, address)
    try:
        made = make(cafile=address.ca)
        if address.certificate:
            made.load_cert_chain(address.certificate, _key(address), password=lambda: "")  # never ask at a terminal
    except (ssl.SSLError, ValueError) as error:
        raise SpecError(
            f"{address}: the TLS files cannot be used ({error}): the authority is {address.ca or 'the system'}, the client's certificate "
            f"{address.certificate or 'none'} with the key {_key(address) or 'none'}; they must be PEM, the key without a password"
        ) from None
    return made


def http_options(address: ServerAddress) -> dict[str, Any]:
    """What the HTTP client library is told of certificates; nothing where there is no TLS, or nothing to tell."""
    if not address.tls or not (address.ca or address.certificate):
        return {}
    from gevent.ssl import create_default_context  # type: ignore[import-untyped]

    context(address)  # what is wrong with the files is said now, and not at the first request
    return {"ssl_context_factory": lambda cafile=None: context(address, create_default_context)}  # noqa: ARG005 the library's own


def _key(address: ServerAddress) -> str | None:
    """The file of the key: the certificate's own where none is named."""
    return address.key or address.certificate


def _read(path: str, address: ServerAddress) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SpecError(f"{address}: the TLS file {path} cannot be read: {error.strerror}") from None
