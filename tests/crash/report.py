"""docs/soak.md: what the last soak came to."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from crash.campaign import Row

PAGE = Path(__file__).parents[2] / "docs" / "soak.md"

TEXT = """# Killed at every step

`make soak` kills a deployment (SIGKILL) at every call that may change the model repository, one call at a time, twice: once while the
Triton server runs on, once before it comes up again. After every kill it checks, on a real Triton:

- what served before or the new version serves, on the server that ran on and on one that starts from the disk alone; five rows are
  answered as that very version answers them, and nothing else serves;
- `config.pbtxt` is whole, its journal agrees with it, and every file of the version that it names has the digest of its manifest;
- the same deployment, run again, ends as if nothing had happened: the new version serves, the alias in MLflow stands at it, and no
  file, folder or loaded model is left over that was not there without the kill.

A kill point is the instant before a call: opening a file for writing, making, renaming, linking or removing a file or a folder,
writing, fsync, locking and unlocking; and before each call to the server. They are counted as Python itself reports them
(`sys.addaudithook`, `sys.setprofile`): nothing of the package is replaced. Every call site is hit. `make test` runs a sample.

## The last run

{date}, `make soak`: airflow-provider-triton {package}, Python {python}, {system}, a local disk, {minutes:.0f} minutes.

{table}

{verdict}

"Served old" and "served new" are what a server served that started after the kill ("old" is nothing at all where nothing was
deployed before). During a clean-up the new version serves already.

- **new version**: version 1 serves, version 3 is deployed, `keep: 0`, so that the clean-up removes version 1;
- **first deployment**: nothing was ever there;
- **config change**: version 1 serves and stays, its `max_batch_size` changes;
- **rollback**: `--to 1`, from version 3.

## What this does not show

- **Power loss.** SIGKILL ends a process, not the kernel: what was written stays in its cache. The package calls fsync before it
  renames, but whether the disk obeys is not tested here.
- **Network file systems.** The run was on a local disk. Atomic rename and `flock` on NFS, SMB or FUSE depend on server and mount
  options.
- **A kill within one system call**, such as a write that stops half-way, and writes of gigabytes: the models here are small.
- **A conversion that is killed**: only what comes after it is killed here.
- **Several deployments at once.** Races are tested elsewhere (`tests/test_repository.py`, `tests/test_rollout.py`), not here.
- **A server that refuses the release** while the publisher is killed.
- **A kill between two calls to MLflow.** The process that is killed has no MLflow (a deployment goes on without it); the run after it
  has one, and must set the alias right.
- **A rollback that names no version.** Run again it finishes what was cut off as long as a server lacks the version
  (`tests/test_rollout.py`);
  cut off later, it goes to the release before that one. Here `--to` is given.
- **An attempt that was killed and is never run again**: its candidate and its converted files stay until that deployment runs again.
"""

HEAD = ("phase", "kill points", "call sites", "kills", "served old", "served new", "wrong answers", "left over", "failed", "seconds")


def write(rows: Sequence[Row]) -> None:
    """Write the page from the rows, one for each phase."""
    cells = [_cells(row) for row in rows]
    total = ["**all**", *(str(sum(int(row[column]) for row in cells)) for column in range(1, len(HEAD)))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *cells, total))
    problems = [problem for row in rows for problem in row.problems]
    PAGE.write_text(
        TEXT.format(
            date=datetime.now(timezone.utc).date().isoformat(),
            package=version("airflow-provider-triton"),
            python=platform.python_version(),
            system=platform.system(),
            minutes=sum(row.seconds for row in rows) / 60,
            table=table,
            verdict="\n".join(f"- {problem}" for problem in problems) or "No problem was found.",
        )
    )


def _cells(row: Row) -> list[str]:
    failed = len(row.problems) - row.wrong - row.left_over
    numbers = (len(row.points), len(row.sites), len(row.killed), row.old, row.new, row.wrong, row.left_over, failed, round(row.seconds))
    return [row.phase, *map(str, numbers)]
