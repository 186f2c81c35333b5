"""Stands in for Triton's compiled pytorch backend (TorchScript): the same config.pbtxt, the same `model.pt`, on the CPU.

Python-based: the server runs this file for every model whose config says `backend: "pytorch"` or
`platform: "pytorch_libtorch"`. It needs the larger install with torch; without it, a load says so.

As the compiled one: inputs are found by the names of forward's arguments, or by `<name>__<index>`, else by their order in the
config; outputs by `<name>__<index>`, else by order; one input of type Dict[str, Tensor] takes all inputs by name; nothing is
auto-completed, as a TorchScript file does not know its types and shapes; the parameters INFERENCE_MODE,
INTRA_OP_THREAD_COUNT and INTER_OP_THREAD_COUNT (also in lower case).

Not as the compiled one: one thread for each instance unless the parameters say otherwise; an error of one request of a
batch does not fail the others; no strings, no BF16, no sequence batching.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ANN205, BLE001, TID253
# Not part of the package: the server's Python runs it, so numpy is imported at once, its types are the server's own, and
# whatever a model raises is an answer.

from __future__ import annotations

import numpy as np
from local_triton_batching import Config, refused, respond

FILE = "model.pt"
TYPES = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
}


class TritonPythonModel:
    """One instance of one version of a model."""

    @staticmethod
    def auto_complete_config(model_config):
        """Nothing can be completed: a TorchScript file does not know the types and shapes of its inputs and outputs."""
        return model_config

    def initialize(self, arguments):
        """Load the model, and refuse a config that does not fit it."""
        self.config = Config(arguments)
        self.torch = _torch()
        self.torch.set_num_threads(self._parameter("INTRA_OP_THREAD_COUNT"))
        self.torch.set_num_interop_threads(self._parameter("INTER_OP_THREAD_COUNT"))
        self.guard = self.torch.inference_mode if self._inference_mode() else self.torch.no_grad
        self.model = self._load()
        _check_types(self.config)
        arguments = [one for one in self.model.forward.schema.arguments if one.name != "self"]
        self.takes_dict = len(arguments) == 1 and str(arguments[0].type).startswith("Dict")
        self.inputs = list(self.config.inputs) if self.takes_dict else _input_order(self.config, [one.name for one in arguments])
        self.outputs = _output_index(self.config)

    def execute(self, requests):
        """Answer the requests, as few runs as their shapes allow."""
        return respond(requests, self.config, self._run)

    def _run(self, inputs, names):
        tensors = {name: self.torch.from_numpy(np.array(array, order="C")) for name, array in inputs.items()}
        with self.guard():
            result = self.model(tensors) if self.takes_dict else self.model(*(tensors[name] for name in self.inputs))
        return {name: self._output(result, name) for name in names}

    def _output(self, result, name):
        if isinstance(result, dict):
            found = result.get(name)
        else:
            all_of_them = result if isinstance(result, (tuple, list)) else (result,)
            index = self.outputs[name]
            found = all_of_them[index] if index < len(all_of_them) else None
        if found is None:
            raise ValueError(f"the output '{name}' in the model configuration refers to an output that the model does not return")
        array = found.numpy()
        expected = self.config.outputs[name]["data_type"]
        if array.dtype != TYPES[expected]:
            raise ValueError(f"configuration expects datatype {expected} for output '{name}', model provides {_type_name(array.dtype)}")
        return array

    def _load(self):
        path = self.config.artifact(FILE)
        try:
            return self.torch.jit.load(str(path), map_location="cpu").eval()
        except Exception as error:  # whatever it is, it is why the model does not load
            reason = str(error)
        raise refused(f"failed to load model '{self.config.name}': {reason}")

    def _parameter(self, name):
        return self.config.parameter(name, 0) or self.config.parameter(name.lower(), 0) or 1

    def _inference_mode(self):
        value = self.config.raw.get("parameters", {}).get("INFERENCE_MODE", {}).get("string_value", "true")
        return value.lower() in ("true", "1")


def _torch():
    try:
        import torch  # absent from the smaller install
    except ImportError:
        pass
    else:
        return torch
    raise refused(
        "this local Triton was installed without PyTorch: start it with `airflow-triton serve --with torch`, or in "
        "Python with LocalTriton(..., with_={'torch'}), to serve TorchScript models"
    )


def _check_types(config):
    for one in [*config.inputs.values(), *config.outputs.values()]:
        if one["data_type"] not in TYPES:
            raise refused(f"unsupported datatype {one['data_type']} for '{one['name']}' for model '{config.name}'")


def _input_order(config, arguments):
    """The config's input names, in the order of forward's arguments."""
    names = list(config.inputs)
    if len(names) != len(arguments):
        raise refused(
            f"unable to load model '{config.name}', configuration expects {len(names)} inputs, model provides {len(arguments)} "
            f"({', '.join(arguments)})"
        )
    if all(name in arguments for name in names):
        return sorted(names, key=arguments.index)
    if all(_index(name) is not None for name in names):
        ordered = sorted(names, key=_index)
        if [_index(name) for name in ordered] != list(range(len(names))):
            raise refused(
                f"unable to load model '{config.name}', the inputs {', '.join(ordered)} do not number the model's {len(names)} inputs "
                "from 0"
            )
        return ordered
    return names


def _output_index(config):
    """The place of each output in what forward returns."""
    names = list(config.outputs)
    if all(_index(name) is not None for name in names):
        return {name: _index(name) for name in names}
    return {name: place for place, name in enumerate(names)}


def _index(name):
    _, _, index = name.partition("__")
    return int(index) if index.isdigit() else None


def _type_name(dtype):
    return next((name for name, known in TYPES.items() if dtype == known), f"numpy's {dtype}")
