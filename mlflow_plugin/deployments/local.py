"""`mlflow deployments run-local`: a Triton of this machine's own with one deployment, in the foreground."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from airflow_triton.errors import SpecError
from airflow_triton.rollout import find_target
from mlflow_plugin.deployments.deploying import deployed
from mlflow_plugin.deployments.errors import told_as_mlflow
from mlflow_plugin.deployments.settings import spec_of

_PORTS = ("http_port", "grpc_port", "metrics_port")
_WITH = "with"
_LARGEST_PORT = 65535

_log = logging.getLogger(__name__)


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Start the local Triton, deploy to it through the same pipeline, say where it is, and serve until SIGTERM or Ctrl-C.

    `config` is as for `create_deployment`; besides it takes `http_port`, `grpc_port` and `metrics_port` (else free ones) and `with`
    (`torch` or `tensorflow`, for models that need them). Its repository is the folder `repository`, else one that is gone at the end; the
    repository and the servers of a spec file are not touched. To be called in the main thread; MLflow calls it with these four arguments
    and no target.

    Raises:
        MlflowException: the server cannot be installed or started here, or the model was not deployed; nothing is left running.

    """
    from airflow_triton.local_triton.serve import serve

    with told_as_mlflow(), contextlib.ExitStack() as stack:
        settings = dict(config or {})
        ports = {key: _port(key, settings.pop(key, None)) for key in _PORTS}
        extras: Any = tuple(filter(None, str(settings.pop(_WITH, "")).split(",")))
        declared = spec_of(name, model_uri, settings)
        folder = declared.repository if settings.get("repository") else None
        repository = folder or stack.enter_context(_folder())

        def ready(server: Any) -> None:
            target = find_target(declared, repository=repository, servers=(server.grpc_url,), control_mode="explicit")
            deployed(declared, target, settings, flavor=flavor, progress=_say)
            click.echo(f"`{name}` is served at {server.http_url}/v2/models/{name} and at {server.grpc_url}; Ctrl-C ends it")
            click.echo(
                f"  TRITON_URL={server.http_url} TRITON_MODEL_REPO={repository} mlflow deployments predict -t triton --name {name} -I FILE"
            )

        serve(repository, mode="explicit", on_ready=ready, with_=extras, progress=_log.info, **ports)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _port(key: str, value: Any) -> int | None:
    if value is None:
        return None
    if not str(value).isdecimal() or not 0 < int(value) <= _LARGEST_PORT:
        raise SpecError(f"-C {key}={value} is no port: valid are 1 to {_LARGEST_PORT}")
    return int(value)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A repository that is gone at the end. The work area lies beside it, so it is a folder in one of its own."""
    with tempfile.TemporaryDirectory(prefix="airflow-triton-local-") as folder:
        yield str(Path(folder) / "models")
