"""Reads a spec file, YAML or JSON, into plain data and the line of every key.

Numbers are read as YAML 1.2 and JSON read them: `1e-4` is a number, `010` and `1:30` are not, a date is a string.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from airflow_triton.errors import SpecError
from airflow_triton.spec.problems import KeyPath, Problem, spec_error

_TAG = "tag:yaml.org,2002:"
_MOST_VALUES = 20_000
_DEEPEST = 40


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C one where PyYAML has it
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]{0,19})", "-+0123456789"),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), list(_first))


@dataclass
class Source:
    """A spec as it was written: its data, where each key stands, and what is wrong with the writing itself."""

    where: str
    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    values: int = 0

    def error(self, *problems: Problem) -> SpecError:
        """The problems as one error that names this file and its lines."""
        return spec_error(self.where, problems, self.lines)


def read_source(path: str | Path) -> Source:
    """The file's content with its positions; a file that cannot be read or parsed at all is a SpecError."""
    source = Source(where=str(path))
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 a folder may hold a thousand
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise source.error(Problem((), "no such file")) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise source.error(Problem((), f"cannot be read: {reason}")) from error
    if source.where.lower().endswith(".json"):
        text = _checked_json(text, source)
    node = _composed(text, source)
    source.data = None if node is None else _built(node, (), source)
    return source


def _checked_json(text: str, source: Source) -> str:
    """The JSON text in a form that the YAML parser reads as well: JSON may be indented with tabs, YAML may not."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise source.error(Problem((), f"not valid JSON: {error.msg}", error.lineno)) from error
    except (RecursionError, ValueError) as error:
        raise source.error(Problem((), "not valid JSON: nested too deeply, or a number too long")) from error
    pairs = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
    return pairs.sub(lambda pair: json.loads(f'"{pair[0]}"'), text.replace("\t", " "))


def _composed(text: str, source: Source) -> yaml.Node | None:
    unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        raise source.error(Problem((), f"the character {unprintable[0]!a} is not allowed", line))
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        several = "single document" in str(error.context)
        what = "a second document; one file declares one deployment" if several else _said(error)
        raise source.error(Problem((), what, line)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise source.error(Problem((), f"not valid YAML: {type(error).__name__}", 1)) from error
    finally:
        loader.dispose()
    return node


def _said(error: yaml.MarkedYAMLError) -> str:
    return "not valid YAML: " + ", ".join(part for part in (error.context, error.problem) if part)


def _built(node: yaml.Node, path: KeyPath, source: Source) -> Any:
    """The node as plain data; the lines and the problems are noted in the source."""
    line = node.start_mark.line + 1
    source.lines.setdefault(path, line)
    source.values += 1
    if source.values > _MOST_VALUES or len(path) > _DEEPEST:  # also what an alias of itself and a bomb of aliases run into
        raise source.error(Problem(path[:3], f"too large: over {_MOST_VALUES} values, or nested over {_DEEPEST} deep"))
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(node, path, source)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_built(item, (*path, index), source) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
        return _SCALARS[node.tag](node.value)
    source.problems.append(Problem(path, f"the YAML tag {node.tag.replace(_TAG, '!!')} is not supported", line))
    return None


def _mapping(node: yaml.MappingNode, path: KeyPath, source: Source) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            source.problems.append(Problem(path, "a key must be a word", line))
            continue
        key = key_node.value  # as written: the key 8.9 is the string '8.9'
        place = (*path, key)
        if key_node.tag == f"{_TAG}merge":
            source.problems.append(Problem(place, "merge keys are not supported; write the keys out", line))
        elif key in data:
            source.problems.append(Problem(place, f"duplicate key; it is first on line {source.lines[place]}", line))
        else:
            source.lines[place] = line
            data[key] = _built(value_node, place, source)
    return data


_SCALARS: dict[str, Any] = {
    f"{_TAG}str": str,
    f"{_TAG}int": int,
    f"{_TAG}float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    f"{_TAG}bool": lambda text: text.lower() in {"true", "yes", "on"},
    f"{_TAG}null": lambda _: None,
}
