"""Commands that change what serves: apply, rollback, adopt, delete; and plan, which says what apply would change."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from airflow_triton.cli.common import (
    EXIT_CODES,
    described,
    gravest,
    json_option,
    named,
    reports_errors,
    repository_option,
    server_option,
)
from airflow_triton.console import Progress, plan_table, plan_text, say, show
from airflow_triton.errors import DeployError, RejectedError, SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.spec import Spec, load_specs

if TYPE_CHECKING:
    from airflow_triton.rollout import Plan, Target

_AT_ONCE = 8
"""Specs that are planned at a time."""


@click.command(epilog=EXIT_CODES)
@click.argument("specs", nargs=-1, required=True, metavar="SPEC|FOLDER...")
@repository_option
@server_option
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write each report there: NAME-VERSION.html, .json.",
)
@click.option("--approve", is_flag=True, help="Approve, as you, what passes its validation where a spec has `promote.approval`.")
@json_option
@reports_errors
def apply(  # noqa: PLR0917 click
    specs: Sequence[str],
    repository: str | None,
    servers: Sequence[str],
    report: Path | None,
    approve: bool,  # noqa: FBT001 click
    as_json: bool,  # noqa: FBT001 click
) -> None:
    """Deploy what each SPEC declares: resolve, convert, stage, validate, promote, clean up.

    A model serves only after it has answered correctly on the very server that will serve it. Nothing to do is quick and says so.
    A spec with `promote.approval` waits for a person in Airflow; here it is refused before anything is staged, unless with --approve.
    """
    from airflow_triton.rollout import author, deploy, find_target, opened

    loaded = load_specs(specs)
    targets = [find_target(spec, repository=repository, servers=servers, connections=airflow_connections()) for spec in loaded]
    results: list[dict[str, Any]] = []
    for spec, target in zip(loaded, targets, strict=True):
        try:
            with opened(spec, target, progress=Progress(), copies=report, approved_by=author() if approve else None) as rollout:
                outcome = deploy(rollout)
            results.append({**outcome.model_dump(mode="json"), "exit_code": 0})
            say.print(f"[green]{outcome.summary}[/]")
        except DeployError as error:
            found = error.report.model_dump(mode="json") if isinstance(error, RejectedError) and error.report else None
            results.append({"name": spec.name, "error": described(error), "report": found, "exit_code": error.exit_code})
            say.print(f"[red]{spec.name}:[/] ", end="")
            say.print(str(error), markup=False)
    show(results, lambda: _applied_table(results), as_json=as_json)
    sys.exit(gravest([result["exit_code"] for result in results]))


@click.command(epilog=EXIT_CODES.replace("0 done", "0 planned, whether or not there is something to do"))
@click.argument("specs", nargs=-1, required=True, metavar="SPEC|FOLDER...")
@repository_option
@server_option
@json_option
@reports_errors
def plan(specs: Sequence[str], repository: str | None, servers: Sequence[str], as_json: bool) -> None:  # noqa: FBT001 click
    """Show what `apply` would do with each SPEC, and why, before anything is touched.

    Which version is registered, stored and served; how config.pbtxt would change; what would be converted, reused or removed. Nothing is
    written, loaded or unloaded. What would end `apply` before it changes anything is named, and is the exit code.
    """
    from airflow_triton.rollout import find_target

    loaded = load_specs(specs)
    targets = [find_target(spec, repository=repository, servers=servers, connections=airflow_connections()) for spec in loaded]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        plans = list(pool.map(_planned, loaded, targets))
    show([each.model_dump(mode="json") for each in plans], lambda: plan_table(plans), as_json=as_json)
    if not as_json:
        for each in plans:
            plan_text(each)
    for each in plans:
        for problem in each.problems:
            say.print(f"[red]{each.name}:[/] ", end="")
            say.print(problem, markup=False)
    sys.exit(gravest([each.exit_code for each in plans]))


def _planned(spec: Spec, target: Target) -> Plan:
    from airflow_triton.rollout import opened
    from airflow_triton.rollout import plan as planned

    with opened(spec, target) as rollout:
        return planned(rollout)


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


@click.command(epilog=EXIT_CODES)
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

    name, spec = named(model)
    target = find_target(spec, repository=repository, servers=servers, connections=airflow_connections(), control_mode=control_mode)
    with target.connected() as (first, *others):
        outcome = go_back(
            name,
            store=first.store,
            servers=first.servers,
            others=others,
            registry=Registry(spec.tracking_uri if spec else None),
            to=to,
            progress=Progress(),
        )
    show(outcome.model_dump(mode="json"), lambda: outcome.summary, as_json=as_json)


@click.command(epilog=EXIT_CODES)
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

    name, spec = named(model)
    store = find_repository(spec, repository=repository, connections=airflow_connections())
    adoption = take_over(name, store, find_addresses(spec, servers=servers, connections=airflow_connections()))
    show(adoption.model_dump(mode="json"), lambda: adoption.summary, as_json=as_json)


@click.command(epilog=EXIT_CODES)
@click.argument("model", metavar="SPEC|NAME")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--control-mode",
    type=click.Choice(["explicit", "poll", "none"]),
    help="How the servers were started; else the spec's, else the connection's, else explicit.",
)
@repository_option
@server_option
@json_option
@reports_errors
def delete(  # noqa: PLR0917 click
    model: str,
    yes: bool,  # noqa: FBT001 click
    control_mode: Any,
    repository: str | None,
    servers: Sequence[str],
    as_json: bool,  # noqa: FBT001 click
) -> None:
    """Take a deployment away: from every server first, then its files, then its tags and aliases in MLflow. Asks before it does.

    The registered model in MLflow stays. Deployments of NVIDIA's MLflow plugin are deleted too; models that others put into the repository
    are refused. What is not there is no error, and a deletion that was cut off is finished by the next one.
    """
    from airflow_triton.registry import Registry
    from airflow_triton.rollout import Deletion, find_target

    name, spec = named(model)
    target = find_target(spec, repository=repository, servers=servers, connections=airflow_connections(), control_mode=control_mode)
    with target.connected() as fleets:
        doomed = Deletion(name, fleets, Registry(spec.tracking_uri if spec else None), progress=Progress())
        if (found := doomed.look()) and not yes:
            _ask(found)
        outcome = doomed.carry_out()
    show(outcome.model_dump(mode="json"), lambda: outcome.summary, as_json=as_json)


def _ask(found: Sequence[str]) -> None:
    """Ask the person at the terminal whether all of this may go; SpecError where there is none."""
    if not sys.stdin.isatty():
        raise SpecError("delete asks before it deletes, and there is no terminal to ask at: say --yes")
    for line in found:
        say.print(line, markup=False)
    click.confirm("Delete it?", abort=True, err=True)
