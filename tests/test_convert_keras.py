"""Keras models on PyTorch, saved by MLflow's `keras` flavor and converted to ONNX.

Keras takes its backend once in a process, from KERAS_BACKEND; these tests have it run on PyTorch, in children.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from airflow_triton.convert import Conversion, Options, convert
from airflow_triton.errors import ConversionError

MAKE = """
    import os
    os.environ["KERAS_BACKEND"] = "torch"
    import json, keras, mlflow.keras, numpy as np, sys
    from airflow_triton.convert import child
    from airflow_triton.errors import DeployError
    from mlflow.models import infer_signature
    from pathlib import Path

    L = keras.layers
    ids, extra = keras.Input((None,), dtype="int32", name="ids"), keras.Input((2,), name="extra")
    words = L.Concatenate()([L.GlobalAveragePooling1D()(L.Embedding(10, 4)(ids)), extra])
    image = keras.Input((8, 8, 3), name="image")
    conv = [L.Conv2D(4, 3, activation="relu"), L.BatchNormalization(), L.Dropout(0.5), L.Flatten(), L.Dense(3, activation="softmax")]
    models = {
        "conv": keras.Sequential([image, *conv]),
        "lists": keras.Model([ids, extra], [L.Dense(2)(words), L.Dense(1)(words)]),
        "mappings": keras.Model({"ids": ids, "extra": extra}, {"a": L.Dense(2)(words), "b": L.Dense(1)(words)}),
        "series": keras.Model(ids, L.LSTM(5)(L.Embedding(10, 4)(ids))),
    }
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    examples = {"conv": images}
    for name, model in models.items():
        folder = Path(sys.argv[1], name)
        folder.mkdir()  # MLflow writes the example before it makes the folder
        example = examples.get(name)
        signature = infer_signature(example, model.predict(example)) if example is not None else None
        mlflow.keras.save_model(model, str(folder), signature=signature, input_example=example, pip_requirements=[])
        into = Path(sys.argv[1], f"{name}-1")
        into.mkdir()
        try:
            told = child.convert(str(folder), str(into), {"to": "onnx"})
        except DeployError as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        Path(sys.argv[1], f"{name}.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, and what came of their conversions."""
    folder = tmp_path_factory.mktemp("keras")
    subprocess.run([sys.executable, "-c", textwrap.dedent(MAKE), str(folder)], check=True, timeout=120)
    return folder


def shapes(conversion: Conversion) -> dict[str, Any]:
    """The tensors of a conversion whose comparison passed."""
    assert conversion.agreement is not None
    assert conversion.agreement.passed
    served = conversion.servable
    return {spec.name: (spec.datatype, spec.shape) for spec in (*served.inputs, *served.outputs)}


def test_a_convolution_is_exported_by_way_of_torch(logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child that takes the backend that the model was logged with; any batch, the example compared, dropout off."""
    monkeypatch.delenv("KERAS_BACKEND", raising=False)

    conversion = convert(logged / "conv", tmp_path / "1", Options())

    assert shapes(conversion) == {"image": ("FP32", (-1, 8, 8, 3)), "output_0": ("FP32", (-1, 3))}
    assert conversion.agreement is not None
    assert "the input example" in conversion.agreement.runs
    assert (conversion.servable.flavor, conversion.servable.converter, conversion.servable.batching) == ("keras", "torch.export", True)
    assert {"keras", "torch"} <= set(conversion.servable.tools)


@pytest.mark.parametrize(("name", "outputs"), [("lists", ["output_0", "output_1"]), ("mappings", ["a", "b"])])
def test_several_inputs_and_outputs_keep_their_names(logged: Path, name: str, outputs: list[str]) -> None:
    """What is None in an Input varies, without any signature."""
    conversion = Conversion.model_validate_json((logged / f"{name}.json").read_text(encoding="utf-8"))

    assert shapes(conversion) == {
        "ids": ("INT32", (-1, -1)),
        "extra": ("FP32", (-1, 2)),
        outputs[0]: ("FP32", (-1, 2)),
        outputs[1]: ("FP32", (-1, 1)),
    }


def test_a_series_of_any_length_in_an_lstm_is_refused(logged: Path) -> None:
    """Keras on PyTorch unrolls it, so both exporters fix the length; that is found out, not served."""
    told = json.loads((logged / "series.json").read_text(encoding="utf-8"))["error"]

    assert told.startswith("ConversionError: ")
    assert "cannot be exported to ONNX (torch.export: it fixes " in told
    assert "torch.jit: it fixed a size" in told or "torch.jit: InvalidArgument" in told


def test_a_backend_that_cannot_export_is_named(logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets KERAS_BACKEND decides."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")

    with pytest.raises(ConversionError, match=r"Keras runs on jax here.*set KERAS_BACKEND"):
        convert(logged / "conv", tmp_path / "1", Options())
