"""Waiting, in the triggerer, until servers have a version ready."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_triton.triggers.shared import Seen, SharedLook, in_thread, shared
from airflow_triton.triggers.waiting import WaitTrigger

if TYPE_CHECKING:
    from airflow_triton.server import ServerAddress

Ready = Mapping[str, tuple[int, ...]]


class ModelReadyTrigger(WaitTrigger):
    """Fires `there` once every server, and every replica behind its name, answers for `model` with `version` and with no higher one.

    All triggers of a process that wait for one server share its answer: one call per interval, whatever the number of models.

    :param model: the model's name on Triton
    :param version: the version that requests without a version have to reach
    :param servers: connection ids or URLs; connections are looked up by the triggerer, anew with every look
    :param poll_interval: seconds between two looks; see WaitTrigger for it and the further ones
    """

    def __init__(self, *, model: str, version: int, servers: Sequence[str], poll_interval: float = 5.0, **kwargs: Any) -> None:
        super().__init__(poll_interval=poll_interval, **kwargs)
        self.model = model
        self.version = version
        self.servers = tuple(servers)
        self._held: list[SharedLook[Any]] = []
        self._told: set[str] = set()

    @property
    def wait_id(self) -> str:
        """See WaitTrigger."""
        return self.model

    def arguments(self) -> dict[str, Any]:
        """See WaitTrigger."""
        return {"model": self.model, "version": self.version, "servers": list(self.servers)}

    async def look(self) -> tuple[bool, float]:
        """See WaitTrigger."""
        places = [shared(("replicas", name), partial(_replicas, name), self.poll_interval) for name in self.servers]
        found = await asyncio.gather(*(look.latest() for look in places))
        addresses = dict.fromkeys(address for seen in found for address in seen.answer or ())
        servers = [shared(("ready", address), partial(_ready, address), self.poll_interval) for address in addresses]
        ready = await asyncio.gather(*(look.latest() for look in servers))
        self._held = [*places, *servers]
        self._warn([*found, *ready])
        next_at = min(seen.next_at for seen in found)
        everywhere = all(seen.answer is not None and seen.answer.get(self.model, ())[-1:] == (self.version,) for seen in ready)
        known = bool(addresses) and not any(seen.problem for seen in found)
        return known and everywhere, min([next_at, *(seen.next_at for seen in ready)])

    def _warn(self, seen: Sequence[Seen[Any]]) -> None:
        """Log the problems that are new."""
        problems = {str(each.problem) for each in seen if each.problem}
        for problem in sorted(problems - self._told):
            self.log.warning("%s", problem)
        self._told = problems


async def _replicas(server: str) -> tuple[ServerAddress, ...]:
    """The servers behind a connection id or a URL: Airflow and the system's resolver are asked in a thread."""

    def look_up() -> tuple[ServerAddress, ...]:
        from airflow_triton.hooks import AirflowConnections
        from airflow_triton.server.environment import address_of
        from airflow_triton.spec import is_url

        address = address_of(server) if is_url(server) else AirflowConnections().server(server)
        import_module(f"tritonclient.{address.protocol}.aio")  # here, where it does not hold the event loop up
        return address.replicas()

    return await in_thread(look_up)


async def _ready(address: ServerAddress) -> Ready:
    from airflow_triton.server.aio import ready_models

    return await ready_models(address)
