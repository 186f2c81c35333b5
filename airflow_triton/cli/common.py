"""What the commands share: options, names, and how an error ends one."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from airflow_triton.console import say
from airflow_triton.errors import DeployError
from airflow_triton.spec import Spec, load_spec

EXIT_CODES = "Exit codes: 0 done, 1 failure, 2 bad usage or spec, 3 rejected by validation (what served still serves), 4 conflict."


def reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let an error of ours end the command: one message on stderr (with --json also as data on stdout), and its exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except DeployError as error:
            if kwargs.get("as_json"):
                click.echo(json.dumps({"error": described(error)}, indent=2))
            say.print("[red]error:[/] ", end="")
            say.print(str(error), markup=False)
            sys.exit(error.exit_code)

    return run


def described(error: DeployError) -> dict[str, Any]:
    """An error as data."""
    return {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}


json_option = click.option("--json", "as_json", is_flag=True, help="Data as JSON on stdout; everything else goes to stderr.")
repository_option = click.option(
    "--repository", metavar="DIR", help="The model repository; else the spec's, else TRITON_MODEL_REPO in the environment."
)
server_option = click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    help="A Triton (http://host:8000 or grpc://host:8001) or an Airflow connection id; repeat for several. "
    "Else the spec's `servers`, else TRITON_URL.",
)


def named(model: str) -> tuple[str, Spec | None]:
    """A spec file's model name and spec; or the name itself."""
    if Path(model).suffix.lower() in (".yaml", ".yml", ".json") or "/" in model:
        spec = load_spec(model)
        return spec.name, spec
    return model, None


def gravest(codes: Sequence[int]) -> int:
    """The exit code of several: 1, then 2, 4, 3, 0."""
    return next((code for code in (1, 2, 4, 3) if code in codes), 0)
