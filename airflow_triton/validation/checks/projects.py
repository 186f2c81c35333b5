"""A suite that a team keeps in a Great Expectations project (a file data context), read without a trace.

GX writes into a project that it opens (missing folders, ids), and makes a new one of a folder that is none. So it opens a copy of the
configuration in a temporary folder, in which the store of suites points at the team's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from airflow_triton.errors import ValidationDataError

_FILE = "great_expectations.yml"
_FOLDERS = ("", "gx", "great_expectations")


def suite_of(folder: str, name: str) -> dict[str, Any]:
    """The suite of this name as plain data.

    Raises:
        ValidationDataError: there is no project in the folder, it cannot be opened, or has no such suite.

    """
    root = next((Path(folder, below) for below in _FOLDERS if Path(folder, below, _FILE).is_file()), None)
    if root is None:
        looked = ", ".join(str(Path(folder, below)) for below in _FOLDERS)
        raise ValidationDataError(
            f"there is no Great Expectations project: looked for {_FILE} in {looked} (`validate.expectations.context`)"
        )
    with tempfile.TemporaryDirectory() as copy:
        Path(copy, _FILE).write_text(yaml.safe_dump(_rewritten(root)), encoding="utf-8")
        store = _store(root, copy)
        try:
            names = sorted(key.name for key in store.list_keys())
            if name in names:
                return _plain(store.get(store.get_key(name=name, id=None)))
        except Exception as error:  # noqa: BLE001 - GX and its stores raise what they like
            raise _unusable(root, f"the suite {name!r} cannot be read", error) from None
    raise ValidationDataError(f"{root} has no suite {name!r} (`validate.expectations.suite`); it has: {', '.join(names) or 'none'}")


def _rewritten(root: Path) -> dict[str, Any]:
    """The project's configuration with nothing but its store of suites, which is where it was."""
    try:
        config = yaml.safe_load((root / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _unusable(root, f"{_FILE} cannot be read", error) from None
    stores = config.get("stores") if isinstance(config, dict) else None
    chosen = config.get("expectations_store_name") if isinstance(config, dict) else None
    store = stores.get(chosen) if isinstance(stores, dict) else None
    backend = store.get("store_backend") if isinstance(store, dict) else None
    if not isinstance(backend, dict):
        raise ValidationDataError(f"{root / _FILE} names no store of suites (`expectations_store_name`, `stores`)")
    if "$" not in str(backend.get("base_directory", "$")):  # where a variable says it, GX fills it in
        backend["base_directory"] = str(root / backend["base_directory"])
        if not Path(backend["base_directory"]).is_dir():
            raise ValidationDataError(f"{root / _FILE}: the folder of its suites, {backend['base_directory']}, is not there")
    backend["suppress_store_backend_id"] = True
    variables = config.get("config_variables_file_path")
    others = {name: {"class_name": kind, "store_backend": {"class_name": "InMemoryStoreBackend"}} for name, kind in _OTHERS.items()}
    return {
        "config_version": config.get("config_version", 4),
        "config_variables_file_path": str(root / variables) if variables and (root / variables).is_file() else None,
        "stores": {**others, "suites": store},
        "expectations_store_name": "suites",
        "validation_results_store_name": "results",
        "checkpoint_store_name": "checkpoints",
        "data_docs_sites": {},
        "analytics_enabled": False,
    }


_OTHERS = {
    "results": "ValidationResultsStore",
    "checkpoints": "CheckpointStore",
    "validation_definition_store": "ValidationDefinitionStore",
}


def _store(root: Path, copy: str) -> Any:
    import great_expectations as gx

    try:
        return gx.get_context(mode="file", context_root_dir=copy).expectations_store
    except Exception as error:  # noqa: BLE001 - as above
        raise _unusable(root, "it cannot be opened", error) from None


def _plain(suite: Mapping[str, Any]) -> dict[str, Any]:
    entries = [entry.to_json_dict() if hasattr(entry, "to_json_dict") else entry for entry in suite.get("expectations") or []]
    entries = [{key: value for key, value in entry.items() if value is not None and key != "rendered_content"} for entry in entries]
    return {**{key: value for key, value in suite.items() if value is not None}, "expectations": entries}


def _unusable(root: Path, what: str, error: Exception) -> ValidationDataError:
    return ValidationDataError(f"the Great Expectations project {root}: {what}: {type(error).__name__}: {error}")
