"""One small request with a known answer, to ask a model whether it is the one that was validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ServerError
from airflow_triton.repository.manifest import Probe
from airflow_triton.server import TritonClient
from airflow_triton.validation.checks.parity import agree

if TYPE_CHECKING:
    import numpy as np

MOST_ELEMENTS = 16_384
"""A probe with more tensor elements than this is not kept; a text counts by its length."""
RTOL, ATOL = 1e-3, 1e-4
"""How far a live answer may be from the candidate's: the same model, perhaps in another batch or on another replica."""


def make_probe(inputs: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], *, batching: bool) -> Probe | None:
    """The first row (all of it, for a model that does not batch) and what the candidate answered; None where that is too large."""
    first = {name: array[:1] if batching else array for name, array in inputs.items()}
    answer = {name: array[:1] if batching else array for name, array in answers.items()}
    if sum(_size(array) for array in (*first.values(), *answer.values())) > MOST_ELEMENTS:
        return None
    return Probe(inputs=_written(first), outputs=_written(answer))


def check_probe(client: TritonClient, model: str, version: int, probe: Probe | None) -> None:
    """Raise ServerError unless `version` of `model` gives the probe's answer; without a probe nothing is asked."""
    if probe is None:
        return
    answers = client.infer(model, _read(probe.inputs), version=version)
    found = agree(answers, _read(probe.outputs), rtol=RTOL, atol=ATOL)
    if not found.passed:
        raise ServerError(f"{client.address}: version {version} of `{model}` answers otherwise than when it was validated: {found.summary}")


def _size(array: np.ndarray) -> int:
    return array.size + (sum(len(item) for item in array.reshape(-1)) if array.dtype.kind in "OSU" else 0)


def _written(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The arrays as JSON has them: texts as the characters that stand for their UTF-8 bytes, NaN and infinities as text."""
    import math

    from airflow_triton.tensors import datatype_of

    def plain(item: Any) -> Any:
        if isinstance(item, (str, bytes)):
            return (item.encode() if isinstance(item, str) else item).decode("latin-1")
        return str(item) if isinstance(item, float) and not math.isfinite(item) else item

    return {
        name: {
            "datatype": datatype_of(array.dtype),
            "shape": list(array.shape),
            "data": [plain(item) for item in array.reshape(-1).tolist()],
        }
        for name, array in arrays.items()
    }


def _read(written: Mapping[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    import numpy as np
    from tritonclient.utils import triton_to_np_dtype

    def array(tensor: Mapping[str, Any]) -> np.ndarray:
        data = tensor["data"]
        if tensor["datatype"] == "BYTES":
            data = [item.encode("latin-1") if isinstance(item, str) else item for item in data]
        return np.array(data, dtype=triton_to_np_dtype(tensor["datatype"])).reshape(tensor["shape"])

    return {name: array(tensor) for name, tensor in written.items()}
