"""The spec's typed model: every key with its type, its default and its meaning, and the combinations that cannot be."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, ValidationInfo, field_validator, model_validator

from airflow_triton.spec.convert import Convert, Parity
from airflow_triton.spec.problems import Problem, RefusedError
from airflow_triton.spec.section import Count, NotNegative, Number, Positive, Section, folder_of
from airflow_triton.spec.values import (
    MODEL_PATTERN,
    NAME_PATTERN,
    checked_alias,
    checked_data,
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

Metric = Literal["accuracy", "auc", "f1", "mae", "r2", "rmse"]


class Latency(Section):
    """How quickly the candidate has to answer."""

    p99_ms: Positive = Field(description="99 of 100 requests are answered within this many milliseconds")
    requests: Count = Field(default=200, description="the number of requests that are measured")
    concurrency: Count = Field(default=4, description="the number of requests under way at a time")


class Limits(Section):
    """Limits of one metric; at least one is given."""

    min: Number | None = Field(default=None, description="not below this")
    max: Number | None = Field(default=None, description="not above this")
    max_drop: NotNegative | None = Field(default=None, description="not worse than the model that serves now by more than this")

    @model_validator(mode="after")
    def _limits_something(self) -> Limits:
        if self.min is None and self.max is None and self.max_drop is None:
            raise ValueError("no limit given; valid: min, max, max_drop")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing can pass")
        return self


def _parity(value: object) -> object:
    """False is off, true is the defaults."""
    if isinstance(value, bool):
        return Parity() if value else None
    return value


class Validation(Section):
    """What the candidate must pass, on the server, before it may serve."""

    parity: Annotated[Parity | None, BeforeValidator(_parity, json_schema_input_type=Parity | bool)] = Field(
        default=Parity(), description="compare with the MLflow model; false switches it off"
    )
    data: str | None = Field(default=None, description="a .parquet, .csv, .json or .npz file to ask with; else the model's input example")
    label: str = Field(default="label", min_length=1, description="the column of `data` that holds the labels")
    batch_size: Count = Field(default=32, description="the number of rows of `data` in one request, at most")
    latency: Latency | None = Field(default=None, description="limits of the answering time")
    expectations: str | None = Field(default=None, description="a Great Expectations suite, checked on the predictions")
    metrics: dict[Metric, Limits] | None = Field(default=None, description="limits of metrics of the predictions against the labels")

    @field_validator("*", mode="before")
    @classmethod
    def _no_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("nothing (null) given: a check that checks nothing is no check; fill it in or remove the key")
        return value

    @field_validator("data")
    @classmethod
    def _data(cls, value: str, info: ValidationInfo) -> str:
        return checked_data(value, folder_of(info))

    @field_validator("expectations")
    @classmethod
    def _expectations(cls, value: str, info: ValidationInfo) -> str:
        return checked_location(value, folder_of(info))

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, value: dict[Metric, Limits]) -> dict[Metric, Limits]:
        if not value:
            raise ValueError("no metric given: name one or remove the key")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Validation:
        problems = []
        if self.metrics and self.data is None:
            problems.append(Problem(("metrics",), "metrics need `validate.data`, with a column of labels"))
        if self.label != "label" and self.data is None:
            problems.append(Problem(("label",), "a label column needs `validate.data`"))
        if not (self.parity or self.metrics or self.latency or self.expectations):
            problems.append(Problem(("parity",), "parity is off and no other check is declared: a gate that checks nothing stays closed"))
        if problems:
            raise RefusedError(*problems)
        return self


class Promote(Section):
    """What happens once the candidate has passed."""

    alias: str | None = Field(default=None, description="the MLflow alias that is set when the version serves")
    keep: Annotated[StrictInt, Field(ge=0)] = Field(default=2, description="the number of earlier versions kept for rollback")
    approval: StrictBool = Field(default=False, description="wait for a person, in Airflow")

    _alias = field_validator("alias")(lambda value: None if value is None else checked_alias(value))


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Server = Annotated[str, BeforeValidator(lambda value: checked_server(value) if isinstance(value, str) else value)]


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
    servers: Annotated[tuple[Server, ...] | None, BeforeValidator(_one_or_many, json_schema_input_type=tuple[str, ...] | str | None)] = (
        Field(default=None, description="Airflow connection ids or URLs, all of one fleet; else TRITON_URL in the environment")
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
    def _servers(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else checked_servers(value)

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
        mapping = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"config"})
        mapping["config"] = copy.deepcopy(self.config)
        mapping["convert"] = {"to": self.convert.to, **self.convert.model_dump(mode="json", exclude_defaults=True)}
        mapping["validate"].setdefault("parity", False)
        return mapping

    def digest(self) -> str:
        """SHA-256, in hex, of what decides the deployment: not of when it runs, nor of how long a conversion may take."""
        mapping = self.to_mapping()
        mapping.pop("schedule", None)
        mapping["convert"] = {"to": self.convert.to, "parity": mapping["convert"].get("parity"), **self.convert.recipe()}
        return hashlib.sha256(json.dumps(mapping, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
