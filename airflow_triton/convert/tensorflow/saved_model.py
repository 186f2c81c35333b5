"""MLflow's `tensorflow` flavor as it is: a SavedModel for Triton's tensorflow backend; a Keras model is exported to one by Keras."""

from __future__ import annotations

from typing import Any

from airflow_triton.convert import examples, signature
from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.probe import FEW, MORE, Probe, Seen
from airflow_triton.convert.tensorflow import convert as tensorflow
from airflow_triton.convert.tensorflow import model as tensorflow_model
from airflow_triton.convert.tensorflow.signature import DEFAULT, Signature, open_signature
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

NO_BACKEND = "It needs Triton's tensorflow backend, which NVIDIA's containers have no longer had since 2025: check that the server has it."


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:  # noqa: ARG001 there is one way
    """See `base.Converter.convert`. The tensors are declared as in the SavedModel's signature, for Triton compares them with it."""
    with tensorflow_model.saved_model(model, example) as source:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            into.copy(file, f"{tensorflow_model.FOLDER}/{file.relative_to(source)}")
    saved = open_signature(into.path / tensorflow_model.FOLDER, of=model.folder)
    _refuse(saved, model)
    servable = Servable(
        backend="tensorflow",
        default_model_filename=tensorflow_model.FOLDER,
        inputs=saved.inputs,
        outputs=saved.outputs,
        batching=False,
        flavor=tensorflow_model.flavor_of(model),
        converter="as-is" if tensorflow_model.kind_of(model) == "saved-model" else "keras.export",
        tools=tensorflow_model.versions("keras") if tensorflow_model.kind_of(model) == "keras" else tensorflow_model.versions(),
        notes=(NO_BACKEND,),
        parameters={} if saved.key == DEFAULT else {"TF_SIGNATURE_DEF": saved.key},
        entry=f"{tensorflow_model.FOLDER}/saved_model.pb",
    )
    looked = servable.model_copy(update=_look(saved, servable, model, example))
    signature.check(model, looked.inputs, looked.outputs)
    return looked


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`."""
    return tensorflow.original(model, servable)


def _refuse(saved: Signature, model: MlflowModel) -> None:
    """Refuse what Triton's tensorflow backend cannot serve: it knows scalars and tensors without a declared shape by one name."""
    for spec in (*saved.inputs, *saved.outputs):
        if not spec.shape:
            what = "declared without a shape" if spec.name in saved.shapeless else "a scalar"
            raise ConversionError(
                f"{model.folder}: {spec.name!r} is {what}, which Triton's tensorflow backend does not tell apart from other shapes; use "
                "`to: onnx`, or give it a shape in the model's input_signature (tf.ensure_shape for an output)"
            )


def _look(saved: Signature, servable: Servable, model: MlflowModel, example: Any) -> dict[str, Any]:
    """Run the model, and say whether it batches."""
    names = [spec.name for spec in saved.outputs]

    def run(feed: Any) -> list[Any]:
        given = saved.run(feed)
        return [given[name] for name in names]

    seen = Probe(run, saved.inputs, {}).look(examples.for_probing(example, servable, model.columns))
    return {"batching": seen is not None and _batches((*saved.inputs, *saved.outputs), seen)}


def _batches(tensors: tuple[TensorSpec, ...], seen: Seen) -> bool:
    """Whether all tensors have a first axis that may vary, it follows the number of rows, and rows are independent."""
    if seen.more is None or not all(spec.shape[:1] == (-1,) for spec in tensors):
        return False
    follow = all(few.shape[:1] == (FEW,) and more.shape[:1] == (MORE,) for few, more in zip(seen.few, seen.more, strict=True))
    return follow and seen.independent
