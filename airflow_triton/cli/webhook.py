"""Registry hooks: `webhook register`, `list`, `test`, `delete`, and `serve`, which receives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from airflow_triton.cli.common import EXIT_CODES, json_option, reports_errors
from airflow_triton.console import Progress, say, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow_plugin.webhooks.register import Webhook

_NAME = "airflow-triton"

tracking_option = click.option(
    "--tracking-uri", metavar="URL", help="The MLflow server; else MLFLOW_TRACKING_URI. Credentials belong into MLflow's own variables."
)
file = click.Path(dir_okay=False, path_type=Path)


@click.group()
def webhook() -> None:
    """Let MLflow's registry start deployments: an alias that is set, a version that is registered.

    \b
      export AIRFLOW_TRITON_WEBHOOK_SECRET=...     # one secret, for both
      airflow-triton webhook serve --specs deployments
      airflow-triton webhook register https://this-host:8410/mlflow
      airflow-triton webhook test

    What follows is each spec with `schedule: registry`. `serve` also looks at the registry by itself, every 60 s, so that a delivery that
    is lost is only late. Inside Airflow the API server receives, at /triton-webhook/mlflow, and `serve` is not needed.

    \b
    The MLflow server (3.3 or later) has to be set up for it, in its environment:
      MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY   always: one Fernet key, or it forgets the secret when it restarts
      MLFLOW_WEBHOOK_ALLOWED_SCHEMES         http,https  for a receiver without TLS
      MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS       true        for a receiver with a private address
    """  # noqa: D301 click's \b keeps the lines


@webhook.command(epilog=EXIT_CODES)
@click.argument("url")
@click.option("--name", default=_NAME, show_default=True, help="A webhook of this name is changed, not doubled.")
@click.option(
    "--event",
    "events",
    multiple=True,
    metavar="EVENT",
    help="What MLflow sends; repeat for several. Default: model_version.created and model_version_alias.created, which move a deployment. "
    "model_version_tag.set lets a failed deployment be tried again by a tag.",
)
@tracking_option
@json_option
@reports_errors
def register(
    url: str,
    name: str,
    events: Sequence[str],
    tracking_uri: str | None,
    as_json: bool,  # noqa: FBT001 click
) -> None:
    """Let the MLflow server send its events to URL, signed with AIRFLOW_TRITON_WEBHOOK_SECRET.

    URL is where the receiver is, as the MLflow server sees it: https://host:8410/mlflow of `webhook serve`, or
    https://airflow:8080/triton-webhook/mlflow of Airflow. The server sends to a new webhook within a minute (MLFLOW_WEBHOOK_CACHE_TTL).
    """
    from mlflow_plugin.webhooks.events import DEFAULT_EVENTS
    from mlflow_plugin.webhooks.register import Webhooks
    from mlflow_plugin.webhooks.serve import own_secret

    made = Webhooks(tracking_uri).register(url, secret=own_secret(), name=name, events=events or DEFAULT_EVENTS)
    show(made.model_dump(mode="json"), lambda: _table([made]), as_json=as_json)
    say.print("The MLflow server keeps the secret over restarts only with MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY in its environment.")
    say.print(f"Try it: airflow-triton webhook test{'' if name == _NAME else f' {name}'}", markup=False)


@webhook.command("list", epilog=EXIT_CODES)
@tracking_option
@json_option
@reports_errors
def list_(tracking_uri: str | None, as_json: bool) -> None:  # noqa: FBT001 click
    """Show every webhook of the MLflow server."""
    from mlflow_plugin.webhooks.register import Webhooks

    known = Webhooks(tracking_uri).all()
    show([each.model_dump(mode="json") for each in known], lambda: _table(known), as_json=as_json)


@webhook.command(epilog=EXIT_CODES)
@click.argument("name", default=_NAME, metavar="[NAME|ID]")
@click.option("--event", metavar="EVENT", help="The event to send an example of; default: the webhook's first.")
@tracking_option
@json_option
@reports_errors
def test(name: str, event: str | None, tracking_uri: str | None, as_json: bool) -> None:  # noqa: FBT001 click
    """Let the MLflow server send an example to the receiver, now, and show its answer.

    The example is of a model that nobody has: a receiver that checked the signature answers that it ignores it. Exit code 1 if the
    receiver was not reached, or refused.
    """
    from mlflow_plugin.webhooks.register import Webhooks

    tried = Webhooks(tracking_uri).test(name, event)
    show(tried.model_dump(mode="json"), lambda: tried.why or f"{tried.status}: {tried.answer}", as_json=as_json)
    if tried.status == 401:  # noqa: PLR2004
        say.print(f"The receiver has another secret, or another clock: register `{name}` again with the receiver's secret.", markup=False)
    sys.exit(0 if tried.success else 1)


@webhook.command(epilog=EXIT_CODES)
@click.argument("name", default=_NAME, metavar="[NAME|ID]")
@tracking_option
@json_option
@reports_errors
def delete(name: str, tracking_uri: str | None, as_json: bool) -> None:  # noqa: FBT001 click
    """Delete a webhook of the MLflow server. Within a minute it sends nothing more."""
    from mlflow_plugin.webhooks.register import Webhooks

    gone = Webhooks(tracking_uri).delete(name)
    show(gone.model_dump(mode="json"), lambda: f"deleted: {gone.name}, {gone.url}", as_json=as_json)


@webhook.command(epilog=EXIT_CODES)
@click.option("--specs", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="The specs of the deployments.")
@click.option(
    "--airflow",
    metavar="URL",
    help="Start the runs of the DAGs deploy_<name> of this Airflow (http://airflow:8080), with AIRFLOW_TRITON_API_TOKEN, or "
    "AIRFLOW_TRITON_API_USERNAME and AIRFLOW_TRITON_API_PASSWORD. Else the pipelines run in this process.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65535), default=8410, show_default=True, metavar="N", help="0: a free one.")
@click.option("--poll", type=click.FloatRange(0), default=60.0, show_default=True, metavar="SECONDS", help="How often to look; 0: never.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, metavar="N", help="Pipelines at a time (without --airflow).")
@click.option("--backlog", type=click.IntRange(1), default=1000, show_default=True, metavar="N", help="Deliveries that may wait; then 429.")
@click.option(
    "--max-age",
    type=click.FloatRange(1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="A delivery that was signed earlier is refused. MLflow's own attempts take up to some minutes.",
)
@click.option("--journal", type=file, metavar="FILE", help="What was accepted; default: a file in the user's state folder.")
@click.option("--tls-cert", "certificate", type=file, metavar="FILE", help="Serve https: the certificate, PEM.")
@click.option("--tls-key", "key", type=file, metavar="FILE", help="Its key, PEM.")
@json_option
@reports_errors
def serve(as_json: bool, **options: Any) -> None:  # noqa: FBT001 click
    """Receive MLflow's deliveries, in the foreground, until SIGTERM or Ctrl-C; look at the registry as well, every 60 s.

    A delivery lets it look what the registry asks for, and start the run that is missing: the pipeline, here, or the DAG run, with
    --airflow. A delivery that was answered with 202 is not lost when the process ends: the next one takes it up. The URL is printed as
    soon as it listens.
    """
    from mlflow_plugin.webhooks.serve import Settings
    from mlflow_plugin.webhooks.serve import serve as run

    def ready(url: str, journal: Path) -> None:
        show({"url": url, "journal": str(journal)}, lambda: f"{url}\njournal {journal}", as_json=as_json)
        sys.stdout.flush()
        say.print("ready; Ctrl-C ends it", style="green")

    if bool(options["certificate"]) != bool(options["key"]):
        raise click.UsageError("--tls-cert and --tls-key go together")
    run(Settings(**options), tell=Progress(), on_ready=ready)


def _table(webhooks: Sequence[Webhook]) -> Table:
    table = Table("name", "url", "events", "status", "id")
    for each in webhooks:
        table.add_row(each.name, each.url, "\n".join(each.events), each.status, each.id)
    return table
