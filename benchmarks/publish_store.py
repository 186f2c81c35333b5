"""What publishing to an object store costs: against rclone, s5cmd and the peer package, the same again, the promotion; and memory.

The store is SeaweedFS on this machine: it takes half of the processor, so the ratio counts, not the speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import _peer
from _measure import MIB, ROUNDS, ready_model, row, run, seconds, table
from _publishing import MODEL, again, bring, promote, stage
from stores.seaweed import SeaweedFS
from stores.server import program

from airflow_triton.repository import open_repository
from airflow_triton.repository.places import Place

PEAK = r"""
import re, sys
from pathlib import Path
from _publishing import bring, promote, stage
from airflow_triton.repository import open_repository
store = open_repository(sys.argv[1])
store.check_exists() if "://" in sys.argv[1] else None
manifest = bring(store, Path(sys.argv[2]), "id")
stage(store, manifest)
promote(store, manifest, 1)
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def peak(repository: str, model: Path) -> float:
    """Peak resident MiB of a process that publishes a model."""
    told = subprocess.run(
        [sys.executable, "-c", PEAK, repository, str(model)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    return float(told.stdout)


def speed(home: Path, seaweed: SeaweedFS) -> None:
    """The table about time."""
    model = ready_model(home / "artifact" / "m", MIB)
    source = str(model / "1" / "weights.bin")
    rclone = f":s3,provider=SeaweedFS,env_auth,endpoint='{seaweed.endpoint}',region=us-east-1:bench/rclone"
    s5cmd = [program("s5cmd"), "--endpoint-url", seaweed.endpoint]
    ours: list[float] = []
    staged: list[float] = []
    promoted: list[float] = []
    repeated: list[float] = []
    one: list[float] = []
    two: list[float] = []
    peers: list[float] = []
    for number in range(ROUNDS):
        store = open_repository(seaweed.url("bench", f"ours-{number}"))
        store.check_exists()
        manifests = []
        ours.append(seconds(lambda store=store, manifests=manifests: manifests.append(bring(store, model, "id"))))
        one.append(seconds(lambda: run(program("rclone"), "--config=", "copy", source, rclone)))
        two.append(seconds(lambda: run(*s5cmd, "cp", source, "s3://bench/s5cmd/weights.bin")))
        peers.append(_peer.publish(home / "artifact", f"s3://{seaweed.endpoint}/bench/peer"))
        staged.append(seconds(lambda store=store, manifests=manifests: stage(store, manifests[0])))
        promoted.append(seconds(lambda store=store, manifests=manifests: promote(store, manifests[0], 1)))
        repeated.append(seconds(lambda store=store, manifests=manifests: again(store, manifests[0], 1)))
        for place in [*(Place("models", name) for name in store.folders(Place("models", ""))), store.servable_place(MODEL, "id")]:
            store.remove(place)
        run(*s5cmd, "rm", "s3://bench/s5cmd/*", "s3://bench/rclone/*", "s3://bench/peer/*")
    table(
        "Publishing to an object store",
        f"A ready model of {MIB} MiB; {ROUNDS} rounds. Ours: recognised, digested (SHA-256) and uploaded; the candidate and the live "
        "version are copies that the store makes by itself (SeaweedFS writes every byte of them anew).",
    )
    whole = [sum(parts) for parts in zip(ours, staged, promoted, strict=True)]
    row("`rclone copy` of the same file", ours, one, "<= 1.1 of the faster")
    row("`s5cmd cp` of the same file", ours, two, "<= 1.1 of the faster")
    row("mlflow-tritonserver 1.1.0 (it digests nothing)", ours, peers)
    row("all that a deployment writes: upload, candidate, live; `s5cmd cp`", whole, two)
    row("the same model again; the first time", repeated, ours, "< 0.02", digits=4)
    row("candidate to live, by the store alone; the upload", promoted, ours)


def memory(home: Path, seaweed: SeaweedFS) -> None:
    """The table about memory."""
    small, large = ready_model(home / "small" / "m", MIB), ready_model(home / "large" / "m", 4 * MIB)
    table("Memory of a deployment's writes", f"Peak resident memory of a process that publishes {4 * MIB} MiB; {MIB} MiB.", "MiB")
    for kind, place in (("a disk", str(home / "peak-{}" / "models")), ("an object store", seaweed.url("bench", "peak-{}"))):
        row(f"to {kind}", [peak(place.format("large"), large)], [peak(place.format("small"), small)], "the same, below 300 MiB", digits=0)


def main() -> None:
    """Measure, and print tables in Markdown."""
    _peer.install()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        with SeaweedFS(home / "seaweed") as seaweed:
            seaweed.make_bucket("bench")
            os.environ.update(seaweed.environment)
            speed(home, seaweed)
            memory(home, seaweed)


if __name__ == "__main__":
    main()
