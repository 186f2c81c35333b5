"""The models of the benchmark of conversions, and the exporters called by hand.

    python _conversion.py log TRACKING_URI          trains the models and registers them
    python _conversion.py export NAME MODEL FILE    loads one with MLflow and exports it, as the exporter's documentation shows it

Both print one last line of JSON. The exports by hand prove nothing, and look at nothing: they are what a team writes first.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH = 20
"""The features of a table's row."""
SIDE = 3600
"""Two square matrices of this side are 99 MiB of FP32."""
IMAGE = (3, 64, 64)
OPSETS = {"": 18, "ai.onnx.ml": 3}
"""What skl2onnx is told by our converter, too."""
OPSET = 15
"""The newest opset that onnxmltools writes."""


@dataclass(frozen=True)
class Subject:
    """A conversion: `make` trains the model and answers it, its input example and what `log_model` is told; `export` is the one by hand."""

    title: str
    flavor: str
    exporter: str
    make: Callable[[], tuple[Any, Any, dict[str, Any]]]
    export: Callable[[Any, str, str], None]
    to: str = "onnx"

    @property
    def model(self) -> str:
        """What the model is registered as; several conversions can be of one."""
        return self.make.__name__.strip("_")


def _rows() -> tuple[Any, Any]:
    """Rows of numbers in three classes, which trees have to work for."""
    import numpy as np

    random = np.random.default_rng(3)
    rows = random.normal(size=(2000, WIDTH)).astype("float32")
    return rows, np.digitize(rows[:, 0] * rows[:, 1] + rows[:, 2] + random.normal(size=len(rows)), [-0.6, 0.6])


def _fitted(estimator: Any, **options: Any) -> tuple[Any, Any, dict[str, Any]]:
    rows, classes = _rows()
    return estimator.fit(rows, classes), rows[:5], options


def _forest() -> tuple[Any, Any, dict[str, Any]]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    return _fitted(make_pipeline(SimpleImputer(), RandomForestClassifier(200, random_state=1)), serialization_format="cloudpickle")


def _xgboost() -> tuple[Any, Any, dict[str, Any]]:
    from xgboost import XGBClassifier

    return _fitted(XGBClassifier(n_estimators=100))


def _lightgbm() -> tuple[Any, Any, dict[str, Any]]:
    from lightgbm import LGBMClassifier

    return _fitted(LGBMClassifier(n_estimators=100, verbose=-1))


def _catboost() -> tuple[Any, Any, dict[str, Any]]:
    from catboost import CatBoostClassifier

    return _fitted(CatBoostClassifier(iterations=300, verbose=0, allow_writing_files=False))


def _network() -> tuple[Any, Any, dict[str, Any]]:
    import numpy as np
    import torch
    from torch import nn

    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)).eval()
    return network, np.random.default_rng(1).normal(size=(2, *IMAGE)).astype("float32"), {"serialization_format": "pickle"}


def _two_layers() -> tuple[Any, Any, dict[str, Any]]:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(2)
    shape: list[int | str | None] = ["N", SIDE]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["p"]),
        helper.make_node("MatMul", ["p", "b"], ["y"]),
    ]
    weights = [numpy_helper.from_array((random.normal(size=(SIDE, SIDE)) / SIDE**0.5).astype("float32"), name) for name in "ab"]
    model = helper.make_model(helper.make_graph(nodes, "two", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model, random.normal(size=(2, SIDE)).astype("float32"), {"save_as_external_data": False}


def _by_skl2onnx(model: Any, _folder: str, file: str) -> None:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    types = [("input", FloatTensorType([None, WIDTH]))]
    graph = convert_sklearn(model, initial_types=types, options={id(model): {"zipmap": False}}, target_opset=OPSETS)
    Path(file).write_bytes(graph.SerializeToString())


def _by_onnxmltools(model: Any, _folder: str, file: str) -> None:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("input", FloatTensorType([None, WIDTH]))]
    if type(model).__name__.startswith("XGB"):
        graph = onnxmltools.convert_xgboost(model, initial_types=types, target_opset=OPSET)
    else:
        graph = onnxmltools.convert_lightgbm(model, initial_types=types, target_opset=OPSET, zipmap=False)
    onnxmltools.utils.save_model(graph, file)


def _by_itself(model: Any, _folder: str, file: str) -> None:
    model.save_model(file, format="onnx")


def _by_torch_export(model: Any, _folder: str, file: str) -> None:
    import torch

    batch = torch.export.Dim("batch")
    torch.onnx.export(model.eval(), (torch.zeros(2, *IMAGE),), file, dynamo=True, dynamic_shapes=({0: batch},))


def _by_script(model: Any, _folder: str, file: str) -> None:
    import torch

    torch.jit.script(model.eval()).save(file)


def _by_copying(model: Any, folder: str, file: str) -> None:
    import onnx

    onnx.checker.check_model(model)
    shutil.copyfile(Path(folder, "model.onnx"), file)
    with Path(file).open("rb") as written:
        os.fsync(written.fileno())


SUBJECTS = {
    "forest": Subject("SimpleImputer and a forest of 200 trees", "sklearn", "skl2onnx", _forest, _by_skl2onnx),
    "xgboost": Subject("XGBClassifier, 3 x 100 trees", "xgboost", "onnxmltools", _xgboost, _by_onnxmltools),
    "lightgbm": Subject("LGBMClassifier, 3 x 100 trees", "lightgbm", "onnxmltools", _lightgbm, _by_onnxmltools),
    "catboost": Subject("CatBoostClassifier, 300 trees", "catboost", "its own `save_model`", _catboost, _by_itself),
    "network": Subject("a convolutional network", "pytorch", "`torch.onnx.export`", _network, _by_torch_export),
    "script": Subject("the same, `to: torchscript`", "pytorch", "`torch.jit.script`", _network, _by_script, to="torchscript"),
    "onnx": Subject("a file of 99 MiB", "onnx", "`onnx.checker` and a copy (fsync)", _two_layers, _by_copying),
}


def log(tracking_uri: str) -> list[str]:
    """Train the models and register each; their names."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("bench")
    subjects = {subject.model: subject for subject in SUBJECTS.values()}
    for name, subject in subjects.items():
        model, example, options = subject.make()
        flavor = importlib.import_module(f"mlflow.{subject.flavor}")
        flavor.log_model(model, name="model", registered_model_name=name, input_example=example, pip_requirements=[], **options)
    return list(subjects)


def export(name: str, folder: str, file: str) -> float:
    """Load a model with MLflow and export it; the largest resident memory that this process has had, in MiB."""
    subject = SUBJECTS[name]
    model = importlib.import_module(f"mlflow.{subject.flavor}").load_model(folder)
    subject.export(model, folder, file)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    told = log(sys.argv[2]) if sys.argv[1] == "log" else export(*sys.argv[2:])
    print("\n" + json.dumps(told))
