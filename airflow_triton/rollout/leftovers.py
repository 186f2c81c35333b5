"""What a deployment leaves in the repositories and on the servers, and its removal; what serves is never touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from airflow_triton import repository
from airflow_triton.errors import DeployError
from airflow_triton.rollout.promotion import Fleet


class Leftovers:
    """Candidates of one model, and its versions that are not kept, in all of its repositories.

    What fails in one of them is told, and the others are done.
    """

    def __init__(self, model: str, fleets: Sequence[Fleet]) -> None:
        self.model = model
        self.fleets = fleets

    def withdraw(self, candidate: str) -> list[str]:
        """Remove this candidate; answer what did not work."""
        return self._everywhere(lambda fleet: _without(fleet, candidate))

    def remove(self, candidate: str, *, keep: int) -> list[str]:
        """Remove this candidate and stale ones, and all but `keep` earlier versions; answer what did not work."""

        def clear(fleet: Fleet) -> Iterator[str]:
            for each in {candidate, *repository.stale_candidates(fleet.store, self.model)}:
                yield from _without(fleet, each)
            repository.prune(fleet.store, self.model, keep=keep)

        return self._everywhere(clear)

    def _everywhere(self, work: Callable[[Fleet], Iterator[str]]) -> list[str]:
        problems: list[str] = []
        for fleet in self.fleets:
            try:
                for problem in work(fleet):
                    problems.append(problem)  # noqa: PERF402 what was told before an error stays told
            except DeployError as error:
                problems.append(str(error))
        return problems


def _without(fleet: Fleet, candidate: str) -> Iterator[str]:
    yield from fleet.servers.withdraw(candidate)
    fleet.store.remove(fleet.store.model_place(candidate))
    yield from fleet.servers.forget(candidate)
