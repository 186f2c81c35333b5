"""What a converter leaves and everything after it works on: the files of one Triton version directory, and their tensors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"
]
"""Triton's names of tensor element types, as its protocol writes them (config.pbtxt puts `TYPE_` before them; BYTES is TYPE_STRING)."""

SERVABLE_FILE = "servable.json"
"""The description of a servable, beside (never inside) its files."""


class TensorSpec(BaseModel):
    """One input or output as the model itself sees it, batch axis included.

    `shape` has -1 for a dimension that may vary; an empty shape is a scalar.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    datatype: DataType
    shape: tuple[int, ...]


class Servable(BaseModel):
    """The description of the files that Triton serves for one model version.

    Guarantee: `inputs` and `outputs` are what the files really take and give (outputs were observed by running the model where
    its own declaration was missing or wrong), so that a config.pbtxt built from them loads.
    """

    model_config = ConfigDict(frozen=True)

    backend: str = Field(description="Triton's backend, such as onnxruntime; `ensemble` for what has none")
    default_model_filename: str = Field(
        description='the file or folder in the version directory that the backend opens; "" where nothing says it'
    )
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batching: bool = Field(description="every input and output has a dynamic first axis, and it is one and the same axis")
    flavor: str = Field(description="the MLflow flavor that it was made of")
    converter: str = Field(description="what made it, such as skl2onnx, or as-is")
    tools: dict[str, str] = Field(default_factory=dict, description="versions of the packages that took part")
    notes: tuple[str, ...] = Field(default=(), description="what its user should know of how it was made, a sentence each")
    parameters: dict[str, str] = Field(
        default_factory=dict, description="parameters of its config; `{version}` in a value stands for the version's number"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="fields of its config that go with the files, under the spec's")
    plans: tuple[dict[str, Any], ...] = Field(default=(), description="what is known of its TensorRT plans (`convert.tensorrt.Plan`)")
    entry: str | None = Field(default=None, description="the file without which Triton cannot open the version, below its folder")
    config: str | None = Field(default=None, description="a ready model's own config.pbtxt, without its name and version policy")
    beside: tuple[str, ...] = Field(
        default=(), description="files that `config` names below the model's folder, and that lie in the version folder"
    )
