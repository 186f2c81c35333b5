"""One expectation of a suite: what GX makes of it, what it looks at, and what is wrong with it in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ENTRY_KEYS = ("type", "kwargs", "severity", "meta", "notes", "description", "id")
_SEVERITIES = ("critical", "warning", "info")
_OLD_KEYS = {"expectation_suite_name": "name", "expectation_type": "type", "evaluation_parameters": "suite_parameters"}
"""The words of GX before 1.0, and today's."""
_COLUMN_KEYS = ("column", "column_A", "column_B", "column_list", "column_set")
_NOT_THEIRS = {"id", "meta", "notes", "description", "severity", "rendered_content", "result_format", "catch_exceptions", "batch_id"}
_NOT_NULL = "expect_column_values_to_not_be_null"
_NULLS = (_NOT_NULL, "expect_column_values_to_be_null", "expect_column_proportion_of_non_null_values_to_be_between")


@dataclass(frozen=True)
class Expectation:
    """One expectation. `columns` are all that it names; `looks` says whether it looks at their values, and not only at their names.

    `about_missing`: its very subject is which values are missing. `config` is what GX makes it of.
    """

    type: str
    columns: tuple[str, ...]
    looks: bool
    critical: bool
    row_condition: str | None
    about_missing: bool
    config: Mapping[str, Any]

    @property
    def rules_missing(self) -> bool:
        """Whether it says how many values of its column may be missing: of all rows, not only of some."""
        return self.about_missing and self.row_condition is None


def not_null(column: str) -> Expectation:
    """The expectation that a column has a value in every row."""
    notes = "Added: the suite does not say how many values of this column may be missing."
    config = {"type": _NOT_NULL, "kwargs": {"column": column}, "meta": {"notes": notes}}
    return Expectation(_NOT_NULL, (column,), looks=True, critical=True, row_condition=None, about_missing=True, config=config)


def expectation_of(entry: Any, parameters: Mapping[str, Any]) -> Expectation | list[str]:
    """The expectation, or what is wrong with it."""
    if not isinstance(entry, Mapping):
        return ["it must be a mapping with `type` and `kwargs`"]
    kind, kwargs, severity = entry.get("type"), entry.get("kwargs", {}), entry.get("severity", "critical")
    problems = problems_of_keys(entry, _ENTRY_KEYS) or _problem_of_type(kind)
    if not isinstance(kwargs, Mapping):
        problems.append(f"{kind}: `kwargs` must be a mapping")
    elif unset := sorted(set(_asked(kwargs)) - set(parameters)):
        problems.append(f"{kind}: no value for the parameter {', '.join(unset)}: give it in `suite_parameters` of the suite")
    if severity not in _SEVERITIES:
        problems.append(f"{kind}: got the severity {severity!r}; valid: {', '.join(_SEVERITIES)}")
    return problems or _made({**entry, "kwargs": _filled(kwargs, parameters), "severity": severity})


def _problem_of_type(kind: Any) -> list[str]:
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    known = list_registered_expectation_implementations()
    if kind in known:
        return []
    near = difflib.get_close_matches(str(kind), known, n=1, cutoff=0.5)
    return [f"Great Expectations has no type {kind!r}" + (f" (did you mean {near[0]}?)" if near else "")]


def _made(config: dict[str, Any]) -> Expectation | list[str]:
    from great_expectations.compatibility.pydantic import ValidationError
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    kind, kwargs = config["type"], config["kwargs"]
    try:
        made: Any = ExpectationConfiguration(**{key: value for key, value in config.items() if key != "id"}).to_domain_obj()
    except ValidationError as error:
        fields = ", ".join(sorted(_fields(kind)))
        return [f"{kind}: {_place(details)}{details['msg']}; it takes {fields}" for details in error.errors()]
    except (GreatExpectationsError, TypeError, ValueError) as error:
        return [f"{kind}: {error}"]
    if problem := _checks_nothing(made, kind, kwargs):
        return [f"{kind}: {problem}, which checks nothing"]
    condition = kwargs.get("row_condition")
    return Expectation(
        type=kind,
        columns=tuple(_columns(kwargs)),
        looks=getattr(made.domain_type, "value", "") != "table",
        critical=config["severity"] == "critical",
        row_condition=None if condition is None else str(condition),
        about_missing=kind in _NULLS,
        config=made.configuration.to_json_dict(),
    )


def _checks_nothing(made: Any, kind: str, kwargs: Mapping[str, Any]) -> str:
    if kwargs.get("mostly") == 0:
        return "`mostly: 0` allows every value"
    limits = {"min_value", "max_value"} & set(type(made).__fields__)
    if kind.endswith("_to_be_between") and limits and all(kwargs.get(limit) is None for limit in limits):
        return "neither `min_value` nor `max_value` is given"
    return ""


def _fields(kind: str) -> set[str]:
    from great_expectations.expectations.registry import get_expectation_impl

    return set(get_expectation_impl(kind).__fields__) - _NOT_THEIRS - {"library_metadata", "windows"}


def _place(details: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in details["loc"] if part != "__root__")
    return f"`{place}`: " if place else ""


def _columns(kwargs: Mapping[str, Any]) -> Iterator[str]:
    for key in _COLUMN_KEYS:
        named = kwargs.get(key) or ()
        yield from [named] if isinstance(named, str) else [str(name) for name in named]


def _asked(value: Any) -> Iterator[str]:
    """The names of the parameters in an argument, GX's `$PARAMETER`."""
    if isinstance(value, Mapping):
        if set(value) == {"$PARAMETER"}:
            yield str(value["$PARAMETER"])
        for item in value.values():
            yield from _asked(item)
    elif isinstance(value, list):
        for item in value:
            yield from _asked(item)


def _filled(value: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return (
            parameters[str(value["$PARAMETER"])]
            if set(value) == {"$PARAMETER"}
            else {key: _filled(item, parameters) for key, item in value.items()}
        )
    return [_filled(item, parameters) for item in value] if isinstance(value, list) else value


def problems_of_keys(data: Mapping[str, Any], valid: Iterable[str]) -> list[str]:
    """The keys that do not belong there, each with what does."""
    unknown = [key for key in data if key not in valid]
    old = {key: _OLD_KEYS[key] for key in unknown if key in _OLD_KEYS}
    found = [f"`{key}` is the word of GX before 1.0: write `{word}`" for key, word in old.items()]
    return found + [f"unknown key `{key}`; valid: {', '.join(valid)}" for key in unknown if key not in old]
