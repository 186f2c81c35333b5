"""Real models, saved by MLflow, converted and asked; in this process for breadth, through the child for the few that need it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_triton import convert as conversion
from airflow_triton import model_config, tensors
from airflow_triton.convert import child, mlmodel
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.errors import ConversionError, ValidationDataError
from airflow_triton.servable import Servable

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")

helper = onnx.helper
FLOAT, INT64, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.STRING

RANDOM = np.random.default_rng(7)
X = RANDOM.random((60, 4))
THREE = (X[:, 0] * 3).astype(int)
TEXT = np.array(["setosa", "versicolor", "virginica"])[THREE]
TARGET = X @ [1.0, 2.0, 3.0, 4.0]
FRAME = pd.DataFrame(X, columns=["sepal length (cm)", "b", "c", "d"])
MIXED = FRAME.assign(count=THREE, kind=TEXT)


# Making models.


def save_sklearn(folder: Path, model: Any, example: Any = None, **options: Any) -> Path:
    import mlflow.sklearn
    from mlflow.models import infer_signature

    signature = None if example is None else infer_signature(example)
    options = {"signature": signature, "serialization_format": "cloudpickle", "pip_requirements": [], **options}
    mlflow.sklearn.save_model(model, str(folder), **options)
    if example is not None:
        add_example(folder, example)
    return folder


def add_example(folder: Path, example: Any) -> None:
    """Log the example without MLflow's own trial predictions, which take seconds."""
    from mlflow.models import Model
    from mlflow.models.utils import _save_example

    meta = Model.load(str(folder))
    _save_example(meta, example, str(folder))
    meta.save(str(folder / "MLmodel"))


def graph(
    nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], weights: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """A graph; a tensor is (element type, shape), and a shape of None is no shape."""

    def entries(tensors: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    body = helper.make_graph(nodes, "graph", entries(inputs), entries(outputs), constants, **options)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(body, opset_imports=opsets, ir_version=8)


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, outputs, **attributes)


def double(x_shape: Any, y_shape: Any) -> Any:
    return graph([node("Add", ["x", "x"], ["y"])], {"x": (FLOAT, x_shape)}, {"y": (FLOAT, y_shape)})


def save_onnx(folder: Path, model: Any, inputs: Any = None, **settings: Any) -> Path:
    """An MLflow model of the onnx flavor, written by hand: MLflow itself refuses to save some of what is found in the wild."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    signature = {} if inputs is None else {"signature": {"inputs": json.dumps(inputs), "outputs": None}}
    meta = {"flavors": {"onnx": {"data": "model.onnx"}}, **signature, **settings}
    (folder / "MLmodel").write_text(yaml.safe_dump(meta))
    return folder


def convert(folder: Path, into: Path, to: Any = "onnx") -> Servable:
    into.mkdir()
    return Servable.model_validate(child.convert(str(folder), str(into), {"to": to})["servable"])


def shapes(specs: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {spec.name: (spec.datatype, spec.shape) for spec in specs}


# scikit-learn.


def sklearn_zoo() -> dict[str, Callable[[], tuple[Any, Any]]]:
    from sklearn.cluster import KMeans
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest, RandomForestClassifier
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from sklearn.svm import SVC, LinearSVC

    def mixed() -> Any:
        columns = ColumnTransformer(
            [("numbers", StandardScaler(), ["sepal length (cm)", "b", "count"]), ("text", OneHotEncoder(), ["kind"])]
        )
        return make_pipeline(columns, LogisticRegression())

    return {
        "logistic-regression": lambda: (LogisticRegression().fit(X, THREE > 0), X),
        "string-labels": lambda: (LogisticRegression().fit(X, TEXT), X),
        "random-forest-on-a-table": lambda: (RandomForestClassifier(5, random_state=0).fit(FRAME, THREE), FRAME),
        "pipeline-of-svc": lambda: (make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)).fit(X, THREE), X),
        "grid-search": lambda: (GridSearchCV(LogisticRegression(), {"C": [1, 2]}, cv=2).fit(X, THREE), X),
        "svc-without-probabilities": lambda: (SVC().fit(X, THREE > 0), X),
        "linear-svc": lambda: (LinearSVC().fit(X, THREE), X),
        "regressor": lambda: (LinearRegression().fit(X, TARGET), X),
        "two-targets": lambda: (LinearRegression().fit(X, np.c_[TARGET, TARGET]), X),
        "kmeans": lambda: (KMeans(3, random_state=0, n_init=1).fit(X), X),
        "pca": lambda: (PCA(2).fit(X), X),
        "isolation-forest": lambda: (IsolationForest(n_estimators=5, random_state=0).fit(X), X),
        "several-labels": lambda: (RandomForestClassifier(3, random_state=0).fit(X, np.c_[THREE > 0, THREE > 1]), X),
        "column-transformer-with-text": lambda: (mixed().fit(MIXED, TEXT), MIXED),
    }


CLASSES = {"label": ("INT64", (-1,)), "probabilities": ("FP32", (-1, 3))}
SKLEARN_OUTPUTS: dict[str, dict[str, Any]] = {
    "logistic-regression": {"label": ("INT64", (-1,)), "probabilities": ("FP32", (-1, 2))},
    "string-labels": {"label": ("BYTES", (-1,)), "probabilities": ("FP32", (-1, 3))},
    "random-forest-on-a-table": CLASSES,
    "pipeline-of-svc": CLASSES,
    "grid-search": CLASSES,
    "svc-without-probabilities": {"label": ("INT64", (-1,))},
    "linear-svc": CLASSES,
    "regressor": {"variable": ("FP32", (-1, 1))},
    "two-targets": {"variable": ("FP32", (-1, 2))},
    "kmeans": {"label": ("INT64", (-1,)), "scores": ("FP32", (-1, 3))},
    "pca": {"variable": ("FP32", (-1, 2))},
    "isolation-forest": {"label": ("INT64", (-1, 1)), "scores": ("FP32", (-1, 1))},
    "several-labels": {"label": ("INT64", (-1, 2)), "probabilities": ("FP32", (2, -1, 2))},
    "column-transformer-with-text": {"label": ("BYTES", (-1,)), "probabilities": ("FP32", (-1, 3))},
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", SKLEARN_OUTPUTS)
def test_sklearn_models_answer_as_ONNX_as_they_do_themselves(kind: str, tmp_path: Path) -> None:  # noqa: N802
    """The files give what the description says, and what the model's own methods say about its input example."""
    model, example = sklearn_zoo()[kind]()
    source = save_sklearn(tmp_path / "model", model, example[:7])
    servable = convert(source, tmp_path / "1")
    description = servable.model_dump(mode="json")

    assert shapes(servable.outputs) == SKLEARN_OUTPUTS[kind]
    assert servable.batching == (kind != "several-labels")
    if kind != "column-transformer-with-text":
        assert shapes(servable.inputs) == {"input": ("FP32", (-1, 4))}
    assert child.input_example(str(source), description, str(tmp_path / "in.npz"))
    child.reference(str(source), description, [str(tmp_path / "in.npz")], [str(tmp_path / "out.npz")])
    expected = tensors.load_arrays(tmp_path / "out.npz")
    session = onnxruntime.InferenceSession(str(tmp_path / "1" / "model.onnx"))
    given = tensors.load_arrays(tmp_path / "in.npz")
    for name, answer in zip(expected, session.run(list(expected), given), strict=True):
        assert answer.shape == expected[name].shape
        if answer.dtype.kind == "f":
            np.testing.assert_allclose(answer, expected[name], rtol=1e-4, atol=1e-5)
        else:
            assert (answer == expected[name]).all()
    declared = {output.name: output.shape for output in session.get_outputs()}
    assert all([size if isinstance(size, int) else -1 for size in declared[spec.name]] == list(spec.shape) for spec in servable.outputs)
    assert model_config.build(servable, name="m").max_batch_size == (64 if servable.batching else 0)


def test_text_columns_become_inputs_of_their_names(tmp_path: Path) -> None:
    """A table with text has one input for each column, of the column's own name and type."""
    model, example = sklearn_zoo()["column-transformer-with-text"]()
    servable = convert(save_sklearn(tmp_path / "model", model, example[:7]), tmp_path / "1")

    floats = dict.fromkeys(["sepal length (cm)", "b", "c", "d"], ("FP32", (-1, 1)))
    assert shapes(servable.inputs) == {**floats, "count": ("INT64", (-1, 1)), "kind": ("BYTES", (-1, 1))}


def test_the_same_sklearn_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """Converting twice changes nothing, so content can be compared."""
    model, example = sklearn_zoo()["pipeline-of-svc"]()
    source = save_sklearn(tmp_path / "model", model, example[:7])
    for name in ("1", "2"):
        convert(source, tmp_path / name)

    assert (tmp_path / "1/model.onnx").read_bytes() == (tmp_path / "2/model.onnx").read_bytes()


def test_a_model_without_a_signature_is_known_by_its_features(tmp_path: Path) -> None:
    """No signature is fine where the model itself knows how many features it takes; there is no example then."""
    model, _ = sklearn_zoo()["regressor"]()
    source = save_sklearn(tmp_path / "model", model)
    servable = convert(source, tmp_path / "1")

    assert shapes(servable.inputs) == {"input": ("FP32", (-1, 4))}
    assert conversion.input_example(source, servable, tmp_path / "in.npz") is False
    assert not (tmp_path / "in.npz").exists()


def test_a_model_of_named_columns_needs_a_signature(tmp_path: Path) -> None:
    """Without it nobody knows the columns' types."""
    model, _ = sklearn_zoo()["column-transformer-with-text"]()

    with pytest.raises(ConversionError, match=r"takes its columns by name \(sepal length.*log it with a signature"):
        convert(save_sklearn(tmp_path / "model", model), tmp_path / "1")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (X[:2, :3], r"the signature has 3 \(\(unnamed\): float64\[-1, 3\]\), and the model was trained on 4 features"),
        (FRAME[:2].rename(columns={"b": "B"}), r"columns sepal length \(cm\), B, c, d, and the model was trained on 4 features \(sepal"),
        (FRAME[["c", "b", "d", "sepal length (cm)"]][:2], "the signature has the columns c, b, d"),
        (X[:2].reshape(2, 2, 2), "in a matrix of two axes"),
    ],
    ids=["fewer-features", "other-name", "other-order", "three-axes"],
)
def test_a_signature_that_contradicts_the_sklearn_model_is_refused(example: Any, message: str, tmp_path: Path) -> None:
    """Both sides are named, before anything is written."""
    model, _ = sklearn_zoo()["random-forest-on-a-table"]()

    with pytest.raises(ConversionError, match=message):
        convert(save_sklearn(tmp_path / "model", model, example), tmp_path / "1")
    assert not list((tmp_path / "1").iterdir())


def test_an_operator_without_a_converter_is_named(tmp_path: Path) -> None:
    """What skl2onnx does not know is said in its own words."""
    from sklearn.manifold import Isomap

    with pytest.raises(ConversionError, match=r"skl2onnx cannot convert the model: .*Isomap"):
        convert(save_sklearn(tmp_path / "model", Isomap(n_neighbors=3, n_components=2).fit(X), X[:2]), tmp_path / "1")


def test_a_skops_model_with_untrusted_types_names_them(tmp_path: Path) -> None:
    """A skops file loads what it was trusted with, and the error names the type that it was not."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    model = make_pipeline(FunctionTransformer(json.dumps), LinearRegression().fit(X, TARGET))
    options = {"serialization_format": "skops", "skops_trusted_types": ["json.dumps"]}
    source = save_sklearn(tmp_path / "model", model, **options)
    meta = yaml.safe_load((source / "MLmodel").read_text())
    meta["flavors"]["sklearn"]["skops_trusted_types"] = None
    (source / "MLmodel").write_text(yaml.safe_dump(meta))

    with pytest.raises(ConversionError, match=r"json\.dumps.*skops_trusted_types"):
        convert(source, tmp_path / "1")


def test_a_corrupt_sklearn_file_is_refused_in_one_line(tmp_path: Path) -> None:
    """The library's own reason, not its traceback."""
    model, _ = sklearn_zoo()["regressor"]()
    source = save_sklearn(tmp_path / "model", model)
    (source / "model.pkl").write_bytes(b"\x80\x04 not a pickle")

    with pytest.raises(ConversionError, match="MLflow cannot load the scikit-learn model: UnpicklingError") as caught:
        convert(source, tmp_path / "1")
    assert "\n" not in str(caught.value)


# ONNX graphs as they are found in the wild.


def graph_zoo() -> dict[str, tuple[Any, dict[str, Any], bool]]:
    """Each graph with the truth about its outputs, and whether it batches."""
    eye = np.eye(4, dtype="float32")
    two = {"x": (FLOAT, ["N", 4]), "z": (FLOAT, ["M", 4])}
    batch_norm = [
        node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        node("Sub", ["x", "mean"], ["y"]),
    ]
    rows_4 = {"y": ("FP32", (-1, 4))}
    return {
        "plain": (double(["N", 4], ["N", 4]), rows_4, True),
        "nameless-axes": (double([None, 4], [None, None]), rows_4, True),
        "other-name-for-the-axis": (double(["N", 4], ["M", 4]), rows_4, True),
        "no-output-shape": (double(["N", 4], None), rows_4, True),
        "output-says-1-row": (double(["N", 4], [1, 4]), rows_4, True),
        "output-says-another-rank": (double(["N", 4], [4]), rows_4, True),
        "fixed-batch": (double([2, 4], [2, 4]), {"y": ("FP32", (2, 4))}, False),
        "every-axis-varies": (double(["N", "K"], ["N", "K"]), {"y": ("FP32", (-1, -1))}, True),
        "scalar": (double([], []), {"y": ("FP32", ())}, False),
        "vector": (double(["N"], ["N"]), {"y": ("FP32", (-1,))}, True),
        "scalar-beside-a-batch": (
            graph([node("Mul", ["x", "z"], ["y"])], {"x": (FLOAT, ["N", 4]), "z": (FLOAT, [])}, {"y": (FLOAT, ["N", 4])}),
            rows_4,
            False,
        ),
        "weights-as-inputs": (
            graph(
                [node("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, ["N", 4]), "w": (FLOAT, [4, 4])}, {"y": (FLOAT, ["N", 4])}, {"w": eye}
            ),
            rows_4,
            True,
        ),
        "two-inputs": (graph([node("Add", ["x", "z"], ["y"])], two, {"y": (FLOAT, ["K", 4])}), rows_4, True),
        "reduced-over-the-batch": (
            graph([node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=1)], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, [None, 4])}),
            {"y": ("FP32", (1, 4))},
            False,
        ),
        "normalised-over-the-batch": (graph(batch_norm, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}), rows_4, False),
        "rows-against-rows": (
            graph([node("Transpose", ["z"], ["t"]), node("MatMul", ["x", "t"], ["y"])], two, {"y": (FLOAT, ["N", "M"])}),
            {"y": ("FP32", (-1, -1))},
            False,
        ),
        "one-more-row": (
            graph([node("Concat", ["x", "w"], ["y"], axis=0)], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, {"w": eye[:1]}),
            rows_4,
            False,
        ),
        "text": (graph([node("Identity", ["x"], ["y"])], {"x": (STRING, ["N"])}, {"y": (STRING, ["N"])}), {"y": ("BYTES", (-1,))}, True),
        "table-look-up": (
            graph([node("Gather", ["w", "x"], ["y"])], {"x": (INT64, ["N", "T"])}, {"y": (FLOAT, None)}, {"w": eye[:2]}),
            {"y": ("FP32", (-1, -1, 4))},
            True,
        ),
        "how-many-depends-on-the-data": (
            graph([node("NonZero", ["x"], ["y"])], {"x": (FLOAT, ["N", 4])}, {"y": (INT64, [2, "K"])}),
            {"y": ("INT64", (2, -1))},
            False,
        ),
        "random": (
            graph(
                [node("RandomNormalLike", ["x"], ["noise"]), node("Add", ["x", "noise"], ["y"])],
                {"x": (FLOAT, ["N", 4])},
                {"y": (FLOAT, ["N", 4])},
            ),
            rows_4,
            True,
        ),
    }


@pytest.mark.parametrize("kind", graph_zoo())
def test_graphs_are_described_as_they_behave(kind: str, tmp_path: Path) -> None:
    """The outputs and the batching are the graph's, not its declaration's, and the written file declares them so."""
    model, outputs, batching = graph_zoo()[kind]
    servable = convert(save_onnx(tmp_path / "model", model), tmp_path / "1")

    assert shapes(servable.outputs) == outputs
    assert servable.batching == batching
    session = inspect_onnx.open_session(tmp_path / "1" / "model.onnx")
    assert inspect_onnx.declared(session) == (servable.inputs, servable.outputs)
    model_config.build(servable, name="m")


def test_a_model_that_nothing_can_be_asked_is_refused(tmp_path: Path) -> None:
    """Its graph fails on all made-up rows, and there is no example: nothing would prove that it answers as it should."""
    category = node("CategoryMapper", ["x"], ["y"], domain="ai.onnx.ml", cats_strings=["a"], cats_int64s=[1])
    weights = {"w": np.eye(4, dtype=np.float32)[:0]}
    model = graph([category, node("Gather", ["w", "y"], ["z"])], {"x": (STRING, ["N", 1])}, {"z": (FLOAT, ["N", 1, 4])}, weights)

    with pytest.raises(ConversionError, match=r"could not be held against the MLflow model.*Log the model with an input example"):
        convert(save_onnx(tmp_path / "model", model), tmp_path / "1")


@pytest.mark.parametrize(("kind", "right"), [("plain", True), ("output-says-1-row", False), ("no-output-shape", False)])
def test_as_is_copies_or_refuses(kind: str, right: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Byte for byte where the declarations are right; refused, with the remedy, where Triton would refuse the file."""
    source = save_onnx(tmp_path / "model", graph_zoo()[kind][0])

    if right:
        assert convert(source, tmp_path / "1", "as-is").converter == "as-is"
        assert (tmp_path / "1/model.onnx").read_bytes() == (source / "model.onnx").read_bytes()
    else:
        with pytest.raises(ConversionError, match=r"wrong one for y, .*use `to: onnx`"):
            convert(source, tmp_path / "1", "as-is")


def test_a_right_file_keeps_its_bytes(tmp_path: Path) -> None:
    """`onnx` too changes nothing that is right, and says when it did change something."""
    plain = save_onnx(tmp_path / "plain", graph_zoo()["plain"][0])
    wrong = save_onnx(tmp_path / "wrong", graph_zoo()["output-says-1-row"][0])

    assert convert(plain, tmp_path / "1").converter == "as-is"
    assert (tmp_path / "1/model.onnx").read_bytes() == (plain / "model.onnx").read_bytes()
    assert convert(wrong, tmp_path / "2").converter == "onnx"


def test_the_input_example_is_used_where_made_up_rows_do_not_run(tmp_path: Path) -> None:
    """A graph that takes only certain values is looked at with the example's."""
    mapper = node("LabelEncoder", ["x"], ["i"], domain="ai.onnx.ml", keys_strings=["a", "b"], values_int64s=[0, 1], default_int64=9)
    model = graph([mapper, node("Gather", ["w", "i"], ["y"])], {"x": (STRING, ["N"])}, {"y": (FLOAT, None)}, {"w": np.eye(2, 3, dtype="f")})
    source = save_onnx(tmp_path / "model", model)

    with pytest.raises(ConversionError, match=r"\['y'\] have no declared shape.*log the model with an input example"):
        convert(source, tmp_path / "0")
    add_example(source, {"x": np.array(["a", "b", "a"])})
    servable = convert(source, tmp_path / "1")

    assert shapes(servable.outputs) == {"y": ("FP32", (-1, 3))}
    assert servable.batching


def test_an_input_without_a_shape_takes_it_from_the_signature(tmp_path: Path) -> None:
    """Without one it is refused, with it the file is completed."""
    model = double(None, None)
    field = {"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}

    with pytest.raises(ConversionError, match=r"\['x'\] are declared without a shape; log the model with a signature"):
        convert(save_onnx(tmp_path / "without", model), tmp_path / "0")
    servable = convert(save_onnx(tmp_path / "with", model, [field]), tmp_path / "1")

    assert shapes((*servable.inputs, *servable.outputs)) == {"x": ("FP32", (-1, 4)), "y": ("FP32", (-1, 4))}


def test_outputs_that_are_no_tensors_are_refused_with_the_remedy(tmp_path: Path) -> None:
    """A ZipMap's sequence of maps is named, and how to leave it out."""
    from skl2onnx import to_onnx

    model, _ = sklearn_zoo()["logistic-regression"]()
    source = save_onnx(tmp_path / "model", to_onnx(model, X[:1].astype("float32"), target_opset={"": 17, "ai.onnx.ml": 1}))

    with pytest.raises(ConversionError, match=r"'output_probability' is a seq\(map\(int64,tensor\(float\)\)\).*\"zipmap\": False"):
        convert(source, tmp_path / "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an ONNX file at all", "is no ONNX model"),
        (b"", "cannot be loaded by onnxruntime"),
        (None, "cannot be loaded by onnxruntime"),
    ],
    ids=["garbage", "empty", "truncated-weights"],
)
def test_a_corrupt_onnx_file_is_refused_in_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    """The library's own reason, not its traceback."""
    if content is None:
        broken = graph_zoo()["weights-as-inputs"][0]
        broken.graph.initializer[0].raw_data = b"\0" * 7
        content = broken.SerializeToString()

    with pytest.raises(ConversionError, match=message) as caught:
        convert(save_onnx(tmp_path / "model", content), tmp_path / "1")
    assert "\n" not in str(caught.value)


def tensor_field(name: str | None, dtype: str, *shape: int) -> dict[str, Any]:
    return {**({"name": name} if name else {}), "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor_field("X", "float32", -1, 4)], r"the signature has X: float32\[-1, 4\], the graph x: FP32\[-1, 4\]"),
        ([tensor_field(None, "int64", -1, 4)], r"x is int64 in the signature and FP32 \(float32\) in the graph"),
        ([tensor_field(None, "float32", -1, 5)], r"x is \[-1, 5\] in the signature and \[-1, 4\] in the graph"),
        ([tensor_field(None, "float32", -1)], r"x is \[-1\] in the signature and \[-1, 4\] in the graph"),
        ([{"type": "double", "name": n} for n in "abc"], r"3 columns \(a: float64, b: float64, c: float64\), the graph's x takes 4"),
        ([{"type": "string", "name": n} for n in "abcd"], "column a is str in the signature, and the graph's x is FP32"),
    ],
    ids=["name", "type", "size", "rank", "columns", "text"],
)
def test_a_signature_that_contradicts_the_graph_is_refused(inputs: Any, message: str, tmp_path: Path) -> None:
    """Both sides are named."""
    with pytest.raises(ConversionError, match=f"signature contradicts its graph: .*{message}"):
        convert(save_onnx(tmp_path / "model", double(["N", 4], ["N", 4]), inputs), tmp_path / "1")


@pytest.mark.parametrize(
    "inputs",
    [
        [tensor_field("x", "float32", -1, 4)],
        [tensor_field(None, "float64", -1, 4)],
        [tensor_field(None, "float32", 1, 4)],
        [{"type": "double", "name": n} for n in "abcd"],
    ],
    ids=["named", "unnamed-float64", "one-row", "columns"],
)
def test_a_signature_that_fits_is_accepted(inputs: Any, tmp_path: Path) -> None:
    """A lone tensor is matched by position, float64 stands for FP32, and what varies on one side may be fixed on the other."""
    assert convert(save_onnx(tmp_path / "model", double(["N", 4], ["N", 4]), inputs), tmp_path / "1").batching


def test_a_named_output_of_the_signature_must_exist(tmp_path: Path) -> None:
    """Outputs with names are compared too."""
    signature = {"inputs": None, "outputs": json.dumps([tensor_field("other", "float32", -1, 4)])}
    source = save_onnx(tmp_path / "model", double(["N", 4], ["N", 4]), signature=signature)

    with pytest.raises(ConversionError, match="the signature has other"):
        convert(source, tmp_path / "1")


# External data, and the way through the child.


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that mlflow.onnx saves in two files, with an input example."""
    import mlflow.onnx

    weights = {"w": np.arange(4000, dtype="float32").reshape(4, 1000)}
    model = graph([node("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, [1, 1000])}, weights)
    folder = tmp_path_factory.mktemp("external") / "model"
    mlflow.onnx.save_model(model, str(folder), pip_requirements=[])
    add_example(folder, X[:3].astype("float32"))
    return folder


def test_external_data_travels_with_its_graph_through_the_child(external: Path, tmp_path: Path) -> None:
    """The version holds a folder model.onnx/ that loads by itself, is readable by all, and answers as the original does."""
    servable = conversion.convert(external, tmp_path / "deep" / "1").servable
    folder = tmp_path / "deep" / "1" / "model.onnx"
    data = [path for path in folder.iterdir() if path.name != "model.onnx"]

    assert [path.stat().st_size for path in data] == [16000]
    assert data[0].stat().st_mode & 0o077
    assert (servable.batching, shapes(servable.outputs)) == (True, {"y": ("FP32", (-1, 1000))})
    assert conversion.input_example(external, servable, tmp_path / "in.npz")
    conversion.reference(external, servable, [tmp_path / "in.npz"], [tmp_path / "out.npz"])
    answers = inspect_onnx.open_session(folder / "model.onnx").run(["y"], tensors.load_arrays(tmp_path / "in.npz"))
    np.testing.assert_array_equal(answers[0], tensors.load_arrays(tmp_path / "out.npz")["y"])


def test_missing_external_data_is_refused(external: Path, tmp_path: Path) -> None:
    """A graph without its weights is no model."""
    import shutil

    shutil.copytree(external, tmp_path / "model")
    next((tmp_path / "model").glob("*.data")).unlink()

    with pytest.raises(ConversionError, match="is not a file in the model's folder"):
        convert(tmp_path / "model", tmp_path / "1")


def test_external_data_outside_the_model_is_refused(tmp_path: Path) -> None:
    """A graph cannot take files of the worker with it."""
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    model = graph_zoo()["weights-as-inputs"][0]
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")

    with pytest.raises(ConversionError, match=r"'\.\./secret' is not a file in the model's folder"):
        convert(save_onnx(tmp_path / "model", model), tmp_path / "1")


def test_a_skops_model_goes_through_the_child(tmp_path: Path) -> None:
    """MLflow's default format; what its libraries print stays in the child."""
    model, example = sklearn_zoo()["string-labels"]()
    source = save_sklearn(tmp_path / "model", model, example[:2], serialization_format="skops")
    servable = conversion.convert(source, tmp_path / "1").servable

    assert (source / "model.skops").exists()
    assert servable.converter == "skl2onnx"
    assert set(servable.tools) == {"skl2onnx", "scikit-learn", "onnx", "onnxruntime"}
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["model.onnx"]


def test_a_failure_in_the_child_leaves_nothing_behind(tmp_path: Path) -> None:
    """The folder is as it was, and the error is the converter's own."""
    source = save_onnx(tmp_path / "model", b"garbage")
    (tmp_path / "there").mkdir()

    for name in ("absent", "there"):
        with pytest.raises(ConversionError, match="is no ONNX model"):
            conversion.convert(source, tmp_path / name)
    assert not (tmp_path / "absent").exists()
    assert not list((tmp_path / "there").iterdir())


def test_a_folder_with_files_is_not_written_into(tmp_path: Path) -> None:
    """Nobody else's files are touched."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "file").touch()

    with pytest.raises(ConversionError, match="is not empty"):
        conversion.convert(save_onnx(tmp_path / "model", double(["N"], ["N"])), tmp_path / "1")
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["file"]


def test_an_unsupported_flavor_names_what_was_found_and_what_works(tmp_path: Path) -> None:
    """Known before any child starts."""
    (tmp_path / "MLmodel").write_text("flavors: {spacy: {data: model.spacy}}")

    with pytest.raises(ConversionError, match=r"flavors spacy; only models with one of .*sklearn.* can .*mlflow\.onnx\.log_model"):
        conversion.convert(tmp_path, tmp_path / "1")

    (tmp_path / "MLmodel").write_text("flavors: {spacy: {data: model.spacy}, python_function: {}}")

    with pytest.raises(ConversionError, match=r"a model of python_function, spacy cannot become `to: onnx`; valid: python .*`to: python`"):
        conversion.convert(tmp_path, tmp_path / "1")
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it has no MLmodel file"),
        ("flavors: [", "cannot be understood"),
        ("a: 1", "cannot be understood"),
        ("", "cannot be understood"),
    ],
    ids=["absent", "no-yaml", "no-flavors", "empty"],
)
def test_a_folder_that_is_no_mlflow_model_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    """The folder or file, and what is wrong with it."""
    if text is not None:
        (tmp_path / "MLmodel").write_text(text)

    with pytest.raises(ConversionError, match=message):
        mlmodel.read(tmp_path)


def test_signature_columns_are_those_of_a_table(tmp_path: Path) -> None:
    """In the signature's order; None for tensors and for no signature."""
    columns = [{"type": "long", "name": name} for name in "ba"]

    assert conversion.signature_columns(save_onnx(tmp_path / "a", b"", columns)) == ("b", "a")
    assert conversion.signature_columns(save_onnx(tmp_path / "b", b"", [tensor_field("x", "float32", -1)])) is None
    assert conversion.signature_columns(save_onnx(tmp_path / "c", b"")) is None


def test_declarations_of_other_tensors_are_left_alone() -> None:
    """Only what is named is written, and the names of axes that stay are kept."""
    model = double(["rows", 4], [1, 4])
    servable = make({"x": ("FP32", (-1, 4))})

    assert not onnx_files.declare(model, servable.inputs)
    assert onnx_files.declare(model, (servable.inputs[0].model_copy(update={"name": "y"}),))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"


# Tables and arrays.


def make(inputs: dict[str, Any]) -> Servable:
    specs = [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in inputs.items()]
    return Servable.model_validate(
        {
            "backend": "onnxruntime",
            "default_model_filename": "model.onnx",
            "inputs": specs,
            "outputs": specs,
            "batching": True,
            "flavor": "onnx",
            "converter": "as-is",
        }
    )


MATRIX = make({"input": ("FP32", (-1, 2))})
COLUMNS = make({"a": ("INT64", (-1, 1)), "s": ("BYTES", (-1, 1)), "v": ("FP32", (-1, 2))})


def test_columns_stand_side_by_side_in_the_order_of_the_signature() -> None:
    """The table's own order does not matter where the signature's is known."""
    frame = pd.DataFrame({"b": [1, 2], "a": [3.5, 4.5]})

    assert tensors.rows_to_inputs(frame, MATRIX)["input"].tolist() == [[1, 3.5], [2, 4.5]]
    assert tensors.rows_to_inputs(frame, MATRIX, ["a", "b"])["input"].tolist() == [[3.5, 1], [4.5, 2]]


def test_each_input_takes_the_column_of_its_name() -> None:
    """Types are the inputs', and cells with several values become axes."""
    frame = pd.DataFrame({"v": [[1, 2], [3, 4]], "a": [1.0, 2.0], "s": ["x", "ä"], "unused": [0, 0]})
    arrays = tensors.rows_to_inputs(frame, COLUMNS, ["a", "s", "v", "unused"])

    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "a": ("int64", (2, 1)),
        "s": ("object", (2, 1)),
        "v": ("float32", (2, 2)),
    }
    assert arrays["s"].tolist() == [["x"], ["ä"]]


@pytest.mark.parametrize(
    ("frame", "servable", "columns", "message"),
    [
        ({"a": [1], "c": [2]}, MATRIX, ["a", "b"], r"missing \['b'\], unexpected \['c'\]; the model takes \['a', 'b'\]"),
        ({"a": [1], "b": [1], "c": [2]}, MATRIX, ["a", "b"], r"missing none, unexpected \['c'\]"),
        ({"a": [1], "b": [2], "c": [3]}, MATRIX, None, r"the 3 columns \['a', 'b', 'c'\]: shape \[1, 3\] does not fit 'input' \[-1, 2\]"),
        ({"a": [1], "b": ["x"]}, MATRIX, None, "column 'b': text where FP32 is needed"),
        ({"a": [1], "s": ["x"]}, COLUMNS, None, r"missing \['v'\]"),
        ({"a": [1.5], "s": ["x"], "v": [[1, 2]]}, COLUMNS, None, "column 'a': values that INT64 cannot hold"),
        ({"a": [None], "s": ["x"], "v": [[1, 2]]}, COLUMNS, None, "column 'a': not INT64"),
        ({"a": [1], "s": [1], "v": [[1, 2]]}, COLUMNS, None, "column 's': int64 where text"),
        ({"a": [1], "s": [None], "v": [[1, 2]]}, COLUMNS, None, "column 's': None where text"),
        ({"a": [1], "s": ["x"], "v": [[1, 2, 3]]}, COLUMNS, None, r"column 'v': shape \[1, 3\] does not fit 'v' \[-1, 2\]"),
    ],
    ids=["missing", "unexpected", "too-wide", "text", "no-column", "fraction", "null", "number", "no-text", "cells"],
)
def test_a_table_that_does_not_fit_is_named_by_its_columns(frame: Any, servable: Servable, columns: Any, message: str) -> None:
    """Never a silent cast, never a silent order."""
    with pytest.raises(ValidationDataError, match=message):
        tensors.rows_to_inputs(pd.DataFrame(frame), servable, columns)


def test_arrays_of_every_type_survive_their_file(tmp_path: Path) -> None:
    """Written and read without pickle, text and all."""
    arrays = {kind: tensors.cast(["ä", ""] if kind == "BYTES" else [0, 1], kind) for kind in tensors.NUMPY_TYPES}
    arrays |= {"file": np.zeros((0, 3), dtype="float32"), "/layer/Add:0": np.float64(1).reshape(())}
    tensors.save_arrays(tmp_path / "a.npz", arrays)
    read = tensors.load_arrays(tmp_path / "a.npz")

    assert {name: (array.dtype, array.tolist()) for name, array in read.items()} == {
        name: (array.dtype, array.tolist()) for name, array in arrays.items()
    }
    assert [tensors.datatype_of(array.dtype) for array in arrays.values()][:12] == list(tensors.NUMPY_TYPES)[:12]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"], ids=["empty", "broken", "text"])
def test_a_file_that_is_no_npz_is_named(content: bytes, tmp_path: Path) -> None:
    """The path and the reason."""
    (tmp_path / "a.npz").write_bytes(content)

    with pytest.raises(ValidationDataError, match=r"a\.npz cannot be read"):
        tensors.load_arrays(tmp_path / "a.npz")
