"""docs/soak.md: what the last soak came to."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from crash.records import Row

PAGE = Path(__file__).parents[2] / "docs" / "soak.md"

TEXT = """# Killed at every step

`make soak` kills a deployment (SIGKILL) at every call that may change the model repository, one call at a time: on a local disk, and
on an object store. On disk each kill is made twice, once while the Triton server runs on and once before it comes up again; on the
store these two take turns. After every kill it checks, on a real Triton:

- what served before or the new version serves, on the server that ran on and on one that starts from the repository alone; five rows
  are answered as that very version answers them, and nothing else serves;
- `config.pbtxt` is whole, its journal agrees with it, and every file of the version that it names has the digest of its manifest;
- the same deployment, run again, ends as if nothing had happened: it does not wait for the dead, the new version serves, the alias in
  MLflow stands at it, and no file, folder, object, unfinished upload, lock or loaded model is left over that was not there without the
  kill.

Every call site is hit. `make test` runs a sample.

- **new version**: version 1 serves, version 3 is deployed, `keep: 0`, so that the clean-up removes version 1;
- **first deployment**: nothing was ever there; on a store, what it does with conditional writes is not known yet, and asked;
- **config change**: version 1 serves and stays, its `max_batch_size` changes;
- **rollback**: `--to 1`, from version 3;
- **large model** (on the store): as "new version", with a file that is sent and copied in three parts.

"Served old" and "served new" are what a server served that started after the kill ("old" is nothing at all where nothing was
deployed before). During a clean-up the new version serves already.

## On disk

A kill point is the instant before a call: opening a file for writing, making, renaming, linking or removing a file or a folder,
writing, fsync, locking and unlocking; and before each call to the server. They are counted as Python itself reports them
(`sys.addaudithook`, `sys.setprofile`): nothing of the package is replaced.

{disk}

## On an object store

A kill point is a request to the store (SeaweedFS), as a proxy between the two sees it: each before it is passed on and, if it may
change something, once more after the store has carried it out and before the answer is back. Calls to the server are kill points
here, too. A call site is a kind of request to a kind of object.

{store}

## What this does not show

- **Power loss.** SIGKILL ends a process, not the kernel: what was written stays in its cache. The package calls fsync before it
  renames, but whether the disk obeys is not tested here.
- **Network file systems.** The run was on a local disk. Atomic rename and `flock` on NFS, SMB or FUSE depend on server and mount
  options.
- **Other object stores.** What Amazon S3, Google and Azure do with the requests of a killed process was not seen.
- **A kill within one system call or one request**, such as a write that stops half-way, a removal of several objects of which some
  are gone, and writes of gigabytes: the models here are small, and the large one has 11 MiB.
- **A conversion that is killed while it computes**: it is killed before and after, and while its files are stored.
- **Several deployments at once.** Races are tested elsewhere (`tests/test_repository.py`, `tests/test_rollout.py`,
  `tests/test_races.py`), not here.
- **A server that refuses the release** while the publisher is killed.
- **A kill between two calls to MLflow.** The process that is killed has no MLflow (a deployment goes on without it); the run after it
  has one, and must set the alias right.
- **A rollback that names no version.** Run again it finishes what was cut off as long as a server lacks the version
  (`tests/test_rollout.py`);
  cut off later, it goes to the release before that one. Here `--to` is given.
- **An attempt that was killed and is never run again**: its candidate stays until the model is deployed again, its converted files
  for a week longer.
"""

HEAD = ("phase", "kill points", "call sites", "kills", "served old", "served new", "wrong answers", "left over", "failed", "seconds")
GROUNDS = ("disk", "store")
NOT_RUN = "Not run yet."


def write(ground: str, rows: Sequence[Row]) -> None:
    """Write that ground's part of the page from the rows, one for each phase; the other part stays as it is."""
    parts = {each: _part(each, _lines(each, rows) if each == ground else _kept(each)) for each in GROUNDS}
    PAGE.write_text(TEXT.format(**parts))


def _part(ground: str, lines: str) -> str:
    return f"<!-- {ground} -->\n\n{lines}\n\n<!-- end of {ground} -->"


def _kept(ground: str) -> str:
    """What the page says about that ground now."""
    page = PAGE.read_text() if PAGE.exists() else ""
    found = re.search(f"<!-- {ground} -->(.*)<!-- end of {ground} -->", page, re.DOTALL)
    return found[1].strip() if found else NOT_RUN


def _lines(ground: str, rows: Sequence[Row]) -> str:
    cells = [_cells(row) for row in rows]
    total = ["**all**", *(str(sum(int(row[column]) for row in cells)) for column in range(1, len(HEAD)))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *cells, total))
    where = {"disk": "a local disk", "store": "SeaweedFS on this machine"}[ground]
    minutes = sum(row.seconds for row in rows) / 60
    run = (
        f"{datetime.now(timezone.utc).date().isoformat()}, `make soak`: airflow-provider-triton {version('airflow-provider-triton')}, "
        f"Python {platform.python_version()}, {platform.system()}, {where}, {minutes:.0f} minutes."
    )
    problems = [f"- {problem}" for row in rows for problem in row.problems]
    return f"{run}\n\n{table}\n\n" + ("\n".join(problems) or "No problem was found.")


def _cells(row: Row) -> list[str]:
    failed = len(row.problems) - row.wrong - row.left_over
    numbers = (len(row.points), len(row.sites), len(row.killed), row.old, row.new, row.wrong, row.left_over, failed, round(row.seconds))
    return [row.phase, *map(str, numbers)]
