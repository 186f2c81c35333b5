"""Where the crash campaign is fought: on a disk, and on an object store.

A ground knows how to put the repository into a state, how to kill a process at one of its kill points, and what must not be left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from crash.records import MODEL, Mapping, Point
from stores import Proxy, Request
from stores.seaweed import SeaweedFS
from tests_support import everything_below
from typing_extensions import Self

from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository, Repository, open_repository
from airflow_triton.repository.object_store.probe import Abilities
from airflow_triton.repository.places import Place

BUCKET, PREFIX = "models", "served"
ABILITIES = "store.json"
SETTINGS = ("--disable-auto-complete-config",)


class Worker:
    """The process that forks for each job (worker.py); a context manager. `folder` takes what the killed leave in $TMPDIR."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self._folder = folder
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        own = {"TMPDIR": str(folder), "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **own, **(environment or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, job: Mapping) -> int:
        """Do the job; answer the exit status of the process that did it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code = int(json.loads(self._process.stdout.readline())["exit"])
        for left in self._folder.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        return code


class Ground(ABC):
    """A repository, the Triton that serves from it, and the process whose children are killed."""

    name: ClassVar[str]
    store: Repository

    def __init__(self, triton: LocalTriton, store: Repository, worker: Worker, folder: Path) -> None:
        self.triton = triton
        self.store = store
        self.folder = folder
        self._worker = worker

    @abstractmethod
    def copied(self) -> Any:
        """The repository and its work area as they are now."""

    @abstractmethod
    def restore(self, snapshot: Any) -> None:
        """Let them be as they were; `snapshot` None: empty. Times are new, or Triton would not look into the files again."""

    @abstractmethod
    def settle(self) -> None:
        """Return when a file that is written from now on is newer than all there are, as Triton tells times."""

    @abstractmethod
    def files(self) -> frozenset[str]:
        """The paths of all files in the repository."""

    @abstractmethod
    def left_over(self) -> list[str]:
        """What lies in the work area, or beside the model, that should not when nobody is at work; in words."""

    @abstractmethod
    def record(self, job: Mapping) -> tuple[int, list[Point]]:
        """Let the job run to its end; its exit status, and all its kill points."""

    @abstractmethod
    def kill(self, job: Mapping, point: Point) -> tuple[int, Point | None]:
        """Let the job run to its death at that point; its exit status, and the point where it died."""

    def fresh_server(self) -> LocalTriton:
        """A server that knows nothing but this repository; not started yet."""
        return LocalTriton(self.triton.repository, extra_args=SETTINGS)

    def _run(self, job: Mapping, **more: Any) -> tuple[int, list[Mapping]]:
        log = self.folder / "points.jsonl"
        log.write_text("")
        code = self._worker.run({"log": str(log), "kill_at": None, "proxy": None, "parts": None, **job, **more})
        return code, [json.loads(line) for line in log.read_text().splitlines()]


def _hooked(rows: list[Mapping]) -> list[Point]:
    """The kill points that the process itself has reported (worker.py)."""
    return [Point(**row, order={"kill_at": number}) for number, row in enumerate(rows, 1)]


class Disk(Ground):
    """A folder on a local disk. A kill point is a call that may change it, as Python reports it."""

    name = "disk"
    store: LocalRepository

    def __init__(self, triton: LocalTriton, worker: Worker, folder: Path) -> None:
        super().__init__(triton, LocalRepository(triton.repository), worker, folder)

    def copied(self) -> Path:
        """See Ground."""
        copy = self.folder / f"start-{time.monotonic_ns()}"
        shutil.copytree(self.store.root, copy / "root")
        shutil.copytree(self.store.work, copy / "work")
        return copy

    def restore(self, snapshot: Path | None) -> None:
        """See Ground."""
        self.store.prepare()
        for folder in (self.store.root, self.store.work):
            for path in folder.iterdir():
                shutil.rmtree(path)
        self.store.prepare()
        if snapshot is not None:
            shutil.copytree(snapshot / "root", self.store.root, copy_function=shutil.copyfile, dirs_exist_ok=True)
            shutil.copytree(snapshot / "work", self.store.work, copy_function=shutil.copyfile, dirs_exist_ok=True)

    def settle(self) -> None:
        """See Ground. They are by the nanosecond."""

    def files(self) -> frozenset[str]:
        """See Ground."""
        return frozenset(everything_below(self.store.root))

    def left_over(self) -> list[str]:
        """See Ground."""
        problems = []
        folders = {path.name for path in self.store.root.iterdir()}
        if folders != {MODEL}:
            problems.append(f"the repository has the folders {folders}")
        work = {path.relative_to(self.store.work).as_posix() for path in self.store.work.rglob("*")}
        if over := {path for path in work - {"locks", "staging", "servables"} if not path.startswith("locks/")}:
            problems.append(f"the work area has {sorted(over)}")
        return problems

    def record(self, job: Mapping) -> tuple[int, list[Point]]:
        """See Ground."""
        code, rows = self._run(job, folders=self._folders)
        return code, _hooked(rows)

    def kill(self, job: Mapping, point: Point) -> tuple[int, Point | None]:
        """See Ground."""
        code, rows = self._run(job, folders=self._folders, **point.order)
        return code, Point(**rows[0], order=point.order) if len(rows) == 1 else None

    @property
    def _folders(self) -> list[str]:
        return [str(self.store.root), str(self.store.work)]


class Store(Ground):
    """A prefix in SeaweedFS, which the killed reach by way of a proxy, and everyone else directly.

    A kill point is a request: before it is passed on and, if it changes something, after it was carried out and before the answer.
    Calls to Triton are kill points as on disk.
    """

    name = "store"

    def __init__(self, triton: LocalTriton, seaweed: SeaweedFS, proxy: Proxy, worker: Worker, folder: Path) -> None:
        super().__init__(triton, open_repository(f"s3://{BUCKET}/{PREFIX}"), worker, folder)
        self._s3 = seaweed.client()
        self._proxy = proxy
        self._pool = ThreadPoolExecutor(8)
        self._work = f".{PREFIX}.airflow-triton"
        self._written = 0.0

    def copied(self) -> dict[str, tuple[bytes, dict[str, str]]]:
        """See Ground."""
        return dict(self._pool.map(self._object, self._keys()))

    def _object(self, key: str) -> tuple[str, tuple[bytes, dict[str, str]]]:
        answer = self._s3.get_object(Bucket=BUCKET, Key=key)
        return key, (answer["Body"].read(), answer["Metadata"])

    def _keys(self, *folders: str) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2")
        found = []
        for folder in folders or (PREFIX, self._work):
            found += [row["Key"] for page in pages.paginate(Bucket=BUCKET, Prefix=f"{folder}/") for row in page.get("Contents", [])]
        return found

    def restore(self, snapshot: dict[str, tuple[bytes, dict[str, str]]] | None) -> None:
        """See Ground. The killed find the store's abilities as they would have noted them, coming by the proxy."""
        for upload in self._uploads():
            self._s3.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
        if keys := sorted(set(self._keys()) - set(snapshot or ())):
            self._s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
        contents = dict(snapshot or {f"{PREFIX}/.airflow-triton": (b"", {})})
        if seen := contents.get(abilities := f"{self._work}/{ABILITIES}"):
            note = Abilities.model_validate_json(seen[0]).model_copy(update={"where": f"{self.store} {self._proxy.endpoint}"})
            contents[abilities] = (note.model_dump_json().encode(), seen[1])
        list(self._pool.map(lambda item: self._put(item[0], *item[1]), contents.items()))
        self._written = time.time()

    def _put(self, key: str, content: bytes, metadata: dict[str, str]) -> None:
        self._s3.put_object(Bucket=BUCKET, Key=key, Body=content, Metadata=metadata)

    def settle(self) -> None:
        """See Ground. Triton reads the times of a store's objects by the second."""
        time.sleep(max(0.0, int(self._written) + 1.02 - time.time()))

    def files(self) -> frozenset[str]:
        """See Ground."""
        return frozenset(file.path for file in self.store.files(Place("models", "")))

    def left_over(self) -> list[str]:
        """See Ground."""
        problems = []
        if over := set(self._keys(self._work)) - {f"{self._work}/{ABILITIES}"}:
            problems.append(f"the work area has {sorted(over)}")
        if uploads := self._uploads():
            problems.append(f"the store has uploads that were begun and not ended: {[upload['Key'] for upload in uploads]}")
        return problems

    def _uploads(self) -> list[Any]:
        found = self._s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [upload for upload in found if upload["Key"].startswith((f"{PREFIX}/", f"{self._work}/"))]

    def record(self, job: Mapping) -> tuple[int, list[Point]]:
        """See Ground."""
        self._proxy.arm()
        code, rows = self._run(job, folders=[])
        self._proxy.wait_idle()
        return code, _requested(self._proxy.requests) + _hooked(rows)

    def kill(self, job: Mapping, point: Point) -> tuple[int, Point | None]:
        """See Ground. Of requests that are sent at once it may be another than was recorded."""
        proxy = point.order.get("proxy")
        self._proxy.arm()
        more = {**point.order, "proxy": {**proxy, "endpoint": self._proxy.endpoint}} if proxy else point.order
        code, rows = self._run(job, folders=[], **more)
        self._proxy.wait_idle()
        if not proxy:
            return code, Point(**rows[0], order=point.order) if len(rows) == 1 else None
        killing = next((request for request in self._proxy.requests if request.fault == f"kill {proxy['when']}"), None)
        died = [point for point in _requested(self._proxy.requests) if killing and point.order == {"proxy": proxy}]
        return code, died[0] if died else None


def _requested(requests: list[Request]) -> list[Point]:
    """The kill points of requests that came one after the other."""
    points = []
    seen = ""
    for request in requests:
        what = site(request)
        if "?delete" in what:  # of several objects at once, which are in its body: those that were looked at before
            what, seen = f"{what} {seen}", f"{seen}, second part"
        else:
            seen = " ".join(word for word in what.split()[1:] if not word.startswith(("?", "if-")))
        whens = ("before", "after") if request.method in ("PUT", "POST", "DELETE") else ("before",)
        points += [Point(when, "", what, {"proxy": {"at": request.number, "when": when}}) for when in whens]
    return points


_OBJECTS = [
    (rf"{PREFIX}/\.airflow-triton", "marker"),
    (rf"{PREFIX}/{MODEL}--candidate-[^/]*(/(?P<rest>.*))?", "candidate"),
    (rf"{PREFIX}/{MODEL}/\d+(/(?P<rest>.*))?", "version"),
    (rf"{PREFIX}/{MODEL}(/(?P<rest>.*))?", ""),
    (rf"\.{PREFIX}\.airflow-triton/locks/.*", "lock"),
    (rf"\.{PREFIX}\.airflow-triton/probe/\w+\.[\w=-]*(?P<rest>.*)", "probe"),
    (rf"\.{PREFIX}\.airflow-triton/servables/{MODEL}/[^/]*(/(?P<rest>.*))?", "servable"),
    (rf"\.{PREFIX}\.airflow-triton/(?P<rest>.*)", "work"),
    (rf"{PREFIX}(/(?P<rest>.*))?", "models"),
]


def site(request: Request) -> str:
    """What a request does to what kind of object: `PUT candidate/config.pbtxt`, `LIST version`, `POST ?uploads version/model.onnx`."""
    query = urllib.parse.parse_qs(request.query, keep_blank_values=True)
    key = request.path.removeprefix(f"/{BUCKET}").strip("/")
    method = request.method
    if "x-amz-copy-source" in request.headers:
        method = "COPY"
    elif "list-type" in query or (method == "GET" and "uploads" in query):
        method, key = ("LIST" if "list-type" in query else "LIST ?uploads"), query.get("prefix", [""])[0].strip("/")
    words = [method, *(f"?{name}" for name in ("uploads", "partNumber", "uploadId", "delete") if name in query and "LIST" not in method)]
    words.append("" if "delete" in query else _kind(key))
    words += [name for name in ("if-match", "if-none-match") if name in request.headers]
    return " ".join(filter(None, words))


def _kind(key: str) -> str:
    for pattern, kind in _OBJECTS:
        if found := re.fullmatch(pattern, key):
            rest = re.sub(r"\b[0-9a-f]{64}\b", "file", found.groupdict().get("rest") or "")
            rest = re.sub(r"^\d+/", "", rest) if kind == "candidate" else rest
            return "/".join(filter(None, (kind, rest.lstrip("/.")))) or "model"
    return key or "bucket"
