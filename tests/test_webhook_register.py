"""Registering webhooks: what MLflow refuses is told with the setting of its server that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from webhooked import SECRET, MlflowServer

from airflow_triton.cli import main
from mlflow_plugin.webhooks.check import SECRET_VARIABLE, check, signature


@pytest.fixture(scope="module")
def default_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """An `mlflow server` as it comes, of which nobody set anything for webhooks."""
    home = tmp_path_factory.mktemp("default-server")
    nothing = dict.fromkeys(
        ("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"), ""
    )
    with MlflowServer(f"sqlite:///{home}/mlflow.db", home, **nothing) as server:
        yield server


def told(*arguments: str, secret: str = SECRET) -> tuple[int, str]:
    """The exit code and stderr of `airflow-triton webhook ...`."""
    ended = CliRunner(env={SECRET_VARIABLE: secret}).invoke(main, ["webhook", *arguments])
    return ended.exit_code, ended.stderr


def test_missing_settings_of_the_server_are_named(default_server: MlflowServer) -> None:
    """No http, no private address, and a secret that cannot be read after a restart: each names its variable."""
    where = ("--tracking-uri", default_server.url)

    code, why = told("register", "http://127.0.0.1:8410/mlflow", *where)
    assert (code, "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https" in why) == (1, True), why
    code, why = told("register", "https://127.0.0.1:8410/mlflow", *where)
    assert (code, "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true" in why) == (1, True), why

    code, why = told("register", "https://93.184.216.34/mlflow", *where)
    assert (code, "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" in why) == (0, True), why
    default_server.__exit__()
    default_server.__enter__()
    code, why = told("list", *where)
    assert (code, "one MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" in why) == (1, True), why


def test_bad_usage_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    """A store that is no server, and a missing secret, end with 2."""
    for where in (f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path)):
        code, why = told("register", "https://receiver/mlflow", "--tracking-uri", where)
        assert (code, "webhooks are sent by an MLflow server" in why) == (2, True), why
    code, why = told("register", "https://receiver/mlflow", "--tracking-uri", "http://127.0.0.1:1", secret="")
    assert (code, SECRET_VARIABLE in why) == (2, True), why
    assert list(tmp_path.iterdir()) == []


def test_signature_is_mlflows_own() -> None:
    """MLflow's own function signs alike, and what it signed is let in."""
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = '{"entity": "model_version", "data": {"name": "für"}}'
    theirs = _generate_hmac_signature(SECRET, "id", "1795345076", body)

    assert signature(SECRET, "id", "1795345076", body.encode()) == theirs
    headers = {"x-mlflow-delivery-id": "id", "x-mlflow-timestamp": "1795345076", "x-mlflow-signature": theirs}
    assert check(headers, body.encode(), secret=SECRET, now=1795345176.0).id == "id"
