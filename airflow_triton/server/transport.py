"""The two client libraries of Triton behind one shape: deadlines, headers and errors alike over gRPC and HTTP."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_triton.errors import ControlModeError, ServerError, ServerUnreachableError

if TYPE_CHECKING:
    import numpy as np

    from airflow_triton.server.address import ServerAddress

T = TypeVar("T")

_MODE_REFUSAL = "explicit model load / unload is not allowed"
"""What Triton answers to a load or unload in POLL and in NONE mode alike."""

_UNAVAILABLE_REASONS = ("protocol is restricted", "maximum queue size", "is stopping", "ready state", "no available versions")
"""Where Triton itself answers UNAVAILABLE; gRPC's client library has the same status for a server that it cannot reach."""


def version_text(version: int | None) -> str:
    """A version as requests have it."""
    return "" if version is None else str(version)


@dataclass(frozen=True)
class Inference:
    """One request: `version` of `model` (None: the one that answers requests without a version) is asked `inputs` for `outputs` (all)."""

    model: str
    version: int | None
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str] | None = None

    def datatype(self, name: str) -> str:
        """Triton's data type of an input; ServerError where Triton has none."""
        found = _datatype(self.inputs[name].dtype)
        if found is None:
            raise ServerError(f"the input `{name}` is {self.inputs[name].dtype}, for which Triton has no data type")
        return found


class Pending(Protocol):
    """An inference that is under way: what `concurrent.futures.Future` and gRPC's own have in common."""

    def result(self) -> Any:
        """Wait for the answer."""

    def exception(self) -> BaseException | None:
        """Wait for it; what went wrong."""

    def add_done_callback(self, fn: Callable[[Any], object]) -> object:
        """Call `fn` with this as soon as it is done."""


class Transport(Protocol):
    """One call of one method of Triton's client library, within `deadline` seconds."""

    def call(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Any:
        """Call `method` and hand back its answer, JSON-like where it is a message."""

    def infer(self, asked: Inference, *, deadline: float) -> Pending:
        """Let a request leave; what it was asked for is `arrays` of its result."""

    def arrays(self, answer: Any) -> dict[str, np.ndarray]:
        """The outputs of an answer by name."""

    def close(self) -> None:
        """Close the connections."""


def translated(address: ServerAddress, doing: str, call: Callable[[], T]) -> T:
    """Run `call`; what the client libraries raise becomes one of our errors with the server's own reason.

    Raises:
        ServerUnreachableError: no connection, or no answer within the deadline.
        ControlModeError: the server does not take load and unload requests.
        ServerError: any other refusal.

    """
    from geventhttpclient.response import HTTPParseError
    from grpc import RpcError
    from tritonclient.utils import InferenceServerException

    try:
        return call()
    except (InferenceServerException, RpcError) as error:
        said, code = (error.details(), error.code()) if isinstance(error, RpcError) else (error.message(), error.status())
        reason, status = str(said).strip(), str(code)
        if _MODE_REFUSAL in reason:
            raise ControlModeError(
                f"{address} refuses to {doing}: it runs in POLL or NONE mode, where Triton takes no load requests; "
                f"start it with --model-control-mode=explicit, or declare `control_mode: poll` or `none` (Triton said: {reason})"
            ) from None
        answered = any(known in reason for known in _UNAVAILABLE_REASONS)
        if status == "StatusCode.DEADLINE_EXCEEDED" or (status == "StatusCode.UNAVAILABLE" and not answered):
            raise ServerUnreachableError(f"{address} did not answer when asked to {doing}: {reason}") from None
        raise ServerError(f"{address} refused to {doing}: {reason}") from None
    except (OSError, EOFError, HTTPParseError) as error:  # HTTP: refused, timed out, closed, unknown host, no HTTP at all
        raise ServerUnreachableError(f"{address} did not answer when asked to {doing}: {str(error) or type(error).__name__}") from None


@functools.cache
def _datatype(dtype: np.dtype) -> str | None:
    from tritonclient.utils import np_to_triton_dtype

    return "BYTES" if dtype.kind == "U" else np_to_triton_dtype(dtype)
