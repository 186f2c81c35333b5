"""Runs without Airflow: the pipeline itself, in threads of this process, remembered in the journal."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_triton.errors import DeployError, RejectedError
from airflow_triton.hooks import airflow_connections
from airflow_triton.rollout import deploy, find_target, opened
from airflow_triton.rollout.following import Wanted
from mlflow_plugin.webhooks.starting import next_run_id

if TYPE_CHECKING:
    from airflow_triton.rollout.pipeline import Progress
    from airflow_triton.spec import Spec
    from mlflow_plugin.webhooks.journal import Journal
    from mlflow_plugin.webhooks.specs import SpecFolder

_FIRST_SECONDS = 60.0
_LONGEST_SECONDS = 3600.0
_LOOK_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Run(NamedTuple):
    """A run as the journal has it. Its state is waiting, running, done, rejected, failed, or superseded by a newer one."""

    number: int
    run_id: str
    name: str
    version: int
    spec: str
    state: str
    attempts: int
    at: float

    def deploys(self, wanted: Wanted) -> bool:
        """Whether it deploys the very same."""
        return (self.name, self.version, self.spec) == (wanted.name, wanted.version, wanted.spec)

    @property
    def due(self) -> float:
        """When one that failed is tried again by itself, a minute after it failed; each further time takes twice as long, up to an hour."""
        return self.at + min(_FIRST_SECONDS * 2.0 ** min(max(self.attempts - 1, 0), 10), _LONGEST_SECONDS)


_COLUMNS = ", ".join(Run._fields)


class Pipelines:
    """Deploys, one run at a time of each deployment and `jobs` in all.

    A run is in the journal before it begins, and is begun again where the process ended meanwhile. A candidate that was rejected is
    not tried again until the registry or the spec asks for something else; what failed otherwise is, after a while.
    """

    def __init__(self, journal: Journal, specs: SpecFolder, tell: Progress, *, jobs: int = 2) -> None:
        self._journal = journal
        self._specs = specs
        self._tell = tell
        self._news = threading.Event()
        self._ended = False
        self._threads = [threading.Thread(target=self._work, name=f"pipeline-{number}", daemon=True) for number in range(jobs)]

    def begin(self) -> None:
        """Begin to run; what was running when an earlier process ended waits to be run again."""
        with self._journal.writing() as connection:
            connection.execute("UPDATE runs SET state = 'waiting' WHERE state = 'running'")
        for thread in self._threads:
            thread.start()
        self._news.set()

    def end(self) -> None:
        """Begin no further run. One that is running is left where it is: it can be cut off at any instruction."""
        self._ended = True
        self._news.set()

    def start(self, wanted: Wanted, *, told: bool) -> str:
        """See Starter. A run that failed is tried again at once where an event asks for it."""
        with self._journal.writing() as connection:
            of_name = f"SELECT {_COLUMNS} FROM runs WHERE name = ? ORDER BY number DESC"  # noqa: S608 our own columns
            runs = [Run(*row) for row in connection.execute(of_name, (wanted.name,))]
            newest = runs[0] if runs else None
            if newest is not None and newest.deploys(wanted):
                if newest.state != "failed" or (not told and time.time() < newest.due):
                    return f"the run `{newest.run_id}` is {newest.state}"
                run_id = newest.run_id
                connection.execute("UPDATE runs SET state = 'waiting' WHERE number = ?", (newest.number,))
            else:
                run_id = next_run_id(wanted, next((run.run_id for run in runs if run.deploys(wanted)), None))
                row = (run_id, wanted.name, wanted.version, wanted.spec, "waiting", time.time())
                connection.execute("INSERT INTO runs (run_id, name, version, spec, state, at) VALUES (?, ?, ?, ?, ?, ?)", row)
        self._news.set()
        return f"the run `{run_id}` deploys {wanted}"

    def _work(self) -> None:
        while not self._ended:
            run = self._take()
            if run is None:
                self._news.wait(_LOOK_SECONDS)
                self._news.clear()
                continue
            self._news.set()  # there may be more, for another thread
            state, outcome = self._deployed(run)
            self._tell(f"{'warning: ' if state == 'failed' else ''}{outcome}")
            with self._journal.writing() as connection:
                values = (state, outcome, time.time(), run.number)
                connection.execute("UPDATE runs SET state = ?, outcome = ?, at = ?, attempts = attempts + 1 WHERE number = ?", values)

    def _take(self) -> Run | None:
        """The run to begin: of the deployment that waits longest and has none running, the newest; those before it are superseded."""
        with self._journal.writing() as connection:
            free = connection.execute(
                "SELECT name FROM runs WHERE state = 'waiting' AND name NOT IN (SELECT name FROM runs WHERE state = 'running')"
                " ORDER BY number LIMIT 1"
            ).fetchone()
            if free is None:
                return None
            newest = f"SELECT {_COLUMNS} FROM runs WHERE name = ? AND state = 'waiting' ORDER BY number DESC LIMIT 1"  # noqa: S608 our own columns
            run = Run(*connection.execute(newest, free).fetchone())
            connection.execute("UPDATE runs SET state = 'superseded' WHERE name = ? AND state = 'waiting'", (run.name,))
            connection.execute("UPDATE runs SET state = 'running' WHERE number = ?", (run.number,))
        return run

    def _deployed(self, run: Run) -> tuple[str, str]:
        """Run the pipeline; answer the state that the run ends in, and what happened."""
        spec = self._specs.current().get(run.name)
        if spec is None:
            return "failed", f"{run.name}: its spec is gone from {self._specs.folder}, or is broken"
        self._tell(f"{run.run_id}: begins")
        try:
            return self._deploy(spec)
        except RejectedError as error:
            return "rejected", f"{run.name}: {error}"
        except DeployError as error:
            return "failed", f"{run.name}: {error}"
        except Exception as error:  # noqa: BLE001 whatever it is, the others go on
            _log.exception("the run %s failed", run.run_id)
            return "failed", f"{run.name}: {type(error).__name__}: {error}"

    def _deploy(self, spec: Spec) -> tuple[str, str]:
        target: Any = find_target(spec, connections=airflow_connections())
        with opened(spec, target, progress=lambda line: self._tell(f"{spec.name}: {line}")) as rollout:
            source = rollout.source()
            if rollout.verdicts.was_rejected(source, spec_digest=spec.digest()):
                return "rejected", f"{spec.name}: {source} was rejected before by this spec: register a new version, or change the spec"
            return "done", deploy(rollout).summary
