"""The command line: `airflow-triton apply`, `status`, `rollback`, `history`, `adopt`, `fsck`, `serve`, `schema`, `demo`.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failure, 2 bad usage or spec, 3 rejected by validation
(what served still serves), 4 someone else promoted meanwhile.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from airflow_triton.console import Progress, fsck_table, leftover_line, say, show, status_table
from airflow_triton.errors import DeployError, RejectedError, SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.spec import Spec, json_schema, load_spec, load_specs

_EXIT_CODES = "Exit codes: 0 done, 1 failure, 2 bad usage or spec, 3 rejected by validation (what served still serves), 4 conflict."


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXIT_CODES)
@click.version_option(package_name="airflow-provider-triton")
def main() -> None:
    """Deploy MLflow models to NVIDIA Triton: converted, validated on the server, promoted without a failed request.

    Start with `airflow-triton demo`. A deployment is declared in a YAML file, its spec; `airflow-triton schema` prints what may stand
    in it, `airflow-triton apply SPEC` makes it so.
    """


@main.command(epilog=_EXIT_CODES)
@click.argument("specs", nargs=-1, required=True, metavar="SPEC|FOLDER...")
@repository_option
@server_option
@json_option
@reports_errors
def apply(specs: Sequence[str], repository: str | None, servers: Sequence[str], as_json: bool) -> None:  # noqa: FBT001 click
    """Deploy what each SPEC declares: resolve, convert, stage, validate, promote, clean up.

    A model serves only after it has answered correctly on the very server that will serve it. Nothing to do is quick and says so.
    """
    from airflow_triton.rollout import deploy, find_target, opened

    loaded = load_specs(specs)
    targets = [find_target(spec, repository=repository, servers=servers, connections=airflow_connections()) for spec in loaded]
    results: list[dict[str, Any]] = []
    for spec, target in zip(loaded, targets, strict=True):
        try:
            with opened(spec, target, progress=Progress()) as rollout:
                outcome = deploy(rollout)
            results.append({**outcome.model_dump(mode="json"), "exit_code": 0})
            say.print(f"[green]{outcome.summary}[/]")
        except DeployError as error:
            report = error.report.model_dump(mode="json") if isinstance(error, RejectedError) and error.report else None
            results.append({"name": spec.name, "error": described(error), "report": report, "exit_code": error.exit_code})
            say.print(f"[red]{spec.name}:[/] ", end="")
            say.print(str(error), markup=False)
    show(results, lambda: _applied_table(results), as_json=as_json)
    codes = [result["exit_code"] for result in results]
    sys.exit(next((code for code in (1, 2, 4, 3) if code in codes), 0))


def _applied_table(results: list[dict[str, Any]]) -> Table:
    table = Table("name", "what happened", "version", "why")
    for result in results:
        if "error" in result:
            happened = {3: "rejected", 4: "conflict"}.get(result["exit_code"], "failed")
            why = "; ".join(check["summary"] for check in (result["report"] or {}).get("checks", []) if not check["passed"])
            table.add_row(result["name"], happened, "", why or result["error"]["message"])
        else:
            checks = (result["report"] or {}).get("checks", [])
            table.add_row(result["name"], result["action"], str(result["version"]), "; ".join(check["summary"] for check in checks))
    return table


@main.command(epilog=_EXIT_CODES)
@click.argument("specs", nargs=-1, metavar="[SPEC|FOLDER...]")
@repository_option
@server_option
@json_option
@reports_errors
def status(specs: Sequence[str], repository: str | None, servers: Sequence[str], as_json: bool) -> None:  # noqa: FBT001 click
    """Show declared, registered, stored and served side by side, and every drift in words.

    Without a SPEC, the models of the repository that --repository or TRITON_MODEL_REPO names.
    """
    from airflow_triton.rollout import find_target, status_of_all
    from airflow_triton.rollout import status as look

    if specs:
        rows = [
            look(spec.name, find_target(spec, repository=repository, servers=servers, connections=airflow_connections()), spec=spec)
            for spec in load_specs(specs)
        ]
    else:
        rows = status_of_all(find_target(repository=repository, servers=servers, connections=airflow_connections()))
    show([row.model_dump(mode="json") for row in rows], lambda: status_table(rows), as_json=as_json)
    for row in rows:
        for problem in row.problems:
            say.print(f"[yellow]{row.name}:[/] ", end="")
            say.print(problem, markup=False)


@main.command(epilog=_EXIT_CODES)
@click.argument("model", metavar="SPEC|NAME")
@click.option("--to", type=int, metavar="VERSION", help="The version to go to; else what served before the current release.")
@click.option(
    "--control-mode",
    type=click.Choice(["explicit", "poll", "none"]),
    help="How the servers were started; else the spec's, else the connection's, else explicit.",
)
@repository_option
@server_option
@json_option
@reports_errors
def rollback(  # noqa: PLR0917 click
    model: str,
    to: int | None,
    control_mode: Any,
    repository: str | None,
    servers: Sequence[str],
    as_json: bool,  # noqa: FBT001 click
) -> None:
    """Let what served before serve again: its exact files and configuration, compared with their digests first.

    With --to it goes to the last release of that version, forward as well as back. The alias in MLflow follows.
    """
    from airflow_triton.registry import Registry
    from airflow_triton.rollout import find_target
    from airflow_triton.rollout import rollback as go_back
    from airflow_triton.rollout.serving import Servers

    name, spec = _named(model)
    target = find_target(spec, repository=repository, servers=servers, connections=airflow_connections(), control_mode=control_mode)
    with Servers.connected(target.addresses) as connected:
        outcome = go_back(
            name,
            store=target.store,
            servers=connected,
            registry=Registry(spec.tracking_uri if spec else None),
            to=to,
            progress=Progress(),
        )
    show(outcome.model_dump(mode="json"), lambda: outcome.summary, as_json=as_json)


@main.command(epilog=_EXIT_CODES)
@click.argument("model", metavar="SPEC|NAME")
@repository_option
@json_option
@reports_errors
def history(model: str, repository: str | None, as_json: bool) -> None:  # noqa: FBT001 click
    """Show what served when, the newest release first."""
    from airflow_triton.repository import releases
    from airflow_triton.rollout.target import find_repository

    name, spec = _named(model)
    store = find_repository(spec, repository=repository, connections=airflow_connections())
    found = list(reversed(releases(store, name)))
    if not found:
        raise SpecError(f"`{name}` has no releases in {store}")
    stored = store.versions(name)

    def table() -> Table:
        shown = Table("since", "version", "how", "alias", "can serve again")
        for release in found:
            shown.add_row(
                release.at, str(release.version), release.how, release.alias or "", "yes" if release.version in stored else "removed"
            )
        return shown

    rows = [{**release.model_dump(mode="json"), "stored": release.version in stored} for release in found]
    show(rows, table, as_json=as_json)


@main.command(epilog=_EXIT_CODES)
@click.argument("model", metavar="SPEC|NAME")
@repository_option
@server_option
@json_option
@reports_errors
def adopt(model: str, repository: str | None, servers: Sequence[str], as_json: bool) -> None:  # noqa: FBT001 click
    """Take over a model that was put into the repository by hand or by NVIDIA's MLflow plugin.

    Its one version that serves becomes the first release of its history, to be rolled back to like any other. Nothing is loaded and
    no file of it but config.pbtxt changes; the old one is kept in there. A server is asked only where there is no config.pbtxt.
    """
    from airflow_triton.rollout import adopt as take_over
    from airflow_triton.rollout.target import find_addresses, find_repository

    name, spec = _named(model)
    store = find_repository(spec, repository=repository, connections=airflow_connections())
    adoption = take_over(name, store, find_addresses(spec, servers=servers, connections=airflow_connections()))
    show(adoption.model_dump(mode="json"), lambda: adoption.summary, as_json=as_json)


@main.command(epilog="Exit codes: 0 all is whole, 1 something is damaged, 2 bad usage.")
@repository_option
@json_option
@reports_errors
def fsck(repository: str | None, as_json: bool) -> None:  # noqa: FBT001 click
    """Compare every stored version with the digests of its manifest, and say which live model a damage would hurt.

    Reads every byte and changes nothing. Models that were not published by this package are named, not judged. What unfinished or
    dead attempts left has a line of its own that says what removes it; it is no damage.
    """
    from airflow_triton.repository import fsck as check
    from airflow_triton.rollout.target import find_repository

    findings = check(find_repository(repository=repository, connections=airflow_connections()), progress=Progress())
    show([each.model_dump(mode="json") for each in findings], lambda: fsck_table(findings), as_json=as_json)
    if not as_json:
        for each in findings:
            if each.removed_by:
                click.echo(leftover_line(each))
    damaged = [each for each in findings if each.problems]
    for each in damaged:
        hurt = {
            "serves": "it serves: the next load of it fails or answers wrongly",
            "kept": "it cannot be rolled back to",
            "unused": "no release names it: remove it before it is deployed",
        }[each.role]
        say.print(f"{each.model} {each.version or ''} is damaged; {hurt}", style="red")
    sys.exit(1 if damaged else 0)


def _named(model: str) -> tuple[str, Spec | None]:
    """A spec file's model name and spec; or the name itself."""
    if Path(model).suffix.lower() in (".yaml", ".yml", ".json") or "/" in model:
        spec = load_spec(model)
        return spec.name, spec
    return model, None


@main.command(epilog=_EXIT_CODES)
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


@main.command()
@json_option
def schema(as_json: bool) -> None:  # noqa: FBT001, ARG001 it is JSON either way
    """Print the JSON schema of a spec, for editors and checkers."""
    click.echo(json.dumps(json_schema(), indent=2))


@main.command(epilog=_EXIT_CODES)
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
