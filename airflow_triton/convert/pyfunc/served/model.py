"""What Triton's Python backend runs for an MLflow model: request tensors to the model's own input, its answer to response tensors.

This file lies in the version directory beside `mlflow_model/` (the MLflow model) and `tensors.json` (its inputs and outputs). Nothing here
needs Triton but the class `TritonPythonModel`, so the very same code can be run, and compared with the model, without a server.
"""

# ruff: noqa: BLE001, TID253
# The server's Python runs it: numpy is imported at once, and whatever a model raises is an answer.

from __future__ import annotations

import json
import os
import platform
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

TYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
"""numpy's names of Triton's element types."""

TENSORS_FILE = "tensors.json"
MODEL_FOLDER = "mlflow_model"
ALONE = "output"
"""The name of an answer that has none."""


class Served:
    """An MLflow model behind tensors: `pyfunc` is the loaded model, `tensors` the content of tensors.json."""

    def __init__(self, pyfunc: Any, tensors: dict[str, Any]) -> None:
        self.pyfunc = pyfunc
        self.tensors = tensors

    @classmethod
    def load(cls, folder: Path) -> Served:
        """Load the model of a version directory."""
        import mlflow.pyfunc

        tensors = json.loads((folder / TENSORS_FILE).read_text(encoding="utf-8"))
        return cls(mlflow.pyfunc.load_model(str(folder / MODEL_FOLDER)), tensors)

    def ask(self, inputs: Arrays) -> Arrays:
        """One run: an array for each input, and one for each output, of the types and shapes that tensors.json says.

        Raises:
            ValueError: the model's answer does not fit them.
            Exception: what the model raises.

        """
        answer = parts(self.pyfunc.predict(self.question(inputs)))
        return {one["name"]: fitted(answer, one) for one in self.tensors["outputs"]}

    def question(self, inputs: Arrays) -> Any:
        """What the model's `predict` takes: a table, a list of texts or numbers, one array, or one for each name."""
        kind = self.tensors["kind"]
        given = {name: texts(array) if array.dtype.kind in "OS" else array for name, array in inputs.items()}
        if kind == "table":
            import pandas as pd

            columns = [one["name"] for one in self.tensors["inputs"]]
            return pd.DataFrame({name: given[name].reshape(-1) for name in columns}, columns=columns)
        if kind == "list":
            return next(iter(given.values())).reshape(-1).tolist()
        return given if kind == "arrays" else next(iter(given.values()))


def texts(array: Array) -> Array:
    """BYTES as `str`: UTF-8."""
    decoded = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        decoded[index] = item.decode("utf-8") if isinstance(item, bytes) else item
    return decoded


def parts(answer: Any) -> dict[str, Any]:
    """An answer by name: a table's columns, a mapping's values, anything else as `output`."""
    if hasattr(answer, "columns") and hasattr(answer, "to_numpy"):
        return {str(name): answer.iloc[:, position].to_numpy() for position, name in enumerate(answer.columns)}
    if isinstance(answer, dict):
        return {str(name): value for name, value in answer.items()}
    return {ALONE: answer}


def plain(value: Any) -> Array | None:
    """The value as an array of numbers, truths or texts; None where it is none of these (see `as_json`)."""
    for method in ("toarray", "detach", "to_numpy"):  # a sparse matrix, a PyTorch tensor, a pandas series
        if hasattr(value, method):
            value = getattr(value, method)()
            break
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # rows of different lengths
        return None
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind in "US":
        return array.astype(object)
    return array if all(isinstance(item, (str, bytes)) for item in array.flat) else None


def as_json(value: Any) -> Array:
    """One JSON text for each row of a list (or array, or series), and one for anything else."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    rows = list(rows) if isinstance(rows, (list, tuple)) else [rows]
    array = np.empty(len(rows), dtype=object)
    array[:] = [json.dumps(row, default=_jsonable, ensure_ascii=False, sort_keys=True) for row in rows]
    return array


def _jsonable(value: Any) -> Any:
    for method in ("tolist", "model_dump", "isoformat"):  # numpy, pydantic, dates
        if hasattr(value, method):
            return getattr(value, method)()
    return str(value)


def fitted(answer: dict[str, Any], one: dict[str, Any]) -> Array:
    """The array for an output as tensors.json describes it.

    Raises:
        ValueError: there is none, or it is another shape or holds what the type cannot.

    """
    name, shape = one["name"], one["shape"]
    if name not in answer:
        raise ValueError(f"the model gave {sorted(answer)} and not {name!r}")
    array = as_json(answer[name]) if one["json"] else plain(answer[name])
    if array is None or (array.dtype == object) != (one["datatype"] == "BYTES"):
        raise ValueError(f"the model's {name!r} is not {one['datatype']}, as it was when the model was converted")
    if array.ndim == 0:
        array = array.reshape(1)
    wanted = np.dtype(TYPES[one["datatype"]])
    if array.dtype != wanted:
        with np.errstate(all="ignore"):
            cast = array.astype(wanted)
        if wanted.kind != "f" and not np.array_equal(cast, array):
            raise ValueError(f"the model's {name!r} has values that {one['datatype']} cannot hold")
        array = cast
    if len(shape) != array.ndim or any(size not in (-1, actual) for size, actual in zip(shape, array.shape)):  # noqa: B905
        raise ValueError(f"the model's {name!r} has the shape {list(array.shape)}, which does not fit {shape}")
    return array


def respond(inputs: list[Arrays], served: Served) -> list[Arrays | Exception]:
    """The answers to several requests, or what the model raised for each.

    Under batching, those whose shapes fit together are asked as one batch; an error is the answer of the request that causes it alone.
    """
    answers: dict[int, Arrays | Exception] = {}
    for group in _groups(inputs, batching=served.tensors["batching"]):
        together = _together([inputs[index] for index in group], served) if len(group) > 1 else None
        for position, index in enumerate(group):
            answers[index] = together[position] if together else _alone(inputs[index], served)
    return [answers[index] for index in range(len(inputs))]


def _groups(inputs: list[Arrays], *, batching: bool) -> list[list[int]]:
    alike = defaultdict(list)
    for index, arrays in enumerate(inputs):
        key = tuple(sorted((name, str(array.dtype), array.shape[1:]) for name, array in arrays.items())) if batching else index
        alike[key].append(index)
    return list(alike.values())


def _together(group: list[Arrays], served: Served) -> list[Arrays] | None:
    sizes = [len(next(iter(one.values()))) for one in group]
    try:
        outputs = served.ask({name: np.concatenate([one[name] for one in group]) for name in group[0]})
    except (Exception, SystemExit):  # one of them may be at fault: each is asked on its own
        return None
    if any(len(array) != sum(sizes) for array in outputs.values()):
        return None
    split = {name: np.split(array, np.cumsum(sizes)[:-1]) for name, array in outputs.items()}
    return [{name: rows[position] for name, rows in split.items()} for position in range(len(group))]


def _alone(inputs: Arrays, served: Served) -> Arrays | Exception:
    try:
        return served.ask(inputs)
    except (Exception, SystemExit) as error:
        return ValueError(f"{type(error).__name__}: {error}")


def problem_here(tensors: dict[str, Any]) -> str | None:
    """Why the packed environment is not what this server runs; None where it is, or where there is none."""
    packed = tensors.get("packed_for")
    here = ".".join(platform.python_version_tuple()[:2])
    if packed is None:
        return None
    if here != packed:
        return (
            f"the packed environment is made for Python {packed}, and this server's Python backend runs {here}: deploy with "
            f"`convert.python.python_version: '{here}'`"
        )
    environment = Path(os.environ.get("VIRTUAL_ENV") or "/nowhere").resolve()
    if not Path(np.__file__).resolve().is_relative_to(environment):
        return f"the server does not use the packed environment: numpy comes from {np.__file__}, and not from {environment}"
    return None


class TritonPythonModel:
    """One instance of the model on the server."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; refuse what would answer wrongly later."""
        import triton_python_backend_utils as pb_utils

        if sys.pycache_prefix is None:
            sys.dont_write_bytecode = True  # a new file in a version directory would make a polling server load the model again
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        folder = Path(args["model_repository"]) / args["model_version"]
        try:
            problem = problem_here(json.loads((folder / TENSORS_FILE).read_text(encoding="utf-8"))) or numpy_problem(pb_utils)
            if problem is None:
                self.served = Served.load(folder)
        except (Exception, SystemExit) as error:
            problem = f"the MLflow model does not load: {type(error).__name__}: {error}"
        if problem is not None:
            raise pb_utils.TritonModelException(problem)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        import triton_python_backend_utils as pb_utils

        given = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        responses = []
        for request, answer in zip(requests, respond(given, self.served)):  # noqa: B905 - one for each
            if isinstance(answer, Exception):
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answer))))
                continue
            wanted = request.requested_output_names()
            sent = [pb_utils.Tensor(name, sendable(array)) for name, array in answer.items() if not wanted or name in wanted]
            responses.append(pb_utils.InferenceResponse(sent))
        return responses


def sendable(array: Array) -> Array:
    """C-contiguous, and text as the bytes that the wire carries."""
    if array.dtype != object:
        return np.ascontiguousarray(array)
    encoded = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        encoded[index] = item if isinstance(item, bytes) else item.encode()
    return encoded


def numpy_problem(pb_utils: Any) -> str | None:
    """Whether this server's stub and this numpy understand each other.

    A stub that was built with pybind11 before 2.12 (Triton up to 24.10) reads wrong inputs and sends empty outputs with numpy 2, without a
    word. No tensor shows it from here, for `as_numpy` gives back the very array; but such a stub, and nothing else that is loaded
    by now, imports numpy's C interface by the name that it had before numpy 2.
    """
    for array in (np.arange(6, dtype="float32").reshape(2, 3), np.array([[b"text"]], dtype=object)):
        back = pb_utils.Tensor("check", array).as_numpy()
        if back.shape != array.shape or back.tolist() != array.tolist():
            return f"this server's Python backend does not work with numpy {np.__version__}: a tensor came back changed"
    if int(np.__version__.split(".")[0]) > 1 and "numpy.core.multiarray" in sys.modules:
        return (
            f"this server's Python backend is too old for numpy {np.__version__} (it would read wrong inputs and send empty outputs): put "
            "`numpy<2` into `convert.requirements`"
        )
    return None
