"""Commands for this machine: serve, schema, demo."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from airflow_triton.cli.common import EXIT_CODES, json_option, reports_errors
from airflow_triton.console import Progress, say, show
from airflow_triton.spec import json_schema


@click.command(epilog=EXIT_CODES)
@click.option(
    "--repository", required=True, metavar="DIR|URL", help="A folder (made if it is not there), or s3://http://host:port/bucket/prefix."
)
@click.option("--mode", type=click.Choice(["explicit", "poll", "none"]), default="explicit", show_default=True, help="Model control mode.")
@click.option("--http-port", type=click.IntRange(1, 65535), metavar="N", help="Default: a free one.")
@click.option("--grpc-port", type=click.IntRange(1, 65535), metavar="N", help="Default: a free one.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), metavar="N", help="Default: a free one.")
@click.option(
    "--with",
    "with_",
    type=click.Choice(["torch", "tensorflow"]),
    multiple=True,
    help="Also serve TorchScript (torch), or SavedModel and GraphDef (tensorflow): installs that library, once. May be repeated.",
)
@click.option("--torch", is_flag=True, hidden=True, help="The older name of `--with torch`.")
@json_option
@reports_errors
def serve(  # noqa: PLR0917 click
    repository: str,
    mode: Any,
    http_port: int | None,
    grpc_port: int | None,
    metrics_port: int | None,
    with_: tuple[Any, ...],
    torch: bool,  # noqa: FBT001 click
    as_json: bool,  # noqa: FBT001 click
) -> None:
    """Run the local Triton in the foreground until SIGTERM or Ctrl-C.

    It is the real tritonserver, from its wheel, with Python-based backends in place of the compiled ones: for trying, developing
    and testing, not for production. Its addresses are printed as soon as it is ready.
    """
    from airflow_triton.local_triton.serve import serve as run
    from airflow_triton.repository import open_repository

    def ready(server: Any) -> None:
        addresses = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url, "pid": server.pid, "mode": mode}
        show(addresses, lambda: "\n".join(f"{key:8}{value}" for key, value in addresses.items()), as_json=as_json)
        sys.stdout.flush()
        say.print("ready; Ctrl-C ends it", style="green")

    open_repository(repository).make()
    ended = run(
        repository,
        mode=mode,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        with_=(*with_, "torch") if torch else with_,
        on_ready=ready,
        progress=Progress(),
    )
    sys.exit(ended)


@click.command()
@json_option
def schema(as_json: bool) -> None:  # noqa: FBT001, ARG001 it is JSON either way
    """Print the JSON schema of a spec, for editors and checkers."""
    click.echo(json.dumps(json_schema(), indent=2))


@click.command(epilog=EXIT_CODES)
@click.option("--keep", is_flag=True, help="Hold the server up at the end, until Ctrl-C.")
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="Where everything of the demo goes; default: a new temporary folder."
)
@json_option
@reports_errors
def demo(keep: bool, folder: Path | None, as_json: bool) -> None:  # noqa: FBT001 click
    """Show the main job on this machine: MLflow, Airflow and the local Triton, two good models and a bad one."""
    from airflow_triton.demo import run_demo

    sys.exit(run_demo(keep=keep, folder=folder, as_json=as_json))
