"""Any MLflow model by Triton's Python backend: the model's own folder, and a `model.py` that asks it with the request's tensors."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from airflow_triton.convert import base, environments, examples
from airflow_triton.convert.base import Arrays, Options, Run
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.pyfunc import packed
from airflow_triton.convert.pyfunc import types as python_types
from airflow_triton.convert.pyfunc.outputs import observe
from airflow_triton.convert.pyfunc.types import Question
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

MODEL_FILE = "model.py"
ENVIRONMENT_FILE = "environment.tar.gz"
LEFT_OUT = ("registered_model_meta",)
"""What a download writes beside the model, and differs from one registry to the other."""


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:
    """See `base.Converter.convert`.

    Inputs are the signature's (`python_types`), outputs what the model was seen to answer: a table's columns and a mapping's values by
    their names, anything else as `output`; texts are BYTES, and what is neither numbers nor texts is one JSON text for each row.

    """
    question = python_types.question_of(model, example)
    pyfunc = _load(model)
    seen = observe(model, pyfunc, question, example)
    version = options.python.python_version or environments.this_python()
    is_packed = options.python.environment == "packed"
    servable = Servable(
        backend="python",
        default_model_filename=MODEL_FILE,
        inputs=question.inputs,
        outputs=seen.specs,
        batching=seen.batching,
        flavor=base.PYFUNC,
        converter="pyfunc",
        tools={"mlflow": importlib.metadata.version("mlflow-skinny"), "numpy": importlib.metadata.version("numpy")},
        notes=(*question.notes, *seen.notes),
        parameters={"EXECUTION_ENV_PATH": f"$$TRITON_MODEL_DIRECTORY/{{version}}/{ENVIRONMENT_FILE}"} if is_packed else {},
        entry=MODEL_FILE,
    )
    into.copy(Path(__file__).with_name("served") / MODEL_FILE, MODEL_FILE)
    content = {**tensors(question, servable.outputs, seen.json, batching=seen.batching), "packed_for": version if is_packed else None}
    into.write("tensors.json", json.dumps(content, indent=1).encode())
    for path in sorted(model.folder.rglob("*")):
        name = path.relative_to(model.folder).as_posix()
        if path.is_file() and name not in LEFT_OUT and "__pycache__" not in path.parts:
            into.link(path, f"mlflow_model/{name}")
    if is_packed:
        into.link(packed.archive(model.folder, requirements=options.requirements, python_version=version), ENVIRONMENT_FILE)
    return servable


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: `mlflow.pyfunc`'s own `predict`, on the model's own folder."""
    from airflow_triton.convert.pyfunc.served import model as served

    question = python_types.question_of(model, None if model.inputs else examples.load(model))
    pyfunc = _load(model)
    asker = served.Served(pyfunc, tensors(question, servable.outputs, frozenset(), batching=servable.batching))

    def ask(inputs: Arrays) -> Arrays:
        parts = served.parts(pyfunc.predict(asker.question(dict(inputs))))
        given = {}
        for spec in servable.outputs:
            array = served.plain(parts[spec.name])
            given[spec.name] = served.as_json(parts[spec.name]) if array is None else array
        return given

    return ask


def tensors(question: Question, outputs: tuple[TensorSpec, ...], as_json: frozenset[str], *, batching: bool) -> dict[str, Any]:
    """The content of tensors.json, which tells `served/model.py` what goes in and comes out."""
    return {
        "kind": question.kind,
        "inputs": [spec.model_dump(mode="json") for spec in question.inputs],
        "outputs": [{**spec.model_dump(mode="json"), "json": spec.name in as_json} for spec in outputs],
        "batching": batching,
    }


def _load(model: MlflowModel) -> Any:
    import mlflow.pyfunc

    try:
        return mlflow.pyfunc.load_model(str(model.folder))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConversionError(f"{model.folder}: mlflow.pyfunc cannot load the model: {reason}") from error
