"""MLflow's `pytorch` flavor to ONNX: a pickled module, a TorchScript one, or a pt2 file (`torch.export`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.mlmodel import Field, MlflowModel
from airflow_triton.convert.torch import inputs as torch_inputs
from airflow_triton.convert.torch import module as torch_module
from airflow_triton.convert.torch import requests as torch_requests
from airflow_triton.convert.torch import serve as torch_onnx
from airflow_triton.convert.torch.module import Ask, Named
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.tensors import NUMPY_TYPES

if TYPE_CHECKING:
    from airflow_triton.convert.base import Arrays


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:
    """See `base.Converter.convert`. The converter is called `torch.export` or `torch.jit` (the older exporter, where the first could not).

    Inputs have the names of forward's arguments, or of the signature (`torch_inputs.places`); outputs the signature's names or the
    keys of a mapping, else `output`, or `output_0`, `output_1`. What the signature gives as -1 varies; without a
    signature, the first axis of the example.
    """
    named, inputs, feed = prepare(model, torch_module.load(model), example)
    return torch_onnx.serve(named, inputs, feed, model, into, options=options)


def prepare(model: MlflowModel, module: Any, example: Any) -> tuple[Named, tuple[TensorSpec, ...], Arrays]:
    """The module with named inputs and outputs, its inputs as they are served, and a request that it answers.

    Raises:
        ConversionError: nothing says what it takes, or what does is wrong.

    """
    fields = torch_inputs.fields_of(model, example, _floats(module))
    takes = torch_module.arguments(module)
    where = torch_inputs.places(fields, takes, model)
    inputs = torch_inputs.specs(fields, where)
    names = tuple(spec.name for spec in inputs)
    asked = torch_inputs.asker(module, where, takes)
    feed, answer = torch_requests.sample(inputs, example, lambda given: torch_module.run(asked, [given[name] for name in names]), model)
    outputs = torch_module.names_of_outputs(model, list(answer))
    return Named(torch_module.flat(module, names, asked), asked, names, outputs), inputs, feed


def _floats(module: Any) -> str:
    """The element type of the module's fractions."""
    kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in module.parameters() if tensor.is_floating_point()]
    return kinds[0] if kinds and kinds[0] in ("float16", "float32", "float64") else "float32"


def ask(model: MlflowModel, module: Any, inputs: Sequence[TensorSpec]) -> Ask:
    """How the module is called with one tensor for each of the inputs, as they are served."""
    takes = torch_module.arguments(module)
    fields = [Field(spec.name, NUMPY_TYPES[spec.datatype], spec.shape) for spec in inputs]
    return torch_inputs.asker(module, torch_inputs.places(fields, takes, model), takes)


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: the module that MLflow loads."""
    module = torch_module.load(model)
    inputs, outputs = (tuple(spec.name for spec in specs) for specs in (servable.inputs, servable.outputs))
    return Named(module, ask(model, module, servable.inputs), inputs, outputs).run
