"""Every error that this package raises on purpose.

    DeployError
    ├── SpecError                 the declaration is wrong (exit code 2)
    ├── RejectedError             the candidate did not pass its validation (exit code 3)
    ├── ConflictError             someone else promoted meanwhile (exit code 4)
    ├── RegistryError             MLflow has no such model, version, alias or run
    │   └── RegistryUnreachableError  MLflow does not answer
    ├── ConversionError           the model cannot become something that Triton serves
    ├── ModelConfigError          no config.pbtxt can be made of the model and the spec (exit code 2)
    ├── RepositoryError           the model repository cannot be read or written, or is not as it should be
    │   └── RepositoryUnreachableError  the object store does not answer, or not in time
    ├── ServerError               Triton refused, with its own reason
    │   ├── ServerUnreachableError    Triton does not answer at all
    │   └── ControlModeError          Triton answers, but is not in the mode that the work needs
    ├── ValidationDataError       there is nothing to validate with, or it does not fit the model
    └── LocalTritonError          the local Triton cannot be installed or started

A message says what came, what is valid or was expected, where we looked and what to do. Whether a retry can help is in the
type: `transient` is true for the errors that may go away by themselves.
"""

from __future__ import annotations

from typing import Any, ClassVar


class DeployError(Exception):
    """The root of the tree: something that a person can act on, said in one message."""

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False


class SpecError(DeployError, ValueError):
    """The declaration is wrong: an unknown key, a wrong type, a bad name, an impossible combination."""

    exit_code = 2


class RejectedError(DeployError):
    """The candidate did not pass its validation; what served before still serves. `report` is the ValidationReport."""

    exit_code = 3

    def __init__(self, message: str, *, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class ConflictError(DeployError):
    """Someone else changed the model in the repository meanwhile; nothing of theirs was overwritten."""

    exit_code = 4


class RegistryError(DeployError):
    """MLflow refused, or knows no such model, version, alias or run."""


class RegistryUnreachableError(RegistryError):
    """MLflow does not answer at all, or not in time."""

    transient = True


class ConversionError(DeployError):
    """The model cannot be turned into something that Triton serves."""


class ModelConfigError(DeployError):
    """No valid config.pbtxt can be made of the model's own inputs and outputs and the spec's overrides."""

    exit_code = 2


class RepositoryError(DeployError):
    """The model repository cannot be read or written, or its content is not what it should be."""


class RepositoryUnreachableError(RepositoryError):
    """The object store does not answer, is overloaded, or breaks off."""

    transient = True


class ServerError(DeployError):
    """Triton refused a request; the message carries the server's own reason."""


class ServerUnreachableError(ServerError):
    """Triton does not answer, or not within the deadline."""

    transient = True


class ControlModeError(ServerError):
    """Triton answers, but is not in the model control mode that the work needs."""


class ValidationDataError(DeployError):
    """There is no data to validate with, or it does not fit the model's inputs."""


class LocalTritonError(DeployError):
    """The local Triton cannot be installed or started on this machine."""
