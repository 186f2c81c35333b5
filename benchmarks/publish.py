"""What publishing a model costs: to disk against `cp` and `sync`, to an object store against rclone and s5cmd; again; promotion; memory.

A model is one file of random bytes (AIRFLOW_TRITON_BENCH_MIB, 1,024 unless set). Ours includes what the peers leave out: the SHA-256 of
every file, fsync on disk, the manifest. Each round runs all of them in turn; the figures are medians. The store is SeaweedFS on this
machine: it has half of the processor, so the ratio counts, not the speed. `make bench` writes the table to docs/benchmarks.md.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from stores.seaweed import SeaweedFS
from stores.server import program

from airflow_triton.repository import Item, Repository, digest_files, items_in, open_repository

MIB = int(os.environ.get("AIRFLOW_TRITON_BENCH_MIB", "1024"))
ROUNDS = 3
MODEL = "m"

PEAK = """
import resource, sys
from pathlib import Path
from airflow_triton.repository import digest_files, items_in, open_repository
store, files = open_repository(sys.argv[1]), Path(sys.argv[2])
store.put(store.version_place("m", 9), items_in(files, digest_files(files)), first={"deployment.json": "{}"}, replace=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call, after what was written before has reached the disk."""
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def publish(store: Repository, files: Path, version: int) -> list[Item]:
    """A folder becomes a complete version."""
    items = items_in(files, digest_files(files))
    store.put(store.version_place(MODEL, version), items, first={"deployment.json": "{}"}, replace=True)
    return items


def copied(store: Repository, items: list[Item], to: int) -> None:
    """A version becomes another one, as a candidate becomes the live version."""
    known = store.items(store.version_place(MODEL, 1), [item.file for item in items])
    store.put(store.version_place(MODEL, to), known, first={"deployment.json": "{}"}, replace=True)


def run(*command: str) -> None:
    """A peer's command; it must succeed."""
    subprocess.run(command, check=True, capture_output=True)


def peak(place: str, files: Path) -> int:
    """Peak resident MiB of a process that publishes a folder."""
    told = subprocess.run([sys.executable, "-c", PEAK, place, str(files)], check=True, capture_output=True, text=True)
    return int(told.stdout)


def random_model(folder: Path, mib: int) -> Path:
    """A folder with one file of so many MiB."""
    folder.mkdir()
    with (folder / "model.onnx").open("wb") as stream:
        for _ in range(mib):
            stream.write(os.urandom(1 << 20))
    return folder


def row(what: str, ours: float, peer: float) -> None:
    """One line of the table."""
    print(f"| {what} | {ours:.2f} | {peer:.2f} | {ours / peer:.2f} |", flush=True)


def on_disk(home: Path, files: Path) -> None:
    """The rows about a repository on disk."""
    source = files / "model.onnx"
    rounds = []
    for number in range(ROUNDS):
        store = open_repository(str(home / f"disk-{number}" / "models"))
        items: list[Item] = []
        ours = seconds(lambda store=store, items=items: items.extend(publish(store, files, 1)))
        moved = seconds(lambda store=store, items=items: copied(store, items, 2))
        target = home / "copy"
        peer = seconds(lambda target=target: (run("cp", str(source), str(target)), run("sync", str(target))))
        rounds.append((ours, moved, peer))
        target.unlink()
        shutil.rmtree(home / f"disk-{number}")
    ours, moved, peer = (statistics.median(column) for column in zip(*rounds, strict=True))
    row(f"publish {MIB} MiB to disk, `cp` and `sync` (s)", ours, peer)
    row("candidate to live on disk, its publishing (s)", moved, ours)


def on_store(files: Path, seaweed: SeaweedFS) -> None:
    """The rows about a repository on an object store."""
    source, rounds = str(files / "model.onnx"), []
    env = seaweed.environment
    rclone = f":s3,provider=SeaweedFS,env_auth,endpoint='{seaweed.endpoint}',region=us-east-1:bench/rclone"
    os.environ.update(env)
    for number in range(ROUNDS):
        store = open_repository(seaweed.url("bench", f"ours-{number}"))
        store.check_exists()
        items: list[Item] = []
        ours = seconds(lambda store=store, items=items: items.extend(publish(store, files, 1)))
        again = seconds(lambda store=store: publish(store, files, 1))
        moved = seconds(lambda store=store, items=items: copied(store, items, 2))
        one = seconds(lambda: run(program("rclone"), "--config=", "copy", source, rclone))
        other = seconds(lambda: run(program("s5cmd"), "--endpoint-url", seaweed.endpoint, "cp", source, "s3://bench/s5cmd/model.onnx"))
        rounds.append((ours, again, moved, one, other))
        for folder in (store.version_place(MODEL, 1), store.version_place(MODEL, 2)):
            store.remove(folder)
        run(program("s5cmd"), "--endpoint-url", seaweed.endpoint, "rm", "s3://bench/s5cmd/*", "s3://bench/rclone/*")
    ours, again, moved, one, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    row(f"publish {MIB} MiB to a store, rclone copy (s)", ours, one)
    row(f"publish {MIB} MiB to a store, s5cmd cp (s)", ours, other)
    row("publish the same again to a store (it is hashed, and not sent), the first time (s)", again, ours)
    row("candidate to live in a store (no byte through here), its publishing (s)", moved, ours)


def memory(home: Path, files: Path, seaweed: SeaweedFS) -> None:
    """The rows about memory."""
    large = random_model(home / "large", 4 * MIB)
    for kind, place in (("disk", str(home / "peak" / "models")), ("store", seaweed.url("bench", "peak"))):
        row(f"peak memory on a {kind}, {4 * MIB} MiB against {MIB} MiB (MiB)", peak(place, large), peak(place, files))


def main() -> None:
    """Measure, and print a table in Markdown."""
    print(f"\n## Publishing\n\nMedians of {ROUNDS} rounds.\n\n| | this package | peer | ratio |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        files = random_model(home / "files", MIB)
        on_disk(home, files)
        with SeaweedFS(home / "seaweed") as seaweed:
            seaweed.make_bucket("bench")
            on_store(files, seaweed)
            memory(home, files, seaweed)


if __name__ == "__main__":
    main()
