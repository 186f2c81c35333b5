"""The spec's section `validate`: what a candidate must pass, on the server, before it may serve."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, Field, StrictInt, ValidationInfo, field_validator, model_validator

from airflow_triton.spec.convert import Parity
from airflow_triton.spec.problems import Problem, RefusedError, shown, valid_words
from airflow_triton.spec.section import Count, NotNegative, Number, Positive, Section, Share, folder_of
from airflow_triton.spec.values import absolute, checked_data, checked_function, checked_word

Metric = Literal["accuracy", "auc", "f1", "mae", "r2", "rmse"]
Severity: TypeAlias = Literal["critical", "warning"]

_SEVERITY: Any = Field(default="critical", description="critical: the candidate is rejected; warning: the report says so, and it goes on")


class ServedParity(Parity):
    """How far the server's answers may be from the MLflow model's own: every limit that is given has to hold."""

    cosine: Share | None = Field(default=None, description="the smallest cosine similarity of a floating-point output, per 8,192 rows")
    argmax: Share | None = Field(default=None, description="the smallest share of rows whose largest score is in the same place")
    outputs: dict[str, Parity] = Field(default_factory=dict, description="other tolerances for single outputs, by name")
    severity: Severity = _SEVERITY


class Golden(Section):
    """Recorded answers that the candidate has to give again."""

    data: str = Field(description="a .jsonl of requests with their responses, or an .npz or table with the inputs and the outputs")
    rtol: NotNegative = Field(default=1e-4, description="relative tolerance")
    atol: NotNegative = Field(default=1e-5, description="absolute tolerance")
    severity: Severity = _SEVERITY

    @field_validator("data")
    @classmethod
    def _data(cls, value: str, info: ValidationInfo) -> str:
        return checked_data(value, folder_of(info))


class Latency(Section):
    """How quickly the candidate has to answer: at least one limit."""

    p50_ms: Positive | None = Field(default=None, description="half of the requests are answered within this many milliseconds")
    p95_ms: Positive | None = Field(default=None, description="95 of 100 requests are answered within this many milliseconds")
    p99_ms: Positive | None = Field(default=None, description="99 of 100 requests are answered within this many milliseconds")
    throughput: Positive | None = Field(default=None, description="rows a second, at least")
    max_slowdown: Positive | None = Field(
        default=None, description="how many times the median of the model that serves now, measured in turns with it, at most"
    )
    requests: Count = Field(default=200, description="the number of requests that are measured")
    concurrency: Count = Field(default=4, description="the number of requests under way at a time")
    batch_size: Count | None = Field(default=None, description="rows of a request; else `validate.batch_size`")
    warm_up: Annotated[StrictInt, Field(ge=0)] = Field(default=20, description="requests before the measurement")
    severity: Severity = _SEVERITY

    @model_validator(mode="after")
    def _limits_something(self) -> Latency:
        limits = ("p50_ms", "p95_ms", "p99_ms", "throughput", "max_slowdown")
        if all(getattr(self, name) is None for name in limits):
            raise ValueError(f"no limit given; valid: {', '.join(limits)}")
        return self


class Limits(Section):
    """Limits of one metric; at least one is given."""

    min: Number | None = Field(default=None, description="not below this")
    max: Number | None = Field(default=None, description="not above this")
    max_drop: NotNegative | None = Field(default=None, description="not worse than the model that serves now by more than this")
    function: str | None = Field(default=None, description="MODULE:NAME of your own metric: f(answers, labels) to a number")
    lower_is_better: bool | None = Field(default=None, description="which way is worse, for a metric of your own; else higher is better")
    severity: Severity = _SEVERITY

    @field_validator("function")
    @classmethod
    def _function(cls, value: str | None) -> str | None:
        return None if value is None else checked_function(value)

    @model_validator(mode="after")
    def _limits_something(self) -> Limits:
        if self.min is None and self.max is None and self.max_drop is None:
            raise ValueError("no limit given; valid: min, max, max_drop")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing can pass")
        return self


class Expectations(Section):
    """A Great Expectations suite, held against the inputs joined with the predictions."""

    context: str | None = Field(default=None, description="the folder of a Great Expectations project (a file data context)")
    suite: str = Field(min_length=1, description="a .yaml or .json file; or, with `context`, the name of a suite that is kept there")

    @field_validator("context")
    @classmethod
    def _context(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else absolute(value, folder_of(info))

    @field_validator("suite")
    @classmethod
    def _suite(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("context") is not None:
            return value
        if "://" in value or not value.endswith((".yaml", ".yml", ".json")):
            raise ValueError(f"got {shown(value)}; a suite is a .yaml or .json file on disk, or the name of one that a `context` keeps")
        return absolute(value, folder_of(info))


def _parity(value: object) -> object:
    """False is off, true is the defaults."""
    if isinstance(value, bool):
        return ServedParity() if value else None
    return value


def _under(key: str, section: type[Section]) -> BeforeValidator:
    """A plain text stands for the section with this one key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value, json_schema_input_type=section | str)


class Validation(Section):
    """What the candidate must pass, on the server, before it may serve."""

    parity: Annotated[ServedParity | None, BeforeValidator(_parity, json_schema_input_type=ServedParity | bool)] = Field(
        default=ServedParity(), description="compare with the MLflow model; false switches it off"
    )
    data: str | None = Field(
        default=None,
        description="rows to ask with: a .parquet, .csv, .json or .npz file, or recorded requests (.jsonl), on disk or on a store; "
        "runs:/RUN_ID/FILE, artifact:FILE (of the model's own run) or dataset:NAME (that its run logged); else the model's input example",
    )
    label: str = Field(default="label", min_length=1, description="the column of `data` that holds the labels")
    sample: Count | None = Field(default=None, description="the number of rows of `data` that are asked, drawn at random; else all")
    seed: Annotated[StrictInt, Field(ge=0)] = Field(default=0, description="the same seed draws the same rows")
    batch_size: Count = Field(default=32, description="the number of rows in one request, at most")
    concurrency: Count = Field(default=8, description="the number of requests under way at a time")
    golden: Annotated[Golden | None, _under("data", Golden)] = Field(default=None, description="recorded answers")
    latency: Latency | None = Field(default=None, description="limits of the answering time")
    expectations: Annotated[Expectations | None, _under("suite", Expectations)] = Field(
        default=None, description="a Great Expectations suite"
    )
    metrics: dict[str, Limits] | None = Field(
        default=None,
        description="limits of metrics of the predictions against the labels",
        json_schema_extra={"properties": {name: {} for name in get_args(Metric)}, "additionalProperties": {"required": ["function"]}},
    )
    checks: dict[str, dict[str, Any]] | None = Field(
        default=None,
        description="checks of your own (entry points of the group airflow_triton.checks) and their options; `severity` is every check's",
    )

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

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, value: dict[str, Limits]) -> dict[str, Limits]:
        if not value:
            raise ValueError("no metric given: name one or remove the key")
        known = get_args(Metric)
        problems = [
            Problem((name,), f"unknown key; {valid_words(name, known)}; or give it a `function`")
            for name, limits in value.items()
            if limits.function is None and name not in known
        ]
        problems += [
            Problem((name, "lower_is_better"), "this is known of the metrics that come with the package")
            for name, limits in value.items()
            if limits.function is None and limits.lower_is_better is not None
        ]
        problems += [Problem((name,), checked_word(name)) for name in value if checked_word(name)]
        if problems:
            raise RefusedError(*problems)
        return value

    @field_validator("checks")
    @classmethod
    def _checks(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not value:
            raise ValueError("no check given: name one or remove the key")
        known = get_args(Severity)
        problems = [
            Problem((name, "severity"), f"got {shown(options['severity'])}; valid: {', '.join(known)}")
            for name, options in value.items()
            if options.get("severity", known[0]) not in known
        ]
        if problems:
            raise RefusedError(*problems)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Validation:
        problems = []
        if self.metrics and self.data is None:
            problems.append(Problem(("metrics",), "metrics need `validate.data`, with a column of labels"))
        changed = [key for key in ("label", "sample", "seed") if getattr(self, key) != type(self).model_fields[key].default]
        problems += [Problem((key,), f"`{key}` needs `validate.data`") for key in changed if self.data is None]
        if not (self.expectations or self.may_reject):
            problems.append(_closed(self))
        if problems:
            raise RefusedError(*problems)
        return self

    @property
    def may_reject(self) -> bool:
        """Whether a check is declared whose severity lets it reject, expectations aside: their suite says that of each."""
        own = [options.get("severity") for options in (self.checks or {}).values()]
        checks = (self.parity, self.golden, self.latency, *(self.metrics or {}).values())
        return any(severity != "warning" for severity in (*own, *(check.severity for check in checks if check)))


def _closed(rules: Validation) -> Problem:
    """Why these rules let nothing pass."""
    if any((rules.parity, rules.golden, rules.latency, rules.metrics, rules.checks)):
        return Problem((), "every check only warns: nothing could reject a candidate, and a gate that checks nothing stays closed")
    return Problem(("parity",), "parity is off and no other check is declared: a gate that checks nothing stays closed")
