"""What several test files use."""

from __future__ import annotations

import hashlib
from pathlib import Path


def everything_below(folder: Path, *, content: bool = False) -> set[str]:
    """Every file below a folder; with `content`, its inode, its time and its digest too, so that any change shows."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            if content:
                name += f" {path.stat().st_ino} {path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            found.add(name)
    return found
