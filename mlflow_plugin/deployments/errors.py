"""Our errors as MLflow's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mlflow.exceptions import MlflowException  # noqa: TID253 MLflow imports this module, so it is loaded already
from mlflow.protos import databricks_pb2 as codes  # noqa: TID253 see above

from airflow_triton.errors import ConflictError, DeployError, ModelConfigError, RejectedError, SpecError, ValidationDataError

_CODES: tuple[tuple[type[DeployError], int], ...] = (
    (SpecError, codes.INVALID_PARAMETER_VALUE),
    (ModelConfigError, codes.INVALID_PARAMETER_VALUE),
    (ValidationDataError, codes.INVALID_PARAMETER_VALUE),
    (ConflictError, codes.RESOURCE_CONFLICT),
    (RejectedError, codes.INVALID_STATE),
)


@contextlib.contextmanager
def told_as_mlflow() -> Iterator[None]:
    """Turn our errors into MlflowException, with the code that fits: bad input, a conflict, not there now, or internal."""
    try:
        yield
    except DeployError as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), codes.INTERNAL_ERROR)
        code = codes.TEMPORARILY_UNAVAILABLE if error.transient else code
        raise MlflowException(f"{type(error).__name__}: {error}", error_code=code) from error


def refused(message: str) -> MlflowException:
    """What was asked for cannot be."""
    return MlflowException(message, error_code=codes.INVALID_PARAMETER_VALUE)


def not_there(message: str) -> MlflowException:
    """What was asked for does not exist."""
    return MlflowException(message, error_code=codes.RESOURCE_DOES_NOT_EXIST)
