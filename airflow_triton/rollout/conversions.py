"""How a spec's model is converted and asked: in which Python, within which limits, and from the cache where it was done before."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from airflow_triton import convert as conversion
from airflow_triton import model_config
from airflow_triton.convert import environments
from airflow_triton.convert.cache import ConversionCache, cache_key, open_cache
from airflow_triton.errors import ConversionError, RejectedError
from airflow_triton.isolate import ChildProcess
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.servable import Servable
from airflow_triton.spec import Spec


class Conversions:
    """The conversions of one deployment.

    `workspace` holds the downloaded model; `progress` gets a line before long work; `limits` asks what ONNX opset and IR version the
    servers read (None: it is not known).
    """

    def __init__(
        self,
        spec: Spec,
        registry: Registry,
        workspace: Path,
        progress: Callable[[str], None],
        limits: Callable[[], tuple[int, int] | None] = lambda: None,
    ) -> None:
        self.rules = spec.convert
        self._limits = limits
        self._pythons: dict[str, Path | None] = {}
        self.registry = registry
        self.workspace = workspace
        self.progress = progress
        asked = spec.config.get("max_batch_size")
        self.largest = asked if isinstance(asked, int) and asked > 0 else model_config.DEFAULT_MAX_BATCH_SIZE

    @functools.cached_property
    def options(self) -> conversion.Options:
        """What of the spec, and of the servers, decides the files."""
        rules = self.rules
        opset, ir_version = self._limits() or (None, None)
        return conversion.Options(
            to=rules.form,
            opset=rules.opset or opset,
            ir_version=ir_version,
            simplify=rules.simplify,
            requirements=rules.requirements,
            python=rules.python,
        )

    def make(self, source: ModelSource, into: Path, *, shared: bool) -> conversion.Conversion:
        """The files of one version in `into`, which is empty: out of the cache, or made now (and kept there).

        Raises:
            ConversionError: see `convert.convert`.
            RejectedError: the converted model does not answer as the MLflow model does.

        """
        cache = self._cache(source)
        key = self._key(source) if cache else ""
        if cache:
            found = cache.fetch(key, into)
            if isinstance(found, conversion.Conversion):
                self.progress(f"convert: found in the cache ({cache}), nothing to convert")
                return found
            self._emptied(into, found)
        made = self._convert(source, into, shared=shared)
        if cache and (problem := cache.keep(key, made, into)):
            self.progress(f"warning: the conversion is not kept: {problem}")
        return made

    def kept(self, source: ModelSource) -> conversion.Conversion | None:
        """What the cache has of it; None too where only an environment that is not built yet could tell. Fetches and builds nothing."""
        cache = self._cache(source) if self.rules.environment == "worker" else None
        return cache.look(self._key(source)) if cache else None

    def _cache(self, source: ModelSource) -> ConversionCache | None:
        return open_cache(self.rules.cache) if conversion.is_costly(source.flavors, self.rules.form) else None

    def _emptied(self, into: Path, problem: str | None) -> None:
        if problem:
            self.progress(f"warning: the kept conversion is not used: {problem}")
        shutil.rmtree(into, ignore_errors=True)

    def _key(self, source: ModelSource) -> str:
        tools = conversion.tools(source.flavors, self.rules.form, self._python(source))
        return cache_key(source.digest, self.options, tolerance=self.rules.parity, largest=self.largest, tools=tools)

    def _convert(self, source: ModelSource, into: Path, *, shared: bool) -> conversion.Conversion:
        model = self.registry.download(source, self.workspace)
        try:
            made = conversion.convert(
                model,
                into,
                self.options,
                shared=shared,
                largest=self.largest,
                tolerance=self.rules.parity,
                child=self.child(source),
            )
        except ConversionError as error:
            raise ConversionError(str(error).replace(str(model), str(source))) from None
        except RejectedError as error:
            raise RejectedError(str(error).replace(str(model), str(source)), report=error.report) from None
        for note in made.servable.notes:
            self.progress(f"convert: {note}")
        if made.agreement:
            self.progress(f"convert: as the MLflow model: {made.agreement.summary}")
        return made

    def child(self, source: ModelSource) -> ChildProcess:
        """How the children run that convert the model, or ask it."""
        return ChildProcess(python=self._python(source), timeout=self.rules.timeout_seconds, memory_mib=self.rules.memory_mib)

    def _python(self, source: ModelSource) -> Path | None:
        """The Python that has what the model needs, built where the spec asks for that; None: this one."""
        if self.rules.environment == "worker":
            return None
        if source.digest not in self._pythons:
            model = self.registry.download(source, self.workspace)
            self._pythons[source.digest] = environments.python_of(
                self.rules.environment, model, form=self.rules.form, users=self.rules.requirements, progress=self.progress
            )
        return self._pythons[source.digest]

    def reference(self, source: ModelSource, servable: Servable, inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
        """See `convert.reference`."""
        model = self.registry.download(source, self.workspace)
        conversion.reference(model, servable, inputs, outputs, child=self.child(source))

    def example(self, source: ModelSource, servable: Servable, inputs: Path) -> bool:
        """See `convert.input_example`."""
        model = self.registry.download(source, self.workspace)
        return conversion.input_example(model, servable, inputs, child=self.child(source))
