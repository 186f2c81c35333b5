"""A PyTorch model of MLflow, loaded, and as a module of named tensors: what every exporter of it works on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_triton.convert.base import Arrays

Ask: TypeAlias = Callable[[Sequence[Any]], Any]
"""A model that is called with one torch tensor for each input."""

OUTPUT = "output"
"""The name of a lone output that nothing names; of several, `output_0`, `output_1` and so on."""


@dataclass(frozen=True)
class Argument:
    """An argument of a module's forward, and whether it has no default."""

    name: str
    required: bool


@dataclass(frozen=True)
class Named:
    """A model with named tensors: `inputs` in the order in which `ask` takes them, `outputs` in the order in which its answer has them.

    `module` is a torch module that does the same (`flat`), for the exporters.
    """

    module: Any
    ask: Ask
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, inputs: Arrays) -> dict[str, Any]:
        """The answer to numpy arrays, as numpy arrays.

        Raises:
            ConversionError: it has more or fewer tensors than `outputs`.

        """
        answer = run(self.ask, [inputs[name] for name in self.inputs])
        if len(answer) != len(self.outputs):
            raise ConversionError(f"the model answers with {', '.join(answer)}, and not with {', '.join(self.outputs)} as before")
        return dict(zip(self.outputs, answer.values(), strict=True))


def load(model: MlflowModel) -> Any:
    """The module that MLflow loads, on the CPU, ready to answer (not to train).

    Raises:
        ConversionError: MLflow cannot load it; with its reason.

    """
    import mlflow.pytorch

    try:
        module = mlflow.pytorch.load_model(str(model.folder), map_location="cpu")  # of a pt2 file, MLflow ignores the place
    except ModuleNotFoundError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        hint = "; log the module with its class (code_paths), or with serialization_format='pt2'" if "attribute" in str(error) else ""
        raise ConversionError(f"{model.folder}: MLflow cannot load the pytorch model: {reason}{hint}") from error
    if not callable(getattr(module, "forward", None)):
        raise ConversionError(f"{model.folder}: MLflow loads a {type(module).__name__}, which has no forward; log a torch.nn.Module")
    return module


def arguments(module: Any) -> tuple[Argument, ...]:
    """What forward takes, in its order; `*args` and `**kwargs` are left out."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        forward: Any = module.forward
        declared = forward.schema.arguments[1:]
        return tuple(Argument(each.name, not each.has_default_value()) for each in declared)
    parameters = inspect.signature(module.forward).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(Argument(each.name, each.default is each.empty) for each in parameters if each.kind not in kinds)


def flat(module: Any, names: Sequence[str], ask: Ask) -> Any:
    """`ask` as a torch module: its forward takes a tensor for each of `names`, and gives one flat tuple of tensors.

    `module` is the one whose weights `ask` uses.
    """
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module
            self.training = False

        def train(self, mode: bool = True) -> Any:  # noqa: ARG002, FBT001, FBT002 - torch's own signature; a pt2 module refuses the call
            return self

        def forward(self, *tensors: Any) -> Any:
            return tuple(named_tensors(ask(tensors)).values())

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD  # exporters name what goes in after this
    Flat.forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in ("self", *names)])  # type: ignore[attr-defined]
    return Flat()


def run(ask: Ask, arrays: Sequence[Any]) -> dict[str, Any]:
    """What the model answers to numpy arrays: numpy arrays by the names of `named_tensors`."""
    import numpy as np
    import torch

    with torch.no_grad(), plain_attention():
        answer = named_tensors(ask([torch.from_numpy(np.array(array, order="C")) for array in arrays]))
        return {name: tensor.detach().cpu().numpy() for name, tensor in answer.items()}


def tensors_of(named: Named, feed: Arrays) -> tuple[Any, ...]:
    """A request as torch tensors, in the order in which the model takes them."""
    import numpy as np
    import torch

    return tuple(torch.from_numpy(np.array(feed[name], order="C")) for name in named.inputs)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep torch's attention layers off their fused kernels, which no exporter knows; their answers differ by rounding only."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def named_tensors(answer: Any, name: str = OUTPUT) -> dict[str, Any]:
    """The tensors of an answer, in its order: a mapping's by its keys, the others numbered; None is left out.

    Raises:
        ConversionError: there is something else in it.

    """
    import torch

    if isinstance(answer, torch.Tensor):
        return {name: answer}
    if answer is None:
        return {}
    found: dict[str, Any] = {}
    if isinstance(answer, Mapping):
        for key, value in answer.items():
            found |= named_tensors(value, str(key) if name == OUTPUT else f"{name}_{key}")
        return found
    if not isinstance(answer, (list, tuple)):
        raise ConversionError(f"the model answers with a {type(answer).__name__}, and Triton serves tensors: return those")
    for index, value in enumerate(answer):
        found |= named_tensors(value, name if len(answer) == 1 else f"{name}_{index}")
    return found


def names_of_outputs(model: MlflowModel, found: Sequence[str]) -> tuple[str, ...]:
    """The signature's names where it has one for each output and these are not the model's own (a mapping's keys); else `found`."""
    fields = [field.name for field in model.outputs or () if field.shape is not None]
    named = [name for name in fields if name is not None]
    numbered = all(name == OUTPUT or name.startswith(f"{OUTPUT}_") for name in found)
    return tuple(named) if numbered and len(named) == len(fields) == len(found) else tuple(found)
