"""A Great Expectations suite, from a file or from a team's own GX project, found to be whole before anything else happens.

Great Expectations itself drops an expectation whose type or severity it does not know, and calls an empty suite a success.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_triton.errors import SpecError, ValidationDataError
from airflow_triton.spec import Expectations
from airflow_triton.spec.source import read_source
from airflow_triton.validation.checks.entries import Expectation, expectation_of, problems_of_keys

_SUITE_KEYS = ("name", "expectations", "suite_parameters", "meta", "notes", "id")


@dataclass(frozen=True)
class Suite:
    """At least one expectation, each of a type that GX has, with arguments that it takes. `origin` says where the suite lies."""

    name: str
    origin: str
    expectations: tuple[Expectation, ...]


def great_expectations() -> Any:
    """The package, quiet: importing it takes about three seconds and would write 200 lines to the log of a task.

    Raises:
        ValidationDataError: it is not installed.

    """
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    try:
        import great_expectations as gx
    except ImportError as error:
        raise ValidationDataError(
            f"`validate.expectations` needs Great Expectations ({error}): pip install 'airflow-provider-triton[validation]'"
        ) from None
    return gx


def load_suite(rules: Expectations) -> Suite:
    """Read the suite that the spec names, and check every expectation of it; the data are not needed for that.

    Raises:
        ValidationDataError: there is no such file, project or suite; it cannot be read, is empty, or an expectation of it is not one.

    """
    great_expectations()
    if rules.context is None:
        name, origin, data, lines = _from_file(rules.suite)
    else:
        from airflow_triton.validation.checks.projects import suite_of

        name, origin, data, lines = rules.suite, f"the suite {rules.suite!r} of {rules.context}", suite_of(rules.context, rules.suite), []
    problems = problems_of_keys(data, _SUITE_KEYS)
    entries = data.get("expectations")
    if not isinstance(entries, list) or not entries:
        problems.append("`expectations` must be a list with at least one expectation: an empty suite checks nothing")
        entries = []
    parameters = data.get("suite_parameters") or {}
    made: list[Expectation] = []
    for number, entry in enumerate(entries):
        found = expectation_of(entry, parameters if isinstance(parameters, Mapping) else {})
        line = f" (line {lines[number]})" if number < len(lines) else ""
        if isinstance(found, Expectation):
            made.append(found)
        else:
            problems += [f"expectation {number + 1}{line}: {problem}" for problem in found]
    if problems:
        raise ValidationDataError(f"{origin} is no suite that can be used (`validate.expectations`): {'; '.join(problems)}")
    return Suite(str(data.get("name") or name), origin, tuple(made))


def _from_file(location: str) -> tuple[str, str, Mapping[str, Any], list[int]]:
    path = Path(location)
    try:
        source = read_source(path)
    except SpecError as error:
        raise ValidationDataError(f"the suite of `validate.expectations` cannot be read: {error}") from None
    if source.problems:
        raise ValidationDataError(f"the suite of `validate.expectations` cannot be read: {source.error(*source.problems)}")
    if not isinstance(source.data, Mapping):
        raise ValidationDataError(f"{path} is no suite: it must be a mapping with the list `expectations` (`validate.expectations`)")
    lines = [line for place, line in source.lines.items() if len(place) == 2 and place[0] == "expectations"]  # noqa: PLR2004
    return path.stem, str(path), source.data, lines
