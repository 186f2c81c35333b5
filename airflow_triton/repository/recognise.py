"""Which of Triton's layouts a folder has: a model's folder, or the folder of one version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton import config_files, model_config
from airflow_triton.errors import ModelConfigError, RepositoryError
from airflow_triton.repository.content import check_files, check_relative, shown
from airflow_triton.repository.layout import CONFIG_FILE
from airflow_triton.repository.version_layout import Layout, is_ensemble, recognise_version

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

__all__ = ["Layout", "ModelFolder", "is_model", "recognise", "recognise_model", "recognise_version"]

_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder as Triton has it.

    `name` is the config's own ("" without one). `versions` are the version folders, in rising order; only an ensemble's may have
    none, for an empty folder survives in few stores. `beside` are the paths of the files in no version, config.pbtxt left out.
    """

    folder: Path
    name: str
    config: ModelConfig | None
    versions: dict[int, tuple[Path, Layout]]
    beside: tuple[str, ...]


def recognise(folder: Path) -> Layout | ModelFolder:
    """Whichever it is: a model's folder (it has a config.pbtxt or version folders), or the folder of one version.

    Raises:
        RepositoryError: it is neither; as `recognise_model` and `recognise_version` say.

    """
    return recognise_model(folder) if is_model(folder) else recognise_version(folder)


def is_model(folder: Path) -> bool:
    """Whether the folder looks like a model's, and not like that of a version."""
    return (folder / CONFIG_FILE).is_file() or bool(_version_folders(folder))


def recognise_model(folder: Path) -> ModelFolder:
    """The model's folder, every version recognised with the help of its config.pbtxt.

    Guarantee: config.pbtxt parses, and the files that it names (`label_filename`, parameters with $$TRITON_MODEL_DIRECTORY,
    warm-up data, initial states) are below the folder.

    Raises:
        RepositoryError: there is no version in it, one is not recognised, config.pbtxt cannot be understood or names a file that
            is not there, or a file cannot be published (`content.check_files`).

    """
    config = _config(folder)
    found = _version_folders(folder)
    if not found and not (config is not None and is_ensemble(config)):
        raise RepositoryError(
            f"{shown(folder)} has no version folder: Triton takes folders called 1, 2, 3 ... beside {CONFIG_FILE}, with the model's "
            f"files in them; there is {_listed(folder)}"
        )
    files = check_files(folder)
    if config is not None:
        _check_named(folder, config, files)
    return ModelFolder(
        folder=folder,
        name=config.name if config is not None else "",
        config=config,
        versions={number: (folder / str(number), recognise_version(folder / str(number), config)) for number in found},
        beside=tuple(file for file in files if file != CONFIG_FILE and not _VERSION.fullmatch(file.split("/")[0])),
    )


def _config(folder: Path) -> ModelConfig | None:
    path = folder / CONFIG_FILE
    try:
        return model_config.parse(path.read_text(encoding="utf-8"), where=shown(path))
    except FileNotFoundError:
        return None
    except ModelConfigError as error:
        raise RepositoryError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{shown(path)} cannot be read: {error}") from None


def _version_folders(folder: Path) -> list[int]:
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    except OSError as error:
        raise RepositoryError(f"{shown(folder)} is no folder that can be read: {error.strerror}") from None
    for name in names:
        if not _VERSION.fullmatch(name):
            raise RepositoryError(f"{shown(folder / name)} is no version to Triton, which ignores numbers that start with 0; rename it")
    return sorted(map(int, names))


def _listed(folder: Path) -> str:
    return ", ".join(sorted(shown(path.name) for path in folder.iterdir())) or "nothing"


def _check_named(folder: Path, config: ModelConfig, files: tuple[str, ...]) -> None:
    for field, path in (*config_files.movable(config), *config_files.fixed(config)):
        where = f"{shown(folder / CONFIG_FILE)}: {field}"
        try:
            check_relative(path)
        except RepositoryError as error:
            raise RepositoryError(f"{where}: {error}; put the file below the model's folder") from None
        if not config_files.holds(files, path):
            raise RepositoryError(f"{where} names {shown(path)}, and there is no such file in {shown(folder)}")
