"""Conversions that were made before: kept by what they are made of, in a folder or on an object store.

An entry is a folder named by its key, with the files and, written last, `conversion.json`. It lies in a repository of its own
(`airflow_triton.repository`), which makes it appear whole, keeps two writers apart, and is swept of what killed ones left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import ValidationError

from airflow_triton.convert.base import Conversion, Options
from airflow_triton.errors import DeployError
from airflow_triton.repository import Item, LocalRepository, Repository, open_repository
from airflow_triton.repository.base import MODELS
from airflow_triton.repository.manifest import sha256
from airflow_triton.repository.places import Place
from airflow_triton.spec import Parity

VARIABLE = "AIRFLOW_TRITON_CACHE"
OFF = "false"
DESCRIPTION = "conversion.json"
KEEP_DAYS = 30
"""How long an entry stays in a folder after its last use. (On a store, the bucket's lifecycle rules decide.)"""

_LAYOUT = 1


def cache_key(digest: str, options: Options, *, tolerance: Parity, largest: int, tools: Mapping[str, str]) -> str:
    """What a conversion is made of, as a name: the model's digest, how it is made and proven, and the versions of all that takes part."""
    made_of = [_LAYOUT, digest, options.model_dump(mode="json"), tolerance.model_dump(), largest, dict(tools)]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def open_cache(place: str | Literal[False] | None) -> ConversionCache | None:
    """The cache at `place`: a folder, or an address on an object store; False: none.

    None is the place that AIRFLOW_TRITON_CACHE names (`false`: none), or else `conversions` in the user's cache folder.
    """
    chosen = os.environ.get(VARIABLE) if place is None else place
    if chosen is False or chosen == OFF:
        return None
    return ConversionCache(open_repository(chosen or str(Path(platformdirs.user_cache_dir("airflow-triton")) / "conversions")))


class ConversionCache:
    """Conversions by their keys.

    Guarantee: what is fetched is, byte for byte, what was kept: every file's SHA-256 is compared. A cache that cannot be read or
    written is no error, only a conversion more: the methods answer what went wrong.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def __str__(self) -> str:
        return str(self.repository)

    def look(self, key: str) -> Conversion | None:
        """What an entry says of itself, its files unread; None where there is none, or none that can be read."""
        with contextlib.suppress(DeployError, OSError, ValidationError):
            if stored := self.repository.read(MODELS / key / DESCRIPTION):
                return Conversion.model_validate_json(stored.text)
        return None

    def fetch(self, key: str, into: Path) -> Conversion | str | None:
        """Bring the files of an entry into the empty folder `into`. None: there is no entry; a text: what is wrong with it."""
        place = MODELS / key
        try:
            stored = self.repository.read(place / DESCRIPTION)
            if stored is None:
                return None
            made = Conversion.model_validate_json(stored.text)
            for file in made.files:
                target = into / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                self.repository.fetch(self.repository.origin(place / file.path), target)
                if sha256(target) != file.sha256:
                    return self._drop(place, f"{self.repository.where(place / file.path)} is damaged")
        except ValidationError as error:
            return self._drop(place, f"{self.repository.where(place / DESCRIPTION)} cannot be read: {error.errors()[0]['msg']}")
        except (DeployError, OSError) as error:
            return str(error)
        self._touch(place)
        return made

    def keep(self, key: str, made: Conversion, folder: Path) -> str | None:
        """Keep the files of a conversion, which lie in `folder`; of several that do so at once, one does. A text says what went wrong."""
        items = [Item(file, folder / file.path) for file in made.files]
        try:
            self.repository.make()
            self.repository.put(MODELS / key, items, last={DESCRIPTION: made.model_dump_json(indent=1)})
            self._prune()
        except (DeployError, OSError) as error:
            return str(error)
        return None

    def _drop(self, place: Place, why: str) -> str:
        with contextlib.suppress(DeployError):
            self.repository.remove(place)
        return why

    def _folder(self) -> Path | None:
        return self.repository.root if isinstance(self.repository, LocalRepository) else None

    def _touch(self, place: Place) -> None:
        if root := self._folder():
            with contextlib.suppress(OSError):
                os.utime(root / place.path / DESCRIPTION)

    def _prune(self) -> None:
        """Remove entries of a folder that nobody has used for `KEEP_DAYS`."""
        root = self._folder()
        if root is None:
            return
        for name in self.repository.folders(MODELS):
            with contextlib.suppress(OSError):
                if (root / name / DESCRIPTION).stat().st_mtime < time.time() - KEEP_DAYS * 86400:
                    self.repository.remove(MODELS / name)
