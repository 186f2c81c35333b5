"""The spec's typed model: every key with its type, its default and its meaning, and the combinations that cannot be."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, ValidationError, ValidationInfo, field_validator, model_validator

from airflow_triton.spec.convert import Convert
from airflow_triton.spec.problems import Problem, RefusedError, from_pydantic, shown
from airflow_triton.spec.section import Count, Section, folder_of
from airflow_triton.spec.validation import Validation
from airflow_triton.spec.values import (
    MODEL_PATTERN,
    NAME_PATTERN,
    checked_alias,
    checked_location,
    checked_model,
    checked_name,
    checked_schedule,
    checked_server,
    checked_servers,
    checked_tracking_uri,
    follows_registry,
    refused_config_keys,
)


class Promote(Section):
    """What happens once the candidate has passed."""

    alias: str | None = Field(default=None, description="the MLflow alias that is set when the version serves")
    keep: Annotated[StrictInt, Field(ge=0)] = Field(default=2, description="the number of earlier versions kept for rollback")
    keep_loaded: Annotated[StrictInt, Field(ge=0)] = Field(
        default=0, description="the number of earlier versions, of those kept, that stay loaded for a rollback in an instant"
    )
    wave: Annotated[StrictInt, Field(ge=1)] = Field(
        default=1, description="the number of replicas that are brought to the new version at a time"
    )
    warm_up: Count | None = Field(
        default=None, description="the number of requests with which Triton warms up every version that it loads, before it is ready"
    )
    approval: StrictBool = Field(default=False, description="wait until a person has approved the validated candidate, in Airflow")

    _alias = field_validator("alias")(lambda value: None if value is None else checked_alias(value))

    @model_validator(mode="after")
    def _keeps_what_is_loaded(self) -> Promote:
        if self.keep_loaded > self.keep:
            reason = f"{self.keep_loaded} earlier versions cannot stay loaded where {self.keep} are kept; raise `promote.keep`"
            raise RefusedError(Problem(("keep_loaded",), reason))
        return self


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Server = Annotated[str, BeforeValidator(lambda value: checked_server(value) if isinstance(value, str) else value)]


class Replica(Section):
    """A server that serves from a repository of its own."""

    server: Server = Field(description="an Airflow connection id or a URL")
    repository: str = Field(description="the model repository that it serves from, as in the spec's `repository`")

    @field_validator("repository")
    @classmethod
    def _repository(cls, value: str, info: ValidationInfo) -> str:
        return checked_location(value, folder_of(info))


def _server_or_replica(value: object, info: ValidationInfo) -> object:
    """The problems of a mapping by its keys, and of anything else as of a server."""
    if isinstance(value, str | Replica):
        return checked_server(value) if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        quotes = "; put it in quotes" if isinstance(value, bool | int | float) else ""
        raise ValueError(f"expected a string or a mapping, got {shown(value)}{quotes}")  # noqa: TRY004 - pydantic collects value errors
    try:
        return Replica.model_validate(value, context=info.context)
    except ValidationError as error:
        raise RefusedError(*from_pydantic(error, Replica)) from None


Servers = tuple[Annotated[str | Replica, BeforeValidator(_server_or_replica)], ...]


class Spec(Section):
    """One deployment: which MLflow model, in which form, on which servers, after which checks."""

    name: str = Field(
        description="the model's name on Triton", json_schema_extra={"pattern": f"^{NAME_PATTERN}$", "minLength": 1, "maxLength": 200}
    )
    model: str = Field(
        description="the MLflow model: models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest or runs:/RUN_ID/PATH",
        json_schema_extra={"pattern": f"^({MODEL_PATTERN})$"},
    )
    convert: Convert = Field(default=Convert(), description="what the model becomes")
    config: dict[str, Any] = Field(default_factory=dict, description="fields of Triton's ModelConfig, merged over the generated ones")
    repository: str | None = Field(
        default=None, description="the model repository: a folder, s3://, gs:// or as://; else TRITON_MODEL_REPO in the environment"
    )
    servers: Annotated[Servers | None, BeforeValidator(_one_or_many, json_schema_input_type=tuple[str | Replica, ...] | str | None)] = (
        Field(
            default=None,
            description="Airflow connection ids or URLs, all of one fleet, some perhaps with a repository of their own; else TRITON_URL",
        )
    )
    control_mode: Literal["explicit", "poll", "none"] | None = Field(
        default=None, description="Triton's --model-control-mode; else what the Airflow connection says, else explicit"
    )
    validation: Validation = Field(default=Validation(), alias="validate", description="what the candidate must pass before it may serve")
    promote: Promote = Field(default=Promote(), description="what happens once the candidate has passed")
    schedule: str | None = Field(
        default=None, description="registry (when the alias or the latest version moves), a cron expression, or none (by hand)"
    )
    tracking_uri: str | None = Field(default=None, min_length=1, description="MLflow's tracking and registry URI; else the environment's")

    _name = field_validator("name")(checked_name)
    _model = field_validator("model")(checked_model)
    _schedule = field_validator("schedule")(checked_schedule)

    @field_validator("config")
    @classmethod
    def _config(cls, value: dict[str, Any]) -> dict[str, Any]:
        refused = refused_config_keys(value)
        if refused:
            raise RefusedError(*(Problem((key,), reason) for key, reason in refused))
        return copy.deepcopy(value)

    @field_validator("repository")
    @classmethod
    def _repository(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else checked_location(value, folder_of(info))

    @field_validator("servers")
    @classmethod
    def _servers(cls, value: tuple[str | Replica, ...] | None) -> tuple[str | Replica, ...] | None:
        if value is not None:
            checked_servers(tuple(each if isinstance(each, str) else each.server for each in value))
        return value

    @field_validator("tracking_uri")
    @classmethod
    def _tracking_uri(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else checked_tracking_uri(value, folder_of(info))

    @model_validator(mode="after")
    def _fits(self) -> Spec:
        if self.schedule == "registry" and not follows_registry(self.model):
            reason = f"{self.model} always means the same version; use models:/NAME@ALIAS or models:/NAME/latest, or another schedule"
            raise RefusedError(Problem(("schedule",), reason))
        return self

    def to_mapping(self) -> dict[str, Any]:
        """The spec as plain JSON types, keys without a value left out; `spec_from_mapping` makes an equal spec of it."""
        mapping = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"config", "convert"})
        mapping["config"] = copy.deepcopy(self.config)
        mapping["convert"] = {"to": self.convert.to, **self.convert.model_dump(mode="json", exclude_defaults=True)}
        mapping["validate"].setdefault("parity", False)
        return mapping

    def written(self) -> dict[str, Any]:
        """`to_mapping` without what was left to the defaults: of an equal spec, in fewer words."""
        mapping = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True, exclude={"config", "convert"})
        if self.config:
            mapping["config"] = copy.deepcopy(self.config)
        if "convert" in self.model_fields_set:
            mapping["convert"] = self.convert.model_dump(mode="json", exclude_defaults=True)
        if "parity" in self.validation.model_fields_set:
            mapping["validate"].setdefault("parity", False)
        return mapping

    def digest(self) -> str:
        """SHA-256, in hex, of what decides the deployment: not of when it runs, nor of how long a conversion may take."""
        mapping = self.to_mapping()
        mapping.pop("schedule", None)
        mapping["convert"] = {"to": self.convert.to, "parity": mapping["convert"].get("parity"), **self.convert.recipe()}
        return hashlib.sha256(json.dumps(mapping, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
