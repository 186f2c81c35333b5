"""Promotions, rejections and rollbacks under steady load: no failed request, no wrong answer, nothing left over."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from soak import report
from soak.campaign import Soak

from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository

SOAK = os.environ.get("AIRFLOW_TRITON_SOAK") == "1"
ROUNDS = int(os.environ.get("AIRFLOW_TRITON_SOAK_ROUNDS", "1000"))
SETTLED = 50
"""Rounds after which a process has what it needs: what it holds then is compared with what it holds at the end."""
SAMPLE = 20
SEED = 5


@pytest.fixture
def soak(tmp_path: Path, tracking_uri: str) -> Iterator[Soak]:
    """The model serves, on a server of its own, and is not asked yet."""
    with LocalTriton(tmp_path / "models", extra_args=["--disable-auto-complete-config"]) as triton:
        yield Soak(triton, LocalRepository(tmp_path / "models"), tracking_uri, tmp_path, seed=SEED)


def _judge(soak: Soak) -> None:
    assert soak.problems == []
    for client in soak.saw:
        assert (client.failed, client.wrong, client.words) == (0, 0, [])
        assert client.asked > 0
        assert len(client.versions) > 1


@pytest.mark.skipif(SOAK, reason="the soak does it a thousand times")
def test_a_model_that_is_asked_all_the_time_is_promoted_rejected_and_rolled_back(soak: Soak) -> None:
    """Two clients over HTTP and two over gRPC never get an error, nor an answer that is not that of the version which it names."""
    with soak:
        soak.run(1, SAMPLE)
    _judge(soak)
    assert all(kind.seconds for kind in soak.kinds.values())


@pytest.mark.skipif(not SOAK, reason="takes half an hour: make soak")
@pytest.mark.timeout(7200)
def test_soak_promotions(soak: Soak, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand rounds; what the processes hold does not grow. Writes docs/promotion-soak.md."""
    held, started = [soak.held()], time.monotonic()
    with soak:
        for first in range(1, ROUNDS + 1, SETTLED):
            last = min(first + SETTLED - 1, ROUNDS)
            soak.run(first, last)
            assert soak.triton.running, "the server has ended"
            if last == SETTLED:
                held.append(soak.held())
            with capsys.disabled():
                sys.stdout.write(f"{last} of {ROUNDS} rounds, {len(soak.problems)} problems, {time.monotonic() - started:.0f} s\n")
                sys.stdout.flush()
        held.append(soak.held())
    grown = report.growth(held[-2], held[-1])
    report.write(soak, held, grown, rounds=ROUNDS, settled=SETTLED, minutes=(time.monotonic() - started) / 60)
    _judge(soak)
    assert grown == []
