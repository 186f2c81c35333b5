"""What a store really does, asked of it once: promises are no proof.

Several servers that speak S3 ignore the conditions of a write silently, one honours them without being atomic, and one answers 200
for what it has mangled. A release must not depend on such a server by accident.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
import obstore.exceptions
from pydantic import BaseModel, ConfigDict

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.manifest import now
from airflow_triton.repository.object_store.connect import Connection
from airflow_triton.repository.object_store.faults import is_condition
from airflow_triton.repository.object_store.owners import is_dead, this_process
from airflow_triton.repository.object_store.transfer import delete

if TYPE_CHECKING:
    from obstore import PutMode, PutResult, UpdateVersion

_RACERS = 8
_LONG = timedelta(hours=1)
_CONTENT = b"airflow-provider-triton asks what this store does"


class Abilities(BaseModel):
    """What was seen of a store, when. `where` is the address that was asked: seen elsewhere, it has to be seen again.

    `conditional_writes`: a create and an update are refused where they must be, and of several at once exactly one wins.
    `checks_digests`: an upload whose SHA-256 does not fit is refused; where it is not, every upload is read back.
    """

    model_config = ConfigDict(frozen=True)

    where: str
    conditional_writes: bool
    why_not: str = ""
    checks_digests: bool
    at: str


def probe(connection: Connection, where: str, folder: str, bucket: str) -> Abilities:
    """Ask the store, with a few small objects in `folder` that are gone afterwards, as are those of one that was killed.

    Raises:
        RepositoryError: the store gives back something else than was written.

    """
    owner = base64.urlsafe_b64encode(this_process().encode()).decode()
    key = f"{folder}/{uuid.uuid4().hex}.{owner}"
    left: list[str] = []
    try:
        why_not = _condition_not_kept(connection, key)
        with contextlib.suppress(FileNotFoundError):
            if bytes(obstore.get(connection.store, key).bytes()) not in (_CONTENT, b"changed"):
                raise RepositoryError(f"{where} gives back something else than was written to it: it cannot hold models")
        checks = _checks_digests(connection, f"{key}.digest", bucket)
        left = _left(connection, folder, key)
    finally:
        delete(connection.store, [key, f"{key}.race", f"{key}.digest", *left])
    return Abilities(where=where, conditional_writes=not why_not, why_not=why_not, checks_digests=checks, at=now())


def _left(connection: Connection, folder: str, key: str) -> list[str]:
    """What others left who were killed while they asked: processes of this machine that are dead, and whoever began long ago.

    `key` was written just now, so that its time and the others' are by one clock, the store's.
    """
    rows = {row["path"]: row["last_modified"] for page in obstore.list(connection.store, f"{folder}/") for row in page}
    now_there = rows.get(key)
    return [path for path, at in rows.items() if _is_of_the_dead(path) or (now_there is not None and now_there - at > _LONG)]


def _is_of_the_dead(path: str) -> bool:
    try:
        return is_dead(base64.urlsafe_b64decode(path.rpartition("/")[2].split(".")[1]).decode())
    except (IndexError, ValueError):
        return False  # not ours, or of an older release


def _condition_not_kept(connection: Connection, key: str) -> str:
    """Which condition the store does not keep, in words; empty where it keeps all."""
    store = connection.store
    try:
        created = obstore.put(store, key, _CONTENT, mode="create")
    except obstore.exceptions.NotSupportedError:
        return "it refuses a create (If-None-Match)"
    if _wins(connection, key, "create"):
        return "a create (If-None-Match) overwrites what is there"
    if _wins(connection, key, {"e_tag": '"0123456789abcdef0123456789abcdef"'}):
        return "an update (If-Match) overwrites what is not as expected"
    try:
        obstore.put(store, key, b"changed", mode=unchanged(created))
    except (obstore.exceptions.NotSupportedError, obstore.exceptions.PreconditionError):
        return "it refuses an update (If-Match) of what is as expected"
    with ThreadPoolExecutor(_RACERS) as pool:
        winners = sum(pool.map(lambda _: _wins(connection, f"{key}.race", "create"), range(_RACERS)))
    return "" if winners == 1 else f"of {_RACERS} creates at once {winners} succeed"


def unchanged(result: PutResult) -> UpdateVersion:
    """The condition that an object is still what an earlier write made it."""
    condition: UpdateVersion = {"e_tag": result["e_tag"]}
    if result["version"]:
        condition["version"] = result["version"]
    return condition


def _wins(connection: Connection, key: str, mode: PutMode) -> bool:
    try:
        obstore.put(connection.store, key, _CONTENT, mode=mode)
    except Exception as error:
        if not is_condition(error):
            raise
        return False
    return True


def _checks_digests(connection: Connection, key: str, bucket: str) -> bool:
    """Whether an upload with a wrong SHA-256 is refused; only S3 takes one."""
    if connection.s3 is None:
        return False
    wrong = base64.b64encode(hashlib.sha256(b"something else").digest()).decode()
    try:
        connection.s3.put_object(Bucket=bucket, Key=key, Body=_CONTENT, ChecksumSHA256=wrong)
    except Exception as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        if code in ("BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest", "InvalidRequest", "XAmzContentSHA256Mismatch"):
            return True
        raise
    return False
