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
from typing import Literal

from airflow_triton import convert as conversion
from airflow_triton import model_config, repository
from airflow_triton.convert import tensorrt
from airflow_triton.errors import (
    ConflictError,
    DeployError,
    RejectedError,
    RepositoryError,
    ServerError,
    ValidationDataError,
)
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.repository import CandidateNote, Item, Manifest, Release, Repository
from airflow_triton.repository.layout import CANDIDATE_FILE, CONFIG_FILE
from airflow_triton.repository.places import etag_of
from airflow_triton.rollout.conversions import Conversions
from airflow_triton.rollout.examination import Examination
from airflow_triton.rollout.plans import BuiltPlan, Plans, plan_id
from airflow_triton.rollout.records import Candidate, Converted, Outcome, deployment_id, onnx_id, servable_id
from airflow_triton.rollout.serving import Servers, let_serve
from airflow_triton.rollout.verdicts import Verdicts
from airflow_triton.rollout.work_area import leave
from airflow_triton.servable import Servable
from airflow_triton.server.releases import onnx_limits, release_of
from airflow_triton.spec import Spec
from airflow_triton.validation import (
    CheckResult,
    ValidationReport,
)

Progress = Callable[[str], None]


class Rollout:
    """One model's way to its servers, as its spec declares it.

    `workspace` is a folder for downloads that outlives the call of a step (each step may have another); `progress` is told what
    is being done, in one line each.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        store: Repository,
        servers: Servers,
        registry: Registry,
        workspace: Path,
        progress: Progress = lambda _: None,
    ) -> None:
        self.spec = spec
        self.store = store
        self.servers = servers
        self.registry = registry
        self.workspace = workspace
        self.progress = progress
        self.verdicts = Verdicts(registry, spec.name)
        self.conversions = Conversions(spec, registry, workspace, progress, self._onnx_limits)
        self.examination = Examination(spec.validation, store, servers, self.conversions)
        self.plans = Plans(spec, store, self.conversions)
        self.seconds: dict[str, float] = {}

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
            model_config.check_overrides(self.spec.config)
            self.servers.check(repository.mode_probe(self.spec.name))
            self.store.check_exists()
            repository.releases(self.store, self.spec.name)
            source = self.registry.resolve(self.spec.model)
            if not source.has_input_example and not self.spec.validation.data:
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
        with self._step("convert", f"{source} ({', '.join(source.flavors)}) to {self.spec.convert.to}"):
            whole = servable_id(self.spec, source)
            stored = self.store.manifest(self.spec.name, source.version)
            if stored is not None and stored.servable is not None and stored.servable_id == whole and not self._damage(source.version):
                self.progress("convert: the stored version is made of the same model, nothing to convert")
                return Converted(source=source, servable_id=whole, servable=stored.servable, files=stored.files)
            if self.spec.convert.plans is None:
                return self._waiting(source, whole) or self._convert(source, whole)
            identity = onnx_id(self.spec, source)
            converted = self._waiting(source, whole) or self._waiting(source, identity) or self._convert(source, identity)
            if converted.servable_id != whole:
                self.plans.check(converted)
            return converted

    def _waiting(self, source: ModelSource, identity: str) -> Converted | None:
        """What an earlier attempt left."""
        waiting = self.store.servable(self.spec.name, identity)
        return None if waiting is None else Converted.model_validate_json(waiting).model_copy(update={"source": source})

    def build_plan(self, converted: Converted, kind: str = "") -> BuiltPlan | None:
        """Build the TensorRT plan on this worker's GPU, for one of `convert.tensorrt.gpus`; None where the version is whole already.

        Raises:
            ConversionError: there is no TensorRT or no GPU here (at once), or the builder refuses.
            RejectedError: the plan does not answer as the ONNX model does.

        """
        whole = servable_id(self.spec, converted.source)
        if converted.servable_id == whole:
            return None
        with self._step("build", f"a TensorRT plan of {converted.source}{f' for {kind}' if kind else ''}"):
            try:
                return self.plans.build(converted, kind, whole)
            except RejectedError as error:
                raise self._rejected(converted.source, error) from None

    def assemble(self, converted: Converted, built: Sequence[BuiltPlan]) -> Converted:
        """Put the plans together as one version, once each server's TensorRT was compared with theirs."""
        whole = servable_id(self.spec, converted.source)
        if converted.servable_id == whole:
            return converted
        with self._step("assemble", f"{len(built)} plan(s)"):
            return self.plans.assemble(converted, built, whole, self.servers)

    def _damage(self, version: int) -> list[str]:
        return self.store.damage(self.spec.name, version, thorough=False)

    def _convert(self, source: ModelSource, identity: str) -> Converted:
        """Convert the model and leave the files in the repository's work area; the first of several that do so wins."""
        with self.store.new_staging() as folder:
            neighbours = self.store.lying_at(source.artifacts)  # before the download: what changes after it is not copied
            try:
                made = self.conversions.make(source, folder / "files", shared=self.store.on_disk)
            except RejectedError as error:
                raise self._rejected(source, error) from None
            converted = Converted(
                source=source,
                servable_id=identity,
                servable=self._accelerated(made.servable),
                files=made.files,
                agreement=made.agreement,
                conversion_seconds=made.seconds,
            )
            known = repository.same_files(self.registry.download(source, self.workspace), neighbours, made.files) if neighbours else {}
            items = [Item(file, known.get(file.sha256, folder / "files" / file.path)) for file in made.files]
            leave(self.store, self.spec.name, identity, items, converted)
        found = self._waiting(source, identity)
        if found is None:
            raise ConflictError(f"the converted files of {source} were removed by another deployment of `{self.spec.name}`; run it again")
        return found

    def _accelerated(self, servable: Servable) -> Servable:
        """The servable, with what tells Triton to let TensorRT accelerate it where the spec wants that."""
        options = self.spec.convert.acceleration
        return servable if options is None else servable.model_copy(update={"settings": tensorrt.acceleration.config(servable, options)})

    def _rejected(self, source: ModelSource, error: RejectedError) -> RejectedError:
        """A model that was converted, and does not answer as the MLflow model does: rejected as any other."""
        found = error.report.figures if error.report else {}
        check = CheckResult(name="conversion", passed=False, summary=str(error), figures=found)
        report = ValidationReport(candidate=self._candidate_name(source), data="the conversion's own requests", rows=0, checks=(check,))
        self._warn(self.verdicts.record(source, report, spec_digest=self.spec.digest()))
        return RejectedError(f"{error}; what served still serves", report=report)

    def configure(self, converted: Converted) -> str:
        """The text of config.pbtxt, without a version policy: the model's own inputs and outputs, the spec's `config` over them."""
        with self._step("configure", "config.pbtxt"):
            name, version = self.spec.name, converted.source.version
            return model_config.render(model_config.build(converted.servable, name=name, version=version, overrides=self.spec.config))

    def stage(self, converted: Converted, config: str) -> Candidate:
        """Publish the candidate under a name of its own and load it on every server.

        Nothing is published in NONE mode: a server that was restarted at that moment would load it for good.
        """
        version = converted.source.version
        name = self._candidate_name(converted.source)
        live = self.store.read_config(self.spec.name)
        candidate = Candidate(
            id=deployment_id(self.spec, converted.source), name=name, converted=converted, config=config, before=etag_of(live)
        )
        with self._step("stage", f"`{name}` on {len(self.servers.clients)} server(s)"):
            if not self.servers.control.takes_candidates:
                return candidate
            self._put_candidate(candidate)
            try:
                self.servers.serve(name, version, None, config=config)
            except ServerError as error:
                elsewhere = "failed to poll from model repository" in str(error)
                hint = f"the candidate lies in {self.store}: that is not this server's repository; " if elsewhere else ""
                raise type(error)(f"{error} ({hint}what served still serves)") from None
        return candidate

    def _put_candidate(self, candidate: Candidate) -> None:
        if self.store.read_config(candidate.name) is not None:
            return
        config = model_config.parse(candidate.config)
        config.name = candidate.name
        version = candidate.converted.source.version
        self.store.put(
            self.store.model_place(candidate.name),
            [item.under(version) for item in self._items(candidate.converted)],
            first={CANDIDATE_FILE: CandidateNote(before=candidate.before).model_dump_json()},
            last={CONFIG_FILE: model_config.render(model_config.with_versions(config, [version]))},
        )

    def _items(self, converted: Converted) -> list[Item]:
        """The servable's files, the one that Triton opens last: from the work area, or the stored version that is made of the same."""
        files = sorted(converted.files, key=lambda file: file.path == converted.servable.entry)
        if self.store.servable(self.spec.name, converted.servable_id) is not None:
            return self.store.items(self.store.servable_place(self.spec.name, converted.servable_id), files, by_digest=True)
        version = converted.source.version
        if problems := self.store.damage(self.spec.name, version):
            raise RepositoryError(f"version {version} of `{self.spec.name}` is damaged: {'; '.join(problems)}")
        return self.store.items(self.store.version_place(self.spec.name, version), files)

    def validate(self, candidate: Candidate) -> ValidationReport:
        """Ask the candidate on every server and hold its answers against the spec's checks. The verdict goes to MLflow as tags.

        In NONE mode it is asked on a local Triton of this worker instead, and the report says so.

        Raises:
            ConflictError: the candidate went away because someone else promoted meanwhile.

        """
        with self._step("validate", f"`{candidate.name}`"):
            try:
                report = self.examination.report(candidate, lambda: self._items(candidate.converted))
            except ServerError as error:
                if etag_of(self.store.read_config(self.spec.name)) != candidate.before:
                    raise ConflictError(f"someone else released `{self.spec.name}` during the validation: {error}") from None
                raise
            self._warn(self.verdicts.record(candidate.converted.source, report, spec_digest=self.spec.digest()))
        return report

    def promote(self, candidate: Candidate, report: ValidationReport) -> Outcome:
        """Let the validated version serve: store it, commit config.pbtxt, load it everywhere, ask each server once more.

        A server that does not take it, and nothing has happened: config.pbtxt is put back, byte for byte, and loaded again.

        Raises:
            RejectedError: the report does not say that the candidate passed.
            ConflictError: someone else released since the candidate was staged.
            ServerError: a server did not take the version; what served before serves again.

        """
        source, name = candidate.converted.source, self.spec.name
        if not report.passed:
            raise RejectedError(f"version {source.version} of `{name}` is {report.verdict}; what served still serves", report=report)
        with self._step("promote", f"version {source.version} of `{name}`"):
            before = self.store.read_config(name)
            found = repository.releases(self.store, name, before)
            if etag_of(before) != candidate.before:
                if found and found[-1].id == candidate.id:
                    return self._serve_again(source, found)  # an earlier attempt got as far as the commit
                raise ConflictError(
                    f"someone else released `{name}` since this candidate was staged; theirs serves, this one was not promoted"
                )
            manifest = Manifest(
                servable_id=candidate.converted.servable_id,
                source=source,
                servable=candidate.converted.servable,
                files=candidate.converted.files,
                config=candidate.config,
                probe=report.probe,
            )
            items = self._items(candidate.converted)
            release = Release(
                id=candidate.id,
                version=source.version,
                servable_id=manifest.servable_id,
                how="promote",
                config=candidate.config,
                alias=self.spec.promote.alias,
            )
            publish = functools.partial(repository.publish, self.store, name, items, manifest, release, expected=before)
            let_serve(self.store, self.servers, name, release, before=before, probe=report.probe, commit=publish)
            previous = found[-1].version if found else None
            replaced = found[-1].mlflow_version if found else None
            warnings = self._warn(self.servers.control.warnings(source.version))
            warnings += self._warn(self.verdicts.serving(source.name, source.version, alias=self.spec.promote.alias, previous=replaced))
        return Outcome(
            name=name, action="promoted", version=source.version, previous=previous, report=report, warnings=warnings, seconds=self.seconds
        )

    def _serve_again(self, source: ModelSource, found: list[Release]) -> Outcome:
        """Bring servers that lack the released version to it: an earlier attempt was cut off, or a server came back empty."""
        name, version = self.spec.name, source.version
        lacking = Servers(self.servers.lacking(name, version))
        config = found[-1].config
        # Where the version served before with another configuration, its number does not tell which of them a server has: each
        # loads it again, which does nothing where nothing has changed.
        again = any(release.version == version and not release.is_same_as(found[-1]) for release in found)
        if again or lacking.clients:
            manifest = self.store.manifest(name, version)
            (self.servers if again else lacking).serve(name, version, manifest.probe if manifest else None, config=config)
        previous = found[-2].version if len(found) > 1 else None
        replaced = found[-2].mlflow_version if len(found) > 1 else None
        to_do = self._warn(lacking.control.warnings(version)) if lacking.clients else ()
        warnings = to_do + self._warn(self.verdicts.serving(source.name, source.version, alias=self.spec.promote.alias, previous=replaced))
        action: Literal["loaded", "unchanged"] = "loaded" if lacking.clients and not to_do else "unchanged"
        return Outcome(name=name, action=action, version=version, previous=previous, warnings=warnings, seconds=self.seconds)

    def unchanged(self, source: ModelSource) -> Outcome | None:
        """The outcome, where what the spec asks for is what is released already; None where there is work to do.

        A server that does not serve it (it came back empty, an earlier attempt was cut off) is brought to it.
        """
        found = repository.releases(self.store, self.spec.name)
        if not found or found[-1].id != deployment_id(self.spec, source):
            return None
        with self._step("promote", f"version {source.version} of `{self.spec.name}` is released already"):
            outcome = self._serve_again(source, found)
        warnings = self.clean_up(source)  # what an attempt left that was killed after its release
        return outcome.model_copy(update={"warnings": outcome.warnings + warnings, "seconds": self.seconds})

    def clean_up(self, source: ModelSource) -> tuple[str, ...]:
        """Remove what a deployment leaves on its way, and the versions that are not kept for rollback; answer what did not work.

        That is the candidate, on the servers and in the repository, and the converted files. Removes nothing that serves; may be
        called at any time, and again.
        """
        name = self._candidate_name(source)
        with self._step("clean up", f"`{name}`"):
            problems: list[str] = []
            try:
                for candidate in {name, *repository.stale_candidates(self.store, self.spec.name)}:
                    problems += self.servers.withdraw(candidate)
                    self.store.remove(self.store.model_place(candidate))
                    problems += self.servers.forget(candidate)
                for identity in self._servable_ids(source):
                    self.store.remove(self.store.servable_place(self.spec.name, identity))
                repository.sweep(self.store, self.spec.name)
                repository.prune(self.store, self.spec.name, keep=self.spec.promote.keep)
            except DeployError as error:
                problems.append(str(error))
        return self._warn(problems)

    def _servable_ids(self, source: ModelSource) -> list[str]:
        """Everything that the conversion leaves in the work area."""
        whole = servable_id(self.spec, source)
        if self.spec.convert.plans is None:
            return [whole]
        return [whole, onnx_id(self.spec, source), *(plan_id(whole, kind) for kind in self.spec.convert.plans.workers())]

    def _candidate_name(self, source: ModelSource) -> str:
        return repository.candidate_name(self.spec.name, source.version, deployment_id(self.spec, source))

    def _warn(self, problems: list[str]) -> tuple[str, ...]:
        for problem in problems:
            self.progress(f"warning: {problem}")
        return tuple(problems)


def deploy(rollout: Rollout) -> Outcome:
    """The whole pipeline.

    Raises:
        RejectedError: the candidate did not pass; its `report` tells why. What served still serves, the candidate is gone.
        ConflictError: someone else released meanwhile; theirs serves.
        DeployError: anything else that went wrong; what served still serves.

    """
    source = rollout.resolve()
    if done := rollout.unchanged(source):
        return done
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
