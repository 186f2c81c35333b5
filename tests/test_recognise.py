"""Triton's layouts, recognised by what lies in a folder and by what its config.pbtxt says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airflow_triton import model_config
from airflow_triton.errors import RepositoryError
from airflow_triton.repository.recognise import ModelFolder, recognise, recognise_model, recognise_version

onnx = pytest.importorskip("onnx")


def lay(folder: Path, *names: str, content: str = "x") -> Path:
    """Files with some content; a name that ends with a slash is a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(content)
    return folder


def onnx_file(path: Path, *, data: str | None = None) -> Path:
    """A graph that adds a weight, which lies in the file `data` beside it if that is given."""
    weight = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "plus", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path), save_as_external_data=data is not None, location=data, size_threshold=0)
    return path


def config(text: str) -> Any:
    return model_config.parse(text)


LAYOUTS = {
    "plan": (["model.plan"], "tensorrt", "tensorrt", "model.plan", "model.plan"),
    "several plans": (["t4.plan", "a10.plan"], "tensorrt", "tensorrt", "model.plan", "a10.plan"),
    "TorchScript": (["model.pt"], "torchscript", "pytorch", "model.pt", "model.pt"),
    "SavedModel": (
        ["model.savedmodel/saved_model.pb", "model.savedmodel/variables/variables.index", "model.savedmodel/assets/"],
        "savedmodel",
        "tensorflow",
        "model.savedmodel",
        "model.savedmodel/saved_model.pb",
    ),
    "GraphDef": (["model.graphdef"], "graphdef", "tensorflow", "model.graphdef", "model.graphdef"),
    "Python": (["model.py", "helper.py", "pkg/__init__.py", "env.tar.gz"], "python", "python", "model.py", "model.py"),
    "OpenVINO": (["model.xml", "model.bin"], "openvino", "openvino", "model.xml", "model.xml"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_is_recognised_by_its_names(tmp_path: Path, case: str) -> None:
    """Without a config, by the names that Triton's backends open."""
    names, *expected = LAYOUTS[case]

    found = recognise_version(lay(tmp_path / "1", *names))

    assert [found.kind, found.backend, found.default_model_filename, found.entry] == expected


def test_onnx_is_a_file_or_a_folder_with_its_data(tmp_path: Path) -> None:
    """Both are called model.onnx; the file in it is what Triton cannot do without."""
    onnx_file(tmp_path / "1" / "model.onnx")
    onnx_file(tmp_path / "2" / "model.onnx" / "model.onnx", data="weights.bin")

    one, two = recognise_version(tmp_path / "1"), recognise_version(tmp_path / "2")

    assert (one.kind, one.entry) == ("onnx", "model.onnx")
    assert (two.kind, two.entry, two.default_model_filename) == ("onnx-folder", "model.onnx/model.onnx", "model.onnx")


CONFIGURED = {
    "another name": (["best.plan"], 'backend: "tensorrt" default_model_filename: "best.plan"', ("tensorrt", "best.plan")),
    "another name, by its suffix": (["best.pt"], 'default_model_filename: "best.pt"', ("torchscript", "best.pt")),
    "another name, any suffix": (["serve.script"], 'backend: "python" default_model_filename: "serve.script"', ("python", "serve.script")),
    "OpenVINO under another name": (["a.xml", "a.bin"], 'backend: "openvino" default_model_filename: "a.xml"', ("openvino", "a.xml")),
    "Python with a TorchScript file": (["model.py", "model.pt"], 'backend: "python"', ("python", "model.py")),
    "by platform": (["model.plan", "model.pt"], 'platform: "tensorrt_plan"', ("tensorrt", "model.plan")),
    "one of TensorFlow's two": (
        ["model.graphdef", "model.savedmodel/saved_model.pb"],
        'platform: "tensorflow_graphdef"',
        ("graphdef", "model.graphdef"),
    ),
    "a plan for each GPU": (
        ["a.plan", "b.plan"],
        'platform: "tensorrt_plan" cc_model_filenames { key: "7.5" value: "b.plan" } cc_model_filenames { key: "8.6" value: "a.plan" }',
        ("tensorrt", "a.plan"),
    ),
    "a plan for one GPU, and one for the others": (
        ["a.plan", "model.plan"],
        'backend: "tensorrt" cc_model_filenames { key: "8.6" value: "a.plan" }',
        ("tensorrt", "model.plan"),
    ),
    "a backend of someone's": (["xgboost.json"], 'backend: "fil" default_model_filename: "xgboost.json"', ("custom", "xgboost.json")),
    "a backend of someone's, no file named": (["any.thing"], 'backend: "vllm"', ("custom", None)),
    "an ensemble": ([], 'platform: "ensemble"', ("ensemble", None)),
    "an ensemble by its steps": (["README"], 'ensemble_scheduling { step { model_name: "a" } }', ("ensemble", None)),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_a_config_decides_where_it_says_more(tmp_path: Path, case: str) -> None:
    """Its backend, its platform and the file names in it."""
    names, text, expected = CONFIGURED[case]

    found = recognise_version(lay(tmp_path / "1", *names), config(text))

    assert (found.kind, found.entry) == expected


REFUSED: dict[str, tuple[list[str], str | None, str]] = {
    "nothing": ([], None, r"1 holds nothing, and Triton takes: model\.plan.*model\.xml with model\.bin"),
    "something else": (["model.pkl"], None, r"holds model\.pkl, and Triton takes.*default_model_filename"),
    "two kinds": (["model.plan", "model.pt"], None, r"holds model\.plan and model\.pt: say in config\.pbtxt which `backend`"),
    "not the config's backend": (["model.plan"], 'backend: "onnxruntime"', r"holds model\.plan, and Triton takes: model\.onnx"),
    "backend and platform differ": (["model.plan"], 'backend: "pytorch" platform: "tensorrt_plan"', r"do not agree"),
    "unknown platform": (["model.plan"], 'platform: "caffe2"', r"platform 'caffe2'; valid: .*ensemble"),
    "named file missing": (["model.plan"], 'backend: "tensorrt" default_model_filename: "best.plan"', r"best\.plan is missing"),
    "named file tells nothing": (["best"], 'default_model_filename: "best"', r"'best', which tells no format; add `backend`"),
    "named file elsewhere": (["x"], 'backend: "python" default_model_filename: "../x"', r"'\.\./x' is no path below"),
    "named file of a custom backend": (["x"], 'backend: "fil" default_model_filename: "y"', r"has no y, which config\.pbtxt names"),
    "plan of a GPU missing": (["a.plan"], 'backend: "tensorrt" cc_model_filenames { key: "8.6" value: "b.plan" }', r"b\.plan is missing"),
    "plans of unknown GPUs": (["a.plan", "b.plan"], 'backend: "tensorrt"', r"a\.plan, b\.plan.*add cc_model_filenames"),
    "empty file": (["model.pt"], "empty", r"model\.pt is empty"),
    "OpenVINO without weights": (["model.xml"], None, r"model\.bin is missing"),
    "SavedModel without its graph": (["model.savedmodel/x"], None, r"saved_model\.pb is missing"),
    "a folder for a file": (["model.pt/x"], None, r"model\.pt is no file"),
    "ONNX folder without the file": (["model.onnx/weights"], None, r"model\.onnx/model\.onnx is missing"),
    "no ONNX file": (["model.onnx"], None, r"model\.onnx is no ONNX file"),
    "ensemble with a model": (["model.onnx"], 'platform: "ensemble"', r"holds model\.onnx, but config\.pbtxt is an ensemble's"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_layout_is_refused(tmp_path: Path, case: str) -> None:
    """With what was found, and what is valid."""
    names, text, message = REFUSED[case]
    folder = lay(tmp_path / "1", *names, content="" if text == "empty" else "x")

    with pytest.raises(RepositoryError, match=message):
        recognise_version(folder, None if text in (None, "empty") else config(str(text)))


def test_external_data_that_is_missing_or_elsewhere_is_refused(tmp_path: Path) -> None:
    """The weights are found missing here, and not by the server."""
    gone = onnx_file(tmp_path / "1" / "model.onnx" / "model.onnx", data="weights.bin")
    (gone.parent / "weights.bin").unlink()
    elsewhere = onnx_file(tmp_path / "2" / "model.onnx", data="weights.bin")
    graph = onnx.load(str(elsewhere), load_external_data=False)
    for entry in graph.graph.initializer[0].external_data:
        entry.value = "../weights.bin" if entry.key == "location" else entry.value
    elsewhere.write_bytes(graph.SerializeToString())

    with pytest.raises(RepositoryError, match=r"external data 'weights\.bin' is not beside it"):
        recognise_version(tmp_path / "1")
    with pytest.raises(RepositoryError, match=r"external data elsewhere: '\.\./weights\.bin'"):
        recognise_version(tmp_path / "2")


FULL = """
name: "cat" backend: "python"
output { name: "y" data_type: TYPE_FP32 dims: 3 label_filename: "labels.txt" }
parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/envs/env.tar.gz" } }
parameters { key: "extra" value { string_value: "--a=$$TRITON_MODEL_DIRECTORY/assets --b=/opt/else" } }
model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 input_data_file: "x.bin" } } }
"""
BESIDE = ("assets/a", "envs/env.tar.gz", "labels.txt", "warmup/x.bin")


def model(folder: Path, text: str | None, *names: str) -> Path:
    lay(folder, *names)
    if text is not None:
        (folder / "config.pbtxt").write_text(text)
    return folder


def test_a_model_folder_has_versions_and_files_beside(tmp_path: Path) -> None:
    """Several versions side by side, config.pbtxt, and every file that it names."""
    folder = model(tmp_path / "cat", FULL, "1/model.py", "10/model.py", "9/model.py", "9/helper.py", *BESIDE)

    found = recognise(folder)

    assert isinstance(found, ModelFolder)
    assert (found.name, list(found.versions), found.beside) == ("cat", [1, 9, 10], BESIDE)
    assert found.versions[9][0] == folder / "9"
    assert {layout.kind for _, layout in found.versions.values()} == {"python"}


def test_either_folder_is_recognised(tmp_path: Path) -> None:
    """A model's without a config, one version's, and an ensemble's that lost its empty folder in a store."""
    bare = recognise(model(tmp_path / "bare", None, "3/model.plan"))
    alone = recognise(model(tmp_path / "alone", None, "model.plan"))
    ensemble = recognise(model(tmp_path / "ensemble", 'platform: "ensemble"'))

    assert isinstance(bare, ModelFolder)
    assert (bare.config, list(bare.versions)) == (None, [3])
    assert not isinstance(alone, ModelFolder)
    assert isinstance(ensemble, ModelFolder)
    assert ensemble.versions == {}


MODELS_REFUSED = {
    "empty": (None, [], r"has no version folder.*there is nothing"),
    "only a config": ('backend: "python"', ["model.py"], r"has no version folder.*config\.pbtxt, model\.py"),
    "a version to nobody": (None, ["01/model.py"], r"01 is no version to Triton"),
    "a broken version": ('backend: "python"', ["1/model.py", "2/x.py"], r"2 holds x\.py, and Triton takes: model\.py"),
    "config that does not parse": ("max_batch_sise: 4", ["1/model.py"], r'config\.pbtxt, line 1: .*"max_batch_sise"'),
    "config in latin-1": ("\udce9", ["1/model.py"], r"config\.pbtxt cannot be read: .*utf-8"),
    **{
        f"{name} missing": (FULL, ["1/model.py", *(other for other in BESIDE if other != name)], rf"names {name.removesuffix('/a')}, and")
        for name in BESIDE
    },
    "labels elsewhere": (FULL.replace("labels.txt", "../labels.txt"), ["1/model.py", *BESIDE], r"'\.\./labels\.txt' is no path below"),
    "environment elsewhere": (FULL.replace("envs/env", "../envs/env"), ["1/model.py", *BESIDE], r"EXECUTION_ENV_PATH.* is no path below"),
}


@pytest.mark.parametrize("case", MODELS_REFUSED)
def test_what_is_no_model_folder_is_refused(tmp_path: Path, case: str) -> None:
    """With the field of the config, where it is that."""
    text, names, message = MODELS_REFUSED[case]
    folder = lay(tmp_path / "cat", *names)
    if text is not None:
        (folder / "config.pbtxt").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(RepositoryError, match=message):
        recognise_model(folder)
