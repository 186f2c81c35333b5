"""Which of Triton's layouts a version folder has: by the names that Triton's backends open, or by what config.pbtxt says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.content import check_relative, shown
from airflow_triton.repository.external_data import check_external_data

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

Kind = Literal["tensorrt", "onnx", "onnx-folder", "torchscript", "savedmodel", "graphdef", "python", "openvino", "ensemble", "custom"]

ENSEMBLE = "ensemble"


class Layout(BaseModel):
    """What a version folder was recognised as."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    backend: str = Field(description="Triton's backend; `ensemble` for what has none")
    platform: str = Field(default="", description="the older name, where the backend serves several and needs it")
    default_model_filename: str = Field(default="", description='what the backend opens; "" where nothing says it')
    entry: str | None = Field(default=None, description="the file without which Triton cannot open the version, below its folder")


@dataclass(frozen=True)
class _Format:
    kind: Kind
    backend: str
    platform: str
    filename: str
    says: str

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.filename).suffix


_FORMATS = (
    _Format("tensorrt", "tensorrt", "tensorrt_plan", "model.plan", "model.plan, or several *.plan (TensorRT)"),
    _Format("onnx", "onnxruntime", "onnxruntime_onnx", "model.onnx", "model.onnx, a file or a folder with external data (ONNX)"),
    _Format("torchscript", "pytorch", "pytorch_libtorch", "model.pt", "model.pt (TorchScript)"),
    _Format("savedmodel", "tensorflow", "tensorflow_savedmodel", "model.savedmodel", "model.savedmodel/ (TensorFlow)"),
    _Format("graphdef", "tensorflow", "tensorflow_graphdef", "model.graphdef", "model.graphdef (TensorFlow)"),
    _Format("python", "python", "", "model.py", "model.py (Python)"),
    _Format("openvino", "openvino", "", "model.xml", "model.xml with model.bin (OpenVINO)"),
)
_BACKENDS = {form.backend for form in _FORMATS}
_VALID = "; ".join(form.says for form in _FORMATS)
_NAMING = "other names need `backend` and `default_model_filename` in config.pbtxt"


def recognise_version(folder: Path, config: ModelConfig | None = None) -> Layout:
    """The layout of one version folder.

    Guarantee: `entry`, where there is one, is a file with content, and so is what belongs to it (model.bin, a SavedModel's
    saved_model.pb, every plan that `cc_model_filenames` names, an ONNX graph's external data where onnx is installed). Where
    `config` says more (`backend`, `platform`, `default_model_filename`, `cc_model_filenames`, an ensemble), it decides; a backend
    that is not Triton's own may have any files.

    Raises:
        RepositoryError: what lies there is none of the layouts, or two of them at once, or not what the config says.

    """
    names = _names(folder)
    if config is not None and is_ensemble(config):
        return _ensemble(folder, names)
    backend = _backend(config, folder)
    if config is not None and backend and backend not in _BACKENDS:
        return _custom(folder, backend, config.default_model_filename)
    forms = [form for form in _FORMATS if _allowed(form, config, backend)]
    if config is not None and config.cc_model_filenames:
        return _by_gpu(folder, forms, config)
    if config is not None and config.default_model_filename:
        return _open(folder, _named(folder, forms, config.default_model_filename), config.default_model_filename)
    found = [form for form in forms if form.filename in names]
    if len(found) > 1:
        held = " and ".join(form.filename for form in found)
        raise RepositoryError(f"{shown(folder)} holds {held}: say in config.pbtxt which `backend` serves it, or keep only one of them")
    if found:
        return _open(folder, found[0], found[0].filename)
    return _plans_or_nothing(folder, names, forms, config)


def is_ensemble(config: ModelConfig) -> bool:
    """Whether the config is of an ensemble: other models, one after the other."""
    return config.platform == ENSEMBLE or bool(config.HasField("ensemble_scheduling"))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise RepositoryError(f"{shown(folder)} is no version folder that can be read: {error.strerror}") from None


def _backend(config: ModelConfig | None, folder: Path) -> str:
    """The backend that the config names itself or by a platform; "" where it says nothing."""
    if config is None:
        return ""
    by_platform = {form.platform: form.backend for form in _FORMATS if form.platform}
    if config.platform and not config.backend and config.platform not in by_platform:
        valid = ", ".join((*by_platform, ENSEMBLE))
        raise RepositoryError(f"{shown(folder)}: config.pbtxt has the platform {config.platform!r}; valid: {valid}, or a `backend`")
    implied: str = by_platform.get(config.platform, config.backend)
    if config.backend and implied != config.backend:
        raise RepositoryError(
            f"{shown(folder)}: config.pbtxt has the backend {config.backend!r} and the platform {config.platform!r}, which do not "
            "agree; keep one"
        )
    return implied


def _allowed(form: _Format, config: ModelConfig | None, backend: str) -> bool:
    platform = "" if config is None else config.platform
    return backend in ("", form.backend) and platform in ("", form.platform)


def _ensemble(folder: Path, names: list[str]) -> Layout:
    if found := [form.filename for form in _FORMATS if form.filename in names]:
        raise RepositoryError(
            f"{shown(folder)} holds {' and '.join(found)}, but config.pbtxt is an ensemble's, which has no files: remove one of the two"
        )
    return Layout(kind="ensemble", backend=ENSEMBLE)


def _custom(folder: Path, backend: str, name: str) -> Layout:
    if name and not (folder / check_relative(name)).exists():
        raise RepositoryError(f"{shown(folder)} has no {name}, which config.pbtxt names as default_model_filename")
    entry = name if name and (folder / name).is_file() else None
    return Layout(kind="custom", backend=backend, default_model_filename=name, entry=entry)


def _named(folder: Path, forms: list[_Format], name: str) -> _Format:
    """The format of a file that the config names; its suffix decides where the config leaves a choice."""
    fitting = forms if len(forms) == 1 else [form for form in forms if PurePosixPath(name).suffix == form.suffix]
    if not fitting:
        raise RepositoryError(
            f"{shown(folder)}: config.pbtxt has the default_model_filename {name!r}, which tells no format; add `backend` (for example "
            f"{', '.join(sorted(_BACKENDS))})"
        )
    return fitting[0]


def _by_gpu(folder: Path, forms: list[_Format], config: ModelConfig) -> Layout:
    """Several files, each for one compute capability of GPU; what lies under the default name serves all others."""
    files = sorted(set(config.cc_model_filenames.values()))
    form = _named(folder, forms, files[0])
    default = config.default_model_filename or form.filename
    layouts = [_open(folder, form, name) for name in files]
    if config.default_model_filename or (folder / default).exists():
        layouts.insert(0, _open(folder, form, default))
    return layouts[0].model_copy(update={"default_model_filename": default})


def _plans_or_nothing(folder: Path, names: list[str], forms: list[_Format], config: ModelConfig | None) -> Layout:
    plans = [name for name in names if name.endswith(".plan")]
    tensorrt = next((form for form in forms if form.kind == "tensorrt"), None)
    if plans and tensorrt and config is not None:
        raise RepositoryError(
            f"{shown(folder)} holds {', '.join(map(shown, plans))}, and config.pbtxt does not say which GPU takes which: add "
            'cc_model_filenames (for example {key: "8.6" value: "a10.plan"}), or call the plan model.plan'
        )
    if plans and tensorrt:
        return _open(folder, tensorrt, plans[0]).model_copy(update={"default_model_filename": tensorrt.filename})
    held = ", ".join(map(shown, names)) or "nothing"
    wanted = "; ".join(form.says for form in forms) if forms != list(_FORMATS) else _VALID
    raise RepositoryError(f"{shown(folder)} holds {held}, and Triton takes: {wanted}; {_NAMING}")


def _open(folder: Path, form: _Format, name: str) -> Layout:
    """The layout of what lies under `name`, after a look at the files that its backend opens."""
    path = folder / check_relative(name)
    kind, entry = form.kind, name
    if form.kind == "onnx" and path.is_dir():
        kind, entry = "onnx-folder", f"{name}/model.onnx"
    elif form.kind == "savedmodel":
        entry = f"{name}/saved_model.pb"
    needed = [entry] if form.kind != "openvino" else [entry, str(PurePosixPath(name).with_suffix(".bin"))]
    for file in needed:
        if not (folder / file).is_file() or not (folder / file).stat().st_size:
            state = "is empty" if (folder / file).is_file() else "is no file" if (folder / file).exists() else "is missing"
            raise RepositoryError(f"{shown(folder / file)} {state}, and the {form.backend} backend opens it; valid: {form.says}")
    if form.kind == "onnx":
        check_external_data(folder / entry)
    platform = form.platform if form.backend == "tensorflow" else ""
    return Layout(kind=kind, backend=form.backend, platform=platform, default_model_filename=name, entry=entry)
