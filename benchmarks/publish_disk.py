"""What publishing to a disk costs: against `cp` and `sync`, against the peer package, the same again, and the promotion alone."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import _peer
from _measure import MIB, ROUNDS, ready_model, row, run, seconds, table
from _publishing import again, bring, promote, stage

from airflow_triton.repository import open_repository


def main() -> None:
    """Measure, and print a table in Markdown."""
    _peer.install()
    whole: list[float] = []
    promoted: list[float] = []
    repeated: list[float] = []
    copied: list[float] = []
    peers: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        model = ready_model(home / "artifact" / "m", MIB)
        for _ in range(ROUNDS):
            store = open_repository(str(home / "ours" / "models"))
            manifests = []
            first = seconds(lambda store=store, manifests=manifests: manifests.append(bring(store, model, "id")))
            staged = seconds(lambda store=store, manifests=manifests: stage(store, manifests[0]))
            promoted.append(seconds(lambda store=store, manifests=manifests: promote(store, manifests[0], 1)))
            repeated.append(seconds(lambda store=store, manifests=manifests: again(store, manifests[0], 1)))
            whole.append(first + staged + promoted[-1])
            shutil.rmtree(home / "ours")
            target = str(home / "copy")
            copied.append(seconds(lambda target=target: (run("cp", str(model / "1" / "weights.bin"), target), run("sync", target))))
            Path(target).unlink()
            repository = home / "peer"
            repository.mkdir()
            took = _peer.publish(home / "artifact", str(repository))
            peers.append(took + seconds_of_sync(repository / "m" / "1" / "weights.bin"))
            shutil.rmtree(repository)
    table(
        "Publishing to a disk",
        f"A ready model of {MIB} MiB, whose files have to be copied; {ROUNDS} rounds. Ours is everything from the folder to config.pbtxt: "
        "recognised, copied, digested (SHA-256), brought to the disk (fsync), staged as a candidate, promoted.",
    )
    row("`cp` and `sync` of the same file", whole, copied, "<= 1.25")
    row("mlflow-tritonserver 1.1.0, `sync` added (it digests nothing)", whole, peers)
    row("the same model again; the first time", repeated, whole, "< 0.02", digits=4)
    row("candidate to live; the whole publishing", promoted, whole, "< 0.05", digits=4)


def seconds_of_sync(path: Path) -> float:
    """What is missing until a file that was just written is on the disk. Not `seconds`, which would sync it first."""
    import time

    started = time.perf_counter()
    run("sync", str(path))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
