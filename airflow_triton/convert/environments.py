"""Python environments built of a model's own requirements: each is built once, and kept by the digest of what it is built of."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from airflow_triton.built_once import alone, find_uv
from airflow_triton.convert import base, mlmodel, requirements
from airflow_triton.convert.requirements import Requirements
from airflow_triton.errors import ConversionError

ROOT_VARIABLE = "AIRFLOW_TRITON_ENVIRONMENTS"
MARKER = ".complete"
FORMAT = "2"
STEP_SECONDS = 3600.0
LINES = 15

Progress = Callable[[str], None]


def _silent(_line: str) -> None:
    pass


def python_of(
    environment: str, model_dir: Path, *, form: base.Form, users: tuple[str, ...] = (), progress: Progress = _silent
) -> Path | None:
    """The Python that converts and asks the model: None is this one (`worker`), else one that is built (`model`), or the given path.

    Raises:
        ConversionError: it cannot be built, does not start, or lacks a package; names it, and what to do.

    """
    if environment == "worker":
        return None
    if environment == "model":
        return model_environment(model_dir, users=users, form=form, progress=progress)
    return given_python(Path(environment), model_dir, form=form)


def model_environment(model_dir: Path, *, form: base.Form, users: tuple[str, ...] = (), progress: Progress = _silent) -> Path:
    """The Python of an environment with the model's requirements and what its conversion needs; builds it where it is not there yet.

    It lies in `environments/<digest>` under the user's cache folder, or under the folder that AIRFLOW_TRITON_ENVIRONMENTS
    names. The digest is of the requirements (the model's, ours, and the user's, which win), the Python's version and the platform.

    Safe to call from several processes at once (one builds, the others wait for up to an hour) and after a crash (what is half built
    is built again).

    Args:
        model_dir: a downloaded MLflow model.
        form: what it is to become.
        users: pip requirements that win over the model's.
        progress: told one line before each long step.

    Raises:
        ConversionError: there is no Python of the model's version, or a requirement cannot be installed.

    """
    model = mlmodel.read(model_dir)
    wanted = requirements.merged(requirements.of_model(model_dir), requirements.of_conversion(model, form), users)
    version = requirements.python_of(model_dir) or this_python()
    digest = wanted.digest("environment", FORMAT, version, sysconfig.get_platform())

    def build(home: Path) -> None:
        interpreter = find_python(version, model_dir)
        progress(f"building an environment of {model_dir}'s requirements with Python {version} (once): {home}")
        _create(interpreter, home)
        install(home, wanted, of=model_dir)

    return kept(digest, build, is_there=lambda home: (home / "bin" / "python").exists(), progress=progress) / "bin" / "python"


def given_python(python: Path, model_dir: Path, *, form: base.Form) -> Path:
    """The path, if it is a Python that has what the conversion needs.

    Raises:
        ConversionError: it is none, or lacks packages; names them.

    """
    needed = sorted(
        {requirements.name_of(line) for line in requirements.of_conversion(mlmodel.read(model_dir), form)} - {"uv"}
    )  # pip will do
    try:
        done = subprocess.run([str(python), "-c", _LACKING, *needed], check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConversionError(f"convert.environment: {python} is no Python that starts: {error}") from error
    if done.returncode:
        raise ConversionError(f"convert.environment: {python} is no Python that starts: {_end(done.stderr)}")
    if lacking := done.stdout.split():
        raise ConversionError(
            f"convert.environment: {python} lacks {', '.join(lacking)}: install them there, or use "
            "`convert.environment: model`, which builds an environment of the model's own requirements"
        )
    return python


_LACKING = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print(name)
"""


def kept(digest: str, build: Callable[[Path], None], *, is_there: Callable[[Path], bool], progress: Progress = _silent) -> Path:
    """The folder of this digest, made by `build` where it is not finished yet; nobody else builds it at the same time."""
    home = root() / digest
    if not _finished(home, is_there):
        with alone(home, progress, error=ConversionError, remedy=f"Set {ROOT_VARIABLE} to a folder that can."):
            if not _finished(home, is_there):
                shutil.rmtree(home, ignore_errors=True)
                build(home)
                (home / MARKER).touch()
    return home


def root() -> Path:
    """The folder of all environments."""
    import platformdirs

    named = os.environ.get(ROOT_VARIABLE)
    return Path(named).expanduser().resolve() if named else Path(platformdirs.user_cache_dir("airflow-triton")) / "environments"


def this_python() -> str:
    """The version of this Python, such as "3.11"."""
    return ".".join(platform.python_version_tuple()[:2])


def find_python(version: str, model_dir: Path) -> Path:
    """A Python of this version: this one, one that uv knows, or one on PATH.

    Raises:
        ConversionError: there is none.

    """
    if version == this_python():
        return Path(sys.executable)
    found = _ask([find_uv() or "uv", "python", "find", "--no-project", "--no-python-downloads", version])
    for candidate in filter(None, (found, shutil.which(f"python{version}"))):
        if _ask([candidate, "-c", "import platform; print('.'.join(platform.python_version_tuple()[:2]))"]) == version:
            return Path(candidate)
    raise ConversionError(
        f"{model_dir}: the model was logged with Python {version}, and this machine has none (this is {this_python()}): install it so "
        f"that `python{version}` starts (`uv python install {version}`), or use `convert.environment: worker`"
    )


def install(home: Path, wanted: Requirements, *, of: Path, more: tuple[str, ...] = ()) -> None:
    """Install the requirements: by uv where it is installed, else by the pip of the environment. `more` are arguments for either.

    Raises:
        ConversionError: with the end of what uv or pip said.

    """
    files = {"requirements": wanted.lines, "constraints": wanted.constraints}
    paths = {name: home / f"{name}.txt" for name in files}
    for name, path in paths.items():
        path.write_text("\n".join(files[name]) + "\n", encoding="utf-8")
    python = str(home / "bin" / "python") if (home / "bin" / "python").exists() else sys.executable
    uv = find_uv()
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", python, *([] if more else ["--compile-bytecode"])]
    else:
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    told = run([*command, "--requirement", str(paths["requirements"]), "--constraint", str(paths["constraints"]), *more])
    if told is not None:
        raise ConversionError(
            f"{of}: the model's requirements cannot be installed (name one that works in `convert.requirements`: it wins over the "
            f"model's):\n{told}"
        )


def run(command: list[str]) -> str | None:
    """Run a step; None if it succeeded, else the end of what it said."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=STEP_SECONDS, env=inherited
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return _end(done.stderr or done.stdout) or f"exit status {done.returncode}" if done.returncode else None


def _create(interpreter: Path, home: Path) -> None:
    uv = find_uv()
    home.parent.mkdir(parents=True, exist_ok=True)
    command = [uv, "venv", "--quiet", "--no-project", "--python", str(interpreter)] if uv else [str(interpreter), "-m", "venv"]
    told = run([*command, str(home)])
    if told is not None:
        raise ConversionError(f"an environment with {interpreter} cannot be made in {home}:\n{told}")


def _finished(home: Path, is_there: Callable[[Path], bool]) -> bool:
    return (home / MARKER).exists() and is_there(home)


def _ask(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _end(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LINES:])
