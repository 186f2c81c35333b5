"""Another look at what serves: held against its spec again, without a candidate, a promotion, or a change of what serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_triton.errors import RepositoryError, ServerError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, releases
from airflow_triton.rollout import deploy, find_target, opened, revalidate
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping
from airflow_triton.validation import ValidationReport

Make = Callable[..., dict[str, Any]]


def again(mapping: dict[str, Any]) -> ValidationReport:
    spec = spec_from_mapping(mapping)
    with opened(spec, find_target(spec)) as rollout:
        return revalidate(rollout)


def deployed(mapping: dict[str, Any]) -> None:
    spec = spec_from_mapping(mapping)
    with opened(spec, find_target(spec)) as rollout:
        deploy(rollout)


def test_what_serves_is_judged_by_todays_spec(mapping: Make, repository: LocalRepository, tracking_uri: str, holdout: Any) -> None:
    """It passes as it did; by a limit that it does not meet any more it fails, and still serves. The promotion's own verdict stays."""
    deployed(mapping(1))
    before = repository.read_config("blobs")
    registry = Registry(tracking_uri)

    report = again(mapping(3))  # whatever the spec's model means now: it is what serves that is looked at

    assert (report.passed, report.model, report.candidate, report.champion) == (True, "models:/blobs/1", "blobs", None)
    assert {check.name for check in report.checks} == {"parity", "accuracy"}
    tags = registry.tags("blobs", 1)
    assert (tags["triton.blobs.revalidation"], tags["triton.blobs.verdict"]) == ("passed", "passed")
    assert report.links["report"].endswith("triton/blobs/1/revalidation/report.html")
    assert not tags["triton.blobs.report"].endswith("revalidation/report.html")

    strict = {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}, "f1": {"max": 0.1}}}
    report = again(mapping(1, validate=strict))

    assert not report.passed
    tags = registry.tags("blobs", 1)
    assert (tags["triton.blobs.revalidation"], tags["triton.blobs.verdict"]) == ("failed", "passed")
    assert tags["triton.blobs.revalidation_why"].startswith("rejected: f1")
    assert repository.read_config("blobs") == before
    assert (repository.candidates("blobs"), len(releases(repository, "blobs"))) == ([], 1)


def test_nothing_to_look_at_is_no_pass(mapping: Make, repository: LocalRepository, triton: LocalTriton) -> None:
    """Where nothing is released, or a server does not serve what is, that is an error."""
    with pytest.raises(RepositoryError, match="`blobs` has no releases"):
        again(mapping(1))
    deployed(mapping(1))
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        client.unload("blobs")
        client.wait_unloaded("blobs")
    with pytest.raises(ServerError, match=r"does not serve version 1 of `blobs`, which is released"):
        again(mapping(1))
