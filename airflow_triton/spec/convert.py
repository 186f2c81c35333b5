"""The spec's section `convert`: what the model becomes, where that is done, and how it is proven."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator, model_validator

from airflow_triton.spec.problems import Problem, RefusedError
from airflow_triton.spec.section import Count, NotNegative, Positive, Section, folder_of
from airflow_triton.spec.tensorrt import TensorRT, Worker
from airflow_triton.spec.values import checked_location


class Parity(Section):
    """How far two models' answers may be apart: |difference| <= atol + rtol * |expected|."""

    rtol: NotNegative = Field(default=1e-4, description="relative tolerance")
    atol: NotNegative = Field(default=1e-5, description="absolute tolerance")


class PythonBackend(Section):
    """How a model of Triton's Python backend finds its packages on the server."""

    environment: Literal["packed", "server"] = Field(
        default="packed", description="packed: the model's requirements travel with the version; server: what the server has installed"
    )
    python_version: Annotated[str, Field(pattern=r"^3\.\d+$")] | None = Field(
        default=None, description="the Python of the server's Python backend, such as 3.12; else this worker's"
    )


class Convert(Section):
    """What the model becomes."""

    to: Literal["onnx", "tensorrt", "torchscript", "python", "as-is"] = Field(default="onnx", description="the form that Triton serves")
    environment: str = Field(
        default="worker",
        min_length=1,
        description="where the model is converted and asked: `worker` (the Python of this process), `model` (an environment built of the "
        "model's own requirements and kept), or the path of a Python",
    )
    requirements: tuple[str, ...] = Field(
        default=(), description="pip requirements on top of those that the model was logged with, for `environment: model` and `to: python`"
    )
    timeout_seconds: Positive = Field(default=600.0, description="the time that the conversion may take")
    memory_mib: Count | None = Field(default=None, description="the resident memory that the conversion may take, in MiB; else no limit")
    cache: str | Literal[False] | None = Field(
        default=None,
        description="a folder or an object store that keeps conversions; false: none; else AIRFLOW_TRITON_CACHE in the environment, or "
        "the user's cache folder",
    )
    parity: Parity = Field(default=Parity(), description="how far the converted model may be from the MLflow model, before it is published")
    opset: Count | None = Field(default=None, description="the newest ONNX opset to write; else what the servers are known to read")
    simplify: StrictBool = Field(default=False, description="simplify the graph of an ONNX model (onnxslim)")
    python: PythonBackend = Field(default=PythonBackend(), description="options of `to: python`")
    tensorrt: TensorRT | None = Field(default=None, description="options of `to: tensorrt`")

    @property
    def form(self) -> Literal["onnx", "torchscript", "python", "as-is"]:
        """What the flavor's converter makes: of `to: tensorrt`, it is the ONNX model."""
        return "onnx" if self.to == "tensorrt" else self.to

    @property
    def plans(self) -> TensorRT | None:
        """How TensorRT plans are built on GPU workers; None where none are."""
        options = self._tensorrt
        return options if options is not None and options.builder == "worker" else None

    @property
    def acceleration(self) -> TensorRT | None:
        """How Triton lets TensorRT accelerate the ONNX model; None where it does not."""
        options = self._tensorrt
        return options if options is not None and options.builder == "triton" else None

    @property
    def _tensorrt(self) -> TensorRT | None:
        return (self.tensorrt or TensorRT()) if self.to == "tensorrt" else None

    def recipe(self) -> dict[str, Any]:
        """What beside `to` decides the files, where it is not the default: not the limits, the caches, the tolerances, or which workers."""
        whole = self.model_dump(mode="json", exclude_defaults=True, exclude={"to", "timeout_seconds", "memory_mib", "cache", "parity"})
        if self.tensorrt is not None:
            where = {*Worker.model_fields, "timing_cache", "environment", "gpus"}
            plan = self.tensorrt.model_dump(mode="json", exclude_defaults=True, exclude=where)
            whole["tensorrt"] = {**plan, **({"gpus": sorted(self.tensorrt.gpus)} if self.tensorrt.gpus else {})}
        return whole

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: str, info: ValidationInfo) -> str:
        return value if value in ("worker", "model") else checked_location(value, folder_of(info))

    @field_validator("cache")
    @classmethod
    def _cache(cls, value: str | Literal[False] | None, info: ValidationInfo) -> str | Literal[False] | None:
        return checked_location(value, folder_of(info)) if value else value

    @model_validator(mode="after")
    def _fits(self) -> Convert:
        if self.tensorrt is not None and self.to != "tensorrt":
            raise RefusedError(Problem(("tensorrt",), f"these options need `to: tensorrt`, and `to` is {self.to}"))
        if self.python != PythonBackend() and self.to != "python":
            raise RefusedError(Problem(("python",), f"these options need `to: python`, and `to` is {self.to}"))
        return self
