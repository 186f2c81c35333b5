"""What runs in the child process: the functions that `airflow_triton.convert` calls, with JSON on both sides.

They can be called in any process that has MLflow; nothing here changes the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_triton import tensors
from airflow_triton.convert import base, examples, mlmodel
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable


def convert(model_dir: str, into: str, to: base.Form, *, shared: bool = True) -> dict[str, Any]:
    """See `airflow_triton.convert.convert`; `into` must exist."""
    model = mlmodel.read(Path(model_dir))
    flavor = base.flavor_of(model)
    with _needed_for(flavor):
        example = examples.load(model)
        folder = VersionFolder(Path(into), shared=shared)
        servable = base.converter_for(flavor).convert(model, folder, to=to, example=example)
    return base.Conversion(servable=servable, files=folder.files()).model_dump(mode="json")


def reference(model_dir: str, servable: dict[str, Any], inputs: str, outputs: str) -> None:
    """See `airflow_triton.convert.reference`."""
    model = mlmodel.read(Path(model_dir))
    served = Servable.model_validate(servable)
    given = tensors.load_arrays(Path(inputs))
    with _needed_for(served.flavor):
        answers = base.converter_for(served.flavor).answers(model, served, examples.by_name(given, served, what=inputs))
    specs = {spec.name: spec for spec in served.outputs}
    fitted = {name: tensors.fit(answers[name], spec, what=f"the model's own {name!r}") for name, spec in specs.items()}
    tensors.save_arrays(Path(outputs), fitted)


def input_example(model_dir: str, servable: dict[str, Any], inputs: str) -> bool:
    """See `airflow_triton.convert.input_example`."""
    model = mlmodel.read(Path(model_dir))
    example = examples.load(model)
    if example is None:
        return False
    tensors.save_arrays(Path(inputs), examples.to_inputs(example, Servable.model_validate(servable), model.columns))
    return True


@contextmanager
def _needed_for(flavor: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConversionError(
            f"the {flavor} model needs the Python module {error.name!r}, which is not installed here: the converters come with "
            "`pip install 'airflow-provider-triton[convert]'`; a module of the model's own must be logged with it (code_paths)"
        ) from error
