"""Where the data of a spec lies: on disk, on an object store, or in MLflow; brought to the workspace once."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_triton.errors import RepositoryUnreachableError, SpecError, ValidationDataError
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.repository.object_store.address import StoreAddress

if TYPE_CHECKING:
    from airflow_triton.repository.object_store.connect import SessionLookup

FORMS = "s3://BUCKET/FILE, s3://http://HOST:PORT/BUCKET/FILE, s3://CONNECTION@BUCKET/FILE, gs://BUCKET/FILE, as://ACCOUNT/CONTAINER/FILE"

_RUN_FILE = re.compile(r"runs:/(?P<run_id>[^/]+)/(?P<path>.+)")
_ARTIFACT, _DATASET = "artifact:", "dataset:"
_AWAY = re.compile(r"Max retries exceeded|timed? ?out|[Cc]onnection|\b50[0-4]\b")


@dataclass(frozen=True)
class Places:
    """Finds the data for one model version, or for none (`source` None): then it has no run of its own.

    `folder` is where downloads go; `registry` the MLflow that the version `source` is in; `lookup` turns the id of an Airflow connection
    into a boto3 session, for s3://CONNECTION@BUCKET/FILE.
    """

    folder: Path
    registry: Registry
    source: ModelSource | None
    lookup: SessionLookup | None = None

    def bring(self, location: str) -> Path:
        """The file at a location of the spec (`validate.data`, `validate.golden.data`), on this disk.

        A path stays where it is. Anything else is downloaded, once for each `folder`: an object of a store; `runs:/RUN_ID/FILE` and
        `artifact:FILE`, an artifact of a run or of the version's own run; `dataset:NAME`, an MLflow dataset that this run logged.

        Raises:
            SpecError: it is no address of a file on a store.
            ValidationDataError: there is no such file, artifact or dataset, or a dataset cannot be read.
            RegistryError: MLflow has no such run, or does not answer (RegistryUnreachableError).
            RepositoryError: there is no such bucket, the store refuses the credentials, or does not answer (RepositoryUnreachableError).

        """
        if not location.startswith((_ARTIFACT, _DATASET, "runs:/")) and "://" not in location:
            return Path(location)
        into = self.folder / hashlib.sha256(location.encode()).hexdigest()[:12]
        complete = into / ".complete"  # written last: a download that was broken off is begun again
        if not complete.is_file():
            into.mkdir(parents=True, exist_ok=True)
            complete.write_text(str(self._brought(location, into)))
        return Path(complete.read_text())

    def _brought(self, location: str, into: Path) -> Path:
        if location.startswith(_DATASET):
            return self._dataset(location.removeprefix(_DATASET), into)
        if location.startswith(_ARTIFACT):
            return self._artifact(self._own_run(location), location.removeprefix(_ARTIFACT), into)
        if found := _RUN_FILE.fullmatch(location):
            return self._artifact(found["run_id"], found["path"], into)
        return self._object(location, into)

    def _own_run(self, location: str) -> str:
        if self.source is None:
            raise ValidationDataError(
                f"{location} is of a model version's own run, and there is no version here: name the run, runs:/RUN_ID/FILE"
            )
        if self.source.run_id is None:
            raise ValidationDataError(f"{location}: {self.source} was registered without a run, which would have artifacts and datasets")
        return self.source.run_id

    def _artifact(self, run_id: str, path: str, into: Path) -> Path:
        file = self.registry.artifact(run_id, path, into)
        if not file.is_file():
            raise ValidationDataError(f"{path} of the run {run_id} is a folder: name a file in it")
        return file

    def _object(self, location: str, into: Path) -> Path:
        import obstore

        from airflow_triton.repository.object_store.connect import Deadlines, connect
        from airflow_triton.repository.object_store.faults import translated

        try:
            address = StoreAddress.parse(location)
        except SpecError:
            raise SpecError(f"`{_without_secrets(location)}` is no address of a file on a store; valid: {FORMS}") from None
        if address.connection and self.lookup is None:
            raise SpecError(f"`{location}` names the Airflow connection `{address.connection}`, and there is no Airflow here")
        file = into / address.prefix.rpartition("/")[2]
        store = connect(address, lookup=self.lookup, deadlines=Deadlines()).store
        with translated(location, "read the data"), file.open("wb") as stream:
            try:
                found = obstore.get(store, address.prefix)
            except FileNotFoundError:
                raise ValidationDataError(f"there is no data file {location} to validate with") from None
            for piece in found.stream(min_chunk_size=1 << 20):
                stream.write(piece)
        return file

    def _dataset(self, name: str, into: Path) -> Path:
        run_id = self._own_run(f"dataset:{name}")
        logged = self.registry.datasets(run_id)
        named = {each.dataset.digest: each for each in logged if each.dataset.name == name}
        if not named:
            names = ", ".join(sorted({each.dataset.name for each in logged})) or "none"
            raise ValidationDataError(f"the run {run_id} of {self.source} logged no dataset `{name}`; it logged: {names}")
        if len(named) > 1:
            raise ValidationDataError(f"the run {run_id} of {self.source} logged {len(named)} datasets `{name}`: name the file itself")
        return _loaded(f"the dataset `{name}` of the run {run_id}", next(iter(named.values())), into)


def _loaded(what: str, logged: Any, into: Path) -> Path:
    """The file that a logged dataset was made of, or its rows in a file of ours."""
    import mlflow.data

    kind = logged.dataset.source_type
    if kind == "code":
        raise ValidationDataError(
            f"{what} was made by code, which is all that MLflow knows of its source: log it with a source, such as "
            'mlflow.data.from_pandas(frame, source="s3://BUCKET/FILE.parquet"), or name a file'
        )
    try:
        source: Any = mlflow.data.get_source(logged)
        if kind == "local":
            return _file(_on_disk(source.uri), what)
        found = source.load(dst_path=str(into)) if hasattr(source, "uri") or hasattr(source, "url") else source.load()
        return _file(Path(found), what) if isinstance(found, (str, Path)) else _saved(found, into)
    except ValidationDataError:
        raise
    except Exception as error:  # noqa: BLE001 - each kind of source raises what its own library does
        reason = _without_secrets(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        problem = RepositoryUnreachableError if _AWAY.search(reason) else ValidationDataError
        raise problem(f"{what} cannot be read from its source ({kind}): {reason}") from None


def _on_disk(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else Path(uri)


def _file(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ValidationDataError(f"{what} was made of {path}, which is {'a folder' if path.is_dir() else 'not there'}: a file is needed")
    return path


def _saved(rows: Any, into: Path) -> Path:
    """Rows that a source gave as an object (a Hugging Face dataset, say), as a Parquet file."""
    frame = rows.to_pandas() if hasattr(rows, "to_pandas") else rows.toPandas() if hasattr(rows, "toPandas") else rows
    if not hasattr(frame, "to_parquet"):
        raise TypeError(f"MLflow gives it as {type(rows).__name__}, which is no table")
    path = into / "rows.parquet"
    frame.to_parquet(path, index=False)
    return path


def _without_secrets(text: str) -> str:
    """The text without user names, passwords and queries of URLs, which may hold signatures."""
    return re.sub(r"\?\S+", "?***", re.sub(r"//[^/\s]+@", "//***@", text))
