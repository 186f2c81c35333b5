"""The server's command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from airflow_triton.local_triton.installation import Installation
from airflow_triton.local_triton.ports import ADDRESS, Ports

Mode = Literal["explicit", "poll", "none"]

EXIT_SECONDS = 5
"""How long the server waits for its models when it ends. A model whose reload failed counts as live for ever (2.51), so the
server would wait its default of 30 seconds in vain."""


def repository_argument(repository: str | Path) -> str:
    """What to pass as `--model-repository`: a URL as it is, a folder as an absolute path, made if it is missing."""
    if "://" in str(repository):
        return str(repository)
    folder = Path(repository).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def server_command(
    installation: Installation,
    repository: str,
    *,
    mode: Mode,
    ports: Ports,
    poll_seconds: int,
    shm_prefix: str,
    extra: Sequence[str],
) -> list[str]:
    """The command that starts the server: on 127.0.0.1 only, and a model that fails to load does not end it."""
    command = [
        str(installation.server),
        f"--model-repository={repository}",
        f"--backend-directory={installation.backends}",
        f"--model-control-mode={mode}",
        "--exit-on-error=false",
        f"--exit-timeout-secs={EXIT_SECONDS}",
        f"--http-address={ADDRESS}",
        f"--http-port={ports.http}",
        f"--grpc-address={ADDRESS}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={ADDRESS}",
        f"--metrics-port={ports.metrics}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
    ]
    if mode == "poll":
        command.append(f"--repository-poll-secs={poll_seconds}")
    return [*command, *extra]
