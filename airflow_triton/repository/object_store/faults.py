"""What object stores and their clients raise, as our errors."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from airflow_triton.errors import RepositoryError, RepositoryUnreachableError

_TRANSIENT = re.compile(
    r"error sending request|could not connect|connection|timed? ?out|dropped|\b(50[0-4]|429)\b|SlowDown|InternalError|ServiceUnavailable|"
    r"IncompleteRead|response body|EOF|reset",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"NoSuchBucket|\(404\) when calling the HeadBucket")
_DENIED = {"PermissionDeniedError", "UnauthenticatedError", "NoCredentialsError", "PartialCredentialsError"}
_DENIED_CODES = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|\b40[13]\b|Forbidden|AuthorizationFailure"
)
_MOST = 400
_BROKEN_OFF = re.compile(r"response body|IncompleteRead|EOF", re.IGNORECASE)
_PAUSES = (0.2, 0.4, 0.8, 1.6)
_Answer = TypeVar("_Answer")


@contextlib.contextmanager
def translated(store: str, doing: str) -> Iterator[None]:
    """Turn whatever a store's client raises into a RepositoryError that says which store, and what was being done.

    An object that is not there (FileNotFoundError) and a condition that does not hold pass: they are answers.
    """
    try:
        yield
    except Exception as error:
        if not is_store_error(error) or is_condition(error):
            raise
        raise described(store, doing, error) from None


def whole(ask: Callable[[], _Answer]) -> _Answer:
    """What `ask`, which changes nothing, answers; it is asked again where the answer broke off.

    The store's client does so only for an object's bytes: not for a list, nor for the answer that there is no such object.
    """
    for pause in _PAUSES:
        try:
            return ask()
        except Exception as error:
            if not is_store_error(error) or not _BROKEN_OFF.search(str(error)):
                raise
            time.sleep(pause)
    return ask()


def is_store_error(error: Exception) -> bool:
    """Whether this came from a store's client."""
    return type(error).__module__.split(".")[0] in ("obstore", "botocore", "boto3", "s3transfer") or (
        isinstance(error, (FileNotFoundError, ValueError, OSError))
        and bool(re.search(r"Object at location|object_store|NoSuchBucket", str(error)))
    )


def is_condition(error: Exception) -> bool:
    """Whether the store refused a write because its condition does not hold."""
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    return type(error).__name__ in ("AlreadyExistsError", "PreconditionError") or code in (
        "PreconditionFailed",
        "412",
        "ConditionalRequestConflict",
    )


def described(store: str, doing: str, error: Exception) -> RepositoryError:
    """The error in one line: who was asked, what for, and what to do where we know."""
    reason = _reason(error)
    if _NO_BUCKET.search(reason):
        return RepositoryError(f"{store}: there is no such bucket ({doing}): make it, or correct the address")
    if type(error).__name__ in _DENIED or _DENIED_CODES.search(reason):
        return RepositoryError(
            f"{store} refuses our credentials ({doing}): {reason}; they come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...), "
            "the machine's role, or the Airflow connection in the address (s3://CONNECTION@bucket/prefix)"
        )
    kind = RepositoryUnreachableError if _TRANSIENT.search(reason) else RepositoryError
    return kind(f"{store} did not do it ({doing}): {reason}")


def _reason(error: Exception) -> str:
    """What the store said, out of what the client made of it: obstore adds a Rust value, over many lines."""
    text = str(error).split("\n\nDebug source:", 1)[0]
    if message := re.search(r"<Code>(?P<code>[^<]*)</Code>.*?<Message>(?P<message>[^<]*)</Message>", str(error), re.DOTALL):
        text = f"{message['code']}: {message['message']}"
    return re.sub(r"\s+", " ", text)[:_MOST]
