"""MLflow's model registry: one URI becomes one concrete version; downloads, aliases and tags."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict

from airflow_triton.errors import RegistryError, RegistryUnreachableError, SpecError

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+|latest))")
_LOCAL_STORE = re.compile(r"(?:sqlite:///|file://(?=/)|(?=[/.]))(?P<path>[^?]*).*")
_RUN = re.compile(r"runs:/(?P<run_id>[^/]+)/(?P<path>.+)")

_DEFAULTS = {
    # MLflow's own defaults keep one call to a dead server waiting for over four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_UNREACHABLE = ("failed with exception", "Max retries exceeded", "OperationalError")
"""What MLflow's messages hold where its server or its database does not answer."""


class ModelSource(BaseModel):
    """One concrete version of a registered model.

    `digest` identifies its content without downloading it: SHA-256 over the MLmodel file (which carries the model's own id, its
    time of creation, flavors and signature) and the place of its artifacts.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    name: str
    version: int
    run_id: str | None
    artifacts: str
    flavors: tuple[str, ...]
    has_input_example: bool
    digest: str

    def __str__(self) -> str:
        return f"models:/{self.name}/{self.version}"


class Registry:
    """The model registry of one MLflow server or database.

    `tracking_uri` defaults to MLflow's own configuration (`MLFLOW_TRACKING_URI`, and `MLFLOW_REGISTRY_URI` where the registry is
    elsewhere). Unless the environment says otherwise, a call gives up after two retries of 10 s each, where MLflow's own
    defaults would wait for minutes.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        self._uri = tracking_uri
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, made on first use. A store in a local file must be there: MLflow would make an empty one."""
        if self._client is None:
            from mlflow import MlflowClient, get_tracking_uri

            uri = self._uri or get_tracking_uri()
            if (local := _LOCAL_STORE.fullmatch(uri)) and not Path(local["path"]).exists():
                raise RegistryError(
                    f"there is no MLflow store at {local['path']}: set `tracking_uri` in the spec or MLFLOW_TRACKING_URI in the environment"
                )
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        return self._client

    @property
    def tracking_uri(self) -> str:
        """Where MLflow is, credentials removed."""
        import mlflow

        return _without_credentials(str(self._uri or mlflow.get_tracking_uri()))

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        from mlflow.exceptions import MlflowException

        try:
            return call()
        except (MlflowException, ImportError, OSError) as error:  # an ImportError is the missing driver of a database
            raise self._error(what, error) from None
        except Exception as error:
            if type(error).__module__.split(".")[0] != "sqlalchemy":  # which is not there where only MLflow's client is installed
                raise
            raise self._error(what, error) from None

    def _error(self, what: str, error: Exception) -> RegistryError:
        """Ours for one of MLflow's, credentials removed."""
        reason = _without_credentials(_reason(error))
        here = isinstance(error, (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError))  # no network about it
        if (isinstance(error, OSError) and not here) or any(known in reason for known in _UNREACHABLE):
            return RegistryUnreachableError(f"MLflow at {self.tracking_uri} does not answer ({what}): {reason}")
        return RegistryError(f"MLflow at {self.tracking_uri}: {what}: {reason}")

    def resolve(self, uri: str) -> ModelSource:
        """Turn `models:/name/3`, `models:/name@alias`, `models:/name/latest` or `runs:/<run>/<path>` into one concrete version.

        A `runs:/` URI is resolved to the newest version that was registered from that run's model.

        Raises:
            SpecError: the URI has none of these forms.
            RegistryError: no such model, version, alias or run, or a run whose model was never registered.
            RegistryUnreachableError: MLflow does not answer.

        """
        found = self._find(uri)
        artifacts = self._ask(f"find the artifacts of {uri}", lambda: self.client.get_model_version_download_uri(found.name, found.version))
        mlmodel = self._mlmodel(artifacts)
        described = _described(mlmodel, f"MLflow at {self.tracking_uri}: the MLmodel file of models:/{found.name}/{found.version}")
        return ModelSource(
            uri=uri,
            name=found.name,
            version=int(found.version),
            run_id=str(found.run_id or described.get("run_id") or "") or None,
            artifacts=artifacts,
            flavors=tuple(sorted(map(str, described["flavors"]))),
            has_input_example=bool(described.get("saved_input_example_info")),
            digest=hashlib.sha256(mlmodel + artifacts.encode()).hexdigest(),
        )

    def _find(self, uri: str) -> Any:
        what = f"resolve {uri}"
        if match := _RUN.fullmatch(uri):
            return self._find_run(uri, match["run_id"], match["path"])
        if not (match := _REGISTERED.fullmatch(uri)):
            raise SpecError(
                f"`{uri}` is no model URI: valid are models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest and runs:/RUN_ID/PATH"
            )
        name, alias, version = match["name"], match["alias"], match["version"]
        if alias:
            return self._ask(what, lambda: self.client.get_model_version_by_alias(name, alias))
        if version == "latest":
            versions = self._versions(name, what)
            if not versions:
                raise RegistryError(f"MLflow at {self.tracking_uri}: the model `{name}` has no versions (asked for {uri})")
            return max(versions, key=lambda each: int(each.version))
        return self._ask(what, lambda: self.client.get_model_version(name, version))

    def _find_run(self, uri: str, run_id: str, path: str) -> Any:
        run = self._ask(f"find the run of {uri}", lambda: self.client.get_run(run_id))
        outputs = getattr(run.outputs, "model_outputs", None) or []
        logged = [self._ask(f"read {uri}", lambda each=each: self.client.get_logged_model(each.model_id)) for each in outputs]  # type: ignore[misc]
        # MLflow 3 registers a logged model (models:/m-...), MLflow 2 a folder of the run's artifacts.
        sources = {f"models:/{each.model_id}" for each in logged if each.name == path}
        registered = self._ask(f"resolve {uri}", lambda: list(self.client.search_model_versions(f"run_id='{_quoted(run_id)}'")))
        fitting = [each for each in registered if each.source in sources or str(each.source).rstrip("/").endswith(f"/{path}")]
        if not fitting:
            raise RegistryError(
                f"MLflow at {self.tracking_uri}: the model of {uri} is not registered, so it has no version number to serve it by; "
                f'register it first: mlflow.register_model("{uri}", "NAME")'
            )
        return max(fitting, key=lambda each: int(each.version))

    def _versions(self, name: str, what: str) -> list[Any]:
        return self._ask(what, lambda: list(self.client.search_model_versions(f"name='{_quoted(name)}'")))

    def _mlmodel(self, artifacts: str) -> bytes:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="airflow-triton-") as folder:
            return Path(self._download(f"{artifacts.rstrip('/')}/MLmodel", Path(folder))).read_bytes()

    def _download(self, uri: str, into: Path) -> str:
        """Download from an absolute URI: for `models:/` MLflow asks its global registry, whatever it is told here."""
        import mlflow.artifacts

        return self._ask(
            f"download {uri}",
            lambda: mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(into), tracking_uri=self._uri, registry_uri=self._uri
            ),
        )

    def download(self, source: ModelSource, into: Path) -> Path:
        """Download the whole model below `into` and answer its folder (the one with MLmodel in it); what lies there is reused."""
        folder = into / f"{source.name}-{source.version}-{source.digest[:12]}"
        complete = folder / ".complete"  # written last; MLflow decides about the name of the model's folder
        if not complete.exists():
            model = self._download(source.artifacts, folder)
            complete.write_text(model)
        return Path(complete.read_text())

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let `models:/name@alias` be this version from now on; left alone where it is (each write fires a webhook)."""
        model = self._ask(f"read the aliases of `{name}`", lambda: self.client.get_registered_model(name))
        if str(model.aliases.get(alias)) != str(version):
            self._ask(f"move the alias `{alias}` of `{name}`", lambda: self.client.set_registered_model_alias(name, alias, str(version)))

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Write tags on a model version, those whose value is already there left alone (each write fires a webhook)."""
        known = self.tags(name, version)
        for key, value in tags.items():
            if known.get(key) != value:
                self._ask(
                    f"tag `{name}` {version}",
                    lambda key=key, value=value: self.client.set_model_version_tag(name, str(version), key, value),  # type: ignore[misc]
                )

    def keep_file(self, source: ModelSource, file: Path, folder: str) -> None:
        """Make a file an artifact of the version's run, in `folder`; nothing happens where the version has no run."""
        if source.run_id is not None:
            self._ask(f"keep {file.name}", lambda: self.client.log_artifact(source.run_id, str(file), folder))

    def tags(self, name: str, version: int) -> dict[str, str]:
        """The tags of a model version."""
        return dict(self._ask(f"read the tags of `{name}` {version}", lambda: self.client.get_model_version(name, str(version))).tags)

    def newest_tagged(self, name: str, key: str) -> tuple[int, dict[str, str]] | None:
        """The highest version that carries the tag `key`, with its tags; None where no version does."""
        tagged = [each for each in self._versions(name, f"list the versions of `{name}`") if key in each.tags]
        newest = max(tagged, key=lambda each: int(each.version), default=None)
        return None if newest is None else (int(newest.version), dict(newest.tags))


def _reason(error: Exception) -> str:
    """The first line of an error's message, with what follows it where it only announces that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines)[:500] if lines[0].endswith(":") else lines[0]


def _described(mlmodel: bytes, where: str) -> dict[str, Any]:
    """What an MLmodel file says; RegistryError, starting with `where`, if it is none."""
    try:
        described = yaml.safe_load(mlmodel)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RegistryError(f"{where} is damaged: {error}") from None
    if not isinstance(described, dict) or not isinstance(described.get("flavors"), dict):
        raise RegistryError(f"{where} is damaged: it is no mapping with `flavors`")
    return described


def _quoted(text: str) -> str:
    """MLflow's filter language knows no escape for a quote."""
    if "'" in text:
        raise SpecError(f"`{text}` holds a quote, which MLflow cannot search for")
    return text


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/\s]+@", "//***@", text)
