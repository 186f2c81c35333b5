"""Readers of table files: Parquet and CSV a few thousand rows at a time, JSON whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.validation.data.dataset import PART_ROWS
from airflow_triton.validation.data.tables import Table
from airflow_triton.validation.data.wanted import Wanted

if TYPE_CHECKING:
    import pandas as pd


def parquet(path: Path, wanted: Wanted) -> Table:
    """A Parquet file; of a row group no more than the pages that are being read are in memory."""

    def rows() -> int:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)

    def frames() -> Iterator[pd.DataFrame]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(batch_size=PART_ROWS):
                yield batch.to_pandas().reset_index(drop=True)

    return Table(wanted, frames, rows)


def json_file(path: Path, wanted: Wanted) -> Table:
    """A JSON file: a list of records, or MLflow's table artifact (`columns` and `data`)."""
    frame: list[pd.DataFrame] = []

    def whole() -> pd.DataFrame:
        if not frame:
            frame.append(_json_table(path))
        return frame[0]

    def frames() -> Iterator[pd.DataFrame]:
        for start in range(0, len(whole()), PART_ROWS):
            yield whole().iloc[start : start + PART_ROWS]

    return Table(wanted, frames, lambda: len(whole()))


def _json_table(path: Path) -> pd.DataFrame:
    """The rows as they are written: pandas' own reader takes digits in quotes for numbers and guesses dates."""
    import pandas as pd

    rows: Any = json.loads(path.read_bytes())
    if isinstance(rows, dict) and set(rows) == {"columns", "data"}:
        return pd.DataFrame(rows["data"], columns=rows["columns"])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError('it is no list of records, and no table of MLflow\'s ({"columns": [...], "data": [[...], ...]})')
    return pd.DataFrame(rows)
