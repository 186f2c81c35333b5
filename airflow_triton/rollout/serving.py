"""The servers of one model taken together: what has to be true on every one of them, and a release that reaches all or none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from airflow_triton import repository
from airflow_triton.errors import ServerError, ServerUnreachableError, SpecError
from airflow_triton.repository import Probe, Release, Repository, StoredConfig
from airflow_triton.rollout.control import CONTROLS, Control, Loaded, Mode
from airflow_triton.server import ServerAddress, TritonClient


class Servers:
    """Several Triton servers that serve from one repository, all in one control mode (the addresses say which, else EXPLICIT).

    The calls go to each in turn and stop at the first error. Raises SpecError where the addresses name several modes.
    """

    def __init__(self, clients: Sequence[TritonClient]) -> None:
        self.clients = tuple(clients)
        modes: set[Mode] = {client.address.control_mode or "explicit" for client in clients}
        if len(modes) > 1:
            raise SpecError(f"the servers of one fleet are in one control mode, and these are declared as {sorted(modes)}")
        self.control: Control = CONTROLS[modes.pop() if modes else "explicit"]

    @classmethod
    @contextlib.contextmanager
    def connected(cls, addresses: Sequence[ServerAddress]) -> Iterator[Servers]:
        """Clients for these addresses, closed at the end."""
        with contextlib.ExitStack() as stack:
            yield cls([stack.enter_context(TritonClient(address)) for address in addresses])

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

    def serve(self, model: str, version: int, probe: Probe | None, *, config: str, before: Sequence[Loaded | None] = ()) -> None:
        """Let every server follow config.pbtxt, whose body is `config`; each must be ready and give the probe's answer.

        `before` is what `look` answered before config.pbtxt changed; nothing where it did not.
        """
        for client, loaded in zip(self.clients, before or [None] * len(self.clients), strict=True):
            self.control.serve(client, model, version, probe, config=config, before=loaded)

    def lacking(self, model: str, version: int) -> list[TritonClient]:
        """The servers on which this version is not the only one that is ready."""
        return [client for client in self.clients if client.ready_versions(model) != (version,)]

    def follow(self, model: str, stored: Release | None) -> list[str]:
        """Bring every server that answers back to the release that is stored (None: to nothing); answer what did not work."""
        if stored is None:
            return self.withdraw(model) + self.forget(model)
        return self._each(lambda client: self.control.follow(client, model, stored.version, stored.config))

    def withdraw(self, model: str) -> list[str]:
        """Let every server that answers let go of a model, before its files are removed; answer what did not work."""
        return self._each(lambda client: self.control.withdraw(client, model))

    def forget(self, model: str) -> list[str]:
        """Wait until no server that answers has the model, now that its files are removed; answer what did not work."""
        return self._each(lambda client: self.control.forget(client, model))

    def _each(self, step: Callable[[TritonClient], None]) -> list[str]:
        problems = []
        for client in self.clients:
            try:
                step(client)
            except ServerUnreachableError as error:
                problems.append(f"{error}; it will follow config.pbtxt when it starts again")
            except ServerError as error:
                problems.append(str(error))
        return problems


def let_serve(
    store: Repository,
    servers: Servers,
    model: str,
    release: Release,
    *,
    before: StoredConfig | None,
    probe: Probe | None,
    commit: Callable[[], StoredConfig],
) -> None:
    """Commit `release` and let every server serve it; whatever fails, config.pbtxt is again what it was `before`, and served.

    Raises:
        ConflictError: config.pbtxt is not `before` any more; nothing was written.
        ServerError: a server did not take it; what served before serves again.

    """
    served = repository.releases(store, model, before)[-1] if before else None
    changed = served is not None and served.version == release.version and served.config != release.config
    seen = servers.look(model, release.version, replaced=served.config if served and changed else None)
    committed = commit()
    try:
        servers.serve(model, release.version, probe, config=release.config, before=seen)
    except BaseException as error:
        repository.revert(store, model, committed=committed, before=before)
        problems = servers.follow(model, served)
        if isinstance(error, ServerError):
            back = "what served before serves again" if before else "nothing of it is left"
            raise type(error)("; ".join([f"{error}; {back}", *problems])) from None
        raise
