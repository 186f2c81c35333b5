"""Stands in for Triton's compiled onnxruntime backend: the same config.pbtxt, the same files, the same refusals, on the CPU.

Python-based: the server runs this file for every model whose config says `backend: "onnxruntime"` or
`platform: "onnxruntime_onnx"`, and for a folder without config.pbtxt that holds `1/model.onnx` (the server itself concludes the
backend from that name, also when the backend is a Python-based one).

As the compiled one: `model.onnx` or `default_model_filename`; a folder of that name with `model.onnx` and its external data;
auto-complete only where inputs or outputs are not given at all (max_batch_size 4 with dynamic batching if every first
dimension is free, else 0); names, types and shapes are checked at load; scalars are one-element tensors on the wire; the
parameters `intra_op_thread_count`, `inter_op_thread_count` and `execution_mode`, and `optimization.graph.level`.

Not as the compiled one: one thread for each session unless the parameters say otherwise; an error of one request of a
batch does not fail the others; no sequence batching, no ragged batches, no execution accelerators; BF16 cannot pass.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ANN205, BLE001, B905, TID253
# Not part of the package: the server's Python runs it, so numpy is imported at once, its types are the server's own, and
# whatever a model raises is an answer.

from __future__ import annotations

import numpy as np
from local_triton_batching import Config, artifact, dims_of, refused, respond, version_folder

FILE = "model.onnx"
DEFAULT_MAX_BATCH_SIZE = 4
TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


class TritonPythonModel:
    """One instance of one version of a model."""

    @staticmethod
    def auto_complete_config(model_config):
        """Complete a config that gives no inputs or no outputs; import onnxruntime only then."""
        config = model_config.as_dict()
        if config["input"] and config["output"]:
            return model_config
        session = _open(artifact(config["name"], version_folder(config), config, FILE), config)
        inputs, outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
        _complete_batching(model_config, all(one["shape"][:1] == [-1] for one in [*inputs.values(), *outputs.values()]))
        batching = config["max_batch_size"] > 0
        config["input"] = config["input"] or [_described(one, batching=batching) for one in inputs.values()]
        config["output"] = config["output"] or [_described(one, batching=batching) for one in outputs.values()]
        return model_config

    def initialize(self, arguments):
        """Load the model, and refuse a config that does not fit it."""
        self.config = Config(arguments)
        self.session = _open(self.config.artifact(FILE), self.config.raw, self.config.parameter)
        inputs, outputs = _tensors(self.session.get_inputs()), _tensors(self.session.get_outputs())
        defaults = _tensors(self.session.get_overridable_initializers())
        _check_inputs(self.config, inputs, defaults)
        _check_outputs(self.config, outputs)
        self.inputs = {**inputs, **defaults}
        self.scalars = {name: dims_of(one) for name, one in self.config.outputs.items() if not outputs[name]["shape"]}

    def execute(self, requests):
        """Answer the requests, as few runs as their shapes allow."""
        return respond(requests, self.config, self._run)

    def _run(self, inputs, names):
        feed = {name: self._readable(name, array) for name, array in inputs.items()}
        outputs = dict(zip(names, map(np.asarray, self.session.run(names, feed))))
        for name in self.scalars.keys() & outputs.keys():
            outputs[name] = outputs[name].reshape(self.scalars[name])
        return outputs

    def _readable(self, name, array):
        if not self.inputs[name]["shape"]:
            array = array.reshape(())
        if self.inputs[name]["type"] != "TYPE_STRING":
            return array
        decoded = np.empty(array.shape, dtype=np.object_)
        decoded.flat = [one.decode() if isinstance(one, bytes) else one for one in array.flat]
        return decoded


def _open(path, config, parameter=lambda _name, default: default):
    import onnxruntime  # only where a model is opened: it costs half of a load

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = parameter("intra_op_thread_count", 0) or 1
    options.inter_op_num_threads = parameter("inter_op_thread_count", 0) or 1
    mode = parameter("execution_mode", 0)
    if mode not in (0, 1):
        raise refused(f"Invalid configuration value provided. Expected values for execution_mode are 0 or 1 but got {mode}.")
    options.execution_mode = onnxruntime.ExecutionMode(mode)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    chosen = {-1: levels.ORT_ENABLE_BASIC, 1: levels.ORT_ENABLE_EXTENDED, 2: levels.ORT_DISABLE_ALL}
    options.graph_optimization_level = chosen.get(level, levels.ORT_ENABLE_ALL)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever it is, it is why the model does not load
        reason = str(error)
    raise refused(f"onnx runtime error: {reason}")


def _tensors(args):
    for one in args:
        if one.type not in TYPES:
            raise refused(f"Unsupported ONNX Type '{one.type}' for I/O '{one.name}'")
    return {
        one.name: {"name": one.name, "type": TYPES[one.type], "shape": [d if isinstance(d, int) else -1 for d in one.shape or []]}
        for one in args
    }


def _complete_batching(model_config, can_batch):
    config = model_config.as_dict()
    if can_batch and not config["max_batch_size"]:
        model_config.set_max_batch_size(DEFAULT_MAX_BATCH_SIZE)
    if can_batch and config["max_batch_size"] > 1 and "sequence_batching" not in config:
        model_config.set_dynamic_batching()
    if not can_batch and config["max_batch_size"]:
        raise refused(
            f"autofill failed for model '{config['name']}': model does not support batching while non-zero max_batch_size is specified"
        )


def _described(tensor, *, batching):
    shape = tensor["shape"][1:] if batching else tensor["shape"]
    described = {"name": tensor["name"], "data_type": tensor["type"], "dims": shape or [1]}
    if batching and not shape:
        described["reshape"] = {"shape": []}
    return described


def _check_inputs(config, inputs, defaults):
    optional = [name for name, one in config.inputs.items() if one.get("optional")]
    expected = len(config.inputs) - len(optional)
    if len(inputs) != expected:
        raise refused(
            f"unable to load model '{config.name}', configuration expects {expected} inputs, model provides {len(inputs)} "
            f"({', '.join(sorted(inputs))})"
        )
    if optional and config.max_batch_size:
        raise refused(
            f"unable to load model '{config.name}', optional input '{optional[0]}' is not supported for models that support batching"
        )
    for one in config.inputs.values():
        _check(config, "input", one, {**inputs, **defaults}, exact=False)


def _check_outputs(config, outputs):
    for one in config.outputs.values():
        _check(config, "output", one, outputs, exact=True)


def _check(config, kind, one, known, *, exact):
    name, given = one["name"], dims_of(one)
    if name not in known:
        raise refused(f"unexpected inference {kind} '{name}', allowed {kind}s are: {', '.join(sorted(known))}")
    model = known[name]
    if one["data_type"] != model["type"]:
        raise refused(
            f"unable to load model '{config.name}', configuration expects datatype {one['data_type']} for {kind} '{name}', "
            f"model provides {model['type']}"
        )
    if not model["shape"]:
        if any(dim != 1 for dim in given):
            raise refused(f"unable to load model '{config.name}', scalar tensor '{name}', should only provide 1 in the model configuration")
        return
    _check_shape(config, name, model["shape"], given, exact=exact)


def _check_shape(config, name, model, given, *, exact):
    if config.max_batch_size and model[0] != -1:
        raise refused(
            f"model '{config.name}', tensor '{name}': for the model to support batching the shape should have at least 1 dimension "
            f"and the first dimension must be -1; but shape expected by the model is {_text(model)}"
        )
    full = [-1, *given] if config.max_batch_size else given
    fits = len(full) == len(model) and all(theirs in (ours, None if exact else -1) for theirs, ours in zip(model, full))
    if not fits:
        how = (
            f"{len(full)} dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, "
            f"making complete shape {_text(full)})"
            if config.max_batch_size
            else f"{len(full)} dimensions (shape {_text(full)})"
        )
        raise refused(
            f"model '{config.name}', tensor '{name}': the model expects {len(model)} dimensions (shape {_text(model)}) but the model "
            f"configuration specifies {how}"
        )


def _text(shape):
    return "[" + ",".join(map(str, shape)) + "]"
