"""MLflow's `pytorch` flavor to TorchScript: scripted where that is possible, else traced; served by Triton's pytorch backend."""

from __future__ import annotations

import importlib.metadata
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton import tensors
from airflow_triton.convert import signature
from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.probe import FEW, MORE, Probe, Seen
from airflow_triton.convert.runners.pytorch import run_file
from airflow_triton.convert.torch import module as torch_module
from airflow_triton.convert.torch import pytorch
from airflow_triton.convert.torch import requests as torch_requests
from airflow_triton.convert.torch.module import Named
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

if TYPE_CHECKING:
    from airflow_triton.convert.base import Arrays

MODEL_FILE = "model.pt"
"""The file that Triton's pytorch backend opens in a version directory."""


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:  # noqa: ARG001 - none is about it
    """See `base.Converter.convert`. The converter is called `torch.jit.script` or `torch.jit.trace`.

    Inputs have the names of forward's arguments, in their order; outputs are `OUTPUT__0`, `OUTPUT__1` and so on, as the backend
    counts them, in the order in which the model gives them. Types and shapes were observed at several sizes.
    """
    module = torch_module.load(model)
    named, inputs, feed = pytorch.prepare(model, module, example)
    trials = torch_requests.trials(named, inputs, feed, model)
    script, converter, notes = _script(model, module, named, inputs, feed)
    with tempfile.TemporaryDirectory(prefix="airflow-triton-") as room:
        path = Path(room, MODEL_FILE)
        script.save(str(path))
        into.copy(path, MODEL_FILE)
    counted = tuple(f"OUTPUT__{index}" for index in range(len(named.outputs)))
    served = run_file(into.path / MODEL_FILE, named.inputs, counted)
    _hold(served, [(feed, named.run(feed)), *trials], model)
    batching, outputs = _look(served, inputs, feed, model)
    own = [spec.model_copy(update={"name": name}) for name, spec in zip(named.outputs, outputs, strict=True)]
    signature.check(model, inputs, own)
    return Servable(
        backend="pytorch",
        default_model_filename=MODEL_FILE,
        inputs=inputs,
        outputs=outputs,
        batching=batching,
        flavor="pytorch",
        converter=converter,
        notes=notes,
        tools={"torch": importlib.metadata.version("torch")},
        entry=MODEL_FILE,
    )


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: the module that MLflow loads."""
    return pytorch.original(model, servable)


def _script(model: MlflowModel, module: Any, named: Named, inputs: Sequence[TensorSpec], feed: Arrays) -> tuple[Any, str, tuple[str, ...]]:
    """The module in TorchScript, what made it, and what is to be said of that.

    What is scripted keeps its branches and loops. The backend takes a tensor for each argument, and a tensor or a tuple of them as
    the answer; a scripted module of another form is traced as a part of one of that form, which keeps them too.

    Raises:
        ConversionError: it can neither be scripted nor traced.

    """
    import torch

    notes: tuple[str, ...] = ()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            core: Any = torch.jit.script(module)
        except Exception as error:  # noqa: BLE001 - the compiler's errors have no common base
            core, script_error = module, one_line(error)[:200]
            notes = (f"The model was traced, as torch.jit.script could not compile it: {script_error}",)
        if not notes and _direct(core, named):
            return core, "torch.jit.script", ()
        flat = torch_module.flat(core, named.inputs, pytorch.ask(model, core, inputs))
        try:
            with torch_module.plain_attention():
                traced = torch.jit.trace(flat, torch_module.tensors_of(named, feed), check_trace=False)  # type: ignore[no-untyped-call]
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ConversionError(f"{model.folder}: the model can neither be scripted nor traced: {' '.join(notes)} {reason}") from error
    if not notes:
        return traced, "torch.jit.script", ()
    frozen = dict.fromkeys(" ".join(str(each.message).split()) for each in heard if each.category.__name__ == "TracerWarning")
    if frozen and not isinstance(module, torch.fx.GraphModule):  # a pt2 file has no branches; it only checks its sizes
        notes = (*notes, f"A trace holds what the model did for one request, and PyTorch warned: {' '.join(frozen)[:500]}")
    return traced, "torch.jit.trace", notes


def _direct(script: Any, named: Named) -> bool:
    """Whether Triton's backend can call it as it is."""
    arguments = [argument.name for argument in torch_module.arguments(script)]
    answer = str(script.forward.schema.returns[0].type).replace(" ", "").strip("()")
    return len(arguments) == len(named.inputs) and "Dict" not in str(script.forward.schema) and set(answer.split(",")) == {"Tensor"}


def _hold(served: Named, requests: Sequence[tuple[Arrays, Arrays]], model: MlflowModel) -> None:
    """See that the file answers every size as the model does.

    Raises:
        ConversionError: it does not; with the sizes, or its own reason.

    """
    for given, expected in requests:
        asked = ", ".join(f"{name} {list(array.shape)}" for name, array in given.items())
        try:
            got = served.run(given)
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ConversionError(
                f"{model.folder}: the model in TorchScript does not answer {asked}, as the model does: {reason}"
            ) from error
        if apart := torch_requests.difference(dict(zip(expected, got.values(), strict=True)), expected):
            raise ConversionError(
                f"{model.folder}: the model in TorchScript fixed a size: asked with {asked}, {apart}. Make the model scriptable "
                "(torch.jit.script), or use `to: onnx`"
            )


def _look(served: Named, inputs: Sequence[TensorSpec], feed: Arrays, model: MlflowModel) -> tuple[bool, tuple[TensorSpec, ...]]:
    """Whether it batches, and its outputs with their true types and shapes."""
    seen = Probe(lambda given: list(served.run(given).values()), inputs, {}).look(dict(feed))
    if seen is None:
        raise ConversionError(f"{model.folder}: the model in TorchScript does not answer {FEW} rows of its example")
    batching = _batches(inputs, seen)
    return batching, tuple(_output(name, index, seen, model, batching=batching) for index, name in enumerate(served.outputs))


def _batches(inputs: Sequence[TensorSpec], seen: Seen) -> bool:
    if seen.more is None or not all(spec.shape[:1] == (-1,) for spec in inputs):
        return False
    follow = all(few.shape[:1] == (FEW,) and more.shape[:1] == (MORE,) for few, more in zip(seen.few, seen.more, strict=True))
    return follow and seen.independent


def _output(name: str, index: int, seen: Seen, model: MlflowModel, *, batching: bool) -> TensorSpec:
    arrays = [run[index] for run in (seen.few, seen.more, seen.wider) if run is not None]
    datatype = tensors.datatype_of(arrays[0].dtype)
    if datatype is None or len({array.ndim for array in arrays}) > 1:
        raise ConversionError(f"{model.folder}: the output {name} is {arrays[0].dtype} of varying axes, which Triton cannot serve")
    sizes = zip(*(array.shape for array in arrays), strict=True)
    shape = (-1 if (axis == 0 and batching) or len(set(each)) > 1 else each[0] for axis, each in enumerate(sizes))
    return TensorSpec(name=name, datatype=datatype, shape=tuple(shape))
