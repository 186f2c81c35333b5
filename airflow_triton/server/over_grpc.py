"""Triton over gRPC: its client library for all calls, and its generated messages for inferences, of which there are many."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from airflow_triton.server.tls import grpc_credentials
from airflow_triton.server.transport import version_text

if TYPE_CHECKING:
    import grpc
    import numpy as np

    from airflow_triton.server.address import ServerAddress
    from airflow_triton.server.transport import Inference, Pending

BACK_MS = 500
"""A client over gRPC that could not reach its server tries again so soon; until then its calls fail at once."""


class GrpcTransport:
    """gRPC: safe to share between threads, the deadline is gRPC's own."""

    def __init__(self, address: ServerAddress) -> None:
        from tritonclient.grpc import InferenceServerClient

        self._address = address
        self._headers = {name.lower(): value for name, value in address.headers.items()} or None  # HTTP/2 has no capitals
        self._client = InferenceServerClient(address.authority, channel_args=channel_args(address), **client_options(address))

    def call(self, method: str, *args: Any, deadline: float, **kwargs: Any) -> Any:
        """See `Transport`."""
        if method.startswith("get_"):
            kwargs["as_json"] = True
        return getattr(self._client, method)(*args, headers=self._headers, client_timeout=deadline, **kwargs)

    def infer(self, asked: Inference, *, deadline: float) -> Pending:
        """See `Transport`. No thread waits for the answer."""
        metadata = tuple(self._headers.items()) if self._headers else None
        return self._stub.ModelInfer.future(message(asked), timeout=deadline, metadata=metadata)  # type: ignore[no-any-return]

    def arrays(self, answer: Any) -> dict[str, np.ndarray]:
        """See `Transport`."""
        sent = zip(answer.outputs, answer.raw_output_contents, strict=True)
        return {output.name: _array(output.datatype, content).reshape(tuple(output.shape)) for output, content in sent}

    @functools.cached_property
    def _channel(self) -> grpc.Channel:
        import grpc

        options, credentials = channel_args(self._address), grpc_credentials(self._address)
        if credentials is None:
            return grpc.insecure_channel(self._address.authority, options)
        return grpc.secure_channel(self._address.authority, credentials, options)

    @functools.cached_property
    def _stub(self) -> Any:
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

        return GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """See `Transport`."""
        self._client.close()
        if "_channel" in self.__dict__:
            self._channel.close()


def message(asked: Inference) -> Any:
    """The request as gRPC sends it.

    The library's own way (an InferInput for each tensor, copied into the message) takes longer than all else that a request needs of us.
    """
    from tritonclient.grpc.service_pb2 import ModelInferRequest
    from tritonclient.utils import serialize_byte_tensor

    sent = ModelInferRequest(model_name=asked.model, model_version=version_text(asked.version))
    for name, array in asked.inputs.items():
        datatype = asked.datatype(name)
        sent.inputs.add(name=name, datatype=datatype, shape=array.shape)
        content = serialize_byte_tensor(array.astype(object)).item() if datatype == "BYTES" and array.size else array.tobytes()
        sent.raw_input_contents.append(content if array.size else b"")
    for name in asked.outputs or ():
        sent.outputs.add(name=name)
    return sent


def _array(datatype: str, content: bytes) -> np.ndarray:
    """What Triton sent for one output, without its shape."""
    import numpy as np
    from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

    if datatype == "BYTES":
        return deserialize_bytes_tensor(content)  # type: ignore[no-any-return]
    return np.frombuffer(content, triton_to_np_dtype(datatype))


def client_options(address: ServerAddress) -> dict[str, Any]:
    """What tritonclient is told of TLS."""
    return {"ssl": address.tls, "creds": grpc_credentials(address)}


def channel_args(address: ServerAddress) -> list[tuple[str, Any]]:
    """Messages of any size (as the library has it by itself); a server that is back is noticed at once; the name in its certificate.

    gRPC would look for a dead server more and more seldom, in the end every two minutes, and tell every client of this process that has
    the same address what it saw last.
    """
    arguments: list[tuple[str, Any]] = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    arguments += [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", BACK_MS),
    ]
    if address.certificate_name is not None:
        arguments.append(("grpc.ssl_target_name_override", address.certificate_name))
    return arguments
