"""PyTorch models, saved by MLflow and converted to ONNX and TorchScript: what is served answers as the model itself does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import onnx
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from airflow_triton.convert import child
from airflow_triton.convert.base import original_of, runner_of
from airflow_triton.convert.mlmodel import read
from airflow_triton.convert.torch import export as torch_export
from airflow_triton.errors import ConversionError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.model_config import build, render
from airflow_triton.servable import Servable

RANDOM = np.random.default_rng(3)
NUMBERS = RANDOM.normal(size=(4, 4)).astype("float32")
IMAGES = RANDOM.normal(size=(2, 3, 16, 16)).astype("float32")
SERIES = RANDOM.normal(size=(2, 5, 3)).astype("float32")
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


class Cnn(nn.Module):
    """Images to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Linear(196, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.norm(self.conv(image))).flatten(1))


class Lstm(nn.Module):
    """A series to two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        found, _ = self.lstm(series)
        return self.out(found[:, -1])


class Encoder(nn.Module):
    """A transformer's encoder, averaged over the series."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), 1)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.encoder(series).mean(1)


class Words(nn.Module):
    """Word numbers to two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(20, 6), nn.Linear(6, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(ids).mean(1))


class Two(nn.Module):
    """Two inputs, two outputs, and an argument that nothing gives."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
        return self.out(left) * scale - right, left.sum(1) > 0


class Named(nn.Module):
    """An output by name for each."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.out(x)
        return {"logits": found, "probability": found.softmax(-1)}


class Mapped(nn.Module):
    """All inputs in one mapping."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["b"] - batch["a"]


class Fixed(nn.Module):
    """Takes two rows and no other number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 2, 2).sum(2)


class Branching(nn.Module):
    """Goes another way for large batches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] > 50 else x + 1


class Deciding(nn.Module):
    """Goes another way for large numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.sum()) > 1000.0:
            return x * 2
        return x + 1


class Unscriptable(nn.Module):
    """Python that TorchScript has no words for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = {str(number): number for number in range(3)}
        return sum((x * step for step in steps.values()), start=x)


class Eigen(nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x)


class Shaky(nn.Module):
    """Random in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.drop = nn.Linear(4, 30), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.out(x))


class Axes(nn.Module):
    """The last axis may be up to 8 long, as a position is learned for each."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.arange(8.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.places[: x.shape[1]]


def signature(inputs: Tensors, outputs: Tensors | None = None) -> ModelSignature:
    """A signature of tensors with names."""
    sides = [None if side is None else Schema([TensorSpec(np.dtype(d), s, n) for n, (d, s) in side.items()]) for side in (inputs, outputs)]
    return ModelSignature(*sides)


def save(folder: Path, module: nn.Module, example: Any = None, said: Any = None, form: str = "pickle") -> Path:
    """Save it as users do."""
    mlflow.pytorch.save_model(module, str(folder), signature=said, input_example=example, pip_requirements=[], serialization_format=form)
    return folder


def convert(folder: Path, into: Path, to: str = "onnx", **options: Any) -> Servable:
    """Convert it in this process; what was compared must agree."""
    into.mkdir()
    made = child.convert(str(folder), str(into), {"to": to, **options})
    assert made["agreement"]["passed"], made["agreement"]["outputs"]
    return Servable.model_validate(made["servable"])


def shapes(servable: Servable) -> dict[str, Any]:
    """Its tensors."""
    return {spec.name: (spec.datatype, spec.shape) for spec in (*servable.inputs, *servable.outputs)}


ANY_SERIES = signature({"series": ("float32", (-1, -1, 6))})
ZOO: dict[str, tuple[Callable[[], nn.Module], Any, Any, dict[str, Any]]] = {
    "cnn": (Cnn, IMAGES, None, {"image": ("FP32", (-1, 3, 16, 16)), "output": ("FP32", (-1, 5))}),
    "example-of-one-row": (Cnn, IMAGES[:1], None, {"image": ("FP32", (-1, 3, 16, 16)), "output": ("FP32", (-1, 5))}),
    "lstm": (Lstm, SERIES, None, {"series": ("FP32", (-1, 5, 3)), "output": ("FP32", (-1, 2))}),
    "encoder-of-any-length": (Encoder, None, ANY_SERIES, {"series": ("FP32", (-1, -1, 6)), "output": ("FP32", (-1, 6))}),
    "words-of-any-length": (
        Words,
        np.array([[1, 2, 19]]),
        signature({"ids": ("int64", (-1, -1))}),
        {"ids": ("INT64", (-1, -1)), "output": ("FP32", (-1, 2))},
    ),
    "two-inputs-two-named-outputs": (
        Two,
        {"left": NUMBERS, "right": NUMBERS[:, :3]},
        signature(
            {"right": ("float32", (-1, 3)), "left": ("float32", (-1, 4))}, {"difference": ("float32", (-1, 3)), "positive": ("bool", (-1,))}
        ),
        {"left": ("FP32", (-1, 4)), "right": ("FP32", (-1, 3)), "difference": ("FP32", (-1, 3)), "positive": ("BOOL", (-1,))},
    ),
    "two-inputs-by-order": (
        Two,
        None,
        signature({"first": ("float32", (-1, 4)), "second": ("float32", (-1, 3))}),
        {"first": ("FP32", (-1, 4)), "second": ("FP32", (-1, 3)), "output_0": ("FP32", (-1, 3)), "output_1": ("BOOL", (-1,))},
    ),
    "two-inputs-without-signature": (
        Two,
        {"left": NUMBERS, "right": NUMBERS[:, :3]},
        False,
        {"left": ("FP32", (-1, 4)), "right": ("FP32", (-1, 3)), "output_0": ("FP32", (-1, 3)), "output_1": ("BOOL", (-1,))},
    ),
    "outputs-by-name": (Named, NUMBERS, None, {"x": ("FP32", (-1, 4)), "logits": ("FP32", (-1, 3)), "probability": ("FP32", (-1, 3))}),
    "one-mapping": (
        Mapped,
        None,
        signature({"a": ("float32", (-1, 2)), "b": ("float32", (-1, 2))}),
        {"a": ("FP32", (-1, 2)), "b": ("FP32", (-1, 2)), "output": ("FP32", (-1, 2))},
    ),
    "an-axis-with-an-end": (Axes, None, signature({"x": ("float32", (-1, -1))}), {"x": ("FP32", (-1, -1)), "output": ("FP32", (-1, -1))}),
}


@pytest.mark.parametrize("name", list(ZOO))
def test_every_model_becomes_onnx_of_any_batch(tmp_path: Path, name: str) -> None:
    """Names, types and varying axes as the signature or the example has them; made by torch.export."""
    made, example, said, tensors = ZOO[name]
    source = save(tmp_path / "model", made(), example, said)

    servable = convert(source, tmp_path / "1")

    assert shapes(servable) == tensors
    assert (servable.backend, servable.converter, servable.batching, servable.notes) == ("onnxruntime", "torch.export", True, ())
    assert servable.tools["torch"] == torch.__version__


@pytest.mark.parametrize("name", ["cnn", "words-of-any-length", "two-inputs-two-named-outputs", "outputs-by-name"])
def test_every_model_becomes_torchscript_with_its_branches(tmp_path: Path, name: str) -> None:
    """It was scripted; inputs keep their names, outputs are counted."""
    made, example, said, tensors = ZOO[name]
    source = save(tmp_path / "model", made(), example, said)

    servable = convert(source, tmp_path / "1", "torchscript")

    given = [spec.name for spec in servable.inputs]
    assert [shapes(servable)[each] for each in given] == [tensors[each] for each in given]
    assert [spec.name for spec in servable.outputs] == [f"OUTPUT__{index}" for index in range(len(tensors) - len(given))]
    assert [(spec.datatype, spec.shape) for spec in servable.outputs] == list(tensors.values())[len(given) :]
    assert (servable.backend, servable.converter, servable.default_model_filename) == ("pytorch", "torch.jit.script", "model.pt")


def test_a_pt2_file_becomes_onnx_and_torchscript(tmp_path: Path) -> None:
    """MLflow's own format is a program of torch.export."""
    source = save(tmp_path / "model", Cnn().eval(), IMAGES, form="pt2")

    assert shapes(convert(source, tmp_path / "1")) == ZOO["cnn"][3]
    scripted = convert(source, tmp_path / "2", "torchscript")
    assert scripted.converter == "torch.jit.trace"
    assert "torch.jit.script could not compile it" in scripted.notes[0]


def test_a_pt2_file_of_one_row_says_how_to_log_it(tmp_path: Path) -> None:
    """torch.export has fixed the batch, and the signature says that it varies."""
    source = save(tmp_path / "model", Cnn().eval(), IMAGES[:1], form="pt2")

    with pytest.raises(ConversionError, match=r"takes only the size that it was written or exported for.*two rows or more"):
        convert(source, tmp_path / "1")


def test_a_series_of_any_length_in_an_lstm_needs_the_older_exporter(tmp_path: Path) -> None:
    """torch.export unrolls the series; the report says who made the file, and it answers other lengths."""
    source = save(tmp_path / "model", Lstm(), SERIES, signature({"series": ("float32", (-1, -1, 3))}))

    servable = convert(source, tmp_path / "1")

    assert servable.converter == "torch.jit"
    assert "The older exporter (torch.jit) made it, as torch.export could not: it fixes" in servable.notes[0]
    assert shapes(servable)["series"] == ("FP32", (-1, -1, 3))
    longer = {"series": RANDOM.normal(size=(3, 11, 3)).astype("float32")}
    np.testing.assert_allclose(*answers(source, tmp_path / "1", servable, longer), rtol=1e-4, atol=1e-5)


def answers(source: Path, folder: Path, servable: Servable, given: dict[str, Any]) -> list[Any]:
    """What the converted files and the model itself say, of the first output."""
    runner = runner_of(servable)
    assert runner is not None
    name = servable.outputs[0].name
    runs = (runner.load(folder, servable), original_of(servable).original(read(source), servable))
    return [run(given)[name] for run in runs]


def test_a_scripted_model_becomes_onnx(tmp_path: Path) -> None:
    """MLflow stores TorchScript as well."""
    source = save(tmp_path / "model", torch.jit.script(Named().eval()), NUMBERS, signature({"x": ("float32", (-1, 4))}))

    servable = convert(source, tmp_path / "1")

    assert (shapes(servable), servable.converter) == (ZOO["outputs-by-name"][3], "torch.jit")


def test_an_operator_that_no_exporter_knows_is_named(tmp_path: Path) -> None:
    """And TorchScript, which has it, is named as the way out."""
    source = save(tmp_path / "model", Eigen(), RANDOM.normal(size=(2, 3, 3)).astype("float32"))

    with pytest.raises(ConversionError, match=r"aten\._linalg_eigh has no counterpart.*aten::linalg_eigvalsh.*`to: torchscript`"):
        convert(source, tmp_path / "1")
    assert convert(source, tmp_path / "2", "torchscript").batching


def test_a_model_of_one_batch_size_is_refused_or_fixed(tmp_path: Path) -> None:
    """Refused where its signature says any size; served with that size where it says so."""
    eight = RANDOM.normal(size=(2, 4)).astype("float32")
    lies = save(tmp_path / "lies", Fixed(), eight)
    with pytest.raises(ConversionError, match=r"takes only the size that it was written"):
        convert(lies, tmp_path / "1")

    true = save(tmp_path / "true", Fixed(), eight, signature({"x": ("float32", (2, 4))}))
    servable = convert(true, tmp_path / "2")
    assert (shapes(servable)["x"], servable.batching) == (("FP32", (2, 4)), False)


def test_a_missing_requirement_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's class is in a module that is not here."""
    (tmp_path / "their_network.py").write_text("import torch\n\n\nclass Net(torch.nn.Linear):\n    pass\n", encoding="utf-8")
    with monkeypatch.context() as there:
        there.syspath_prepend(tmp_path)
        source = save(tmp_path / "model", importlib.import_module("their_network").Net(4, 2), NUMBERS)
    monkeypatch.delitem(sys.modules, "their_network")

    with pytest.raises(ConversionError, match="needs the Python module 'their_network', which is not installed here"):
        convert(source, tmp_path / "1")


@pytest.mark.parametrize(("module", "why"), [(Branching, r"a size of its request \(up to 50"), (Deciding, "values of its request")])
def test_a_branch_is_refused_for_onnx_and_kept_in_torchscript(tmp_path: Path, module: Any, why: str) -> None:
    """A trace would hold one way only, and nobody would be told."""
    source = save(tmp_path / "model", module(), NUMBERS)

    with pytest.raises(ConversionError, match=f"goes different ways by {why}.*torch.jit.script keeps both"):
        convert(source, tmp_path / "1")
    servable = convert(source, tmp_path / "2", "torchscript")
    other_way = {"x": np.full((60, 4), 100, dtype="float32")}
    np.testing.assert_array_equal(*answers(source, tmp_path / "2", servable, other_way))


def test_what_cannot_be_scripted_is_traced(tmp_path: Path) -> None:
    """The note says why."""
    source = save(tmp_path / "model", Unscriptable(), NUMBERS)

    servable = convert(source, tmp_path / "1", "torchscript")

    assert servable.converter == "torch.jit.trace"
    assert servable.notes[0].startswith("The model was traced, as torch.jit.script could not compile it: ")
    assert shapes(servable) == {"x": ("FP32", (-1, 4)), "OUTPUT__0": ("FP32", (-1, 4))}


def test_without_signature_and_example_it_says_what_to_log(tmp_path: Path) -> None:
    """Nothing tells what the model takes."""
    source = save(tmp_path / "model", Named())

    for number, form in enumerate(("onnx", "torchscript")):
        with pytest.raises(ConversionError, match=r"neither a signature nor an input example.*`input_example=` or `signature=`"):
            convert(source, tmp_path / str(number), form)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (signature({"x": ("float32", (-1, 5))}), "does not take what its signature.*mat1 and mat2 shapes cannot be multiplied"),
        (signature({"x": ("float64", (-1, 4))}), "does not take what its signature.*must have the same dtype"),
        (signature({"x": ("str", (-1, 4))}), "x is str, and PyTorch takes tensors of numbers"),
        (signature({"x": ("float32", (-1, 4)), "y": ("float32", (-1, 4))}), "does not take what its signature"),
        (signature({"x": ("float32", (-1, 4))}, {"logits": ("float32", (-1, 7))}), r"logits is \[-1, 7\] in the signature"),
        (signature({"x": ("float32", (-1, 4))}, {"label": ("int64", (-1,))}), "the signature has label"),
    ],
    ids=["width", "type", "text", "too-many", "output-shape", "output-name"],
)
@pytest.mark.parametrize("to", ["onnx", "torchscript"])
def test_a_signature_that_lies_is_refused(tmp_path: Path, said: ModelSignature, why: str, to: str) -> None:
    """Each error tells the contradiction."""
    source = save(tmp_path / "model", Named(), None, said)

    with pytest.raises(ConversionError, match=why):
        convert(source, tmp_path / "1", to)


def test_inputs_that_match_only_in_part_are_refused(tmp_path: Path) -> None:
    """Nothing is guessed."""
    said = signature({"left": ("float32", (-1, 4)), "other": ("float32", (-1, 3))})
    source = save(tmp_path / "model", Two(), None, said)

    with pytest.raises(ConversionError, match=r"do not fit the model's forward\(left, right, scale\)"):
        convert(source, tmp_path / "1")


def test_a_model_logged_in_training_mode_is_refused(tmp_path: Path) -> None:
    """A pt2 file keeps the dropout that was on."""
    source = save(tmp_path / "model", Shaky().train(), NUMBERS, form="pt2")

    with pytest.raises(ConversionError, match=r"answers one request in two ways.*model\.eval\(\)"):
        convert(source, tmp_path / "1")


def test_a_class_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle holds the class by name; the remedy is to log the code."""
    source = save(tmp_path / "model", Named(), NUMBERS)
    monkeypatch.delitem(globals(), "Named")

    with pytest.raises(ConversionError, match=r"MLflow cannot load the pytorch model.*Named.*code_paths"):
        convert(source, tmp_path / "1")


def test_the_graph_is_written_for_old_servers_and_without_our_paths(tmp_path: Path) -> None:
    """Opset 18 and IR version 8, the same bytes each time, and no word of where the model's code lies."""
    source = save(tmp_path / "model", Cnn(), IMAGES)

    convert(source, tmp_path / "1")
    convert(source, tmp_path / "2")

    content = (tmp_path / "1" / "model.onnx").read_bytes()
    graph = onnx.load_from_string(content)
    assert ([(each.domain, each.version) for each in graph.opset_import], graph.ir_version) == ([("", 18)], 8)
    assert b".py" not in content
    assert content == (tmp_path / "2" / "model.onnx").read_bytes()


def test_a_server_gets_the_opset_that_it_reads(tmp_path: Path) -> None:
    """17 where it reads 17; where it reads no such format at all, the error says so."""
    source = save(tmp_path / "model", Cnn(), IMAGES)

    convert(source, tmp_path / "1", opset=17)

    graph = onnx.load(tmp_path / "1" / "model.onnx")
    assert [each.version for each in graph.opset_import if not each.domain] == [17]
    with pytest.raises(ConversionError, match="needs version 8 of ONNX's format, and the server reads 7"):
        convert(source, tmp_path / "2", ir_version=7)


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Triton wants them: a folder `model.onnx` with the file and its data."""
    monkeypatch.setattr(torch_export, "SINGLE_FILE", 1000)
    source = save(tmp_path / "model", Cnn(), IMAGES)

    servable = convert(source, tmp_path / "1")

    assert servable.entry == "model.onnx/model.onnx"
    assert sorted(path.name for path in (tmp_path / "1" / "model.onnx").iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "1" / "model.onnx" / "model.onnx.data").stat().st_size > 1000


def test_triton_serves_the_torchscript(tmp_path: Path) -> None:
    """The real server, over gRPC, with our own config: what it answers is what the model answers."""
    from tritonclient import grpc

    source = save(tmp_path / "model", Two(), {"left": NUMBERS, "right": NUMBERS[:, :3]}, ZOO["two-inputs-two-named-outputs"][2])
    folder = tmp_path / "models" / "two"
    folder.mkdir(parents=True)
    servable = convert(source, folder / "1", "torchscript")
    (folder / "config.pbtxt").write_text(render(build(servable, name="two")), encoding="utf-8")
    given = {"left": NUMBERS, "right": np.ascontiguousarray(NUMBERS[:, :3])}
    with LocalTriton(tmp_path / "models", torch=True, extra_args=["--disable-auto-complete-config"]) as server:
        client = grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))
        client.load_model("two")
        sent = [grpc.InferInput(name, list(array.shape), "FP32") for name, array in given.items()]
        for each in sent:
            each.set_data_from_numpy(given[each.name()])
        answer = client.infer("two", sent)
    expected = original_of(servable).original(read(source), servable)(given)

    for name, array in expected.items():
        np.testing.assert_allclose(answer.as_numpy(name).reshape(array.shape), array, rtol=1e-5, atol=1e-6)
