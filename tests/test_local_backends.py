"""The stand-ins for the onnxruntime and pytorch backends, asked over gRPC on the real server, compared with onnxruntime here."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np  # a test, not a DAG file
import pytest

from airflow_triton.local_triton import LocalTriton, install

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
grpc = pytest.importorskip("tritonclient.grpc")
np_to_triton_dtype = pytest.importorskip("tritonclient.utils").np_to_triton_dtype

LOAD_SECONDS = 60
AS_IT_IS = "--disable-auto-complete-config"
ONE = "instance_group { count: 1 kind: KIND_CPU }"
FLOAT, INT64, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.STRING


class Served:
    """A server, its repository, and what the tests do with them."""

    def __init__(self, server: LocalTriton, repository: Path) -> None:
        self.server = server
        self.repository = repository
        self.client = grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))

    def put(self, name: str, config: str | None, model: Any = None, filename: str = "model.onnx") -> Path:
        """Lay a model down; the folder of its version 1."""
        shutil.rmtree(self.repository / name, ignore_errors=True)
        version = self.repository / name / "1"
        version.mkdir(parents=True)
        if config is not None:
            head = "" if "backend:" in config or "platform:" in config else 'backend: "onnxruntime"\n'
            (version.parent / "config.pbtxt").write_text(f"{head}{ONE}\n{config}", encoding="utf-8")
        if model is not None:
            onnx.save(model, version / filename)
        return version

    def load(self, name: str) -> None:
        """Load it; the server's refusal is an InferenceServerException."""
        self.client.load_model(name, client_timeout=LOAD_SECONDS)

    def refusal(self, name: str) -> str:
        """Why it does not load."""
        with pytest.raises(grpc.InferenceServerException) as caught:
            self.load(name)
        return str(caught.value)

    def ask(self, name: str, inputs: dict[str, np.ndarray], outputs: list[str] | None = None) -> dict[str, np.ndarray]:
        """Ask it; what it answered, by output name."""
        sent = []
        for key, value in inputs.items():
            sent.append(grpc.InferInput(key, list(value.shape), np_to_triton_dtype(value.dtype)))
            sent[-1].set_data_from_numpy(value)
        asked = [grpc.InferRequestedOutput(one) for one in outputs] if outputs else None
        result = self.client.infer(name, sent, outputs=asked, client_timeout=LOAD_SECONDS)
        return {one.name: result.as_numpy(one.name) for one in result.get_response().outputs}

    def config(self, name: str) -> Any:
        """The config with which it was loaded."""
        return self.client.get_model_config(name).config


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes configs as they are: without auto-complete a load takes 0.2 s and not 1.5 s."""
    repository = tmp_path_factory.mktemp("backends")
    with LocalTriton(repository, extra_args=[AS_IT_IS]) as server:
        yield Served(server, repository)


@pytest.fixture(scope="module")
def completing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server as it is by default, that completes what a config leaves out."""
    repository = tmp_path_factory.mktemp("completing")
    with LocalTriton(repository) as server:
        yield Served(server, repository)


@pytest.fixture(scope="module")
def served_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that serves TorchScript as well."""
    repository = tmp_path_factory.mktemp("torch")
    with LocalTriton(repository, with_={"torch"}, extra_args=[AS_IT_IS]) as server:
        yield Served(server, repository)


def _model(nodes: list[tuple], inputs: dict[str, tuple], outputs: dict[str, tuple], constants: dict[str, np.ndarray] | None = None) -> Any:
    """A graph of (operator, inputs, outputs, attributes) nodes; inputs and outputs are name: (type, shape)."""
    made = [onnx.helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes]
    values = [[onnx.helper.make_tensor_value_info(name, *one) for name, one in side.items()] for side in (inputs, outputs)]
    held = [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = onnx.helper.make_graph(made, "graph", *values, initializer=held)
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])


def _doubling(shape: tuple = ("N", 4), kind: int = FLOAT) -> Any:
    """`y = x + x`."""
    return _model([("Add", ["x", "x"], ["y"], {})], {"x": (kind, shape)}, {"y": (kind, shape)})


def _io(side: str, name: str, kind: str, dims: str, more: str = "") -> str:
    return f'{side} {{ name: "{name}" data_type: {kind} dims: [{dims}] {more} }}\n'


def _xy(kind: str = "TYPE_FP32", dims: str = "4", more: str = "") -> str:
    return _io("input", "x", kind, dims, more) + _io("output", "y", kind, dims, more)


def _here(model: Any, inputs: dict[str, np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(outputs, inputs)


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("declared", ['backend: "onnxruntime"', 'platform: "onnxruntime_onnx"'])
def test_both_ways_to_name_the_backend_load_and_answer_as_onnxruntime_does(completing: Served, declared: str) -> None:
    """A config may name the backend or the platform, and the answer is onnxruntime's."""
    model = _model(
        [("MatMul", ["x", "w"], ["h"], {}), ("Softmax", ["h"], ["y"], {})],
        {"x": (FLOAT, ("N", 4))},
        {"y": (FLOAT, ("N", 3))},
        {"w": _floats(4, 3)},
    )
    completing.put(
        "named", f"{declared}\nmax_batch_size: 8\n{_io('input', 'x', 'TYPE_FP32', '4')}{_io('output', 'y', 'TYPE_FP32', '3')}", model
    )
    completing.load("named")

    for size in (1, 8):
        np.testing.assert_allclose(
            completing.ask("named", {"x": _floats(size, 4)})["y"], _here(model, {"x": _floats(size, 4)})[0], rtol=1e-6
        )


def _batch_counter() -> Any:
    """`n`: in each row the number of rows that the run had; `y`: row `i` of a table of three."""
    return _model(
        [
            ("Shape", ["i"], ["s"], {"start": 0, "end": 1}),
            ("Concat", ["s", "one"], ["shape"], {"axis": 0}),
            ("Expand", ["s", "shape"], ["n"], {}),
            ("Gather", ["table", "i"], ["y"], {"axis": 0}),
        ],
        {"i": (INT64, ("N", 1))},
        {"n": (INT64, ("N", 1)), "y": (FLOAT, ("N", 1))},
        {"one": np.array([1]), "table": np.array([10, 20, 30], np.float32)},
    )


COUNTER = (
    "max_batch_size: 16\ndynamic_batching { preferred_batch_size: [16] max_queue_delay_microseconds: 300000 }\n"
    + _io("input", "i", "TYPE_INT64", "1")
    + _io("output", "n", "TYPE_INT64", "1")
    + _io("output", "y", "TYPE_FP32", "1")
)


def test_requests_of_one_batch_run_together_and_each_gets_its_own_rows(served: Served) -> None:
    """Requests that the dynamic batcher hands over at once are one run, split again by their sizes."""
    served.put("counter", COUNTER, _batch_counter())
    served.load("counter")
    asked = [np.array([[0]]), np.array([[1], [2]]), np.array([[2]]), np.array([[1], [0], [2]])]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda rows: served.ask("counter", {"i": rows}), asked))

    for rows, answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], (rows + 1) * 10)
        assert answer["n"].shape == rows.shape
    assert max(answer["n"].max() for answer in answers) > max(map(len, asked)), "no two requests ran together"


def test_an_error_answers_the_request_that_caused_it_and_no_other(served: Served) -> None:
    """One bad request in a batch gets the runtime's own reason; those beside it get their answers."""
    served.put("faulty", COUNTER, _batch_counter())
    served.load("faulty")

    def outcome(row: int) -> Any:
        try:
            return served.ask("faulty", {"i": np.array([[row]])})["y"].item()
        except grpc.InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(outcome, [0, 9, 1, 2]))

    assert [answers[0], *answers[2:]] == [10, 20, 30]
    assert "indices element out of data bounds" in answers[1]


def test_only_the_requested_outputs_come_back(served: Served) -> None:
    """A request that names outputs gets these; one that names none gets all; inputs may come in any order."""
    model = _model(
        [("Sub", ["a", "b"], ["minus"], {}), ("Mul", ["a", "b"], ["times"], {})],
        {"a": (FLOAT, ("N", 2)), "b": (FLOAT, ("N", 2))},
        {"minus": (FLOAT, ("N", 2)), "times": (FLOAT, ("N", 2))},
    )
    tensors = [_io("input", name, "TYPE_FP32", "2") for name in "ba"] + [
        _io("output", name, "TYPE_FP32", "2") for name in ("times", "minus")
    ]
    served.put("two", "max_batch_size: 4\n" + "".join(tensors), model)
    served.load("two")
    inputs = {"b": _floats(3, 2), "a": _floats(3, 2) + 1}
    minus, times = _here(model, inputs)

    every, one = served.ask("two", inputs), served.ask("two", inputs, ["times"])

    assert (set(every), set(one)) == ({"minus", "times"}, {"times"})
    np.testing.assert_array_equal(every["minus"], minus)
    np.testing.assert_array_equal(one["times"], times)


def test_every_type_passes_unchanged(served: Served) -> None:
    """Booleans, all integers, the three floats and text come back as they were sent, empty tensors too."""
    kinds = {
        "TYPE_BOOL": np.bool_, "TYPE_UINT8": np.uint8, "TYPE_UINT16": np.uint16, "TYPE_UINT32": np.uint32, "TYPE_UINT64": np.uint64,
        "TYPE_INT8": np.int8, "TYPE_INT16": np.int16, "TYPE_INT32": np.int32, "TYPE_INT64": np.int64,
        "TYPE_FP16": np.float16, "TYPE_FP32": np.float32, "TYPE_FP64": np.float64, "TYPE_STRING": np.object_,
    }  # fmt: skip
    sent = {kind: np.array([[0, 1, 2], [3, 100, 5]]).astype(dtype) for kind, dtype in kinds.items()}
    sent["TYPE_STRING"] = np.array([[b"", "Zürich".encode(), b"x" * 5000], [b"a", b"b", b"\t\n"]], dtype=np.object_)
    shape = ("A", 3)
    types = {
        kind: onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) if dtype is not np.object_ else STRING for kind, dtype in kinds.items()
    }
    model = _model(
        [("Identity", [f"in_{kind}"], [f"out_{kind}"], {}) for kind in kinds],
        {f"in_{kind}": (types[kind], shape) for kind in kinds},
        {f"out_{kind}": (types[kind], shape) for kind in kinds},
    )
    served.put(
        "kinds", "".join(_io("input", f"in_{one}", one, "-1, 3") + _io("output", f"out_{one}", one, "-1, 3") for one in kinds), model
    )
    served.load("kinds")

    for rows in (slice(None), slice(0, 0)):
        answer = served.ask("kinds", {f"in_{kind}": value[rows] for kind, value in sent.items()})
        for kind, value in sent.items():
            assert answer[f"out_{kind}"].dtype == value.dtype, kind
            np.testing.assert_array_equal(answer[f"out_{kind}"], value[rows], err_msg=kind)


def test_text_that_is_not_utf8_is_refused_with_a_reason(served: Served) -> None:
    """Bytes that onnxruntime cannot take as text answer with an error, and the model goes on serving."""
    served.put("text", "max_batch_size: 2\n" + _xy("TYPE_STRING", "1"), _identity_text())
    served.load("text")

    with pytest.raises(grpc.InferenceServerException, match="utf-8"):
        served.ask("text", {"x": np.array([[b"\xff"]], dtype=np.object_)})
    assert served.ask("text", {"x": np.array([[b"ok"]], dtype=np.object_)})["y"].tolist() == [[b"ok"]]


def _identity_text() -> Any:
    return _model([("Identity", ["x"], ["y"], {})], {"x": (STRING, ("N", 1))}, {"y": (STRING, ("N", 1))})


def test_a_scalar_is_one_element_on_the_wire(served: Served) -> None:
    """A graph's scalars are declared with dims [1] at max_batch_size 0, and answered so."""
    served.put("scalar", _xy(dims="1"), _doubling(()))
    served.load("scalar")

    np.testing.assert_array_equal(served.ask("scalar", {"x": np.array([1.5], np.float32)})["y"], np.array([3], np.float32))


@pytest.mark.parametrize(
    ("batch", "shape", "reshaped", "graph", "sent"),
    [(4, "1", "", ("N",), (3, 1)), (0, "4", "2, 2", (2, 2), (4,)), (4, "4", "2, 2", ("N", 2, 2), (2, 4))],
    ids=["to nothing", "without a batch", "with a batch"],
)
def test_reshape_holds_between_the_wire_and_the_graph(  # noqa: PLR0917  # the five belong together
    served: Served, batch: int, shape: str, reshaped: str, graph: tuple, sent: tuple
) -> None:
    """`reshape` gives the graph another shape than the request has, for inputs and outputs."""
    served.put("reshaped", f"max_batch_size: {batch}\n" + _xy(dims=shape, more=f"reshape {{ shape: [{reshaped}] }}"), _doubling(graph))
    served.load("reshaped")

    np.testing.assert_array_equal(served.ask("reshaped", {"x": _floats(*sent)})["y"], 2 * _floats(*sent))


@pytest.mark.parametrize("layout", ["folder", "siblings", "renamed", "renamed folder"])
def test_external_data_and_other_file_names(served: Served, layout: str) -> None:
    """Weights beside the graph load, in a folder `model.onnx/` or next to it, and `default_model_filename` is honoured."""
    model = _model([("MatMul", ["x", "w"], ["y"], {})], {"x": (FLOAT, ("N", 4))}, {"y": (FLOAT, ("N", 4))}, {"w": _floats(4, 4)})
    expected = _here(model, {"x": _floats(2, 4)})[0]
    name = "net.onnx" if layout.startswith("renamed") else "model.onnx"
    version = served.put("external", f'default_model_filename: "{name}"\nmax_batch_size: 4\n{_xy()}')
    folder = version / name if "folder" in layout else version
    folder.mkdir(exist_ok=True)
    file = folder / ("model.onnx" if "folder" in layout else name)
    onnx.save_model(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").exists()
    served.load("external")

    np.testing.assert_allclose(served.ask("external", {"x": _floats(2, 4)})["y"], expected, rtol=1e-6)


def test_a_model_without_config_is_completed_from_its_graph(completing: Served) -> None:
    """Without config.pbtxt, a graph with a free first dimension gets max_batch_size 4, dynamic batching, and its tensors."""
    model = _model(
        [("Add", ["x", "x"], ["y"], {}), ("Identity", ["k"], ["l"], {})],
        {"x": (FLOAT, ("N", 4)), "k": (INT64, ("N",))},
        {"y": (FLOAT, ("N", 4)), "l": (INT64, ("N",))},
    )
    completing.put("bare", None, model)
    completing.load("bare")
    config = completing.config("bare")

    assert (config.backend, config.max_batch_size, config.HasField("dynamic_batching")) == ("onnxruntime", 4, True)
    assert {(one.name, one.data_type, *one.dims) for one in config.input} == {("x", 11, 4), ("k", 9, 1)}
    answer = completing.ask("bare", {"x": _floats(2, 4), "k": np.array([[5], [6]])})
    np.testing.assert_array_equal(answer["y"], 2 * _floats(2, 4))
    np.testing.assert_array_equal(answer["l"], [[5], [6]])


def test_a_graph_without_a_free_first_dimension_is_completed_without_batching(completing: Served) -> None:
    """A fixed shape gives max_batch_size 0 and the whole shape; what the config gives already stays."""
    completing.put("fixed", _io("input", "x", "TYPE_FP32", "2, 4"), _doubling((2, 4)))
    completing.load("fixed")
    config = completing.config("fixed")

    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert [(one.name, list(one.dims)) for one in config.output] == [("y", [2, 4])]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            _io("input", "z", "TYPE_FP32", "4") + _io("output", "y", "TYPE_FP32", "4"),
            "unexpected inference input 'z', allowed inputs are: x",
        ),
        (
            _io("input", "x", "TYPE_FP32", "4") + _io("output", "z", "TYPE_FP32", "4"),
            "unexpected inference output 'z', allowed outputs are: y",
        ),
        (_xy() + _io("input", "z", "TYPE_FP32", "4"), "configuration expects 2 inputs, model provides 1"),
        (_xy("TYPE_FP64"), "configuration expects datatype TYPE_FP64 for input 'x', model provides TYPE_FP32"),
        (_xy(dims="5"), "the model expects 2 dimensions (shape [-1,4]) but the model configuration specifies 2 dimensions"),
        (_xy() + 'parameters { key: "intra_op_thread_count" value { string_value: "two" } }', "failed to convert 'two'"),
        (_xy() + 'default_model_filename: "other.onnx"', "unable to find"),
    ],
    ids=["input", "output", "count", "datatype", "shape", "parameter", "file"],
)
def test_a_config_that_does_not_fit_the_graph_fails_at_load(served: Served, config: str, reason: str) -> None:
    """The load is refused with the compiled backend's own words."""
    served.put("misfit", "max_batch_size: 4\n" + config, _doubling())

    assert reason in served.refusal("misfit")


def test_batching_is_refused_for_a_graph_that_cannot_batch(served: Served) -> None:
    """A max_batch_size above 0 needs a graph with a free first dimension."""
    served.put("cannot", "max_batch_size: 4\n" + _xy(), _doubling((2, 4)))

    assert "first dimension must be -1; but shape expected by the model is [2,4]" in served.refusal("cannot")


@pytest.mark.parametrize("config", ["max_batch_size: 4\n" + _xy(), None], ids=["config", "no config"])
def test_a_corrupt_model_fails_with_onnxruntimes_own_reason(completing: Served, config: str | None) -> None:
    """Half a file does not load, and the refusal says what onnxruntime said."""
    version = completing.put("corrupt", config)
    whole = _doubling().SerializeToString()
    (version / "model.onnx").write_bytes(whole[: len(whole) // 2])

    assert "Protobuf parsing failed" in completing.refusal("corrupt")


def test_an_input_with_a_default_may_be_left_out(served: Served) -> None:
    """An optional input is one that the graph has a value for."""
    model = _model(
        [("Mul", ["x", "factor"], ["y"], {})],
        {"x": (FLOAT, (2,)), "factor": (FLOAT, (1,))},
        {"y": (FLOAT, (2,))},
        {"factor": np.array([3], np.float32)},
    )
    served.put("optional", _xy(dims="2") + _io("input", "factor", "TYPE_FP32", "1", "optional: true"), model)
    served.load("optional")
    x = np.array([1, 2], np.float32)

    assert served.ask("optional", {"x": x})["y"].tolist() == [3, 6]
    assert served.ask("optional", {"x": x, "factor": np.array([10], np.float32)})["y"].tolist() == [10, 20]


def test_torchscript_without_torch_says_what_to_do(served: Served) -> None:
    """The smaller install refuses a TorchScript model with the remedy, not with a traceback about an import."""
    version = served.put("script", 'backend: "pytorch"\n' + _xy())
    (version / "model.pt").write_bytes(b"")

    assert "--with torch" in served.refusal("script")


@pytest.mark.parametrize("kind", ["savedmodel", "graphdef"])
def test_a_model_of_tensorflow_without_tensorflow_says_what_to_do(served: Served, kind: str) -> None:
    """So do SavedModel and GraphDef; what they answer is tested where TensorFlow is (test_tensorflow.py)."""
    version = served.put("saved", f'platform: "tensorflow_{kind}"\n' + _xy())
    (version / f"model.{kind}").mkdir() if kind == "savedmodel" else (version / f"model.{kind}").touch()

    assert "--with tensorflow" in served.refusal("saved")


SCRIPTS = """
    import sys, torch
    from typing import Dict

    class Two(torch.nn.Module):
        def forward(self, left, right):
            return left - right, left * right

    class Named(torch.nn.Module):
        def forward(self, x: Dict[str, torch.Tensor]):
            return x["a"] + 2 * x["b"]

    class Pick(torch.nn.Module):
        def forward(self, x):
            return torch.embedding(torch.tensor([[10.0], [20.0], [30.0]]), x[:, 0])

    for kind in (Two, Named, Pick):
        torch.jit.script(kind()).save(f"{sys.argv[1]}/{kind.__name__}.pt")
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TorchScript files, made by the server environment's own Python, as torch is not installed here."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "make.py").write_text(textwrap.dedent(SCRIPTS), encoding="utf-8")  # torch.jit.script reads its source
    subprocess.run([install(with_={"torch"}).python, folder / "make.py", folder], check=True, timeout=120)
    return folder


def _put_script(served: Served, script: Path, inputs: list[str], outputs: list[str], *, kind: str = "TYPE_FP32", more: str = "") -> str:
    tensors = [_io("input", name, kind, "2" if kind == "TYPE_FP32" else "1") for name in inputs]
    tensors += [_io("output", name, "TYPE_FP32", "2" if kind == "TYPE_FP32" else "1") for name in outputs]
    version = served.put(script.stem, f'platform: "pytorch_libtorch"\nmax_batch_size: 8\n{more}{"".join(tensors)}')
    shutil.copyfile(script, version / "model.pt")
    return script.stem


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["INPUT__1", "INPUT__0"], ["OUTPUT__1", "OUTPUT__0"]),
        (["right", "left"], ["OUTPUT__1", "OUTPUT__0"]),
        (["b", "a"], ["first", "second"]),
    ],
    ids=["numbered", "arguments", "order"],
)
def test_torchscript_tensors_are_found_by_number_argument_or_order(
    served_torch: Served, scripts: Path, inputs: list[str], outputs: list[str]
) -> None:
    """Inputs go where their names say, and where the names say nothing, by their order in the config."""
    served_torch.load(_put_script(served_torch, scripts / "Two.pt", inputs, outputs))
    left, right = _floats(3, 2), _floats(3, 2) + 1
    sent = dict(zip(inputs, (left, right) if inputs[0] == "b" else (right, left), strict=True))
    answer = served_torch.ask("Two", sent)
    minus, times = (answer[name] for name in (outputs if outputs[0] == "first" else outputs[::-1]))

    np.testing.assert_allclose(minus, left - right)
    np.testing.assert_allclose(times, left * right)


def test_torchscript_with_one_dictionary_takes_the_inputs_by_name(served_torch: Served, scripts: Path) -> None:
    """A forward of one Dict[str, Tensor] gets all inputs in it."""
    served_torch.load(_put_script(served_torch, scripts / "Named.pt", ["a", "b"], ["OUTPUT__0"]))

    answer = served_torch.ask("Named", {"a": _floats(2, 2), "b": _floats(2, 2)})
    np.testing.assert_allclose(answer["OUTPUT__0"], 3 * _floats(2, 2))


def test_a_torchscript_error_answers_its_own_request_only(served_torch: Served, scripts: Path) -> None:
    """As with onnxruntime: one bad request in a batch, and the others get their answers."""
    batching = "dynamic_batching { preferred_batch_size: [8] max_queue_delay_microseconds: 300000 }\n"
    served_torch.load(_put_script(served_torch, scripts / "Pick.pt", ["x"], ["y"], kind="TYPE_INT64", more=batching))

    def outcome(row: int) -> Any:
        try:
            return served_torch.ask("Pick", {"x": np.array([[row]])})["y"].item()
        except grpc.InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(outcome, [0, 9, 1, 2]))

    assert [answers[0], *answers[2:]] == [10, 20, 30]
    assert "index out of range" in answers[1]


def test_torchscript_misfits_are_refused(served_torch: Served, scripts: Path, tmp_path: Path) -> None:
    """The wrong number of inputs and a file that is no TorchScript fail at load; a wrong output type fails the request."""
    script = Path(shutil.copyfile(scripts / "Two.pt", tmp_path / "Misfit.pt"))
    name = _put_script(served_torch, script, ["left"], ["OUTPUT__0"])
    assert "configuration expects 1 inputs, model provides 2" in served_torch.refusal(name)

    (served_torch.repository / name / "1" / "model.pt").write_bytes(b"no archive")
    assert "failed to load model 'Misfit'" in served_torch.refusal(name)

    _put_script(served_torch, scripts / "Named.pt", ["a", "b"], ["OUTPUT__0"])
    config = served_torch.repository / "Named" / "config.pbtxt"
    head, output = config.read_text().split("output")
    config.write_text(f"{head}output{output.replace('TYPE_FP32', 'TYPE_FP64')}")
    served_torch.load("Named")
    with pytest.raises(grpc.InferenceServerException, match="expects datatype TYPE_FP64 for output 'OUTPUT__0', model provides TYPE_FP32"):
        served_torch.ask("Named", {"a": _floats(1, 2), "b": _floats(1, 2)})
