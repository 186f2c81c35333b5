"""`plan`: what `apply` would do, told before anything is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import everything_in
from test_cli import shell
from test_rollout import run, seen

from airflow_triton import model_config
from airflow_triton import repository as repo
from airflow_triton.cli import main
from airflow_triton.errors import RejectedError
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, Repository, open_repository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.rollout import Plan, plan
from airflow_triton.server import ServerAddress, TritonClient

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


def planned(mapping: dict[str, Any]) -> Plan:
    """The plan of a spec."""
    found: Plan = run(mapping, plan)
    return found


def test_first_deployment_is_told_with_what_would_be_converted(mapping: Make, repository: LocalRepository, client: TritonClient) -> None:
    """Of a model that is not there yet: it would be converted and deployed; and planning leaves no file and tells no server anything."""
    before = set(repository.root.parent.rglob("*"))

    told = planned(mapping(1))

    assert (told.action, told.registered, told.released, told.conversion) == ("deploy", 1, None, "convert onnx to onnx")
    assert told.why[0] == "`blobs` has no release yet: models:/blobs/1 is version 1"
    assert (told.config_known, told.problems, told.exit_code) == (False, (), 0)
    assert [server.ready for server in told.servers] == [()]
    assert set(repository.root.parent.rglob("*")) == before
    assert seen(client) == {}


def test_new_version_is_told_with_what_is_removed_and_where_the_alias_goes(mapping: Make, repository: Repository) -> None:
    """The next version: from which one, that the old one goes where none is kept, and that the alias moves; apply then does just that."""
    run(mapping(1))
    again = mapping(3, promote={"alias": "champion", "keep": 0})
    before = everything_in(repository, MODELS, content=True)
    tags = Registry(again["tracking_uri"]).tags("blobs", 3)

    told = planned(again)

    assert (told.action, told.registered, told.released, told.versions, told.removed) == ("deploy", 3, 1, (1,), (1,))
    assert "models:/blobs/3 is version 3, released is version 1" in told.why
    assert "version 1 is removed (promote.keep: 0)" in told.why
    assert "the alias `champion` of `blobs` moves from version 1 to version 3" in told.why
    assert everything_in(repository, MODELS, content=True) == before
    assert Registry(again["tracking_uri"]).tags("blobs", 3) == tags
    run(again)
    assert repository.versions("blobs") == [3]


def test_changed_config_is_told_as_a_diff_and_reuses_the_stored_version(mapping: Make, repository: Repository) -> None:
    """Another `config` of the stored version: nothing is converted, and the diff is, line by line, what the release then changes."""
    run(mapping(1))
    changed = mapping(1, config={"max_batch_size": 16, "instance_group": [{"count": 1, "kind": "KIND_CPU"}]})

    told = planned(changed)

    assert (told.action, told.conversion, told.config_known) == ("reconfigure", "the stored version is reused", True)
    assert [line for line in told.config_diff.splitlines() if line[:1] in "+-"][2:] == ["-max_batch_size: 64", "+max_batch_size: 16"]
    run(changed)
    first, second = repo.releases(repository, "blobs")
    assert model_config.diff(first.config, second.config) == told.config_diff


def test_config_of_a_model_to_be_converted_is_told_as_not_known_yet(mapping: Make) -> None:
    """With another version and another `config`, the diff is of what the spec changes in the released one, and says so."""
    run(mapping(1))

    told = planned(mapping(3, config={"max_batch_size": 16}))

    assert (told.conversion, told.config_known) == ("convert onnx to onnx", False)
    assert "+max_batch_size: 16" in told.config_diff


def test_nothing_to_do_is_told_and_a_server_that_lacks_it_too(mapping: Make, client: TritonClient) -> None:
    """Of an unchanged spec there is nothing to do; of a server that came back empty, the model would be loaded; and apply does it."""
    run(mapping(1))
    assert (planned(mapping(1)).action, planned(mapping(1)).why) == ("nothing", ("version 1 is released already",))
    client.unload("blobs")
    client.wait_unloaded("blobs")

    told = planned(mapping(1))

    assert told.action == "load"
    assert "serves nothing, released is 1" in told.why[0]
    assert seen(client) == {}
    assert run(mapping(1)).action == "loaded"


def test_moved_alias_would_be_put_back(mapping: Make) -> None:
    """An alias that someone moved is all that an apply would change, and it changes it."""
    run(mapping(1))
    registry = Registry(mapping()["tracking_uri"])
    registry.set_alias("blobs", "champion", 2)

    told = planned(mapping(1))

    assert (told.action, told.why) == ("tidy", ("the alias `champion` of `blobs` moves from version 2 to version 1",))
    assert registry.aliases("blobs")["champion"] == 2
    run(mapping(1))
    assert registry.aliases("blobs")["champion"] == 1


def test_version_that_this_spec_rejected_is_told(mapping: Make) -> None:
    """A version that was rejected by the very same spec is told with why; another spec is another question."""
    with pytest.raises(RejectedError):
        run(mapping(2))

    told = planned(mapping(2))
    other = planned(mapping(2, validate={**mapping()["validate"], "metrics": {"accuracy": {"min": 0.0}}}))

    assert any("was rejected by this very spec" in why and "is below 0.9" in why for why in told.why)
    assert not any("rejected" in why for why in other.why)


def test_what_an_earlier_attempt_left_is_reused(mapping: Make, repository: Repository) -> None:
    """Converted files that lie in the work area are told as such, with the config that comes of them."""
    run(mapping(1), lambda rollout: rollout.convert(rollout.resolve()))
    before = everything_in(repository, WORK, content=True)

    told = planned(mapping(1))

    assert (told.conversion, told.config_known) == ("what an earlier attempt converted is reused", True)
    assert "+max_batch_size: 64" in told.config_diff
    assert everything_in(repository, WORK, content=True) == before


def test_cached_conversion_is_told(mapping: Make, tmp_path: Path) -> None:
    """A conversion that is in the cache is told as such, with the config that comes of it; the entry stays as it is."""
    spec = mapping(3, convert={"to": "onnx", "cache": str(tmp_path)})
    run(spec, lambda rollout: (rollout.convert(rollout.resolve()), rollout.clean_up(rollout.source())))

    told = planned(spec)

    assert (told.conversion, told.config_known) == ("from the cache of conversions", True)
    assert "+max_batch_size: 64" in told.config_diff


def test_what_would_end_an_apply_is_refused_with_its_exit_code(mapping: Make) -> None:
    """A version that is not there, a config that no model could have, and another form than the model has: one clear problem each."""
    missing = planned(mapping(99))
    wrong = planned(mapping(1, config={"max_batch_sise": 1}))
    form = planned(mapping(1, convert={"to": "torchscript"}))

    assert [(told.action, told.exit_code) for told in (missing, wrong, form)] == [("refused", 1), ("refused", 2), ("refused", 1)]
    assert "resolve models:/blobs/99" in missing.problems[0]
    assert "did you mean max_batch_size" in wrong.problems[0]
    assert "cannot become `to: torchscript`" in form.problems[0]


def test_unknown_is_not_nothing_to_do(mapping: Make, triton: LocalTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server does not answer, nobody can say that there is nothing to do; what is known is told all the same."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run(mapping(1))

    told = planned(mapping(1, servers=[triton.grpc_url, f"grpc://127.0.0.1:{free_port()}"]))

    assert (told.action, told.released, told.exit_code) == ("unknown", 1, 1)
    assert [server.ready for server in told.servers] == [(1,), None]
    assert planned(mapping(1, tracking_uri="http://127.0.0.1:9")).action == "unknown"


def test_plan_of_an_object_store_writes_nothing_there(triton_on_store: LocalTriton, repository_on_store: Repository, mapping: Make) -> None:
    """Not even what is known of the store: a plan needs no right to write."""
    target = {"servers": [triton_on_store.grpc_url], "repository": str(repository_on_store)}
    elsewhere = {"servers": [triton_on_store.grpc_url], "repository": f"{repository_on_store}-not-there"}

    assert planned(mapping(1, **target)).action == "deploy"
    assert planned(mapping(1, **elsewhere)).action == "deploy"
    store = open_repository(elsewhere["repository"])
    assert (store.files(MODELS), store.files(WORK)) == ([], [])


def test_plan_from_the_shell(mapping: Make, tmp_path: Path) -> None:
    """A table with its reasons for a person, data with --json, 0 whether or not there is something to do; and 2 for a bad spec."""
    path = tmp_path / "blobs.json"
    path.write_text(json.dumps(mapping(1)))

    first = shell("plan", path)
    assert first.returncode == 0, first.stderr
    assert "deploy" in first.stdout
    assert "`blobs` has no release yet" in first.stdout
    run(mapping(1))
    path.write_text(json.dumps(mapping(1, config={"max_batch_size": 16})))
    changed = CliRunner().invoke(main, ["plan", str(path)])
    assert "-max_batch_size: 64" in changed.stdout
    told = CliRunner().invoke(main, ["plan", str(path), "--json"])
    assert [row["action"] for row in json.loads(told.stdout)] == ["reconfigure"]
    path.write_text(json.dumps(mapping(77)))
    refused = CliRunner().invoke(main, ["plan", str(path), "--json"])
    assert (refused.exit_code, json.loads(refused.stdout)[0]["action"]) == (1, "refused")
    path.write_text("{}")
    assert CliRunner().invoke(main, ["plan", str(path)]).exit_code == 2


UNCHANGED = """
import collections, json, sys
from airflow_triton.rollout import deploy, find_target, opened
from airflow_triton.server import TritonClient
from airflow_triton.spec import load_spec
calls = collections.Counter()
call = TritonClient._call
def counted(self, doing, method, *args, **kwargs):
    calls[method] += 1
    return call(self, doing, method, *args, **kwargs)
TritonClient._call = counted
spec = load_spec(sys.argv[1])
with opened(spec, find_target(spec)) as rollout:
    outcome = deploy(rollout)
heavy = {"onnx", "onnxruntime", "sklearn", "matplotlib", "great_expectations", "torch", "skl2onnx", "airflow"} & set(sys.modules)
print(json.dumps({"action": outcome.action, "calls": calls, "heavy": sorted(heavy)}))
"""


def test_unchanged_apply_is_quick(mapping: Make, repository: Repository, tmp_path: Path) -> None:
    """It asks the server five questions, loads nothing there, and imports no library of models, data or plots; and no file changes."""
    run(mapping(1))
    before = everything_in(repository, MODELS, content=True)
    path = tmp_path / "blobs.json"
    path.write_text(json.dumps(mapping(1)))

    ended = subprocess.run([sys.executable, "-c", UNCHANGED, path], capture_output=True, text=True, timeout=60, check=True)

    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["action"], told["heavy"]) == ("unchanged", [])
    assert sum(told["calls"].values()) <= 5
    assert "load_model" not in told["calls"]
    assert everything_in(repository, MODELS, content=True) == before
