"""Models that others put into the repository: read and listed as they are, and taken over without a change to what serves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CENTRES, classifier
from obstore.store import MemoryStore
from test_cli import shell
from tests_support import everything_below

from airflow_triton import model_config
from airflow_triton.errors import ConflictError, RepositoryError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, Repository, adopt, foreign, fsck, prune, releases
from airflow_triton.repository.base import MODELS
from airflow_triton.repository.object_store import ObjectRepository, StoreAddress
from airflow_triton.repository.object_store.connect import Connection
from airflow_triton.rollout import Target, deploy, find_target, opened, status
from airflow_triton.rollout import adopt as adopt_with_servers
from airflow_triton.rollout.rollback import rollback
from airflow_triton.rollout.serving import Servers
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

Make = Callable[..., dict[str, Any]]
Files = dict[str, str | bytes]

CONFIG = """# Tuned by hand on a Friday; ask Ada before you touch it.
name: "blobs"
backend: "onnxruntime"
max_batch_size: 16  # more does not help
input { name: "input" data_type: TYPE_FP32 dims: 4 }
output { name: "label" data_type: TYPE_INT64 dims: 1 reshape {} }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 }
instance_group { kind: KIND_CPU count: 1 }
"""
META = {
    "name": "blobs",
    "triton_model_path": "/models/blobs",
    "mlflow_model_uri": "models:/blobs/1",
    "flavor": "onnx",
}
HAND_MADE: Files = {"config.pbtxt": CONFIG, "1/model.onnx": b"one", "2/model.onnx": b"two", "2/data/vocabulary.txt": "a b\n"}
BY_PLUGIN: Files = {"config.pbtxt": CONFIG, "1/model.onnx": b"one", "mlflow-meta.json": json.dumps(META)}
ALL = "version_policy { all {} }\n"


class Shelf:
    """A repository of one kind, filled by others."""

    def __init__(self, store: Repository) -> None:
        self.store = store

    def fill(self, model: str, files: Files) -> None:
        """Put a model's files there, as others do."""
        for path, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            if isinstance(self.store, LocalRepository):
                target = self.store.root / model / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(raw)
            else:
                assert isinstance(self.store, ObjectRepository)
                self.store._connection.store.put(self.store.key(MODELS / model / path), raw)

    def content(self, model: str) -> dict[str, str]:
        """Every file of a model with its digest, the notes in the work area left out."""
        return {file.path: self.store.sha256(MODELS / model / file.path) for file in self.store.files(MODELS / model)}


@pytest.fixture(params=["disk", "store"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """An empty repository: on disk, and on an object store."""
    if request.param == "disk":
        (tmp_path / "models").mkdir()
        return Shelf(LocalRepository(tmp_path / "models"))
    return Shelf(ObjectRepository(StoreAddress.parse("s3://bucket/models"), connection=Connection(MemoryStore(), None)))


@pytest.fixture
def disk(tmp_path: Path) -> Shelf:
    """An empty repository on disk."""
    (tmp_path / "models").mkdir()
    return Shelf(LocalRepository(tmp_path / "models"))


@pytest.mark.parametrize(
    ("policy", "serving"),
    [
        ("", (10,)),
        ("version_policy { latest { num_versions: 2 } }", (2, 10)),
        ("version_policy { latest {} }", (10,)),
        ("version_policy { specific { versions: [1, 2] } }", (1, 2)),
        (ALL, (1, 2, 10)),
    ],
    ids=["none", "latest 2", "latest", "specific", "all"],
)
def test_its_own_policy_says_what_serves(shelf: Shelf, policy: str, serving: tuple[int, ...]) -> None:
    """Triton's rules are read as Triton reads them: numbers, not text, and no folder that it ignores."""
    shelf.fill("blobs", {"config.pbtxt": CONFIG + policy, **{f"{name}/model.onnx": b"x" for name in ("1", "2", "10", "011", "old")}})

    model = foreign(shelf.store, "blobs")

    assert model is not None
    assert (model.versions, model.serving, model.config) == ((1, 2, 10), serving, CONFIG + policy)


def test_listing_names_every_problem_and_never_fails(shelf: Shelf) -> None:
    """A listing has a row for every model, whatever state it is in, with the version that serves and the way to take it over."""
    shelf.fill("blobs", BY_PLUGIN)
    shelf.fill("model  OAI", BY_PLUGIN)
    shelf.fill("damaged", {"config.pbtxt": "name: [[[", "1/model.onnx": b"x"})
    shelf.fill("binary", {"config.pbtxt": b"\xff\xfe\x00", "1/model.onnx": b"x"})
    shelf.fill("bare", {"3/model.onnx": b"x"})
    shelf.fill("empty", {"readme.txt": "nothing here"})
    shelf.fill("two", {"config.pbtxt": ALL, "1/model.onnx": b"x", "2/model.onnx": b"x"})
    shelf.fill("notes", {"config.pbtxt": CONFIG, "1/model.onnx": b"x", "mlflow-meta.json": "{"})
    before = {name: shelf.content(name) for name in shelf.store.models()}
    target = Target(shelf.store, ())

    rows = {name: status(name, target) for name in shelf.store.models()}

    assert rows["blobs"].model == "models:/blobs/1"
    assert rows["blobs"].problems[0] == "not published by airflow-provider-triton; `airflow-triton adopt blobs` takes it over"
    assert {name: (row.stored, row.versions) for name, row in rows.items()} == {
        "blobs": (1, (1,)),
        "model  OAI": (1, (1,)),
        "damaged": (None, (1,)),
        "binary": (None, (1,)),
        "bare": (3, (3,)),
        "empty": (None, ()),
        "two": (2, (1, 2)),
        "notes": (1, (1,)),
    }
    told = {name: " ".join(row.problems) for name, row in rows.items()}
    assert "`model  OAI` cannot be a model's name" in told["model  OAI"]
    assert "config.pbtxt, line 1" in told["damaged"]
    assert "cannot be read" in told["binary"]
    assert "no config.pbtxt" in told["bare"]
    assert "no version folder" in told["empty"]
    assert "versions [1, 2] serve at once" in told["two"]
    assert "mlflow-meta.json cannot be read" in told["notes"]
    assert all(finding.role == "foreign" and not finding.problems for finding in fsck(shelf.store))
    assert {name: shelf.content(name) for name in shelf.store.models()} == before


@pytest.mark.parametrize("files", [HAND_MADE, BY_PLUGIN], ids=["by hand", "by the plugin"])
def test_adoption_adds_a_history_and_changes_nothing_else(shelf: Shelf, files: Files) -> None:
    """One manifest more, a config.pbtxt of the same meaning with the old text in its journal; everything else as it was."""
    shelf.fill("blobs", files)
    shelf.fill("other", files)
    before, other = shelf.content("blobs"), shelf.content("other")
    version = 2 if "2/model.onnx" in files else 1
    with pytest.raises(RepositoryError, match="choose another name, move it away, or take it over: airflow-triton adopt blobs"):
        releases(shelf.store, "blobs")

    outcome = adopt(shelf.store, "blobs")

    assert (outcome.version, outcome.adopted) == (version, True)
    (release,) = releases(shelf.store, "blobs")
    assert (release.how, release.version, release.original, release.mlflow_version) == ("adopt", version, CONFIG, None)
    stored = shelf.store.read_config("blobs")
    assert stored is not None
    assert model_config.parse(stored.text) == model_config.with_versions(model_config.parse(CONFIG), [version])
    after = shelf.content("blobs")
    assert after.keys() - before.keys() == {f"{version}/deployment.json"}
    assert {path for path in before if after[path] != before[path]} == {"config.pbtxt"}
    manifest = shelf.store.manifest("blobs", version)
    assert manifest is not None
    assert {f"{version}/{file.path}": file.sha256 for file in manifest.files} == {
        path: digest for path, digest in before.items() if path.startswith(f"{version}/")
    }
    assert manifest.mlflow_uri == ("models:/blobs/1" if files is BY_PLUGIN else None)
    assert (manifest.source, manifest.servable) == (None, None)

    again = adopt(shelf.store, "blobs")

    assert (again.version, again.adopted) == (version, False)
    assert "already ours" in again.summary
    assert prune(shelf.store, "blobs", keep=0) == []
    found = {(finding.model, finding.version): (finding.role, finding.problems) for finding in fsck(shelf.store)}
    assert found == {
        ("blobs", version): ("serves", ()),
        ("other", None): ("foreign", ()),
        **({("blobs", 1): ("foreign", ())} if version == 2 else {}),
    }
    assert shelf.content("blobs") == after
    assert shelf.content("other") == other


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({**HAND_MADE, "config.pbtxt": CONFIG + ALL}, r"versions \[1, 2\] of `blobs` serve at once"),
        ({**HAND_MADE, "config.pbtxt": CONFIG + "version_policy { specific { versions: 7 } }"}, "no version of `blobs` serves"),
        ({"1/model.onnx": b"x"}, "--server"),
        ({"config.pbtxt": "name: [[[", "1/model.onnx": b"x"}, "config.pbtxt, line 1"),
        ({"config.pbtxt": CONFIG}, "no version of `blobs` serves"),
        ({**BY_PLUGIN, "1/deployment.json": "{}"}, "deployment.json is damaged"),
    ],
    ids=["several serve", "none serves", "no config", "damaged config", "no version", "a manifest of theirs"],
)
def test_what_cannot_be_taken_over_stays_as_it_is(shelf: Shelf, files: Files, told: str) -> None:
    """One clear error, and not a byte is another."""
    shelf.fill("blobs", files)
    before = shelf.content("blobs")

    with pytest.raises(RepositoryError, match=told):
        adopt(shelf.store, "blobs")

    assert shelf.content("blobs") == before


def test_no_such_model(shelf: Shelf) -> None:
    """A model that is not there is named, with those that are."""
    shelf.fill("other", BY_PLUGIN)

    with pytest.raises(RepositoryError, match=r"there is no model `blobs` .* there are: other"):
        adopt(shelf.store, "blobs")


def test_given_config_serves_where_there_is_none(shelf: Shelf) -> None:
    """A model without config.pbtxt is taken over with the config that is given."""
    shelf.fill("blobs", {"1/model.onnx": b"x"})

    adopt(shelf.store, "blobs", config=CONFIG)

    (release,) = releases(shelf.store, "blobs")
    assert (release.version, release.original) == (1, None)


def test_cut_off_adoption_is_taken_up_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adoption that loses against another writer leaves nothing; one that was killed between its two writes is completed."""
    shelf.fill("blobs", BY_PLUGIN)
    before = shelf.content("blobs")
    swap = type(shelf.store).swap_held

    def refused(store: Repository, place: Any, text: str | None, *, expected: str | None) -> str | None:
        if place.path.endswith("config.pbtxt"):
            raise ConflictError("someone else changed it")
        return swap(store, place, text, expected=expected)

    with monkeypatch.context() as broken:
        broken.setattr(type(shelf.store), "swap_held", refused)
        with pytest.raises(ConflictError):
            adopt(shelf.store, "blobs")
    assert shelf.content("blobs") == before

    adopt(shelf.store, "blobs")
    manifest = shelf.content("blobs")["1/deployment.json"]
    shelf.fill("blobs", {"config.pbtxt": CONFIG})  # the state between the two writes
    assert adopt(shelf.store, "blobs").adopted
    assert shelf.content("blobs")["1/deployment.json"] == manifest


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "1" / "pipe")


def _link_out(folder: Path) -> None:
    (folder / "1" / "away").symlink_to("/etc/hostname")


def _linked_version(folder: Path) -> None:
    (folder / "1").rename(folder.parent.parent / "elsewhere")
    (folder / "1").symlink_to(folder.parent.parent / "elsewhere")


def _linked_model(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def _linked_folder(folder: Path) -> None:
    (folder / "1" / "real").mkdir()
    (folder / "1" / "real" / "x").write_text("x")
    (folder / "1" / "alias").symlink_to("real")


@pytest.mark.parametrize("spoil", [_fifo, _link_out, _linked_version, _linked_model, _linked_folder])
def test_files_that_cannot_be_published_are_refused(disk: Shelf, spoil: Callable[[Path], None]) -> None:
    """What leads out of the folder, or is no plain file, is refused by name, and nothing is written anywhere."""
    assert isinstance(disk.store, LocalRepository)
    disk.fill("blobs", BY_PLUGIN)
    spoil(disk.store.root / "blobs")
    before = everything_below(disk.store.root.parent, content=True)

    with pytest.raises(RepositoryError, match=r"pipe|away|is a link to|alias"):
        adopt(disk.store, "blobs")

    changed = everything_below(disk.store.root.parent, content=True) ^ before
    assert all(".airflow-triton/locks/" in line for line in changed)


def _answer(client: TritonClient) -> list[int]:
    return [int(label) for label in client.infer("blobs", {"input": CENTRES})["label"].ravel()]


def _adopt_from_the_shell(repository: LocalRepository, triton: LocalTriton, tracking_uri: str) -> None:
    where = {"TRITON_MODEL_REPO": str(repository.root), "TRITON_URL": triton.grpc_url, "MLFLOW_TRACKING_URI": tracking_uri}
    told = shell("status", "--json", **where)
    assert told.returncode == 0, told.stderr
    rows = {row["name"]: row for row in json.loads(told.stdout)}
    assert (rows["blobs"]["stored"], rows["blobs"]["registered"], rows["other"]["stored"]) == (1, 1, 2)
    assert "takes it over" in rows["blobs"]["problems"][0]
    adopted = shell("adopt", "blobs", "--json", **where)
    assert (adopted.returncode, json.loads(adopted.stdout)) == (0, {"name": "blobs", "version": 1, "adopted": True})
    assert shell("adopt", "nothing", **where).returncode == 1


@pytest.mark.parametrize("made", ["by hand", "by the plugin"])
def test_life_after_adoption_on_a_real_server(made: str, mapping: Make, repository: LocalRepository, triton: LocalTriton) -> None:
    """It answers all the way: adopted, loaded, deployed over, rolled back to; its files and the model beside it never change."""
    shelf = Shelf(repository)
    model = classifier((CENTRES * np.float32(0.9)).T).SerializeToString()
    files: Files = {"config.pbtxt": CONFIG, "1/model.onnx": model}
    if made == "by the plugin":
        files["mlflow-meta.json"] = json.dumps(META)
    else:
        files["1/readme.txt"] = "by hand\n"
    shelf.fill("blobs", files)
    shelf.fill("other", {**files, "config.pbtxt": CONFIG.replace("blobs", "other"), "2/model.onnx": model})
    version = everything_below(repository.root / "blobs" / "1", content=True)
    other = everything_below(repository.root / "other", content=True)
    loaded_config = model_config.without_versions(model_config.parse(CONFIG))
    spec = spec_from_mapping(mapping(3))
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        client.load("blobs")
        assert _answer(client) == [0, 1, 2]

        if made == "by hand":
            assert adopt(repository, "blobs").adopted
        else:
            _adopt_from_the_shell(repository, triton, str(spec.tracking_uri))
            assert status("blobs", Target(repository, ())).model == "models:/blobs/1"

        assert _answer(client) == [0, 1, 2]
        client.load("blobs")
        assert (client.ready_versions("blobs"), _answer(client)) == ((1,), [0, 1, 2])

        target = find_target(spec)
        with opened(spec, target) as rollout:
            assert deploy(rollout).version == 3
        assert client.ready_versions("blobs") == (3,)
        with Servers.connected(target.addresses) as servers:
            outcome = rollback("blobs", store=target.store, servers=servers, registry=Registry(spec.tracking_uri))
        assert (outcome.version, outcome.previous) == (1, 3)
        assert (client.ready_versions("blobs"), _answer(client)) == ((1,), [0, 1, 2])
        if made == "by the plugin":  # which stores every model as version 1
            first = spec_from_mapping(mapping(1))
            with opened(first, target) as rollout, pytest.raises(ConflictError, match="with other files"):
                deploy(rollout)
            assert (client.ready_versions("blobs"), _answer(client)) == ((1,), [0, 1, 2])

    assert [release.how for release in releases(repository, "blobs")] == ["adopt", "promote", "rollback"]
    stored = repository.read_config("blobs")
    assert stored is not None
    assert model_config.without_versions(model_config.parse(stored.text)) == loaded_config
    assert repository.damage("blobs", 1) == []
    now = everything_below(repository.root / "blobs" / "1", content=True)
    assert {line for line in now if not line.startswith("deployment.json ")} == version
    assert everything_below(repository.root / "other", content=True) == other


def test_servers_config_stands_in_for_a_missing_one(repository: LocalRepository, triton: LocalTriton) -> None:
    """A model that a server loaded with a config that is gone since is taken over with that one."""
    shelf = Shelf(repository)
    shelf.fill("blobs", {"config.pbtxt": CONFIG, "1/model.onnx": classifier(CENTRES.T).SerializeToString()})
    address = ServerAddress.parse(triton.http_url)
    with TritonClient(address) as client:
        client.load("blobs")
        (repository.root / "blobs" / "config.pbtxt").unlink()

        assert adopt_with_servers("blobs", repository, [address]).version == 1

        client.load("blobs")
        assert (client.ready_versions("blobs"), _answer(client)) == ((1,), [0, 1, 2])


def test_deployment_never_replaces_a_version_that_others_put_there(mapping: Make, repository: LocalRepository, triton: LocalTriton) -> None:
    """Beside an adopted version lies one that is not ours, under the number that is deployed: it stays."""
    shelf = Shelf(repository)
    model = classifier(CENTRES.T).SerializeToString()
    policy = "version_policy { specific { versions: 1 } }"
    shelf.fill("blobs", {"config.pbtxt": CONFIG + policy, "1/model.onnx": model, "3/model.onnx": b"theirs"})
    adopt(repository, "blobs")
    before = everything_below(repository.root, content=True)
    spec = spec_from_mapping(mapping(3))

    with opened(spec, find_target(spec)) as rollout, pytest.raises(ConflictError, match="did not put there"):
        deploy(rollout)

    assert everything_below(repository.root, content=True) == before
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        client.load("blobs")
        assert client.ready_versions("blobs") == (1,)


def test_the_same_files_deployed_from_mlflow_leave_the_way_back(mapping: Make, repository: LocalRepository, triton: LocalTriton) -> None:
    """The very file that was taken over comes from MLflow under its number: then it is ours, and their configuration can come back."""
    spec = spec_from_mapping(mapping(1, config={"max_batch_size": 64}))
    target = find_target(spec)
    with opened(spec, target) as rollout:
        deploy(rollout)
        file = (repository.root / "blobs" / "1" / "model.onnx").read_bytes()
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        client.unload("blobs")
        repository.remove(repository.model_place("blobs"))
        Shelf(repository).fill("blobs", {"config.pbtxt": CONFIG, "1/model.onnx": file})
        client.load("blobs")
        adopt(repository, "blobs")

        with opened(spec, target) as rollout:
            assert deploy(rollout).action == "promoted"
        assert client.config("blobs")["max_batch_size"] == 64
        with Servers.connected(target.addresses) as servers:
            outcome = rollback("blobs", store=target.store, servers=servers, registry=Registry(spec.tracking_uri))

        assert (client.config("blobs")["max_batch_size"], _answer(client)) == (16, [0, 1, 2])
    assert "was taken over" in outcome.warnings[0]
    assert [release.how for release in releases(repository, "blobs")] == ["adopt", "promote", "rollback"]
