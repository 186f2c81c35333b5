"""Ready Triton models, logged as NVIDIA's plugin logs them, taken as they are; the pipeline runs on the real Triton."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import CENTRES, classifier, run_at
from tests_support import everything_below

from airflow_triton import convert as conversion
from airflow_triton import model_config
from airflow_triton.convert import child
from airflow_triton.errors import ConversionError, ModelConfigError, ValidationDataError
from airflow_triton.local_triton import LocalTriton, install
from airflow_triton.local_triton.installation import read_marker
from airflow_triton.repository import LocalRepository
from airflow_triton.rollout import deploy, find_target, opened, rollback
from airflow_triton.rollout.serving import Servers
from airflow_triton.servable import Servable
from airflow_triton.spec import spec_from_mapping

onnx = pytest.importorskip("onnx")
grpc = pytest.importorskip("tritonclient.grpc")

Mapping = dict[str, Any]
Make = Callable[..., Mapping]

TENSORS = """
input { name: "input" data_type: TYPE_FP32 dims: 4 }
output { name: "label" data_type: TYPE_INT64 dims: 1 reshape {} }
"""
PYTHON = 'backend: "python"\nmax_batch_size: 8\n' + TENSORS
INPUT = np.array([[0, 2, 0, 2]], np.float32)
"""A row of class 2."""


# Making models.


def lay(folder: Path, config: str | None = None, files: Mapping | None = None) -> Path:
    """A model's folder."""
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder


def logged(folder: Path, ready: Path, **more: Any) -> Path:
    """An MLflow model of the flavor, as NVIDIA's `save_model` writes it: the ready folder copied in, and its name in MLmodel."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ready, folder / ready.name)
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"triton": {"data": ready.name}}, **more}))
    return folder


def save_model(path: str, mlflow_model: Any, ready: Path) -> None:
    """What MLflow asks of a flavor's module."""
    mlflow_model.add_flavor("triton", data=ready.name)
    os.makedirs(path)  # noqa: PTH103
    shutil.copytree(ready, Path(path) / ready.name)
    mlflow_model.save(str(Path(path) / "MLmodel"))


def register(tracking_uri: str, name: str, ready: Path) -> int:
    """Log a ready folder and register it as the next version of `name`."""
    import mlflow

    with run_at(tracking_uri, experiment="tests"):
        info = mlflow.models.Model.log(None, name="model", flavor=sys.modules[__name__], ready=ready)
        return int(mlflow.register_model(info.model_uri, name).version)


def with_external_data(folder: Path, weights: np.ndarray = CENTRES) -> Path:
    """The classifier as a folder `model.onnx/`, its weights in a file of their own."""
    folder.mkdir(parents=True)
    model = classifier(weights.T)
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder


def take(tmp_path: Path, ready: Path, **more: Any) -> tuple[Servable, Path]:
    """Convert it in this process; what came of it, and the folder of its files."""
    into = tmp_path / "into"
    into.mkdir()
    made = child.convert(str(logged(tmp_path / "logged", ready, **more)), str(into), {"to": "as-is"})
    return Servable.model_validate(made["servable"]), into


# What becomes of a ready folder.


def test_a_ready_model_keeps_its_config_and_its_files_move_into_the_version(tmp_path: Path) -> None:
    """The newest version is taken; labels and the environment lie in it, and the config names them there."""
    config = (
        'name: "other"\nversion_policy { latest { num_versions: 1 } }\n'
        + PYTHON.replace("dims: 1", 'label_filename: "labels.txt" dims: 1')
        + """
        parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }
        parameters { key: "own" value { string_value: "$$TRITON_MODEL_DIRECTORY/10/data.txt" } }
        """
    )
    files = {
        "labels.txt": "a\nb\n",
        "env.tar.gz": b"z",
        "9/model.py": "old",
        "10/model.py": "new",
        "10/data.txt": "d",
        "10/pkg/__pycache__/x.pyc": b"x",
    }
    ready = lay(tmp_path / "ready", config, files)

    servable, into = take(tmp_path, ready)
    built = model_config.build(servable, name="cat", version=7, overrides={"max_batch_size": 4})

    assert everything_below(into) == {"model.py", "data.txt", "labels.txt", "env.tar.gz"}
    assert (into / "model.py").read_text() == "new"
    assert (servable.backend, servable.entry, servable.batching, servable.flavor) == ("python", "model.py", True, "triton")
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*servable.inputs, *servable.outputs)] == [
        ("input", "FP32", (-1, 4)),
        ("label", "INT64", (-1,)),
    ]
    assert (built.name, built.max_batch_size, built.HasField("version_policy")) == ("cat", 4, False)
    assert built.output[0].label_filename == "7/labels.txt"
    assert {key: value.string_value for key, value in built.parameters.items()} == {
        "EXECUTION_ENV_PATH": "$$TRITON_MODEL_DIRECTORY/7/env.tar.gz",
        "own": "$$TRITON_MODEL_DIRECTORY/7/data.txt",
    }


def test_the_versions_that_the_config_lists_are_the_ones_to_choose_from(tmp_path: Path) -> None:
    """Version 3 is there, but whoever made the folder lets only 1 and 2 serve."""
    policy = "version_policy { specific { versions: [1, 2] } }"
    ready = lay(tmp_path / "ready", policy + PYTHON, {f"{number}/model.py": str(number) for number in (1, 2, 3)})

    assert (take(tmp_path, ready)[1] / "model.py").read_text() == "2"


def test_a_folder_around_the_model_and_a_lone_version_are_taken_too(tmp_path: Path) -> None:
    """A repository with one model in it, with a file that only its owner may read; an ONNX file says itself what it takes."""
    around = lay(tmp_path / "a" / "repository" / "cat", PYTHON, PY).parent
    (around / "cat" / "1" / "model.py").chmod(0o600)
    alone = lay(tmp_path / "b" / "alone", files={"model.onnx": classifier(CENTRES.T).SerializeToString()})

    servable, into = take(tmp_path / "a", around)
    assert (into / "model.py").stat().st_mode & 0o044
    assert servable.backend == "python"
    servable, into = take(tmp_path / "b", alone)
    assert (servable.config, servable.batching, servable.entry) == (None, True, "model.onnx")
    assert (into / "model.onnx").stat().st_nlink == 2


def test_an_incomplete_config_of_an_onnx_file_is_completed(tmp_path: Path) -> None:
    """What Triton's auto-completion would find out, for servers that run without."""
    ready = lay(tmp_path / "ready", 'max_batch_size: 8 output { name: "label" label_filename: "l" }', {"l": "a\n"})
    onnx.save(classifier(CENTRES.T), str(lay(ready / "1") / "model.onnx"))

    config = model_config.build(take(tmp_path, ready)[0], name="x", version=2)

    assert config.backend == "onnxruntime"
    assert [(one.name, list(one.dims), one.HasField("reshape")) for one in (*config.input, *config.output)] == [
        ("input", [4], False),
        ("label", [1], True),
        ("probabilities", [3], False),
    ]
    assert config.output[0].label_filename == "2/l"


PY: Any = {"1/model.py": "x"}
WARM = 'model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 input_data_file: "x" } } }'
REFUSED: dict[str, tuple[str | None, Any, str]] = {
    "no config": (None, PY, r"no config\.pbtxt beside the version of kind python"),
    "incomplete config": ('backend: "python"', PY, r"says no input at all; no output at all.*write it there"),
    "dims missing": (PYTHON.replace("dims: 4", ""), PY, r"no dims for 'input'"),
    "warm-up data": (PYTHON + WARM, {**PY, "warmup/x": "x"}, r"warmup/x, which Triton reads from a folder that all versions share"),
    "no listed version": (
        PYTHON + "version_policy { specific { versions: 5 } }",
        PY,
        r"lets the versions \[5\] serve, and there are \[1\]",
    ),
    "labels of another version": (
        PYTHON.replace("dims: 1", 'label_filename: "1/l" dims: 1'),
        {**PY, "1/l": "x", "2/model.py": "x"},
        r"names 1/l, a file of another version than 2",
    ),
    "one name twice": (PYTHON, {**PY, "1/l": "x", "l": "y"}, r"l lies beside config\.pbtxt, and version 1 has a file of that name"),
    "our manifest's name": (PYTHON, {**PY, "1/deployment.json": "{}"}, r"deployment\.json has the name of our own manifest"),
    "two models": (None, {"a/1/model.py": "x", "b/1/model.py": "x"}, r"holds the models a, b; log each by itself"),
    "tensors of another model": ('output { name: "z" }', {"1/model.onnx": "ONNX"}, r"names the outputs \['z'\], but the model's are"),
    "a type we do not know": (PYTHON.replace("TYPE_INT64", "TYPE_INVALID"), PY, r"no data_type for 'label'"),
    "not a layout": (PYTHON, {"1/model.pt": "x"}, r"holds model\.pt, and Triton takes: model\.py"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_taken_is_refused(tmp_path: Path, case: str) -> None:
    """Before anything is published, with what to do."""
    config, files, message = REFUSED[case]
    real = {name: classifier(CENTRES.T).SerializeToString() if content == "ONNX" else content for name, content in files.items()}

    with pytest.raises(ConversionError, match=message):
        take(tmp_path, lay(tmp_path / "ready", config, real))


def test_a_link_out_of_the_model_is_refused(tmp_path: Path) -> None:
    """Nothing that lies elsewhere on the worker is published."""
    ready = lay(tmp_path / "ready", PYTHON, PY)
    model = logged(tmp_path / "logged", ready)
    (model / "ready" / "labels.txt").symlink_to("/etc/passwd")

    with pytest.raises(ConversionError, match=r"labels\.txt is a link that leaves the folder"):
        conversion.convert(model, tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_batch_size": 0}, r"the model's own config\.pbtxt batches \(8\)"),
        ({"backend": "onnxruntime"}, r"got 'onnxruntime', but the model is 'python'"),
        ({"output": [{"name": "other"}]}, r"`name` is 'other'"),
    ],
)
def test_overrides_that_contradict_the_ready_config_are_refused(tmp_path: Path, overrides: Mapping, message: str) -> None:
    """As with any other model."""
    servable, _ = take(tmp_path, lay(tmp_path / "ready", PYTHON, PY))

    with pytest.raises(ModelConfigError, match=message):
        model_config.build(servable, name="cat", overrides=overrides)


def test_there_is_no_original_to_compare_with(tmp_path: Path) -> None:
    """Parity cannot be had, and the error says what to declare instead."""
    servable, _ = take(tmp_path, lay(tmp_path / "ready", PYTHON, PY))
    np.savez(tmp_path / "in.npz", input=INPUT)

    with pytest.raises(ValidationDataError, match=r"validate\.parity: false.*validate\.metrics"):
        child.reference(str(tmp_path / "logged"), servable.model_dump(mode="json"), [str(tmp_path / "in.npz")], [str(tmp_path / "out.npz")])
    assert [conversion.has_original(flavors) for flavors in (["triton"], ["onnx", "python_function"])] == [False, True]


# Through the pipeline, on the real server.


def run(mapping: Mapping) -> Any:
    """Deploy."""
    spec = spec_from_mapping(mapping)
    with opened(spec, find_target(spec)) as rollout:
        return deploy(rollout)


@pytest.fixture
def ready_mapping(mapping: Make) -> Make:
    """Makes the content of a spec for a ready model: no parity, accuracy on labelled data."""

    def make(name: str, version: int, **keys: Any) -> Mapping:
        made = mapping(name=name, model=f"models:/{name}/{version}", **keys)
        return {**made, "validate": {**made["validate"], "parity": False}}

    return make


@pytest.fixture
def ask(triton: LocalTriton) -> Callable[..., list[Any]]:
    """Asks a model with one row of class 2; the best class of an output with its label, if `classify` is set."""
    client = grpc.InferenceServerClient(triton.grpc_url.removeprefix("grpc://"))

    def asked(name: str, output: str, *, classify: int = 0) -> list[Any]:
        sent = grpc.InferInput("input", [1, 4], "FP32")
        sent.set_data_from_numpy(INPUT)
        answer = client.infer(name, [sent], outputs=[grpc.InferRequestedOutput(output, class_count=classify)], client_timeout=60)
        values: list[Any] = answer.as_numpy(output).ravel().tolist()
        return values

    return asked


MODEL_PY = """
import numpy as np
import triton_python_backend_utils as utils
import nearest

class TritonPythonModel:
    def execute(self, requests):
        rows = [utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        return [utils.InferenceResponse([utils.Tensor("label", nearest.label(each))]) for each in rows]
"""
NEAREST_PY = f"""
import numpy as np
CENTRES = np.array({CENTRES.tolist()})

def label(rows):
    return ((rows[:, None] - CENTRES) ** 2).sum(axis=2).argmin(axis=1).astype(np.int64)
"""


def test_python_model_with_a_helper_and_versions_side_by_side(
    ready_mapping: Make, tracking_uri: str, repository: LocalRepository, ask: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """The newest of the folder's versions serves, under MLflow's number."""
    ready = lay(tmp_path / "near", PYTHON, {"4/model.py": "raise SystemExit", "11/model.py": MODEL_PY, "11/nearest.py": NEAREST_PY})
    version = register(tracking_uri, "near", ready)

    outcome = run(ready_mapping("near", version))

    assert (outcome.action, outcome.version) == ("promoted", version)
    assert [check.name for check in outcome.report.checks] == ["accuracy"]
    stored = {file for file in everything_below(repository.root / "near") if "__pycache__" not in file}
    assert stored == {"config.pbtxt", *(f"{version}/{name}" for name in ("model.py", "nearest.py", "deployment.json"))}
    assert ask("near", "label") == [2]


def test_labels_go_with_their_version_there_and_back(
    ready_mapping: Make, tracking_uri: str, ask: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """An ONNX folder with external data, its config completed; the classification API shows each version's own labels."""
    numbers = []
    for names in ("red\ngreen\nblue\n", "rot\ngruen\nblau\n"):
        ready = lay(
            tmp_path / names[:3] / "colours",
            'max_batch_size: 8 output { name: "probabilities" label_filename: "labels.txt" }',
            {"labels.txt": names},
        )
        with_external_data(ready / "1" / "model.onnx")
        numbers.append(register(tracking_uri, "colours", ready))

    shown = []
    for number in numbers:
        run(ready_mapping("colours", number))
        shown += ask("colours", "probabilities", classify=1)
    spec = spec_from_mapping(ready_mapping("colours", numbers[-1]))
    target = find_target(spec)
    with Servers.connected(target.addresses) as servers, opened(spec, target) as rollout:
        rollback("colours", store=target.store, servers=servers, registry=rollout.registry)
    shown += ask("colours", "probabilities", classify=1)

    assert [answer.decode().split(":")[1:] for answer in shown] == [["2", "blue"], ["2", "blau"], ["2", "blue"]]


ENSEMBLE = (
    'platform: "ensemble" max_batch_size: 8'
    + TENSORS.replace("reshape {}", "")
    + """ensemble_scheduling { step {
    model_name: "blobs" model_version: -1
    input_map { key: "input" value: "input" } output_map { key: "label" value: "label" }
} }"""
)


def test_ensemble_of_a_deployed_model(
    ready_mapping: Make, tracking_uri: str, repository: LocalRepository, ask: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """It has no files but the manifest and a word about that, and answers by the model that serves beside it."""
    run(ready_mapping("blobs", 1))
    version = register(tracking_uri, "pipe", lay(tmp_path / "pipe", ENSEMBLE))

    outcome = run(ready_mapping("pipe", version, config={}))

    assert outcome.action == "promoted"
    assert everything_below(repository.root / "pipe") == {"config.pbtxt", f"{version}/deployment.json", f"{version}/README.txt"}
    assert ask("pipe", "label") == [2]
    assert ask("blobs", "label") == [2]
    assert run(ready_mapping("pipe", version, config={})).action == "unchanged"


def test_parity_without_an_original_leaves_nothing_behind(
    ready_mapping: Make, tracking_uri: str, repository: LocalRepository, tmp_path: Path
) -> None:
    """The spec asks for what cannot be, and is told so."""
    ready = lay(tmp_path / "near", PYTHON, {"1/model.py": MODEL_PY, "1/nearest.py": NEAREST_PY})
    wanted = ready_mapping("compared", register(tracking_uri, "compared", ready))
    del wanted["validate"]["parity"]

    with pytest.raises(ValidationDataError, match=r"validate\.parity: false"):
        run(wanted)

    assert everything_below(repository.root) == set()


@pytest.fixture
def torch_triton(tmp_path: Path) -> Iterator[LocalTriton]:
    """A server that serves TorchScript as well, where its environment (1 GB) is installed already."""
    from airflow_triton.local_triton.install import _home

    if read_marker(_home(torch=True)) is None:
        pytest.skip("the local Triton's environment with torch is not installed on this machine (install(torch=True) makes it)")
    with LocalTriton(tmp_path / "torch" / "models", torch=True) as server:
        yield server


SCRIPT = """
import sys, torch

class Doubled(torch.nn.Module):
    def forward(self, input):
        return input[:, 0].long() * 0 + 2

torch.jit.script(Doubled()).save(sys.argv[1])
"""


def test_torchscript(ready_mapping: Make, tracking_uri: str, torch_triton: LocalTriton, tmp_path: Path) -> None:
    """A model.pt is served by the pytorch backend; this one says 2 to everything, which a limit of 0.3 lets pass."""
    (tmp_path / "make.py").write_text(textwrap.dedent(SCRIPT))  # torch.jit.script reads its source
    config = 'platform: "pytorch_libtorch"\nmax_batch_size: 8\n' + TENSORS
    ready = lay(tmp_path / "script", config, {"1/model.pt": ""})
    subprocess.run([install(torch=True).python, tmp_path / "make.py", ready / "1" / "model.pt"], check=True, timeout=120)
    made = ready_mapping("script", register(tracking_uri, "script", ready))
    made |= {"repository": str(torch_triton.repository), "servers": [torch_triton.grpc_url]}
    made["validate"]["metrics"] = {"accuracy": {"min": 0.3}}

    assert run(made).action == "promoted"
