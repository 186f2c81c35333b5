"""What MLflow's registry is told of a deployment: tags on the model version, and the alias of what serves.

The tags of a deployment named `iris`: `triton.iris.verdict` (passed or rejected), `.why`, `.at`, `.spec` (the spec that it was held
against) and `.state` (serving, replaced). MLflow tells, it does not decide: where it does not answer, the deployment goes on and
the outcome carries a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from airflow_triton.errors import RegistryError
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.validation.report import ValidationReport

_MOST_CHARACTERS = 1000


@dataclass(frozen=True)
class Verdict:
    """The last verdict on any version of a model."""

    version: int
    verdict: str
    why: str
    at: str


class Verdicts:
    """The tags and the alias of one deployment. The methods answer the warnings of what MLflow did not take."""

    def __init__(self, registry: Registry, deployment: str) -> None:
        self._registry = registry
        self._prefix = f"triton.{deployment}"

    def record(self, source: ModelSource, report: ValidationReport, *, spec_digest: str) -> list[str]:
        """Tag the version with the verdict."""
        tags = {
            "verdict": "passed" if report.passed else "rejected",
            "why": report.verdict[:_MOST_CHARACTERS],
            "at": report.at,
            "spec": spec_digest,
        }
        return self._told(lambda: self._tag(source.name, source.version, tags))

    def serving(self, name: str, version: int, *, alias: str | None, previous: int | None) -> list[str]:
        """Move the alias to the version that serves, and tag it and the one that it replaced."""
        problems = self._told(lambda: self._registry.set_alias(name, alias, version)) if alias else []
        problems += self._told(lambda: self._tag(name, version, {"state": "serving"}))
        if previous not in (None, version):
            problems += self._told(lambda: self._tag(name, int(previous or 0), {"state": "replaced"}))
        return problems

    def was_rejected(self, source: ModelSource, *, spec_digest: str) -> bool:
        """Whether this version was rejected already when it was held against this very spec."""
        tags = self._registry.tags(source.name, source.version)
        return tags.get(f"{self._prefix}.verdict") == "rejected" and tags.get(f"{self._prefix}.spec") == spec_digest

    def last(self, name: str) -> Verdict | None:
        """The verdict on the newest version that has one."""
        found = self._registry.newest_tagged(name, f"{self._prefix}.at")
        if found is None:
            return None
        version, tags = found
        return Verdict(version, *(tags.get(f"{self._prefix}.{key}", "") for key in ("verdict", "why", "at")))

    def _tag(self, name: str, version: int, tags: dict[str, str]) -> None:
        self._registry.set_tags(name, version, {f"{self._prefix}.{key}": value for key, value in tags.items()})

    @staticmethod
    def _told(tell: Callable[[], None]) -> list[str]:
        try:
            tell()
        except RegistryError as error:
            return [str(error)]
        return []
