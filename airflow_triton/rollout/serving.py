"""The servers of one model taken together: what has to be true on every one of them, and a release that reaches all or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from airflow_triton import repository
from airflow_triton.errors import ServerError, ServerUnreachableError
from airflow_triton.repository import LocalRepository, Probe, Release, StoredConfig
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.validation.probe import check_probe


class Servers:
    """Several Triton servers that serve from one repository; the calls go to each in turn and stop at the first error."""

    def __init__(self, clients: Sequence[TritonClient]) -> None:
        self.clients = tuple(clients)

    @classmethod
    @contextlib.contextmanager
    def connected(cls, addresses: Sequence[ServerAddress]) -> Iterator[Servers]:
        """Clients for these addresses, closed at the end."""
        with contextlib.ExitStack() as stack:
            yield cls([stack.enter_context(TritonClient(address)) for address in addresses])

    def check(self, probe_name: str) -> None:
        """Raise unless every server is live and takes load requests; changes nothing."""
        for client in self.clients:
            client.check_live()
            client.check_explicit_mode(probe_name)

    def serve(self, model: str, version: int, probe: Probe | None) -> None:
        """Let every server follow the model's config.pbtxt; each must be ready and give the probe's answer."""
        for client in self.clients:
            client.load(model)
            client.wait_ready(model, version)
            check_probe(client, model, version, probe)

    def lacking(self, model: str, version: int) -> list[TritonClient]:
        """The servers on which this version is not the only one that is ready."""
        return [client for client in self.clients if client.ready_versions(model) != (version,)]

    def follow(self, model: str, *, stored: bool) -> list[str]:
        """Bring every server that answers back to what is stored (`stored` False: to nothing); answer what did not work."""
        problems = []
        for client in self.clients:
            try:
                if stored:
                    client.load(model)
                else:
                    client.unload(model)
                    client.wait_unloaded(model)
            except ServerUnreachableError as error:
                problems.append(f"{error}; it will follow config.pbtxt when it starts again")
            except ServerError as error:
                problems.append(str(error))
        return problems


def let_serve(
    store: LocalRepository, servers: Servers, model: str, release: Release, *, before: StoredConfig | None, probe: Probe | None
) -> None:
    """Commit `release` and let every server serve it; whatever fails, config.pbtxt is again what it was `before`, and served.

    Raises:
        ConflictError: config.pbtxt is not `before` any more; nothing was written.
        ServerError: a server did not take it; what served before serves again.

    """
    committed = repository.commit(store, model, release, expected=before)
    try:
        servers.serve(model, release.version, probe)
    except BaseException as error:
        repository.revert(store, model, committed=committed, before=before)
        problems = servers.follow(model, stored=before is not None)
        if isinstance(error, ServerError):
            back = "what served before serves again" if before else "nothing of it is left"
            raise type(error)("; ".join([f"{error}; {back}", *problems])) from None
        raise
