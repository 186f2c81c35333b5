"""What the registry asks for, and what the run of it is called."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_triton.local_triton import free_port
from airflow_triton.registry import Registered, Registry
from airflow_triton.rollout.following import Wanted, ask, asked_for, followed
from airflow_triton.spec import Spec, spec_from_mapping
from mlflow_plugin.webhooks.starting import deploys, next_run_id


def spec(name: str, model: str, **keys: Any) -> Spec:
    return spec_from_mapping({"name": name, "model": model, "schedule": "registry", "repository": "/models", "servers": ["t"], **keys})


def test_each_follower_has_its_version() -> None:
    """An alias, the latest version, or the reason why there is none; who does not follow is left out."""
    models = {"iris": Registered({"live": 3, "next": 5}, 7), "empty": Registered({}, None)}
    specs = [
        spec("alias", "models:/iris@live"),
        spec("latest", "models:/iris/latest"),
        spec("no-alias", "models:/iris@gone"),
        spec("no-version", "models:/empty/latest"),
        spec("no-model", "models:/unknown@live"),
        spec("by-hand", "models:/iris@next", schedule=None),
    ]

    asked = asked_for(specs, models)

    assert {name: wanted.version for name, wanted in asked.wanted.items()} == {"alias": 3, "latest": 7}
    assert asked.nothing == {
        "no-alias": "`iris` has no alias `gone`",
        "no-version": "`empty` has no versions",
        "no-model": "there is no registered model `unknown`",
    }
    assert asked.unknown == {}


def test_run_is_named_by_what_is_deployed() -> None:
    """The same version by the same spec has one name; another version, and another spec, have another; a schedule is no part of it."""
    models = {"iris": Registered({"live": 3}, 3)}

    def run_id(**keys: Any) -> str:
        return asked_for([spec("iris", "models:/iris@live", **keys)], models).wanted["iris"].run_id

    digest = spec("iris", "models:/iris@live").digest()[:12]
    assert run_id() == run_id() == f"registry__iris__3__{digest}"
    assert run_id(config={"max_batch_size": 8}) != run_id()


def test_run_that_comes_again_has_a_number() -> None:
    """An alias that goes to another version and back asks for the first one anew: its run is the second of this name, then the third."""
    wanted = Wanted(name="iris", model="iris", version=1, spec="a" * 64)

    first = next_run_id(wanted, None)
    second = next_run_id(wanted, first)

    assert (first, second) == (wanted.run_id, f"{wanted.run_id}__2")
    assert next_run_id(wanted, second) == f"{wanted.run_id}__3"
    assert all(deploys(run_id, wanted) for run_id in (first, second))
    assert not any(deploys(run_id, wanted) for run_id in ("manual__2026", f"{wanted.run_id}__x", wanted.run_id.replace("__1__", "__11__")))


@pytest.mark.parametrize(
    ("uri", "name", "alias"),
    [("models:/iris@live", "iris", "live"), ("models:/iris/latest", "iris", None), ("models:/latest@live", "latest", "live")],
    ids=["alias", "latest", "a model of that name"],
)
def test_uri_is_taken_apart(uri: str, name: str, alias: str | None) -> None:
    """Which registered model, and which alias, a deployment follows."""
    assert followed(uri) == (name, alias)


def test_registries_are_asked_once_each(tracking_uri: str) -> None:
    """A real registry answers; one that is not there makes its own deployments unknown, and no others."""
    Registry(tracking_uri).set_alias("blobs", "asked", 2)
    dead = f"http://127.0.0.1:{free_port()}"
    specs = [
        spec("here", "models:/blobs@asked", tracking_uri=tracking_uri),
        spec("there", "models:/blobs@asked", tracking_uri=dead),
        spec("newest", "models:/blobs/latest", tracking_uri=tracking_uri),
    ]

    asked = ask(specs)

    assert {name: wanted.version for name, wanted in asked.wanted.items()} == {"here": 2, "newest": 3}
    assert list(asked.unknown) == ["there"]
    assert dead in asked.unknown["there"]
