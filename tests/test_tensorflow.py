"""Models of TensorFlow and Keras, logged by MLflow in an environment of their own, converted there, and served by the local Triton.

TensorFlow is in no environment of ours: what needs it is run by a Python that has it (`convert.environment` of a spec does the same).
That environment and the server's are 1.7 and 1.4 GB, and a conversion takes half a minute, so all of this asks for
AIRFLOW_TRITON_HEAVY=1.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs
import pytest
import uv
import yaml

from airflow_triton import model_config
from airflow_triton.convert import Conversion, Options, convert
from airflow_triton.convert.mlmodel import read
from airflow_triton.convert.tensorflow.model import kind_of
from airflow_triton.errors import ConversionError, ServerError
from airflow_triton.isolate import ChildProcess
from airflow_triton.local_triton import LocalTriton
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.tensors import load_arrays, plain_texts

REQUIREMENTS = (
    "tensorflow-cpu==2.21.0",
    "tf2onnx==1.17.0",
    "mlflow-skinny==3.17.2",
    "numpy==2.4.6",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "pandas==3.1.1",
    "filelock",
    "platformdirs",
    "psutil",
    "pydantic",
    "pyyaml",
    "scipy",
    "tritonclient[grpc]",
)
"""What the conversion needs, and what this package imports on the way."""

MODELS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import mlflow
import numpy as np
import tensorflow as tf
from mlflow.models import infer_signature

folder = sys.argv[1]
keras.utils.set_random_seed(7)
rng = np.random.default_rng(7)
FLOAT = tf.float32


def save(name, model, inputs, outputs, **more):
    if isinstance(model, keras.Model):
        model.compile(loss="mse")
    alone = len(inputs) == 1
    example = next(iter(inputs.values())) if alone else inputs
    answer = next(iter(outputs.values())) if len(outputs) == 1 and isinstance(model, keras.Model) else outputs
    logged = dict(signature=infer_signature(example, answer), input_example=example, pip_requirements=[])
    mlflow.tensorflow.save_model(model, f"{folder}/{name}", **{**logged, **more})
    arrays = {f"in.{key}": value for key, value in inputs.items()}
    arrays |= {f"out.{key}": np.asarray(value) for key, value in outputs.items()}
    np.savez(f"{folder}/{name}.npz", **{key: value.astype(str) if value.dtype == object else value for key, value in arrays.items()})


def tensor(name, kind, *shape):
    return tf.TensorSpec(shape, kind, name=name)


x = rng.normal(size=(6, 4)).astype("float32")
dense = keras.Sequential([
    keras.layers.Input((4,), name="x"), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3, activation="softmax"),
])
save("dense", dense, {"x": x}, {"output_0": dense(x).numpy()})
for exported in (False, True):
    kept = f"{folder}/{'exported' if exported else 'dense'}-by-keras"
    signature = infer_signature(x, dense(x).numpy())  # and no example: MLflow 3.17 would write it before it makes the folder
    mlflow.keras.save_model(dense, kept, save_exported_model=exported, signature=signature, pip_requirements=[])

image = rng.normal(size=(5, 12, 12, 3)).astype("float32")
cnn = keras.Sequential([
    keras.layers.Input((12, 12, 3), name="image"), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.BatchNormalization(),
    keras.layers.MaxPooling2D(), keras.layers.Dropout(0.5), keras.layers.Flatten(), keras.layers.Dense(2, name="logits"),
])
save("cnn", cnn, {"image": image}, {"output_0": cnn(image, training=False).numpy()})

a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
several = keras.Model([b, a], {"total": keras.layers.Dense(2)(a + 2 * b), "difference": keras.layers.Subtract()([a, b])})
given = {"b": x, "a": 2 * x + 1}
save("several", several, given, {key: value.numpy() for key, value in several([given["b"], given["a"]]).items()})


@keras.saving.register_keras_serializable()
class Own(keras.Model):
    def __init__(self, **more):
        super().__init__(**more)
        self.inner = keras.layers.Dense(2)

    def call(self, table):
        return self.inner(table)


own = Own()
save("own", own, {"args_0": x}, {"output_0": own(x).numpy()}, custom_objects={"Own": Own})


class Two(tf.Module):
    def __init__(self):
        self.weights = tf.Variable(tf.range(3, dtype=FLOAT))

    @tf.function(input_signature=[tensor("left", FLOAT, None, 3), tensor("right", tf.int64, None, 3)])
    def __call__(self, left, right):
        return {"sum": left * self.weights + tf.cast(right, FLOAT), "best": tf.argmax(left, -1)}


two = Two()
left, right = x[:, :3], rng.integers(-5, 5, (6, 3))
save("two", two, {"left": left, "right": right}, {key: value.numpy() for key, value in two(left, right).items()})


class Text(tf.Module):
    @tf.function(input_signature=[tensor("text", tf.string, None)])
    def __call__(self, text):
        return {"upper": tf.strings.upper(text), "length": tf.strings.length(text, unit="UTF8_CHAR")}


words = np.array(["Triton", "", "caf\\u00e9", "a b"], dtype=object)
answer = Text()(words)
upper = np.array([one.decode() for one in answer["upper"].numpy()], dtype=object)
save("text", Text(), {"text": words}, {"upper": upper, "length": answer["length"].numpy()})


class Centred(tf.Module):
    @tf.function(input_signature=[tensor("x", FLOAT, None, 4)])
    def score(self, x):
        return {"centred": x - tf.reduce_mean(x, axis=0)}


centred = Centred()
answer = {"centred": centred.score(x)["centred"].numpy()}
save("centred", centred, {"x": x}, answer, saved_model_kwargs={"signatures": {"score": centred.score}})


class Unsigned(tf.Module):
    @tf.function
    def __call__(self, x):
        return x * 2


unsigned = Unsigned()
unsigned(tf.constant(x))
mlflow.tensorflow.save_model(unsigned, f"{folder}/unsigned", signature=infer_signature(x), pip_requirements=[])


class Scalar(tf.Module):
    @tf.function(input_signature=[tensor("x", FLOAT, None, 4)])
    def __call__(self, x):
        return {"total": tf.reduce_sum(x)}


mlflow.tensorflow.save_model(Scalar(), f"{folder}/scalar", signature=infer_signature(x), input_example=x, pip_requirements=[])

graph = two.__call__.get_concrete_function()
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

frozen = convert_variables_to_constants_v2(graph)
print(frozen.inputs, frozen.outputs)
open(f"{folder}/model.graphdef", "wb").write(frozen.graph.as_graph_def().SerializeToString())
open(f"{folder}/outputs.txt", "w").write(" ".join(one.name.split(":")[0] for one in frozen.outputs))
"""

FP32, INT64 = "FP32", "INT64"
TENSORS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "dense": {"x": (FP32, (-1, 4)), "output_0": (FP32, (-1, 3))},
    "cnn": {"image": (FP32, (-1, 12, 12, 3)), "output_0": (FP32, (-1, 2))},
    "several": {"a": (FP32, (-1, 4)), "b": (FP32, (-1, 4)), "difference": (FP32, (-1, 4)), "total": (FP32, (-1, 2))},
    "own": {"args_0": (FP32, (-1, 4)), "output_0": (FP32, (-1, 2))},
    "two": {"left": (FP32, (-1, 3)), "right": (INT64, (-1, 3)), "best": (INT64, (-1,)), "sum": (FP32, (-1, 3))},
    "text": {"text": ("BYTES", (-1,)), "length": ("INT32", (-1,)), "upper": ("BYTES", (-1,))},
    "centred": {"x": (FP32, (-1, 4)), "centred": (FP32, (-1, 4))},
}
"""The models, and their tensors as Triton has them: the inputs, then the outputs."""

ONE = {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]}
CONVERSIONS = [(name, to) for name in TENSORS for to in ("onnx", "as-is") if (name, to) != ("text", "onnx")]


@pytest.fixture(scope="session")
def python() -> Path:
    """A Python with TensorFlow, tf2onnx and MLflow; made once for these requirements."""
    if not os.environ.get("AIRFLOW_TRITON_HEAVY"):
        pytest.skip("TensorFlow's environments are 3 GB: AIRFLOW_TRITON_HEAVY=1 makes them, and runs this")
    digest = hashlib.sha256("\n".join((*REQUIREMENTS, sys.version)).encode()).hexdigest()[:12]
    home = Path(platformdirs.user_cache_dir("airflow-triton"), "tests", f"tensorflow-{digest}")
    home.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{home}.lock"):
        if not (home / "complete").exists():
            tool = uv.find_uv_bin()
            subprocess.run([tool, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, home], check=True)
            subprocess.run([tool, "pip", "install", "--quiet", "--python", home / "bin" / "python", *REQUIREMENTS], check=True)
            (home / "complete").touch()
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def models(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, each with the arrays that it was asked and that TensorFlow itself answered."""
    folder = tmp_path_factory.mktemp("tensorflow")
    (folder / "make.py").write_text(textwrap.dedent(MODELS))
    done = subprocess.run([python, folder / "make.py", folder], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def triton(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalTriton, TritonClient]]:
    """The local Triton with TensorFlow, which takes configs as they are."""
    folder = tmp_path_factory.mktemp("tensorflow-triton") / "models"
    server = LocalTriton(folder, with_={"tensorflow"}, extra_args=["--disable-auto-complete-config"])
    with server, TritonClient(ServerAddress.parse(server.grpc_url)) as client:
        yield server, client


def make(models: Path, name: str, into: Path, python: Path, to: Any) -> Conversion:
    """Convert a model where TensorFlow is."""
    return convert(models / name, into, Options(to=to), child=ChildProcess(python=python))


def arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a model was asked, and what TensorFlow itself answered."""
    found = load_arrays(path)
    return tuple({key.partition(".")[2]: array for key, array in found.items() if key.startswith(kind)} for kind in ("in.", "out."))  # type: ignore[return-value]


def on_the_wire(given: dict[str, Any]) -> dict[str, Any]:
    """As Triton takes and gives them under batching: a row has at least one axis."""
    return {name: array.reshape(-1, 1) if array.ndim == 1 else array for name, array in given.items()}


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Texts and whole numbers equal, others within float precision."""
    assert set(got) == set(expected)
    for name, wanted in on_the_wire(expected).items():
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-5)
        else:
            assert plain_texts(got[name]).tolist() == wanted.tolist()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "to"), CONVERSIONS, ids=[f"{name}-{to}" for name, to in CONVERSIONS])
def test_every_model_answers_on_triton_as_it_does_in_tensorflow(
    models: Path, python: Path, triton: tuple[LocalTriton, TritonClient], name: str, to: str
) -> None:
    """Converted in the environment with TensorFlow, proven there, and then asked over gRPC."""
    server, client = triton
    served = f"{name}-{to}"
    version = Path(server.repository) / served / "1"

    made = make(models, name, version, python, to)

    assert made.agreement is not None
    assert made.agreement.passed
    assert "the input example" in made.agreement.runs
    what = made.servable
    keras = name in ("dense", "cnn", "several", "own")
    assert what.converter == ("tf2onnx" if to == "onnx" else "keras.export" if keras else "as-is")
    assert what.backend == ("onnxruntime" if to == "onnx" else "tensorflow")
    assert {spec.name: (spec.datatype, spec.shape) for spec in (*what.inputs, *what.outputs)} == TENSORS[name]
    assert what.batching is (name != "centred")
    config = model_config.build(what, name=served, overrides=ONE)
    (version.parent / "config.pbtxt").write_text(model_config.render(config))
    client.load(served)
    inputs, expected = arrays(models / f"{name}.npz")
    assert_same(client.infer(served, on_the_wire(inputs)), expected)
    if what.batching:
        first, answer = ({key: array[:1] for key, array in given.items()} for given in (inputs, expected))
        assert_same(client.infer(served, on_the_wire(first)), answer)
    client.unload(served)


@pytest.mark.parametrize(
    ("name", "to", "reason"),
    [
        ("text", "onnx", r"ONNX has no operator for TensorFlow's .*StringLength.*`to: as-is`"),
        ("unsigned", "as-is", r"no signature serving_default.*none at all.*input_signature"),
        ("scalar", "as-is", r"'total' is a scalar.*`to: onnx`"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_remedy(  # noqa: PLR0917 fixtures and parameters
    models: Path, python: Path, tmp_path: Path, name: str, to: str, reason: str
) -> None:
    """An operator that ONNX lacks is named; nothing is left in the folder."""
    with pytest.raises(ConversionError, match=reason):
        make(models, name, tmp_path / "1", python, to)

    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize("name", ["dense-by-keras", "exported-by-keras"])
def test_models_that_mlflow_keeps_by_its_flavor_keras_are_the_same(models: Path, python: Path, tmp_path: Path, name: str) -> None:
    """Where Keras runs on TensorFlow, as a file of Keras or exported."""
    made = make(models, name, tmp_path / "1", python, "onnx")

    assert made.agreement is not None
    assert made.agreement.passed
    assert (made.servable.flavor, made.servable.converter, made.servable.batching) == ("keras", "tf2onnx", True)


@pytest.mark.parametrize("to", ["onnx", "as-is"])
def test_equal_models_give_equal_files(models: Path, python: Path, tmp_path: Path, to: str) -> None:
    """Of a SavedModel that is taken as it is, and of ONNX that is made of it."""
    first, second = (make(models, "two", tmp_path / number, python, to) for number in ("1", "2"))

    assert first.files == second.files


@pytest.mark.parametrize("kind", ["savedmodel", "graphdef"])
def test_ready_models_of_tensorflow_are_served_as_they_are(
    models: Path, triton: tuple[LocalTriton, TritonClient], tmp_path: Path, kind: str
) -> None:
    """A SavedModel or GraphDef of the flavor `triton` needs no TensorFlow here; MLflow has no flavor of its own for a GraphDef."""
    server, client = triton
    inputs, expected = arrays(models / "two.npz")
    names = {"best": "best", "sum": "sum"}
    ready = tmp_path / "logged" / "ready"
    (ready / "1").mkdir(parents=True)
    if kind == "savedmodel":
        shutil.copytree(models / "two" / "tf2model", ready / "1" / "model.savedmodel")
    else:
        (ready / "1" / "model.graphdef").write_bytes((models / "model.graphdef").read_bytes())
        names = dict(zip(("best", "sum"), (models / "outputs.txt").read_text().split(), strict=True))
    (ready / "config.pbtxt").write_text(f"""
        platform: "tensorflow_{kind}"
        max_batch_size: 8
        input {{ name: "left" data_type: TYPE_FP32 dims: 3 }}
        input {{ name: "right" data_type: TYPE_INT64 dims: 3 }}
        output {{ name: "{names["best"]}" data_type: TYPE_INT64 dims: 1 reshape {{ }} }}
        output {{ name: "{names["sum"]}" data_type: TYPE_FP32 dims: 3 }}
        instance_group {{ count: 1 kind: KIND_CPU }}
    """)
    (tmp_path / "logged" / "MLmodel").write_text(yaml.safe_dump({"flavors": {"triton": {"data": "ready"}}}))
    version = Path(server.repository) / f"ready-{kind}" / "1"

    made = convert(tmp_path / "logged", version, Options(to="as-is"))

    assert (made.servable.backend, made.servable.converter, made.servable.batching) == ("tensorflow", "as-is", True)
    config = model_config.build(made.servable, name=f"ready-{kind}")
    (version.parent / "config.pbtxt").write_text(model_config.render(config))
    client.load(f"ready-{kind}")
    answer = client.infer(f"ready-{kind}", inputs)
    assert_same({own: answer[name] for own, name in names.items()}, expected)


# The local Triton's stand-in for the tensorflow backend.

HEAD = 'backend: "tensorflow"\nmax_batch_size: 8\ninstance_group { count: 1 kind: KIND_CPU }\n'
LEFT = 'input { name: "left" data_type: TYPE_FP32 dims: 3 }\n'
RIGHT = 'input { name: "right" data_type: TYPE_INT64 dims: 3 }\n'
SUM = 'output { name: "sum" data_type: TYPE_FP32 dims: 3 }\n'


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (HEAD + LEFT + SUM, "configuration expects 1 inputs, model provides 2"),
        (HEAD + LEFT + RIGHT.replace("right", "other") + SUM, "unexpected inference input 'other', allowed inputs are: left, right"),
        (HEAD + LEFT + RIGHT.replace("INT64", "INT32") + SUM, "expects datatype TYPE_INT32 for input 'right', model provides TYPE_INT64"),
        (HEAD + LEFT + RIGHT + SUM.replace("dims: 3", "dims: -1"), r"the model expects 2 dimensions (shape [-1,3]) but the model"),
        (
            HEAD.replace("8", "0") + LEFT + RIGHT + SUM,
            r"the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies 1",
        ),
        (HEAD + 'parameters { key: "TF_SIGNATURE_DEF" value { string_value: "x" } }' + LEFT + RIGHT + SUM, "expected 'x' signature"),
    ],
    ids=["too few inputs", "another name", "another type", "a looser output", "no batch axis", "no such signature"],
)
def test_a_config_that_does_not_fit_is_refused_as_by_the_compiled_backend(
    models: Path, triton: tuple[LocalTriton, TritonClient], config: str, reason: str
) -> None:
    """With the words of `tensorflow.cc`; what loads here loads there."""
    server, client = triton
    folder = Path(server.repository) / "misfit"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(models / "two" / "tf2model", folder / "1" / "model.savedmodel")
    (folder / "config.pbtxt").write_text(config)

    with pytest.raises(ServerError, match=re.escape(reason)):
        client.load("misfit")


def test_a_saved_model_without_a_config_is_completed(models: Path, tmp_path: Path) -> None:
    """Its signature says everything; the batch is 4 then, as on a server with its defaults."""
    shutil.copytree(models / "two" / "tf2model", tmp_path / "models" / "two" / "1" / "model.savedmodel")
    with LocalTriton(tmp_path / "models", with_={"tensorflow"}) as server, TritonClient(ServerAddress.parse(server.grpc_url)) as client:
        client.load("two")
        config = client.config("two")
        inputs, expected = arrays(models / "two.npz")
        four = ({name: array[:4] for name, array in given.items()} for given in (inputs, expected))

        assert (config["platform"], config["max_batch_size"]) == ("tensorflow_savedmodel", 4)
        assert_same(client.infer("two", next(four)), next(four))


def test_an_estimator_of_tensorflow_1_is_refused(tmp_path: Path) -> None:
    """MLflow names the kinds of its models, and this one cannot be logged any more."""
    (tmp_path / "MLmodel").write_text(yaml.safe_dump({"flavors": {"tensorflow": {"saved_model_dir": "tfmodel"}}}))

    with pytest.raises(ConversionError, match=r"an Estimator of TensorFlow 1.*valid: keras, tf2-module"):
        kind_of(read(tmp_path))
