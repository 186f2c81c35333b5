"""A model repository below a prefix of an object store."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.base import MODELS, WORK, Repository, decoded
from airflow_triton.repository.layout import candidates_of, check_model_name, is_candidate
from airflow_triton.repository.object_store.address import StoreAddress
from airflow_triton.repository.object_store.connect import Connection, Deadlines, SessionLookup, connect
from airflow_triton.repository.object_store.faults import is_condition, translated, whole
from airflow_triton.repository.places import Item, Origin, Place, StoredConfig, StoredFile, StoredObject, Upload, etag_of

if TYPE_CHECKING:
    from airflow_triton.repository.object_store.lease import Lease
    from airflow_triton.repository.object_store.probe import Abilities
    from airflow_triton.repository.object_store.transfer import Transfer

LOCK_FOLDER_VARIABLE = "AIRFLOW_TRITON_LOCK_FOLDER"
ABILITIES = WORK / "store.json"
MARKER = MODELS / ".airflow-triton"
_LIST = 1000


class ObjectRepository(Repository):
    """A repository on S3, Google Cloud Storage or Azure, or whatever `connection` opens.

    Guarantee: config.pbtxt changes only under the store's own condition that it is what was seen. A store that does not keep
    such conditions is refused before anything is written, unless `lock_folder` (or AIRFLOW_TRITON_LOCK_FOLDER in the
    environment) names a folder that all publishers share: then a file lock there stands in for the condition.

    Args:
        address: the bucket and the prefix.
        session: a boto3 session to take S3's credentials and region from; else the address's connection, else boto3's own chain.
        lookup: from the id of an Airflow connection to a session.
        deadlines: how patient to be.
        lock_folder: see above.
        connection: an open bucket, in place of one that is made of the address.

    """

    new_times = True
    """Whether config.pbtxt gets a new time with every change, for which it has to wait up to a second: by the time Triton tells changes."""

    def __init__(
        self,
        address: StoreAddress,
        *,
        session: Any = None,
        lookup: SessionLookup | None = None,
        deadlines: Deadlines | None = None,
        lock_folder: str | Path | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.address = address
        self._session = session
        self._lookup = lookup
        self._deadlines = deadlines or Deadlines()
        chosen = lock_folder or os.environ.get(LOCK_FOLDER_VARIABLE)
        self._lock_folder = Path(chosen) if chosen else None
        self._given = connection
        self._held: list[Lease] = []

    def __str__(self) -> str:
        return str(self.address)

    @cached_property
    def _connection(self) -> Connection:
        return self._given or connect(self.address, session=self._session, lookup=self._lookup, deadlines=self._deadlines)

    def key(self, place: Place) -> str:
        """A place as a key of the bucket."""
        root = self.address.prefix if place.area == "models" else self.address.work_prefix
        return f"{root}/{place.path}" if place.path else root

    def where(self, place: Place) -> str:
        """See Repository."""
        return f"{self.address.scheme}://{self.address.bucket}/{self.key(place)}"

    def _asked(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return translated(str(self), doing)

    def check_exists(self) -> None:
        """See Repository: the bucket is there, lets us in, and keeps the conditions of a write (or a lock folder was chosen)."""
        _ = self.abilities
        self.make()

    def make(self) -> None:
        """See Repository. Triton does not start on a prefix without an object: one is put there that it takes for no model."""
        if self.read(MARKER) is None:
            self._write(MARKER, "")

    @cached_property
    def abilities(self) -> Abilities:
        """What this store was seen to do: asked once, and remembered in the work area."""
        from airflow_triton.repository.object_store.probe import Abilities, probe

        where = f"{self} {self._connection.endpoint}".strip()
        seen = self.read(ABILITIES)
        if seen is not None:
            with contextlib.suppress(ValueError):
                remembered = Abilities.model_validate_json(seen.text)
                if remembered.where == where:
                    return self._accepted(remembered)
        with self._asked("see whether it keeps the conditions of a write"):
            found = probe(self._connection, where, self.key(WORK / "probe"), self.address.bucket)
            accepted = self._accepted(found)
            self._write(ABILITIES, found.model_dump_json(indent=1))
        return accepted

    def _accepted(self, found: Abilities) -> Abilities:
        if not found.conditional_writes and self._lock_folder is None:
            raise RepositoryError(
                f"{self} does not keep the conditions of a write: {found.why_not}. Two publishers at once would overwrite each other and "
                f"nobody would know. Use a store that keeps them, or set {LOCK_FOLDER_VARIABLE} to a folder that every publisher of this "
                "repository shares (a lock there takes the place of the condition)"
            )
        return found

    @cached_property
    def _transfer(self) -> Transfer:
        from airflow_triton.repository.object_store.transfer import Transfer

        return Transfer(self._connection, self.address.bucket, read_back=not self.abilities.checks_digests)

    @cached_property
    def _reader(self) -> Transfer:
        """For what writes nothing: the store need not be probed for it."""
        from airflow_triton.repository.object_store.transfer import Transfer

        return Transfer(self._connection, self.address.bucket, read_back=False)

    # --- reading

    def folders(self, place: Place) -> list[str]:
        """See Repository. Told from the objects in them: a store over a file system (SeaweedFS) lists folders that are empty, too."""
        return sorted({file.path.partition("/")[0] for file in self.files(place) if "/" in file.path})

    def candidates(self, model: str) -> list[str]:
        """See Repository. Told from the names of the folders, and not from all objects in them."""
        import obstore

        prefix = f"{self.key(MODELS)}/"
        with self._asked(f"list {self.where(MODELS)}"):
            folders = whole(lambda: obstore.list_with_delimiter(self._connection.store, prefix)["common_prefixes"])
        names = candidates_of(model, (folder.removeprefix(prefix) for folder in folders))
        return sorted(name for name in names if self.files(MODELS / name))

    def all_versions(self) -> dict[str, list[int]]:
        """See Repository: of one listing."""
        found: dict[str, set[int]] = {}
        for model, version, *below in (file.path.split("/", 2) for file in self.files(MODELS) if "/" in file.path):
            versions = found.setdefault(model, set())
            if below and version.isdecimal():
                versions.add(int(version))
        return {model: sorted(versions) for model, versions in sorted(found.items()) if not is_candidate(model)}

    def files(self, place: Place) -> list[StoredFile]:
        """See Repository."""
        import obstore

        prefix = f"{self.key(place)}/"
        with self._asked(f"list {self.where(place)}"):
            listed = whole(lambda: [row for page in obstore.list(self._connection.store, prefix, chunk_size=_LIST) for row in page])
        return sorted((StoredFile(row["path"].removeprefix(prefix), row["size"]) for row in listed), key=lambda row: row.path)

    def read(self, place: Place) -> StoredConfig | None:
        """See Repository."""
        import obstore

        with self._asked(f"read {self.where(place)}"):
            try:
                answer = whole(lambda: obstore.get(self._connection.store, self.key(place)))
                content, etag = bytes(answer.bytes()), answer.meta["e_tag"]
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None
        return StoredConfig(decoded(content, self.where(place)), str(etag))

    def sha256(self, place: Place) -> str:
        """See Repository."""
        with self._asked(f"read {self.where(place)}"):
            return self._reader.sha256(self.key(place))

    def origin(self, place: Place) -> Origin:
        """See Repository."""
        return StoredObject(self.key(place))

    def fetch(self, origin: Origin, into: Path) -> None:
        """See Repository."""
        if isinstance(origin, Path):
            raise RepositoryError(f"{origin} lies on this machine, not in {self}")
        with self._asked(f"read {origin.key}"):
            self._reader.fetch(origin, into)

    def lying_at(self, uri: str) -> dict[str, StoredObject]:
        """See Repository. Each object is copied only as long as it is what was listed."""
        from airflow_triton.repository.object_store.neighbour import objects_at

        return objects_at(self._connection, uri)

    # --- writing

    @contextlib.contextmanager
    def new_staging(self) -> Iterator[Path]:
        """See Repository."""
        with tempfile.TemporaryDirectory(prefix="airflow-triton-") as folder:
            yield Path(folder)

    def put(
        self,
        place: Place,
        items: Sequence[Item],
        *,
        first: Mapping[str, str] | None = None,
        last: Mapping[str, str] | None = None,
        replace: bool = False,
    ) -> bool:
        """See Repository."""
        last, first = last or {}, first or {}
        if last and not replace and all(self.read(place / name) is not None for name in last):
            return False
        for name, text in first.items():
            self._write(place / name, text)
        if replace:
            with self._asked(f"clear {self.where(place)}"):
                self._guard()
                self._transfer.abandon_uploads(f"{self.key(place)}/")  # of one that was killed: nobody else writes here
        pairs = [(self.key(place / item.file.path), item) for item in items]
        with self._asked(f"write {self.where(place)}"):
            for group in (pairs[:-1], pairs[-1:]):
                self._guard()
                self._transfer.put(group)
        self._settle(place, items, {*first, *last}, replace=replace)
        for name, text in last.items():
            self._write(place / name, text)
        return True

    def _settle(self, place: Place, items: Sequence[Item], notes: set[str], *, replace: bool) -> None:
        """See that every object has its size; with `replace`, remove what else lies there."""
        found = {file.path: file.size for file in self.files(place)}
        wrong = [item.file.path for item in items if found.get(item.file.path) != item.file.size]
        if wrong:
            raise RepositoryError(f"{self.where(place)}: {', '.join(wrong)} did not arrive whole, although the store said so")
        if replace and (over := set(found) - notes - {item.file.path for item in items}):
            with self._asked(f"clear {self.where(place)}"):
                self._guard()
                self._transfer.delete(self.key(place / path) for path in over)

    def remove(self, place: Place) -> None:
        """See Repository."""
        paths = [file.path for file in self.files(place)]
        notes = [path for path in paths if "/" not in path and path.endswith(".json")]
        with self._asked(f"remove {self.where(place)}"):
            self._guard()
            self._transfer.abandon_uploads(f"{self.key(place)}/")
            for group in ([path for path in paths if path not in notes], notes):
                self._transfer.delete(self.key(place / path) for path in group)

    def unfinished_uploads(self) -> list[Upload]:
        """See Repository; of S3 alone."""
        with self._asked("list the uploads that are not finished"):
            return [
                Upload(area / key, since) for area in (MODELS, WORK) for key, since in self._reader.unfinished_uploads(f"{self.key(area)}/")
            ]

    def _write(self, place: Place, text: str, mode: Any = "overwrite") -> str:
        import obstore

        with self._asked(f"write {self.where(place)}"):
            self._guard()
            return str(obstore.put(self._connection.store, self.key(place), text.encode(), mode=mode, use_multipart=False)["e_tag"])

    def _guard(self) -> None:
        """Raise ConflictError where a lock that protects this write may be lost."""
        for lease in self._held:
            lease.check()

    # --- the lock and the commit

    @contextlib.contextmanager
    def locked(self, model: str) -> Iterator[None]:
        """See Repository: a lease in the store, or a file lock in the lock folder."""
        place = WORK / "locks" / f"{check_model_name(model)}.json"
        if not self.abilities.conditional_writes and self._lock_folder:
            name = hashlib.sha256(self.where(place).encode()).hexdigest()
            self._lock_folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock_folder / f"{name}.lock"):
                yield
            return
        from airflow_triton.repository.object_store.lease import Lease

        lease = Lease(self._connection.store, self.key(place))
        with self._asked(f"lock `{model}`"):
            lease.acquire()
        self._held.append(lease)
        try:
            yield
        finally:
            self._held.remove(lease)
            lease.release()

    def _swap(self, place: Place, text: str | None, *, expected: str | None) -> str | None:
        if text is not None and expected is not None and self.new_times:
            self._await_new_time(place)
        if text is None or not self.abilities.conditional_writes:
            if etag_of(self.read(place)) != expected:
                raise self._overtaken(place)
            if text is not None:
                return self._write(place, text)
            if expected is not None:
                self._delete(place, expected)
            return None
        try:
            return self._write(place, text, mode={"e_tag": expected} if expected else "create")
        except Exception as error:
            stored = None if not (is_condition(error) or isinstance(error, RepositoryError)) else self.read(place)
            if stored is not None and stored.text == text:
                return stored.etag  # it went through, and the answer was lost
            if is_condition(error):
                raise self._overtaken(place) from None
            raise

    def _await_new_time(self, place: Place) -> None:
        """Wait until what is written now will not have the time of the file that it replaces.

        A store tells times in whole seconds. The lock, which was written a moment ago, tells what time it is there.
        """
        import obstore

        if not self._held:  # a lock folder: nobody tells the store's time
            time.sleep(1.0)
            return
        with self._asked(f"look at {self.where(place)}"), contextlib.suppress(FileNotFoundError):
            lock, file = (obstore.head(self._connection.store, key)["last_modified"] for key in (self._held[-1].key, self.key(place)))
            if lock <= file:
                time.sleep(1.0)

    def _delete(self, place: Place, expected: str) -> None:
        """Remove a file that had this etag when it was looked at; where the store can, only if it still has."""
        from airflow_triton.repository.object_store.transfer import delete

        try:
            with self._asked(f"remove {self.where(place)}"):
                self._guard()
                if not self._delete_on_condition(self.key(place), expected):
                    delete(self._connection.store, [self.key(place)])
        except Exception as error:
            if not is_condition(error):
                raise
            if self.read(place) is not None:
                raise self._overtaken(place) from None  # else it went through, and the answer was lost

    def _delete_on_condition(self, key: str, etag: str) -> bool:
        """Ask S3 to remove what has this etag and nothing else; false where the store, or an old boto3, knows no such request."""
        if self._connection.s3 is None:
            return False
        from botocore.exceptions import ClientError, ParamValidationError

        try:
            self._connection.s3.delete_object(Bucket=self.address.bucket, Key=key, IfMatch=etag)
        except ParamValidationError:
            return False
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NotImplemented":
                raise
            return False
        return True
