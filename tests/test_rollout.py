"""The pipeline against the real Triton and a real MLflow store.

Each test runs over a repository on disk, and over one on a real object store that Triton reads from, unless it says that a disk is
enough: it ends before anything is published; it is about the servers or MLflow, whose part is the same over both; or other tests of
the store see the same (`test_store_faults.py`, `test_repository.py`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CENTRES, classifier, everything_in, overwrite

from airflow_triton import repository as repo
from airflow_triton.demo.clients import Clients
from airflow_triton.errors import (
    ConflictError,
    RejectedError,
    RepositoryError,
    ServerError,
    ServerUnreachableError,
)
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registry
from airflow_triton.repository import Repository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.rollout import Outcome, Rollout, deploy, find_target, opened, rollback, status
from airflow_triton.rollout.serving import Servers
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

Mapping = dict[str, Any]
Make = Callable[..., Mapping]
disk_is_enough = pytest.mark.parametrize("triton", ["disk"], indirect=True)


@pytest.fixture(params=["disk", "store"])
def triton(request: pytest.FixtureRequest) -> LocalTriton:
    """The server of each test: it reads from a disk, or from an object store. `repository` and `mapping` follow."""
    server: LocalTriton = request.getfixturevalue(f"triton_on_{request.param}")
    return server


def run(mapping: Mapping, step: Callable[[Rollout], Any] = deploy) -> Any:
    """Do something with a rollout of this spec; by default all of it."""
    spec = spec_from_mapping(mapping)
    with opened(spec, find_target(spec)) as rollout:
        return step(rollout)


def roll_back(mapping: Mapping, to: int | None = None) -> Outcome:
    """Roll the spec's model back."""
    spec = spec_from_mapping(mapping)
    target = find_target(spec)
    with Servers.connected(target.addresses) as servers:
        return rollback(spec.name, store=target.store, servers=servers, registry=Registry(spec.tracking_uri), to=to)


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


def seen(client: TritonClient) -> dict[str, tuple[int, ...]]:
    """Every model that the server has loaded, with its ready versions."""
    return {row.name: client.ready_versions(row.name) for row in client.index() if row.state == "READY"}


def test_good_version_serves_after_it_was_validated(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """A first deployment ends with one version that answers, its alias and tags in MLflow, and nothing left over."""
    outcome = run(mapping(1))

    assert (outcome.action, outcome.version, outcome.previous, outcome.warnings) == ("promoted", 1, None, ())
    assert [check.name for check in outcome.report.checks] == ["parity", "accuracy"]
    assert seen(client) == {"blobs": (1,)}
    assert repository.folders(MODELS) == ["blobs"]
    assert everything_in(repository, WORK) == set()
    registry = Registry(mapping()["tracking_uri"])
    assert registry.resolve("models:/blobs@champion").version == 1
    tags = registry.tags("blobs", 1)
    assert (tags["triton.blobs.verdict"], tags["triton.blobs.state"]) == ("passed", "serving")


def test_rejected_version_leaves_nothing_behind(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """A candidate that fails its metric is gone from disk and server, and what served is untouched to the byte."""
    run(mapping(1))
    before = everything_in(repository, MODELS, content=True)

    with pytest.raises(RejectedError, match=r"accuracy 0(\.\d+)? is below 0\.9") as rejected:
        run(mapping(2))

    assert not rejected.value.report.passed
    assert everything_in(repository, MODELS, content=True) == before
    assert everything_in(repository, WORK) == set()
    assert seen(client) == {"blobs": (1,)}
    registry = Registry(mapping()["tracking_uri"])
    assert registry.resolve("models:/blobs@champion").version == 1
    assert registry.tags("blobs", 2)["triton.blobs.verdict"] == "rejected"


def test_second_apply_does_nothing(mapping: Make, repository: Repository) -> None:
    """What is released already is left alone: no file changes."""
    run(mapping(1))
    before = everything_in(repository, MODELS, content=True)

    assert run(mapping(1)).action == "unchanged"
    assert everything_in(repository, MODELS, content=True) == before


@disk_is_enough
def test_empty_server_gets_its_model_again(mapping: Make, client: TritonClient) -> None:
    """A server that came back without the model is brought to the released version."""
    run(mapping(1))
    client.unload("blobs")
    client.wait_unloaded("blobs")

    assert run(mapping(1)).action == "loaded"
    assert seen(client) == {"blobs": (1,)}


def test_changed_configuration_of_the_same_version_is_a_release(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """Another `config` for a stored version converts nothing, is validated, and can be taken back exactly."""
    run(mapping(1))
    first = repository.read_config("blobs")

    outcome = run(mapping(1, config={"max_batch_size": 16}))

    assert outcome.action == "promoted"
    assert client.config("blobs", 1)["max_batch_size"] == 16
    assert roll_back(mapping()).version == 1
    assert client.config("blobs", 1)["max_batch_size"] == 64
    assert _body(repository.read_config("blobs").text) == _body(first.text)


def _body(config: str) -> str:
    return "".join(line for line in config.splitlines(keepends=True) if not line.startswith("#"))


def test_rollback_and_forward_again(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """Back is the exact configuration and files that served; forward is the same; alias and tags follow."""
    run(mapping(1))
    files = everything_in(repository, repository.version_place("blobs", 1), content=True)
    run(mapping(3))

    back = roll_back(mapping())

    assert (back.action, back.version, back.previous) == ("rolled back", 1, 3)
    assert seen(client) == {"blobs": (1,)}
    assert everything_in(repository, repository.version_place("blobs", 1), content=True) == files
    registry = Registry(mapping()["tracking_uri"])
    assert registry.resolve("models:/blobs@champion").version == 1
    assert registry.tags("blobs", 3)["triton.blobs.state"] == "replaced"
    assert roll_back(mapping(), to=3).version == 3
    assert seen(client) == {"blobs": (3,)}
    assert [release.version for release in repo.releases(repository, "blobs")] == [1, 3, 1, 3]


@disk_is_enough
def test_rollback_that_was_cut_off_is_finished(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """A rollback whose release is written but not served is finished by the same command, which goes no further back or forth."""
    run(mapping(1))
    run(mapping(3))
    release = repo.releases(repository, "blobs")[0].model_copy(update={"how": "rollback"})
    repo.commit(repository, "blobs", release, expected=repository.read_config("blobs"))
    assert seen(client) == {"blobs": (3,)}

    assert roll_back(mapping()).version == 1
    assert seen(client) == {"blobs": (1,)}


def test_rollback_refuses_damaged_files(mapping: Make, repository: Repository, client: TritonClient, tmp_path: Path) -> None:
    """A version whose file was altered does not serve again; nothing changes."""
    run(mapping(1))
    run(mapping(3))
    model = repository.version_place("blobs", 1) / "model.onnx"
    repository.fetch(repository.origin(model), tmp_path / "model.onnx")
    content = bytearray((tmp_path / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(repository, model, bytes(content))
    before = repository.read_config("blobs")

    with pytest.raises(RepositoryError, match="another content than its manifest"):
        roll_back(mapping())

    assert repository.read_config("blobs") == before
    assert seen(client) == {"blobs": (3,)}


@disk_is_enough
def test_rollback_without_a_past_says_so(mapping: Make) -> None:
    """There is nothing before the first release."""
    run(mapping(1))

    with pytest.raises(RepositoryError, match="cannot go back to anything before version 1"):
        roll_back(mapping())


@disk_is_enough
def test_only_so_many_versions_are_kept(mapping: Make, repository: Repository) -> None:
    """`keep: 0` leaves the version that serves, and none to go back to."""
    run(mapping(1))
    run(mapping(3, promote={"keep": 0}))

    assert repository.versions("blobs") == [3]


@disk_is_enough
def test_clients_lose_no_request(mapping: Make, triton: LocalTriton) -> None:
    """Under four clients without pause, a rejection, a promotion and a rollback fail no request."""
    run(mapping(1))
    rows = np.zeros((2, 4), np.float32)
    with Clients(ServerAddress.parse(triton.grpc_url), "blobs", {"input": rows}, pause=0.001) as clients:
        with pytest.raises(RejectedError):
            run(mapping(2))
        run(mapping(3))
        roll_back(mapping())

    assert clients.errors == []
    assert clients.answered > 200


@disk_is_enough
def test_own_input_example_is_enough(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """Without data, parity is checked on the model's input example; an ONNX model goes through untouched."""
    outcome = run({**mapping(name="plus", model="models:/plus/1"), "validate": {}, "promote": {}})

    assert (outcome.report.data, outcome.report.rows) == ("the model's input example", 3)
    answer = client.infer("plus", {"x": np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(answer["y"], [[2, 2]])


def test_parity_is_measured_on_the_server(mapping: Make, repository: Repository) -> None:
    """Files that answer otherwise than the MLflow model, if only in one output, are found out by what the server answers."""
    spec = spec_from_mapping(mapping(1, validate={"data": mapping()["validate"]["data"]}))
    with opened(spec, find_target(spec)) as rollout:
        source = rollout.resolve()
        converted = rollout.convert(source)
        other = classifier(CENTRES.T * np.float32(1.01)).SerializeToString()
        overwrite(repository, repository.servable_place("blobs", converted.servable_id) / converted.files[0].sha256, other)
        candidate = rollout.stage(converted, rollout.configure(converted))

        report = rollout.validate(candidate)

        assert not report.passed
        assert "the output 'probabilities' is out of tolerance in" in report.verdict
        with pytest.raises(RejectedError):
            rollout.promote(candidate, report)
        rollout.clean_up(source)
    assert everything_in(repository, MODELS) == set()


def test_first_of_two_that_promote_wins(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """Two candidates staged on the same state: the second promotion is a conflict and changes nothing."""
    spec_one, spec_three = spec_from_mapping(mapping(1)), spec_from_mapping(mapping(3))
    with opened(spec_one, find_target(spec_one)) as one, opened(spec_three, find_target(spec_three)) as three:
        staged = []
        for rollout in (one, three):
            source = rollout.resolve()
            converted = rollout.convert(source)
            candidate = rollout.stage(converted, rollout.configure(converted))
            staged.append((rollout, source, candidate, rollout.validate(candidate)))
        (_, source, candidate, report), (_, late_source, late_candidate, late_report) = staged
        one.promote(candidate, report)
        won = everything_in(repository, repository.model_place("blobs"), content=True)

        with pytest.raises(ConflictError, match="someone else released"):
            three.promote(late_candidate, late_report)

        assert everything_in(repository, repository.model_place("blobs"), content=True) == won
        one.clean_up(source)
        three.clean_up(late_source)
    assert seen(client) == {"blobs": (1,)}
    assert repository.folders(MODELS) == ["blobs"]


def test_promotion_that_the_server_refuses_is_put_back(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """Files that break between validation and promotion: config.pbtxt is again what it was, and version 1 serves on."""
    run(mapping(1))
    before, config = everything_in(repository, MODELS), repository.read_config("blobs")
    spec = spec_from_mapping(mapping(3))
    with opened(spec, find_target(spec)) as rollout:
        source = rollout.resolve()
        converted = rollout.convert(source)
        candidate = rollout.stage(converted, rollout.configure(converted))
        report = rollout.validate(candidate)
        broken = b"\0" * converted.files[0].size
        overwrite(repository, repository.servable_place("blobs", converted.servable_id) / converted.files[0].sha256, broken)

        with pytest.raises(ServerError, match="what served before serves again"):
            rollout.promote(candidate, report)

        rollout.clean_up(source)
    assert everything_in(repository, MODELS) == before
    assert repository.read_config("blobs") == config
    assert seen(client) == {"blobs": (1,)}


def test_model_that_is_not_ours_is_refused(mapping: Make, repository: Repository) -> None:
    """A model that someone else put into the repository is not overwritten."""
    overwrite(repository, repository.version_place("blobs", 1) / "model.onnx", b"theirs")
    overwrite(repository, repository.config_place("blobs"), b'name: "blobs"\n')
    before = everything_in(repository, MODELS, content=True)

    with pytest.raises(RepositoryError, match="was not published by airflow-provider-triton"):
        run(mapping(1))

    assert everything_in(repository, MODELS, content=True) == before


KILLED_AT = ("resolve", "convert", "configure", "stage", "validate", "promote", "clean up")
KILLED_ON_STORE = ("stage", "promote")


@pytest.mark.parametrize(
    ("triton", "step"), [("disk", step) for step in KILLED_AT] + [("store", step) for step in KILLED_ON_STORE], indirect=["triton"]
)
def test_killed_and_run_again_it_converges(mapping: Make, repository: Repository, client: TritonClient, tmp_path: Path, step: str) -> None:
    """SIGKILL in any step leaves version 1 or version 3 serving; the same command once more ends with 3 and nothing left over."""
    run(mapping(1))
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(mapping(3)))
    command = [sys.executable, "-m", "airflow_triton", "apply", str(spec)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if f" s  {step}:" in line:
                os.killpg(process.pid, signal.SIGKILL)
                break

    assert client.ready_versions("blobs") in [(1,), (3,)]
    assert run(mapping(3)).action in ("promoted", "unchanged", "loaded")
    assert seen(client)["blobs"] == (3,)
    if step != "clean up":
        assert repository.folders(MODELS) == ["blobs"]


@disk_is_enough
def test_status_tells_what_is_where(mapping: Make, client: TritonClient) -> None:
    """Registered, stored and served are shown side by side, and a server that lacks the model is named."""
    run(mapping(1))
    with pytest.raises(RejectedError):
        run(mapping(2))
    spec = spec_from_mapping(mapping(3))

    told = status("blobs", find_target(spec), spec=spec)

    assert (told.registered, told.stored, told.versions) == (3, 1, (1,))
    assert told.problems == ("models:/blobs/3 is version 3, released is 1; `apply` would try 3",)
    assert [server.ready for server in told.servers] == [(1,)]
    assert told.verdict_version in (2, 3)  # tests before this one may have judged version 3
    assert Registry(spec.tracking_uri).tags("blobs", 2)["triton.blobs.why"].startswith("rejected: accuracy")
    client.unload("blobs")
    client.wait_unloaded("blobs")
    assert "serves nothing, stored is 1" in status("blobs", find_target(spec), spec=spec).problems[0]


@disk_is_enough
def test_several_servers_share_a_release(mapping: Make, repository: Repository, triton: LocalTriton) -> None:
    """A fleet over one repository: all servers serve the new version; if one cannot, none does."""
    with (
        LocalTriton(str(repository), extra_args=["--disable-auto-complete-config"]) as second,
        TritonClient(ServerAddress.parse(second.grpc_url)) as other,
    ):
        servers = [triton.grpc_url, second.http_url]
        run(mapping(1, servers=servers))
        assert other.ready_versions("blobs") == (1,)
        port = free_port()

        with pytest.raises(ServerUnreachableError):
            run(mapping(3, servers=[*servers, f"http://127.0.0.1:{port}"]))

        assert other.ready_versions("blobs") == (1,)
