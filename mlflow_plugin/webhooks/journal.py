"""What was accepted, kept in a file: a delivery that was answered with 202 outlives the process that answered it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from airflow_triton.errors import DeployError
from mlflow_plugin.webhooks.check import Delivery

LAYOUT = 1
_KEPT_SECONDS = 7 * 24 * 3600.0
_BUSY_SECONDS = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS deliveries (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, event TEXT NOT NULL, names TEXT NOT NULL, at REAL NOT NULL, outcome TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting ON deliveries (at) WHERE outcome IS NULL;
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT UNIQUE NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
    spec TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL, outcome TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS runs_of ON runs (name, number);
"""


class Waiting(NamedTuple):
    """An accepted delivery that is not done yet, and the deployments that it concerns."""

    id: str
    names: tuple[str, ...]


class Journal:
    """The deliveries of the last week, those that wait among them. Of several threads and processes at once.

    What is written survives the end of the process, however it ends; an end of the machine may take the last moment with it.

    Raises:
        DeployError: the file cannot be opened, or is of a newer release of this package.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            (layout,) = self._connection.execute("PRAGMA user_version").fetchone()
            if layout > LAYOUT:
                raise DeployError(f"the journal {path} was written by a newer release: update this one, or name another file")
            self._connection.executescript(_TABLES)
            self._connection.execute(f"PRAGMA user_version = {LAYOUT}")
        except (OSError, sqlite3.Error) as error:
            raise DeployError(f"the journal {path} cannot be opened: {error}") from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes in; undone where it ends with an error."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def accept(
        self, delivery: Delivery, event: str, names: Iterable[str], *, backlog: int
    ) -> Literal["accepted", "repeated", "other body", "full"]:
        """Keep a delivery, unless it is known already or `backlog` deliveries wait."""
        with self.writing() as connection:
            known = connection.execute("SELECT digest FROM deliveries WHERE id = ?", (delivery.id,)).fetchone()
            if known:
                return "repeated" if known[0] == delivery.digest else "other body"
            if connection.execute("SELECT COUNT(*) FROM deliveries WHERE outcome IS NULL").fetchone()[0] >= backlog:
                return "full"
            row = (delivery.id, delivery.digest, event, json.dumps(list(names)), time.time())
            connection.execute("INSERT INTO deliveries (id, digest, event, names, at) VALUES (?, ?, ?, ?, ?)", row)
        return "accepted"

    def waiting(self) -> list[Waiting]:
        """The deliveries that wait, the oldest first."""
        with self._lock:
            rows = self._connection.execute("SELECT id, names FROM deliveries WHERE outcome IS NULL ORDER BY at").fetchall()
        return [Waiting(delivery_id, tuple(json.loads(names))) for delivery_id, names in rows]

    def done(self, outcomes: Iterable[tuple[str, str]]) -> None:
        """Note what came of deliveries (id, outcome); those of more than a week ago are forgotten."""
        with self.writing() as connection:
            connection.executemany("UPDATE deliveries SET outcome = ? WHERE id = ?", [(outcome, each) for each, outcome in outcomes])
            connection.execute("DELETE FROM deliveries WHERE outcome IS NOT NULL AND at < ?", (time.time() - _KEPT_SECONDS,))
