"""Any MLflow model through Triton's Python backend: converted here, held against MLflow here, and asked on the real server."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from airflow_triton import convert as conversion
from airflow_triton import model_config
from airflow_triton.convert import child, environments
from airflow_triton.convert.base import Conversion, Options
from airflow_triton.convert.pyfunc import packed
from airflow_triton.errors import ConversionError, ServerError
from airflow_triton.isolate import ChildProcess
from airflow_triton.local_triton import LocalTriton, install
from airflow_triton.repository import LocalRepository
from airflow_triton.servable import Servable
from airflow_triton.server import ServerAddress, TritonClient

pytestmark = pytest.mark.timeout(900)  # packages are installed, the first time

SERVER = {"to": "python", "python": {"environment": "server"}}
PACKED = {"to": "python", "requirements": ["numpy<2"]}
WORDS = pd.DataFrame({"text": ["good day", "bad", ""], "times": np.array([1, 2, 3], dtype="int64")})


class Words(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Text and a number in, a mapping for each row out."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
        if (model_input["text"] == "fail").any():
            raise ValueError("a row says fail")
        rows = zip(model_input["text"], model_input["times"], strict=True)
        return [{"words": text.split() * times, "grüße": len(text)} for text, times in rows]


class Table(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A table out: a text, a number and a flag for each row."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
        loud = model_input["text"].str.upper()
        return pd.DataFrame({"loud": loud, "half": model_input["times"] / 2, "many": model_input["times"] > 1})


class Tensors(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Named arrays in, named arrays out."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
        return {"sum": model_input["x"].sum(axis=(1, 2)), "scaled": model_input["x"] * model_input["by"][:, :, None]}


class Centred(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Each row depends on the others."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
        return model_input - model_input.mean(axis=0)


class Hinted(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """MLflow's own type hints: a list of texts."""

    def predict(self, model_input: list[str]) -> list[str]:
        return [text[::-1] for text in model_input]


class Same(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The table itself."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
        return model_input


class Broken(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Always fails."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
        raise ValueError("never")


class Slug(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Needs a package that the server has not."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
        import slugify

        place = slugify.__file__
        return pd.DataFrame({"slug": [slugify.slugify(text) for text in model_input["text"]], "place": place, "numpy": np.__version__})


def save(folder: Path, model: Any, example: Any, **options: Any) -> Path:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the server cannot import this file
    mlflow.pyfunc.save_model(str(folder), python_model=model, input_example=example, **{"pip_requirements": ["cloudpickle"], **options})
    return folder


def convert(source: Path, into: Path, options: dict[str, Any] = SERVER) -> Servable:
    into.mkdir(parents=True)
    made = Conversion.model_validate(child.convert(str(source), str(into), options))
    assert made.agreement is not None
    assert made.agreement.passed, made.agreement.summary
    return made.servable


def shapes(specs: Any) -> dict[str, Any]:
    return {spec.name: (spec.datatype, spec.shape) for spec in specs}


class Server:
    """The real server, and a way to lay a version into its repository."""

    def __init__(self, triton: LocalTriton, repository: LocalRepository) -> None:
        self.root = repository.root
        self.client = TritonClient(ServerAddress.parse(triton.grpc_url))

    def load(self, servable: Servable, folder: Path, *, name: str, **overrides: Any) -> str:
        """Move the folder to where a version of a model lies, and load it.

        Each test has a name of its own: of one that was loaded before and fails now, the server waits long at its end.
        """
        (self.root / name).mkdir()
        folder.rename(self.root / name / "1")
        config = {"instance_group": [{"count": 1, "kind": "KIND_CPU"}], **overrides}
        text = model_config.render(model_config.build(servable, name=name, version=1, overrides=config))
        (self.root / name / "config.pbtxt").write_text(text, encoding="utf-8")
        self.client.load(name)
        return name


@pytest.fixture
def server(triton: LocalTriton, repository: LocalRepository) -> Server:
    return Server(triton, repository)


@pytest.fixture(scope="module")
def converted_words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Servable]:
    """`Words`, converted with its environment (kept from one run of the tests to the next)."""
    folder = tmp_path_factory.mktemp("words")
    into = folder / "words" / "1"
    return into, convert(save(folder / "model", Words(), WORDS), into, PACKED)


@pytest.fixture
def packed_words(converted_words: tuple[Path, Servable], tmp_path: Path) -> tuple[Path, Servable]:
    """A copy of it, for a test to move."""
    folder, servable = converted_words
    return Path(shutil.copytree(folder, tmp_path / "words" / "1")), servable


def test_text_in_and_json_out(packed_words: tuple[Path, Servable], server: Server) -> None:
    """One input for each column, one JSON text for each row; a request that fails does not fail the others of its batch."""
    folder, servable = packed_words
    assert shapes(servable.inputs) == {"text": ("BYTES", (-1, 1)), "times": ("INT64", (-1, 1))}
    assert shapes(servable.outputs) == {"output": ("BYTES", (-1,))}
    assert servable.batching
    assert "one JSON text for each row" in " ".join(servable.notes)
    name = server.load(
        servable, folder, name="words", dynamic_batching={"preferred_batch_size": [16], "max_queue_delay_microseconds": 300000}
    )

    def ask(text: str) -> Any:
        given = {"text": np.array([[text], ["b b"]], dtype=object), "times": np.array([[2], [1]])}
        try:
            return [json.loads(one) for one in server.client.infer(name, given)["output"].reshape(-1)]
        except ServerError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        good, bad, greeting, empty = pool.map(ask, ["a", "fail", "grüße", ""])

    assert good == [{"words": ["a", "a"], "grüße": 1}, {"words": ["b", "b"], "grüße": 3}]
    assert greeting[0] == {"words": ["grüße", "grüße"], "grüße": 5}
    assert empty[0] == {"words": [], "grüße": 0}
    assert "ValueError: a row says fail" in bad
    assert not list((server.root / name).rglob("*.pyc")), "a new file in a version makes a polling server load it again"


def test_the_packed_environment_is_what_the_server_uses(tmp_path: Path, server: Server) -> None:
    """The model imports a package that the server lacks, and the numpy that `requirements` asks for."""
    source = save(tmp_path / "model", Slug(), WORDS[["text"]], pip_requirements=["cloudpickle", "python-slugify==8.0.4", "numpy==2.4.6"])
    python = environments.model_environment(source, form="python", users=("numpy<2",))
    made = conversion.convert(source, tmp_path / "slug" / "1", Options.model_validate(PACKED), child=ChildProcess(python=python))
    name = server.load(made.servable, tmp_path / "slug" / "1", name="slug")
    answer = server.client.infer(name, {"text": np.array([["Grüß Gott, Welt"]], dtype=object)})

    assert answer["slug"].item().decode() == "gruss-gott-welt"
    assert "python_env_" in answer["place"].item().decode()
    assert answer["numpy"].item().decode().startswith("1.26")


@pytest.fixture(scope="module")
def unpacked(converted_words: tuple[Path, Servable], tmp_path_factory: pytest.TempPathFactory, triton: LocalTriton) -> Path:
    """The environment as a folder (Triton takes that too), its `home` and its `activate` as on a server since 25.08."""
    folder = tmp_path_factory.mktemp("environment")
    with tarfile.open(converted_words[0] / "environment.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    assert "home = /usr/bin\n" in (folder / "pyvenv.cfg").read_text()
    python = install().python.resolve()
    (folder / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = true\n")
    (folder / "bin" / "activate").write_text(LATER_TRITON)
    return folder


LATER_TRITON = """
VIRTUAL_ENV="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH" LD_LIBRARY_PATH="$VIRTUAL_ENV/lib:$LD_LIBRARY_PATH"
unset PYTHONHOME
"""
"""What Triton does by itself since 25.08 (python_backend, src/pb_utils.cc), without reading `activate`."""


def test_a_server_that_only_puts_the_environment_on_its_path_uses_it_too(
    packed_words: tuple[Path, Servable], unpacked: Path, server: Server
) -> None:
    folder, servable = packed_words
    name = server.load(servable, folder, name="later", parameters={"EXECUTION_ENV_PATH": str(unpacked)})

    answer = server.client.infer(name, {"text": np.array([["a"]], dtype=object), "times": np.array([[1]])})
    assert json.loads(answer["output"].item()) == {"words": ["a"], "grüße": 1}


def test_an_environment_for_another_python_is_refused_at_load(packed_words: tuple[Path, Servable], unpacked: Path, server: Server) -> None:
    """With what to change; NVIDIA's containers have 3.10 up to 24.10, and 3.12 since 24.11."""
    folder, servable = packed_words
    content = json.loads((folder / "tensors.json").read_text())
    (folder / "tensors.json").unlink()
    (folder / "tensors.json").write_text(json.dumps({**content, "packed_for": "3.12"}))

    with pytest.raises(ServerError, match=r"made for Python 3\.12, and this server's Python backend runs 3\.11: .*python_version: '3\.11'"):
        server.load(servable, folder, name="other", parameters={"EXECUTION_ENV_PATH": str(unpacked)})


def test_numpy_2_on_an_old_server_is_refused_at_load(tmp_path: Path, server: Server) -> None:
    """Its stub would read wrong inputs and send empty outputs, and say nothing."""
    source = save(tmp_path / "model", Words(), WORDS)
    servable = convert(source, tmp_path / "two" / "1", {**PACKED, "requirements": ["numpy>=2,<3"]})

    with pytest.raises(ServerError, match=r"too old for numpy 2\..*put `numpy<2` into"):
        server.load(servable, tmp_path / "two" / "1", name="two")


def test_tensors_in_and_out(tmp_path: Path, unpacked: Path, server: Server) -> None:
    """Names, types and shapes are the signature's, and what was seen; `environment: server` leaves the packages to the server."""
    example = {"x": np.arange(12, dtype="float32").reshape(2, 3, 2), "by": np.ones((2, 3), dtype="float32")}
    servable = convert(save(tmp_path / "model", Tensors(), example), tmp_path / "tensors" / "1")
    assert shapes(servable.inputs) == {"x": ("FP32", (-1, 3, 2)), "by": ("FP32", (-1, 3))}
    assert shapes(servable.outputs) == {"sum": ("FP32", (-1,)), "scaled": ("FP32", (-1, 3, 2))}
    assert servable.batching
    assert servable.parameters == {}
    name = server.load(servable, tmp_path / "tensors" / "1", name="tensors", parameters={"EXECUTION_ENV_PATH": str(unpacked)})

    answer = server.client.infer(name, {"x": example["x"], "by": example["by"] * 3})
    np.testing.assert_allclose(answer["scaled"], example["x"] * 3)
    np.testing.assert_allclose(answer["sum"].reshape(-1), example["x"].sum(axis=(1, 2)))
    assert set(server.client.infer(name, example, outputs=["sum"])) == {"sum"}


def test_a_server_without_the_packages_refuses_to_load(tmp_path: Path, server: Server) -> None:
    """`environment: server` on a server that lacks MLflow."""
    servable = convert(save(tmp_path / "model", Words(), WORDS), tmp_path / "bare" / "1")

    with pytest.raises(ServerError, match="the MLflow model does not load: ModuleNotFoundError: No module named 'mlflow'"):
        server.load(servable, tmp_path / "bare" / "1", name="bare")


def test_a_table_out_is_one_output_for_each_column(tmp_path: Path) -> None:
    servable = convert(save(tmp_path / "model", Table(), WORDS), tmp_path / "1")

    assert shapes(servable.outputs) == {"loud": ("BYTES", (-1,)), "half": ("FP64", (-1,)), "many": ("BOOL", (-1,))}


def test_a_list_of_texts_for_mlflows_type_hints(tmp_path: Path) -> None:
    servable = convert(save(tmp_path / "model", Hinted(), ["abc", "de"]), tmp_path / "1")

    assert shapes(servable.inputs) == {"input": ("BYTES", (-1, 1))}
    assert shapes(servable.outputs) == {"output": ("BYTES", (-1,))}


def test_rows_that_depend_on_each_other_are_not_batched(tmp_path: Path) -> None:
    servable = convert(save(tmp_path / "model", Centred(), np.arange(8.0).reshape(4, 2)), tmp_path / "1")

    assert not servable.batching
    assert shapes(servable.outputs) == {"output": ("FP64", (-1, 2))}
    assert "not batched" in " ".join(servable.notes)


def test_a_scikit_learn_model_of_a_table(tmp_path: Path) -> None:
    """A pipeline that no ONNX converter would take: text and numbers, missing values included."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    table = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "kind": ["a", "b", "a", "b"]})
    columns = ColumnTransformer(
        [("kind", OneHotEncoder(handle_unknown="ignore"), ["kind"]), ("size", FunctionTransformer(np.log1p), ["size"])]
    )
    model = make_pipeline(columns, LogisticRegression()).fit(table, ["no", "yes", "no", "yes"])
    mlflow.sklearn.save_model(model, str(tmp_path / "model"), input_example=table, serialization_format="cloudpickle", pip_requirements=[])

    servable = convert(tmp_path / "model", tmp_path / "1")
    assert shapes(servable.inputs) == {"size": ("FP64", (-1, 1)), "kind": ("BYTES", (-1, 1))}
    assert shapes(servable.outputs) == {"output": ("BYTES", (-1,))}
    assert servable.batching


def test_the_signature_says_the_type_where_the_example_fits_it(tmp_path: Path) -> None:
    """Whole numbers were seen, the signature says fractions; optional columns and parameters are named."""
    signature = ModelSignature(
        Schema([ColSpec("long", "a"), ColSpec("long", "b", required=False)]),
        Schema([ColSpec("double", "a"), ColSpec("long", "b")]),
        ParamSchema([ParamSpec("speed", "long", 1)]),
    )
    table = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]})
    servable = convert(save(tmp_path / "model", Same(), table, signature=signature), tmp_path / "1")

    assert shapes(servable.outputs) == {"a": ("FP64", (-1,)), "b": ("INT64", (-1,))}
    assert "columns b are optional" in servable.notes[0]
    assert "parameters speed have their defaults" in servable.notes[1]


def test_what_no_tensor_holds_is_refused(tmp_path: Path) -> None:
    table = pd.DataFrame({"when": pd.to_datetime(["2026-01-01"] * 3), "a": [1.0, 2.0, 3.0]})

    with pytest.raises(ConversionError, match=r"no tensor holds the inputs when \(datetime\).*ISO 8601"):
        convert(save(tmp_path / "model", Same(), table), tmp_path / "1")


def test_without_signature_and_example_nothing_tells_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="neither a signature nor an input example"):
        convert(save(tmp_path / "model", Same(), None), tmp_path / "1")


def test_an_example_alone_is_enough(tmp_path: Path) -> None:
    source = save(tmp_path / "model", Same(), WORDS)
    text = (source / "MLmodel").read_text()
    (source / "MLmodel").write_text("\n".join(line for line in text.split("signature:")[0].splitlines()) + "\n")

    assert shapes(convert(source, tmp_path / "1").outputs) == {"text": ("BYTES", (-1,)), "times": ("INT64", (-1,))}


def test_a_model_that_answers_nothing_is_refused_with_its_reason(tmp_path: Path) -> None:
    source = save(tmp_path / "model", Same(), None, signature=ModelSignature(Schema([ColSpec("double", "a")])))
    (source / "python_model.pkl").write_bytes(cloudpickle.dumps(Broken()))

    with pytest.raises(ConversionError, match=r"does not answer made-up rows .*ValueError: never"):
        convert(source, tmp_path / "1")


def test_equal_requirements_give_equal_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed twice, byte for byte: the digest of a version does not change where nothing changed."""
    (tmp_path / "packages" / "bin").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        (tmp_path / "packages" / "a.py").write_text("x = 1\n")
        (tmp_path / "packages" / "bin" / "tool").write_text(str(number))
        packed._pack(tmp_path / "packages", tmp_path / f"{number}.tar.gz", "3.11")

    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "1.tar.gz") as archive:
        assert "lib/python3.11/site-packages/a.py" in archive.getnames()
