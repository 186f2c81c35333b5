"""The servers of one model taken together: what has to be true on every one of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any, TypeVar

from airflow_triton.errors import ServerError, ServerUnreachableError, SpecError
from airflow_triton.repository import Probe, Release
from airflow_triton.rollout.control import CONTROLS, Control, Loaded, Mode
from airflow_triton.server import ServerAddress, TritonClient

T = TypeVar("T")
AT_ONCE = 8
"""Replicas that are told at a time what they are all told, where no wave limits it."""


def _silent(_: str) -> None:
    """Tell nobody."""


class Servers:
    """Several Triton servers that serve from one repository, all in one control mode (the addresses say which, else EXPLICIT).

    `wave` is the number of them that are brought to another version at a time. Raises SpecError where the addresses name several modes.
    """

    def __init__(self, clients: Sequence[TritonClient], *, addresses: Sequence[ServerAddress] = (), wave: int = 1) -> None:
        self.clients = tuple(clients)
        self.addresses = tuple(addresses) or tuple(client.address for client in clients)
        self.wave = wave
        modes: set[Mode] = {address.control_mode or "explicit" for address in self.addresses}
        if len(modes) > 1:
            raise SpecError(f"the servers of one fleet are in one control mode, and these are declared as {sorted(modes)}")
        self.control: Control = CONTROLS[modes.pop() if modes else "explicit"]

    @classmethod
    @contextlib.contextmanager
    def connected(cls, addresses: Sequence[ServerAddress], *, wave: int = 1) -> Iterator[Servers]:
        """Clients for these addresses, names that stand for several resolved; closed at the end."""
        servers = cls((), addresses=addresses, wave=wave)
        try:
            servers._connect()
            yield servers
        finally:
            servers.close()

    def renew(self) -> None:
        """Resolve the names that stand for several servers anew: replicas come and go.

        Raises:
            ServerUnreachableError: one of them resolves to nothing; the clients stay as they were.

        """
        if any(address.many for address in self.addresses):
            self._connect()

    def _connect(self) -> None:
        wanted = dict.fromkeys(replica for address in self.addresses for replica in address.replicas())  # the same one twice is one
        known = {client.address: client for client in self.clients}
        self.clients = tuple(known[address] if address in known else TritonClient(address) for address in wanted)
        for address, client in known.items():
            if address not in wanted:
                client.close()

    def close(self) -> None:
        """Close the clients."""
        for client in self.clients:
            client.close()
        if "_pool" in self.__dict__:
            self._pool.shutdown(wait=False)

    def among(self, clients: Sequence[TritonClient]) -> Servers:
        """Some of these servers."""
        return Servers(clients, wave=self.wave)

    def check(self, probe_name: str) -> None:
        """Raise unless every server is live and in its control mode, as far as a server tells; changes nothing."""
        for client in self.clients:
            client.check_live()
            self.control.check(client, probe_name)

    def look(self, model: str, version: int, *, replaced: str | None) -> list[Loaded | None]:
        """What `serve` wants to know of each server from before the release: with what it has loaded the version.

        `replaced` is the configuration that the release replaces, where it is of the same version and another one.
        """
        return [self.control.look(client, model, version, replaced) for client in self.clients]

    def serve(
        self,
        model: str,
        versions: tuple[int, ...],
        probe: Probe | None,
        *,
        config: str,
        before: Sequence[Loaded | None] = (),
        told: Callable[[str], None] = _silent,
    ) -> None:
        """Let the servers follow config.pbtxt, wave after wave; each must have just these versions ready, and give the probe's answer.

        `versions` are those that config.pbtxt names, in rising order: the last one serves. `config` is its body. `before` is what `look`
        answered before config.pbtxt changed; nothing where it did not. `told` gets a line for each of several replicas.

        Raises:
            ServerError: a server did not take it. Those of its wave have finished, those of later waves were not touched.

        """
        rows = list(zip(self.clients, before or [None] * len(self.clients), strict=True))

        def bring(row: tuple[TritonClient, Loaded | None]) -> float:
            started = time.monotonic()
            self.control.serve(row[0], model, versions, probe, config=config, before=row[1])
            return time.monotonic() - started

        for first in range(0, len(rows), self.wave):
            wave = rows[first : first + self.wave]
            problems: list[BaseException] = []
            for number, taken in enumerate(self._at_once(bring, wave), start=first):
                if isinstance(taken, BaseException):
                    problems.append(taken)
                elif len(rows) > 1:
                    told(f"replica {number + 1} of {len(rows)}: {rows[number][0].address} serves version {versions[-1]} ({taken:.1f} s)")
            _raise(problems)

    def lacking(self, model: str, versions: tuple[int, ...]) -> list[TritonClient]:
        """The servers on which these versions are not the ones that are ready."""
        return [client for client in self.clients if client.ready_versions(model) != versions]

    def follow(self, model: str, stored: Release | None) -> list[str]:
        """Bring every server that answers back to the release that is stored (None: to nothing); answer what did not work."""
        if stored is None:
            return self.withdraw(model) + self.forget(model)
        return self._each(lambda client: self.control.follow(client, model, stored.versions, stored.config))

    def withdraw(self, model: str) -> list[str]:
        """Let every server that answers let go of a model, before its files are removed; answer what did not work."""
        return self._each(lambda client: self.control.withdraw(client, model))

    def restore(self, model: str) -> list[str]:
        """Take back a withdrawal from every server that answers, as the model's files stay; answer what did not work."""
        return self._each(lambda client: self.control.restore(client, model))

    def forget(self, model: str) -> list[str]:
        """Wait until no server that answers has the model, now that its files are removed; answer what did not work."""
        return self._each(lambda client: self.control.forget(client, model))

    def _each(self, step: Callable[[TritonClient], None]) -> list[str]:
        problems = []
        for error in self._at_once(step, self.clients):
            if isinstance(error, ServerUnreachableError):
                problems.append(f"{error}; it will follow config.pbtxt when it starts again")
            elif isinstance(error, ServerError):
                problems.append(str(error))
            elif error is not None:
                raise error
        return problems

    def _at_once(self, step: Callable[[T], object], rows: Sequence[T]) -> list[Any]:
        """What `step` answers or raises for each, side by side; returns when all have ended. A single one runs in this thread."""
        if len(rows) == 1:
            try:
                return [step(rows[0])]
            except Exception as error:  # noqa: BLE001 the caller decides
                return [error]
        futures: list[Future[object]] = [self._pool.submit(step, row) for row in rows]
        wait(futures)
        return [future.exception() or future.result() for future in futures]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Threads that stay for the next step."""
        return ThreadPoolExecutor(max(self.wave, AT_ONCE), thread_name_prefix="replica")


def _raise(problems: Sequence[BaseException]) -> None:
    """Raise the first problem, with the words of the others; nothing where there is none."""
    if not problems:
        return
    first = next((problem for problem in problems if not isinstance(problem, ServerError)), problems[0])
    if len(problems) > 1 and isinstance(first, ServerError):
        raise type(first)("; ".join(map(str, problems))) from None
    raise first
