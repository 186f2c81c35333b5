"""Bytes to a store, within it, and from it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.places import Item, StoredObject

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from airflow_triton.repository.manifest import FileDigest
    from airflow_triton.repository.object_store.connect import Connection

PART_BYTES = 16 << 20
"""The size of an upload's parts. Larger files go in parts, PARTS at a time and file by file: memory stays flat."""
PARTS = 8
SMALL_FILES = 8
"""Files of less than a part that go at a time."""
COPY_PART_BYTES = 128 << 20
"""Copies inside S3 go in parts of this size: they are faster so, and one request cannot copy more than 5 GB."""
DIGEST = "sha256"
"""The metadata in which an object that we wrote carries the SHA-256 of its content."""


class Transfer:
    """Uploads to one bucket, and copies in it; what is there already with the same SHA-256 is not sent again.

    `read_back`: whether each upload has to be read again to know that it arrived whole, as the store does not check digests.
    """

    def __init__(self, connection: Connection, bucket: str, *, read_back: bool) -> None:
        self._store = connection.store
        self._s3 = connection.s3
        self._bucket = bucket
        self._read_back = read_back

    def put(self, items: Sequence[tuple[str, Item]]) -> None:
        """Let each key hold its item's content."""
        small = [each for each in items if each[1].file.size < PART_BYTES]
        with ThreadPoolExecutor(SMALL_FILES) as pool:
            list(pool.map(lambda each: self._put_one(*each), small))
        for key, item in items:
            if item.file.size >= PART_BYTES:
                self._put_one(key, item)

    def _put_one(self, key: str, item: Item) -> None:
        if self.has(key, item.file):
            return
        if isinstance(item.origin, Path):
            self._upload(key, item.origin, item.file)
        else:
            self._copy(key, item.origin, item.file)

    def has(self, key: str, file: FileDigest) -> bool:
        """Whether the object is there, of that size, and says that it has that SHA-256 (or has it, where uploads are read back)."""
        try:
            found = obstore.get(self._store, key, options={"head": True})
        except FileNotFoundError:
            return False
        same = found.meta["size"] == file.size and found.attributes.get(DIGEST) == file.sha256
        return same and (not self._read_back or self.sha256(key) == file.sha256)

    def _upload(self, key: str, path: Path, file: FileDigest) -> None:
        attributes: Any = {DIGEST: file.sha256}
        obstore.put(self._store, key, path, attributes=attributes, chunk_size=PART_BYTES, max_concurrency=PARTS)
        if self._read_back and self.sha256(key) != file.sha256:
            raise RepositoryError(f"{key} did not arrive as it was sent: the store gives back another content")

    def _copy(self, key: str, origin: StoredObject, file: FileDigest) -> None:
        if self._s3 is None:
            obstore.copy(self._store, origin.key, key)
            return
        from boto3.s3.transfer import TransferConfig

        condition = {"CopySourceIfMatch": origin.etag} if origin.etag else {}
        self._s3.copy(
            {"Bucket": origin.bucket or self._bucket, "Key": origin.key},
            self._bucket,
            key,
            ExtraArgs={"Metadata": {DIGEST: file.sha256}, "MetadataDirective": "REPLACE", **condition},
            Config=TransferConfig(
                multipart_threshold=2 * COPY_PART_BYTES,
                multipart_chunksize=COPY_PART_BYTES,
                max_concurrency=PARTS,
                preferred_transfer_client="classic",  # the other one ignores the endpoint (boto3 #4839)
            ),
        )

    def sha256(self, key: str) -> str:
        """The SHA-256 of an object's content, read in pieces."""
        digest = hashlib.sha256()
        for piece in obstore.get(self._store, key).stream(min_chunk_size=1 << 20):
            digest.update(piece)
        return digest.hexdigest()

    def fetch(self, origin: StoredObject, into: Path) -> None:
        """Write an object's content to a file."""
        with into.open("wb") as stream:
            for piece in obstore.get(self._store, origin.key).stream(min_chunk_size=1 << 20):
                stream.write(piece)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in as few requests as that takes; those that are not there are fine."""
        delete(self._store, keys)

    def unfinished_uploads(self, prefix: str) -> list[tuple[str, str]]:
        """The keys, below a prefix, of uploads that are under way or were broken off, and when each began."""
        rows = self._uploads(prefix)
        return [(row["Key"].removeprefix(prefix), row["Initiated"].astimezone(timezone.utc).isoformat(timespec="seconds")) for row in rows]

    def abandon_uploads(self, prefix: str) -> None:
        """Remove what uploads left below a prefix that were broken off: nobody sees it, and it is paid for."""
        for upload in self._uploads(prefix):
            assert self._s3 is not None
            with _or_none():
                self._s3.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _uploads(self, prefix: str) -> list[Any]:
        if self._s3 is None:
            return []
        found: list[Any] = []
        with _or_none():
            for page in self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix):
                found += page.get("Uploads", [])
        return found


def delete(store: ObjectStore, keys: Iterable[str]) -> None:
    """Remove objects, in as few requests as that takes; those that are not there are fine, also where the store minds (Azure, Google)."""
    listed = list(keys)
    if not listed:
        return
    try:
        obstore.delete(store, listed)
    except FileNotFoundError:
        for key in listed:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(store, key)


@contextlib.contextmanager
def _or_none() -> Iterator[None]:
    """Fine where there is no such upload: it is gone by now, or it is how the server says that there is none at all (rclone)."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
            raise
