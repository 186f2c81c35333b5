"""From a file to the parts of a dataset."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.validation.data.dataset import Dataset
from airflow_triton.validation.data.from_csv import csv
from airflow_triton.validation.data.from_npz import npz
from airflow_triton.validation.data.from_requests import requests
from airflow_triton.validation.data.from_tables import json_file, parquet
from airflow_triton.validation.data.parts import write_part
from airflow_triton.validation.data.rows import drawn, picked, regrouped
from airflow_triton.validation.data.wanted import Source, Wanted

READERS: dict[str, Callable[[Path, Wanted], Source]] = {
    ".npz": npz,
    ".parquet": parquet,
    ".csv": csv,
    ".json": json_file,
    ".jsonl": requests,
}
"""The reader of each kind of file, by the end of its name."""


def prepare(
    path: Path,
    servable: Servable,
    folder: Path,
    *,
    origin: str,
    label: str | None = "label",
    columns: Sequence[str] | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read the rows of a file for `servable`, all of them held against its inputs, and write them as parts into `folder`.

    However long the file is, a few thousand rows of it are in memory (JSON is read whole; so is what a model that does not batch takes as
    one request). Names of the servable's outputs that are neither labels nor columns of the model are recorded answers.

    Args:
        path: a .parquet, .csv, .json, .npz or .jsonl file.
        servable: what the inputs are for.
        folder: where the parts go; what an attempt before left there is removed.
        origin: how the data is called in reports and errors.
        label: the column or array that holds the labels, where there is one; None: there are no labels.
        columns: the order of the columns where the servable takes one matrix (the model's signature); default: the file's.
        sample: how many rows are taken, drawn at random, each once, in their order; default, and where there are no more: all. Of a
            model that does not batch: how many recorded requests.
        seed: the same seed draws the same rows of the same file.

    Raises:
        ValidationDataError: it cannot be read, has no rows, a row has no label while others have, or it does not fit the servable.

    """
    if not path.is_file():
        raise ValidationDataError(f"there is no data file {origin} to validate with")
    if path.suffix.lower() not in READERS:
        raise ValidationDataError(f"{origin}: unknown kind of data; valid: {', '.join(READERS)}")
    source = READERS[path.suffix.lower()](path, Wanted(origin, servable, label, tuple(columns) if columns else None))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = source.parts()
    if sample is not None:
        if not servable.batching and source.joined:
            raise ValidationDataError(
                f"{origin}: the model does not batch, so the file is one request: no rows can be drawn of it (`validate.sample`)"
            )
        parts = picked(parts, drawn(source.count(), sample, seed), joined=source.joined)
    if source.joined and servable.batching:
        parts = regrouped(parts)
    written, rows, first = [], 0, None
    for number, part in enumerate(parts):
        first = first or part
        if part.rows:
            written.append(write_part(folder, number, part))
            rows += part.rows
    if first is None or not rows:
        raise ValidationDataError(f"{origin} has no rows: nothing can be validated with it")
    return Dataset(
        origin,
        rows,
        tuple(written),
        labelled=first.labels is not None,
        recorded=bool(first.answers),
        columns=tuple(first.table),
    )
