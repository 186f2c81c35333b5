"""The examination of a candidate: its data, what the MLflow model itself answers, what the servers answer, and the checks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton import convert as conversion
from airflow_triton import model_config, repository
from airflow_triton.errors import ServerError, ServerUnreachableError, ValidationDataError
from airflow_triton.repository import Item, Probe, Release, Repository
from airflow_triton.rollout.conversions import Conversions
from airflow_triton.rollout.records import Candidate, Converted
from airflow_triton.rollout.serving import Servers
from airflow_triton.rollout.trial import TRIAL_SERVER, local_trial
from airflow_triton.server import TritonClient
from airflow_triton.spec import Validation
from airflow_triton.validation import (
    Asked,
    Bench,
    Check,
    CheckResult,
    Dataset,
    Places,
    ValidationReport,
    as_server_takes,
    ask_all,
    checks_of,
    golden_of,
    misfit,
    prepare,
    warm_up,
)
from airflow_triton.validation.asking import ANSWER_SECONDS
from airflow_triton.validation.probe import make_probe

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from airflow_triton.repository.object_store.connect import SessionLookup


@dataclass(frozen=True)
class _Champion:
    """The version that serves now; `unfit` says why it cannot be asked what the candidate is asked ("" where it can)."""

    asked: Asked
    release: Release
    unfit: str = ""


@dataclass(frozen=True)
class _Round:
    """Checks that see the same rows; `expected` are files with the MLflow model's own answers to them."""

    checks: Sequence[Check]
    dataset: Dataset
    expected: Sequence[Path] = ()


class Examination:
    """How the candidates of the deployment `name` are examined, by the spec's `rules`.

    `lookup` turns the id of an Airflow connection into a boto3 session, for data at s3://CONNECTION@BUCKET/FILE.
    """

    def __init__(
        self,
        name: str,
        rules: Validation,
        store: Repository,
        servers: Servers,
        conversions: Conversions,
        *,
        lookup: SessionLookup | None = None,
    ) -> None:
        self.name = name
        self.rules = rules
        self.store = store
        self.servers = servers
        self.conversions = conversions
        self.lookup = lookup
        self.workspace: Path = conversions.workspace
        self.kept = conversions.workspace / "kept"
        self._prepared: dict[str, dict[str, Dataset]] = {}
        self._seconds: dict[str, float] = {}

    def check_declared(self) -> None:
        """Raise ValidationDataError where a suite, a function or a check that the spec names is not there; reads no data."""
        checks_of(self.rules)
        golden_of(self.rules)

    def prepare(self, converted: Converted, config: str) -> None:
        """Read the data and hold it against the model, its config.pbtxt and every check, before anything is staged.

        Raises:
            ValidationDataError: there is no data, it does not fit, or a check cannot run on it.

        """
        datasets = self._datasets(converted)
        declared = checks_of(self.rules, max_batch_size=model_config.parse(config).max_batch_size)
        for dataset, checks in ((datasets.get("data"), declared), (datasets.get("golden"), golden_of(self.rules))):
            for check in checks:
                if dataset is None:
                    raise ValidationDataError(f"{converted.source} has no input example to validate with")
                _check_fits(check, dataset, converted)
                check.fit(dataset, converted.servable)

    def shapes(self, converted: Converted, config: ModelConfig) -> warm_up.Shapes:
        """The dims of one row of the data for each input, as the server takes it.

        Raises:
            ValidationDataError: there is no data, or it does not fit.

        """
        dataset = next(iter(self._datasets(converted).values()), None)
        if dataset is None:
            raise ValidationDataError(f"{converted.source} has no input example to take the shapes of a warm-up from")
        sent = as_server_takes(config, next(dataset.parts()).inputs)
        return {name: array.shape[1:] if config.max_batch_size > 0 else array.shape for name, array in sent.items()}

    def report(self, candidate: Candidate, items: Callable[[], list[Item]]) -> ValidationReport:
        """Ask the candidate on every server, and check its answers. In NONE mode, a local Triton is asked, with the files of `items`.

        Raises:
            ValidationDataError: there is no data, or it does not fit.
            ServerError: a server does not answer.

        """
        self._seconds = {}
        source = candidate.converted.source
        self.prepare(candidate.converted, candidate.config)
        datasets = self._datasets(candidate.converted)
        expected = self._reference(candidate.converted, datasets.get("data"))
        asked = Asked(candidate.name, source.version, model_config.parse(candidate.config), candidate.converted.servable)
        champion = self._champion(asked)
        results: list[CheckResult] = []
        with self._trial(candidate, items) as clients:
            for server, client in clients.items():
                warm_up.ask(client, asked.model, asked.version, asked.config, seconds=ANSWER_SECONDS)
                for each in self._rounds(datasets, expected, asked):
                    results += [result.model_copy(update={"server": server}) for result in self._run(client, each, asked, champion)]
            probe = self._probe(client, asked, next(iter(datasets.values())))
        return ValidationReport(
            candidate=candidate.name,
            name=self.name,
            model=f"models:/{source.name}/{source.version}",
            champion=champion.release.version if champion else None,
            data=", ".join(dataset.origin for dataset in datasets.values()),
            rows=sum(dataset.rows for dataset in datasets.values()),
            checks=tuple(results),
            probe=probe,
            seconds=self._seconds,
        )

    def unanswered(self, candidate: Candidate, error: ServerError) -> ValidationReport:
        """The report on a candidate that could not be asked, although every server lives: an error, or no answer within the deadline.

        Raises:
            ServerError: `error` itself, where a server does not live: that says nothing about the candidate.

        """
        for client in self.servers.clients if self._on_servers(candidate) else ():
            try:
                client.check_live()
            except ServerUnreachableError:
                raise error from None
        source = candidate.converted.source
        check = CheckResult(name="answers", passed=False, summary=f"the candidate does not answer: {error}")
        return ValidationReport(
            candidate=candidate.name,
            name=self.name,
            model=f"models:/{source.name}/{source.version}",
            data=", ".join(dataset.origin for dataset in self._datasets(candidate.converted).values()),
            rows=0,
            checks=(check,),
        )

    def _rounds(self, datasets: Mapping[str, Dataset], expected: Sequence[Path], asked: Asked) -> list[_Round]:
        """The checks, newly made, by the rows that they see."""
        rounds = []
        checks = checks_of(self.rules, self.kept, max_batch_size=asked.config.max_batch_size)
        if (data := datasets.get("data")) and checks:
            rounds.append(_Round(checks, data, expected))
        if (recorded := datasets.get("golden")) and (checks := golden_of(self.rules)):
            rounds.append(_Round(checks, recorded))
        return rounds

    def _run(self, client: TritonClient, each: _Round, asked: Asked, champion: _Champion | None) -> list[CheckResult]:
        """All checks of one round on one server: the rows are asked once, for all of them."""
        checks, dataset, expected, servable = each.checks, each.dataset, each.expected, asked.servable
        assert servable is not None
        for check in checks:
            check.fit(dataset, servable)
        unfit = champion.unfit or self._not_served(client, champion) if champion else ""
        rival = champion.asked if champion and not unfit else None
        compared = [asked, rival] if rival and any("champion" in check.needs for check in checks) else [asked]
        with self._timed("asking"):
            for seen in ask_all(client, compared, dataset, rows=self.rules.batch_size, in_flight=self.rules.concurrency, expected=expected):
                if problem := misfit(seen.answers, servable, rows=seen.part.rows):
                    return [CheckResult(name="answers", passed=False, summary=f"the candidate answers otherwise than declared: {problem}")]
                for check in checks:
                    check.see(seen)
        first = next(dataset.parts())
        bench = Bench(
            client=client,
            candidate=(asked.model, asked.version),
            inputs=as_server_takes(asked.config, first.inputs),
            most_rows=asked.batch(self.rules.batch_size),
            champion=(rival.model, rival.version) if rival else None,
            unfit=unfit,
        )
        results: list[CheckResult] = []
        for check in checks:
            with self._timed(check.name):
                results += check.results(bench)
        return results

    def _champion(self, asked: Asked) -> _Champion | None:
        """The version that serves now, as the repository says; None where it is itself what is asked."""
        if asked.model == self.name:
            return None
        found = repository.releases(self.store, self.name)
        if not found:
            return None
        release = found[-1]
        config = model_config.parse(release.config)
        manifest = self.store.manifest(self.name, release.version)
        champion = Asked(self.name, release.version, config, manifest.servable if manifest else None)
        wanted, given = _inputs(asked), _inputs(champion)
        unfit = (
            ""
            if wanted == given
            else f"version {release.version}, which serves, takes other inputs ({given}) than the candidate ({wanted})"
        )
        if not self.servers.control.takes_candidates:
            unfit = "in NONE mode the candidate is asked on a local Triton, where the version that serves is not"
        return _Champion(champion, release, unfit)

    def _not_served(self, client: TritonClient, champion: _Champion) -> str:
        """Why the champion cannot be asked on this server; one that came back empty is brought to it first."""
        if champion.release.version in client.ready_versions(self.name):
            return ""
        problems = Servers([client]).follow(self.name, champion.release)
        return "; ".join(problems)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[part] = round(self._seconds.get(part, 0.0) + time.monotonic() - started, 3)

    def _on_servers(self, candidate: Candidate) -> bool:
        """Whether the servers have what is examined: a candidate, where their mode lets them, or what serves."""
        return self.servers.control.takes_candidates or candidate.name == self.name

    @contextlib.contextmanager
    def _trial(self, candidate: Candidate, items: Callable[[], list[Item]]) -> Iterator[Mapping[str, TritonClient]]:
        """The servers that have the candidate loaded, by the names that the report gives them."""
        if self._on_servers(candidate):
            yield {str(client.address): client for client in self.servers.clients}
            return
        version = candidate.converted.source.version
        with local_trial(self.store, candidate.name, version, items(), candidate.config) as client:
            yield {TRIAL_SERVER: client}

    def _datasets(self, converted: Converted) -> dict[str, Dataset]:
        """The rows of `validate.data` (else the input example) and of `validate.golden`, read once."""
        if converted.servable_id not in self._prepared:
            with self._timed("reading"):
                read = {"data": self._data(converted), "golden": self._golden(converted)}
            self._prepared[converted.servable_id] = {name: dataset for name, dataset in read.items() if dataset}
        return self._prepared[converted.servable_id]

    def _data(self, converted: Converted) -> Dataset | None:
        rules = self.rules
        if rules.data:
            return self._read(converted, rules.data, "data", label=rules.label, sample=rules.sample)
        example = self.workspace / f"{converted.servable_id}-example.npz"
        if not checks_of(rules) or not self.conversions.example(converted.source, converted.servable, example):
            return None
        folder = self.workspace / f"{converted.servable_id}-rows"
        return prepare(example, converted.servable, folder, origin="the model's input example", label=None)

    def _golden(self, converted: Converted) -> Dataset | None:
        if self.rules.golden is None:
            return None
        recorded = {tensor.name for tensor in converted.servable.outputs}
        label = None if self.rules.label in recorded else self.rules.label
        return self._read(converted, self.rules.golden.data, "golden", label=label)

    def _read(self, converted: Converted, location: str, name: str, *, label: str | None, sample: int | None = None) -> Dataset:
        registry = self.conversions.registry
        columns = conversion.signature_columns(registry.download(converted.source, self.workspace))
        return prepare(
            Places(self.workspace / "data", registry, converted.source, self.lookup).bring(location),
            converted.servable,
            self.workspace / f"{converted.servable_id}-{name}",
            origin=location,
            label=label,
            columns=columns,
            sample=sample,
            seed=self.rules.seed,
        )

    def _reference(self, converted: Converted, dataset: Dataset | None) -> list[Path]:
        """Files with the MLflow model's own answers, one for each part of the data; none where no check wants them."""
        if dataset is None or not any("expected" in check.needs for check in checks_of(self.rules)):
            return []
        outputs = [path.with_name(f"{path.stem}-expected.npz") for path in dataset.inputs]
        with self._timed("MLflow model"):
            self.conversions.reference(converted.source, converted.servable, dataset.inputs, outputs)
        return outputs

    def _probe(self, client: TritonClient, asked: Asked, dataset: Dataset) -> Probe | None:
        """One request with its answer, to ask a live model whether it is this one."""
        sent = as_server_takes(asked.config, next(dataset.parts()).inputs)
        batching = asked.config.max_batch_size > 0
        one = {name: array[:1] if batching else array for name, array in sent.items()}
        return make_probe(one, client.infer(asked.model, one, version=asked.version), batching=batching)


def _check_fits(check: Check, dataset: Dataset, converted: Converted) -> None:
    if "expected" in check.needs and not conversion.has_original(converted.source.flavors):
        raise ValidationDataError(f"{converted.source}: {conversion.NO_ORIGINAL} (the check {check.name!r} needs its answers)")
    if "labels" in check.needs and not dataset.labelled:
        raise ValidationDataError(
            f"{dataset.origin} has no labels, which the check {check.name!r} needs: `validate.label` names their column"
        )
    if "recorded" in check.needs and not dataset.recorded:
        raise ValidationDataError(f"{dataset.origin} holds no recorded answers, which the check {check.name!r} needs")


def _inputs(asked: Asked) -> str:
    """The inputs as a server takes them, for a comparison."""
    rows = sorted((tensor.name, tensor.data_type, list(tensor.dims)) for tensor in asked.config.input)
    return ", ".join(f"{name} {dims}" for name, _, dims in rows)
