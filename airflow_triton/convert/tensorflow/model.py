"""MLflow's TensorFlow models: the SavedModel that each one is or can be exported to, and the Keras model itself."""

from __future__ import annotations

import importlib
import importlib.metadata
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from airflow_triton.convert.base import Arrays, Run
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable

FOLDER = "model.savedmodel"
"""The folder that Triton's tensorflow backend opens in a version directory."""

Kind = Literal["keras", "saved-model"]


def flavor_of(model: MlflowModel) -> str:
    """The flavor that it is loaded by: `tensorflow`, or `keras` (which also takes Keras models of TensorFlow)."""
    return "tensorflow" if "tensorflow" in model.flavors else "keras"


def kind_of(model: MlflowModel) -> Kind:
    """Whether MLflow has stored a Keras model (a file of Keras' own), or a SavedModel.

    Raises:
        ConversionError: it is an Estimator of TensorFlow 1.

    """
    flavor = flavor_of(model)
    settings = model.flavors[flavor]
    if flavor == "keras":
        return "saved-model" if settings.get("save_exported_model") else "keras"
    stored = settings.get("model_type")
    if stored == "keras":
        return "keras"
    if stored == "tf2-module":
        return "saved-model"
    raise ConversionError(
        f"{model.folder}: its model_type is {stored or 'not given, so an Estimator of TensorFlow 1'}; valid: keras, tf2-module. Log it "
        "again with mlflow.tensorflow.log_model and TensorFlow 2"
    )


@contextmanager
def saved_model(model: MlflowModel, example: Any = None) -> Iterator[Path]:
    """The folder of the model's SavedModel: its own, or one that Keras exported, which is gone at the end.

    Keras exports a subclass of Model only after a call: `example`, the model's input example, is what it is called with.

    Raises:
        ConversionError: Keras cannot load or export it.

    """
    if kind_of(model) == "saved-model":
        yield _folder(model)
        return
    network = load_keras(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FOLDER)
        try:
            if not _inputs(network) and example is not None:
                network(example, training=False)
            network.export(str(path), verbose=False)
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            hint = "" if _inputs(network) or example is not None else "; log the model with an input example, which calls it"
            raise ConversionError(f"{model.folder}: Keras cannot export the model to a SavedModel: {reason}{hint}") from error
        yield path


def _folder(model: MlflowModel) -> Path:
    flavor = flavor_of(model)
    folder = model.file(flavor, "saved_model_dir" if flavor == "tensorflow" else "data")
    return folder if (folder / "saved_model.pb").exists() else folder / "model"


def load_keras(model: MlflowModel) -> Any:
    """The Keras model.

    Raises:
        ConversionError: MLflow cannot load it.

    """
    flavor = flavor_of(model)
    try:
        return importlib.import_module(f"mlflow.{flavor}").load_model(str(model.folder))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConversionError(f"{model.folder}: MLflow cannot load the {flavor} model: {reason}") from error


def ask_keras(network: Any, model: MlflowModel, servable: Servable) -> Run:
    """The Keras model as its exported SavedModel is asked: an array for each input by name, an array for each output.

    Keras names an exported model's inputs after the model's own; its outputs after the keys of a model that gives a mapping, else
    `output_0`, `output_1` and so on.
    """
    import keras

    if not _inputs(network) and len(servable.inputs) != 1:
        names = ", ".join(spec.name for spec in servable.inputs)
        raise ConversionError(
            f"{model.folder}: the Keras model is a subclass of Model that takes {names}, and Keras does not tell which argument of its "
            "`call` is which; build it of keras.Input, or log it as a tf.Module with signatures"
        )

    structure = getattr(network, "input", None) if _inputs(network) else None  # a Sequential has none, and one input

    def run(inputs: Arrays) -> Arrays:
        if structure is not None:
            given = keras.tree.map_structure(lambda tensor: inputs[tensor.name], structure)
        else:
            (given,) = inputs.values()
        answer = network(given, training=False)
        named = answer if isinstance(answer, Mapping) else {f"output_{i}": one for i, one in enumerate(keras.tree.flatten(answer))}
        return {name: keras.ops.convert_to_numpy(one) for name, one in named.items()}

    return run


def _inputs(network: Any) -> list[Any]:
    """The model's `keras.Input`s; none where it is a subclass of Model, which has only a function `call`."""
    return list(getattr(network, "inputs", None) or ())


def versions(*names: str) -> dict[str, str]:
    """The versions of these packages, and of TensorFlow under whichever name it is installed."""
    library = importlib.metadata.packages_distributions()["tensorflow"][0]
    return {name: importlib.metadata.version(name) for name in (library, *names)}
