"""What the stand-in backends share: reading config.pbtxt's answers, and running several requests as one batch.

Copied beside each stand-in; it is imported by the server's Python stub, with numpy 1 and nothing of this package.
"""

# ruff: noqa: BLE001, B905, TID253
# Not part of the package: the server's Python runs it, so numpy is imported at once, its types are the server's own, and
# whatever a model raises is an answer.

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

Tensors = dict[str, np.ndarray]
Run = Callable[[Tensors, list[str]], Tensors]
"""Runs the model: named inputs, and the names of the outputs that someone asked for."""

UNSUPPORTED = ("sequence_batching", "batch_input", "batch_output", "model_transaction_policy")


class Config:
    """The model's configuration, as the server completed it, and where its files lie."""

    def __init__(self, arguments: dict[str, str]) -> None:
        self.raw = json.loads(arguments["model_config"])
        self.name = arguments["model_name"]
        self.folder = Path(arguments["model_repository"]) / arguments["model_version"]
        self.max_batch_size = int(self.raw.get("max_batch_size", 0))
        self.inputs = {one["name"]: one for one in self.raw["input"]}
        self.outputs = {one["name"]: one for one in self.raw["output"]}
        for key in UNSUPPORTED:
            if self.raw.get(key) and self.raw[key] != {"decoupled": False}:
                raise refused(f"unable to load model '{self.name}': the local Triton's stand-in backends do not support {key}")
        for one in self.raw["input"]:
            if one.get("allow_ragged_batch"):
                raise refused(f"unable to load model '{self.name}': the local Triton's stand-in backends do not support ragged batches")

    def artifact(self, default: str) -> Path:
        """The model file: `default_model_filename`, or the default; a folder holds the file under the default's name."""
        return artifact(self.name, self.folder, self.raw, default)

    def parameter(self, name: str, default: int) -> int:
        """A whole number among the config's parameters."""
        text = self.raw.get("parameters", {}).get(name, {}).get("string_value")
        try:
            return default if text is None else int(text)
        except ValueError:
            raise refused(f"failed to convert '{text}' to integral number in parameter {name} of model '{self.name}'") from None


def artifact(name: str, folder: Path, config: dict, default: str) -> Path:
    """As `Config.artifact`, from the parts that auto-complete has."""
    path = folder / (config.get("default_model_filename") or default)
    if path.is_dir():
        path /= default
    if not path.exists():
        raise refused(f"unable to find '{path}' for model instance '{name}'")
    return path


def version_folder(config: dict) -> Path:
    """Where the files of the version lie that this process was started for.

    Auto-complete is told the config and nothing else. The process's own first argument is the path of the model file.
    """
    path = Path(Path("/proc/self/cmdline").read_bytes().split(b"\0")[1].decode())
    depth = len(Path(config.get("default_model_filename") or "model").parts)
    return path.parents[depth - 1]


def refused(reason: str) -> Exception:
    """The error that makes a load fail with this reason."""
    return pb_utils.TritonModelException(reason)


def dims_of(tensor: dict) -> list[int]:
    """The shape that the model sees: the reshape's where there is one (the server applies it, in both directions)."""
    shape = tensor["reshape"].get("shape", []) if tensor.get("reshape") else tensor["dims"]
    return [int(one) for one in shape]


def respond(requests: list, config: Config, run: Run) -> list:
    """One response for each request: requests whose shapes fit together run as one batch, the others on their own.

    An error of the model answers the requests that caused it, and no others.
    """
    responses: dict[int, object] = {}
    for indices in _groups([_inputs(request) for request in requests], batching=config.max_batch_size > 0):
        group = [requests[index] for index in indices]
        responses.update(zip(indices, _respond_group(group, config, run)))
    return [responses[index] for index in range(len(requests))]


def _respond_group(group: list, config: Config, run: Run) -> list:
    wanted = [_wanted(request, config) for request in group]
    inputs = [_inputs(request) for request in group]
    together = sorted(set().union(*wanted))
    if len(group) > 1:
        sizes = [next(iter(one.values())).shape[0] for one in inputs]
        batch = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
        try:
            outputs = run(batch, together)
        except Exception:  # one of them may be at fault: each is run on its own below
            outputs = None
        if outputs is not None and all(one.ndim and one.shape[0] == sum(sizes) for one in outputs.values()):
            bounds = np.cumsum(sizes)[:-1]
            parts = {name: np.split(one, bounds) for name, one in outputs.items()}
            return [_response({name: parts[name][i] for name in names}) for i, names in enumerate(wanted)]
    return [_respond_alone(one, names, run) for one, names in zip(inputs, wanted)]


def _respond_alone(inputs: Tensors, names: list[str], run: Run) -> object:
    try:
        return _response(run(inputs, names))
    except Exception as error:  # the model's own reason is the answer
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))


def _response(outputs: Tensors) -> object:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, _sendable(one)) for name, one in outputs.items()])


def _sendable(array: np.ndarray) -> np.ndarray:
    """C-contiguous, and text as the bytes that the wire carries."""
    array = np.asarray(array, order="C")
    if array.dtype.kind not in "OUS":
        return array
    encoded = np.empty(array.shape, dtype=np.object_)
    encoded.flat = [one if isinstance(one, bytes) else str(one).encode() for one in array.flat]
    return encoded


def _inputs(request: object) -> Tensors:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _wanted(request: object, config: Config) -> list[str]:
    return list(request.requested_output_names()) or list(config.outputs)


def _groups(inputs: list[Tensors], *, batching: bool) -> Iterable[list[int]]:
    """The indices of the requests that can be one batch: the same tensors, types and shapes but for the first dimension."""
    if not batching:
        return [[index] for index in range(len(inputs))]
    alike: dict[object, list[int]] = defaultdict(list)
    for index, tensors in enumerate(inputs):
        alike[tuple(sorted((name, str(one.dtype), one.shape[1:]) for name, one in tensors.items()))].append(index)
    return alike.values()
