"""The spec: what a user declares about one deployment, and nothing that a machine has to find out.

A spec is complete or refused: an unknown key, a wrong type, an impossible combination and what the pipeline cannot honour
yet are errors that name file, line and key. Reading one costs a fraction of a millisecond and imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from airflow_triton.errors import SpecError
from airflow_triton.spec.convert import Convert, Parity, PythonBackend
from airflow_triton.spec.model import Promote, Replica, Spec
from airflow_triton.spec.problems import KeyPath, Problem, from_pydantic, not_plain, shown
from airflow_triton.spec.source import Source, read_source
from airflow_triton.spec.tensorrt import TensorRT, Worker
from airflow_triton.spec.validation import Expectations, Golden, Latency, Limits, ServedParity, Severity, Validation
from airflow_triton.spec.values import is_url

__all__ = [
    "Convert",
    "Expectations",
    "Golden",
    "Latency",
    "Limits",
    "Parity",
    "Promote",
    "PythonBackend",
    "Replica",
    "ServedParity",
    "Severity",
    "Spec",
    "TensorRT",
    "Validation",
    "Worker",
    "find_spec_files",
    "is_url",
    "json_schema",
    "load_spec",
    "load_specs",
    "spec_from_mapping",
]


_ENDINGS = (".yaml", ".yml", ".json")


def load_spec(path: str | Path) -> Spec:
    """The spec of one YAML or JSON file, relative paths resolved against the file's folder.

    Raises:
        SpecError: it cannot be read, or with every problem in it, one line each: `FILE:LINE: KEY: what is wrong`.

    """
    source = read_source(path)
    return _spec_of(source, folder=os.path.dirname(path))  # noqa: PTH120 - a folder may hold a thousand


def load_specs(paths: Iterable[str | Path]) -> list[Spec]:
    """The specs of all files, and of all spec files in the folders; a file that is named twice is read once.

    Raises:
        SpecError: with the problems of all files; a folder without specs and two specs of one name are problems too.

    """
    named: dict[str, str] = {}
    problems: list[str] = []
    specs: list[Spec] = []
    for file in _files([paths] if isinstance(paths, str | Path) else paths, problems):
        try:
            spec = load_spec(file)
        except SpecError as error:
            problems.append(str(error))
            continue
        specs.append(spec)
        if spec.name in named:
            problems.append(f"{file}: name: the name {spec.name} is taken by {named[spec.name]}")
        named.setdefault(spec.name, file)
    if problems:
        raise SpecError("\n".join(problems))
    return specs


def find_spec_files(folder: str | Path) -> list[str]:
    """The paths of the .yaml, .yml and .json files directly in the folder, sorted, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted(each.path for each in entries if each.name.lower().endswith(_ENDINGS) and each.name[0] != "." and each.is_file())
    except OSError as error:
        raise SpecError(f"{folder}: cannot be read as a folder: {error.strerror}") from error


def spec_from_mapping(data: Mapping[str, Any], *, where: str = "<mapping>", folder: str | Path | None = None) -> Spec:
    """The spec of a mapping in memory, with the same checks as a file's.

    `where` names it in errors. A relative path is resolved against `folder`; without one it is refused.
    """
    source = Source(where=where, data=dict(data) if isinstance(data, Mapping) else data)
    return _spec_of(source, folder=None if folder is None else str(folder))


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec file, for editors and for checks outside of Python."""
    schema = Spec.model_json_schema(by_alias=True)
    for section in ("convert", "promote", "validate"):  # their own keys say it
        schema["properties"][section].pop("default")
    for checks in schema["$defs"]["Validation"]["properties"].values():  # null is refused there
        if "anyOf" in checks:
            checks["anyOf"] = [choice for choice in checks["anyOf"] if choice != {"type": "null"}]
            checks.pop("default", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Deployment of an MLflow model to Triton",
        "description": Spec.__doc__,
        "examples": [{"name": "iris", "model": "models:/iris@challenger", "repository": "/models", "servers": ["triton_default"]}],
    }


def _files(paths: Iterable[str | Path], problems: list[str]) -> Iterator[str]:
    """Every spec file once; a folder that has none is a problem."""
    seen: set[str] = set()
    for path in map(str, paths):
        found = [path]
        if os.path.isdir(path):  # noqa: PTH112 - as `find_spec_files`
            found = find_spec_files(path)
            if not found:
                problems.append(f"{path}: no spec in this folder: none of its files ends in .yaml, .yml or .json")
        for file in found:
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                yield file


def _spec_of(source: Source, *, folder: str | None) -> Spec:
    problems = source.problems + not_plain(source.data)
    spec: Spec | None = None
    if not isinstance(source.data, dict):
        raise source.error(Problem((), f"expected a mapping at the top, got {shown(source.data)}"))
    try:
        spec = Spec.model_validate(source.data, context={"folder": folder})
    except ValidationError as error:
        known = {_words(problem.path) for problem in problems}
        problems += [problem for problem in from_pydantic(error, Spec) if _words(problem.path) not in known]
    if problems or spec is None:
        raise source.error(*problems)
    return spec


def _words(path: KeyPath) -> tuple[str, ...]:
    return tuple(str(part) for part in path)
