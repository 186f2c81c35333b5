"""The command line: `apply`, `plan`, `status`, `history`, `rollback`, `adopt`, `delete`, `fsck`, `serve`, `schema`, `demo`, `webhook`.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failure, 2 bad usage or spec, 3 rejected by validation
(what served still serves), 4 someone else promoted meanwhile.
"""

from __future__ import annotations

import click

from airflow_triton.cli.common import EXIT_CODES
from airflow_triton.cli.deploying import adopt, apply, delete, plan, rollback
from airflow_triton.cli.local import demo, schema, serve
from airflow_triton.cli.looking import fsck, history, status
from airflow_triton.cli.webhook import webhook

__all__ = ["adopt", "apply", "delete", "demo", "fsck", "history", "main", "plan", "rollback", "schema", "serve", "status", "webhook"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="airflow-provider-triton")
def main() -> None:
    """Deploy MLflow models to NVIDIA Triton: converted, validated on the server, promoted without a failed request.

    Start with `airflow-triton demo`. A deployment is declared in a YAML file, its spec; `airflow-triton schema` prints what may stand
    in it, `airflow-triton plan SPEC` shows what would change, `airflow-triton apply SPEC` makes it so.
    """


for _command in (apply, plan, status, history, rollback, adopt, delete, fsck, serve, schema, demo, webhook):
    main.add_command(_command)
