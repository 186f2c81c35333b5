"""How servers let us in: TLS, client certificates, headers and tokens, over gRPC and HTTP; and that no secret is shown."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from live.tls import Authority, Pair, TlsProxy
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from airflow_triton.errors import DeployError, ServerError, ServerUnreachableError, SpecError
from airflow_triton.hooks.triton import TritonHook
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository
from airflow_triton.rollout.target import find_addresses
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.server.aio import ready_models
from airflow_triton.server.environment import address_of

SECRET = "s3cret-of-the-tests"
GRPC_HEADER, HTTP_HEADER = "triton-grpc-protocol-x-admin", "x-admin"


@dataclass(frozen=True)
class Guarded:
    """A server whose gRPC wants a client certificate, with an HTTPS proxy before it that does too; its management wants a header."""

    server: LocalTriton
    proxy: TlsProxy
    authority: Authority
    ours: Pair

    @property
    def urls(self) -> dict[str, str]:
        """By protocol."""
        return {"grpc": self.server.grpc_url.replace("grpc://", "grpcs://"), "http": self.proxy.url}

    def address(self, protocol: str, **changes: Any) -> ServerAddress:
        """The server, with all that it wants; `changes` are fields of the address."""
        header = GRPC_HEADER if protocol == "grpc" else HTTP_HEADER
        whole = replace(
            ServerAddress.parse(self.urls[protocol], headers={header: SECRET}),
            ca=str(self.authority.ca),
            certificate=str(self.ours.certificate),
            key=str(self.ours.key),
        )
        return replace(whole, **changes)

    @property
    def environment(self) -> dict[str, str]:
        """The same, for servers that are named by their URL."""
        return {
            "TRITON_HEADERS": f"{GRPC_HEADER}={SECRET},{HTTP_HEADER}={SECRET}",
            "TRITON_TOKEN": f"{SECRET}-token",
            "TRITON_CA": str(self.authority.ca),
            "TRITON_CERT": str(self.ours.certificate),
            "TRITON_KEY": str(self.ours.key),
        }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The server, for the whole module."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder)
    own, ours = authority.pair("server"), authority.pair("client", hosts=())
    arguments = [
        "--disable-auto-complete-config",
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={own.certificate}",
        f"--grpc-server-key={own.key}",
        f"--grpc-root-cert={authority.ca}",
        f"--http-restricted-api=model-repository:{HTTP_HEADER}={SECRET}",
        f"--grpc-restricted-protocol=model-repository:{HTTP_HEADER}={SECRET}",
    ]
    with LocalTriton(folder / "models", extra_args=arguments) as server:
        port = int(server.http_url.rpartition(":")[2])
        with TlsProxy(port, own, clients=authority.ca) as proxy:
            yield Guarded(server, proxy, authority, ours)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_certificate_and_a_header_let_us_in(guarded: Guarded, protocol: str) -> None:
    """Over mutual TLS the server takes load requests; the asynchronous client of the triggers too; a PEM file may hold both."""
    address = guarded.address(protocol)
    both = guarded.ours.certificate.with_name("both.pem")
    both.write_bytes(guarded.ours.certificate.read_bytes() + guarded.ours.key.read_bytes())
    for each in (address, replace(address, certificate=str(both), key=None)):
        with TritonClient(each) as client:
            client.check_live()
            client.check_explicit_mode("nobody")
    assert asyncio.run(ready_models(address)) == {}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_without_one_of_them_nothing_is_let_through(guarded: Guarded, protocol: str, tmp_path: Path) -> None:
    """An authority that is not the server's, no certificate of ours, one of another authority, no header; no text holds a secret."""
    other = Authority(tmp_path, "other")
    stranger = other.pair("stranger", hosts=())
    cases: dict[str, tuple[dict[str, Any], type[DeployError]]] = {
        "another authority": ({"ca": str(other.ca)}, ServerUnreachableError),
        "the system's authorities": ({"ca": None}, ServerUnreachableError),
        "no certificate": ({"certificate": None, "key": None}, ServerUnreachableError),
        "a stranger's certificate": ({"certificate": str(stranger.certificate), "key": str(stranger.key)}, ServerUnreachableError),
        "no header": ({"headers": {}}, ServerError),
        "a wrong header": ({"headers": {GRPC_HEADER: f"no-{SECRET}", HTTP_HEADER: f"no-{SECRET}"}}, ServerError),
    }
    for changes, error in cases.values():
        address = guarded.address(protocol, **changes)
        with TritonClient(address, call_seconds=5) as client, pytest.raises(error) as told:
            client.check_explicit_mode("nobody")
        assert type(told.value) is error
        assert SECRET not in f"{told.value} {address!r} {vars(client)}"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_files_that_cannot_be_used_are_told_at_once(guarded: Guarded, protocol: str, tmp_path: Path) -> None:
    """Before any request: which file of which server, and why; the content of a key is not shown."""
    with pytest.raises(SpecError, match=r"the TLS file /nowhere/ca.pem cannot be read: No such file"):
        TritonClient(guarded.address(protocol, ca="/nowhere/ca.pem"))
    if protocol == "http":
        (tmp_path / "key.pem").write_text("no key")
        with pytest.raises(SpecError, match="the TLS files cannot be used"):
            TritonClient(guarded.address(protocol, key=str(tmp_path / "key.pem")))


def test_the_environment_is_for_servers_named_by_a_url(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRITON_TOKEN, TRITON_HEADERS and the TLS files; a server without TLS gets no files, a connection nothing of it."""
    for name, value in guarded.environment.items():
        monkeypatch.setenv(name, value)
    for url in guarded.urls.values():
        address = address_of(url)
        assert address.headers["authorization"] == f"Bearer {SECRET}-token"
        assert find_addresses(servers=[url]) == (address,)
        with TritonClient(address) as client:
            client.check_explicit_mode("nobody")
    assert address_of("grpc://host").ca is None
    monkeypatch.setenv("AIRFLOW_CONN_GUARDED", json.dumps({"conn_type": "triton", "host": "grpcs://host:8001"}))
    plain = TritonHook("guarded").address
    assert (dict(plain.headers), plain.ca, plain.certificate) == ({}, None, None)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"TRITON_HEADERS": f"{SECRET}"}, "holds something that is no NAME=VALUE"),
        ({"TRITON_HEADERS": f'{{"a": "{SECRET}"'}, "is no JSON object"),
        ({"TRITON_HEADERS": f'{{"a": ["{SECRET}"]}}'}, "each value must be a text"),
        ({"TRITON_HEADERS": f"a b={SECRET}"}, "cannot be sent"),
        ({"TRITON_HEADERS": f"Authorization={SECRET}", "TRITON_TOKEN": SECRET}, "leave one of them out"),
        ({"TRITON_TOKEN": f"{SECRET}\nx: y"}, "cannot be sent"),
    ],
)
def test_a_variable_that_cannot_be_used_is_told_without_its_value(variables: dict[str, str], told: str) -> None:
    """One clear error, that names the variable or the header, before anything is sent."""
    with pytest.raises(SpecError) as error:
        address_of("grpc://host", variables)
    assert told in str(error.value)
    assert SECRET not in str(error.value)


def test_a_connection_has_headers_and_files_of_its_own(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers as a text or as JSON, the token from the password, the TLS files; Airflow's log masks the headers' values."""
    from airflow.sdk._shared.secrets_masker import redact

    for headers in (f"{GRPC_HEADER}={SECRET}", {GRPC_HEADER: SECRET}):
        extra = {
            "secret_headers": headers,
            "ca": str(guarded.authority.ca),
            "certificate": str(guarded.ours.certificate),
            "key": str(guarded.ours.key),
        }
        connection = {"conn_type": "triton", "host": guarded.urls["grpc"], "password": "t", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_GUARDED", json.dumps(connection))
        hook = TritonHook("guarded")
        assert hook.address == guarded.address("grpc", headers={GRPC_HEADER: SECRET, "authorization": "Bearer t"})
        assert hook.test_connection()[0]
    assert SECRET not in str(redact(f"the header is {SECRET}"))


def test_a_model_is_deployed_asked_and_deleted_past_all_guards(
    guarded: Guarded, tracking_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Through the MLflow target, over gRPC and over HTTPS; no secret is in an answer, an error, a log or a tag."""
    caplog.set_level(logging.DEBUG)
    store = LocalRepository(guarded.server.repository)
    for name, value in {**guarded.environment, "TRITON_MODEL_REPO": str(store), "MLFLOW_TRACKING_URI": tracking_uri}.items():
        monkeypatch.setenv(name, value)
    said = []
    for target in (f"triton:{guarded.urls['grpc']}", guarded.urls["http"].replace("https://", "tritons://")):
        client: Any = get_deploy_client(target)
        said.append(client.create_deployment("plus", "models:/plus/1"))
        assert client.predict("plus", {"x": [[1, 2]]})["predictions"] == {"y": [[2, 3]]}
        said += [client.get_deployment("plus"), client.list_endpoints(), dict(mlflow.MlflowClient().get_model_version("plus", "1").tags)]
        monkeypatch.setenv("TRITON_HEADERS", f"{GRPC_HEADER}={SECRET}x,{HTTP_HEADER}={SECRET}x")
        with pytest.raises(MlflowException) as refused:
            client.delete_deployment("plus")
        said.append(str(refused.value))
        monkeypatch.setenv("TRITON_HEADERS", guarded.environment["TRITON_HEADERS"])
        client.delete_deployment("plus")
        assert store.models() == []
    assert SECRET not in f"{said} {caplog.text}"
