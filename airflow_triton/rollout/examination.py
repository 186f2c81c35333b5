"""The examination of a candidate: its data, what the MLflow model itself answers, what the servers answer, and the checks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton import convert as conversion
from airflow_triton import model_config
from airflow_triton.errors import ValidationDataError
from airflow_triton.repository import Item, Repository
from airflow_triton.rollout.conversions import Conversions
from airflow_triton.rollout.records import Candidate, Converted
from airflow_triton.rollout.serving import Servers
from airflow_triton.rollout.trial import TRIAL_SERVER, local_trial
from airflow_triton.server import TritonClient
from airflow_triton.spec import Validation
from airflow_triton.tensors import load_arrays, save_arrays
from airflow_triton.validation import (
    CheckResult,
    Dataset,
    ValidationReport,
    as_model_gives,
    as_server_takes,
    ask,
    load_dataset,
    metric_check,
    parity_check,
)
from airflow_triton.validation.probe import make_probe

if TYPE_CHECKING:
    import numpy as np


class Examination:
    """How the candidates of one deployment are examined, by the spec's `rules`."""

    def __init__(self, rules: Validation, store: Repository, servers: Servers, conversions: Conversions) -> None:
        self.rules = rules
        self.store = store
        self.servers = servers
        self.conversions = conversions
        self.workspace: Path = conversions.workspace

    def report(self, candidate: Candidate, items: Callable[[], list[Item]]) -> ValidationReport:
        """Ask the candidate on every server, and check its answers. In NONE mode, a local Triton is asked, with the files of `items`.

        Raises:
            ValidationDataError: there is no data, or it does not fit.
            ServerError: a server does not answer.

        """
        rules, servable = self.rules, candidate.converted.servable
        data = self._dataset(candidate.converted)
        metrics = rules.metrics or {}
        if metrics and data.labels is None:
            raise ValidationDataError(f"{data.origin} has no labels in `{rules.label}`, which the metrics {sorted(metrics)} need")
        expected = self._reference(candidate.converted, data) if rules.parity else None
        config = model_config.parse(candidate.config)
        sent = as_server_takes(config, data.inputs)
        checks: list[CheckResult] = []
        got: Mapping[str, np.ndarray] = {}
        with self._trial(candidate, items) as clients:
            for server, client in clients.items():
                got = ask(client, candidate.name, sent, rows=min(config.max_batch_size, rules.batch_size))
                answers = as_model_gives(config, servable, got)
                if rules.parity and expected is not None:
                    checks.append(parity_check(answers, expected, rtol=rules.parity.rtol, atol=rules.parity.atol, server=server))
                for name, limit in metrics.items():
                    assert data.labels is not None
                    checks.append(metric_check(name, answers, data.labels, minimum=limit.min, maximum=limit.max, server=server))
        probe = make_probe(sent, got, batching=config.max_batch_size > 0)
        return ValidationReport(candidate=candidate.name, data=data.origin, rows=data.rows, checks=tuple(checks), probe=probe)

    @contextlib.contextmanager
    def _trial(self, candidate: Candidate, items: Callable[[], list[Item]]) -> Iterator[Mapping[str, TritonClient]]:
        """The servers that have the candidate loaded, by the names that the report gives them."""
        if self.servers.control.takes_candidates:
            yield {str(client.address): client for client in self.servers.clients}
            return
        version = candidate.converted.source.version
        with local_trial(self.store, candidate.name, version, items(), candidate.config) as client:
            yield {TRIAL_SERVER: client}

    def _dataset(self, converted: Converted) -> Dataset:
        if self.rules.data:
            columns = conversion.signature_columns(self.conversions.registry.download(converted.source, self.workspace))
            return load_dataset(self.rules.data, converted.servable, label=self.rules.label, columns=columns)
        example = self.workspace / f"{converted.servable_id}-example.npz"
        if not self.conversions.example(converted.source, converted.servable, example):
            raise ValidationDataError(f"{converted.source} has no input example to validate with")
        return Dataset("the model's input example", load_arrays(example))

    def _reference(self, converted: Converted, data: Dataset) -> Mapping[str, np.ndarray]:
        inputs, outputs = self.workspace / "inputs.npz", self.workspace / "outputs.npz"
        save_arrays(inputs, data.inputs)
        self.conversions.reference(converted.source, converted.servable, inputs, outputs)
        return load_arrays(outputs)
