"""Great Expectations at work: a suite is held against a table, and each result is judged by itself.

The whole result's `success` says too little (an empty suite has it) and too much (a mere warning takes it away).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_triton.validation.checks.entries import Expectation
from airflow_triton.validation.checks.suites import great_expectations

if TYPE_CHECKING:
    import pandas as pd

_ADDED = "expect_table_row_count_to_be_between"
_STORES = {
    "suites": "ExpectationsStore",
    "results": "ValidationResultsStore",
    "checkpoints": "CheckpointStore",
    "validation_definition_store": "ValidationDefinitionStore",
}
_COULD_NOT_RUN = "could not run"
_SHOWN_VALUES = 3
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Found:
    """What one expectation came to. `problem` is "" where it held; `percent` of the values were not expected, where they are counted."""

    type: str
    columns: str
    arguments: str
    critical: bool
    problem: str
    observed: str
    unexpected: str
    percent: float

    @property
    def ran(self) -> bool:
        """Whether GX could look at all."""
        return not self.problem.startswith(_COULD_NOT_RUN)

    def __str__(self) -> str:
        return f"{self.type}({', '.join(text for text in (self.columns, self.arguments) if text)}): {self.problem or self.observed}"


def hold(frame: pd.DataFrame, name: str, expectations: Sequence[Expectation]) -> tuple[list[Found], Any]:
    """Hold every expectation against the frame; those that did not hold come first. And GX's own result, for its Data Docs.

    Raises:
        Exception: whatever GX raises where it cannot run the suite at all.

    """
    gx = great_expectations()
    from great_expectations.core.expectation_suite import ExpectationSuite
    from great_expectations.util import convert_to_json_serializable

    source = new_context(gx, {}).data_sources.add_pandas("rows")
    batch = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": frame})
    result = batch.validate(ExpectationSuite(name=name, expectations=[dict(each.config) for each in expectations]))
    for each in result.results:  # with numpy's booleans here and there, which are not `True` and which its own store cannot write
        each.success, each.result = convert_to_json_serializable(each.success), convert_to_json_serializable(each.result)
    found = [judged(each.to_json_dict()) for each in result.results]
    if len(found) != len(expectations):
        raise RuntimeError(f"Great Expectations gave {len(found)} results for {len(expectations)} expectations")
    return sorted(found, key=lambda each: (not each.problem, not each.critical)), result


def hold_conditions(frame: pd.DataFrame, expectations: Sequence[Expectation]) -> list[Found]:
    """Whether each `row_condition` of the expectations can be read, and selects at least one row of the frame.

    Raises:
        Exception: as `hold`.

    """
    conditions = {each.row_condition: each.config["kwargs"] for each in expectations if each.row_condition is not None}
    counted = [
        Expectation(_ADDED, (), looks=False, critical=True, row_condition=condition, about_missing=False, config=_counting(kwargs))
        for condition, kwargs in conditions.items()
    ]
    return hold(frame, "row conditions", counted)[0] if counted else []


def _counting(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    condition = {key: kwargs[key] for key in ("row_condition", "condition_parser") if kwargs.get(key) is not None}
    return {"type": _ADDED, "kwargs": {"min_value": 1, **condition}}


def judged(result: Mapping[str, Any]) -> Found:
    """One expectation's result, as GX writes it to JSON."""
    config, details = result.get("expectation_config") or {}, result.get("result") or {}
    kwargs = {key: value for key, value in (config.get("kwargs") or {}).items() if key != "batch_id"}
    columns = [str(kwargs.pop(key)) for key in ("column", "column_A", "column_B", "column_list", "column_set") if key in kwargs]
    unexpected = details.get("partial_unexpected_list") or []
    return Found(
        type=str(config.get("type")),
        columns=", ".join(columns),
        arguments=short(", ".join(f"{key}={value}" for key, value in kwargs.items())),
        critical=config.get("severity", "critical") == "critical",
        problem=_problem(result, details),
        observed=short(str(details["observed_value"])) if "observed_value" in details else "holds" if result.get("success") is True else "",
        unexpected=short(", ".join(map(str, unexpected[: 3 * _SHOWN_VALUES]))),
        percent=float(details.get("unexpected_percent") or 0.0),
    )


def _problem(result: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    if raised := next(_raised(result.get("exception_info") or {}), ""):
        return f"{_COULD_NOT_RUN}: {short(raised)}"
    elements = details.get("element_count")
    if elements is not None and elements - (details.get("missing_count") or 0) <= 0:
        return "looked at no value"
    if result.get("success") is True:
        return ""
    if details.get("unexpected_count"):
        values = ", ".join(map(str, details.get("partial_unexpected_list", [])[:_SHOWN_VALUES]))
        return f"{details['unexpected_count']} of {elements} values are not so, such as {short(values)}"
    return f"found {short(str(details['observed_value']))}" if "observed_value" in details else "does not hold"


def _raised(info: Mapping[str, Any]) -> Iterator[str]:
    """The messages of what was raised: in `exception_info` itself, or in an entry for each metric of it."""
    if info.get("raised_exception"):
        yield str(info.get("exception_message") or "an exception without a message")
    for value in info.values():
        if isinstance(value, Mapping):
            yield from _raised(value)


def new_context(gx: Any, options: Mapping[str, Any]) -> Any:
    """A context in memory, which nothing is left of; `options` are of its `DataContextConfig`."""
    from great_expectations.data_context.types.base import DataContextConfig, ProgressBarsConfig

    stores = {name: {"class_name": kind, "store_backend": {"class_name": "InMemoryStoreBackend"}} for name, kind in _STORES.items()}
    config = DataContextConfig(
        config_version=4.0,
        expectations_store_name="suites",
        validation_results_store_name="results",
        checkpoint_store_name="checkpoints",
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
        **{"data_docs_sites": {}, **options, "stores": {**stores, **options.get("stores", {})}},
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def short(text: str) -> str:
    """The text in one line that is not too long for a table."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]} ..."
