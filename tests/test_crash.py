"""Killed anywhere, what served serves on, and the same deployment once more leaves nothing over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crash import report
from crash.campaign import Campaign, Phase, Row, Worker, sample

from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository

SOAK = os.environ.get("AIRFLOW_TRITON_SOAK") == "1"
SEED = 20


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The process whose children are killed."""
    with Worker(tmp_path_factory.mktemp("killed")) as it:
        yield it


@pytest.fixture
def crashes(triton: LocalTriton, mapping: Callable[..., dict[str, Any]], worker: Worker, tmp_path: Path) -> Iterator[Campaign]:
    """A crash campaign over the server of the tests."""
    with Campaign(triton, mapping, worker, tmp_path) as it:
        yield it


@pytest.mark.skipif(SOAK, reason="the soak kills at all points")
@pytest.mark.parametrize(
    ("scenario", "phases", "every"),
    [
        (Campaign.new_version, ("stage", "promote", "clean up"), 20),
        (Campaign.config_change, ("promote",), 99),
        (Campaign.roll_back, ("rollback",), 99),
    ],
)
def test_killed_anywhere_it_serves_and_converges(
    crashes: Campaign, scenario: Callable[[Campaign], list[Phase]], phases: tuple[str, ...], every: int
) -> None:
    """A sample of the kill points: before and after a folder or config.pbtxt takes its place, and every so many of the others."""
    problems = []
    for phase in scenario(crashes):
        if phase.name in phases:
            row = Row(str(phase), crashes.record(phase))
            for number in sample(row.points, every=every, seed=SEED):
                crashes.kill(phase, number, row, restart=False)
            problems += row.problems
    assert problems == []


@pytest.mark.skipif(not SOAK, reason="takes half an hour: make soak")
@pytest.mark.timeout(3600)
def test_soak(crashes: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kill point of every phase, with a server that runs on and with one that restarts; writes docs/soak.md."""
    rows = []
    for scenario in (crashes.new_version, crashes.first_deployment, crashes.config_change, crashes.roll_back):
        for phase in scenario():
            points = crashes.record(phase)
            rows.append(row := Row(str(phase), points))
            for restart in (False, True):
                for number in range(1, len(points) + 1):
                    crashes.kill(phase, number, row, restart=restart)
                    if number % 10 == 0 or number == len(points):
                        with capsys.disabled():
                            sys.stdout.write(f"{phase}, server {'restarted' if restart else 'ran on'}: {number} of {len(points)} killed, ")
                            sys.stdout.write(f"{len(row.problems)} problems, {row.seconds:.0f} s\n")
                            sys.stdout.flush()
    report.write(rows)
    assert [problem for row in rows for problem in row.problems] == []
    assert {row.phase: row.sites_missed for row in rows if row.sites_missed} == {}


HOLDER = """
from airflow_triton.repository import LocalRepository
store = LocalRepository(sys.argv[1])
with store.new_staging() as folder:
    (folder / "file").write_text("mine")
    print(folder, flush=True)
    sys.stdin.read()
"""


def _process(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "import sys\n" + textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_only_the_dead_lose_their_staging(tmp_path: Path) -> None:
    """A staging folder stays as long as the process lives that made it, and goes with the next one that is made afterwards."""
    store = LocalRepository(tmp_path / "models")
    with _process(HOLDER, str(store.root)) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        with store.new_staging() as mine, store.new_staging() as other:
            assert (held / "file").read_text() == "mine"
            assert mine.is_dir()
            assert other.is_dir()

        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert held.is_dir()
        store.remove(store.model_place("nothing"))

    assert list((store.work / "staging").iterdir()) == []


HAMMER = """
from airflow_triton.repository import LocalRepository
store = LocalRepository(sys.argv[1])
for number in range(200):
    with store.new_staging() as folder:
        (folder / "file").write_text(str(number))
        (folder / "folder").mkdir()
        assert (folder / "file").read_text() == str(number)
        (folder / "folder").rmdir()
        (folder / "file").unlink()
"""


def test_many_stage_at_once(tmp_path: Path) -> None:
    """Four processes that make and remove staging folders without pause never take one from another, and leave none."""
    store = LocalRepository(tmp_path / "models")
    store.prepare()
    hammers = [_process(HAMMER, str(store.root)) for _ in range(4)]

    assert [hammer.wait() for hammer in hammers] == [0, 0, 0, 0]
    assert list((store.work / "staging").iterdir()) == []
