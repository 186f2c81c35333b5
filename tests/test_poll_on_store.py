"""A server in POLL mode over an object store, where a folder grows object by object: what it sees of a release that is on its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from conftest import CENTRES, blobs, everything_in
from stores import Proxy, Rule, SeaweedFS, on
from stores.proxy import Exchange
from test_control_modes import client_of, made, watched
from test_rollout import roll_back, run

from airflow_triton.errors import ServerError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import open_repository
from airflow_triton.repository.base import MODELS, WORK

Make = Callable[..., dict[str, Any]]
ROWS = blobs(seed=7, rows=3)[0]
CPU = {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]}
SLOW_SECONDS = 1.5
"""By how much an object comes later: more than a server that polls each second waits, and takes to look."""


def probabilities(factor: float) -> np.ndarray:
    """What a version of `blobs` has to answer to ROWS: 1 for version 1, 1.1 for version 3."""
    centres = CENTRES * np.float32(factor)
    scores = np.exp(ROWS @ centres.T - (centres**2).sum(axis=1) / 2)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


@contextmanager
def asked(server: LocalTriton) -> Iterator[list[np.ndarray | str]]:
    """What `blobs` answered to ROWS meanwhile, errors as texts; an answer that was the same as the one before is left out."""
    stop = threading.Event()
    found: list[np.ndarray | str] = []

    def ask() -> None:
        with client_of(server) as client:
            while not stop.wait(0.002):
                try:
                    answer: np.ndarray | str = client.infer("blobs", {"input": ROWS})["probabilities"]
                except ServerError as error:
                    answer = str(error)
                if not found or not np.array_equal(found[-1], answer):
                    found.append(answer)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


class Late:
    """Lets chosen objects come late, and notes what the server has loaded at the end of each wait."""

    def __init__(self, server: LocalTriton) -> None:
        self.server = server
        self.seen: list[tuple[str, dict[str, int | None]]] = []

    def __call__(self, exchange: Exchange) -> bool:
        """A fault for the proxy."""
        time.sleep(SLOW_SECONDS)
        with client_of(self.server) as client:
            loaded = {row.name: row.version for row in client.index() if row.state not in ("", "UNAVAILABLE")}
        self.seen.append((exchange.request.path.removeprefix("/models/polled/"), loaded))
        exchange.forward()
        return exchange.relay()

    __name__ = "late"


def test_poll_on_a_store_sees_no_half_model(seaweed: SeaweedFS, tracking_uri: str, holdout: Any, tmp_path: Path) -> None:
    """A first version, another one, another configuration, back and back: whatever comes late, only what is whole is loaded.

    Clients get right answers of the old or of the new one, and no error; the index shows no failed load; nothing but `blobs` and its
    candidates ever shows, no candidate before its last object, and no version before config.pbtxt.
    """
    open_repository(seaweed.url("models", "polled")).make()
    arguments = ["--disable-auto-complete-config"]
    with (
        LocalTriton(seaweed.url("models", "polled"), mode="poll", extra_args=arguments, log_file=tmp_path / "log") as server,
        Proxy(seaweed.endpoint) as proxy,
        client_of(server) as client,
    ):
        place = f"s3://{proxy.endpoint}/models/polled"
        late = Late(server)
        make = made(server, "poll", tracking_uri, holdout)
        with watched(server) as shown:
            with proxy.faults(Rule(on("PUT", "/polled/blobs/config.pbtxt"), late)):
                assert run(make(1, repository=place)).warnings == ()
            with asked(server) as answers:
                rules = [on("PUT", "-3-"), on("PUT", "/polled/blobs/3/"), on("PUT", "/polled/blobs/config.pbtxt")]
                with proxy.faults(*(Rule(rule, late, times=None) for rule in rules)):
                    assert run(make(3, repository=place)).warnings == ()
                run(make(3, repository=place, config=CPU | {"max_batch_size": 16}))
                assert client.config("blobs", 3)["max_batch_size"] == 16
                assert roll_back(make(repository=place)).version == 3
                assert client.config("blobs", 3)["max_batch_size"] == 64
                assert roll_back(make(repository=place), to=1).version == 1

        store = open_repository(place)
        assert store.folders(MODELS) == ["blobs"]
        assert everything_in(store, WORK) == set()
    kinds = [("candidate" if "candidate" in path else path, loaded) for path, loaded in late.seen]
    old = {"blobs": 1}
    assert kinds[0] == ("blobs/config.pbtxt", {next(iter(kinds[0][1])): 1})
    assert "blobs" not in kinds[0][1]
    assert kinds[1:4] == [("candidate", old)] * 3
    candidate = next(name for name in kinds[-1][1] if name != "blobs")
    both = old | {candidate: 3}
    assert kinds[4:] == [("blobs/3/deployment.json", both), ("blobs/3/model.onnx", both), ("blobs/config.pbtxt", both)]
    assert [answer if isinstance(answer, str) else len(answer) for answer in answers] == [3, 3, 3]
    for answer, factor in zip(answers, (1, 1.1, 1), strict=True):
        np.testing.assert_allclose(answer, probabilities(factor), rtol=1e-4)
    assert {name.partition("--candidate-")[0] for name, _, _ in shown} == {"blobs"}
    assert {reason for _, _, reason in shown} <= {"", "unloaded"}
    assert {name.count("--") for name, _, _ in shown} == {0, 1}
