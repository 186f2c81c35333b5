"""A repository with a thousand models, listed and compared with what is asked for, with nothing to do; and one with twice as many."""

from __future__ import annotations

import functools
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _measure import ROUNDS, row, seconds, table
from stores.seaweed import SeaweedFS

from airflow_triton.repository import Release, Repository, open_repository, survey
from airflow_triton.repository import release as journal

MODELS = 1000
VERSIONS = (1, 2, 3)
CONFIG = """backend: "onnxruntime"
max_batch_size: 16
input { name: "input" data_type: TYPE_FP32 dims: 4 }
output { name: "label" data_type: TYPE_INT64 dims: 1 reshape { } }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 100 }
"""


def files(model: str) -> dict[str, bytes]:
    """A model with three versions, the last of which serves; the ids of its releases name it."""
    releases = [
        Release(id=f"{model}-{number}", version=number, servable_id=f"s{number}", how="promote", config=CONFIG) for number in VERSIONS
    ]
    versions = {f"{model}/{number}/{name}": b"{}" for number in VERSIONS for name in ("model.onnx", "deployment.json")}
    return {**versions, f"{model}/config.pbtxt": journal.render(releases).encode()}


def nothing_to_do(repository: Repository, models: int) -> None:
    """List all models, and see that each serves what it should."""
    found = {each.name: each for each in survey(repository)}
    asked = {name(number): f"{name(number)}-{VERSIONS[-1]}" for number in range(models)}
    assert [model for model, identity in asked.items() if found[model].releases[-1].id != identity] == []
    assert len(found) == models


def name(number: int) -> str:
    """The name of a model."""
    return f"model-{number:05}"


def on_disk(home: Path, models: int) -> Repository:
    """A repository on disk with so many models."""
    for number in range(models):
        for path, content in files(name(number)).items():
            target = home / str(models) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return open_repository(str(home / str(models)))


def in_store(seaweed: SeaweedFS, models: int) -> Repository:
    """A repository in an object store with so many models."""
    repository = open_repository(seaweed.url("bench", str(models)))
    repository.check_exists()
    client = seaweed.client()
    with ThreadPoolExecutor(16) as pool:
        rows = [(f"{models}/{path}", content) for number in range(models) for path, content in files(name(number)).items()]
        list(pool.map(lambda row: client.put_object(Bucket="bench", Key=row[0], Body=row[1]), rows))
    return repository


def main() -> None:
    """Measure, and print a table in Markdown."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, SeaweedFS(Path(folder) / "seaweed") as seaweed:
        seaweed.make_bucket("bench")
        os.environ.update(seaweed.environment)
        table("Many models", f"Listed and compared with nothing to do, {len(VERSIONS)} versions each; {ROUNDS} rounds.")
        for kind, limit, make in (
            ("a disk", 1.0, lambda models: on_disk(Path(folder), models)),
            ("an object store", 5.0, lambda models: in_store(seaweed, models)),
        ):
            few, many = make(MODELS), make(2 * MODELS)
            nothing_to_do(few, MODELS)
            looks = (functools.partial(nothing_to_do, few, MODELS), functools.partial(nothing_to_do, many, 2 * MODELS))
            rounds = [(seconds(looks[0]), seconds(looks[1])) for _ in range(ROUNDS)]
            row(f"{MODELS} on {kind}; the limit", [one for one, _ in rounds], [limit] * ROUNDS, "<= 1")
            row(f"{2 * MODELS} on {kind}; {MODELS}", [two for _, two in rounds], [one for one, _ in rounds], "<= 2")


if __name__ == "__main__":
    main()
