"""docs/promotion-soak.md: what the last soak came to."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import psutil
from soak.campaign import BAD, GOOD, KEEP, PATIENCE, Soak
from soak.clients import PROTOCOLS, RATE
from soak.resources import Held

PAGE = Path(__file__).parents[2] / "docs" / "promotion-soak.md"
MOST = {
    "memory": (1.3, 50.0),
    "server_memory": (1.3, 50.0),
    **dict.fromkeys(("threads", "files", "server_threads", "server_files"), (1.0, 5.0)),
    "config_bytes": (1.3, 0.0),
}
"""How far a number may grow between the two last looks: by a factor, and by so much on top. All others may not grow at all."""

TEXT = """# Promoted, rejected and rolled back a thousand times

`make soak` changes what one model serves {rounds:,} times on a real Triton, in a seeded random order, while {clients} clients ask
it all the time, {rate} times a second each: {http} over HTTP and {grpc} over gRPC, each a process of its own with Triton's own client
library. They name no version. Each response names the version that answered, and is held against the answer of that very version; the
versions that are rejected have no right answer, so that one from them counts as wrong. `make test` runs a sample.

- **promotion**: another version, with a configuration of its own;
- **the same version, configured otherwise**: Triton loads it again;
- **rejection**: a version that answers with {bad};
- **rollback**: to the release before, or `--to` one of the versions that are kept.

After every round, seen from outside: the server has one model, with one version ready, and that is the one it should be, with the
configuration that it should have; no candidate is in the repository, and after {patience:g} seconds at the latest none is known to the
server; nothing lies in the work area; at most {stored} versions are stored; MLflow's alias stands at what serves, and its verdict says
which version was rejected.

{run}

| rounds | number | median seconds |
| --- | ---: | ---: |
{kinds}

| client | requests | failed | wrong | median ms | p99 ms | longest ms | answered by versions |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
{saw}

| held | at the start | after {settled} rounds | at the end |
| --- | ---: | ---: | ---: |
{held}

{problems}

## What this does not show

- **Several replicas.** One server; fleets are in `tests/test_fleet.py` and `tests/test_server_failures.py`.
- **A server that fails.** That is `tests/test_server_failures.py`; a publisher that is killed is [the other soak](soak.md).
- **Large models.** A version here is a Python model of a few lines that loads in a fraction of a second.
- **MLflow's own growth.** Each deployment leaves its report and its tags with the model version, as it should.
- **A machine of its own.** Clients, server and deployments share {cores} cores, so the milliseconds are those of a busy machine.
"""

WORDS = {
    "memory": "memory of the deploying process (MiB)",
    "threads": "its threads",
    "files": "its open files",
    "server_memory": "memory of tritonserver (MiB)",
    "server_threads": "its threads",
    "server_files": "its open files",
    "server_processes": "its backends' processes",
    "shared_memory_files": "its files of shared memory",
    "models": "models in its index",
    "repository_files": "files in the repository",
    "work_area_files": "files in the work area",
    "config_bytes": "bytes of config.pbtxt with its journal",
}


def growth(before: Held, after: Held) -> list[str]:
    """What has grown further than it may."""
    grown = []
    for name, words in WORDS.items():
        one, two = getattr(before, name), getattr(after, name)
        factor, more = MOST.get(name, (1.0, 0.0))
        if two > one * factor + more:
            grown.append(f"{words} ({name}): {one:g} and then {two:g}")
    return grown


def write(soak: Soak, held: Sequence[Held], grown: Sequence[str], *, rounds: int, settled: int, minutes: float) -> None:
    """Write the page."""
    problems = [*soak.problems, *(words for saw in soak.saw for words in saw.words), *(f"grown: {each}" for each in grown)]
    PAGE.write_text(
        TEXT.format(
            rounds=rounds,
            clients=len(PROTOCOLS),
            http=PROTOCOLS.count("http"),
            grpc=PROTOCOLS.count("grpc"),
            rate=RATE,
            bad=", ".join(list(BAD)[:-1]) + f" or {list(BAD)[-1]}",
            patience=PATIENCE,
            stored=1 + KEEP,
            run=_run(minutes),
            kinds="\n".join(f"| {kind.name} | {len(kind.seconds)} | {kind.median:.2f} |" for kind in soak.kinds.values()),
            saw="\n".join(_saw(soak)),
            settled=settled,
            held="\n".join(_row(name, held) for name in WORDS),
            problems="\n".join(f"- {problem}" for problem in problems) or "No problem was found.",
            cores=psutil.cpu_count(),
        )
    )


def _run(minutes: float) -> str:
    today = datetime.now(timezone.utc).date().isoformat()
    what = f"airflow-provider-triton {version('airflow-provider-triton')}, Python {platform.python_version()}, {platform.system()}"
    return f"{today}, `make soak`: {what}, a local disk, {GOOD} good versions and {len(BAD)} bad ones, {minutes:.0f} minutes."


def _saw(soak: Soak) -> list[str]:
    rows = []
    for client in soak.saw:
        times = " | ".join(f"{client.milliseconds[name]:.1f}" for name in ("p50", "p99", "longest"))
        versions = ", ".join(f"{number}: {count:,}" for number, count in sorted(client.versions.items()))
        rows.append(f"| {client.protocol} | {client.asked:,} | {client.failed} | {client.wrong} | {times} | {versions} |")
    return rows


def _row(name: str, held: Sequence[Held]) -> str:
    values = [dataclasses.asdict(each)[name] for each in held]
    return f"| {WORDS[name]} | {' | '.join(f'{value:,.0f}' for value in values)} |"
