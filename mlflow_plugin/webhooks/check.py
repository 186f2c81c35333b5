"""Whether a delivery comes from the MLflow server that has our secret, whole and now."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

SECRET_VARIABLE = "AIRFLOW_TRITON_WEBHOOK_SECRET"  # noqa: S105 the name of a variable
MAX_AGE = 300.0
"""Seconds. MLflow tries a delivery again for some minutes, with the time of the first attempt."""
MOST_BYTES = 1024 * 1024
"""The largest body; MLflow's events have some hundred bytes, and at most a model's tags and description."""

_ID, _TIME, _SIGNATURE = "x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"
_MOST_CHARACTERS = 200


class RefusedDeliveryError(Exception):
    """A delivery that is not let in: the HTTP status that it is answered with, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Delivery:
    """A delivery that was let in. The id is MLflow's: an attempt that is made again has the same."""

    id: str
    body: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the body, in hex."""
        return hashlib.sha256(self.body).hexdigest()


def signature(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """What MLflow signs a delivery with: HMAC-SHA256 over id, time and body."""
    signed = b".".join((delivery_id.encode(), timestamp.encode(), body))
    return f"v1,{base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()}"


def check(headers: Mapping[str, str], body: bytes, *, secret: str, now: float, max_age: float = MAX_AGE) -> Delivery:
    """The delivery, where its signature is right and its time within `max_age` seconds of `now`. Header names are in lower case.

    Raises:
        RefusedDeliveryError: 401.

    """
    delivery_id, timestamp, signed = (headers.get(name, "") for name in (_ID, _TIME, _SIGNATURE))
    if not (delivery_id and timestamp and signed):
        raise RefusedDeliveryError(401, "a delivery has the headers X-MLflow-Delivery-Id, X-MLflow-Timestamp and X-MLflow-Signature")
    if not _is_signed(signed, signature(secret, delivery_id, timestamp, body)):
        raise RefusedDeliveryError(401, "the signature is wrong: the webhook in MLflow has another secret than this receiver")
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(now - int(timestamp)) > max_age:
        raise RefusedDeliveryError(401, f"the delivery was signed more than {max_age:g} s ago, or ahead of time: compare the clocks")
    if len(delivery_id) > _MOST_CHARACTERS:
        raise RefusedDeliveryError(401, f"the delivery's id has more than {_MOST_CHARACTERS} characters")
    return Delivery(delivery_id, body)


def _is_signed(came: str, expected: str) -> bool:
    """Compare in a time that tells nothing; what is no signature at all is none."""
    try:
        return hmac.compare_digest(_bytes(came), _bytes(expected))
    except (ValueError, binascii.Error):
        return False


def _bytes(text: str) -> bytes:
    version, _, encoded = text.partition(",")
    if version != "v1":
        raise ValueError(version)
    return base64.b64decode(encoded, validate=True)
