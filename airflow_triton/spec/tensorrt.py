"""The spec's section `convert.tensorrt`: how a TensorRT plan is built, and on which workers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, ValidationInfo, field_validator, model_validator

from airflow_triton.spec.problems import Problem, RefusedError, shown
from airflow_triton.spec.section import Count, Section, folder_of
from airflow_triton.spec.values import absolute, checked_location

Dimensions = Annotated[tuple[Count, ...], Field(min_length=1)]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8"]

QUANTIZED = ("fp8", "int8")
ON_TRITON = ("fp32", "fp16", "bf16")
"""The precisions that Triton's onnxruntime backend can ask TensorRT for (`precision_mode`; bf16 since 26.02)."""

_GPU_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")


class Profile(Section):
    """One input's shapes in a TensorRT optimization profile."""

    min: Dimensions = Field(description="the smallest shape, batch axis included")
    opt: Dimensions = Field(description="the shape to optimize for")
    max: Dimensions = Field(description="the largest shape")

    @model_validator(mode="after")
    def _ordered(self) -> Profile:
        if not len(self.min) == len(self.opt) == len(self.max):
            lengths = f"min has {len(self.min)}, opt {len(self.opt)} and max {len(self.max)} axes"
            raise ValueError(f"{lengths}; all three are shapes of one input, and have as many axes as it has")
        for axis, (low, best, high) in enumerate(zip(self.min, self.opt, self.max, strict=True)):
            if not low <= best <= high:
                raise ValueError(f"axis {axis} has min {low}, opt {best} and max {high}; min <= opt <= max is needed")
        return self


class Worker(Section):
    """On which worker a task of Airflow runs."""

    queue: str | None = Field(default=None, min_length=1, description="the queue of the Celery workers that have the GPU")
    pool: str | None = Field(default=None, min_length=1, description="the Airflow pool that limits how many plans are built at a time")
    executor: str | None = Field(default=None, min_length=1, description="the executor, by the alias or class that Airflow knows it by")
    pod_override: dict[str, Any] | None = Field(
        default=None, description="a Kubernetes pod, as in a manifest, merged over the worker's own (the KubernetesExecutor's pod_override)"
    )


class TensorRT(Worker):
    """How a TensorRT plan is built."""

    builder: Literal["worker", "triton"] = Field(
        default="worker",
        description="worker: a plan is built on a GPU worker; triton: the ONNX model is served, and Triton's onnxruntime backend lets "
        "TensorRT accelerate it when it loads it, so that no GPU is needed here",
    )
    precision: Precision = Field(
        default="fp32", description="the precision of the plan; tf32 is fp32 with matrix products of 10-bit mantissas, which fp32 forbids"
    )
    profiles: dict[str, Profile] = Field(
        default_factory=dict, description="the shapes of each input; else 1 to `max_batch_size` rows, where only the batch axis varies"
    )
    calibration: str | None = Field(
        default=None, description="an .npz with one array for each input, rows of real data: int8 and fp8 need it, fp16 and bf16 may use it"
    )
    workspace_mib: Count | None = Field(default=None, description="the GPU memory that a layer may use, in MiB; else TensorRT's default")
    optimization_level: Annotated[StrictInt, Field(ge=0, le=5)] | None = Field(
        default=None, description="how long the builder searches, 0 to 5; else TensorRT's default (3)"
    )
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        default="none", description="on which other GPUs the plan runs; all but `none` cost speed"
    )
    version_compatible: StrictBool = Field(
        default=False, description="whether later TensorRT versions can run the plan; the server must allow it (version-compatible=true)"
    )
    timing_cache: str | Literal[False] | None = Field(
        default=None,
        description="a folder that outlives the worker and keeps the builder's measurements; false: none; else the user's cache folder",
    )
    engine_cache: str | None = Field(
        default=None, description="for `builder: triton`: a folder on the server that keeps the engines from one load to the next"
    )
    environment: str = Field(
        default="worker",
        min_length=1,
        description="`worker` (the Python of the task), or the path of a Python that has airflow-provider-triton[tensorrt]'s packages",
    )
    gpus: dict[str, Worker] = Field(
        default_factory=dict,
        description="several kinds of GPU, by names of your own: a plan is built on each; its keys go before those here",
    )

    @field_validator("calibration")
    @classmethod
    def _calibration(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        location = checked_location(value, folder_of(info))
        if "://" in location:
            raise ValueError("a URL is not available yet; meanwhile: use a file that the GPU worker can read")
        if not location.lower().endswith(".npz"):
            raise ValueError(f"got {shown(value)}; calibration data is an .npz file, with one array for each input")
        return location

    @field_validator("timing_cache")
    @classmethod
    def _timing_cache(cls, value: str | Literal[False] | None, info: ValidationInfo) -> str | Literal[False] | None:
        if value and "://" in value:
            raise ValueError(f"got {shown(value)}; a folder is needed, which may be a mounted volume that the GPU workers share")
        return absolute(value, folder_of(info)) if value else value

    @field_validator("engine_cache")
    @classmethod
    def _engine_cache(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError(f"got {shown(value)}; this is a folder on the server, so an absolute path is needed")
        return value

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: str, info: ValidationInfo) -> str:
        return value if value == "worker" else checked_location(value, folder_of(info))

    @field_validator("gpus")
    @classmethod
    def _gpus(cls, value: dict[str, Worker]) -> dict[str, Worker]:
        if bad := [name for name in value if not _GPU_NAME.fullmatch(name)]:
            raise RefusedError(*(Problem((name,), "the name of a kind of GPU is made of letters, digits, `_` and `-`") for name in bad))
        return value

    @model_validator(mode="after")
    def _fits(self) -> TensorRT:
        problems = self._triton_problems() if self.builder == "triton" else self._worker_problems()
        if problems:
            raise RefusedError(*problems)
        return self

    def _worker_problems(self) -> list[Problem]:
        problems = []
        if self.precision in QUANTIZED and self.calibration is None:
            reason = f"precision {self.precision} needs the ranges of real data: an .npz with one array for each input"
            problems.append(Problem(("calibration",), reason))
        if self.calibration is not None and self.precision in ("fp32", "tf32"):
            problems.append(Problem(("calibration",), f"precision {self.precision} uses no calibration data"))
        if self.engine_cache is not None:
            problems.append(Problem(("engine_cache",), "a plan needs no cache on the server; this key is for `builder: triton`"))
        if self.hardware_compatibility == "ampere_plus" and len(self.gpus) > 1:
            reason = "one plan that is `ampere_plus` runs on every GPU from Ampere on: name one kind of GPU to build it on, or none"
            problems.append(Problem(("gpus",), reason))
        return problems

    def _triton_problems(self) -> list[Problem]:
        """What only a plan can have was set, though Triton itself is to build."""
        worker_only = {"calibration", "hardware_compatibility", "version_compatible", "timing_cache", "environment", "gpus"}
        worker_only |= set(Worker.model_fields)
        given = [name for name in type(self).model_fields if name in worker_only and getattr(self, name) != _default(name)]
        problems = [Problem((name,), "with `builder: triton` no plan is built on a worker; leave it out") for name in given]
        if self.precision not in ON_TRITON:
            valid = ", ".join(ON_TRITON)
            problems.append(Problem(("precision",), f"with `builder: triton`, {self.precision} cannot be asked for; valid: {valid}"))
        return problems

    def workers(self) -> dict[str, Worker]:
        """Where a plan is built: one entry for each kind of GPU, or a single one with the name ""."""
        mine = {name: getattr(self, name) for name in Worker.model_fields}
        if not self.gpus:
            return {"": Worker(**mine)}
        return {name: Worker(**{**mine, **each.model_dump(exclude_none=True)}) for name, each in self.gpus.items()}


def _default(name: str) -> Any:
    return TensorRT.model_fields[name].get_default(call_default_factory=True)
