"""A plan, what the builder was told, and what is known of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_triton.convert.tensorrt.available import Machine
from airflow_triton.convert.tensorrt.profiles import Shapes
from airflow_triton.errors import ConversionError
from airflow_triton.repository.manifest import FileDigest
from airflow_triton.servable import TensorSpec
from airflow_triton.spec.tensorrt import Precision

PLAN_FILE = "model.plan"
"""The plan in the folder of a build, and in a version with one plan: the file that Triton's TensorRT backend opens."""

RECORD_FILE = "plan.json"
"""What is known of the plan, beside it in the folder of a build."""


class Order(BaseModel):
    """What the builder is told. None: TensorRT's own default."""

    model_config = ConfigDict(frozen=True)

    precision: Precision = "fp32"
    profiles: dict[str, Shapes] = Field(default_factory=dict)
    workspace_mib: int | None = None
    optimization_level: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False


class Plan(BaseModel):
    """What is known of a plan; its manifest records it.

    `source` is the ONNX model, `graph` what TensorRT read: the same files, or those that ModelOpt made of them. Each is the graph first,
    then the weights beside it. `inputs` and `outputs` are the engine's own. `seconds`: what `precision` and `build` took.
    """

    model_config = ConfigDict(frozen=True)

    file: FileDigest
    machine: Machine
    order: Order
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    source: tuple[FileDigest, ...]
    graph: tuple[FileDigest, ...]
    modelopt: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def tools(self) -> dict[str, str]:
        """The versions of what took part."""
        return {"tensorrt": self.machine.tensorrt, **({"nvidia-modelopt": self.modelopt} if self.modelopt else {})}


def read(folder: Path) -> Plan:
    """What is known of the plan in the folder of a build.

    Raises:
        ConversionError: there is none.

    """
    path = folder / RECORD_FILE
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConversionError(f"{path} cannot be read as the record of a plan: {error}") from error
