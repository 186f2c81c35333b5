"""A typed client of one Triton server."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self

from airflow_triton.errors import ServerError, ServerUnreachableError
from airflow_triton.server.many import answered
from airflow_triton.server.over_grpc import GrpcTransport
from airflow_triton.server.over_http import HttpTransport
from airflow_triton.server.transport import Inference, Pending, Transport, translated, version_text

if TYPE_CHECKING:
    import numpy as np

    from airflow_triton.server.address import ServerAddress

CALL_SECONDS = 15.0
"""The deadline of a control call or an inference, unless told otherwise."""
LOAD_SECONDS = 180.0
"""The deadline of a load: a large model takes its time, and a backend that cannot start would hang for ever."""


Q = TypeVar("Q", bound=Inference)


@dataclass(frozen=True)
class LoadedModel:
    """A line of Triton's repository index. `state` is Triton's own word: READY, LOADING, UNLOADING, UNAVAILABLE or empty."""

    name: str
    version: int | None
    state: str
    reason: str


class TritonClient:
    """One server, over the protocol of its address. Safe to share between threads. Use as a context manager, or `close` it.

    Every call ends within its deadline (seconds) and raises ServerUnreachableError, ControlModeError or ServerError, the last
    with Triton's own reason.
    """

    def __init__(self, address: ServerAddress, *, call_seconds: float = CALL_SECONDS, load_seconds: float = LOAD_SECONDS) -> None:
        self.address = address
        self._call_seconds = call_seconds
        self._load_seconds = load_seconds
        self._transport: Transport = GrpcTransport(address) if address.protocol == "grpc" else HttpTransport(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _call(self, doing: str, method: str, *args: Any, deadline: float | None = None, **kwargs: Any) -> Any:
        deadline = deadline or self._call_seconds
        return translated(self.address, doing, lambda: self._transport.call(method, *args, deadline=deadline, **kwargs))

    def check_live(self) -> None:
        """Raise ServerUnreachableError unless the server answers that it is live."""
        if not self._call("say whether it is live", "is_server_live"):
            raise ServerUnreachableError(f"{self.address} answers, but says that it is not live")

    def server_version(self) -> str:
        """Triton's own version, such as 2.51.0 (a container release is another number: `server.releases`)."""
        answer = self._call("say its version", "get_server_metadata")
        return str(answer["version"] if isinstance(answer, dict) else answer.version)

    def check_explicit_mode(self, probe: str) -> None:
        """Raise ControlModeError unless the server takes load and unload requests.

        Guarantee: nothing changes. `probe` is the name of a model that the server does not have; EXPLICIT mode answers its
        unload with success or with "not found", the other modes with a refusal.
        """
        try:
            self.unload(probe)
        except ServerError as error:
            if type(error) is not ServerError or "not found" not in str(error):
                raise

    def index(self) -> list[LoadedModel]:
        """Every model and version that the server knows of, those that are not loaded included."""
        answer = self._call("list its models", "get_model_repository_index")
        rows = answer.get("models", []) if isinstance(answer, dict) else answer
        return [
            LoadedModel(row["name"], int(row["version"]) if row.get("version") else None, row.get("state", ""), row.get("reason", ""))
            for row in rows
        ]

    def load(self, model: str) -> None:
        """Load `model`, or let it follow its config.pbtxt if it is loaded; returns when Triton has done so."""
        self._call(f"load `{model}`", "load_model", model, deadline=self._load_seconds)

    def unload(self, model: str) -> None:
        """Unload all versions of `model`; Triton answers before its last request has ended."""
        self._call(f"unload `{model}`", "unload_model", model)

    def is_ready(self, model: str, version: int | None = None) -> bool:
        """Whether this version (without one: the one that answers requests without a version) is ready to answer."""
        return bool(self._call(f"say whether `{model}` is ready", "is_model_ready", model, model_version=version_text(version)))

    def wait_ready(self, model: str, version: int, *, seconds: float = 60.0) -> None:
        """Return as soon as the version is ready; raise ServerError with Triton's reason if it is not within `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.is_ready(model, version):
            if time.monotonic() > deadline:
                reasons = [row.reason for row in self.index() if row.name == model and row.version == version]
                raise ServerError(
                    f"{self.address}: version {version} of `{model}` is not ready after {seconds:g} s ({reasons or 'not listed'})"
                )
            time.sleep(0.05)

    def wait_unloaded(self, model: str, *, seconds: float = 30.0) -> None:
        """Return as soon as no version of the model is loaded or on its way out."""
        deadline = time.monotonic() + seconds
        while any(row.name == model and row.state in ("READY", "LOADING", "UNLOADING") for row in self.index()):
            if time.monotonic() > deadline:
                raise ServerError(f"{self.address}: `{model}` is still loaded {seconds:g} s after it was unloaded")
            time.sleep(0.05)

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """The versions of the model that answer, in rising order; empty where the server has none.

        A request that names no version goes to the highest of them (Triton's rule).
        """
        return ready(self.index()).get(model, ())

    def config(self, model: str, version: int | None = None) -> dict[str, Any]:
        """The configuration with which that version was loaded (not what config.pbtxt says today), in protobuf's JSON.

        That is: 64-bit numbers are text, and what has its default value is left out.
        """
        from google.protobuf.json_format import MessageToDict, ParseDict
        from tritonclient.grpc.model_config_pb2 import ModelConfig

        answer = self._call(f"show the config of `{model}`", "get_model_config", model, model_version=version_text(version))
        config = ParseDict(answer.get("config", answer), ModelConfig(), ignore_unknown_fields=True)
        return dict(MessageToDict(config, preserving_proto_field_name=True))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        outputs: Iterable[str] | None = None,
        seconds: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Ask the model once.

        `inputs`: one array for each input, shaped as the server takes it (batch axis included where the model batches), with the
        numpy dtype of the input's Triton data type; strings as object or text arrays. Answers one array for each of `outputs` (all of the
        model's outputs where none are named). `seconds` is the deadline (default 15).
        """
        asked = Inference(model, version, inputs, None if outputs is None else tuple(outputs))
        return self._answer(model, self._transport.infer(asked, deadline=seconds or self._call_seconds))

    def infer_many(
        self, questions: Iterable[Q], *, in_flight: int, seconds: float | None = None
    ) -> Iterator[tuple[Q, dict[str, np.ndarray]]]:
        """Ask many times, `in_flight` requests under way at a time; every question with its answer, in the order in which they come.

        `inputs` and the answers are as in `infer`; `seconds` is the deadline of each request (default 15). `questions` is read while
        the answers are: what it makes of a file is not in memory at once. The first request that fails ends it, with its error.
        """
        send = functools.partial(self._send, deadline=seconds or self._call_seconds)
        for question, came in answered(send, questions, in_flight=in_flight):
            yield question, self._answer(question.model, came)

    def time_many(self, questions: Iterable[Q], *, in_flight: int, seconds: float | None = None) -> Iterator[tuple[Q, float]]:
        """Ask as `infer_many` does; every question with the seconds that it took, in the order in which the answers come.

        A request takes from when it is handed to Triton's client library, as a whole message, until that hands out its answer.
        """
        took: dict[Pending, float] = {}
        send = functools.partial(self._send, deadline=seconds or self._call_seconds, took=took)
        for question, came in answered(send, questions, in_flight=in_flight):
            self._result(question.model, came)
            yield question, took.pop(came)

    def _send(self, question: Inference, *, deadline: float, took: dict[Pending, float] | None = None) -> Pending:
        """A request that is under way; once it is done, `took` has the seconds that it was."""
        started = time.perf_counter()
        pending = self._transport.infer(question, deadline=deadline)
        if took is not None:
            pending.add_done_callback(lambda done: took.update({done: time.perf_counter() - started}))
        return pending

    def _answer(self, model: str, came: Pending) -> dict[str, np.ndarray]:
        return self._transport.arrays(self._result(model, came))

    def _result(self, model: str, came: Pending) -> Any:
        try:
            return came.result()
        except Exception:  # noqa: BLE001 told apart there
            return translated(self.address, f"run `{model}`", came.result)


def ready(rows: Iterable[LoadedModel]) -> dict[str, tuple[int, ...]]:
    """The versions of every model that answer by what an index says, in rising order."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.version is not None and row.state == "READY":
            found.setdefault(row.name, []).append(row.version)
    return {model: tuple(sorted(versions)) for model, versions in found.items()}
