"""How a candidate is loaded to be tried; and where, if no server of the model's own would load it: on a Triton of the worker's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from airflow_triton import model_config
from airflow_triton.errors import LocalTritonError
from airflow_triton.local_triton import LocalTriton, extras_for
from airflow_triton.repository import Item, Repository
from airflow_triton.repository.layout import CONFIG_FILE
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.validation import warm_up

TRIAL_SERVER = "a local Triton of the worker (NONE mode)"


def trial_config(config: str) -> str:
    """The config.pbtxt with which a candidate is loaded that is to be released with `config`.

    Without its warm-up, which can end a server where it fails: the examination sends those requests.
    """
    return model_config.render(warm_up.left_out(model_config.parse(config)))


@contextlib.contextmanager
def local_trial(store: Repository, name: str, version: int, items: Sequence[Item], config: str) -> Iterator[TritonClient]:
    """A client of a local Triton that has one model, the candidate, ready. Both are gone at the end; nobody else sees either.

    Raises:
        LocalTritonError: it cannot be installed or started on this worker.
        ServerError: it does not load the candidate, with its reason.

    """
    declared = model_config.parse(trial_config(config))
    needed = extras_for(declared.backend, declared.platform)
    with store.new_staging() as folder:
        _lay_out(store, folder / name, [item.under(version) for item in items])
        declared.name = name
        (folder / name / CONFIG_FILE).write_text(model_config.render(model_config.with_versions(declared, [version])))
        with _started(LocalTriton(folder, with_=needed)) as server, TritonClient(ServerAddress.parse(server.grpc_url)) as client:
            client.load(name)
            client.wait_ready(name, version)
            yield client


def _lay_out(store: Repository, folder: Path, items: Sequence[Item]) -> None:
    for item in items:
        target = folder / item.file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        store.fetch(item.origin, target)


@contextlib.contextmanager
def _started(server: LocalTriton) -> Iterator[LocalTriton]:
    try:
        server.start()
    except LocalTritonError as error:
        raise LocalTritonError(
            "`control_mode: none` validates a candidate on a local Triton of this worker, as the servers load nothing without a "
            f"restart; it needs Linux on x86-64 and, once, a package index to install it from (`airflow-triton serve` tries it): {error}"
        ) from None
    try:
        yield server
    finally:
        server.stop()
