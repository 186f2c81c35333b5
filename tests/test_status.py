"""`status`: declared, registered, stored and served, and every drift in words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import everything_in, overwrite
from test_rollout import roll_back, run, seen

from airflow_triton import model_config
from airflow_triton import repository as repo
from airflow_triton.cli import main
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registry
from airflow_triton.repository import Repository
from airflow_triton.repository.base import MODELS
from airflow_triton.rollout import Status, find_target, status, status_of_all
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


def looked(mapping: dict[str, Any], **options: bool) -> Status:
    """The status of a spec."""
    spec = spec_from_mapping(mapping)
    return status(spec.name, find_target(spec), spec=spec, **options)


def by_hand(triton: LocalTriton, config: str | None = None) -> None:
    """Load `blobs` past us, with a config in the request where there is one; and wait until what it replaces is gone."""
    import tritonclient.http

    client = tritonclient.http.InferenceServerClient(triton.http_url.removeprefix("http://"))
    if config is None:
        client.load_model("blobs")
    else:
        from google.protobuf.json_format import MessageToJson

        client.load_model("blobs", config=MessageToJson(model_config.parse(config), preserving_proto_field_name=True))
    while any(row.get("state") == "UNLOADING" for row in client.get_model_repository_index()):
        time.sleep(0.05)
    client.close()


def test_all_is_well(mapping: Make, repository: Repository) -> None:
    """What was just deployed has no problem; since when, and by whom, is told; and nothing is touched."""
    run(mapping(1))
    before = everything_in(repository, MODELS, content=True)

    told = looked(mapping(1))

    (release,) = repo.releases(repository, "blobs")
    assert (told.registered, told.stored, told.problems) == (1, 1, ())
    assert [(server.ready, server.repository) for server in told.servers] == [((1,), str(repository))]
    assert (told.since, told.by) == (release.at, release.by)
    assert everything_in(repository, MODELS, content=True) == before


def test_stored_but_not_loaded(mapping: Make, client: TritonClient) -> None:
    """A server that came back empty is named, with what helps; and what helps does."""
    run(mapping(1))
    client.unload("blobs")
    client.wait_unloaded("blobs")

    (problem,) = looked(mapping(1)).problems

    assert "serves nothing, stored is 1: stored, but not loaded; `apply`" in problem
    run(mapping(1))
    assert looked(mapping(1)).problems == ()


def test_configuration_loaded_by_hand(mapping: Make, repository: Repository, triton: LocalTriton, client: TritonClient) -> None:
    """The right version with another configuration than the released one is a drift; the remedy that is named brings the release back."""
    run(mapping(1))
    (release,) = repo.releases(repository, "blobs")
    other = model_config.parse(release.config.replace("max_batch_size: 64", "max_batch_size: 8"))
    by_hand(triton, model_config.render(model_config.with_versions(other, [1])))
    assert client.config("blobs", 1)["max_batch_size"] == 8

    (problem,) = looked(mapping(1)).problems

    assert "serves version 1 with another configuration than the released one" in problem
    assert "`rollback --to 1`" in problem
    roll_back(mapping(1), to=1)
    assert client.config("blobs", 1)["max_batch_size"] == 64
    assert looked(mapping(1)).problems == ()


def test_replica_that_is_behind(mapping: Make, repository: Repository, triton: LocalTriton) -> None:
    """A server that serves an earlier release is told apart from one that serves what never was released."""
    run(mapping(1))
    first = repository.read_config("blobs")
    run(mapping(3))
    now = repository.read_config("blobs")
    assert first is not None
    assert now is not None
    etag = repository.swap_config("blobs", first.text, expected=now.etag)
    by_hand(triton)
    repository.swap_config("blobs", now.text, expected=etag)

    (problem,) = looked(mapping(3)).problems

    assert "serves [1], stored is 3: it is behind" in problem


def test_version_that_was_never_released(mapping: Make, repository: Repository, triton: LocalTriton) -> None:
    """A version that somebody put there and loaded by hand is told as that."""
    run(mapping(1))
    now = repository.read_config("blobs")
    assert now is not None
    model = repository.version_place("blobs", 1) / "model.onnx"
    overwrite(repository, repository.version_place("blobs", 9) / "model.onnx", repository.origin(model).read_bytes())  # type: ignore[union-attr]
    etag = repository.swap_config("blobs", now.text.replace("versions: 1", "versions: 9"), expected=now.etag)
    by_hand(triton)
    repository.swap_config("blobs", now.text, expected=etag)

    (problem,) = looked(mapping(1)).problems

    assert "serves [9], stored is 1: served by hand" in problem


def test_load_that_failed_is_told_with_tritons_reason(
    mapping: Make, repository: Repository, triton: LocalTriton, client: TritonClient
) -> None:
    """A server that could not load what is stored says why, and the file that is to blame is named."""
    run(mapping(1))
    client.unload("blobs")
    client.wait_unloaded("blobs")
    overwrite(repository, repository.version_place("blobs", 1) / "model.onnx", b"broken")
    with pytest.raises(Exception, match="blobs"):
        by_hand(triton)

    problems = looked(mapping(1)).problems

    assert "it could not load version 1: " in problems[0]
    assert any("version 1 is damaged" in problem and "model.onnx has 6 bytes" in problem for problem in problems)


def test_damaged_byte_is_found_by_a_thorough_look(mapping: Make, repository: Repository) -> None:
    """A file of the same size with another content is found by `thorough` alone; a missing one at once."""
    run(mapping(1))
    place = repository.version_place("blobs", 1) / "model.onnx"
    content = bytearray(repository.origin(place).read_bytes())  # type: ignore[union-attr]
    content[-1] ^= 1
    overwrite(repository, place, bytes(content))

    assert looked(mapping(1)).problems == ()
    (problem,) = looked(mapping(1), thorough=True).problems
    assert "another content than its manifest says" in problem


def test_what_mlflow_means_by_now(mapping: Make) -> None:
    """A newer version behind the declared alias, an alias that somebody moved, and a spec that changed are three drifts."""
    registry = Registry(mapping()["tracking_uri"])
    registry.set_alias("blobs", "challenger", 1)
    declared = mapping(model="models:/blobs@challenger")
    run(declared)
    assert looked(declared).problems == ()

    registry.set_alias("blobs", "challenger", 3)
    (newer,) = looked(declared).problems
    assert newer == "models:/blobs@challenger is version 3, released is 1; `apply` would try 3"
    registry.set_alias("blobs", "challenger", 1)
    registry.set_alias("blobs", "champion", 2)
    (moved,) = looked(declared).problems
    assert moved == "the alias `champion` of `blobs` means version 2 in MLflow, released is 1; `apply` puts it back"
    registry.set_alias("blobs", "champion", 1)
    (changed,) = looked({**declared, "config": {"max_batch_size": 16}}).problems
    assert "changed since version 1 was released; `plan` shows how" in changed


def test_server_that_does_not_answer_hides_nothing(mapping: Make, triton: LocalTriton) -> None:
    """It is unknown, with why; the others are told."""
    run(mapping(1))

    told = looked(mapping(1, servers=[triton.grpc_url, f"grpc://127.0.0.1:{free_port()}"]))

    assert [server.ready for server in told.servers] == [(1,), None]
    assert len(told.problems) == 1


def test_model_that_is_in_no_repository(mapping: Make, tmp_path: Path, client: TritonClient, triton: LocalTriton) -> None:
    """A model that a server has, of another repository, gets a row of its own."""
    run(mapping(1))
    assert seen(client) == {"blobs": (1,)}

    (row,) = status_of_all(find_target(repository=str(tmp_path), servers=[triton.grpc_url]))

    assert (row.name, row.stored, [server.ready for server in row.servers]) == ("blobs", None, [(1,)])
    assert "serves [1] of `blobs`, which is not in this repository" in row.problems[0]


def test_status_from_the_shell(mapping: Make, repository: Repository, triton: LocalTriton, client: TritonClient) -> None:
    """Where the servers differ, each has a line; every drift is on stderr; --json has it all."""
    run(mapping(1))
    client.unload("blobs")
    client.wait_unloaded("blobs")
    with LocalTriton(str(repository), extra_args=["--disable-auto-complete-config"]) as second:
        where = ["--repository", str(repository), "--server", triton.grpc_url, "--server", second.grpc_url]
        with TritonClient(ServerAddress.parse(second.grpc_url)) as other:
            other.load("blobs")
        environment = {"COLUMNS": "200", "MLFLOW_TRACKING_URI": mapping()["tracking_uri"]}
        table = CliRunner().invoke(main, ["status", *where, "--thorough"], env=environment)
        data = CliRunner().invoke(main, ["status", *where, "--json"], env=environment)

    lines = {line.split("│")[1].strip(): line.split("│")[5].strip() for line in table.stdout.splitlines() if line.count("│") > 5}
    assert lines == {"blobs": "1, nothing", triton.grpc_url: "nothing", second.grpc_url: "1"}
    assert f"{triton.grpc_url} serves nothing, stored is 1" in table.stderr
    (row,) = json.loads(data.stdout)
    assert [server["ready"] for server in row["servers"]] == [[], [1]]
