"""MLflow's `transformers` flavor to ONNX: the pipeline's torch model takes its tokenizer's tensors, and gives its own outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.torch import inputs as torch_inputs
from airflow_triton.convert.torch import module as torch_module
from airflow_triton.convert.torch import requests as torch_requests
from airflow_triton.convert.torch import serve as torch_onnx
from airflow_triton.convert.torch.module import Named
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

if TYPE_CHECKING:
    from airflow_triton.convert.base import Arrays

TEXTS = ("The model is asked about this sentence.", "This one is shorter.")
"""What is tokenized where the model has no input example of text."""

TOKENS = "It takes the tensors of its tokenizer, so its clients tokenize; `to: python` serves the pipeline itself, which takes text."
ONE_STEP = "It gives the logits of one step, and generates no text; `to: python` serves the pipeline itself, which does."


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:
    """See `base.Converter.convert`. Inputs are the tokenizer's tensors that the model's forward takes (`input_ids`, `attention_mask`, ...),
    INT64 [-1, -1]: any number of rows, of any length up to the model's own; outputs are those of the model (`logits`, ...).
    """  # noqa: D205 - as its neighbours
    network, tokenizer = _load(model)
    tokens = _tokens(model, network, tokenizer, _texts(example) or list(TEXTS))
    names = tuple(tokens)
    inputs = tuple(TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in names)
    ask = _ask(network, names)
    feed, answer = torch_requests.sample(inputs, tokens, lambda given: torch_module.run(ask, [given[name] for name in names]), model)
    named = Named(torch_module.flat(network, names, ask), ask, names, tuple(answer))
    tools = ("transformers", "tokenizers")
    servable = torch_onnx.serve(named, inputs, feed, model, into, options=options, flavor="transformers", tools=tools, signed=False)
    notes = (TOKENS, ONE_STEP) if network.can_generate() else (TOKENS,)
    return servable.model_copy(update={"notes": (*notes, *servable.notes)})


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: the pipeline's torch model, asked with tensors."""
    network, _ = _load(model)
    inputs, outputs = (tuple(spec.name for spec in specs) for specs in (servable.inputs, servable.outputs))
    return Named(network, _ask(network, inputs), inputs, outputs).run


def example_inputs(model: MlflowModel, servable: Servable, example: Any) -> Arrays | None:
    """The texts of the logged example (without one, made-up sentences), tokenized. None where the example holds no text."""
    texts = list(TEXTS) if example is None else _texts(example)
    if not texts:
        return None
    network, tokenizer = _load(model)
    tokens = _tokens(model, network, tokenizer, texts)
    return {spec.name: tokens[spec.name] for spec in servable.inputs}


def _load(model: MlflowModel) -> tuple[Any, Any]:
    """The torch model and the tokenizer."""
    import mlflow.transformers
    import torch

    try:
        parts = mlflow.transformers.load_model(str(model.folder), return_type="components", device="cpu")
    except ModuleNotFoundError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConversionError(f"{model.folder}: MLflow cannot load the transformers model: {reason}") from error
    network: Any = parts.get("model")
    tokenizer = parts.get("tokenizer")
    if tokenizer is None or not issubclass(type(network), torch.nn.Module):
        raise ConversionError(
            f"{model.folder}: the model has the parts {', '.join(sorted(parts))}; only a torch model with a tokenizer becomes `to: onnx`. "
            "`to: python` serves the pipeline itself"
        )
    if network.config.is_encoder_decoder and network.can_generate():
        raise ConversionError(
            f"{model.folder}: {type(network).__name__} writes its answer step by step with a decoder, which is no single ONNX graph; "
            "`to: python` serves the pipeline itself"
        )
    if any(weight.dtype == torch.bfloat16 for weight in network.parameters()):
        network = network.float()  # numpy and Triton's onnxruntime backend have no bfloat16
    network.config.use_cache = False
    return network.eval(), tokenizer


def _ask(network: Any, names: Sequence[str]) -> torch_module.Ask:
    takes = torch_module.arguments(network)
    return torch_inputs.asker(network, tuple((name, name) for name in names), takes)


def _texts(example: Any) -> list[str]:
    """The texts of an example: a text, several, a table's columns of text, or a mapping's values."""
    import numpy as np

    if example is None:
        return []
    flat = np.asarray(list(example.values()) if isinstance(example, dict) else example, dtype=object).reshape(-1)
    return [value for value in flat if isinstance(value, str)]


def _tokens(model: MlflowModel, network: Any, tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """The tokenizer's tensors that forward takes, in forward's order."""
    import numpy as np

    try:
        tokens = tokenizer(texts, padding=tokenizer.pad_token is not None, truncation=True, return_tensors="np")
    except ValueError:  # no token to pad with: texts of different lengths are no tensor
        tokens = tokenizer(texts[:1], truncation=True, return_tensors="np")
    found = {
        argument.name: np.asarray(tokens[argument.name], dtype=np.int64)
        for argument in torch_module.arguments(network)
        if argument.name in tokens
    }
    if not found or not all(array.size for array in found.values()):
        raise ConversionError(f"{model.folder}: the tokenizer gives {', '.join(tokens) or 'nothing'}, of which the model takes nothing")
    return found
