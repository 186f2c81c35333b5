"""The specs of a folder, as they are now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from airflow_triton.errors import SpecError
from airflow_triton.spec import Spec, find_spec_files, load_spec

_SECONDS = 1.0
"""How long the folder is not looked at again."""


class SpecFolder:
    """The specs of a folder by the deployments' names; a file that changes, comes or goes is seen within a second.

    A spec that is broken leaves out its own deployment alone; `tell` hears of it once, and again when the file changed. Of two specs
    of one name the first counts. Thread-safe.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self._tell = tell
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._specs: dict[str, Spec] = {}
        self._problems: set[str] = set()

    def current(self) -> dict[str, Spec]:
        """The specs as they are now. A folder that cannot be read leaves them as they were."""
        with self._lock:
            if time.monotonic() - self._looked >= _SECONDS:
                self._look()
                self._looked = time.monotonic()
            return self._specs

    def _look(self) -> None:
        try:
            seen = {path: _mark(path) for path in find_spec_files(self.folder)}
        except (SpecError, OSError) as error:
            self._say({str(error)})
            return
        if seen == self._seen:
            return
        specs: dict[str, Spec] = {}
        problems: set[str] = set()
        for path in seen:
            try:
                spec = load_spec(path)
            except SpecError as error:
                problems.add(str(error))
                continue
            if specs.setdefault(spec.name, spec) is not spec:
                problems.add(f"{path}: name: another spec in {self.folder} has the name {spec.name}")
        self._seen, self._specs = seen, specs
        self._say(problems)

    def _say(self, problems: set[str]) -> None:
        for problem in sorted(problems - self._problems):
            self._tell(f"warning: {problem}")
        self._problems = problems


def _mark(path: str) -> tuple[int, int, int]:
    stat = Path(path).stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
