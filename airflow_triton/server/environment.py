"""What is shown to servers that are named by their URL: a token, headers and certificates, from the environment.

An Airflow connection has its own of all of these; the environment is not looked at for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace

from airflow_triton.errors import SpecError
from airflow_triton.server.address import ServerAddress

TOKEN, HEADERS = "TRITON_TOKEN", "TRITON_HEADERS"
CA, CERTIFICATE, KEY = "TRITON_CA", "TRITON_CERT", "TRITON_KEY"
_FORMS = 'NAME=VALUE,NAME=VALUE or a JSON object {"NAME": "VALUE"}'


def address_of(url: str, environment: Mapping[str, str] | None = None) -> ServerAddress:
    """The server of a URL, with what the environment has for it.

    `TRITON_TOKEN` is sent as a bearer token; `TRITON_HEADERS` are sent as they are (NAME=VALUE, separated by commas, or a JSON object).
    `TRITON_CA` is a file of the authorities that a server's certificate may be of (else the system's), `TRITON_CERT` and `TRITON_KEY`
    are our own certificate and its key (both in the former where the latter is not set); they concern https and grpcs alone.

    Raises:
        SpecError: the URL is none, or a variable cannot be used; its value is not shown.

    """
    environment = os.environ if environment is None else environment
    address = ServerAddress.parse(url, headers=_headers(environment))
    if not address.tls:
        return address
    ca, certificate, key = (environment.get(name) or None for name in (CA, CERTIFICATE, KEY))
    return replace(address, ca=ca, certificate=certificate, key=key)


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    headers = headers_of(environment.get(HEADERS, ""), HEADERS)
    if token := environment.get(TOKEN, "").strip():
        if any(name.lower() == "authorization" for name in headers):
            raise SpecError(f"{TOKEN} is sent as the header `authorization`, which {HEADERS} has too: leave one of them out")
        headers["authorization"] = f"Bearer {token}"
    return headers


def headers_of(text: str, where: str) -> dict[str, str]:
    """The headers of a text: NAME=VALUE, separated by commas, or a JSON object; none of an empty one.

    Raises:
        SpecError: it is neither; its content is not shown.

    """
    text = text.strip()
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            raise SpecError(f"{where} is no JSON object: valid are {_FORMS}") from None
        if not all(isinstance(value, str) for value in found.values()):
            raise SpecError(f"{where}: each value must be a text: valid are {_FORMS}")
        return dict(found)
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(sign and name.strip() for name, sign, _ in pairs):
        raise SpecError(f"{where} holds something that is no NAME=VALUE: valid are {_FORMS}")
    return {name.strip(): value.strip() for name, _, value in pairs}
