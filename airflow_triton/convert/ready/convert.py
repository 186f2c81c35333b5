"""MLflow's `triton` flavor, as NVIDIA's plugin logs it: a ready Triton model folder, taken as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_triton import config_files, model_config
from airflow_triton.convert import base, signature
from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.convert.ready import config as ready_config
from airflow_triton.convert.ready import files as triton_files
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError, RepositoryError, ValidationDataError
from airflow_triton.repository.content import shown
from airflow_triton.repository.layout import CONFIG_FILE
from airflow_triton.repository.recognise import Layout, ModelFolder
from airflow_triton.servable import Servable, TensorSpec

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:  # noqa: ARG001 - either form is the model as it is
    """See `base.Converter.convert`.

    `flavors.triton.data` is a model's folder (config.pbtxt, version folders), a folder with one such folder in it, or the folder
    of one version. Of several versions the newest is taken; of those that the config's `version_policy.specific` lists, if it
    does. Files beside config.pbtxt become part of the version.

    A file is linked where every user may read it, else copied, for Triton is often someone else.
    """
    try:
        found = triton_files.model_folder(model.file(base.TRITON, "data"))
        number = triton_files.newest(found)
        triton_files.take(found, number, into)
    except RepositoryError as error:
        raise ConversionError(f"{model.folder}: {error}") from None
    layout = found.versions[number][1] if number else Layout(kind="ensemble", backend="ensemble")
    if found.config is None:
        return _inspected(model, layout, into, example)
    _refuse_fixed(found)
    config, beside = _own(found.config, number, found)
    ready_config.name_backend(config, layout)
    _complete(config, layout, into, model, example)
    inputs, outputs = ready_config.tensors(config)
    return _servable(layout, inputs, outputs, batching=config.max_batch_size > 0, config=model_config.render(config), beside=beside)


def original(model: MlflowModel, servable: Servable) -> Run:  # noqa: ARG001 - there is nobody to ask
    """See `base.Converter.original`; always raises ValidationDataError."""
    raise ValidationDataError(base.NO_ORIGINAL)


def _inspected(model: MlflowModel, layout: Layout, into: VersionFolder, example: Any) -> Servable:
    """A version without a config.pbtxt: only an ONNX graph says itself what it takes and gives."""
    if layout.kind not in ("onnx", "onnx-folder"):
        raise ConversionError(
            f"{model.folder}: there is no {CONFIG_FILE} beside the version of kind {layout.kind}, and only ONNX files say without one "
            f"what they take and give; log the model's folder with a {CONFIG_FILE} that has its input, output and max_batch_size"
        )
    seen = _inspect(model, layout, into, example)
    return _servable(layout, seen.inputs, seen.outputs, batching=seen.batching)


def _inspect(model: MlflowModel, layout: Layout, into: VersionFolder, example: Any) -> inspect_onnx.Inspection:
    assert layout.entry is not None
    seen = inspect_onnx.inspect(into.path / layout.entry, example=example, columns=model.columns)
    if seen.corrected:
        raise ConversionError(
            f"{model.folder}: the graph declares no shape or a wrong one for {', '.join(seen.corrected)}, and Triton would refuse to "
            "load it; log the file with mlflow.onnx.log_model, and it is corrected"
        )
    signature.check(model, seen.inputs, seen.outputs)
    return seen


def _complete(config: ModelConfig, layout: Layout, into: VersionFolder, model: MlflowModel, example: Any) -> None:
    """Fill in what Triton's auto-completion would; the result loads on servers that do not complete anything."""
    missing = ready_config.incomplete(config)
    if not missing:
        return
    if layout.kind not in ("onnx", "onnx-folder"):
        raise ConversionError(
            f"{model.folder}: {CONFIG_FILE} says {'; '.join(missing)}, and only of ONNX files can that be found out here ({layout.kind} "
            "needs its backend for that); write it there: input { name: data_type: dims: }, output { ... }, max_batch_size"
        )
    seen = _inspect(model, layout, into, example)
    ready_config.complete(config, seen.inputs, seen.outputs)


def _refuse_fixed(found: ModelFolder) -> None:
    assert found.config is not None
    for field, path in config_files.fixed(found.config):
        raise ConversionError(
            f"{shown(found.folder / CONFIG_FILE)}: {field} names {path}, which Triton reads from a folder that all versions share, so no "
            "version can have its own; use zero_data or random_data"
        )


def _own(config: ModelConfig, number: int, found: ModelFolder) -> tuple[ModelConfig, tuple[str, ...]]:
    """The config with the paths that its files have in the version folder, and these files."""
    prefix = f"{number}/"
    own: list[str] = list(found.beside)

    def rename(path: str) -> str:
        first = path.split("/", maxsplit=1)[0]
        if first.isdecimal() and first != str(number):
            raise ConversionError(
                f"{shown(found.folder / CONFIG_FILE)} names {path}, a file of another version than {number}, which is the one that is "
                "published; put the file beside config.pbtxt"
            )
        if path.startswith(prefix):
            own.append(path.removeprefix(prefix).rstrip("/"))
            return path.removeprefix(prefix)
        return path

    renamed = model_config.without_versions(config_files.renamed(config, rename))
    renamed.ClearField("name")
    return renamed, tuple(sorted(set(own)))


def _servable(
    layout: Layout,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    batching: bool,
    config: str | None = None,
    beside: tuple[str, ...] = (),
) -> Servable:
    return Servable(
        backend=layout.backend,
        default_model_filename=layout.default_model_filename,
        inputs=inputs,
        outputs=outputs,
        batching=batching,
        flavor=base.TRITON,
        converter="as-is",
        entry=layout.entry,
        config=config,
        beside=beside,
    )
