"""How quickly a model on the real server answers: what is measured, against limits and against the version that serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airflow_triton.errors import ServerUnreachableError, ValidationDataError
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.server import Inference, ServerAddress, TritonClient
from airflow_triton.spec import Latency
from airflow_triton.validation import Bench, CheckResult, Dataset, ValidationReport
from airflow_triton.validation.checks.latency import LatencyCheck, _requests
from airflow_triton.validation.checks.turns import Clocked, in_turns

NO_SERVABLE: Any = None  # latency looks at the limit of the config alone
MODEL = """
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = request.inputs()[0].as_numpy()
            {line}
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x)]))
        return answers
"""
SLOW = 0.05
FAILS = """if x[0, 0] >= 20:  # not raised: Triton 2.51 could then not unload the model in 3 of 250 trials
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("not today")))
                continue"""
LINES = {"quick": "pass", "slow": f"time.sleep({SLOW})", "fails": FAILS}
CONFIG = """
backend: "python"
max_batch_size: {most}
instance_group {{ count: 1 kind: KIND_CPU }}
input {{ name: "x" data_type: TYPE_FP32 dims: [2] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [2] }}
"""


@pytest.fixture(scope="module")
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the real server with models that answer what they get: `quick`, `slow` (50 ms a request), `fails` (some rows), `one`."""
    for name in (*LINES, "one"):
        folder = Path(triton.repository) / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(MODEL.format(line=LINES.get(name, "pass")))
        (folder.parent / "config.pbtxt").write_text(CONFIG.format(most=0 if name == "one" else 4 if name == "quick" else 8))
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        for name in (*LINES, "one"):
            client.load(name)
        yield client
        for name in (*LINES, "one"):
            client.unload(name)
            client.wait_unloaded(name)


ROWS = {"x": np.arange(20, dtype=np.float32).reshape(10, 2)}


def _bench(client: TritonClient, candidate: str, champion: str | None = None, **changes: Any) -> Bench:
    bench = Bench(client=client, candidate=(candidate, 1), champion=(champion, 1) if champion else None, inputs=ROWS, most_rows=4)
    return dataclasses.replace(bench, **changes)


def _measured(bench: Bench, **rules: Any) -> CheckResult:
    (result,) = LatencyCheck(Latency(**{"requests": 12, "warm_up": 2, **rules})).results(bench)
    assert CheckResult.model_validate_json(result.model_dump_json()) == result
    return result


def test_what_was_measured_is_told(client: TritonClient) -> None:
    """Percentiles, throughput, how many requests of how many rows; a histogram whose counts are the requests, with the limits as marks."""
    result = _measured(_bench(client, "slow"), p50_ms=60_000, p99_ms=60_000, throughput=0.001, concurrency=2, requests=13)

    assert result.passed, result.summary
    figures = result.figures
    assert (figures["requests"], figures["rows"]) == (13, 4)
    assert SLOW * 1000 <= figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    assert figures["throughput"] <= 4 / SLOW  # one request after the other
    assert result.limits == {"p50_ms": 60_000, "p99_ms": 60_000, "throughput": 0.001}
    assert result.summary.startswith("latency: p50 ")
    assert result.summary.endswith(" rows/s (13 requests of 4 rows, 2 at a time)")
    (histogram,) = result.plots
    assert {name: sum(counts) for name, counts in histogram.counts.items()} == {"candidate": 13}
    assert histogram.marks == {"p50_ms": 60_000, "p99_ms": 60_000}
    assert len(histogram.edges) == len(histogram.counts["candidate"]) + 1


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"p50_ms": SLOW}, "p50 "),
        ({"p95_ms": SLOW}, "p95 "),
        ({"p99_ms": SLOW}, "p99 "),
        ({"throughput": 1e9}, " rows/s are below 1e+09"),
        ({"p50_ms": SLOW, "p99_ms": SLOW}, "; p99 "),
    ],
    ids=["p50", "p95", "p99", "throughput", "two"],
)
def test_a_limit_that_does_not_hold_rejects(client: TritonClient, limits: dict[str, float], told: str) -> None:
    """Every limit is held, and each that does not hold is told with its figure."""
    result = _measured(_bench(client, "slow"), **limits)

    assert (result.passed, result.rejects) == (False, True)
    assert told in result.summary
    assert "(12 requests of 4 rows" in result.summary


def test_a_warning_does_not_reject(client: TritonClient) -> None:
    """It is told."""
    result = _measured(_bench(client, "slow"), p50_ms=SLOW, severity="warning")

    assert (result.passed, result.rejects) == (False, False)


# --- the version that serves


def test_the_candidate_is_held_against_the_version_that_serves(client: TritonClient) -> None:
    """The ratio of the medians of both, which were asked as often; both are in the figures and in the histogram."""
    slower = _measured(_bench(client, "slow", "quick"), max_slowdown=1.5)

    assert not slower.passed
    assert slower.figures["slowdown"] == pytest.approx(slower.figures["p50_ms"] / slower.figures["champion.p50_ms"])
    assert "ms of the version that serves, more than 1.5 (12 requests" in slower.summary
    (histogram,) = slower.plots
    assert {name: sum(counts) for name, counts in histogram.counts.items()} == {"candidate": 12, "the version that serves": 12}
    quicker = _measured(_bench(client, "quick", "slow"), max_slowdown=1.5)
    assert quicker.passed, quicker.summary
    assert "of the version that serves (12 requests" in quicker.summary


def test_without_max_slowdown_the_version_that_serves_is_left_alone(client: TritonClient) -> None:
    """It costs it nothing: a model that is not there is not missed."""
    assert _measured(_bench(client, "quick", "no such model"), p99_ms=60_000).passed


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"champion": "no such model"}, "no such model"),
        ({"champion": "quick", "most_rows": 8}, "batch-size must be <= 4"),
        ({"unfit": "version 1, which serves, takes other inputs"}, "takes other inputs"),
        ({"champion": "quick", "unfit": "it is elsewhere"}, "it is elsewhere"),
    ],
    ids=["not there", "smaller batches", "unfit", "unfit and known"],
)
def test_a_version_that_cannot_be_measured_is_no_pass(client: TritonClient, changes: dict[str, Any], told: str) -> None:
    """Whatever the candidate's own figures are."""
    result = _measured(_bench(client, "slow", **changes), max_slowdown=1000, p99_ms=60_000)

    assert not result.passed
    assert "latency: it cannot be held against the version that serves: " in result.summary
    assert told in result.summary
    assert result.figures["requests"] == 12


def test_where_nothing_serves_yet_a_slowdown_alone_opens_no_gate(client: TritonClient) -> None:
    """It says so, and passes as a warning does; with a limit of its own it is a check as any other."""
    alone = _measured(_bench(client, "quick"), max_slowdown=1.5)
    assert (alone.passed, alone.severity) == (True, "warning")
    assert "nothing serves yet: `max_slowdown` has nothing to hold it against" in alone.summary
    assert not ValidationReport(candidate="m", data="rows", rows=1, checks=(alone,)).passed

    beside = _measured(_bench(client, "quick"), max_slowdown=1.5, p99_ms=60_000)
    assert (beside.passed, beside.severity) == (True, "critical")


def test_two_models_are_measured_in_turns() -> None:
    """Ten turns each, every other one the other way round; no request is lost on the way, and few requests make few turns."""

    class ClientThatOnlyTakesNotes:
        def __init__(self) -> None:
            self.asked: list[tuple[str, int]] = []

        def time_many(self, questions: Iterator[Inference], **_: Any) -> Iterator[tuple[Inference, float]]:
            found = list(questions)
            self.asked.append((found[0].model, len(found)) if found else ("nothing", 0))
            return ((question, 0.001) for question in found)

    notes: Any = ClientThatOnlyTakesNotes()
    models = [Clocked(notes, (name, 1), [{}], in_flight=4) for name in ("a", "b")]
    in_turns(models, 203, in_flight=4, warm_up=7)
    assert notes.asked[:2] == [("a", 7), ("b", 7)]
    assert [name for name, _ in notes.asked[2:]] == ["a", "b", "b", "a"] * 5
    assert [len(model.seconds) for model in models] == [203, 203]
    assert max(count for _, count in notes.asked[2:]) - min(count for _, count in notes.asked[2:]) <= 1

    notes.asked.clear()
    in_turns(models, 9, in_flight=4, warm_up=1)
    assert [count for _, count in notes.asked[2:]] == [4, 4, 5, 5]


# --- never a pass, and no verdict on what is not the candidate's


def test_a_request_that_fails_is_no_pass(client: TritonClient) -> None:
    """The reason is the server's, and how many were measured before it is told."""
    fails = dataclasses.replace(_bench(client, "fails"), inputs={"x": np.arange(80, dtype=np.float32).reshape(40, 2)})

    result = _measured(fails, p99_ms=60_000, warm_up=0, concurrency=1)

    assert not result.passed
    assert result.summary.startswith("latency: a request failed after 3 were measured: ")
    assert "not today" in result.summary
    assert result.figures == {}


def test_a_request_that_fails_while_warming_up_is_no_pass(client: TritonClient) -> None:
    """Nothing is measured then."""
    result = _measured(_bench(client, "no such model"), p99_ms=60_000)

    assert not result.passed
    assert "a request failed after 0 were measured" in result.summary


def test_a_server_that_died_says_nothing_about_the_candidate(client: TritonClient) -> None:
    """That is an error, and no result."""
    with TritonClient(ServerAddress.parse(f"grpc://127.0.0.1:{free_port()}")) as nobody, pytest.raises(ServerUnreachableError):
        _measured(_bench(nobody, "quick"), p99_ms=60_000)


# --- requests


@pytest.mark.parametrize(("size", "most", "told"), [(9, 8, "is 9, above the model's max_batch_size 8"), (1, 0, "does not batch")])
def test_a_batch_that_the_model_does_not_take_is_refused(size: int, most: int, told: str) -> None:
    """Before anything is staged."""
    with pytest.raises(ValidationDataError, match=rf"validate\.latency\.batch_size.*{told}"):
        LatencyCheck(Latency(p99_ms=1, batch_size=size), most).fit(Dataset("rows", 3, ()), NO_SERVABLE)


@pytest.mark.parametrize(("size", "most"), [(8, 8), (None, 0), (None, 8), (9, None)])
def test_a_batch_that_the_model_takes_is_not_refused(size: int | None, most: int | None) -> None:
    """Up to the limit, and without a size whatever the limit is."""
    LatencyCheck(Latency(p99_ms=1, batch_size=size), most).fit(Dataset("rows", 3, ()), NO_SERVABLE)


def test_requests_are_of_the_size_that_is_asked_for(client: TritonClient) -> None:
    """Rows go round where there are too few; the size is the spec's, else the most; a model without batches is asked with all rows."""
    ten = {"x": np.arange(10)}
    assert [request["x"].tolist() for request in _requests(ten, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert [request["x"].tolist() for request in _requests({"x": np.arange(3)}, 7)] == [[0, 1, 2, 0, 1, 2, 0]]
    assert _requests(ten, 0)[0]["x"].tolist() == ten["x"].tolist()

    assert _measured(_bench(client, "quick"), p99_ms=60_000, batch_size=2).figures["rows"] == 2
    one = _bench(client, "one", inputs={"x": np.zeros(2, np.float32)}, most_rows=0)
    assert _measured(one, p99_ms=60_000).figures["rows"] == 1


@pytest.mark.parametrize("count", [1, 2, 7, 99, 100, 101, 200])
def test_a_percentile_is_a_measured_time(count: int) -> None:
    """The smallest that so many percent do not exceed, as numpy's `inverted_cdf`."""
    nobody: Any = None
    clocked = Clocked(nobody, ("m", 1), [{}], in_flight=1)
    clocked.seconds = np.random.default_rng(count).random(count).tolist()

    for percent in (50, 95, 99):
        assert clocked.percentile_ms(percent) == np.percentile(clocked.seconds, percent, method="inverted_cdf") * 1000


def test_times_are_of_the_request_alone(triton: LocalTriton, client: TritonClient) -> None:
    """Over gRPC and HTTP: at least what the model takes; a reader that is slow adds nothing; every question comes back once."""
    questions = [Inference("slow", 1, {"x": np.full((1, 2), number, np.float32)}) for number in range(4)]
    with TritonClient(ServerAddress.parse(triton.http_url)) as over_http:
        for each in (client, over_http):
            taken = list(each.time_many(questions, in_flight=1))
            assert sorted(question.inputs["x"][0, 0] for question, _ in taken) == [0, 1, 2, 3]
            assert all(seconds >= SLOW for _, seconds in taken)
