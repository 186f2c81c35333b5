"""The two exporters of PyTorch to ONNX: `torch.export`, and the older one over TorchScript where that one cannot."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.convert.torch.module import Named, plain_attention, tensors_of
from airflow_triton.convert.torch.requests import answers, difference, resized
from airflow_triton.errors import ConversionError

if TYPE_CHECKING:
    from airflow_triton.convert.base import Arrays

EXPORTERS = "torch.export", "torch.jit"
"""What the exporters are called: the one that is tried first, and the older one."""

OPSET = 18
"""The operators that graphs are written with where nothing else is said: the least that `torch.export`'s exporter writes."""

SINGLE_FILE = 1 << 30
"""Weights of more bytes than this go into a data file beside the graph: one file of ONNX cannot be larger than 2 GiB."""

LONG = 10_000
"""An axis that ends here or later is not tried beyond its end."""

LONGEST = 300
"""Characters of a reason: about two lines."""


@dataclass(frozen=True)
class Request:
    """What is exported: a model, a request that it answers, the axes of each input that may vary, and what must hold afterwards.

    `trials` are requests of other sizes with the model's own answers. `opset`: the newest that the server reads; None: it is not known.
    """

    named: Named
    feed: Arrays
    axes: Mapping[str, Sequence[int]]
    trials: Sequence[tuple[Arrays, Arrays]]
    opset: int | None


class _BranchError(ConversionError):
    """The model goes different ways for different requests: what an exporter writes down is one of them."""


def export(request: Request, room: Path) -> tuple[Path, str, tuple[str, ...]]:
    """The file (in a folder below `room`), which exporter made it, and what is to be said of that.

    Guarantee: the graph was run at other sizes of every axis that may vary, and gave the shapes that the model gives.

    Raises:
        ConversionError: neither exporter can; it names the operator, or what else was in the way.

    """
    reasons: list[str] = []
    for name, exporter in zip(EXPORTERS, (_newer, _older), strict=True):
        path = room / name / onnx_files.MODEL_FILE
        path.parent.mkdir()
        try:
            with _quiet():
                exporter(request, path)
            _hold(request, path)
        except (ModuleNotFoundError, _BranchError):
            raise
        except Exception as error:  # noqa: BLE001 - the exporters' errors have no common base
            reasons.append(_reason(error))
            continue
        return path, name, (f"The older exporter ({name}) made it, as {EXPORTERS[0]} could not: {reasons[0]}.",) if reasons else ()
    both = "; ".join(f"{name}: {reason}" for name, reason in zip(EXPORTERS, reasons, strict=True))
    raise ConversionError(f"the model cannot be exported to ONNX ({both})")


def _newer(request: Request, path: Path) -> None:
    """`torch.export`: every axis that may vary is a symbol, and fixing one is an error."""
    import torch
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    named = request.named
    varying = torch.export.Dim.DYNAMIC
    dynamic = tuple(dict.fromkeys(request.axes[name], varying) or None for name in named.inputs)
    try:
        program = torch.export.export(named.module, tensors_of(request.named, request.feed), dynamic_shapes=dynamic)
    except GuardOnDataDependentSymNode as error:
        where = next(iter(re.findall(r"code: (.+)", str(error))), "")
        raise _BranchError(_one_way(f"values of its request{f' ({where.strip()})' if where else ''}")) from error
    _same_way_beyond(program, request)
    made = torch.onnx.export(
        program,
        input_names=named.inputs,
        output_names=named.outputs,
        opset_version=request.opset or OPSET,
        dynamo=True,
        verbose=False,
    )
    assert made is not None, "only the older exporter answers nothing"
    made.save(str(path), external_data=_weight(named.module) > SINGLE_FILE)


def _same_way_beyond(program: Any, request: Request) -> None:
    """See that where the program ends (an axis up to 50, say) the model ends too, and does not go on in another way.

    Raises:
        _BranchError: the model answers beyond the end.

    """
    values = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    symbols = [[getattr(getattr(size, "node", None), "expr", None) for size in value.shape] for value in values]
    for symbol, bounds in program.range_constraints.items():
        end = int(bounds.upper) if bounds.upper.is_Integer else LONG
        if end >= LONG:
            continue
        feed = {
            name: resized(request.feed[name], [end + 1 if each == symbol else None for each in known])
            for name, known in zip(request.named.inputs, symbols, strict=True)
        }
        if answers(request.named.run, feed):
            raise _BranchError(_one_way(f"a size of its request (up to {end}, and beyond)"))


def _one_way(what: str) -> str:
    return (
        f"the model goes different ways by {what}, and an ONNX file made of a trace holds one of them (torch.where and torch.cond are "
        "written with both)"
    )


def _older(request: Request, path: Path) -> None:
    """The exporter over TorchScript: it runs the module once and writes down what happened."""
    import torch

    named, module, args = request.named, request.named.module, tensors_of(request.named, request.feed)
    axes = {
        name: {axis: "batch" if axis == 0 else f"{name}_{axis}" for axis in varying} for name, varying in request.axes.items() if varying
    }
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        module = torch.jit.trace(module, args, check_trace=False)  # type: ignore[no-untyped-call] # what was scripted keeps its branches and loops
    torch.onnx.export(
        module,
        args,
        str(path),
        input_names=named.inputs,
        output_names=named.outputs,
        dynamic_axes=axes,
        opset_version=request.opset or OPSET,
        dynamo=False,
        verbose=False,
    )


def _weight(module: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _hold(request: Request, path: Path) -> None:
    """See that the graph answers other sizes as the model does, and is written with operators that the server reads."""
    graph = onnx_files.read(path)
    written = max(each.version for each in graph.opset_import if each.domain in ("", "ai.onnx"))
    if request.opset is not None and written > request.opset:
        raise ConversionError(f"it writes opset {written}, and the server reads {request.opset}")
    session = inspect_onnx.open_session(path)
    names = request.named.inputs
    if lost := [name for name in names if name not in {each.name for each in session.get_inputs()}]:
        raise ConversionError(f"the model does not use {', '.join(lost)}, so that the graph has no such input")
    for given, expected in request.trials:
        outputs = list(request.named.outputs)
        if apart := difference(dict(zip(outputs, session.run(outputs, dict(given)), strict=True)), expected):
            raise ConversionError(f"it fixed a size: {apart}")


def _reason(error: BaseException) -> str:
    """The exporter's own reason, short: the operator that it does not know, the axis that it would fix, or the first sentence."""
    chain, text = error, str(error)
    while (inner := chain.__cause__ or chain.__context__) is not None:
        chain = inner
        text += f"\n{inner}"
    if found := re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'|operator '([^']+)' to ONNX", text):
        return f"the operator {found[1] or found[2]} has no counterpart in ONNX"
    if found := re.search(r"marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)", text):
        return f"it fixes {found[1]} to {found[2]}"
    first = re.split(r"\. |\n", re.sub(r"/\S*model\.onnx", "the graph", str(error)).strip())[0]
    kind = "" if isinstance(error, ConversionError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(first.split())}"[:LONGEST].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Export without the exporters' own warnings: what matters is in errors and notes."""
    torch_log = logging.getLogger("torch")
    level = torch_log.level
    torch_log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), plain_attention():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch_log.setLevel(level)
