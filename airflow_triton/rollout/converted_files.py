"""The files that Triton serves: found in the stored version or where an earlier attempt left them, else made and left there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from airflow_triton import repository
from airflow_triton.convert import tensorrt
from airflow_triton.errors import ConflictError
from airflow_triton.registry import ModelSource
from airflow_triton.repository import Item, Repository
from airflow_triton.rollout.conversions import Conversions
from airflow_triton.rollout.plans import plan_id
from airflow_triton.rollout.records import Converted, onnx_id, servable_id
from airflow_triton.rollout.work_area import leave
from airflow_triton.servable import Servable
from airflow_triton.spec import Spec


class ConvertedFiles:
    """Those of one deployment, in `store`. `workspace` holds the downloaded model."""

    def __init__(self, spec: Spec, store: Repository, conversions: Conversions, workspace: Path) -> None:
        self._spec = spec
        self._store = store
        self._conversions = conversions
        self._workspace = workspace

    def stored(self, source: ModelSource) -> Converted | None:
        """The stored version, where it is whole and made of the very same: there is nothing to convert."""
        name, version, whole = self._spec.name, source.version, servable_id(self._spec, source)
        found = self._store.manifest(name, version)
        if found is None or found.servable is None or found.servable_id != whole:
            return None
        if self._store.damage(name, version, thorough=False):
            return None
        return Converted(source=source, servable_id=whole, servable=found.servable, files=found.files)

    def waiting(self, source: ModelSource, identity: str) -> Converted | None:
        """What an earlier attempt left."""
        waiting = self._store.servable(self._spec.name, identity)
        return None if waiting is None else Converted.model_validate_json(waiting).model_copy(update={"source": source})

    def make(self, source: ModelSource, identity: str) -> Converted:
        """Convert the model and leave the files in the repository's work area; the first of several that do so wins.

        Raises:
            ConversionError, RejectedError: see `Conversions.make`.
            ConflictError: another deployment removed them at this moment.

        """
        with self._store.new_staging() as folder:
            neighbours = self._store.lying_at(source.artifacts)  # before the download: what changes after it is not copied
            made = self._conversions.make(source, folder / "files", shared=self._store.on_disk)
            converted = Converted(
                source=source,
                servable_id=identity,
                servable=self.accelerated(made.servable),
                files=made.files,
                agreement=made.agreement,
                conversion_seconds=made.seconds,
            )
            known = {}
            if neighbours:
                known = repository.same_files(self._conversions.registry.download(source, self._workspace), neighbours, made.files)
            items = [Item(file, known.get(file.sha256, folder / "files" / file.path)) for file in made.files]
            leave(self._store, self._spec.name, identity, items, converted)
        found = self.waiting(source, identity)
        if found is None:
            raise ConflictError(f"the converted files of {source} were removed by another deployment of `{self._spec.name}`; run it again")
        return found

    def accelerated(self, servable: Servable) -> Servable:
        """The servable, with what tells Triton to let TensorRT accelerate it where the spec wants that."""
        options = self._spec.convert.acceleration
        return servable if options is None else servable.model_copy(update={"settings": tensorrt.acceleration.config(servable, options)})

    def remove(self, source: ModelSource) -> None:
        """Remove everything that the conversion left in the work area, and what dead attempts did."""
        for identity in self._identities(source):
            self._store.remove(self._store.servable_place(self._spec.name, identity))
        repository.sweep(self._store, self._spec.name)

    def _identities(self, source: ModelSource) -> Iterator[str]:
        whole = servable_id(self._spec, source)
        yield whole
        if self._spec.convert.plans is not None:
            yield onnx_id(self._spec, source)
            yield from (plan_id(whole, kind) for kind in self._spec.convert.plans.workers())
