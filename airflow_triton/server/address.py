"""Where a Triton is, and what has to be shown to it to be let in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from airflow_triton.errors import SpecError

_SCHEMES = {"http": ("http", False, 8000), "https": ("http", True, 8000), "grpc": ("grpc", False, 8001), "grpcs": ("grpc", True, 8001)}
"""URL scheme -> protocol, TLS, Triton's default port."""
_VALID = "a server is http://host:8000, https://host:8000, grpc://host:8001 or grpcs://host:8001"
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class ServerAddress:
    """One Triton server. `headers` (tokens) are sent with every request and are never shown, not even by `repr`.

    `control_mode` is the model control mode that the server was declared to run in; None: nothing was declared.
    Raises SpecError for a header that no request can carry; the client libraries would show its value.
    """

    protocol: str
    host: str
    port: int
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    control_mode: Literal["explicit", "poll", "none"] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise SpecError(
                    f"the header {name!r} for {self} cannot be sent: a name is one word, a value is printable ASCII in one line"
                )

    @classmethod
    def parse(cls, url: str, *, headers: Mapping[str, str] | None = None) -> ServerAddress:
        """Read `http://host:8000`, `https://...`, `grpc://host:8001` or `grpcs://...`; without a port, Triton's default.

        Raises:
            SpecError: it is no such URL, or has a path, a query or credentials in it.

        """
        parts = _split(url)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise SpecError(f"`{_shown(parts)}` is no Triton URL: {_VALID}")
        if parts.username or parts.password:
            raise SpecError(f"the Triton URL of `{parts.hostname}` holds credentials: put them into an Airflow connection instead")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise SpecError(f"the Triton URL of `{parts.hostname}` has a path or a query: {_VALID}")
        protocol, tls, default_port = _SCHEMES[parts.scheme]
        try:
            port = default_port if parts.port is None else parts.port
        except ValueError as error:
            raise SpecError(f"the Triton URL of `{parts.hostname}` has no valid port: {error}") from None
        if port == 0:
            raise SpecError(f"the Triton URL of `{parts.hostname}` has no valid port: 0")
        return cls(protocol, parts.hostname, port, tls, dict(headers or {}))

    @property
    def authority(self) -> str:
        """`host:port`, an IPv6 host in brackets, as Triton's client libraries take it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as `parse` reads it."""
        return f"{self.protocol}{'s' if self.tls else ''}://{self.authority}"

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
