"""What is wrong with a spec, said so that the next edit can put it right: file, line, key, what came, what is valid."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from airflow_triton.errors import SpecError

KeyPath = tuple[str | int, ...]

_SHOWN_CHARACTERS = 80
_QUOTED = re.compile(r"'([^']*)'")
_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_type": "an integer",
    "model_type": "a mapping",
    "string_type": "a string",
    "tuple_type": "a list",
}


class Problem(NamedTuple):
    """One thing that is wrong, the key where it is wrong, and the line where that is known better than from the key."""

    path: KeyPath
    message: str
    line: int | None = None


class RefusedError(ValueError):
    """Raised by a validator that finds problems at keys below its own; the paths are relative to it."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems


def key_path(path: KeyPath) -> str:
    """The path as a person writes it: `validate.parity.rtol`, `servers[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def masked(text: str) -> str:
    """The text without what may be a secret in a URL: credentials before the host, and everything after a question mark."""
    text = re.sub(r"(?<=://)[^\s'\"]*@", "***@", text)
    return re.sub(r"(://[^\s'\"?]*\?)[^\s'\"]+", r"\1***", text)


def shown(value: object) -> str:
    """The value as a message shows it: short, in YAML's words, masked; of a list or a mapping only what it is."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool | int | float):
        kind = "a boolean" if isinstance(value, bool) else "a number"
        return f"{json.dumps(value)} ({kind})"
    if isinstance(value, str):
        text = repr(masked(value))
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...'"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def valid_words(word: object, valid: Iterable[str]) -> str:
    """The list of what is valid, and the nearest of it where one is near."""
    words = list(valid)
    near = difflib.get_close_matches(str(word), words, n=1)
    return f"valid: {', '.join(words)}" + (f" (did you mean {near[0]}?)" if near else "")


def spec_error(where: str, problems: Iterable[Problem], lines: dict[KeyPath, int]) -> SpecError:
    """All problems in one error, one line each, in the order of the file."""
    placed = [(problem.line or _line_of(problem.path, lines), problem) for problem in problems]
    placed.sort(key=lambda item: item[0] or 0)
    return SpecError("\n".join(_rendered(where, line, problem) for line, problem in placed))


def _line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int | None:
    """The line of the key, or of the nearest key above it that the file has."""
    return next((lines[path[:length]] for length in range(len(path), -1, -1) if path[:length] in lines), None)


def _rendered(where: str, line: int | None, problem: Problem) -> str:
    place = where if line is None else f"{where}:{line}"
    key = f"{key_path(problem.path)}: " if problem.path else ""
    return masked(f"{place}: {key}{problem.message}").replace("\n", " ")


def not_plain(value: object, path: KeyPath = ()) -> list[Problem]:
    """What in the value is not plain JSON: a key that is no string, a number that is not finite, an object of some class."""
    if isinstance(value, dict):
        bad_keys = [Problem((*path, str(key)), f"a key must be a string, got {shown(key)}") for key in value if not isinstance(key, str)]
        return bad_keys + [problem for key, item in value.items() for problem in not_plain(item, (*path, str(key)))]
    if isinstance(value, list | tuple):
        return [problem for index, item in enumerate(value) for problem in not_plain(item, (*path, index))]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN
        return [Problem(path, f"expected a finite number, got {value}")]
    if value is None or isinstance(value, str | int | float):
        return []
    return [Problem(path, f"expected plain JSON (mapping, list, string, number, true, false, null), got {shown(value)}")]


def from_pydantic(error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """Pydantic's findings in this module's words."""
    problems: list[Problem] = []
    for details in error.errors(include_url=False):
        path = tuple(part for part in details["loc"] if part != "[key]")
        refused = details.get("ctx", {}).get("error")
        if isinstance(refused, RefusedError):
            problems += [Problem((*path, *below.path), below.message) for below in refused.problems]
        else:
            problems.append(Problem(path, _message(details, root)))
    return problems


def _message(details: ErrorDetails, root: type[BaseModel]) -> str:
    kind, got, location = details["type"], details["input"], details["loc"]
    context = details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "this key is required"
    if kind == "extra_forbidden":
        return f"unknown key; {valid_words(location[-1], sorted(_keys_at(location[:-1], root)))}"
    if kind == "literal_error":
        unknown = "unknown key" if location[-1] == "[key]" else f"got {shown(got)}"
        return f"{unknown}; {valid_words(got, _QUOTED.findall(context['expected']))}"
    if kind in _EXPECTED:
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(got, bool | int | float) else ""
        return f"expected {_EXPECTED[kind]}, got {shown(got)}{quotes}"
    return f"{details['msg'].replace('Input should be', 'must be')}, got {shown(got)}"


def _keys_at(location: KeyPath, root: type[BaseModel]) -> set[str]:
    """The keys that are valid in the section; a part of the location that is no field is the key of a mapping of sections."""
    section = root
    for part in location:
        field = _fields(section).get(str(part))
        section = (_section(field) if field is not None else None) or section
    return set(_fields(section))


def _fields(section: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section(inner)) is not None), None)
