"""Putting rows to a model on the real server: shapes, order, many requests under way; and the probe."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from airflow_triton import model_config
from airflow_triton.errors import ServerError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import Probe
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.server import Inference, ServerAddress, TritonClient
from airflow_triton.validation import Asked, Dataset, Part, Seen, as_model_gives, as_server_takes, ask_all
from airflow_triton.validation.data.parts import write_part
from airflow_triton.validation.probe import MOST_ELEMENTS, check_probe, make_probe

NAN, INF = float("nan"), float("inf")


def _servable(*inputs: tuple[str, str, tuple[int, ...]], outputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()) -> Servable:
    def specs(rows: Any) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=name, datatype=datatype, shape=shape) for name, datatype, shape in rows)

    taken, given = specs(inputs), specs(outputs or inputs)
    return Servable(
        backend="onnxruntime",
        default_model_filename="model.onnx",
        inputs=taken,
        outputs=given,
        batching=all(spec.shape[:1] == (-1,) for spec in (*taken, *given)),
        flavor="onnx",
        converter="as-is",
    )


MATRIX = _servable(("x", "FP32", (-1, 2)))
TWO = _servable(("age", "INT64", (-1, 1)), ("name", "BYTES", (-1, 1)))
ROWS = np.array([[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=np.float32)


# --- shapes towards the server


@pytest.mark.parametrize(
    ("servable", "own", "sent"),
    [
        (_servable(("t", "FP32", (-1,))), (5,), (5, 1)),
        (_servable(("t", "FP32", (-1, 3))), (5, 3), (5, 3)),
        (_servable(("t", "FP32", (-1, 2, 2))), (5, 2, 2), (5, 2, 2)),
        (_servable(("t", "FP32", ())), (), (1,)),
        (_servable(("t", "FP32", (1,))), (1,), (1,)),
        (_servable(("t", "FP32", (2, 3))), (2, 3), (2, 3)),
    ],
    ids=["one number a row", "matrix", "tensor", "scalar", "one number", "no batching"],
)
def test_shapes_to_the_server_and_back(servable: Servable, own: tuple[int, ...], sent: tuple[int, ...]) -> None:
    """What the server takes has the shape of its config; what it answers gets the model's own shape again."""
    config = model_config.build(servable, name="m")
    array = np.arange(int(np.prod(own)), dtype=np.float32).reshape(own)

    taken = as_server_takes(config, {"t": array})
    given = as_model_gives(config, servable, taken)

    assert taken["t"].shape == sent
    assert given["t"].shape == own
    np.testing.assert_array_equal(given["t"], array)


# --- on the real server

ECHO = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", r.inputs()[0].as_numpy())]) for r in requests]
"""


def _graph(operator: str) -> Any:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], operator, ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _write(root: Path, name: str, backend: str, kind: str, dims: str) -> Path:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    sides = "".join(f'{side} {{ name: "{tensor}" data_type: {kind} dims: {dims} }}\n' for side, tensor in (("input", "x"), ("output", "y")))
    head = f'backend: "{backend}"\nmax_batch_size: 8\ninstance_group {{ count: 1 kind: KIND_CPU }}\n'
    (folder.parent / "config.pbtxt").write_text(head + sides)
    return folder


@pytest.fixture(scope="module")
def asked(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the real server with `same` (y = x) and `other` (y = -x), both ONNX, and `texts`, which answers the texts it gets."""
    root = Path(triton.repository)
    for name, operator in (("same", "Identity"), ("other", "Neg")):
        onnx.save(_graph(operator), _write(root, name, "onnxruntime", "TYPE_FP32", "[2]") / "model.onnx")
    (_write(root, "texts", "python", "TYPE_STRING", "[1]") / "model.py").write_text(ECHO)
    names = ("same", "other", "texts")
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        for name in names:
            client.load(name)
        yield client
        for name in names:
            client.unload(name)
            client.wait_unloaded(name)


@pytest.fixture
def asked_http(asked: TritonClient, triton: LocalTriton) -> Iterator[TritonClient]:
    """As `asked`, over HTTP."""
    with TritonClient(ServerAddress.parse(triton.http_url)) as client:
        yield client


CONFIG = """
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [2] }
output { name: "y" data_type: TYPE_FP32 dims: [2] }
"""


def _ask(client: TritonClient, models: list[str], folder: Path, parts: list[Any], **limits: int) -> list[Seen]:
    """What came for the parts, whose inputs are given, from the models, which take `x` [-1, 2]."""
    start, paths = 0, []
    for number, rows in enumerate(parts):
        paths.append(write_part(folder, number, Part(start, {"x": rows})))
        start += len(rows)
    config = model_config.parse(CONFIG)
    limits = {"rows": 8, "in_flight": 4, **limits}
    return list(ask_all(client, [Asked(name, 1, config) for name in models], Dataset("rows", start, tuple(paths)), **limits))


@pytest.mark.parametrize(("total", "rows", "in_flight"), [(1001, 8, 16), (16, 8, 4), (7, 8, 4), (1, 1, 1), (9, 2, 1)], ids=str)
def test_rows_keep_their_order(  # noqa: PLR0917 pytest
    asked: TritonClient, asked_http: TritonClient, tmp_path: Path, total: int, rows: int, in_flight: int
) -> None:
    """Many requests under way, and a last one that is short: the answers come back row by row, over gRPC and over HTTP."""
    values = np.arange(total * 2, dtype=np.float32).reshape(total, 2)

    for client in (asked, asked_http):
        (seen,) = _ask(client, ["same"], tmp_path, [values], rows=rows, in_flight=in_flight)

        np.testing.assert_array_equal(seen.answers["y"], values)
        assert seen.champion is None
        assert seen.expected is None


def test_parts_come_in_their_order_with_the_answers_of_both_models(asked: TritonClient, tmp_path: Path) -> None:
    """Each part has its first row's number, and the same rows were put to the candidate and to what serves."""
    values = np.arange(120, dtype=np.float32).reshape(60, 2)

    seen = _ask(asked, ["same", "other"], tmp_path, [values[:50], values[50:51], values[51:]])

    assert [each.part.start for each in seen] == [0, 50, 51]
    np.testing.assert_array_equal(np.concatenate([each.answers["y"] for each in seen]), values)
    np.testing.assert_array_equal(np.concatenate([each.champion["y"] for each in seen if each.champion]), -values)


def test_a_request_that_fails_is_raised(asked: TritonClient) -> None:
    """One refused request of many is an error, with the server's reason; no further one leaves."""
    left = []

    def questions() -> Iterator[Inference]:
        for number in range(500):
            left.append(number)
            yield Inference("same", 1, {"z" if number == 20 else "x": np.ones((8, 2), dtype=np.float32)})

    with pytest.raises(ServerError, match="unexpected inference input 'z'"):
        list(asked.infer_many(questions(), in_flight=4))
    assert len(left) < 100


def test_questions_that_cannot_be_read_are_raised(asked: TritonClient) -> None:
    """What goes wrong while the questions are made reaches the reader of the answers, as it is."""

    def questions() -> Iterator[Inference]:
        yield Inference("same", 1, {"x": np.ones((8, 2), dtype=np.float32)})
        raise ZeroDivisionError("no more")

    with pytest.raises(ZeroDivisionError, match="no more"):
        list(asked.infer_many(questions(), in_flight=4))


def test_no_more_than_asked_for_are_under_way(asked: TritonClient) -> None:
    """A reader that is slow holds back the questions: those under way and those that wait for it are bounded."""
    left = []

    def questions() -> Iterator[Inference]:
        for number in range(200):
            left.append(number)
            yield Inference("same", 1, {"x": np.ones((1, 2), dtype=np.float32)})

    came = asked.infer_many(questions(), in_flight=2)
    for read in range(1, 11):
        next(came)
        time.sleep(0.05)
        assert len(left) <= read + 2 + 4 * 2
    assert sum(1 for _ in came) == 190


def test_a_client_over_http_leaves_nothing_open(asked: TritonClient, triton: LocalTriton) -> None:
    """Neither a file nor a thread, however many requests were under way: the process that deploys may live for months."""

    def held() -> tuple[int, int]:
        with TritonClient(ServerAddress.parse(triton.http_url)) as client:
            assert len(list(client.infer_many([Inference("same", 1, {"x": ROWS})] * 20, in_flight=4))) == 20
        gc.collect()
        return psutil.Process().num_fds(), psutil.Process().num_threads()

    before = held()

    assert [held() for _ in range(3)] == [before] * 3


def test_a_closed_client_says_so(asked: TritonClient, triton: LocalTriton) -> None:
    """It may be closed twice."""
    client = TritonClient(ServerAddress.parse(triton.http_url))
    client.check_live()
    client.close()
    client.close()

    with pytest.raises(RuntimeError, match="closed"):
        client.check_live()


def test_a_probe_tells_one_model_from_another(asked: TritonClient) -> None:
    """The model that answered when the probe was made gives its answer again; another one raises ServerError that names it."""
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    made = make_probe({"x": rows}, asked.infer("same", {"x": rows}), batching=True)
    assert made is not None
    probe = Probe.model_validate_json(made.model_dump_json())

    check_probe(asked, "same", 1, probe)
    with pytest.raises(ServerError, match="version 1 of `other` answers otherwise than when it was validated"):
        check_probe(asked, "other", 1, probe)
    check_probe(asked, "other", 1, None)


@pytest.mark.parametrize(
    "sent",
    ["plain", "é", "日本語", b"plain", b"\xff\x00\xfe", ""],
    ids=["ASCII", "Latin-1", "beyond Latin-1", "bytes", "no UTF-8", "empty"],
)
def test_a_probe_of_text_asks_what_was_asked(asked: TritonClient, sent: str | bytes) -> None:
    """Text goes to the server in the very bytes of the validated request, also after its way through JSON."""
    inputs = {"x": np.array([[sent]], dtype=object)}
    made = make_probe(inputs, asked.infer("texts", inputs), batching=True)
    assert made is not None
    probe = Probe.model_validate_json(made.model_dump_json())

    check_probe(asked, "texts", 1, probe)
    with pytest.raises(ServerError, match="out of tolerance in 1 of 1"):
        check_probe(asked, "texts", 1, Probe(inputs=probe.inputs, outputs={"y": {**probe.outputs["y"], "data": ["else"]}}))


PROBED: dict[str, np.ndarray] = {
    "BOOL": np.array([True, False]),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15)], np.int16),
    "INT32": np.array([-(2**31)], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "UINT8": np.array([255], np.uint8),
    "UINT16": np.array([2**16 - 1], np.uint16),
    "UINT32": np.array([2**32 - 1], np.uint32),
    "UINT64": np.array([2**64 - 1], np.uint64),
    "FP16": np.array([0.1, -65504], np.float16),
    "FP32": np.array([0.1, 1e-30, NAN, INF, -INF], np.float32),
    "FP64": np.array([0.1, 1e-300, NAN, INF, -INF], np.float64),
    "BYTES": np.array([b"a", b"\xff\x00", "é".encode()], object),
}


@pytest.mark.parametrize("datatype", PROBED)
def test_a_probe_survives_json_in_every_type(datatype: str) -> None:
    """Every value, the smallest and the largest, NaN, infinities and bytes that are no text, comes back bit for bit."""
    from airflow_triton.validation.probe import _read

    array = PROBED[datatype]
    made = make_probe({"x": array}, {"y": array[None]}, batching=False)
    assert made is not None
    probe = Probe.model_validate(json.loads(json.dumps(json.loads(made.model_dump_json()), allow_nan=False)))

    for back, given in ((_read(probe.inputs)["x"], array), (_read(probe.outputs)["y"], array[None])):
        assert (back.dtype, back.shape) == (given.dtype, given.shape)
        assert back.tolist() == given.tolist() if datatype == "BYTES" else back.tobytes() == given.tobytes()
    assert probe.inputs["x"]["datatype"] == datatype


@pytest.mark.parametrize("batching", [True, False])
def test_a_probe_is_one_row_where_the_model_batches(batching: bool) -> None:  # noqa: FBT001
    """The first row, or all of it for a model that does not batch."""
    probe = make_probe({"x": ROWS}, {"y": ROWS[:, 0]}, batching=batching)

    assert probe is not None
    assert probe.inputs["x"]["shape"] == ([1, 2] if batching else [3, 2])
    assert probe.outputs["y"]["data"] == ([1.5] if batching else [1.5, 3.0, 5.0])


@pytest.mark.parametrize(
    ("inputs", "kept"),
    [
        (np.zeros((1, MOST_ELEMENTS - 1)), True),
        (np.zeros((1, MOST_ELEMENTS)), False),
        (np.array([[b"x" * MOST_ELEMENTS]], dtype=object), False),
        (np.array([["x" * 100]], dtype=object), True),
    ],
    ids=["just small enough", "too large", "a text that is too large", "a short text"],
)
def test_a_probe_that_is_too_large_is_not_kept(inputs: np.ndarray, kept: bool) -> None:  # noqa: FBT001
    """It travels in the report and the manifest, so a large one is None; a text counts by its length."""
    assert (make_probe({"x": inputs}, {"y": np.zeros(1)}, batching=True) is not None) == kept
