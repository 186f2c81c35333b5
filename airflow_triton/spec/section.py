"""What every section of the spec is made of: closed, frozen, and strict about numbers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationInfo
from typing_extensions import Self

from airflow_triton.spec.problems import shown


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {shown(value)}")  # noqa: TRY004 - pydantic collects value errors
    return value


Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_bool)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_no_bool)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_no_bool)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), BeforeValidator(_no_bool)]
Count = Annotated[StrictInt, Field(ge=1)]


class Section(BaseModel):
    """A mapping of the spec; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Itself: pydantic copies the default of a section for each spec, and nobody changes one."""
        return self


def folder_of(info: ValidationInfo) -> str | None:
    """The folder that relative paths of the spec are resolved against."""
    return info.context.get("folder") if isinstance(info.context, dict) else None
