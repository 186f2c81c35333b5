"""A table of rows held against a suite of expectations, without any model: the gate before a training."""

from __future__ import annotations

from pathlib import Path

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.spec import Expectations
from airflow_triton.validation.checks.base import Seen
from airflow_triton.validation.checks.expectations import ExpectationsCheck
from airflow_triton.validation.data import Part
from airflow_triton.validation.data.columns import plain
from airflow_triton.validation.data.from_csv import csv
from airflow_triton.validation.data.from_tables import json_file, parquet
from airflow_triton.validation.data.wanted import Wanted, readable
from airflow_triton.validation.report import ValidationReport

_READERS = {".csv": csv, ".json": json_file, ".parquet": parquet}
_NO_MODEL = Servable(backend="", default_model_filename="", inputs=(), outputs=(), batching=True, flavor="", converter="", tools={})


def check_rows(path: Path, rules: Expectations, *, origin: str) -> ValidationReport:
    """Hold every row of a .csv, .json or .parquet file against a suite; Great Expectations sees at most 100,000 of them.

    It is as strict as `validate.expectations` of a spec: no rows, an expectation that could not run or looked at no value, a missing value
    that no expectation allows, an empty suite: never a pass. The answer's `passed` is the verdict.

    Raises:
        ValidationDataError: the file or the suite is not there, or cannot be read.

    """
    import numpy as np

    check = ExpectationsCheck(rules)
    if not path.is_file():
        raise ValidationDataError(f"there is no data file {origin}")
    if path.suffix.lower() not in _READERS:
        raise ValidationDataError(f"{origin}: unknown kind of table; valid: {', '.join(_READERS)}")
    rows = 0
    with readable(origin, "a table"):
        for frame in _READERS[path.suffix.lower()](path, Wanted(origin, _NO_MODEL)).frames():
            table = {str(name): values for name in frame.columns if (values := plain(frame[name])) is not None}
            if len(frame):
                check.see(Seen(Part(start=rows, inputs={"": np.arange(len(frame))}, table=table), answers={}))
            rows += len(frame)
    return ValidationReport(candidate="", name=check.suite.name, data=origin, rows=rows, checks=tuple(check.judged("data")))
