"""Where a Triton is, and what has to be shown to it to be let in."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from airflow_triton.errors import ServerUnreachableError, SpecError

_SCHEMES = {"http": ("http", False, 8000), "https": ("http", True, 8000), "grpc": ("grpc", False, 8001), "grpcs": ("grpc", True, 8001)}
"""URL scheme -> protocol, TLS, Triton's default port."""
_DNS = "dns+"
_VALID = (
    "a server is http://host:8000, https://host:8000, grpc://host:8001 or grpcs://host:8001; dns+grpc://host:8001 (dns+grpcs, dns+http) "
    "is every server whose address the host's name resolves to"
)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class ServerAddress:
    """One Triton server. `headers` (tokens) are sent with every request and are never shown, not even by `repr`.

    `control_mode` is the model control mode that the server was declared to run in; None: nothing was declared. `many`: the host's
    name stands for several servers, which `replicas` answers. `certificate_name` is the name in the server's certificate where it is not
    the host. `ca` is a PEM file of the authorities that its certificate may be of (None: the system's), `certificate` and `key` are files
    of our own certificate and its key (in the same file where `key` is None); all of them are for TLS.
    Raises SpecError for a header that no request can carry; the client libraries would show its value.
    """

    protocol: str
    host: str
    port: int
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    control_mode: Literal["explicit", "poll", "none"] | None = field(default=None, compare=False)
    many: bool = False
    certificate_name: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise SpecError(
                    f"the header {name!r} for {self} cannot be sent: a name is one word, a value is printable ASCII in one line"
                )

    @classmethod
    def parse(cls, url: str, *, headers: Mapping[str, str] | None = None) -> ServerAddress:
        """Read `http://host:8000`, `https://...`, `grpc://host:8001` or `grpcs://...`; without a port, Triton's default.

        With `dns+` before it the host's name stands for several servers. Not with https: a replica is called by its address, its
        certificate names the host, and the HTTP client takes no other name than that which it calls.

        Raises:
            SpecError: it is no such URL, or has a path, a query or credentials in it.

        """
        parts = _split(url)
        scheme, many = parts.scheme.removeprefix(_DNS), parts.scheme.startswith(_DNS)
        if scheme not in _SCHEMES or not parts.hostname or (many and scheme == "https"):
            raise SpecError(f"`{_shown(parts)}` is no Triton URL: {_VALID}")
        if parts.username or parts.password:
            raise SpecError(f"the Triton URL of `{parts.hostname}` holds credentials: put them into an Airflow connection instead")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise SpecError(f"the Triton URL of `{parts.hostname}` has a path or a query: {_VALID}")
        protocol, tls, default_port = _SCHEMES[scheme]
        try:
            port = default_port if parts.port is None else parts.port
        except ValueError as error:
            raise SpecError(f"the Triton URL of `{parts.hostname}` has no valid port: {error}") from None
        if port == 0:
            raise SpecError(f"the Triton URL of `{parts.hostname}` has no valid port: 0")
        return cls(protocol, parts.hostname, port, tls, dict(headers or {}), many=many)

    def replicas(self) -> tuple[ServerAddress, ...]:
        """The servers that this address stands for, in the order of their addresses: itself, unless it is one for `many`.

        Then the name is resolved anew, by the system: its IPv4 addresses or, where it has none, its IPv6 addresses (a replica that has
        both is one). An address that is named twice is one server.

        Raises:
            ServerUnreachableError: the name resolves to nothing, or cannot be resolved now; that is no proof of there being no server.

        """
        if not self.many:
            return (self,)
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ServerUnreachableError(f"{self}: the name `{self.host}` does not resolve to any server: {error}") from None
        families = {family: sorted({str(place[0]) for kind, *_, place in found if kind == family}) for family in _FAMILIES}
        hosts = next(filter(None, families.values()), None)
        if hosts is None:
            raise ServerUnreachableError(f"{self}: the name `{self.host}` does not resolve to any server")
        name = self.host if self.tls else None
        return tuple(replace(self, host=host, many=False, certificate_name=name) for host in hosts)

    @property
    def authority(self) -> str:
        """`host:port`, an IPv6 host in brackets, as Triton's client libraries take it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as `parse` reads it."""
        return f"{_DNS if self.many else ''}{self.protocol}{'s' if self.tls else ''}://{self.authority}"

    def __str__(self) -> str:
        return self.url


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise SpecError(f"`{url.rpartition('@')[2]}` is no Triton URL ({error}): {_VALID}") from None


def _shown(parts: SplitResult) -> str:
    """The URL without what may be a secret: all before an `@`, and the query."""
    return parts._replace(query="", fragment="").geturl().rpartition("@")[2]
