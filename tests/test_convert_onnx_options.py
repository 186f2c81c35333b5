"""The `onnx` flavor on request: brought down to an older server's opset, or simplified; its answers stay the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import register
from onnx import TensorProto, helper, numpy_helper
from test_convert import save_onnx
from test_rollout import Make, run

from airflow_triton import convert as conversion
from airflow_triton.convert import child
from airflow_triton.convert.base import Conversion
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.errors import ConversionError
from airflow_triton.isolate import ChildProcess
from airflow_triton.repository import LocalRepository

WEIGHTS = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)


def model_of(*nodes: Any, opset: int = 24, rows: str | int = "N") -> Any:
    """From x [rows, 4] to y [rows, 4], with the weights `w`."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 4]) for name in "xy")
    graph = helper.make_graph(list(nodes), "graph", [x], [y], [numpy_helper.from_array(WEIGHTS, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def convert(source: Path, into: Path, **options: Any) -> Conversion:
    into.mkdir()
    made = Conversion.model_validate(child.convert(str(source), str(into), {"to": "onnx", **options}))
    assert made.agreement is not None
    assert made.agreement.passed
    return made


def opset_of(path: Path) -> tuple[int, int]:
    graph = onnx_files.read(path)
    return graph.opset_import[0].version, graph.ir_version


MATMUL, GELU = helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gelu", ["h"], ["y"])


def test_opset_and_ir_version_are_brought_down(tmp_path: Path) -> None:
    """Also of an operator that the older opset does not have, but can say in others; the note tells it."""
    source = save_onnx(tmp_path / "model", model_of(MATMUL, GELU))
    had = onnx_files.read(source / "model.onnx").ir_version

    made = convert(source, tmp_path / "1", opset=18, ir_version=8)

    assert opset_of(tmp_path / "1" / "model.onnx") == (18, 8)
    assert made.servable.notes == (f"opset 24 was brought down to 18 and IR version {had} was brought down to 8",)
    assert made.servable.converter == "onnx"


def test_a_graph_within_the_limits_keeps_its_bytes(tmp_path: Path) -> None:
    """It is served as it is."""
    source = save_onnx(tmp_path / "model", model_of(MATMUL, helper.make_node("Relu", ["h"], ["y"]), opset=17))

    made = convert(source, tmp_path / "1", opset=21, ir_version=20)

    assert (tmp_path / "1" / "model.onnx").read_bytes() == (source / "model.onnx").read_bytes()
    assert (made.servable.notes, made.servable.converter) == ((), "as-is")


def test_external_data_stays_where_it_is(tmp_path: Path) -> None:
    """Only the graph is written anew; the data file is the same to the byte."""
    source = save_onnx(tmp_path / "model", b"")
    onnx.save(model_of(MATMUL, GELU), source / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)

    made = convert(source, tmp_path / "1", opset=18)

    assert made.servable.entry == "model.onnx/model.onnx"
    assert opset_of(tmp_path / "1" / "model.onnx" / "model.onnx")[0] == 18
    assert (tmp_path / "1" / "model.onnx" / "w.bin").read_bytes() == (source / "w.bin").read_bytes()


def test_an_operator_that_has_no_older_form_is_named(tmp_path: Path) -> None:
    """With both opsets and what to do."""
    source = save_onnx(tmp_path / "model", model_of(MATMUL, helper.make_node("Mish", ["h"], ["y"]), opset=22))

    with pytest.raises(
        ConversionError,
        match=r"opset 22, and .* reads 7 to 13; ONNX cannot rewrite it with 13: .*(Mish|Adapter).*Export",
    ):
        convert(source, tmp_path / "1", opset=13)


def test_a_graph_is_simplified_on_request_only(tmp_path: Path) -> None:
    """Constants are folded, and the note says how many nodes are left."""
    fold = [helper.make_node("Add", ["w", "w"], ["w2"]), helper.make_node("Identity", ["x"], ["x2"])]
    source = save_onnx(tmp_path / "model", model_of(*fold, helper.make_node("MatMul", ["x2", "w2"], ["y"]), opset=18))

    assert convert(source, tmp_path / "1").servable.converter == "as-is"
    made = convert(source, tmp_path / "2", simplify=True)

    assert made.servable.notes == ("onnxslim made 1 nodes of 3",)
    assert [node.op_type for node in onnx_files.read(tmp_path / "2" / "model.onnx").graph.node] == ["MatMul"]


def test_a_very_old_opset_is_raised(tmp_path: Path) -> None:
    """Onnxruntime does not have its operators; ONNX's own evaluator answers for the original. (The shapes have to be fixed for that.)"""
    add = helper.make_node("Add", ["h", "one"], ["y"], broadcast=1)
    model = model_of(MATMUL, add, opset=6, rows=2)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "one"))

    made = convert(save_onnx(tmp_path / "model", model), tmp_path / "1")

    assert made.servable.notes == ("opset 6 was raised to 7, the oldest that onnxruntime has all of",)
    assert opset_of(tmp_path / "1" / "model.onnx")[0] == 7


def test_a_deployment_writes_what_its_server_reads(tracking_uri: str, mapping: Make, repository: LocalRepository) -> None:
    """Triton 2.51 is 24.10, whose onnxruntime reads opset 21 and IR version 10: found out by asking the server."""
    number = register(tracking_uri, "newer", model_of(MATMUL, GELU), input_example=np.ones((3, 4), np.float32), pip_requirements=[])

    outcome = run(mapping(model=f"models:/newer/{number}", validate={}, promote={}))

    assert outcome.action == "promoted"
    assert opset_of(repository.root / "blobs" / str(number) / "model.onnx") == (21, 10)


@pytest.mark.skipif(not os.environ.get("AIRFLOW_TRITON_HEAVY"), reason="takes 2.2 GB of disk and memory: AIRFLOW_TRITON_HEAVY=1 runs it")
def test_more_than_2_gib_of_weights_keep_their_file(tmp_path: Path) -> None:
    """One message of protobuf cannot hold them; they are copied, never read into the graph."""
    rows = 9
    columns = (2**31 // 4 // rows) + 2**20
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, columns], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="w.bin")
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    cut = [numpy_helper.from_array(np.array(value), name) for name, value in (("start", [0]), ("end", [2]), ("axis", [1]))]
    nodes = [helper.make_node("Slice", ["w", "start", "end", "axis"], ["first"]), helper.make_node("Gather", ["first", "x"], ["y"])]
    graph = helper.make_graph(nodes, "graph", [x], [y], [weights, *cut])
    source = save_onnx(tmp_path / "model", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]))
    with (source / "w.bin").open("wb") as file:
        file.write(np.arange(2, dtype=np.float32).tobytes())
        file.truncate(rows * columns * 4)

    made = conversion.convert(source, tmp_path / "1", conversion.Options(opset=21), child=ChildProcess(timeout=250))

    assert made.agreement is not None
    assert made.agreement.passed
    sizes = {file.path: file.size for file in made.files}
    assert sizes["model.onnx/w.bin"] > 2**31
    assert sizes["model.onnx/model.onnx"] < 2000
