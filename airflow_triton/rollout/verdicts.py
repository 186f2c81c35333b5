"""What MLflow's registry is told of a deployment: tags on the model version, and the alias of what serves.

The tags of a deployment named `iris`: `triton.iris.verdict` (passed, rejected, failed, or refused by a person), `.why`, `.at`,
`.spec` (the spec that it was held against), `.report` (where the report is kept; "": nowhere), `.state` (serving, replaced), `.server`
(where it serves), `.by` (who released it), `.refused_by`, and `.revalidation` (passed or failed, of what serves) with `_why` and `_at`. The
description of the version that serves has a line that says so. MLflow tells, it does not decide: where it does not answer, the deployment
goes on and the outcome carries a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from airflow_triton.errors import RegistryError
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.repository.manifest import now
from airflow_triton.validation.report import ValidationReport

TAG_PREFIX = "triton."
"""What the names of all our tags start with."""
_MOST_CHARACTERS = 1000
_KEYS = (
    "verdict",
    "why",
    "at",
    "spec",
    "report",
    "state",
    "server",
    "by",
    "refused_by",
    "revalidation",
    "revalidation_why",
    "revalidation_at",
)
_STATE = re.compile(r"triton\..+\.state")


@dataclass(frozen=True)
class Verdict:
    """The last verdict on any version of a model; `by` is the person who refused it."""

    version: int
    verdict: str
    why: str
    at: str
    by: str | None = None


class Verdicts:
    """The tags and the alias of one deployment. The methods answer the warnings of what MLflow did not take."""

    def __init__(self, registry: Registry, deployment: str) -> None:
        self._registry = registry
        self._prefix = f"{TAG_PREFIX}{deployment}"

    def record(self, source: ModelSource, report: ValidationReport, *, spec_digest: str) -> list[str]:
        """Tag the version with the verdict."""
        tags = {
            "verdict": "passed" if report.passed else "rejected",
            "why": report.verdict[:_MOST_CHARACTERS],
            "at": report.at,
            "spec": spec_digest,
            "report": report.links.get("report", ""),
        }
        return self._told(lambda: self._tag(source.name, source.version, tags))

    def failed(self, source: ModelSource, why: str) -> list[str]:
        """Tag the version as one that neither passed nor was rejected: something else went wrong, and it may be tried again."""
        return self._told(
            lambda: self._tag(source.name, source.version, {"verdict": "failed", "why": f"failed: {why}"[:_MOST_CHARACTERS], "at": now()})
        )

    def revalidated(self, source: ModelSource, report: ValidationReport) -> list[str]:
        """Tag the version, which serves, with what another look at it came to; the verdict of its promotion stays."""
        tags = {
            "revalidation": "passed" if report.passed else "failed",
            "revalidation_why": report.verdict[:_MOST_CHARACTERS],
            "revalidation_at": report.at,
        }
        return self._told(lambda: self._tag(source.name, source.version, tags))

    def refuse(self, source: ModelSource, *, by: str, comment: str, spec_digest: str) -> list[str]:
        """Tag the version as one that passed, and that a person refused."""
        why = f"refused: by {by}{f': {comment}' if comment else ''}"[:_MOST_CHARACTERS]
        tags = {"verdict": "refused", "why": why, "at": now(), "spec": spec_digest, "refused_by": by}
        return self._told(lambda: self._tag(source.name, source.version, tags))

    def serving(
        self, name: str, version: int, *, alias: str | None, previous: int | None, by: str | None = None, servers: Iterable[object] = ()
    ) -> list[str]:
        """Move the alias to the version that serves, tag it, with who released it and the `servers`, and the one that it replaced."""
        where = ", ".join(map(str, servers))[:_MOST_CHARACTERS]
        tags = {"state": "serving", **({"by": by} if by else {}), **({"server": where} if where else {})}
        problems = self._told(lambda: self._registry.set_alias(name, alias, version)) if alias else []
        problems += self._told(lambda: self._tag(name, version, tags))
        problems += self._told(lambda: self._describe(name, version, f"serves version {version}{f' on {where}' if where else ''}"))
        if previous not in (None, version):
            problems += self._told(lambda: self._tag(name, int(previous or 0), {"state": "replaced"}))
            problems += self._told(lambda: self._describe(name, int(previous or 0), None))
        return problems

    def deleted(self, name: str, aliases: Mapping[str, Iterable[int]]) -> list[str]:
        """Take back everything that a registered model's versions were told of the deployment.

        An alias goes where it still means a version that the deployment set it to (`aliases`), and no other deployment serves that.
        """
        return self._told(lambda: self._untell(name, aliases))

    def _untell(self, name: str, aliases: Mapping[str, Iterable[int]]) -> None:
        found = self._registry.descriptions(name)
        for version, (description, tags) in sorted(found.items()):
            self._registry.delete_tags(name, version, [key for key in tags if key in self._keys])
            if (rest := self._without_line(description)) != description:
                self._registry.describe(name, version, rest)
        for alias, version in self._registry.aliases(name).items():
            if version in aliases.get(alias, ()) and not self._others_serve(found.get(version, ("", {}))[1]):
                self._registry.delete_alias(name, alias)

    @property
    def _keys(self) -> set[str]:
        return {f"{self._prefix}.{key}" for key in _KEYS}

    def _others_serve(self, tags: Mapping[str, str]) -> bool:
        return any(_STATE.fullmatch(key) and value == "serving" for key, value in tags.items() if key not in self._keys)

    def _describe(self, name: str, version: int, what: str | None) -> None:
        """Put the deployment's line into the description of a version, or remove it; what else is written there stays."""
        rest = self._without_line(self._registry.description(name, version))
        lines = [rest.rstrip("\n")] if rest else []
        self._registry.describe(name, version, "\n".join([*lines, f"{self._line}{what}"]) if what else rest)

    @property
    def _line(self) -> str:
        return f"NVIDIA Triton: `{self._prefix.removeprefix('triton.')}` "

    def _without_line(self, text: str) -> str:
        lines = text.split("\n")
        kept = [line for line in lines if not line.startswith(self._line)]
        return text if kept == lines else "\n".join(kept)

    def was_rejected(self, source: ModelSource, *, spec_digest: str) -> bool:
        """Whether this version was rejected, or refused by a person, when it was held against this very spec."""
        return self.rejection(source, spec_digest=spec_digest) is not None

    def rejection(self, source: ModelSource, *, spec_digest: str) -> Verdict | None:
        """The verdict on this version, where it was rejected or refused when it was held against this very spec."""
        tags = self._registry.tags(source.name, source.version)
        found = self._verdict(source.version, tags)
        return found if found.verdict in {"rejected", "refused"} and tags.get(f"{self._prefix}.spec") == spec_digest else None

    def refused(self, name: str) -> list[Verdict]:
        """The last verdict on each version of a registered model that may not serve (rejected, failed, refused), in their order."""
        found = [self._verdict(*row) for row in sorted(self._registry.tagged(name, f"{self._prefix}.at").items())]
        return [each for each in found if each.verdict in {"rejected", "failed", "refused"}]

    def last(self, name: str) -> Verdict | None:
        """The verdict on the newest version that has one."""
        found = self._registry.newest_tagged(name, f"{self._prefix}.at")
        if found is None:
            return None
        return self._verdict(*found)

    def _verdict(self, version: int, tags: Mapping[str, str]) -> Verdict:
        verdict, why, at = (tags.get(f"{self._prefix}.{key}", "") for key in ("verdict", "why", "at"))
        return Verdict(version, verdict, why, at, tags.get(f"{self._prefix}.refused_by") if verdict == "refused" else None)

    def _tag(self, name: str, version: int, tags: dict[str, str]) -> None:
        self._registry.set_tags(name, version, {f"{self._prefix}.{key}": value for key, value in tags.items()})

    @staticmethod
    def _told(tell: Callable[[], None]) -> list[str]:
        try:
            tell()
        except RegistryError as error:
            return [str(error)]
        return []
