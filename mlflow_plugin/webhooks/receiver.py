"""The receiver: takes deliveries in, looks what the registry asks for, and starts the runs."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from airflow_triton.rollout.following import ask, followers
from airflow_triton.spec import Spec
from mlflow_plugin.webhooks.check import Delivery, RefusedDeliveryError
from mlflow_plugin.webhooks.events import concern, parse
from mlflow_plugin.webhooks.journal import Journal
from mlflow_plugin.webhooks.specs import SpecFolder
from mlflow_plugin.webhooks.starting import Starter, StartError

BACKLOG = 1000
"""The number of deliveries that may wait; a further one is answered with 429, and MLflow sends it again."""

_SCAN_SECONDS = 5.0
"""How often the journal is read for what another process accepted and left."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_END_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a delivery is answered with: an HTTP status, and a body."""

    status: int
    body: dict[str, Any]


class Receiver:
    """Between a delivery and the run that it leads to lies the journal: what was accepted is started, if not by this process, by the next.

    What a delivery says is not believed: it makes the receiver look at the registry, for all that wait at once. With `poll` (seconds) it
    also looks by itself. A registry or an Airflow that does not answer is asked again, after pauses of 1 s to 30 s.
    """

    def __init__(
        self,
        *,
        specs: SpecFolder,
        journal: Journal,
        starter: Starter,
        tell: Callable[[str], None],
        poll: float | None = None,
        backlog: int = BACKLOG,
    ) -> None:
        self._specs = specs
        self._journal = journal
        self._starter = starter
        self._tell = tell
        self._poll = poll
        self._backlog = backlog
        self._news = threading.Event()
        self._ended = threading.Event()
        self._said: dict[str, str] = {}
        self._thread = threading.Thread(target=self._work, name="webhook-receiver", daemon=True)

    def accept(self, delivery: Delivery) -> Answer:
        """Take a delivery in that was checked. What is answered with 202 is in the journal.

        Raises:
            RefusedDeliveryError: 400 it is no event, 409 another one had its id, 429 too many wait, 503 the journal cannot be written.

        """
        event = parse(delivery.body)
        concerned = concern(event, list(self._specs.current().values()))
        if not concerned.names:
            return Answer(200, {"status": "ignored", "why": concerned.why})
        try:
            came = self._journal.accept(delivery, event.kind, concerned.names, backlog=self._backlog)
        except sqlite3.Error as error:
            raise RefusedDeliveryError(503, f"the journal cannot be written: {error}") from None
        if came == "other body":
            raise RefusedDeliveryError(409, "another delivery had this id")
        if came == "full":
            raise RefusedDeliveryError(429, f"{self._backlog} deliveries wait already")
        if came == "repeated":
            return Answer(200, {"status": "repeated", "why": "this delivery was accepted before"})
        self._news.set()
        return Answer(202, {"status": "accepted", "deployments": list(concerned.names)})

    def begin(self) -> None:
        """Begin to work, with what an earlier process accepted and left."""
        self._starter.begin()
        self._thread.start()

    def end(self) -> None:
        """Stop working; what waits stays in the journal."""
        self._ended.set()
        self._news.set()
        self._starter.end()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)

    def _work(self) -> None:
        poll_at, pause = (time.monotonic() if self._poll else math.inf), 0.0
        while not self._ended.is_set():
            polls = time.monotonic() >= poll_at
            if polls:
                poll_at = time.monotonic() + (self._poll or math.inf)
            self._news.clear()
            if self._round(polls=polls):
                pause = 0.0
                self._news.wait(max(0.0, min(_SCAN_SECONDS, poll_at - time.monotonic())))
            else:
                pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                self._ended.wait(pause)

    def _round(self, *, polls: bool) -> bool:
        """Look once, for what waits and, when it polls, for all; answer whether everything that waited is done."""
        try:
            waiting = self._journal.waiting()
            told = {name for each in waiting for name in each.names}
            specs = self._specs.current()
            asking = [spec for spec in followers(specs.values()) if polls or spec.name in told]
            answers, undone = self._look(asking, told)
            for name in told - answers.keys() - undone:
                answers[name] = f"{name}: its spec is gone, or does not say `schedule: registry` any more"
            finished = [each for each in waiting if undone.isdisjoint(each.names)]
            if finished:
                self._journal.done((each.id, "; ".join(answers[name] for name in each.names)) for each in finished)
        except Exception:  # noqa: BLE001 the receiver goes on, and what waits stays in the journal
            _log.exception("the registry could not be looked at")
            return False
        return len(finished) == len(waiting)

    def _look(self, specs: Iterable[Spec], told: set[str]) -> tuple[dict[str, str], set[str]]:
        """What came of a look, for each deployment, and the deployments that have to be looked at again."""
        asked = ask(specs)
        answers: dict[str, str] = {name: f"the registry asks for nothing: {why}" for name, why in asked.nothing.items()}
        undone = dict(asked.unknown)
        for name, wanted in asked.wanted.items():
            try:
                answers[name] = self._starter.start(wanted, told=name in told)
            except StartError as error:
                undone[name] = str(error)
        for name, line in answers.items():
            self._say(name, line, told=name in told)
        for name, why in undone.items():
            self._say(name, f"warning: {why}", told=False)
        return answers, set(undone)

    def _say(self, name: str, line: str, *, told: bool) -> None:
        """Say what came of a look, where it is news or someone asked for it."""
        if told or self._said.get(name) != line:
            self._tell(f"{'warning: ' if line.startswith('warning: ') else ''}{name}: {line.removeprefix('warning: ')}")
        self._said[name] = line
