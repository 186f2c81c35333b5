"""The process that is killed: it runs one phase of a deployment for real, and SIGKILLs itself at the Nth kill point.

A kill point is the instant before a call that may change the repository or its work area (as Python's own audit hook sees it: open for
writing, mkdir, rename, link, remove, rmdir, ...), before an fsync, a write or a lock of a file there (for which there is no audit
event, or none with a path; the profiler sees them), and before a call to the server. Nothing of the package is replaced.

Started with no arguments it reads jobs from stdin, one JSON object in a line, forks for each (so that the imports are paid once), and
answers with the child's exit status. Job: `spec`, `phase`, `arguments`, `folders` (whose files count), `kill_at` (null: never), `log`,
`proxy` (null, or `endpoint`, `at` and `when`: the request at which the proxy is to kill it), `parts` (null, or the size of parts).
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import boto3.s3.transfer  # noqa: F401 - before the fork, as are the others
import mlflow  # noqa: F401
import obstore.auth.boto3  # noqa: F401
import tritonclient.grpc  # noqa: F401
from stores.proxy import arm

import airflow_triton
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.repository.object_store import lease, neighbour, probe, transfer  # noqa: F401
from airflow_triton.rollout import Candidate, Converted, Rollout, delete, find_target, opened, rollback
from airflow_triton.spec import spec_from_mapping
from airflow_triton.validation import ValidationReport

CHANGING = {
    "os.mkdir": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.utime": 1,
    "os.setxattr": 1,
    "os.removexattr": 1,
    "shutil.copyfile": 2,
    "shutil.move": 2,
}
"""Audit events of calls that change something, with the number of their arguments that are paths."""
ON_FILES = {
    "fsync",
    "fdatasync",
    "flock",
    "lockf",
    "write",
    "writelines",
    "pwrite",
    "truncate",
    "ftruncate",
    "fchmod",
    "fchown",
    "sendfile",
}
"""C functions on open files; their audit events, where they have any, name no path."""
SERVER = {"load", "unload", "wait_ready", "wait_unloaded", "infer", "check_live", "index", "is_ready"}
"""Methods of TritonClient."""

PACKAGE = str(Path(airflow_triton.__file__).parent) + os.sep
CLIENT = str(Path(PACKAGE, "server", "client.py"))


class KillPoints:
    """Counts the kill points of this process from now on, and dies at the chosen one."""

    def __init__(self, folders: list[str], kill_at: int | None, log: str) -> None:
        self.folders = tuple(folders)
        self.kill_at = kill_at
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.count = 0
        self.busy = False

    def start(self) -> None:
        """Look from here on; there is no way to stop."""
        sys.addaudithook(self._audit)
        sys.setprofile(self._profile)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self.busy or (event != "open" and event not in CHANGING):
            return
        self.busy = True
        try:
            path = self._changed(event, args)
            if path:
                self._reached(event, path, sys._getframe(1))
        finally:
            self.busy = False

    def _changed(self, event: str, args: tuple[Any, ...]) -> str | None:
        """The path that the call may change, if it is one of ours."""
        if event == "open":
            writing = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            return self._ours(args[0]) if writing else None
        at = (
            next((fd for fd in args[CHANGING[event] :] if isinstance(fd, int) and fd >= 0), None)
            if event in ("os.remove", "os.rmdir")
            else None
        )
        paths = [self._ours(path, at) for path in args[: CHANGING[event]]]
        found = next((path for path in reversed(paths) if path), None)
        if event == "os.mkdir" and found and Path(found).is_dir():
            return None  # changes nothing: `mkdir(exist_ok=True)` of a folder that is there
        return found

    def _ours(self, path: Any, at: int | None = None) -> str | None:
        """The absolute path, if it lies in one of the folders."""
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        elif at is not None:
            path = Path(f"/proc/self/fd/{at}").readlink() / os.fsdecode(path)
        path = str(Path(os.fsdecode(path)).absolute())
        return path if path.startswith(self.folders) else None

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if self.busy:
            return
        if event == "c_call" and arg.__name__ in ON_FILES:
            self.busy = True
            try:
                path = self._file(arg, frame)
                if path:
                    self._reached(arg.__name__, path, frame)
            finally:
                self.busy = False
        elif event == "call" and frame.f_code.co_filename == CLIENT and frame.f_code.co_name in SERVER:
            if frame.f_back and frame.f_back.f_code.co_filename == CLIENT:
                return  # one of many questions while it waits
            self._reached("server", frame.f_code.co_name, frame.f_back or frame)

    def _file(self, function: Any, frame: FrameType) -> str | None:
        """The path of the open file that a C function is called on: its owner, or one of the caller's variables that is a descriptor."""
        owner = getattr(function, "__self__", None)
        name = getattr(owner, "name", None)
        if isinstance(name, (str, int, os.PathLike)):
            return self._ours(name)
        for descriptor in [value for value in frame.f_locals.values() if isinstance(value, int) and value > 2] + [
            value.fileno() for value in frame.f_locals.values() if hasattr(value, "fileno") and not getattr(value, "closed", True)
        ]:
            try:
                if stat.S_IFMT(os.fstat(descriptor).st_mode) in (stat.S_IFREG, stat.S_IFDIR) and (found := self._ours(descriptor)):
                    return found
            except OSError:
                continue
        return None

    def _reached(self, event: str, path: str, frame: FrameType) -> None:
        self.count += 1
        line = {"event": event, "path": path, "site": _site(frame)}
        if self.kill_at is None or self.kill_at == self.count:
            os.write(self.log, json.dumps(line).encode() + b"\n")
        if self.kill_at == self.count:
            os.kill(os.getpid(), signal.SIGKILL)


def _site(frame: FrameType | None) -> str:
    """Where in our package this is: the nearest `module:function:line`."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return f"{file.removeprefix(PACKAGE).removesuffix('.py').replace(os.sep, '.')}:{frame.f_code.co_name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _rollback(rollout: Rollout, arguments: dict[str, Any]) -> None:
    rollback(rollout.spec.name, store=rollout.store, servers=rollout.servers, registry=rollout.registry, to=arguments["to"])


PHASES: dict[str, Callable[[Rollout, dict[str, Any]], Any]] = {
    "convert": lambda rollout, given: rollout.convert(ModelSource.model_validate(given["source"])),
    "stage": lambda rollout, given: rollout.stage(Converted.model_validate(given["converted"]), given["config"]),
    "promote": lambda rollout, given: rollout.promote(
        Candidate.model_validate(given["candidate"]), ValidationReport.model_validate(given["report"])
    ),
    "clean up": lambda rollout, given: rollout.clean_up(ModelSource.model_validate(given["source"])),
    "rollback": _rollback,
    "delete": lambda rollout, _: delete(rollout.spec.name, rollout.fleets, rollout.registry),
}
"""What a job may do: the package's own functions, with what the step before handed on."""


def _run(job: dict[str, Any]) -> None:
    spec = spec_from_mapping(job["spec"])
    target = find_target(spec)
    points = KillPoints(job["folders"], job["kill_at"], job["log"])
    if job["parts"]:
        transfer.PART_BYTES = transfer.COPY_PART_BYTES = job["parts"]
    if proxy := job["proxy"]:
        arm(proxy["endpoint"], at=proxy["at"], when=proxy["when"])
    with opened(spec, target) as rollout:
        assert isinstance(rollout.registry, Registry)
        points.start()
        PHASES[job["phase"]](rollout, job["arguments"])
        sys.setprofile(None)


def _fork(job: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _run(job)
            code = 0
        except BaseException:  # noqa: BLE001 - the parent reads it in the log
            sys.setprofile(None)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Do the jobs on stdin."""
    for line in sys.stdin:
        print(json.dumps({"exit": _fork(json.loads(line))}), flush=True)  # noqa: T201 - it is the answer


if __name__ == "__main__":
    main()
