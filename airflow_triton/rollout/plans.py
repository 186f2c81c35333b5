"""The TensorRT plans of a deployment: built on GPU workers of the ONNX model, one for each kind of GPU, and put together as one version."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from airflow_triton import model_config
from airflow_triton.convert import Conversion, tensorrt
from airflow_triton.convert.cache import open_cache
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConflictError, ConversionError, DeployError, RejectedError
from airflow_triton.isolate import ChildProcess
from airflow_triton.repository import Item, Repository
from airflow_triton.repository.manifest import FileDigest, digest_files, sha256
from airflow_triton.rollout.conversions import Conversions
from airflow_triton.rollout.records import Converted, digest
from airflow_triton.rollout.serving import Servers
from airflow_triton.rollout.work_area import leave
from airflow_triton.servable import Servable
from airflow_triton.server.releases import check_plan, release_of
from airflow_triton.spec import Spec, TensorRT, Worker

LOGS = "triton"
"""The folder of the MLflow run's artifacts that the logs of the builds go to."""


class BuiltPlan(BaseModel):
    """A plan that lies in the repository's work area: for which kind of GPU, under which id, and what is known of it."""

    model_config = ConfigDict(frozen=True)

    kind: str
    id: str
    plan: tensorrt.Plan
    files: tuple[FileDigest, ...] = Field(description="the plan and its record, each stored by its SHA-256")


def plan_id(servable_id: str, kind: str) -> str:
    """Where the plan for one kind of GPU waits until it is put together with the others."""
    return digest("plan", servable_id, kind)[:32]


class Plans:
    """The plans of one deployment. The progress of `conversions` gets what the builder says, a line at a time."""

    def __init__(self, spec: Spec, store: Repository, conversions: Conversions) -> None:
        self.spec = spec
        self.options = spec.convert.plans or TensorRT()
        self.store = store
        self.conversions = conversions
        self.progress = conversions.progress

    def require_here(self) -> None:
        """Raise ConversionError unless the plans can all be built by this worker, before anything is converted."""
        if kinds := list(self.options.gpus):
            raise ConversionError(
                f"convert.tensorrt.gpus names {', '.join(kinds)}: each plan is built by a worker that has that GPU, so this deployment "
                "runs as an Airflow DAG only"
            )
        tensorrt.tools_here(self.options)

    def check(self, converted: Converted) -> None:
        """Raise ConversionError where no GPU could build a plan of it: before a task waits for one."""
        tensorrt.check(converted.servable, self.options, max_batch_size=self._largest(converted.servable))

    def _largest(self, servable: Servable) -> int:
        config = model_config.build(servable, name=self.spec.name, overrides=self.spec.config)
        return max(1, int(config.max_batch_size))

    def build(self, converted: Converted, kind: str, servable_id: str) -> BuiltPlan:
        """Build the plan on this worker's GPU, hold its answers against the ONNX model's, and leave it in the work area.

        Raises:
            ConversionError: there is no TensorRT or no GPU here, or the builder refuses.
            RejectedError: the plan does not answer as the ONNX model does.

        """
        identity = plan_id(servable_id, kind)
        if waiting := self.store.servable(self.spec.name, identity):
            self.progress(f"build: the plan{f' for {kind}' if kind else ''} was built before")
            return BuiltPlan.model_validate_json(waiting)
        tools = tensorrt.tools_here(self.options)
        with self.store.new_staging() as folder:
            onnx, made = folder / "onnx", folder / "plan"
            made.mkdir()
            cache, key = open_cache(self.spec.convert.cache), self._key(converted, tools)
            found = cache.fetch(key, made) if cache else None
            if isinstance(found, Conversion):
                self.progress(f"build: found in the cache ({cache}), nothing to build")
            else:
                self._fetch(converted.servable_id, converted.files, onnx)
                shutil.rmtree(made)
                self._build(converted, onnx, made, kind)
                self._prove(converted, onnx, made, folder / "version")
                (made / tensorrt.LOG_FILE).unlink()
            files = digest_files(made)
            if cache and not isinstance(found, Conversion):
                cache.keep(key, Conversion(servable=converted.servable, files=files), made)
            built = BuiltPlan(kind=kind, id=identity, plan=tensorrt.read(made), files=files)
            leave(self.store, self.spec.name, identity, _items(files, made), built)
        return built

    def _key(self, converted: Converted, tools: dict[str, str]) -> str:
        """What a plan is made of: the ONNX graph and its weights, what the builder is told, and the machine."""
        options = self.options.model_dump(mode="json", exclude={*Worker.model_fields, "gpus", "timing_cache", "environment"})
        data = Path(self.options.calibration) if self.options.calibration else None
        calibration = sha256(data) if data is not None and data.is_file() else None  # the builder says that it is missing
        made_of = [[file.sha256 for file in converted.files], options, calibration, self._largest(converted.servable), tools]
        return digest("plan", made_of, self.spec.convert.parity.model_dump())

    def _build(self, converted: Converted, onnx: Path, made: Path, kind: str) -> None:
        try:
            tensorrt.build_plan(
                onnx,
                converted.servable,
                made,
                options=self.options,
                max_batch_size=self._largest(converted.servable),
                child_process=self._child,
                tell=lambda line: self.progress(f"build: {line}"),
            )
        finally:
            self._keep_log(converted, made / tensorrt.LOG_FILE, kind)

    @property
    def _child(self) -> ChildProcess:
        rules = self.spec.convert
        return ChildProcess(timeout=rules.timeout_seconds, memory_mib=rules.memory_mib)

    def _prove(self, converted: Converted, onnx: Path, made: Path, version: Path) -> None:
        version.mkdir()
        planned = tensorrt.combined([made], converted.servable, VersionFolder(version))
        example = self.conversions.workspace / "plan-example.npz"
        has_example = self.conversions.example(converted.source, converted.servable, example)
        found = tensorrt.compare_plan(
            onnx,
            converted.servable,
            version,
            planned,
            example=example if has_example else None,
            options=self.options,
            largest=self._largest(converted.servable),
            tolerance=self.spec.convert.parity,
            child_process=self._child,
        )
        if not found.passed:
            raise RejectedError(f"{converted.source}: the plan does not answer as the ONNX model does: {found.summary}", report=found)
        self.progress(f"build: as the ONNX model: {found.summary}")

    def _keep_log(self, converted: Converted, log: Path, kind: str) -> None:
        if not log.exists():
            return
        folder = f"{LOGS}/{self.spec.name}/{converted.source.version}{f'/{kind}' if kind else ''}"
        try:
            self.conversions.registry.keep_file(converted.source, log, folder)
        except DeployError as error:
            self.progress(f"warning: the builder's log is not kept in MLflow: {error}")

    def assemble(self, converted: Converted, built: Sequence[BuiltPlan], servable_id: str, servers: Servers) -> Converted:
        """Put the plans together as one version, in the work area.

        Raises:
            ConversionError: the plans are not alike but for the GPU, or a server's TensorRT cannot run them.

        """
        self._check_servers(built, servers)
        with self.store.new_staging() as folder:
            folders = []
            for each in built:
                folders.append(folder / f"plan-{each.kind}")
                self._fetch(each.id, each.files, folders[-1])
            files = VersionFolder(folder / "files", shared=self.store.on_disk)
            files.path.mkdir()
            plans = [each.plan for each in built]
            servable = tensorrt.combined(folders, converted.servable, files).model_copy(
                update={"settings": tensorrt.config(plans), "plans": tuple(plan.model_dump(mode="json") for plan in plans)}
            )
            whole = converted.model_copy(update={"servable": servable, "files": files.files(), "servable_id": servable_id})
            leave(self.store, self.spec.name, servable_id, _items(whole.files, files.path), whole)
        return whole

    def _check_servers(self, built: Iterable[BuiltPlan], servers: Servers) -> None:
        for client in servers.clients:
            release = release_of(client.server_version())
            for each in built:
                machine, order = each.plan.machine, each.plan.order
                try:
                    told = check_plan(release, machine.tensorrt, version_compatible=order.version_compatible)
                except ConversionError as error:
                    raise ConversionError(f"{client.address}: {error}") from None
                if told:
                    self.progress(f"warning: {client.address}: {told}")

    def _fetch(self, identity: str, files: Iterable[FileDigest], into: Path) -> None:
        """Bring files that wait in the work area to this machine, under their own names."""
        if self.store.servable(self.spec.name, identity) is None:
            raise ConflictError(f"the converted files of `{self.spec.name}` were removed by another deployment of it; run it again")
        place = self.store.servable_place(self.spec.name, identity)
        for file in files:
            target = into / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self.store.fetch(self.store.origin(place / file.sha256), target)


def _items(files: Iterable[FileDigest], folder: Path) -> list[Item]:
    return [Item(file, folder / file.path) for file in files]
