"""Requests that Triton sends to a version before it is ready: what they are, and that the candidate gets them as the release does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blobs
from test_rollout import run
from test_triton_flavor import lay, register

from airflow_triton import model_config
from airflow_triton.errors import RejectedError, SpecError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, releases
from airflow_triton.rollout import plan
from airflow_triton.rollout.control import satisfies
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping
from airflow_triton.validation.warm_up import warmed_up

Make = Callable[..., dict[str, Any]]
NAME = "warm"
CONFIG = """backend: "python"
max_batch_size: 8
instance_group { count: 1 kind: KIND_CPU }
input { name: "x" data_type: TYPE_FP32 dims: -1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
"""
MODEL = """
import json

import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_name"].partition("--")[0 if "--" not in args["model_name"] else 1]
        self.tell("loaded")

    def tell(self, what):
        with open("{seen}", "a") as stream:
            stream.write(json.dumps([self.name, what]) + "\\n")

    def execute(self, requests):
        rows = [utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        self.tell([list(each.shape) for each in rows])
        if {refuses} and not any(each.any() for each in rows):
            raise ValueError("only zeros")
        return [utils.InferenceResponse([utils.Tensor("y", each.sum(axis=1, keepdims=True))]) for each in rows]
"""


class Warm:
    """Deploys models that note what they are asked."""

    def __init__(self, triton: LocalTriton, store: LocalRepository, tracking_uri: str, folder: Path) -> None:
        self.store, self.tracking_uri, self.folder = store, tracking_uri, folder
        self.url = triton.grpc_url
        self.seen_file = folder / "seen.jsonl"
        self.rows = folder / "rows.npz"
        x = np.arange(1, 16, dtype=np.float32).reshape(5, 3)
        np.savez(self.rows, x=x, label=x.sum(axis=1))

    def register(self, *, refuses: bool = False) -> int:
        """A version; one that `refuses` raises an error where all its rows are zeros."""
        text = MODEL.replace("{seen}", str(self.seen_file)).replace("{refuses}", str(refuses))
        folder = self.folder / str(len(list(self.folder.iterdir())))
        return register(self.tracking_uri, NAME, lay(folder / "ready", CONFIG, {"1/model.py": text}))

    def mapping(self, version: int, **keys: Any) -> dict[str, Any]:
        """The content of a spec."""
        return {
            "name": NAME,
            "model": f"models:/{NAME}/{version}",
            "convert": {"to": "as-is"},
            "repository": str(self.store),
            "servers": [self.url],
            "tracking_uri": self.tracking_uri,
            "validate": {"data": str(self.rows), "parity": False, "metrics": {"mae": {"max": 0.1}}},
            "promote": {"warm_up": 2},
            **keys,
        }

    def seen(self) -> list[tuple[str, Any]]:
        """What the models noted since the last look: `--` for a candidate, else the name; `loaded`, or the shapes of the requests."""
        lines = self.seen_file.read_text().splitlines() if self.seen_file.exists() else []
        self.seen_file.unlink(missing_ok=True)
        return [tuple(json.loads(line)) for line in lines]


@pytest.fixture
def warm(triton: LocalTriton, repository: LocalRepository, tracking_uri: str, tmp_path: Path) -> Warm:
    """Nothing is deployed yet."""
    return Warm(triton, repository, tracking_uri, tmp_path)


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


def _first(seen: list[tuple[str, Any]], name: str) -> list[Any]:
    """The three things that a model noted first."""
    return [what for of, what in seen if of == name][:3]


def test_the_candidate_and_the_release_are_warmed_up_alike(warm: Warm, client: TritonClient) -> None:
    """Two requests of a row of the width of the data, before anything else is asked; and again whenever the version is loaded."""
    version = warm.register()
    warmed = ["loaded", [[1, 3]], [[1, 3]]]

    run(warm.mapping(version))

    seen = warm.seen()
    assert _first(seen, "--") == warmed
    assert _first(seen, NAME) == warmed
    config = releases(warm.store, NAME)[-1].config
    (sample,) = model_config.parse(config).model_warmup
    assert (sample.batch_size, sample.count, list(sample.inputs["x"].dims), sample.inputs["x"].zero_data) == (1, 2, [3], True)
    assert satisfies(client.config(NAME, version), config)
    client.unload(NAME)
    client.wait_unloaded(NAME)
    client.load(NAME)
    assert warm.seen() == [(NAME, what) for what in warmed]
    assert run(warm.mapping(version)).action == "unchanged"


def test_a_warm_up_that_the_model_refuses_lets_nothing_serve(warm: Warm, client: TritonClient) -> None:
    """The candidate is rejected, in the model's own words, and Triton is not asked to load it so. Without a warm-up it goes through."""
    first = warm.register()
    run(warm.mapping(first))
    second = warm.register(refuses=True)

    with pytest.raises(RejectedError, match=r"(?s)only zeros.*the warm-up request 'one row'"):
        run(warm.mapping(second))

    assert client.ready_versions(NAME) == (first,)
    assert Registry(warm.tracking_uri).tags(NAME, second)[f"triton.{NAME}.verdict"] == "rejected"
    assert run(warm.mapping(second, promote={})).action == "promoted"


def test_the_teams_own_samples_are_asked_first(warm: Warm, client: TritonClient) -> None:
    """Of several rows, of random numbers: as ordinary requests to the candidate, before the release is loaded with them."""
    version = warm.register(refuses=True)
    inputs = {"x": {"data_type": "TYPE_FP32", "dims": [3], "random_data": True}}
    samples = [{"name": "full", "batch_size": 8, "inputs": inputs}]

    run(warm.mapping(version, config={"model_warmup": samples}))

    seen = warm.seen()
    assert _first(seen, "--")[:2] == ["loaded", [[8, 3]]]
    assert _first(seen, NAME)[:2] == ["loaded", [[1, 3]] * 8]  # Triton makes eight requests of it, in one batch
    samples[0]["inputs"]["x"] = {"data_type": "TYPE_FP32", "dims": [3], "zero_data": True}
    with pytest.raises(RejectedError, match=r"the warm-up request 'full'"):
        run(warm.mapping(version, config={"model_warmup": samples}))
    assert client.ready_versions(NAME) == (version,)


def test_another_warm_up_is_another_deployment(warm: Warm) -> None:
    """A plan shows it with the shapes that are known, and it is released."""
    version = warm.register()
    run(warm.mapping(version))

    assert run(warm.mapping(version), plan).action == "nothing"
    coming = run(warm.mapping(version, promote={"warm_up": 3}), plan)

    assert coming.action == "reconfigure"
    added = [line for line in coming.config_diff.splitlines() if line.startswith("+")]
    assert added[1:] == ["+  count: 3"]
    assert run(warm.mapping(version, promote={"warm_up": 3})).action == "promoted"


def test_versions_that_are_warmed_up_alike_stay_loaded_together(mapping: Make, client: TritonClient) -> None:
    """The warm-up holds no values, so that two versions of a model have the same one, and `keep_loaded` works."""
    keys = {"promote": {"warm_up": 1, "keep_loaded": 1}, "validate": {**mapping()["validate"], "parity": False}}

    run(mapping(1, **keys))
    run(mapping(3, **keys))

    assert client.ready_versions("blobs") == (1, 3)
    assert client.infer("blobs", {"input": blobs(seed=2, rows=1)[0]}, version=1)


CLOSED = 'name: "m"\nmax_batch_size: 8\ninput { name: "a" data_type: TYPE_STRING dims: 1 reshape { } }\n'


def _no_shapes() -> dict[str, list[int]]:
    raise AssertionError("the shapes are known")


def test_what_is_added_to_the_config() -> None:
    """Fixed dims need no data, optional inputs are left out, and a `model_warmup` that is there stays."""
    config = model_config.parse(CLOSED + 'input { name: "b" data_type: TYPE_INT64 dims: 1 optional: true }')

    made = warmed_up(config, 5, _no_shapes)

    assert [(sample.batch_size, sample.count, list(sample.inputs)) for sample in made.model_warmup] == [(1, 5, ["a"])]
    assert warmed_up(made, 2, _no_shapes) == made
    assert warmed_up(config, 0, _no_shapes) == config


@pytest.mark.parametrize(("shapes", "dims"), [({"a": (5, 2, 7)}, [5, 2, 7]), ({}, [-1, 2, -1])])
def test_dims_that_vary_are_those_of_the_rows(shapes: dict[str, tuple[int, ...]], dims: list[int]) -> None:
    """Where they are known."""
    varies = model_config.parse('input { name: "a" data_type: TYPE_FP32 dims: [ -1, 2, -1 ] }')

    assert list(warmed_up(varies, 1, lambda: shapes).model_warmup[0].inputs["a"].dims) == dims


@pytest.mark.parametrize("value", [0, True, [], [1], "1"])
def test_what_is_no_number_of_requests_is_refused(value: Any) -> None:
    """With the key."""
    with pytest.raises(SpecError, match=r"promote\.warm_up"):
        spec_from_mapping({"name": "m", "model": "models:/m/1", "promote": {"warm_up": value}})


def test_a_file_beside_the_versions_loads_what_serves_again(warm: Warm, client: TritonClient) -> None:
    """Why the samples are no files: Triton looks for them only in a folder that all versions share, and takes a new one for a change."""
    run(warm.mapping(warm.register(), promote={}))
    client.load(NAME)  # Python has left its own cache beside model.py, at the first load
    warm.seen()
    client.load(NAME)
    assert warm.seen() == []
    sample = warm.store.root / NAME / "warmup" / "sample.bin"
    sample.parent.mkdir()
    sample.write_bytes(bytes(12))

    client.load(NAME)

    assert warm.seen() == [(NAME, "loaded")]
