"""Environments of a model's own requirements: built once, by one process, of the right things, and what is said where that fails."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import register
from sklearn.linear_model import LinearRegression
from test_rollout import Make, run

from airflow_triton import convert as conversion
from airflow_triton.convert import environments, requirements
from airflow_triton.convert.mlmodel import read
from airflow_triton.convert.requirements import Requirements
from airflow_triton.errors import ConversionError
from airflow_triton.isolate import ChildProcess
from airflow_triton.repository import Repository

pytestmark = pytest.mark.timeout(900)  # packages are installed, the first time

PINS = [f"scikit-learn=={version('scikit-learn')}", f"numpy=={version('numpy')}", "cloudpickle"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A scikit-learn model with requirements of its own."""
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    rows = np.arange(12, dtype="float64").reshape(6, 2)
    fitted = LogisticRegression().fit(rows, [0, 1, 0, 1, 0, 1])
    mlflow.sklearn.save_model(
        fitted, str(tmp_path / "model"), input_example=rows[:3], serialization_format="cloudpickle", pip_requirements=PINS
    )
    return tmp_path / "model"


@pytest.fixture
def empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No environment is kept yet."""
    monkeypatch.setenv(environments.ROOT_VARIABLE, str(tmp_path / "environments"))
    return tmp_path / "environments"


def test_a_model_is_converted_in_an_environment_of_its_own_requirements(model: Path, tmp_path: Path) -> None:
    """With the user's pin, and not with this process's packages; the second time it is there at once."""
    told: list[str] = []
    users = ("onnx==1.19.1", "onnxruntime<1.30")
    python = environments.python_of("model", model, form="onnx", users=users, progress=told.append)
    assert python is not None
    made = conversion.convert(model, tmp_path / "1", child=ChildProcess(python=python))

    assert made.servable.tools["onnx"] == "1.19.1" != version("onnx")
    assert made.agreement is not None
    assert made.agreement.passed
    again: list[str] = []
    started = time.monotonic()
    assert environments.python_of("model", model, form="onnx", users=users, progress=again.append) == python
    assert again == []
    assert time.monotonic() - started < 1
    assert environments.root() in python.parents


def test_what_cannot_be_installed_is_named_with_the_resolvers_reason(model: Path, empty_root: Path) -> None:
    (model / "requirements.txt").write_text("python-slugify==99.0\n")

    with pytest.raises(ConversionError, match=r"cannot be installed \(name one that works in `convert.requirements`") as caught:
        environments.model_environment(model, form="python")
    assert "python-slugify==99.0" in str(caught.value)
    assert not [folder for folder in empty_root.iterdir() if (folder / environments.MARKER).exists()]


def test_a_python_that_is_not_there_is_said(model: Path, empty_root: Path) -> None:
    (model / "python_env.yaml").write_text("python: 3.99.1\n")

    with pytest.raises(ConversionError, match=r"logged with Python 3\.99, and this machine has none .*`convert.environment: worker`"):
        environments.model_environment(model, form="onnx")
    assert not list(empty_root.glob("*/bin"))


def test_one_of_several_builds_and_the_others_wait(empty_root: Path) -> None:
    built: list[str] = []
    ready = threading.Barrier(4)

    def build(home: Path) -> None:
        built.append(home.name)
        time.sleep(0.3)
        home.mkdir()

    def ask(_number: int) -> Path:
        ready.wait()
        return environments.kept("abc", build, is_there=Path.is_dir)

    with ThreadPoolExecutor(4) as pool:
        homes = set(pool.map(ask, range(4)))

    assert built == ["abc"]
    assert homes == {empty_root / "abc"}


def test_what_is_half_built_is_built_again(empty_root: Path) -> None:
    (empty_root / "abc").mkdir(parents=True)
    (empty_root / "abc" / "rest").touch()

    home = environments.kept("abc", Path.mkdir, is_there=Path.is_dir)
    assert [path.name for path in home.iterdir()] == [environments.MARKER]


def test_an_environment_whose_python_is_gone_is_built_again(empty_root: Path) -> None:
    def there(home: Path) -> bool:
        return (home / "python").exists()

    def build(home: Path) -> None:
        home.mkdir()
        (home / "python").touch()

    home = environments.kept("abc", build, is_there=there)
    (home / "python").unlink()
    environments.kept("abc", build, is_there=there)
    assert there(home)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(environments.ROOT_VARIABLE, str(tmp_path / "file" / "below"))

    with pytest.raises(ConversionError, match="Set AIRFLOW_TRITON_ENVIRONMENTS to a folder that can"):
        environments.kept("abc", Path.mkdir, is_there=Path.is_dir)


def test_a_given_python_has_to_start_and_to_have_the_packages(model: Path, tmp_path: Path) -> None:
    assert environments.python_of(sys.executable, model, form="onnx") == Path(sys.executable)
    assert environments.python_of("worker", model, form="onnx") is None
    with pytest.raises(ConversionError, match=f"{tmp_path}/none is no Python that starts"):
        environments.python_of(f"{tmp_path}/none", model, form="onnx")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    with pytest.raises(ConversionError, match=r"lacks .*onnxruntime, .*skl2onnx.*`convert.environment: model`"):
        environments.python_of(str(tmp_path / "bare" / "bin" / "python"), model, form="onnx")


def test_requirements_are_read_with_the_files_that_they_name(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(
        "# top\nmlflow==3.1 # why\n-r more.txt\n-c constraints.txt\n\ncode/x.whl\n--extra-index-url https://a/b#c\n"
    )
    (tmp_path / "more.txt").write_text("Scikit_Learn>=1.5 ; python_version > '3.0'\n")
    (tmp_path / "constraints.txt").write_text("scipy<2\n")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.whl").touch()

    found = requirements.of_model(tmp_path)
    assert found.lines == (
        "mlflow==3.1",
        "Scikit_Learn>=1.5 ; python_version > '3.0'",
        str(tmp_path / "code" / "x.whl"),
        "--extra-index-url https://a/b#c",
    )
    assert found.constraints == ("scipy<2",)


def test_requirements_of_a_conda_environment(tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text("dependencies:\n- python=3.10.4\n- pip\n- pip:\n  - mlflow==3.1\n")

    assert requirements.of_model(tmp_path).lines == ("mlflow==3.1",)
    assert requirements.python_of(tmp_path) == "3.10"


def test_the_users_requirements_take_the_place_of_the_models() -> None:
    model = Requirements(("numpy==2.4.6", "scikit-learn[x]==1.5"), ("numpy<3", "scipy<2"))

    found = requirements.merged(model, ("numpy>=1.26", "onnx>=1.17"), ("NumPy<2", "tiny"))
    assert found.lines == ("scikit-learn[x]==1.5", "onnx>=1.17", "NumPy<2", "tiny")
    assert found.constraints == ("scipy<2",)
    assert found.digest() == requirements.merged(model, ("onnx>=1.17",), ("tiny", "NumPy<2")).digest()
    assert found.digest() != requirements.merged(model, ("onnx>=1.18",), ("tiny", "NumPy<2")).digest()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("numpy", "numpy"),
        ("Scikit_learn == 1.5", "scikit-learn"),
        ("zope.interface>=5", "zope-interface"),
        ("mlflow[extras]==3", "mlflow"),
        ("a @ https://b/c.whl", "a"),
        ("--index-url https://x", "--index-url https://x"),
        ("https://b/c.whl", "https://b/c.whl"),
        ("/a/b.whl", "/a/b.whl"),
    ],
)
def test_the_package_of_a_requirement(line: str, name: str) -> None:
    assert requirements.name_of(line) == name


def test_a_conversion_needs_its_own_tools_only(model: Path) -> None:
    """Read from this package's own metadata: not torch for a scikit-learn model, and nothing that only the worker needs."""
    onnx = {requirements.name_of(line) for line in requirements.of_conversion(read(model), "onnx")}
    python = {requirements.name_of(line) for line in requirements.of_conversion(read(model), "python")}

    assert {"onnx", "onnxruntime", "skl2onnx", "scikit-learn", "mlflow-skinny", "pandas", "pydantic"} <= onnx
    assert not {"torch", "click", "tritonclient", "apache-airflow", "mlflow"} & onnx
    assert {"mlflow-skinny", "pandas", "numpy", "pydantic", "uv"} <= python
    assert not {"onnx", "onnxruntime", "torch"} & python


def test_a_deployment_converts_and_asks_in_the_models_environment(tracking_uri: str, mapping: Make, repository: Repository) -> None:
    """By two keys of the spec; what Triton serves was made with the user's pin."""
    rows = np.random.default_rng(1).normal(size=(30, 3))
    model = LinearRegression().fit(rows, rows.sum(axis=1))
    options = {"flavor": "sklearn", "input_example": rows[:3], "serialization_format": "cloudpickle", "pip_requirements": PINS}
    number = register(tracking_uri, "pinned", model, **options)
    convert = {"environment": "model", "requirements": ["onnx==1.19.1", "onnxruntime<1.30"]}

    outcome = run(mapping(model=f"models:/pinned/{number}", convert=convert, validate={}, promote={}))

    assert outcome.action == "promoted"
    manifest = repository.manifest("blobs", number)
    assert manifest is not None
    assert manifest.servable is not None
    assert manifest.servable.tools["onnx"] == "1.19.1"
