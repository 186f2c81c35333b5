"""Commands that look and change nothing: status, history, fsck."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from airflow_triton.cli.common import EXIT_CODES, json_option, named, reports_errors, repository_option, server_option
from airflow_triton.console import Progress, diff_text, fsck_table, history_table, leftover_line, say, show, status_table
from airflow_triton.hooks import airflow_connections
from airflow_triton.spec import Spec, load_specs

if TYPE_CHECKING:
    from airflow_triton.rollout import Target


@click.command(epilog=EXIT_CODES)
@click.argument("specs", nargs=-1, metavar="[SPEC|FOLDER...]")
@click.option("--thorough", is_flag=True, help="Read every byte of what serves, and compare it with the digests of its manifest.")
@repository_option
@server_option
@json_option
@reports_errors
def status(
    specs: Sequence[str],
    thorough: bool,  # noqa: FBT001 click
    repository: str | None,
    servers: Sequence[str],
    as_json: bool,  # noqa: FBT001 click
) -> None:
    """Show declared, registered, stored and served side by side, and every drift in words.

    Without a SPEC, the models of the repository that --repository or TRITON_MODEL_REPO names, and those that its servers have beside them.
    """
    from airflow_triton.rollout import find_target, status_of_all
    from airflow_triton.rollout import status as look

    def target(spec: Spec | None = None) -> Target:
        return find_target(spec, repository=repository, servers=servers, connections=airflow_connections())

    if specs:
        rows = [look(spec.name, target(spec), spec=spec, thorough=thorough) for spec in load_specs(specs)]
    else:
        rows = status_of_all(target(), thorough=thorough)
    show([row.model_dump(mode="json") for row in rows], lambda: status_table(rows), as_json=as_json)
    for row in rows:
        for problem in row.problems:
            say.print(f"[yellow]{row.name}:[/] ", end="")
            say.print(problem, markup=False)


@click.command(epilog=EXIT_CODES)
@click.argument("model", metavar="SPEC|NAME")
@click.option("--diff", is_flag=True, help="Show how config.pbtxt changed from release to release.")
@repository_option
@json_option
@reports_errors
def history(model: str, diff: bool, repository: str | None, as_json: bool) -> None:  # noqa: FBT001 click
    """Show what served when, who released it and what its validation found, the newest first; and the versions that were rejected.

    The releases are kept in the repository, the rejected versions in MLflow's tags.
    """
    from airflow_triton.registry import Registry
    from airflow_triton.rollout import history as events_of
    from airflow_triton.rollout.target import find_repository

    name, spec = named(model)
    store = find_repository(spec, repository=repository, connections=airflow_connections())
    registry = Registry(spec.tracking_uri if spec else None)
    events = events_of(name, store, registry, model=spec.model if spec else None, warn=lambda line: say.print(line, markup=False))
    show([event.model_dump(mode="json") for event in events], lambda: history_table(events), as_json=as_json)
    if diff and not as_json:
        for event in events:
            if event.diff:
                diff_text(f"{event.at}  version {event.version}  {event.how}", event.diff)


@click.command(epilog="Exit codes: 0 all is whole, 1 something is damaged, 2 bad usage.")
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
