"""Real engines, by NVIDIA's TensorRT on a GPU: built, loaded and compared with onnxruntime. Where there is none, each test says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airflow_triton.convert.runners import onnxruntime as onnxruntime_runner
from airflow_triton.convert.runners import tensorrt as tensorrt_runner
from airflow_triton.convert.tensorrt import LOG_FILE, PLAN_FILE, RECORD_FILE, available, build_plan, combined, compare_plan, plan, precision
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.repository.manifest import sha256
from airflow_triton.servable import Servable
from airflow_triton.spec.tensorrt import TensorRT

_MISSING = available.missing()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(_MISSING), reason=f"no TensorRT plan can be built here: {'; '.join(_MISSING)}"),
]
needs_modelopt = pytest.mark.skipif(
    precision.modelopt_version() is None, reason="NVIDIA's ModelOpt is not installed in this Python (the extra `tensorrt`)"
)

ROWS, FEATURES, LARGEST = 16, 64, 8


def network(path: Path, *, operator: str = "Relu", external: bool = False) -> Path:
    """Two matrix products with an operator between them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    shapes = {"first": (FEATURES, 2 * FEATURES), "second": (2 * FEATURES, FEATURES)}
    weights = [
        numpy_helper.from_array((random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="one"),
        helper.make_node(operator, ["a"], ["b"], name="between"),
        helper.make_node("MatMul", ["b", "second"], ["y"], name="three"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", ROWS, FEATURES]) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def servable() -> Servable:
    spec = {"datatype": "FP32", "shape": (-1, ROWS, FEATURES)}
    told = {"backend": "onnxruntime", "default_model_filename": "model.onnx", "entry": "model.onnx", "flavor": "onnx", "converter": "as-is"}
    return Servable.model_validate({**told, "inputs": ({"name": "x", **spec},), "outputs": ({"name": "y", **spec},), "batching": True})


def rows(count: int, seed: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.random.default_rng(seed).normal(size=(count, ROWS, FEATURES)).astype(np.float32)}


def options(tmp_path: Path, **changes: Any) -> TensorRT:
    return TensorRT.model_validate({"timing_cache": str(tmp_path / "timing"), "optimization_level": 1, **changes})


def served(tmp_path: Path, name: str = "plan") -> tuple[Path, Servable]:
    """The version directory of the plan that was built."""
    folder = tmp_path / f"{name}-version"
    folder.mkdir()
    return folder, combined([tmp_path / name], servable(), VersionFolder(folder))


def furthest(tmp_path: Path, name: str = "plan") -> float:
    """The largest difference between the plan and onnxruntime, over batches of 1, 3 and 8, of the largest value."""
    ask = onnxruntime_runner.run_file(tmp_path / "1" / "model.onnx", servable())
    run = tensorrt_runner.load(*served(tmp_path, name))
    worst = 0.0
    for count in (1, 3, LARGEST):
        expected, got = ask(rows(count))["y"], run(rows(count))["y"]
        assert got.shape == expected.shape
        worst = max(worst, float(np.abs(got - expected).max() / np.abs(expected).max()))
    return worst


@pytest.mark.parametrize(("wanted", "off"), [("fp32", 1e-5), ("tf32", 2e-3)])
def test_a_plan_answers_as_the_model_does(tmp_path: Path, wanted: str, off: float) -> None:
    network(tmp_path / "1" / "model.onnx")

    build_plan(tmp_path / "1", servable(), tmp_path / "plan", options=options(tmp_path, precision=wanted), max_batch_size=LARGEST)

    assert furthest(tmp_path) < off


@needs_modelopt
@pytest.mark.parametrize(("wanted", "off"), [("fp16", 5e-3), ("bf16", 5e-2), ("int8", 0.2), ("fp8", 0.3)])
def test_a_plan_of_lower_precision_answers_alike(tmp_path: Path, wanted: str, off: float) -> None:
    machine = available.require()
    major, minor = map(int, machine.compute_capability.split("."))
    if (wanted, True) in {("bf16", major < 8), ("fp8", (major, minor) < (8, 9))}:
        pytest.skip(f"{machine.gpu} has no {wanted}")
    network(tmp_path / "1" / "model.onnx")
    np.savez(tmp_path / "data.npz", **rows(32, seed=7))
    data = {"calibration": str(tmp_path / "data.npz")} if wanted in ("int8", "fp8") else {}

    made = build_plan(
        tmp_path / "1", servable(), tmp_path / "plan", options=options(tmp_path, precision=wanted, **data), max_batch_size=LARGEST
    )

    assert made.graph != made.source
    assert made.modelopt == precision.modelopt_version()
    assert 0 < furthest(tmp_path) < off


def test_weights_in_a_file_of_their_own_are_read(tmp_path: Path) -> None:
    network(tmp_path / "1" / "model.onnx", external=True)

    made = build_plan(tmp_path / "1", servable(), tmp_path / "plan", options=options(tmp_path), max_batch_size=LARGEST)

    assert [file.path for file in made.graph] == ["model.onnx", "weights.bin"]
    assert furthest(tmp_path) < 1e-5


def test_the_record_says_what_built_it_and_of_what(tmp_path: Path) -> None:
    source = network(tmp_path / "1" / "model.onnx")
    shown: list[str] = []

    made = build_plan(tmp_path / "1", servable(), tmp_path / "plan", options=options(tmp_path), max_batch_size=LARGEST, tell=shown.append)

    assert {path.name for path in (tmp_path / "plan").iterdir()} == {PLAN_FILE, RECORD_FILE, LOG_FILE}
    assert plan.read(tmp_path / "plan") == made
    assert made.machine == available.require()
    assert made.machine.driver.count(".") >= 1
    assert made.file.sha256 == sha256(tmp_path / "plan" / PLAN_FILE)
    assert [(file.path, file.sha256) for file in made.source] == [("model.onnx", sha256(source))]
    assert (made.graph, made.modelopt) == (made.source, None)
    assert made.order.profiles["x"].max == (LARGEST, ROWS, FEATURES)
    assert made.inputs == servable().inputs
    assert made.outputs == servable().outputs
    assert any("progress" in line for line in shown)
    assert json.loads((tmp_path / "plan" / RECORD_FILE).read_text())["machine"]["gpu"] in (tmp_path / "plan" / LOG_FILE).read_text()


def test_a_plan_is_compared_with_its_onnx_model(tmp_path: Path) -> None:
    network(tmp_path / "1" / "model.onnx")
    build_plan(tmp_path / "1", servable(), tmp_path / "plan", options=options(tmp_path), max_batch_size=LARGEST)

    found = compare_plan(tmp_path / "1", servable(), *served(tmp_path), largest=LARGEST)

    assert found.passed
    assert found.runs == {"made-up rows": 4, "a batch of 1": 1, "a batch of 8": LARGEST}


def test_a_request_outside_of_the_profile_is_refused(tmp_path: Path) -> None:
    network(tmp_path / "1" / "model.onnx")
    build_plan(tmp_path / "1", servable(), tmp_path / "plan", options=options(tmp_path), max_batch_size=LARGEST)
    run = tensorrt_runner.load(*served(tmp_path))

    with pytest.raises(ConversionError, match="outside of the plan's profile"):
        run(rows(LARGEST + 1))


def test_the_timing_cache_is_kept_and_used_again(tmp_path: Path) -> None:
    network(tmp_path / "1" / "model.onnx")
    logs = []
    for name in ("first", "second"):
        build_plan(tmp_path / "1", servable(), tmp_path / name, options=options(tmp_path), max_batch_size=LARGEST)
        logs.append((tmp_path / name / LOG_FILE).read_text())

    (file,) = (tmp_path / "timing").glob("*.timing")
    assert file.stat().st_size > 0
    assert ": 0 bytes" in logs[0]
    assert ": 0 bytes" not in logs[1]
    assert furthest(tmp_path, "second") < 1e-5


def test_a_broken_timing_cache_is_replaced(tmp_path: Path) -> None:
    network(tmp_path / "1" / "model.onnx")
    build_plan(tmp_path / "1", servable(), tmp_path / "first", options=options(tmp_path), max_batch_size=LARGEST)
    (file,) = (tmp_path / "timing").glob("*.timing")
    file.write_bytes(b"not a timing cache")

    build_plan(tmp_path / "1", servable(), tmp_path / "second", options=options(tmp_path), max_batch_size=LARGEST)

    assert file.read_bytes() != b"not a timing cache"
    assert furthest(tmp_path, "second") < 1e-5


def test_an_operator_that_tensorrt_lacks_is_named_and_only_the_log_stays(tmp_path: Path) -> None:
    network(tmp_path / "1" / "model.onnx", operator="Det")

    with pytest.raises(ConversionError, match=r"TensorRT cannot parse the graph: .*between.*Det"):
        build_plan(tmp_path / "1", servable(), tmp_path / "plan", options=options(tmp_path), max_batch_size=LARGEST)

    assert {path.name for path in (tmp_path / "plan").iterdir()} == {LOG_FILE}


@pytest.mark.parametrize("changes", [{"hardware_compatibility": "ampere_plus"}, {"version_compatible": True}, {"workspace_mib": 64}])
def test_every_option_of_the_builder_gives_a_plan_that_answers(tmp_path: Path, changes: dict[str, Any]) -> None:
    if "hardware_compatibility" in changes and int(available.require().compute_capability.partition(".")[0]) < 8:
        pytest.skip("the GPU is older than Ampere")
    network(tmp_path / "1" / "model.onnx")

    build_plan(tmp_path / "1", servable(), tmp_path / "plan", options=options(tmp_path, **changes), max_batch_size=LARGEST)

    assert furthest(tmp_path) < 2e-3
