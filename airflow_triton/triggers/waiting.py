"""What the triggers of the sensors share: look, wait, and tell when it is time for the sensor to look itself."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Literal, TypeAlias

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_triton.errors import SpecError

Status: TypeAlias = Literal["there", "due", "failed"]
"""`there`: it looks as if the wait were over. `due`: nothing was seen for long, or could be. `failed`: looking can never succeed."""

LOOK_AGAIN = 600.0
"""After so many seconds the sensor looks itself, whatever the trigger sees: the release that is waited for may be another one by now."""


class WaitTrigger(BaseTrigger):
    """Looks until the wait seems to be over, and fires once: `{"status": ..., "id": ..., "error_type": ..., "deadline": ...}`.

    A server or a registry that does not answer, or refuses, is unknown: it is asked again with growing pauses. It holds nothing that
    would have to be put back: a triggerer may stop and another one start it again.

    :param poll_interval: seconds between two looks, shared by all who wait for the same thing
    :param look_again: seconds after which it fires `due`
    :param deadline: handed back by the event (DAG.test hands nothing else back)
    """

    def __init__(self, *, poll_interval: float, look_again: float = LOOK_AGAIN, deadline: str | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.poll_interval = poll_interval
        self.look_again = look_again
        self.deadline = deadline

    @property
    @abstractmethod
    def wait_id(self) -> str:
        """What is waited for, in words that the event carries back."""

    @abstractmethod
    async def look(self) -> tuple[bool, float]:
        """Whether the wait seems to be over, and the loop's time of the next look.

        Raises:
            SpecError: looking can never succeed.

        """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See Airflow's class."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {
            **self.arguments(),
            "poll_interval": self.poll_interval,
            "look_again": self.look_again,
            "deadline": self.deadline,
        }

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The arguments of the class's own, as plain JSON."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """See Airflow's class."""
        try:
            status: Status = "there" if await self._comes_true() else "due"
            yield self._event(status)
        except SpecError as error:
            self.log.error("%s", error)  # noqa: TRY400 the message says it all
            yield self._event("failed", type(error).__name__)

    def _event(self, status: Status, error_type: str | None = None) -> TriggerEvent:
        payload = {"status": status, "id": self.wait_id, "error_type": error_type, "deadline": self.deadline}
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def _comes_true(self) -> bool:
        now = asyncio.get_running_loop().time
        due = now() + self.look_again
        while now() < due:
            there, next_at = await self.look()
            if there:
                return True
            await asyncio.sleep(max(0.0, min(next_at, due) - now()))
        return False


class PauseTrigger(WaitTrigger):
    """Fires `due` after a while: for a wait whose end no trigger can see.

    :param name: what is waited for
    """

    def __init__(self, *, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name

    @property
    def wait_id(self) -> str:
        """See WaitTrigger."""
        return self.name

    def arguments(self) -> dict[str, Any]:
        """See WaitTrigger."""
        return {"name": self.name}

    async def look(self) -> tuple[bool, float]:
        """See WaitTrigger."""
        return False, float("inf")
