"""A whole deployment from the object store, and back, while the way to the store fails: a real Triton reads past the proxy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import emptied, everything_in
from stores import Proxy, Rule, SeaweedFS, on
from stores.proxy import cut_upload, lose_answer, respond, truncate_answer
from test_poll_on_store import ROWS, asked, probabilities
from test_rollout import roll_back, run, seen

from airflow_triton.cli import main
from airflow_triton.errors import RepositoryUnreachableError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import Repository, fsck, open_repository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.repository.object_store import Deadlines, repository
from airflow_triton.server import ServerAddress, TritonClient

Make = Callable[..., dict[str, Any]]
BUSY, BROKEN, TOO_MANY = respond(503, "SlowDown"), respond(500, "InternalError"), respond(429, "TooManyRequests")


@pytest.fixture(scope="module")
def one_proxy(seaweed: SeaweedFS) -> Iterator[Proxy]:
    """A way to the store that can be spoiled."""
    with Proxy(seaweed.endpoint) as running:
        yield running


@pytest.fixture
def store(one_proxy: Proxy, triton_on_store: LocalTriton) -> Iterator[Repository]:
    """The repository that Triton reads, by way of the proxy; empty before and after."""
    place = str(triton_on_store.repository)
    yield from emptied(triton_on_store, open_repository(f"s3://{one_proxy.endpoint}/{place.split('/', 5)[-1]}"))


@pytest.fixture
def proxy(one_proxy: Proxy, store: Repository) -> Proxy:
    """It, with nothing of before on its way."""
    one_proxy.wait_idle()
    return one_proxy


@pytest.fixture
def make(mapping: Make, triton_on_store: LocalTriton, store: Repository) -> Make:
    """Makes the content of a spec that deploys by way of the proxy; only what serves is kept, so that each version is sent anew."""
    keys = {"repository": str(store), "servers": [triton_on_store.grpc_url], "promote": {"alias": "champion", "keep": 0}}
    return lambda *args, **more: mapping(*args, **{**keys, **more})


@pytest.fixture
def client(triton_on_store: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server that reads from the store."""
    with TritonClient(ServerAddress.parse(triton_on_store.grpc_url)) as it:
        yield it


def assert_clean(store: Repository, version: int, seaweed: SeaweedFS) -> None:
    """That version alone lies there, whole; nothing waits, no upload is unfinished."""
    assert store.folders(MODELS) == ["blobs"]
    assert everything_in(store, WORK) == set()
    assert [(each.version, each.role, each.problems) for each in fsck(store) if each.role != "kept"] == [(version, "serves", ())]
    uploads = seaweed.client().list_multipart_uploads(Bucket="models").get("Uploads", [])
    assert [upload["Key"] for upload in uploads if upload["Key"].startswith(("served/", ".served."))] == []


def burst() -> list[Rule]:
    """What goes wrong, and passes, in each part of a deployment."""
    return [
        Rule(on("PUT", "/servables/"), cut_upload(50), times=1),
        Rule(on("PUT", "/servables/"), TOO_MANY, times=2),
        Rule(on("PUT", "--candidate-"), BROKEN, times=2),
        Rule(on("PUT", "/blobs/3/"), BUSY, times=2),
        Rule(on("PUT", "/locks/"), lose_answer(), times=1),
        Rule(on("PUT", "/blobs/config.pbtxt"), BUSY, times=2),
        Rule(on("PUT", "/blobs/config.pbtxt"), lose_answer(), times=1),
        Rule(on("GET", "/deployment.json"), truncate_answer(10), times=2),
        Rule(on("GET", "/blobs/config.pbtxt"), truncate_answer(10), times=2),
        Rule(on("GET", query="list-type"), truncate_answer(10), times=2),
        Rule(on("GET"), BROKEN, times=2),
        Rule(on("POST"), BUSY, times=2),
    ]


def test_a_burst_of_faults_is_outlived(
    make: Make, proxy: Proxy, store: Repository, triton_on_store: LocalTriton, seaweed: SeaweedFS
) -> None:
    """Refused, cut, truncated, lost, in each step: the deployment goes through, and the way back; clients notice the versions only."""
    keys = {"promote": {"alias": "champion", "keep": 1}}
    run(make(1, **keys))
    there, back = burst(), [Rule(on("GET", "/model.onnx"), truncate_answer(10), times=1), *burst()[5:-1]]
    with asked(triton_on_store) as answers:
        with proxy.faults(*there):
            assert run(make(3, **keys)).warnings == ()
        with proxy.faults(*back):
            assert roll_back(make()).version == 1

    assert [number for number, rule in enumerate(there) if rule.seen < (rule.times or 0)] == []
    assert [number for number, rule in enumerate(back) if rule.seen < (rule.times or 0)] == []
    assert [answer if isinstance(answer, str) else len(answer) for answer in answers] == [3, 3, 3]
    for answer, factor in zip(answers, (1, 1.1, 1), strict=True):
        np.testing.assert_allclose(answer, probabilities(factor), rtol=1e-4)
    assert_clean(store, 1, seaweed)


FACTORS = {1: 1, 3: 1.1}
LASTING = [("/servables/", cut_upload(50)), ("--candidate-", BROKEN), ("/model.onnx", BUSY)]
"""The converted model never arrives; the candidate; the version."""


def test_a_fault_that_stays_is_one_error(
    make: Make,
    client: TritonClient,
    store: Repository,
    seaweed: SeaweedFS,
    proxy: Proxy,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it strikes: what served serves, Triton sees nothing new, and the same deployment converges once the fault is gone."""
    monkeypatch.setattr(repository, "Deadlines", lambda: Deadlines(connect=2, request=2, operation=6, retries=2))
    run(make(1))
    serving = 1
    for part, fault in LASTING:
        before, coming = everything_in(store, MODELS, content=True), 4 - serving
        with proxy.faults(Rule(on("PUT", part), fault, times=None)), pytest.raises(RepositoryUnreachableError) as told:
            run(make(coming))

        assert str(store) in str(told.value)
        assert seen(client) == {"blobs": (serving,)}
        assert everything_in(store, MODELS, content=True) == before
        assert everything_in(store, WORK) == set()
        answer = client.infer("blobs", {"input": ROWS})["probabilities"]
        np.testing.assert_allclose(answer, probabilities(FACTORS[serving]), rtol=1e-4)

        assert run(make(coming)).version == coming
        serving = coming
        assert_clean(store, serving, seaweed)

    before, spec = everything_in(store, MODELS, content=True), tmp_path / "spec.json"
    spec.write_text(json.dumps(make(4 - serving)))
    with proxy.faults(Rule(on("PUT", "/blobs/config.pbtxt"), BUSY, times=None)):
        result = CliRunner().invoke(main, ["apply", str(spec)])
    assert result.exit_code == 1
    assert result.stderr.count("did not do it (write s3://models/served/blobs/config.pbtxt)") == 1
    assert "Traceback" not in result.output
    assert seen(client) == {"blobs": (serving,)}
    assert everything_in(store, MODELS, content=True) == before
    assert CliRunner().invoke(main, ["apply", str(spec)]).exit_code == 0
    assert_clean(store, 4 - serving, seaweed)
