"""A lock in an object store: an object that its owner made, keeps renewing, and removes.

It is made under the condition that there is none, and taken over under the condition that it is still the dead owner's. Who is
dead: a process of this machine that is not running any more, or an owner that has not renewed for LEASE_SECONDS as watched by the
one who waits. No clock of another machine, nor the store's, is trusted.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import obstore

from airflow_triton.errors import ConflictError, RepositoryUnreachableError
from airflow_triton.repository.object_store.faults import is_condition
from airflow_triton.repository.object_store.owners import is_dead, this_process
from airflow_triton.repository.object_store.probe import unchanged

if TYPE_CHECKING:
    from obstore.store import ObjectStore

LEASE_SECONDS = 30.0
"""How long an owner may be silent. It renews three times as often."""
WAIT_SECONDS = 600.0
"""How long to wait for an owner that does renew: it may be uploading."""


class Lease:
    """A lock on one object. `acquire`, then `check` before every write that it protects, then `release`."""

    def __init__(self, store: ObjectStore, key: str, *, seconds: float = LEASE_SECONDS) -> None:
        self._store = store
        self.key = key
        self._seconds = seconds
        self._owner = uuid.uuid4().hex
        self._etag: Any = None
        self._renewed = 0.0
        self._done = threading.Event()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, waiting for its owner if that is alive.

        Raises:
            RepositoryUnreachableError: its owner has kept it for WAIT_SECONDS.

        """
        started = watched = time.monotonic()
        seen = None
        pause = 0.05
        while not self._try("create"):
            found = self._look()
            if found is None:
                continue
            etag, content = found
            if etag != seen:
                seen, watched = etag, time.monotonic()
            if (is_dead(content.get("process", "")) or time.monotonic() - watched > self._seconds) and self._try({"e_tag": etag}):
                break
            if time.monotonic() - started > WAIT_SECONDS:
                owner = content.get("host", "?")
                raise RepositoryUnreachableError(
                    f"{self.key} has been held for {WAIT_SECONDS:g} s by a publisher on {owner}: try again later"
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
        self._thread = threading.Thread(target=self._keep, name=f"lease {self.key}", daemon=True)
        self._thread.start()

    def _try(self, mode: Any) -> bool:
        content = {"owner": self._owner, "process": this_process(), "host": os.uname().nodename, "renewal": uuid.uuid4().hex}
        sent = time.monotonic()
        try:
            result = obstore.put(self._store, self.key, json.dumps(content).encode(), mode=mode)
        except Exception as error:
            if not is_condition(error):
                raise
            found = self._look()
            if found is None or found[1].get("owner") != self._owner:
                return False
            result = {"e_tag": found[0], "version": None}  # it is ours: the answer was lost, and the second try refused
        self._etag, self._renewed = unchanged(result), sent
        return True

    def _look(self) -> tuple[str, dict[str, Any]] | None:
        try:
            answer = obstore.get(self._store, self.key)
        except FileNotFoundError:
            return None
        try:
            content = json.loads(bytes(answer.bytes()))
        except ValueError:
            content = {}
        return str(answer.meta["e_tag"]), content if isinstance(content, dict) else {}

    def _keep(self) -> None:
        while not self._done.wait(self._seconds / 3):
            with self._mutex, contextlib.suppress(Exception):  # what does not get through shows in `check`
                if not self._done.is_set() and not self._try(self._etag):
                    self._renewed = float("-inf")  # someone took it over
                    return

    def check(self) -> None:
        """Raise ConflictError where the lock may be someone else's by now: this process was too slow, or asleep."""
        if time.monotonic() - self._renewed > self._seconds * 2 / 3:
            raise ConflictError(f"the lock {self.key} was lost: this process was silent for too long; nothing more was written")

    def release(self) -> None:
        """Give the lock back; it goes by itself where that does not work."""
        self._done.set()
        with self._mutex, contextlib.suppress(Exception):
            found = self._look()
            if found and found[1].get("owner") == self._owner:
                obstore.delete(self._store, self.key)
