"""What runs in the child process: the functions that `airflow_triton.convert` calls, with JSON on both sides.

They can be called in any process that has MLflow; nothing here changes the process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_triton import tensors
from airflow_triton.convert import base, examples, mlmodel, prove
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.isolate import peak_mib
from airflow_triton.servable import Servable


def convert(
    model_dir: str, into: str, options: dict[str, Any], *, shared: bool = True, largest: int = 8, rtol: float = 1e-4, atol: float = 1e-5
) -> dict[str, Any]:
    """See `airflow_triton.convert.convert`; `into` must exist."""
    model = mlmodel.read(Path(model_dir))
    told = base.Options.model_validate(options)
    route = base.route_of(model, told.to)
    with _needed_for(route.flavor):
        started = time.monotonic()
        example = examples.load(model)
        folder = VersionFolder(Path(into), shared=shared)
        servable = base.converter(route).convert(model, folder, options=told, example=example)
        files = folder.files()
        converted, alone = time.monotonic(), peak_mib()
        agreement = prove.prove(model, Path(into), servable, example, largest=largest, rtol=rtol, atol=atol)
    return base.Conversion(
        servable=servable,
        files=files,
        agreement=agreement,
        seconds={"convert": round(converted - started, 3), "parity": round(time.monotonic() - converted, 3)},
        peak_mib=alone,
    ).model_dump(mode="json")


def reference(model_dir: str, servable: dict[str, Any], inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """See `airflow_triton.convert.reference`."""
    model = mlmodel.read(Path(model_dir))
    served = Servable.model_validate(servable)
    specs = {spec.name: spec for spec in served.outputs}
    with _needed_for(served.flavor):
        ask = base.original_of(served).original(model, served)
        for given, wanted in zip(inputs, outputs, strict=True):
            answers = ask(examples.by_name(tensors.load_arrays(Path(given)), served, what=given))
            fitted = {name: tensors.fit(answers[name], spec, what=f"the model's own {name!r}") for name, spec in specs.items()}
            tensors.save_arrays(Path(wanted), fitted)


def input_example(model_dir: str, servable: dict[str, Any], inputs: str) -> bool:
    """See `airflow_triton.convert.input_example`."""
    model = mlmodel.read(Path(model_dir))
    example = examples.load(model)
    if example is None:
        return False
    served = Servable.model_validate(servable)
    with _needed_for(served.flavor):
        given = prove.own_example(model, served, example)
    tensors.save_arrays(Path(inputs), given or examples.to_inputs(example, served, model.columns))
    return True


@contextmanager
def _needed_for(flavor: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConversionError(
            f"the {flavor} model needs the Python module {error.name!r}, which is not installed here: the converters come with "
            "`pip install 'airflow-provider-triton[convert]'` (PyTorch's with `[pytorch]`), and `convert.environment: model` builds an "
            "environment of the model's own requirements; a module of the model's own must be logged with it (code_paths)"
        ) from error
