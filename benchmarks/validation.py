"""The parity check against the highest throughput of a plain loop, against one request at a time, and its memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import ROUNDS, row, table
from onnx import TensorProto, helper

from airflow_triton import model_config
from airflow_triton.isolate import peak_mib
from airflow_triton.local_triton import LocalTriton
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import ServedParity
from airflow_triton.tensors import save_arrays
from airflow_triton.validation import Asked, Dataset, ask_all, prepare
from airflow_triton.validation.checks.parity import AgreementCheck

FEATURES, HIDDEN, CLASSES = 16, 128, 3
ROWS = 200_000
ONE_BY_ONE = 2_000
BATCH, IN_FLIGHT = 32, 8
CHUNK = 10_000
"""Rows of a row group: no run has larger pieces than another."""
SERVABLE = Servable(
    backend="onnxruntime",
    default_model_filename="model.onnx",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, FEATURES)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, CLASSES)),),
    batching=True,
    flavor="onnx",
    converter="as-is",
)
OVERRIDES = {"max_batch_size": BATCH, "instance_group": [{"count": 2, "kind": "KIND_CPU"}]}


def network() -> onnx.ModelProto:
    """Two layers and a softmax: `x` [N, 16] to `y` [N, 3]."""
    random = np.random.default_rng(1)
    weights = {
        "a": random.normal(size=(FEATURES, HIDDEN)) / 4,
        "b": random.normal(size=(HIDDEN, CLASSES)) / 8,
    }
    constants = [helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.ravel().tolist()) for name, value in weights.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", FEATURES), ("y", CLASSES))]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def published(repository: Path) -> str:
    """The model in the repository; its config.pbtxt."""
    folder = repository / "network" / "1"
    folder.mkdir(parents=True)
    onnx.save(network(), folder / "model.onnx")
    config = model_config.render(model_config.build(SERVABLE, name="network", overrides=OVERRIDES))
    (folder.parent / "config.pbtxt").write_text(config)
    return config


def data(folder: Path, rows: int) -> tuple[Dataset, list[Path]]:
    """So many rows from a Parquet file, and files with the answers that are expected of them."""
    folder.mkdir()
    schema = pa.schema([(f"x{number}", pa.float32()) for number in range(FEATURES)])
    random = np.random.default_rng(2)
    with pq.ParquetWriter(folder / "rows.parquet", schema) as writer:
        for start in range(0, rows, CHUNK):
            values = random.normal(size=(min(CHUNK, rows - start), FEATURES)).astype(np.float32)
            writer.write_table(pa.table(dict(zip(schema.names, values.T, strict=True)), schema=schema))
    dataset = prepare(folder / "rows.parquet", SERVABLE, folder / "parts", origin="rows.parquet")
    session = onnxruntime.InferenceSession(network().SerializeToString())
    expected = []
    for path, part in zip(dataset.inputs, dataset.parts(), strict=True):
        expected.append(path.with_name(f"{path.stem}-expected.npz"))
        save_arrays(expected[-1], {"y": session.run(None, {"x": part.inputs["x"]})[0]})
    return dataset, expected


def parity(client: TritonClient, config: str, dataset: Dataset, expected: list[Path]) -> None:
    """What a deployment does: read the rows, ask them, compare."""
    check = AgreementCheck.parity(ServedParity())
    check.fit(dataset, SERVABLE)
    asked = Asked("network", 1, model_config.parse(config), SERVABLE)
    for seen in ask_all(client, [asked], dataset, rows=BATCH, in_flight=IN_FLIGHT, expected=expected):
        check.see(seen)
    (result,) = check.results(None)  # type: ignore[arg-type]
    assert result.passed, result.summary
    assert result.figures["y.elements"] == dataset.rows * CLASSES


def tight_loop(address: str, rows: int) -> None:
    """The same request again and again with tritonclient's asynchronous calls, the answers thrown away."""
    import tritonclient.grpc as library

    tensor = library.InferInput("x", [BATCH, FEATURES], "FP32")
    tensor.set_data_from_numpy(np.ones((BATCH, FEATURES), np.float32))
    free, failed = threading.Semaphore(IN_FLIGHT), []

    def came(result: object, error: object) -> None:  # noqa: ARG001 tritonclient names them
        if error:
            failed.append(error)
        free.release()

    with library.InferenceServerClient(address.removeprefix("grpc://")) as client:
        for _ in range(rows // BATCH):
            free.acquire()
            client.async_infer("network", [tensor], came)
        for _ in range(IN_FLIGHT):
            free.acquire()
    assert not failed, failed[0]


def one_by_one(client: TritonClient, dataset: Dataset, rows: int) -> None:
    """A row, an answer, the next row."""
    values = next(dataset.parts()).inputs["x"]
    for number in range(rows):
        client.infer("network", {"x": values[number : number + 1]})


def rate(work: Callable[[], None], rows: int) -> float:
    """Rows a second, in thousands."""
    started = time.perf_counter()
    work()
    return rows / (time.perf_counter() - started) / 1000


def memory(address: str, config: Path, rows: int, folder: Path) -> float:
    """The highest resident memory (MiB) of a process that does the whole check."""
    command = [sys.executable, __file__, address, str(config), str(rows), str(folder)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory(prefix="airflow-triton-") as folder:
        home = Path(folder)
        config = published(home / "models")
        (home / "config.pbtxt").write_text(config)
        with LocalTriton(home / "models") as server, TritonClient(ServerAddress.parse(server.grpc_url)) as client:
            client.load("network")
            dataset, expected = data(home / "data", ROWS)
            ours, loop, single = [], [], []
            for _ in range(ROUNDS + 1):
                loop.append(rate(lambda: tight_loop(server.grpc_url, ROWS), ROWS))
                ours.append(rate(lambda: parity(client, config, dataset, expected), ROWS))
                single.append(rate(lambda: one_by_one(client, dataset, ONE_BY_ONE), ONE_BY_ONE))
            note = (
                f"{ROWS:,} rows of {FEATURES} numbers, {BATCH} rows a request, {IN_FLIGHT} requests under way, by gRPC: rows read, asked, "
                "joined and compared, against a loop of tritonclient's asynchronous calls that repeats one prepared request and throws the "
                "answers away, and against one row after the other. Server and client share the machine."
            )
            table("Parity check", note, "1,000 rows/s")
            row("against the plain asynchronous loop", ours[1:], loop[1:], "at least 0.9", 1)
            row("against one request at a time", ours[1:], single[1:], "at least 5", 1)
            few = [memory(server.grpc_url, home / "config.pbtxt", 10_000, home / f"few{number}") for number in range(3)]
            many = [memory(server.grpc_url, home / "config.pbtxt", 1_000_000, home / f"many{number}") for number in range(1)]
            table("Memory of the parity check", "1 million rows against 10 thousand: the process that reads, asks and compares.", "MiB")
            row("1,000,000 rows against 10,000", many, [statistics.median(few)], "flat (at most 1.1)", 0)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        url, config_file, count, where = sys.argv[1:]
        rows_of_it, answers_of_it = data(Path(where), int(count))
        with TritonClient(ServerAddress.parse(url)) as only:
            parity(only, Path(config_file).read_text(), rows_of_it, answers_of_it)
        print(json.dumps(peak_mib()))
    else:
        main()
