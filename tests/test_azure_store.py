"""What every repository does, over Azure's protocol: the tests of `test_repository.py` once more, against Azurite."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_repository
import test_repository_reading
from kept import InStore
from stores.azurite import ACCOUNT, azurite, missing

from airflow_triton.repository.object_store import Connection, Deadlines, ObjectRepository, StoreAddress
from airflow_triton.repository.object_store.connect import connect
from airflow_triton.repository.object_store.probe import Abilities


@pytest.fixture(scope="module")
def seen_of_azure() -> Iterator[tuple[Connection, Abilities]]:
    """The container, opened and asked once what the store does; nothing of that is left."""
    if reason := missing():
        pytest.skip(reason)
    with azurite("models") as environment, pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        address = StoreAddress.parse(f"as://{ACCOUNT}/models/asked")
        connection = connect(address, deadlines=Deadlines())
        yield connection, ObjectRepository(address, connection=connection).abilities


@pytest.fixture
def kept(seen_of_azure: tuple[Connection, Abilities], tmp_path: Path) -> InStore:
    """An empty repository on Azure."""
    connection, abilities = seen_of_azure
    made = InStore(tmp_path, StoreAddress.parse(f"as://{ACCOUNT}/models/{uuid.uuid4().hex}/models"), connection)
    made.remember(abilities)
    return made


def test_azure_keeps_conditions(seen_of_azure: tuple[Connection, Abilities]) -> None:
    """It is accepted without a lock folder, and each upload is read back: it checks no SHA-256. The questions leave no object."""
    connection, abilities = seen_of_azure

    assert (abilities.conditional_writes, abilities.checks_digests) == (True, False)
    assert [row["path"] for page in connection.store.list(".asked.airflow-triton/probe/") for row in page] == []


for _module in (test_repository, test_repository_reading):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and "kept" in inspect.signature(_test).parameters:
            globals()[_name] = _test
