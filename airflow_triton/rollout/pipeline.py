"""The pipeline: resolve, convert, configure, stage, validate, promote, clean up; and rollback.

Each step is a method of `Rollout`, takes what the step before it answered, and can be repeated: killed at any instruction and
run again, it converges. `deploy` is all of them in their order. Whatever fails before `promote` has changed nothing that
serves; a promotion that the server does not take is put back.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from airflow_triton import convert as conversion
from airflow_triton import model_config, repository
from airflow_triton.errors import (
    ConflictError,
    DeployError,
    RejectedError,
    ServerError,
    SpecError,
    ValidationDataError,
)
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.repository import Manifest, Release, Repository
from airflow_triton.repository.places import etag_of
from airflow_triton.rollout.author import author
from airflow_triton.rollout.conversions import Conversions
from airflow_triton.rollout.converted_files import ConvertedFiles
from airflow_triton.rollout.examination import Examination
from airflow_triton.rollout.leftovers import Leftovers
from airflow_triton.rollout.plans import BuiltPlan, Plans
from airflow_triton.rollout.promotion import Fleet, Part, all_servers, bring_back, let_serve
from airflow_triton.rollout.records import Candidate, Converted, Outcome, deployment_id, in_short, onnx_id, servable_id
from airflow_triton.rollout.reports import Reports
from airflow_triton.rollout.serving import Servers
from airflow_triton.rollout.staging import Staging
from airflow_triton.rollout.verdicts import Verdicts
from airflow_triton.servable import Servable
from airflow_triton.server.releases import onnx_limits, release_of
from airflow_triton.spec import Spec
from airflow_triton.validation import (
    CheckResult,
    ValidationReport,
)
from airflow_triton.validation.warm_up import Shapes, warmed_up

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from airflow_triton.repository.object_store.connect import SessionLookup

Progress = Callable[[str], None]


class Rollout:
    """One model's way to its servers, as its spec declares it.

    `store` and `servers` are the fleet where the model is converted; `others` are those with repositories of their own. `workspace` is
    a folder for downloads that outlives the call of a step (each step may have another); `progress` is told what is being done, in
    one line each. `by` is who releases (None: see `author`), `approved_by` who approved what passes. `lookup` turns the
    id of an Airflow connection into a boto3 session. `copies` is a folder for the reports, as files.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        store: Repository,
        servers: Servers,
        registry: Registry,
        workspace: Path,
        others: Sequence[Fleet] = (),
        progress: Progress = lambda _: None,
        by: str | None = None,
        approved_by: str | None = None,
        lookup: SessionLookup | None = None,
        copies: Path | None = None,
    ) -> None:
        self.spec = spec
        self.approved_by = approved_by if spec.promote.approval else None
        self.by = author(f"approved by {self.approved_by}; {author(by)}" if self.approved_by else by)
        self.store = store
        self.fleets = (Fleet(store, servers), *others)
        self.registry = registry
        self.workspace = workspace
        self.progress = progress
        self.verdicts = Verdicts(registry, spec.name)
        self.conversions = Conversions(spec, registry, workspace, progress, self._onnx_limits)
        self.files = ConvertedFiles(spec, store, self.conversions, workspace)
        self.examination = Examination(spec.name, spec.validation, store, servers, self.conversions, lookup=lookup)
        self.reports = Reports(registry, spec.name, self.examination.kept, copies)
        self.plans = Plans(spec, store, self.conversions)
        self.staging = Staging(spec.name, self.fleets, workspace)
        self.leftovers = Leftovers(spec.name, self.fleets)
        self.seconds: dict[str, float] = {}

    @property
    def servers(self) -> Servers:
        """The servers of all fleets."""
        return all_servers(self.fleets)

    @contextlib.contextmanager
    def _failure_told(self, source: ModelSource) -> Iterator[None]:
        """Tell MLflow of what is no verdict on the answers: no conversion, a server that died, a load that failed, a disk that is full."""
        try:
            yield
        except (ConflictError, RejectedError):
            raise
        except DeployError as error:
            self._warn(self.verdicts.failed(source, str(error)))
            raise

    @contextlib.contextmanager
    def _step(self, name: str, doing: str) -> Iterator[None]:
        self.progress(f"{name}: {doing}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)

    def resolve(self) -> ModelSource:
        """Check that everything answers, and turn the spec's model into one concrete version. Changes nothing."""
        with self._step("resolve", f"{self.spec.model} for `{self.spec.name}`"):
            self.check_declared()
            self.servers.check(repository.mode_probe(self.spec.name))
            for fleet in self.fleets:
                fleet.store.check_exists()
                repository.releases(fleet.store, self.spec.name)
            return self.source()

    def check_declared(self) -> None:
        """Raise ModelConfigError or ValidationDataError for what no model could make right."""
        model_config.check_overrides(self.spec.config)
        self.examination.check_declared()

    def check_approved(self) -> None:
        """Raise SpecError where the spec wants a person's approval (`promote.approval`) and nobody has given it."""
        if self.spec.promote.approval and not self.approved_by:
            raise SpecError(
                f"`{self.spec.name}` is promoted only with a person's approval (`promote.approval`), which its DAG waits for, in Airflow; "
                "on a command line, `airflow-triton apply --approve` gives it for whatever passes the validation"
            )

    def source(self) -> ModelSource:
        """The version that the spec's model means now.

        Raises:
            RegistryError: MLflow has no such version, or does not answer.
            ValidationDataError: it could not be validated as the spec has it.

        """
        source = self.registry.resolve(self.spec.model)
        if not source.has_input_example and not self.spec.validation.data and not self.spec.validation.golden:
            raise ValidationDataError(
                f"{source} has no input example and the spec names no `validate.data`: there is nothing to validate it with, "
                "and a gate that checks nothing stays closed"
            )
        if self.spec.validation.parity and not conversion.has_original(source.flavors):
            raise ValidationDataError(f"{source}: {conversion.NO_ORIGINAL}")
        return source

    def _onnx_limits(self) -> tuple[int, int] | None:
        """The newest ONNX opset and IR version that every server reads; None where that is not known of any."""
        known = [onnx_limits(release_of(client.server_version())) for client in self.servers.clients]
        found = [limits for limits in known if limits is not None]
        return (min(opset for opset, _ in found), min(ir for _, ir in found)) if found else None

    def convert(self, source: ModelSource) -> Converted:
        """Make the files that Triton serves, or find them: in the stored version, or where an earlier attempt left them.

        Where the spec wants TensorRT plans, it is the ONNX model that they are built of (`build_plan`, `assemble`).
        """
        with self._failure_told(source), self._step("convert", f"{source} ({', '.join(source.flavors)}) to {self.spec.convert.to}"):
            whole = servable_id(self.spec, source)
            if stored := self.files.stored(source):
                self.progress("convert: the stored version is made of the same model, nothing to convert")
                return stored
            if self.spec.convert.plans is None:
                return self.files.waiting(source, whole) or self._converted(source, whole)
            identity = onnx_id(self.spec, source)
            converted = self.files.waiting(source, whole) or self.files.waiting(source, identity) or self._converted(source, identity)
            if converted.servable_id != whole:
                self.plans.check(converted)
            return converted

    def _converted(self, source: ModelSource, identity: str) -> Converted:
        try:
            return self.files.make(source, identity)
        except RejectedError as error:
            raise self._rejected(source, error) from None

    def build_plan(self, converted: Converted, kind: str = "") -> BuiltPlan | None:
        """Build the TensorRT plan on this worker's GPU, for one of `convert.tensorrt.gpus`; None where the version is whole already.

        Raises:
            ConversionError: there is no TensorRT or no GPU here (at once), or the builder refuses.
            RejectedError: the plan does not answer as the ONNX model does.

        """
        whole = servable_id(self.spec, converted.source)
        if converted.servable_id == whole:
            return None
        with (
            self._failure_told(converted.source),
            self._step("build", f"a TensorRT plan of {converted.source}{f' for {kind}' if kind else ''}"),
        ):
            try:
                return self.plans.build(converted, kind, whole)
            except RejectedError as error:
                raise self._rejected(converted.source, error) from None

    def assemble(self, converted: Converted, built: Sequence[BuiltPlan]) -> Converted:
        """Put the plans together as one version, once each server's TensorRT was compared with theirs."""
        whole = servable_id(self.spec, converted.source)
        if converted.servable_id == whole:
            return converted
        with self._failure_told(converted.source), self._step("assemble", f"{len(built)} plan(s)"):
            return self.plans.assemble(converted, built, whole, self.servers)

    def _rejected(self, source: ModelSource, error: RejectedError) -> RejectedError:
        """A model that was converted, and does not answer as the MLflow model does: rejected as any other."""
        found = error.report.figures if error.report else {}
        check = CheckResult(name="conversion", passed=False, summary=str(error), figures=found)
        report = ValidationReport(
            candidate=self._candidate_name(source),
            name=self.spec.name,
            model=str(source),
            data="the conversion's own requests",
            rows=0,
            checks=(check,),
        )
        return RejectedError(f"{error}; what served still serves", report=self._told(report, source))

    def _told(self, report: ValidationReport, source: ModelSource) -> ValidationReport:
        """Tell MLflow of a validation; answer what travels of its report."""
        report, warnings = self.reports.keep(report, source)
        self._warn(warnings + self.verdicts.record(source, report, spec_digest=self.spec.digest()))
        return report.brief()

    def configure(self, converted: Converted) -> str:
        """The text of config.pbtxt, without a version policy: the model's own inputs and outputs, the spec's `config` over them.

        The data of the validation is read where Triton is to warm up a model whose shapes vary.
        """
        with self._step("configure", "config.pbtxt"):
            version = converted.source.version
            return self.config(converted.servable, version, lambda config: self.examination.shapes(converted, config))

    def config(self, servable: Servable, version: int, shapes: Callable[[ModelConfig], Shapes]) -> str:
        """What `configure` answers for a servable that becomes this version; `shapes` are those of the rows, where they vary."""
        config = model_config.build(servable, name=self.spec.name, version=version, overrides=self.spec.config)
        return model_config.render(warmed_up(config, self.spec.promote.warm_up or 0, lambda: shapes(config)))

    def stage(self, converted: Converted, config: str) -> Candidate:
        """Publish the candidate under a name of its own and load it on every server.

        Nothing is published in NONE mode: a server that was restarted at that moment would load it for good.
        """
        name = self._candidate_name(converted.source)
        before, *elsewhere = [etag_of(fleet.store.read_config(self.spec.name)) for fleet in self.fleets]
        candidate = Candidate(
            id=deployment_id(self.spec, converted.source),
            name=name,
            converted=converted,
            config=config,
            before=before,
            elsewhere=tuple(elsewhere),
        )
        self._renew()
        with self._failure_told(converted.source), self._step("stage", f"`{name}` on {len(self.servers.clients)} server(s)"):
            self.examination.prepare(converted, config)
            if not self.servers.control.takes_candidates:
                return candidate
            self.staging.load(candidate, told=functools.partial(self._tell, "stage"))
        return candidate

    def _tell(self, step: str, line: str) -> None:
        self.progress(f"{step}: {line}")

    def _renew(self) -> None:
        """Look anew which replicas there are."""
        for fleet in self.fleets:
            fleet.servers.renew()

    def validate(self, candidate: Candidate) -> ValidationReport:
        """Ask the candidate on every server and hold its answers against the spec's checks. MLflow is told of it.

        The answer is the report in short, without plots; its `links` lead to the whole of it.

        In NONE mode it is asked on a local Triton of this worker instead, and the report says so.

        Raises:
            ConflictError: the candidate went away because someone else promoted meanwhile.

        """
        with self._failure_told(candidate.converted.source), self._step("validate", f"`{candidate.name}`"):
            fleets = self.staging.behind(candidate) or self.staging.staged(candidate)
            try:
                self._renew()
                if self.servers.control.takes_candidates:
                    self.staging.load_where_lacking(candidate)
                    self.examination.store = fleets[0][0].store
                    self.examination.servers = all_servers([fleet for fleet, _ in fleets])
                report = self.examination.report(candidate, lambda: self.staging.items(self.store, candidate.converted))
            except ServerError as error:
                if any(etag_of(fleet.store.read_config(self.spec.name)) != staged_on for fleet, staged_on in fleets):
                    raise ConflictError(f"someone else released `{self.spec.name}` during the validation: {error}") from None
                report = self.examination.unanswered(candidate, error)
            return self._told(report, candidate.converted.source)

    def promote(self, candidate: Candidate, report: ValidationReport) -> Outcome:
        """Let the validated version serve: store it, commit config.pbtxt, load it everywhere, ask each server once more.

        That goes repository after repository, in each of them replica after replica (`promote.wave` at a time). A server that does not
        take it, and nothing has happened: every config.pbtxt is put back, byte for byte, and loaded again.

        Raises:
            SpecError: the spec wants a person's approval, and there is none.
            RejectedError: the report does not say that the candidate passed.
            ConflictError: someone else released since the candidate was staged.
            ServerError: a server did not take the version; what served before serves again.

        """
        source, name = candidate.converted.source, self.spec.name
        self.check_approved()
        if not report.passed:
            raise RejectedError(f"version {source.version} of `{name}` is {report.verdict}; what served still serves", report=report)
        with self._failure_told(source), self._step("promote", f"version {source.version} of `{name}`"):
            self._renew()
            parts = [self._part(fleet, candidate, report, staged_on) for fleet, staged_on in self.staging.behind(candidate)]
            ahead = [fleet for fleet in self.fleets if all(fleet is not part.fleet for part in parts)]
            if not parts:  # an earlier attempt got as far as the commit
                return self._serve_again(source)
            self._bring(ahead, source.version)
            before = parts[0].served(name)
            try:
                let_serve(name, parts, told=functools.partial(self._tell, "promote"))
            except DeployError as error:
                if not ahead:
                    raise
                already = ", ".join(str(fleet.store) for fleet in ahead)
                back = f"airflow-triton rollback {name}"
                raise type(error)(f"{error}; an earlier attempt released it in {already}, where it stays: {back} takes it back") from None
            previous = before.version if before else None
            replaced = before.mlflow_version if before else None
            warnings = self._warn(self.servers.control.warnings(source.version))
            alias = self.spec.promote.alias
            warnings += self._serving(source, alias=alias, previous=replaced, by=self.by)
        return Outcome(
            name=name, action="promoted", version=source.version, previous=previous, report=report, warnings=warnings, seconds=self.seconds
        )

    def refuse(self, source: ModelSource, *, by: str, comment: str = "") -> tuple[str, ...]:
        """Tell MLflow that a person refused the validated version; answer what did not work. What is staged stays until `clean_up`."""
        self.progress(f"refuse: version {source.version} of `{self.spec.name}`, by {by}")
        return self._warn(self.verdicts.refuse(source, by=by, comment=comment, spec_digest=self.spec.digest()))

    def _part(self, fleet: Fleet, candidate: Candidate, report: ValidationReport, staged_on: str | None) -> Part:
        """What the promotion is to one fleet. Changes nothing."""
        source, name = candidate.converted.source, self.spec.name
        before = fleet.store.read_config(name)
        if etag_of(before) != staged_on:
            raise ConflictError(f"someone else released `{name}` since this candidate was staged; theirs serves, this one was not promoted")
        found = repository.releases(fleet.store, name, before)
        manifest = Manifest(
            servable_id=candidate.converted.servable_id,
            source=source,
            servable=candidate.converted.servable,
            files=candidate.converted.files,
            config=candidate.config,
            probe=report.probe,
            by=self.by,
            **in_short(report),
        )
        release = Release(
            id=candidate.id,
            version=source.version,
            servable_id=manifest.servable_id,
            how="promote",
            config=candidate.config,
            alias=self.spec.promote.alias,
            loaded=repository.still_loaded(fleet.store, name, found, source.version, candidate.config, most=self.spec.promote.keep_loaded),
            by=self.by,
            source=str(source),
            digest=source.digest,
            **in_short(report),
        )
        items = self.staging.items(fleet.store, candidate.converted, candidate.name)
        publish = functools.partial(repository.publish, fleet.store, name, items, manifest, release, expected=before)
        return Part(fleet, release, before, report.probe, publish)

    def _bring(self, fleets: Sequence[Fleet], version: int) -> bool:
        """Bring servers that lack the released version to it; answer whether there were any."""
        told = functools.partial(self._tell, "promote")
        brought = [bring_back(fleet, self.spec.name, version, told=told) for fleet in fleets]
        return any(brought)

    def _serve_again(self, source: ModelSource) -> Outcome:
        """Bring servers that lack the released version to it: an earlier attempt was cut off, or a server came back empty."""
        name, version = self.spec.name, source.version
        lacking = self._bring(self.fleets, version)
        found = repository.releases(self.store, name)
        previous = found[-2].version if len(found) > 1 else None
        replaced = found[-2].mlflow_version if len(found) > 1 else None
        to_do = self._warn(self.servers.control.warnings(version)) if lacking else ()
        by, alias = found[-1].by if found else None, self.spec.promote.alias
        warnings = to_do + self._serving(source, alias=alias, previous=replaced, by=by)
        action: Literal["loaded", "unchanged"] = "loaded" if lacking and not to_do else "unchanged"
        return Outcome(name=name, action=action, version=version, previous=previous, warnings=warnings, seconds=self.seconds)

    def _serving(self, source: ModelSource, *, alias: str | None, previous: int | None, by: str | None) -> tuple[str, ...]:
        """Tell MLflow what serves, and where."""
        servers = [address for fleet in self.fleets for address in fleet.servers.addresses]
        return self._warn(self.verdicts.serving(source.name, source.version, alias=alias, previous=previous, by=by, servers=servers))

    def unchanged(self, source: ModelSource) -> Outcome | None:
        """The outcome, where what the spec asks for is what is released already; None where there is work to do.

        A server that does not serve it (it came back empty, an earlier attempt was cut off) is brought to it.
        """
        if not all(self.has_released(fleet, source) for fleet in self.fleets):
            return None
        with self._step("promote", f"version {source.version} of `{self.spec.name}` is released already"):
            outcome = self._serve_again(source)
        warnings = self.clean_up(source)  # what an attempt left that was killed after its release
        return outcome.model_copy(update={"warnings": outcome.warnings + warnings, "seconds": self.seconds})

    def has_released(self, fleet: Fleet, source: ModelSource) -> bool:
        """Whether what the spec asks for is what is released in the fleet's repository."""
        found = repository.releases(fleet.store, self.spec.name)
        return bool(found) and found[-1].id == deployment_id(self.spec, source)

    def clean_up(self, source: ModelSource) -> tuple[str, ...]:
        """Remove what a deployment leaves on its way, and the versions that are not kept for rollback; answer what did not work.

        That is the candidate, on the servers and in the repository, and the converted files. Removes nothing that serves; may be
        called at any time, and again.
        """
        name = self._candidate_name(source)
        with self._step("clean up", f"`{name}`"):
            problems = self.leftovers.remove(name, keep=self.spec.promote.keep)
            try:
                self.files.remove(source)
            except DeployError as error:
                problems.append(str(error))
        return self._warn(problems)

    def withdraw(self, source: ModelSource) -> tuple[str, ...]:
        """Remove the candidate alone, on the servers and in the repositories; answer what did not work. A validation brings it back."""
        name = self._candidate_name(source)
        with self._step("withdraw", f"`{name}`"):
            problems = self.leftovers.withdraw(name)
        return self._warn(problems)

    def _candidate_name(self, source: ModelSource) -> str:
        return repository.candidate_name(self.spec.name, source.version, deployment_id(self.spec, source))

    def _warn(self, problems: Sequence[str]) -> tuple[str, ...]:
        for problem in problems:
            self.progress(f"warning: {problem}")
        return tuple(problems)


def deploy(rollout: Rollout) -> Outcome:
    """The whole pipeline.

    Raises:
        SpecError: the spec wants a person's approval, and there is none; nothing was staged.
        RejectedError: the candidate did not pass; its `report` tells why. What served still serves, the candidate is gone.
        ConflictError: someone else released meanwhile; theirs serves.
        DeployError: anything else that went wrong; what served still serves.

    """
    source = rollout.resolve()
    if done := rollout.unchanged(source):
        return done
    rollout.check_approved()
    builds = rollout.spec.convert.plans is not None
    if builds:
        rollout.plans.require_here()
    try:
        converted = rollout.convert(source)
        if builds and (plan := rollout.build_plan(converted)):
            converted = rollout.assemble(converted, [plan])
        candidate = rollout.stage(converted, rollout.configure(converted))
        outcome = rollout.promote(candidate, rollout.validate(candidate))
    finally:
        warnings = rollout.clean_up(source)
    return outcome.model_copy(update={"warnings": outcome.warnings + warnings, "seconds": rollout.seconds})
