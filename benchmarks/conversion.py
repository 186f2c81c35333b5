"""What a conversion costs: against the exporter called by hand, time and memory, and against the same one out of the cache."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _conversion import SUBJECTS
from _measure import seconds

from airflow_triton.convert import Conversion, Options, convert
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.rollout.conversions import Conversions
from airflow_triton.spec import spec_from_mapping

ROUNDS = int(os.environ.get("AIRFLOW_TRITON_BENCH_ROUNDS", "3"))
SCRIPT = Path(__file__).with_name("_conversion.py")
MIB = 2**20
QUIET = {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Else both leave files in the user's home."""
CACHED = ("forest", "xgboost", "onnx")
"""What is asked of the cache, too: a file of some MiB, a small one, and a large one that is copied rather than converted."""
LIMIT = 3.0
"""What a cached conversion may take, in percent of the first."""


@dataclass
class Figures:
    """What was measured of one model, a figure for each round: by hand, by `convert`, and by `Conversions.make`."""

    size: float = 0.0
    hand: list[float] = field(default_factory=list)
    hand_mib: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    converting: list[float] = field(default_factory=list)
    parity: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    download: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)

    @property
    def starting(self) -> list[float]:
        """What of the whole is neither conversion nor parity."""
        return [whole - one - two for whole, one, two in zip(self.whole, self.converting, self.parity, strict=True)]

    @property
    def unproven(self) -> list[float]:
        """The whole without parity, which by hand nobody does."""
        return [whole - parity for whole, parity in zip(self.whole, self.parity, strict=True)]


class TimedRegistry(Registry):
    """A registry that knows how long the last download took."""

    took = 0.0

    def download(self, source: ModelSource, into: Path) -> Path:
        """See `Registry.download`."""
        started = time.perf_counter()
        folder = super().download(source, into)
        self.took = time.perf_counter() - started
        return folder


def script(*arguments: str) -> Any:
    """Run one of the functions of `_conversion.py` in a Python of its own; its answer."""
    told = subprocess.run([sys.executable, str(SCRIPT), *arguments], check=False, capture_output=True, text=True)
    if told.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{told.stdout}{told.stderr}")
    return json.loads(told.stdout.splitlines()[-1])


def say(what: str) -> None:
    """Tell on stderr what is being done."""
    print(f"  {what}", file=sys.stderr, flush=True)


def by_hand(name: str, model: Path, home: Path, figures: Figures) -> None:
    """The exporter alone, in a Python of its own."""
    file = home / "by-hand"
    figures.hand.append(seconds(lambda: figures.hand_mib.append(script("export", name, str(model), str(file)))))
    file.unlink()


def by_us(name: str, model: Path, home: Path, figures: Figures) -> None:
    """The conversion, with its proof."""
    into, made = home / "ours", list[Conversion]()
    options = Options.model_validate({"to": SUBJECTS[name].to})
    figures.whole.append(seconds(lambda: made.append(convert(model, into, options))))
    figures.size = sum(path.stat().st_size for path in into.rglob("*") if path.is_file()) / MIB
    shutil.rmtree(into)
    figures.converting.append(made[0].seconds["convert"])
    figures.parity.append(made[0].seconds["parity"])
    figures.mib.append(made[0].peak_mib or 0.0)


def by_cache(name: str, source: ModelSource, registry: TimedRegistry, home: Path, figures: Figures) -> None:
    """The first conversion of a registered version, which a cache keeps, and the second, which comes out of it."""
    heard: list[str] = []
    spec = spec_from_mapping(
        {
            "name": name,
            "model": str(source),
            "repository": str(home / "models"),
            "servers": ["http://127.0.0.1:8000"],
            "convert": {"to": SUBJECTS[name].to, "cache": str(home / "cache")},
            "promote": {"alias": "champion"},
        }
    )

    def make(number: int) -> None:
        Conversions(spec, registry, home / f"work-{number}", heard.append).make(source, home / f"files-{number}", shared=True)

    figures.first.append(seconds(lambda: make(1)))
    figures.download.append(registry.took)
    figures.cached.append(seconds(lambda: make(2)))
    assert "found in the cache" in heard[-1], heard
    for left in ("cache", "work-1", "files-1", "files-2"):
        shutil.rmtree(home / left)


def measured(home: Path) -> dict[str, Figures]:
    """Everything, by the names of the models."""
    import mlflow

    uri = f"sqlite:///{home}/mlflow.db"
    mlflow.MlflowClient(uri).create_experiment("bench", artifact_location=(home / "artifacts").as_uri())
    say("the models are trained")
    registry = TimedRegistry(uri)
    sources = {name: registry.resolve(f"models:/{name}/1") for name in script("log", uri)}
    found = {name: Figures() for name in SUBJECTS}
    for number in range(ROUNDS):
        for name, figures in found.items():
            say(f"round {number + 1} of {ROUNDS}: {name}")
            source = sources[SUBJECTS[name].model]
            model = registry.download(source, home / "models")
            by_hand(name, model, home, figures)
            by_us(name, model, home, figures)
            if name in CACHED:
                by_cache(name, source, registry, home, figures)
    return found


def middle(figures: Iterable[float], digits: int = 2) -> str:
    """The median."""
    return f"{statistics.median(figures):.{digits}f}"


def over(ones: Iterable[float], others: Iterable[float]) -> list[float]:
    """The ratio of each round."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def line(*cells: str) -> None:
    """A line of a table."""
    print(f"| {' | '.join(cells)} |")


def head(note: str, *columns: str) -> None:
    """Begin a table."""
    print(f"\n{note}\n")
    line(*columns)
    line(*("---" for _ in columns))


def main() -> None:
    """Measure, and print a section in Markdown."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.chdir(folder)  # nothing of the caller's folder is imported, and nothing is left there
        os.environ.update(QUIET)
        found = measured(Path(folder))
    titles = {name: f"`{subject.flavor}`: {subject.title}" for name, subject in SUBJECTS.items()}
    print(f"\n## Converting\n\n{ROUNDS} rounds; medians, so that the parts need not add up. Ratios are medians of those of each round.")
    head(
        "Time. By hand: a fresh Python loads the model with `mlflow.FLAVOR.load_model`, exports it as the exporter's documentation shows "
        "it, writes the file and ends. Child: the process in which we convert is started and answers. Convert: MLflow and the model's "
        "library are imported, the model is loaded, exported, observed by running it, declared, checked, written and digested. Ratio: "
        "child and convert, by hand. Parity: the file and the MLflow model are asked the same and compared, which by hand nobody does. "
        "Whole: what `convert` takes, all in all.",
        *("model", "exporter", "by hand (s)", "child (s)", "convert (s)", "ratio", "parity (s)", "whole (s)"),
    )
    for name, each in found.items():
        parts = [
            middle(part) for part in (each.hand, each.starting, each.converting, over(each.unproven, each.hand), each.parity, each.whole)
        ]
        line(titles[name], SUBJECTS[name].exporter, *parts)
    head(
        "Memory. The largest resident memory (VmHWM) of the process by hand, and of ours until the file is written and digested: before "
        "parity. File: what Triton is to serve.",
        *("model", "by hand (MiB)", "ours (MiB)", "ratio", "file (MiB)"),
    )
    for name, each in found.items():
        line(titles[name], middle(each.hand_mib, 0), middle(each.mib, 0), middle(over(each.mib, each.hand_mib)), f"{each.size:.1f}")
    head(
        "The cache, a folder. First: a registered version is downloaded, converted, proven and kept. Download: what MLflow takes of that, "
        "from a folder beside it. Cached: the same is asked again, and copied and digested. Resolving the version comes before both.",
        *("model", "first (s)", "download (s)", "cached (s)", "cached / first (%)", "goal (%)"),
    )
    for name, each in ((name, found[name]) for name in CACHED):
        percent = middle((100 * ratio for ratio in over(each.cached, each.first)), 1)
        line(titles[name], middle(each.first), middle(each.download), middle(each.cached, 3), percent, f"< {LIMIT:g}")


if __name__ == "__main__":
    main()
