"""MLflow's `keras` flavor to ONNX: by way of PyTorch where Keras runs on that, by TensorFlow where it runs on that."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

from airflow_triton import tensors
from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.mlmodel import Field, MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.torch import module as torch_module
from airflow_triton.convert.torch import requests as torch_requests
from airflow_triton.convert.torch import serve as torch_onnx
from airflow_triton.convert.torch.module import Ask, Named
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

BACKENDS = "torch", "tensorflow"
"""The backends of Keras whose models can be exported here."""


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:
    """See `base.Converter.convert`. Inputs have the names of the model's `keras.Input`s; outputs the keys of a mapping, else `output_0` ...

    What is None in the shape of an Input varies.
    """
    backend = _backend(model)
    if backend == "tensorflow":
        from airflow_triton.convert.tensorflow import convert as tensorflow

        return tensorflow.convert(model, into, options=options, example=example)
    network = _load(model)
    inputs = _inputs(network, model)
    names = tuple(spec.name for spec in inputs)
    ask = _ask(network)
    feed, answer = torch_requests.sample(inputs, example, lambda given: torch_module.run(ask, [given[name] for name in names]), model)
    outputs = torch_module.names_of_outputs(model, [_counted(name) for name in answer])
    named = Named(torch_module.flat(network, names, ask), ask, names, outputs)
    servable = torch_onnx.serve(named, inputs, feed, model, into, options=options, tools=("keras",), flavor="keras")
    saved = model.flavors["keras"].get("keras_backend", backend)
    other = () if saved == backend else (f"It was logged with Keras on {saved}, and converted with Keras on {backend}.",)
    return servable.model_copy(update={"notes": (*other, *servable.notes)})


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: the Keras model."""
    if _backend(model) == "tensorflow":
        from airflow_triton.convert.tensorflow import convert as tensorflow

        return tensorflow.original(model, servable)
    network = _load(model)
    inputs, outputs = (tuple(spec.name for spec in specs) for specs in (servable.inputs, servable.outputs))
    return Named(network, _ask(network), inputs, outputs).run


def _backend(model: MlflowModel) -> str:
    """The backend that Keras runs on in this process: the one of KERAS_BACKEND, else the model's own where it is installed, else another.

    Keras takes it once, when it is imported; so this sets KERAS_BACKEND.

    Raises:
        ConversionError: it is one that cannot be exported.

    """
    settings = model.flavors["keras"]
    if "keras" not in sys.modules:
        logged = settings.get("keras_backend")
        wanted = ["tensorflow"] if settings.get("save_exported_model") else [logged, *BACKENDS]
        there = [name for name in wanted if name in BACKENDS and importlib.util.find_spec(name)]
        backend = os.environ.setdefault("KERAS_BACKEND", there[0] if there else BACKENDS[0])
    else:
        import keras

        backend = str(keras.backend.backend())
    if backend not in BACKENDS:
        raise ConversionError(
            f"{model.folder}: Keras runs on {backend} here, and models are exported on {' or '.join(BACKENDS)}: set KERAS_BACKEND"
        )
    if settings.get("save_exported_model") and backend != "tensorflow":
        raise ConversionError(f"{model.folder}: it is a SavedModel, which needs TensorFlow; Keras runs on {backend} here (KERAS_BACKEND)")
    return backend


def _load(model: MlflowModel) -> Any:
    import mlflow.keras

    try:
        network = mlflow.keras.load_model(str(model.folder))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConversionError(f"{model.folder}: MLflow cannot load the keras model: {reason}") from error
    if not getattr(network, "inputs", None):
        raise ConversionError(
            f"{model.folder}: the model does not tell what it takes; build it of keras.Input (a Sequential or functional model), or use "
            "`to: python`"
        )
    return network.eval().cpu()


def _inputs(network: Any, model: MlflowModel) -> tuple[TensorSpec, ...]:
    """The model's own inputs; of whole numbers, the signature's element type where it has one (Keras takes them all)."""
    fields: Sequence[Field | None] = model.inputs if model.inputs and model.columns is None else ()
    known = {field.name: field for field in fields if field is not None}
    lone = fields[0] if len(fields) == len(network.inputs) == 1 else None
    specs = []
    for tensor in network.inputs:
        field = known.get(tensor.name, lone)
        own = str(tensor.dtype)
        dtype = field.dtype if field is not None and own.startswith(("int", "uint")) and field.dtype.startswith(("int", "uint")) else own
        datatype = None if dtype == "string" else tensors.datatype_of(dtype)
        if datatype is None:
            raise ConversionError(f"{model.folder}: the input {tensor.name} is {dtype}, which cannot be served this way; use `to: python`")
        name = (lone.name if lone else None) or tensor.name
        specs.append(TensorSpec(name=name, datatype=datatype, shape=tuple(-1 if size is None else size for size in tensor.shape)))
    return tuple(specs)


def _ask(network: Any) -> Ask:
    """How the model is called with one tensor for each of its inputs."""
    import keras

    structure = getattr(network, "_inputs_struct", None)  # a Sequential has none, and one input
    if structure is None or len(network.inputs) == 1:
        return lambda values: network(values[0], training=False)
    return lambda values: network(keras.tree.pack_sequence_as(structure, list(values)), training=False)


def _counted(name: str) -> str:
    return f"{name}_0" if name == torch_module.OUTPUT else name
