"""What starts the run that the registry asks for."""

from __future__ import annotations

from typing import Protocol

from airflow_triton.errors import DeployError
from airflow_triton.rollout.following import Wanted


class StartError(DeployError):
    """The run could not be started; it is tried again."""

    transient = True


class Starter(Protocol):
    """Starts runs: those of Airflow, or the pipeline itself."""

    def begin(self) -> None:
        """Take up what an earlier process left."""

    def start(self, wanted: Wanted, *, told: bool) -> str:
        """Start the run that deploys it, unless the newest one is that already; answer in a line what came of it.

        `told` is true where an event asks for it, false where it is only the registry's state.

        Raises:
            StartError: it could not be started, and it is not known to be there.

        """

    def end(self) -> None:
        """Start nothing more."""


def next_run_id(wanted: Wanted, newest: str | None) -> str:
    """The id of the run that deploys it, where the newest run of the very same is `newest` (None: there is none).

    An alias that went to another version and back asks for the first one again: with a number at the end.
    """
    if newest is None:
        return wanted.run_id
    number = newest.removeprefix(wanted.run_id).removeprefix("__")
    return f"{wanted.run_id}__{int(number or 1) + 1}"


def deploys(run_id: str, wanted: Wanted) -> bool:
    """Whether the run with this id deploys the very same."""
    rest = run_id.removeprefix(wanted.run_id)
    return run_id.startswith(wanted.run_id) and (not rest or (rest.startswith("__") and rest[2:].isdigit()))
