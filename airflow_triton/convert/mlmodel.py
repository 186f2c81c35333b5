"""What an MLflow model says of itself in its `MLmodel` file, read without MLflow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_triton.errors import ConversionError

COLUMN_TYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "str",
}
"""The numpy names of the types of MLflow's column signatures that a tensor can have (mlflow.types.DataType)."""


@dataclass(frozen=True)
class Field:
    """One input or output of a signature: a table's column, or a tensor.

    `dtype` is numpy's name of the element type ("str" for text), or MLflow's own where a tensor has no such type. `shape` is
    None for a column. A lone tensor may have no name.
    """

    name: str | None
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class MlflowModel:
    """A downloaded MLflow model: its folder, its flavors with their settings, and its signature (None: it has none)."""

    folder: Path
    flavors: dict[str, dict[str, Any]]
    inputs: tuple[Field, ...] | None = None
    outputs: tuple[Field, ...] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns of the signature in its order; None where there is no signature, or one of tensors."""
        if not self.inputs or any(entry.shape is not None or entry.name is None for entry in self.inputs):
            return None
        return tuple(str(entry.name) for entry in self.inputs)

    def file(self, flavor: str, key: str) -> Path:
        """The file that a flavor's setting names.

        Raises:
            ConversionError: the setting is absent, leads out of the model's folder, or names nothing.

        """
        name = self.flavors[flavor].get(key)
        path = (self.folder / str(name)).resolve()
        if not name or not path.is_relative_to(self.folder.resolve()) or not path.exists():
            raise ConversionError(f"{self.folder / 'MLmodel'}: flavors.{flavor}.{key} is {name!r}, and there is no such file in the model")
        return path


def read(folder: Path) -> MlflowModel:
    """Read `folder`/MLmodel.

    Raises:
        ConversionError: there is none, or it cannot be understood.

    """
    import yaml

    path = folder / "MLmodel"
    try:
        return understood(yaml.safe_load(path.read_text(encoding="utf-8")), folder)
    except FileNotFoundError as error:
        raise ConversionError(f"{folder} is no MLflow model: it has no MLmodel file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} cannot be understood as an MLmodel file: {error!r}") from error


def understood(meta: Any, folder: Path) -> MlflowModel:
    """What the content of the MLmodel file of `folder` says.

    Raises:
        ConversionError: it cannot be understood.

    """
    try:
        signature = meta.get("signature") or {}
        return MlflowModel(
            folder=folder,
            flavors={name: settings or {} for name, settings in meta["flavors"].items()},
            inputs=_fields(signature.get("inputs")),
            outputs=_fields(signature.get("outputs")),
            meta=meta,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(f"{folder / 'MLmodel'} cannot be understood as an MLmodel file: {error!r}") from error


def _fields(text: str | None) -> tuple[Field, ...] | None:
    return None if not text else tuple(_field(entry) for entry in json.loads(text))


def _field(entry: dict[str, Any]) -> Field:
    if entry["type"] == "tensor":
        tensor = entry["tensor-spec"]
        return Field(entry.get("name"), "str" if tensor["dtype"] in ("object", "str") else tensor["dtype"], tuple(tensor["shape"]))
    return Field(entry.get("name"), COLUMN_TYPES.get(entry["type"], entry["type"]), None)
