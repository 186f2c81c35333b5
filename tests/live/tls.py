"""Certificates of the tests' own, and a proxy that ends TLS in front of a server that speaks none."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Pair:
    """The PEM files of a certificate and of its key."""

    certificate: Path
    key: Path


class Authority:
    """An authority that signs certificates; `ca` is its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = _name(name)
        self._key = _new_key()
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(self._signed(self._name, self._key.public_key(), authority=True))

    def pair(self, name: str, *, hosts: tuple[str, ...] = (ADDRESS, "localhost")) -> Pair:
        """A certificate for these hosts, with its key."""
        key = _new_key()
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(self._signed(_name(name), key.public_key(), hosts=hosts))
        pair.key.write_bytes(_pem_of(key))
        return pair

    def _signed(self, name: Any, key: Any, *, authority: bool = False, hosts: tuple[str, ...] = ()) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        today = dt.datetime.now(dt.timezone.utc)
        made = (
            x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
            .not_valid_before(today - dt.timedelta(days=1))
            .not_valid_after(today + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if hosts:
            made = made.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _pem_of(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def _name(text: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _host(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class TlsProxy:
    """Takes TLS connections and hands what they carry to a plain port of this machine; with `clients`, only such as that authority signed.

    Triton's HTTP endpoint speaks no TLS itself; in production, a proxy such as nginx stands there as this one does.
    """

    def __init__(self, port: int, pair: Pair, *, clients: Path | None = None) -> None:
        self._to = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.certificate, pair.key)
        if clients is not None:
            self._context.load_verify_locations(clients)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listening = socket.create_server((ADDRESS, 0))
        self.url = f"https://{ADDRESS}:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listening.accept()[0],), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            taken,
            self._context.wrap_socket(taken, server_side=True) as outside,
            socket.create_connection((ADDRESS, self._to)) as inside,
        ):
            back = threading.Thread(target=_pump, args=(inside, outside), daemon=True)
            back.start()
            _pump(outside, inside)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
