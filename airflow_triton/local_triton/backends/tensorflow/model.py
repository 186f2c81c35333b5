"""Stands in for Triton's compiled tensorflow backend (SavedModel and GraphDef): the same config.pbtxt, the same files, on the CPU.

Python-based: the server runs this file for every model whose config says `backend: "tensorflow"`, `platform: "tensorflow_savedmodel"`
or `platform: "tensorflow_graphdef"`. It needs the larger install with TensorFlow; without it, a load says so.

As the compiled one (its `tensorflow.cc`): `platform` decides (the server itself fills it in for `model.savedmodel` and
`model.graphdef`); a SavedModel's tensors are those of the signature `serving_default` (else of another one), or of the parameter
TF_SIGNATURE_DEF, of the graph tagged `serve` or TF_GRAPH_TAG; names, types and shapes are checked at load, those of outputs exactly, and
a tensor without a declared shape is taken as the config says; missing inputs and outputs are completed of a SavedModel, never of
a GraphDef, whose inputs are its placeholders and whose outputs may be any other node, of any type until it answers; the parameters
TF_NUM_INTRA_THREADS and TF_NUM_INTER_THREADS.

Not as the compiled one: auto-complete only where inputs or outputs are not given at all; one thread for each instance unless the
parameters say otherwise; an error of one request of a batch does not fail the others; no sequence batching, no ragged batches, no
execution accelerators, no TF_INIT_OPS_FILE.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ANN205, BLE001, B905, TID253
# Not part of the package: the server's Python runs it, so numpy is imported at once, its types are the server's own, and
# whatever a model raises is an answer.

from __future__ import annotations

import os

import numpy as np
from local_triton_batching import Config, dims_of, refused, respond, version_folder

FOLDER, GRAPH, GRAPH_PLATFORM = "model.savedmodel", "model.graphdef", "tensorflow_graphdef"
PLATFORMS = ("tensorflow_savedmodel", GRAPH_PLATFORM)
DEFAULT_MAX_BATCH_SIZE = 4
TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "object": "TYPE_STRING",
    "string": "TYPE_STRING",
}
OPERATIONS = ("__saved_model_init_op", "__saved_model_train_op")
"""Signatures that are none of a model's."""


class TritonPythonModel:
    """One instance of one version of a model."""

    @staticmethod
    def auto_complete_config(model_config):
        """Complete a SavedModel's config that gives no inputs or no outputs; import TensorFlow only then."""
        config = model_config.as_dict()
        if (config["input"] and config["output"]) or config.get("platform") == GRAPH_PLATFORM:
            return model_config
        path = version_folder(config) / (config.get("default_model_filename") or FOLDER)
        _, inputs, outputs = _open_saved(_tensorflow(config), path, config, config["name"])
        tensors = [*inputs.values(), *outputs.values()]
        _complete_batching(model_config, all(one["shape"][:1] == [-1] for one in tensors))
        batching = config["max_batch_size"] > 0
        for key, known in (("input", inputs), ("output", outputs)):
            config[key] = config[key] or [_described(config["name"], one, batching=batching) for one in known.values()]
        return model_config

    def initialize(self, arguments):
        """Load the model, and refuse a config that does not fit it."""
        self.config = Config(arguments)
        raw = self.config.raw
        if raw.get("platform") not in PLATFORMS:
            raise refused(f"platform {raw.get('platform', '')} not supported for TensorFlow model '{self.config.name}'")
        graph = raw["platform"] == GRAPH_PLATFORM
        path = self.config.folder / (raw.get("default_model_filename") or (GRAPH if graph else FOLDER))
        if not path.exists():
            raise refused(f"unable to find '{path}' for model instance '{self.config.name}'")
        self.tensorflow = _tensorflow(raw)
        if graph:
            self.function = _open_graph(self.tensorflow, path, self.config)
            return
        self.function, inputs, outputs = _open_saved(self.tensorflow, path, raw, self.config.name)
        _check_all(self.config, inputs, outputs)

    def execute(self, requests):
        """Answer the requests, as few runs as their shapes allow."""
        return respond(requests, self.config, self._run)

    def _run(self, inputs, names):
        results = self.function({name: self.tensorflow.constant(array) for name, array in inputs.items()})
        outputs = {name: np.asarray(results[name].numpy()) for name in names}
        for name, array in outputs.items():
            expected = self.config.outputs[name]["data_type"]
            if TYPES.get(array.dtype.name) != expected:
                raise ValueError(f"unexpected datatype {TYPES.get(array.dtype.name)} for inference output '{name}', expecting {expected}")
        return outputs


def _tensorflow(config):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf  # absent from the smaller install
    except ImportError:
        raise refused(
            "this local Triton was installed without TensorFlow: start it with `airflow-triton serve --with tensorflow`, or in "
            "Python with LocalTriton(..., with_={'tensorflow'}), to serve SavedModel and GraphDef"
        ) from None
    threads = tf.config.threading
    threads.set_intra_op_parallelism_threads(int(_parameter(config, "TF_NUM_INTRA_THREADS") or 1))
    threads.set_inter_op_parallelism_threads(int(_parameter(config, "TF_NUM_INTER_THREADS") or 1))
    return tf


def _parameter(config, name):
    return config.get("parameters", {}).get(name, {}).get("string_value", "")


def _open_saved(tensorflow, path, config, name):
    """A function of named tensors, and the signature's inputs and outputs."""
    tag = _parameter(config, "TF_GRAPH_TAG") or "serve"
    try:
        loaded = tensorflow.saved_model.load(str(path), tags=[tag])
        definitions = _signatures(path, tag)
    except Exception as error:  # whatever it is, it is why the model does not load
        reason = str(error)
    else:
        key = _signature(definitions, _parameter(config, "TF_SIGNATURE_DEF"), name)
        run = loaded.signatures[key]
        sides = ("input", definitions[key].inputs), ("output", definitions[key].outputs)
        inputs, outputs = (_tensors(tensorflow, side, tensors, name) for side, tensors in sides)
        return (lambda feed, _keep=loaded: run(**feed)), inputs, outputs
    raise refused(f"failed to load model '{name}': {reason}")


def _signatures(path, tag):
    from tensorflow.core.protobuf import saved_model_pb2

    read = saved_model_pb2.SavedModel()
    read.ParseFromString((path / "saved_model.pb").read_bytes())
    return next(one for one in read.meta_graphs if tag in one.meta_info_def.tags).signature_def


def _signature(definitions, wanted, name):
    usable = [key for key in definitions if key not in OPERATIONS]
    key = wanted or ("serving_default" if "serving_default" in usable else next(iter(usable), None))
    if key not in usable:
        raise refused(f"unable to load model '{name}', expected '{wanted or 'serving_default'}' signature")
    return key


def _tensors(tensorflow, side, tensors, name):
    known = {}
    for key, one in tensors.items():
        kind = tensorflow.dtypes.as_dtype(one.dtype).name
        if kind not in TYPES:
            raise refused(f"unable to process {side} '{key}' for '{name}', unsupported datatype '{kind}'")
        known[key] = {"name": key, "type": TYPES[kind], "shape": [dim.size for dim in one.tensor_shape.dim]}
    return known


def _complete_batching(model_config, can_batch):
    config = model_config.as_dict()
    if not can_batch and config["max_batch_size"]:
        raise refused(
            f"unable to autofill for '{config['name']}', configuration specified max-batch {config['max_batch_size']} but model signature "
            "does not support batching"
        )
    if can_batch and not config["max_batch_size"]:
        model_config.set_max_batch_size(DEFAULT_MAX_BATCH_SIZE)
    if can_batch and config["max_batch_size"] > 1 and "sequence_batching" not in config:
        model_config.set_dynamic_batching()


def _described(model, tensor, *, batching):
    if not tensor["shape"]:
        raise refused(f"Unable to autofill for '{model}': the rank of model tensor '{tensor['name']}' is 0 and dimensions are not defined")
    shape = tensor["shape"][1:] if batching else tensor["shape"]
    described = {"name": tensor["name"], "data_type": tensor["type"], "dims": shape or [1]}
    if batching and not shape:
        described["reshape"] = {"shape": []}
    return described


def _check_all(config, inputs, outputs):
    if len(inputs) != len(config.inputs):
        raise refused(
            f"unable to load model '{config.name}', configuration expects {len(config.inputs)} inputs, model provides {len(inputs)}"
        )
    for kind, given, known in (("input", config.inputs, inputs), ("output", config.outputs, outputs)):
        for one in given.values():
            _check_name(kind, one["name"], known)
            _check(config, kind, one, known[one["name"]])


def _check_name(kind, name, allowed):
    if name not in allowed:
        raise refused(f"unexpected inference {kind} '{name}', allowed {kind}s are: {', '.join(sorted(allowed))}")


def _check(config, kind, one, known):
    """The first -1 of a batch must be declared; other sizes must be equal, and an input may be narrower than it is declared."""
    model, given = known["shape"], dims_of(one)
    where = f"model '{config.name}', tensor '{one['name']}': "
    if model and config.max_batch_size and model[0] != -1:
        raise refused(
            f"{where}for the model to support batching the shape should have at least 1 dimension and the first dimension must be -1; "
            f"but shape expected by the model is {_text(model)}"
        )
    full = [-1, *given] if config.max_batch_size else given
    loose = -1 if kind == "input" else None
    if model and (len(full) != len(model) or any(theirs not in (ours, loose) for theirs, ours in zip(model, full))):
        how = (
            f"{len(full)} dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, "
            f"making complete shape {_text(full)})"
            if config.max_batch_size
            else f"{len(full)} dimensions (shape {_text(full)})"
        )
        raise refused(
            f"{where}the model expects {len(model)} dimensions (shape {_text(model)}) but the model configuration specifies {how}"
        )
    if one["data_type"] != known["type"]:
        raise refused(
            f"unable to load model '{config.name}', configuration expects datatype {one['data_type']} for {kind} '{one['name']}', "
            f"model provides {known['type']}"
        )


def _open_graph(tensorflow, path, config):
    """A function of named tensors: the graph from the config's inputs to its outputs."""
    definition = tensorflow.compat.v1.GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
        importer = tensorflow.compat.v1.wrap_function(lambda: tensorflow.import_graph_def(definition, name=""), [])
    except Exception as error:  # whatever it is, it is why the model does not load
        reason = str(error)
    else:
        _check_graph(config, definition)
        graph = importer.graph
        inputs, outputs = list(config.inputs), list(config.outputs)
        pruned = importer.prune([graph.get_tensor_by_name(f"{n}:0") for n in inputs], [graph.get_tensor_by_name(f"{n}:0") for n in outputs])
        return lambda feed: dict(zip(outputs, pruned(*(feed[name] for name in inputs))))
    raise refused(f"failed to load model '{config.name}': {reason}")


def _check_graph(config, definition):
    inputs = {node.name for node in definition.node if node.op == "Placeholder"}
    if len(inputs) < len(config.inputs):
        raise refused(
            f"unable to load model '{config.name}', configuration expects {len(config.inputs)} inputs, model provides at most {len(inputs)}"
        )
    for name in config.inputs:
        _check_name("input", name, inputs)
    for name in config.outputs:
        _check_name("output", name, {node.name for node in definition.node} - inputs)


def _text(shape):
    return "[" + ",".join(map(str, shape)) + "]"
