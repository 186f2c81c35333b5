"""What travels between the steps of the pipeline: small, plain JSON, never a model."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from airflow_triton.registry import ModelSource
from airflow_triton.repository import FileDigest
from airflow_triton.servable import Servable
from airflow_triton.spec import Spec
from airflow_triton.validation.agreement import Agreement
from airflow_triton.validation.report import ValidationReport


def digest(*parts: Any) -> str:
    """SHA-256 of JSON-like parts; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def servable_id(spec: Spec, source: ModelSource) -> str:
    """What the files are made of: the model's content and how it is to be converted. Tool versions are recorded, not compared.

    Deployments of one model under two names have servables of their own: each removes its own.
    """
    return digest("servable", spec.name, source.digest, spec.convert.to, *filter(None, [spec.convert.recipe()]))[:32]


def onnx_id(spec: Spec, source: ModelSource) -> str:
    """The identity of the ONNX model that a deployment's TensorRT plans are built of."""
    recipe = {key: value for key, value in spec.convert.recipe().items() if key != "tensorrt"}
    return digest("servable", spec.name, source.digest, "onnx", *filter(None, [recipe]))[:32]


def deployment_id(spec: Spec, source: ModelSource) -> str:
    """The identity of a deployment: stable over retries, new when the model, its conversion or its configuration changes."""
    warm_up = [spec.promote.warm_up] if spec.promote.warm_up else []
    return digest("deployment", spec.name, source.name, source.version, servable_id(spec, source), spec.config, *warm_up)[:32]


_MOST_FIGURES = 20
_MOST_CHARACTERS = 300


def in_short(report: ValidationReport) -> dict[str, Any]:
    """What the history keeps of a validation: its `verdict` in at most 300 characters, and at most 20 `figures`.

    A figure is named by its check, such as `accuracy` or `parity.probabilities.max_abs`, and rounded to six digits; those that have the
    check's own name come first. Of several servers it is what the first one answered.
    """
    found: dict[str, float] = {}
    for check in report.checks:
        for name, value in check.figures.items():
            if math.isfinite(value):
                found.setdefault(name if name == check.name else f"{check.name}.{name}", float(f"{value:.6g}"))
    chief_first = sorted(found, key=lambda name: "." in name)
    return {"verdict": report.verdict[:_MOST_CHARACTERS], "figures": {name: found[name] for name in chief_first[:_MOST_FIGURES]}}


class Converted(BaseModel):
    """A model as Triton takes it. The files are in the repository: a stored version, or its work area."""

    model_config = ConfigDict(frozen=True)

    source: ModelSource
    servable_id: str
    servable: Servable
    files: tuple[FileDigest, ...] = Field(description="the digests of the files, taken when they were made")
    agreement: Agreement | None = Field(default=None, description="the proof of the conversion; None where it was found stored")
    conversion_seconds: dict[str, float] = Field(default_factory=dict, description="what converting and proving took in the child")


class Candidate(BaseModel):
    """A candidate that is loaded on every server under a name of its own.

    `before` is the etag of the model's config.pbtxt when the candidate was staged (None: there was none): a promotion goes
    through only if it is still the same. `elsewhere` are those of the further repositories.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    converted: Converted
    config: str
    before: str | None
    elsewhere: tuple[str | None, ...] = ()


class Outcome(BaseModel):
    """What a deployment or a rollback came to. `warnings` tell what did not work although the model serves."""

    model_config = ConfigDict(frozen=True)

    name: str
    action: Literal["promoted", "unchanged", "loaded", "rolled back"]
    version: int
    previous: int | None = None
    report: ValidationReport | None = None
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        came_from = f" (before: {self.previous})" if self.previous not in (None, self.version) else ""
        told = {
            "promoted": f"version {self.version} was promoted{came_from}",
            "unchanged": f"version {self.version} is released already; nothing to do",
            "loaded": f"version {self.version} was stored, but not served everywhere; it is loaded again",
            "rolled back": f"version {self.version} serves again{came_from}",
        }[self.action]
        return f"{self.name}: {told}"
