"""TensorRT without a GPU: everything before and after the builder's call; the builder itself is in test_tensorrt_gpu.py."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_support import everything_below

from airflow_triton import model_config
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.runners import onnxruntime as onnxruntime_runner
from airflow_triton.convert.tensorrt import (
    acceleration,
    available,
    build_plan,
    check,
    combined,
    compare_plan,
    graph,
    plan,
    precision,
    timing_cache,
)
from airflow_triton.convert.tensorrt import config as config_of
from airflow_triton.convert.tensorrt.bfloat16 import from_bfloat16, to_bfloat16
from airflow_triton.convert.tensorrt.build_log import BuildLog, Progress, followed
from airflow_triton.convert.tensorrt.comparison import compared
from airflow_triton.convert.tensorrt.parser_errors import ParserFailure, told
from airflow_triton.convert.tensorrt.plan import Order, Plan
from airflow_triton.convert.tensorrt.profiles import Shapes, profiles
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.isolate import ChildProcess, run_in_child
from airflow_triton.repository.manifest import FileDigest, sha256
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.spec.tensorrt import Profile, TensorRT

pytestmark = pytest.mark.timeout(900)  # packages are installed, the first time

FEATURES = 64
ROWS = 16


def network(*, external: bool = False, path: Path) -> Path:
    """Two matrix products: what every precision can be made of."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    shapes = {"first": (FEATURES, 2 * FEATURES), "second": (2 * FEATURES, FEATURES)}
    weights = [
        numpy_helper.from_array((random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
        helper.make_node("MatMul", ["b", "second"], ["y"], name="three"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", ROWS, FEATURES]) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def servable(entry: str = "model.onnx", **changes: Any) -> Servable:
    spec = {"datatype": "FP32", "shape": (-1, ROWS, FEATURES)}
    told = {
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "inputs": ({"name": "x", **spec},),
        "outputs": ({"name": "y", **spec},),
        "batching": True,
        "flavor": "onnx",
        "converter": "as-is",
        "tools": {"onnx": "1.23.0"},
        "entry": entry,
    }
    return Servable.model_validate({**told, **changes})


INPUTS = {"inputs": [spec.model_dump(mode="json") for spec in servable().inputs]}


def rows(count: int = 4, seed: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.random.default_rng(seed).normal(size=(count, ROWS, FEATURES)).astype(np.float32)}


def with_shapes(**shapes: tuple[int, ...]) -> Servable:
    return servable(inputs=tuple(TensorSpec(name=name, datatype="FP32", shape=shape) for name, shape in shapes.items()))


# --- profiles


def test_only_the_batch_axis_varies_and_the_profile_follows() -> None:
    found = profiles(with_shapes(x=(-1, 8), fixed=(3, 3), y=(-1,)), {}, max_batch_size=32)

    assert found == {"x": Shapes(min=(1, 8), opt=(32, 8), max=(32, 8)), "y": Shapes(min=(1,), opt=(32,), max=(32,))}


def test_the_specs_profile_goes_before() -> None:
    asked = {"x": Profile(min=(1, 8), opt=(4, 16), max=(64, 512))}

    assert profiles(with_shapes(x=(-1, -1)), asked, max_batch_size=32) == {"x": Shapes(min=(1, 8), opt=(4, 16), max=(64, 512))}


@pytest.mark.parametrize(
    ("shapes", "asked", "rows_", "message"),
    [
        ({"tokens": (-1, -1)}, {}, 8, r"'tokens' has the shape \[-1, -1\]: axis 1 varies.*`convert.tensorrt.profiles.tokens`.*2 sizes"),
        ({"x": (-1, -1, -1)}, {}, 8, "the axes 1, 2 vary"),
        ({"x": (-1, 4)}, {}, 0, "axis 0 varies"),
        ({"x": (-1, 4)}, {"xx": ((1, 4), (1, 4), (1, 4))}, 8, r"profiles\.xx: the model has no such input; valid: x \(did you mean x\?\)"),
        ({"x": (-1, 4)}, {"x": ((1,), (1,), (1,))}, 8, r"profiles\.x\.min: \[1\] has 1 axes, and the input \[-1, 4\] has 2"),
        ({"x": (-1, 4)}, {"x": ((1, 4), (1, 5), (8, 5))}, 8, r"profiles\.x\.opt: axis 1 is 5, and the input's is always 4"),
        ({"x": (-1, 4)}, {"x": ((1, 4), (4, 4), (4, 4))}, 8, r"x\.max: 4 rows, and config.max_batch_size is 8"),
        ({"x": (-1, 4)}, {"x": ((2, 4), (4, 4), (8, 4))}, 8, r"x\.min: 2 rows; a request may have one"),
        (
            {"x": (-1, 4), "z": (-1,)},
            {"x": ((1, 4), (4, 4), (8, 4))},
            8,
            r"their first axes differ \(x: 1 to 8, best 4; z: 1 to 8, best 8\)",
        ),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(shapes: dict[str, Any], asked: dict[str, Any], rows_: int, message: str) -> None:
    given = {name: Profile(min=low, opt=best, max=high) for name, (low, best, high) in asked.items()}

    with pytest.raises(ConversionError, match=message):
        profiles(with_shapes(**shapes), given, max_batch_size=rows_)


def test_what_tensorrt_cannot_take_is_refused_before_a_gpu_is_asked_for() -> None:
    text = servable(inputs=(TensorSpec(name="words", datatype="BYTES", shape=(-1, 1)),))
    with pytest.raises(ConversionError, match=r"no such element type: words \(BYTES\); valid: FP32, FP16"):
        check(text, TensorRT())
    with pytest.raises(ConversionError, match="built of an ONNX model, and this is one for Triton's backend pytorch"):
        check(servable(backend="pytorch"), TensorRT())


def test_the_order_to_the_builder_is_the_specs() -> None:
    options = TensorRT(
        precision="tf32", workspace_mib=64, optimization_level=0, hardware_compatibility="ampere_plus", version_compatible=True
    )

    order = check(servable(), options, max_batch_size=4)

    assert (order.precision, order.workspace_mib, order.optimization_level) == ("tf32", 64, 0)
    assert (order.hardware_compatibility, order.version_compatible) == ("ampere_plus", True)
    assert order.profiles["x"].max == (4, ROWS, FEATURES)


# --- without TensorRT, and without a GPU

needs_no_gpu = pytest.mark.skipif(not available.missing(), reason="TensorRT and a GPU are here; test_tensorrt_gpu.py builds on them")


@needs_no_gpu
def test_without_a_gpu_the_step_ends_at_once_and_names_the_way_that_needs_none(tmp_path: Path) -> None:
    network(path=tmp_path / "1" / "model.onnx")
    before = everything_below(tmp_path / "1", content=True)
    started = time.monotonic()

    with pytest.raises(ConversionError) as caught:
        build_plan(tmp_path / "1", servable(), tmp_path / "plan")

    assert time.monotonic() - started < 10
    for words in ("the Python package tensorrt is missing", "`convert.tensorrt.builder: triton`", "`convert.tensorrt.queue`", "[tensorrt]"):
        assert words in str(caught.value)
    assert not everything_below(tmp_path / "plan")
    assert everything_below(tmp_path / "1", content=True) == before


@needs_no_gpu
def test_type_stubs_are_not_taken_for_tensorrt() -> None:
    """`tensorrt-stubs` makes `import tensorrt` succeed, as an empty namespace."""
    import tensorrt

    assert not hasattr(tensorrt, "Builder")
    assert "has no Builder" in " ".join(available.missing())


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    network(path=tmp_path / "1" / "model.onnx")
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "mine").write_text("mine")

    with pytest.raises(ConversionError, match="is not empty"):
        build_plan(tmp_path / "1", servable(), tmp_path / "plan")

    assert (tmp_path / "plan" / "mine").read_text() == "mine"


def test_calibration_data_that_is_not_here_is_named(tmp_path: Path) -> None:
    network(path=tmp_path / "1" / "model.onnx")

    with pytest.raises(ConversionError, match=r"convert.tensorrt.calibration: .*absent\.npz is not there"):
        build_plan(tmp_path / "1", servable(), tmp_path / "plan", options=TensorRT(precision="int8", calibration="/absent.npz"))


# --- precision, by ModelOpt in an environment of its own

REQUIREMENTS = ("nvidia-modelopt[onnx]==0.47.0", "onnx==1.21.0", "onnxruntime==1.24.4", "pydantic>=2.10", "pyyaml>=6", "psutil>=6")
NOT_FOR_A_CPU = ("onnxruntime-gpu", "cupy-cuda12x", "cupy-cuda13x")
TORCH = "torch==2.13.0"


@pytest.fixture(scope="session")
def modelopt() -> Path:
    """The Python of an environment with ModelOpt, without what only a GPU needs (1.3 GB); built once, and kept in the user's cache."""
    import filelock
    import platformdirs

    parts = (*REQUIREMENTS, *NOT_FOR_A_CPU, TORCH, *map(str, sys.version_info[:2]))
    home = Path(platformdirs.user_cache_dir("airflow-triton")) / f"modelopt-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{home}.lock"):
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            uv, python = Path(sys.executable).with_name("uv"), home / "bin" / "python"
            left_out = home.with_suffix(".overrides")
            left_out.write_text("".join(f'{name}; sys_platform == "none"\n' for name in NOT_FOR_A_CPU))
            subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, home], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TORCH], check=True)
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "--override", left_out, *REQUIREMENTS, TORCH], check=True)
            (home / "complete").touch()
    return home / "bin" / "python"


def prepared(python: Path, source: Path, into: Path, wanted: str, calibration: Path | None = None) -> Path:
    """One graph, made in a child process as on a GPU worker."""
    into.mkdir()
    told = run_in_child(
        "airflow_triton.convert.tensorrt.precision:convert",
        {"path": str(source), "into": str(into), "precision": wanted, "calibration": str(calibration) if calibration else None, **INPUTS},
        child=ChildProcess(python=python),
    )
    return Path(str(told))


@pytest.fixture(scope="module")
def graphs(modelopt: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The network in every precision, and "" as it is."""
    folder = tmp_path_factory.mktemp("precision")
    source = network(path=folder / "source" / "model.onnx")
    outside = network(path=folder / "outside" / "model.onnx", external=True)
    before = everything_below(source.parent, content=True)
    data = folder / "calibration.npz"
    np.savez(data, **rows(32, seed=7))
    wanted = {"fp16": source, "bf16": source, "int8": source, "fp8": source, "external-fp16": outside}
    for name in wanted:
        (folder / name).mkdir()
    calls = [
        {
            "path": str(path),
            "into": str(folder / name),
            "precision": name.rpartition("-")[2],
            "calibration": str(data) if name in ("int8", "fp8") else None,
            **INPUTS,
        }
        for name, path in wanted.items()
    ]
    imports = "import json, sys; from airflow_triton.convert.tensorrt.precision import convert"
    code = f"{imports}; [convert(**call) for call in json.load(sys.stdin)]"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([modelopt, "-c", code], input=json.dumps(calls).encode(), env=environment, check=True, capture_output=True)
    found = {name: folder / name / precision.GRAPH_FILE for name in wanted}
    assert everything_below(source.parent, content=True) == before, "ModelOpt writes beside what it reads, and that is not ours"
    return {"": source, **found}


def answers(path: Path) -> np.ndarray[Any, Any]:
    return onnxruntime_runner.run_file(path, servable())(rows())["y"]


@pytest.mark.parametrize(("wanted", "off"), [("fp16", 2e-3), ("int8", 0.1), ("fp8", 0.2)])
def test_a_graph_in_lower_precision_answers_alike_in_onnxruntime(graphs: Mapping[str, Path], wanted: str, off: float) -> None:
    expected, got = answers(graphs[""]), answers(graphs[wanted])

    assert got.dtype == expected.dtype == np.float32, "inputs and outputs keep their types"
    difference = float(np.abs(got - expected).max())
    assert 0 < difference < off * float(np.abs(expected).max()), "equal answers would mean that nothing was changed"


def test_a_bf16_graph_answers_alike(graphs: Mapping[str, Path]) -> None:
    """By ONNX's reference: onnxruntime has no bf16 matrix product for CPUs (its error says so)."""
    from onnx.reference import ReferenceEvaluator

    expected = answers(graphs[""])
    got = ReferenceEvaluator(str(graphs["bf16"])).run(None, rows())[0]

    difference = float(np.abs(got - expected).max())
    assert got.dtype == np.float32
    assert 0 < difference < 0.03 * float(np.abs(expected).max())


@pytest.mark.parametrize(
    ("wanted", "operator"), [("fp16", "Cast"), ("bf16", "Cast"), ("int8", "QuantizeLinear"), ("fp8", "QuantizeLinear")]
)
def test_the_precision_is_in_the_graph(graphs: Mapping[str, Path], wanted: str, operator: str) -> None:
    made = onnx_files.read(graphs[wanted])

    assert operator in {node.op_type for node in made.graph.node}
    assert graph.size(graphs[wanted]) < graph.size(graphs[""]) * (0.6 if operator == "Cast" else 1.2)


def test_weights_in_a_file_of_their_own_are_read(graphs: Mapping[str, Path]) -> None:
    assert graph.weights(graphs["external-fp16"].parents[1] / "outside" / "model.onnx") == ("weights.bin",)

    np.testing.assert_array_equal(answers(graphs["external-fp16"]), answers(graphs["fp16"]))
    assert everything_below(graphs["external-fp16"].parent) == {"graph.onnx"}


def test_a_graph_without_anything_to_change_is_refused(modelopt: Path, tmp_path: Path) -> None:
    """ModelOpt says nothing in that case, and the plan would be fp32 under another name."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", ROWS, FEATURES]) for name in "xy")
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", **rows(8))

    with pytest.raises(ConversionError, match="nothing in the graph that it could make int8"):
        prepared(modelopt, tmp_path / "model.onnx", tmp_path / "int8", "int8", tmp_path / "data.npz")


def test_fp32_and_tf32_are_the_graph_itself(tmp_path: Path) -> None:
    source = network(path=tmp_path / "model.onnx")

    for wanted in ("fp32", "tf32"):
        assert precision.prepare(source, tmp_path, wanted, inputs=servable().inputs) == source  # type: ignore[arg-type]
    assert everything_below(tmp_path) == {"model.onnx"}


def test_without_modelopt_its_extra_is_named(tmp_path: Path) -> None:
    source = network(path=tmp_path / "1" / "model.onnx")

    with pytest.raises(ConversionError, match=r"needs NVIDIA's ModelOpt \('modelopt' is missing\).*\[tensorrt\]"):
        precision.prepare(source, tmp_path, "fp16", inputs=servable().inputs)

    assert everything_below(tmp_path) == {"1/model.onnx"}


def test_calibration_data_of_another_model_is_refused(tmp_path: Path) -> None:
    source = network(path=tmp_path / "1" / "model.onnx")
    np.savez(tmp_path / "data.npz", z=np.zeros((4, 2), np.float32))
    with pytest.raises(ConversionError, match="calibration data for z; one array for each input is needed: x"):
        precision.prepare(source, tmp_path, "int8", inputs=servable().inputs, calibration=tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 2), np.float32))
    with pytest.raises(ConversionError, match=r"shape \[4, 2\] does not fit 'x'"):
        precision.prepare(source, tmp_path, "int8", inputs=servable().inputs, calibration=tmp_path / "data.npz")


# --- the proof of a plan, with graphs of other precisions in the place of plans


def test_two_ways_to_run_a_model_are_compared_on_all_requests(graphs: Mapping[str, Path]) -> None:
    ask, run = (onnxruntime_runner.run_file(graphs[name], servable()) for name in ("", "fp16"))

    close = compared(ask, run, servable(), rows(), largest=8, rtol=0, atol=0.02)
    far = compared(ask, run, servable(), rows(), largest=8, rtol=0, atol=1e-9)

    assert close.passed
    assert close.runs == {"the input example": 4, "made-up rows": 4, "a batch of 1": 1, "a batch of 8": 8}
    assert not far.passed
    assert "the output 'y' is out of tolerance" in far.summary


@needs_no_gpu
def test_without_a_gpu_a_plan_cannot_be_compared(tmp_path: Path) -> None:
    network(path=tmp_path / "1" / "model.onnx")
    (tmp_path / "plan").mkdir()

    with pytest.raises(ConversionError, match=r"cannot be built here.*the Python package tensorrt is missing"):
        compare_plan(tmp_path / "1", servable(), tmp_path / "plan", servable(backend="tensorrt"))


# --- what follows a build


def built(folder: Path, capability: str = "8.6", gpu: str = "NVIDIA A10", **changes: Any) -> Path:
    """The folder of a build, as a GPU worker leaves it; the plan's bytes are not one."""
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(f"plan for {capability}".encode())
    file = FileDigest(path="model.plan", size=(folder / "model.plan").stat().st_size, sha256=sha256(folder / "model.plan"))
    machine = {"tensorrt": "10.13.3.9", "cuda": "13.0", "driver": "580.95.05", "gpu": gpu, "compute_capability": capability}
    engine = {"inputs": servable().inputs, "outputs": servable().outputs}
    source = (FileDigest(path="model.onnx", size=1, sha256="0" * 64),)
    told = {"file": file, "machine": machine, "order": Order(precision="fp16"), "source": source, "graph": source, **engine}
    record = Plan.model_validate({**told, "modelopt": "0.47.0", **changes})
    (folder / "plan.json").write_text(record.model_dump_json())
    return folder


def test_one_plan_is_served_as_model_plan(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    into = VersionFolder(tmp_path / "1")

    made = combined([built(tmp_path / "a10")], servable(), into)

    assert {file.path for file in into.files()} == {"model.plan"}
    assert (made.backend, made.default_model_filename, made.entry, made.converter) == ("tensorrt", "model.plan", "model.plan", "tensorrt")
    assert (made.flavor, made.batching) == ("onnx", True)
    assert made.tools == {"onnx": "1.23.0", "tensorrt": "10.13.3.9", "nvidia-modelopt": "0.47.0"}
    assert "fp16 on NVIDIA A10 (compute capability 8.6)" in made.notes[-1]
    config = model_config.build(made, name="m", overrides={"max_batch_size": 8})
    assert (config.backend, config.default_model_filename, list(config.input[0].dims)) == ("tensorrt", "model.plan", [ROWS, FEATURES])
    model_config.build(made, name="m", overrides={"platform": "tensorrt_plan"})


def test_several_plans_lie_in_one_version_and_the_config_says_which_gpu_loads_which(tmp_path: Path) -> None:
    folders = [built(tmp_path / "a10"), built(tmp_path / "h100", "9.0", "NVIDIA H100")]
    (tmp_path / "1").mkdir()

    made = combined(folders, servable(), VersionFolder(tmp_path / "1"))
    config = model_config.build(made, name="m", overrides=config_of([plan.read(folder) for folder in folders]))

    assert dict(config.cc_model_filenames) == {"8.6": "model_8_6.plan", "9.0": "model_9_0.plan"}
    assert {name: (tmp_path / "1" / name).read_text() for name in config.cc_model_filenames.values()} == {
        "model_8_6.plan": "plan for 8.6",
        "model_9_0.plan": "plan for 9.0",
    }
    assert made.entry == made.default_model_filename == "model_8_6.plan"
    assert model_config.parse(model_config.render(config)) == config


def test_the_engines_own_tensors_are_what_is_served(tmp_path: Path) -> None:
    engine = {"outputs": (TensorSpec(name="y", datatype="FP16", shape=(-1, ROWS, FEATURES)),)}
    (tmp_path / "1").mkdir()

    made = combined([built(tmp_path / "a10", **engine)], servable(), VersionFolder(tmp_path / "1"))

    assert made.outputs[0].datatype == "FP16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capability": "8.6", "gpu": "NVIDIA A40"}, r"compute capability 8.6 \(NVIDIA A10, NVIDIA A40\).*same_compute_capability"),
        ({"capability": "9.0", "order": Order(precision="int8")}, "these have several precisions"),
        ({"capability": "9.0", "source": (FileDigest(path="model.onnx", size=1, sha256="1" * 64),)}, "these have several ONNX models"),
        ({"capability": "9.0", "outputs": ()}, "several inputs or outputs"),
    ],
)
def test_plans_that_are_not_alike_are_not_put_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folders = [built(tmp_path / "one"), built(tmp_path / "two", **changes)]
    (tmp_path / "1").mkdir()

    with pytest.raises(ConversionError, match=message):
        combined(folders, servable(), VersionFolder(tmp_path / "1"))

    assert not everything_below(tmp_path / "1")


def test_a_plan_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    other = servable(inputs=(TensorSpec(name="z", datatype="FP32", shape=(-1, 2)),))

    with pytest.raises(ConversionError, match="the plan is of another model"):
        combined([built(tmp_path / "a10")], other, VersionFolder(tmp_path / "1"))


def test_a_folder_without_a_record_is_no_build(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"plan\.json cannot be read as the record of a plan"):
        plan.read(tmp_path)


def test_the_digests_are_those_of_the_graph_and_of_its_weights(tmp_path: Path) -> None:
    path = network(path=tmp_path / "model.onnx", external=True)

    assert graph.digests(path) == tuple(
        FileDigest(path=name, size=(tmp_path / name).stat().st_size, sha256=hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        for name in ("model.onnx", "weights.bin")
    )


# --- the timing cache


def machine(gpu: str = "NVIDIA A10") -> available.Machine:
    return available.Machine(tensorrt="10.13.3.9", cuda="13.0", driver="580", gpu=gpu, compute_capability="8.6")


def test_each_tensorrt_and_each_gpu_has_a_timing_cache_of_its_own(tmp_path: Path) -> None:
    paths = {
        timing_cache.file_for(tmp_path, each)
        for each in (machine(), machine("NVIDIA A40"), machine().model_copy(update={"tensorrt": "11.0"}))
    }

    assert len(paths) == 3
    assert timing_cache.file_for(tmp_path, machine()).name == "tensorrt-10.13.3.9-cc8.6-nvidia-a10.timing"


def test_what_many_builds_measure_at_a_time_is_all_kept(tmp_path: Path) -> None:
    """Each appends to what it finds when it is its turn; a reader sees whole files only."""
    path = timing_cache.file_for(tmp_path / "absent", machine())
    over, torn = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            if len(timing_cache.read(path)) % 1000:
                torn.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: timing_cache.update(path, lambda present: present + bytes([number]) * 1000), range(24)))
    over.set()
    reader.join()

    content = timing_cache.read(path)
    assert sorted(content[::1000]) == list(range(24))
    assert len(content) == 24_000
    assert not torn


def test_a_build_that_dies_leaves_the_timing_cache_as_it_was(tmp_path: Path) -> None:
    path = timing_cache.file_for(tmp_path, machine())
    timing_cache.update(path, lambda _: b"measured")

    def dies(present: bytes) -> bytes:
        raise MemoryError

    with pytest.raises(MemoryError):
        timing_cache.update(path, dies)

    assert timing_cache.read(path) == b"measured"
    assert {Path(name).suffix for name in everything_below(tmp_path)} == {".timing", ".lock"}


# --- the log, the progress, the parser's errors


def test_the_log_keeps_everything_and_shows_what_matters(tmp_path: Path) -> None:
    shown: list[str] = []
    path = tmp_path / "build.log"
    with followed(path, shown.append), BuildLog(path) as log:
        log.write("info", "one of thousands")
        log.write("warning", "look\n here")
        time.sleep(0.7)  # the file is followed every half second
        during = list(shown)
        log.write("error", "it failed")
        assert log.errors == "it failed"

    assert [line.split(maxsplit=1)[1] for line in during] == ["warning  look here"]
    assert [line.split(maxsplit=1)[1] for line in shown] == ["warning  look here", "error    it failed"]
    assert "one of thousands" in path.read_text()


def test_progress_is_told_by_phases_and_seldom_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_triton.convert.tensorrt import build_log

    monkeypatch.setattr(build_log, "_STEP_SECONDS", 0.05)
    with BuildLog(tmp_path / "build.log") as log:
        progress = Progress(log)
        progress.started("Building engine", None, 2)
        progress.started("Tactics", "Building engine", 1000)
        for step in range(1000):
            if step == 500:
                time.sleep(0.06)
            progress.done("Tactics", step)
        progress.finished("Tactics", top=False)
        progress.finished("Building engine", top=True)

    lines = [line.split(maxsplit=2)[2] for line in (tmp_path / "build.log").read_text().splitlines()]
    assert lines[0] == "Building engine: begun (2 steps)"
    assert lines[-1] == "Building engine: done"
    assert "Tactics: 501 of 1000 steps (50 %)" in lines
    assert len(lines) < 10


def test_the_parsers_errors_name_node_and_operator() -> None:
    failures = [
        ParserFailure(3, "where/it/is", "StringNormalizer", "No importer registered\nfor op"),
        ParserFailure(-1, "", "", "bad file"),
    ]

    message = told(Path("m.onnx"), failures * 4, "")

    assert "node 3 'where/it/is' (StringNormalizer): No importer registered for op; the graph: bad file" in message
    assert message.count("StringNormalizer") == 3
    assert "and 3 more" in message
    assert "the log's own" in told(Path("m.onnx"), [], "the log's own")


def test_bfloat16_is_rounded_as_it_is_everywhere() -> None:
    import ml_dtypes

    values = np.concatenate(
        [np.random.default_rng(0).normal(size=4000) * 10.0 ** np.arange(-20, 20).repeat(100), [0, -0.0, np.inf, -np.inf]]
    )
    values = values.astype(np.float32)
    expected = values.astype(ml_dtypes.bfloat16)

    assert to_bfloat16(values).tolist() == expected.view(np.uint16).tolist()
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), expected.astype(np.float32))
    assert np.isnan(from_bfloat16(to_bfloat16(np.array([np.nan], np.float32)))).all()


# --- `builder: triton`


def test_tritons_own_acceleration_is_what_its_backend_reads() -> None:
    options = TensorRT(
        builder="triton",
        precision="fp16",
        workspace_mib=256,
        optimization_level=2,
        engine_cache="/cache",
        profiles={"x": Profile(min=(1, ROWS, FEATURES), opt=(4, ROWS, FEATURES), max=(8, ROWS, FEATURES))},
    )

    made = model_config.build(servable(), name="m", overrides=acceleration.config(servable(), options))

    (accelerator,) = made.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP16",
        "max_workspace_size_bytes": "268435456",
        "trt_builder_optimization_level": "2",
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": "/cache",
        "trt_profile_min_shapes": f"x:1x{ROWS}x{FEATURES}",
        "trt_profile_opt_shapes": f"x:4x{ROWS}x{FEATURES}",
        "trt_profile_max_shapes": f"x:8x{ROWS}x{FEATURES}",
    }
    assert (made.backend, made.default_model_filename) == ("onnxruntime", "model.onnx")


def test_an_accelerated_model_loads_on_a_server_without_a_gpu(triton: Any, repository: Any) -> None:
    """The local Triton takes the config, and answers as without it; its onnxruntime backend is not the one of NVIDIA's containers."""
    from airflow_triton.server import ServerAddress, TritonClient

    home = triton.repository / "accelerated"
    network(path=home / "1" / "model.onnx")
    overrides = acceleration.config(servable(), TensorRT(builder="triton", precision="fp16"))
    (home / "config.pbtxt").write_text(model_config.render(model_config.build(servable(), name="accelerated", overrides=overrides)))

    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        client.load("accelerated")
        got = client.infer("accelerated", rows())["y"]

    np.testing.assert_allclose(got, answers(home / "1" / "model.onnx"), rtol=1e-4, atol=1e-5)


# --- the spec


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"precision": "int8"}, "precision int8 needs the ranges of real data"),
        ({"precision": "fp8"}, "precision fp8 needs the ranges of real data"),
        ({"precision": "fp32", "calibration": "/c.npz"}, "fp32 uses no calibration data"),
        ({"precision": "int8", "calibration": "/c.parquet"}, "calibration data is an .npz file"),
        ({"optimization_level": 6}, "less than or equal to 5"),
        ({"timing_cache": "s3://bucket/cache"}, "a folder is needed"),
        ({"engine_cache": "/cache"}, "this key is for `builder: triton`"),
        ({"builder": "triton", "engine_cache": "cache"}, "an absolute path is needed"),
        ({"builder": "triton", "precision": "int8", "calibration": "/c.npz"}, "int8 cannot be asked for; valid: fp32, fp16, bf16"),
        ({"builder": "triton", "queue": "gpu"}, "no plan is built on a worker; leave it out"),
        ({"builder": "triton", "gpus": {"a10": {}}}, "no plan is built on a worker"),
        ({"builder": "triton", "version_compatible": True}, "no plan is built on a worker"),
        ({"gpus": {"a 10": {}}}, "the name of a kind of GPU"),
        ({"gpus": {"a10": {"precision": "fp16"}}}, "Extra inputs are not permitted"),
        ({"gpus": {"a10": {}, "h100": {}}, "hardware_compatibility": "ampere_plus"}, "name one kind of GPU"),
        ({"profiles": {"x": {"min": [1], "opt": [1, 2], "max": [1]}}}, "min has 1, opt 2 and max 1 axes"),
        ({"profiles": {"x": {"min": [1], "opt": [3], "max": [2]}}}, "axis 0 has min 1, opt 3 and max 2"),
    ],
)
def test_an_impossible_section_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TensorRT.model_validate(keys)


def test_each_kind_of_gpu_has_a_worker() -> None:
    options = TensorRT.model_validate(
        {"pool": "gpus", "queue": "gpu", "gpus": {"a10": {}, "h100": {"queue": "h100", "pod_override": {"spec": {}}}}}
    )

    workers = options.workers()

    assert {name: (each.queue, each.pool, each.pod_override) for name, each in workers.items()} == {
        "a10": ("gpu", "gpus", None),
        "h100": ("h100", "gpus", {"spec": {}}),
    }
    assert {name: each.queue for name, each in TensorRT(queue="gpu").workers().items()} == {"": "gpu"}


# --- the types of TensorRT's API

CALLERS = [f"airflow_triton/convert/{name}.py" for name in ("tensorrt/builder", "tensorrt/engine", "runners/tensorrt")]


def stubs(into: Path) -> Path:
    """The installed `tensorrt-stubs`, in a form that a type checker can read: as published, five of its signatures are no Python."""
    import tensorrt_stubs

    site = Path(tensorrt_stubs.__file__).parent.parent
    for name in ("tensorrt", "tensorrt_bindings"):
        shutil.copytree(site / name, into / name)
    path = into / "tensorrt_bindings" / "tensorrt.pyi"
    lines = re.sub(r"(?m)^bool: DataType.*$", "", path.read_text()).split("\n")  # it hides Python's own `bool`
    for _ in range(9):
        try:
            ast.parse("\n".join(lines))
            break
        except SyntaxError as error:
            line = (error.lineno or 0) - 1
            lines[line] = re.sub(r"def (\w+)\(.*", r"def \1(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:", lines[line])
    path.write_text("\n".join(lines))
    return into


def findings(folder: Path, files: list[Path]) -> list[str]:
    """What the type checker says of the files, whose other imports it does not follow."""
    options = ["--strict", "--follow-imports=skip", "--allow-subclassing-any", "--no-warn-unused-ignores", "--explicit-package-bases"]
    silent = [f"--disable-error-code={code}" for code in ("no-any-return", "var-annotated", "import-untyped", "import-not-found")]
    types = [
        folder / "tensorrt" / "__init__.pyi",
        folder / "tensorrt_bindings" / "__init__.pyi",
        folder / "tensorrt_bindings" / "tensorrt.pyi",
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", os.devnull, "--cache-dir", folder / "cache", *options, *silent, *types, *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "MYPYPATH": str(folder)},
    )
    assert "errors prevented further checking" not in ran.stdout, ran.stdout
    return [line for line in ran.stdout.splitlines() if any(str(file) in line for file in files)]


def test_the_code_calls_tensorrt_as_its_type_stubs_say(tmp_path: Path) -> None:
    """Against TensorRT 10.13's; a call that they do not know is found, or this would prove nothing."""
    folder = stubs(tmp_path / "stubs")
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt as trt\n\n\ndef f(builder: trt.Builder) -> None:\n    builder.create_network('x')\n    builder.no_such()\n"
    )

    found = findings(folder, [wrong, *map(Path, CALLERS)])

    assert [line.rpartition("[")[2] for line in found] == ["arg-type]", "attr-defined]"], "\n".join(found)
    assert all("wrong.py" in line for line in found)
