"""The requirements of an environment: the model's own, what our converters need, and the user's, which win."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_triton.convert import base
from airflow_triton.convert.mlmodel import MlflowModel

DISTRIBUTION = "airflow-provider-triton"
WORKER_ONLY = frozenset({"click", "rich", "tritonclient", "protobuf", "apache-airflow"})
"""What a conversion does not import: a model's own pins must not be held against it."""

EXTRAS = ("convert", "pytorch", "local")
"""The extras in which the requirements of converters lie, and uv, which packs environments."""

ALWAYS = frozenset({"pandas", "packaging"})
"""What every conversion needs beside the base and its route's tools: the input example may be a table."""


@dataclass(frozen=True)
class Requirements:
    """Lines as pip reads them: what to install, and what only limits versions."""

    lines: tuple[str, ...]
    constraints: tuple[str, ...] = ()

    def digest(self, *more: str) -> str:
        """The name under which what is made of them is kept."""
        text = "\n".join([*sorted(self.lines), "--", *sorted(self.constraints), "--", *more])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_model(folder: Path) -> Requirements:
    """What the model was logged with: its requirements.txt with the files that it names, or the pip part of its conda.yaml."""
    path = folder / "requirements.txt"
    if path.is_file():
        lines, constraints = _read(path)
        return Requirements(tuple(lines), tuple(constraints))
    for entry in _yaml(folder / "conda.yaml").get("dependencies", []):
        if isinstance(entry, dict):
            return Requirements(tuple(str(line) for line in entry.get("pip", [])))
    return Requirements(())


def python_of(folder: Path) -> str | None:
    """The Python that the model was logged with, such as "3.11"; None where it does not say."""
    told = [str(_yaml(folder / "python_env.yaml").get("python", ""))]
    told += [
        str(line).partition("=")[2] for line in _yaml(folder / "conda.yaml").get("dependencies", []) if str(line).startswith("python=")
    ]
    for text in told:
        if found := re.match(r"=?(3\.\d+)", text):
            return found.group(1)
    return None


def of_conversion(model: MlflowModel, form: base.Form) -> tuple[str, ...]:
    """What a child needs to convert the model and to ask it: of this package's requirements, the base's and the route's tools'."""
    from packaging.requirements import Requirement

    tools = {name_of(tool) for tool in base.route_of(model, form).tools} | ALWAYS | ({"uv"} if form == "python" else set())
    found = []
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        name = name_of(requirement.name)
        if name in WORKER_ONLY:
            continue
        if marker is None or marker.evaluate({"extra": ""}) or (name in tools and any(marker.evaluate({"extra": one}) for one in EXTRAS)):
            requirement.marker = None
            found.append(str(requirement))
    return tuple(sorted({line for line in found if name_of(line) != "mlflow"}))  # the model brings it, or is content with mlflow-skinny


def merged(model: Requirements, ours: Iterable[str], users: Iterable[str]) -> Requirements:
    """All of them; what the user names takes the place of the model's and our requirement of that package.

    What packages require of each other still holds: a set that contradicts it cannot be installed.
    """
    wins = {name_of(line): line for line in users}
    kept = (line for line in (*model.lines, *ours) if name_of(line) not in wins)
    limits = tuple(line for line in model.constraints if name_of(line) not in wins)
    return Requirements((*kept, *wins.values()), limits)


def name_of(line: str) -> str:
    """The package that a requirement names, as pip compares names; the line itself where it names none (an option, a file)."""
    found = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[|[<>=!~;@ ]|$)", line)
    return re.sub(r"[-_.]+", "-", found.group(1)).lower() if found else line


def _read(path: Path) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    constraints: list[str] = []
    for line in _lines(path):
        option, _, name = line.partition(" ")
        if option in ("-r", "--requirement"):
            more, limits = _read(path.parent / name.strip())
            lines += more
            constraints += limits
        elif option in ("-c", "--constraint"):
            constraints += _lines(path.parent / name.strip())
        else:
            local = path.parent / line
            lines.append(str(local.resolve()) if local.suffix == ".whl" and local.is_file() else line)
    return lines, constraints


def _lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        plain = re.sub(r"(^|\s)#.*", "", line).strip()
        if plain:
            yield plain


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
