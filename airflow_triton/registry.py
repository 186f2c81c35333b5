"""MLflow's model registry: one URI becomes one concrete version; downloads, aliases and tags."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

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

_MOST_MODELS = 1000
"""Registered models, or versions of them, in one answer: the most that MLflow gives."""

_MOST_METRICS = 1000
"""What MLflow takes in one call."""

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


class Registered(NamedTuple):
    """A registered model: its aliases, each with the version that it means, and its newest version (None: it has none)."""

    aliases: Mapping[str, int]
    latest: int | None


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

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """Make one call of `client`; `what` names it in the RegistryError that one of MLflow's errors becomes."""
        return self._ask(what, call)

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

    def find(self, uri: str) -> tuple[str, int]:
        """Which version of which registered model a URI means now: `resolve` without a look at the model's files."""
        found = self._find(uri)
        return str(found.name), int(found.version)

    def in_stage(self, name: str, stage: str) -> int:
        """The newest version of a registered model in one of MLflow's stages (Production, Staging, Archived, None), deprecated there.

        Raises:
            RegistryError: there is none.

        """
        found = [each for each in self._versions(name, f"list the versions of `{name}`") if each.current_stage == stage]
        if not found:
            raise RegistryError(f"MLflow at {self.tracking_uri}: no version of the model `{name}` is in the stage {stage}")
        return max(int(each.version) for each in found)

    def mlmodel(self, artifacts: str) -> dict[str, Any]:
        """What the MLmodel file says of the model whose artifacts lie there (`ModelSource.artifacts`)."""
        return _described(self._mlmodel(artifacts), f"the MLmodel file at {_without_password(artifacts)}")

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
        if self.aliases(name).get(alias) != version:
            self._ask(f"move the alias `{alias}` of `{name}`", lambda: self.client.set_registered_model_alias(name, alias, str(version)))

    def aliases(self, name: str) -> dict[str, int]:
        """The aliases of a registered model, each with the version that it means."""
        model = self._ask(f"read the aliases of `{name}`", lambda: self.client.get_registered_model(name))
        return {alias: int(version) for alias, version in model.aliases.items()}

    def models(self, name: str | None = None) -> dict[str, Registered]:
        """Every registered model by its name, a thousand with each call, or just the one of this name; prompts are none."""

        def page(token: str | None) -> Any:
            only = None if name is None else f"name='{_quoted(name)}'"
            return self._ask(
                "list the registered models",
                lambda: self.client.search_registered_models(only, max_results=_MOST_MODELS, page_token=token),
            )

        return {
            each.name: Registered(
                {alias: int(version) for alias, version in each.aliases.items()},
                # One for each of the stages that MLflow gave up: the newest of all is among them.
                max((int(version.version) for version in each.latest_versions), default=None),
            )
            for each in _pages_of(page)
        }

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Write tags on a model version, those whose value is already there left alone (each write fires a webhook)."""
        known = self.tags(name, version)
        for key, value in tags.items():
            if known.get(key) != value:
                self._ask(
                    f"tag `{name}` {version}",
                    lambda key=key, value=value: self.client.set_model_version_tag(name, str(version), key, value),  # type: ignore[misc]
                )

    def delete_tags(self, name: str, version: int, keys: Iterable[str]) -> None:
        """Remove tags of a model version; those that are not there are fine."""
        for key in keys:
            self._ask(
                f"untag `{name}` {version}",
                lambda key=key: self.client.delete_model_version_tag(name, str(version), key),  # type: ignore[misc]
            )

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias of a registered model."""
        self._ask(f"remove the alias `{alias}` of `{name}`", lambda: self.client.delete_registered_model_alias(name, alias))

    def descriptions(self, name: str) -> dict[int, tuple[str, dict[str, str]]]:
        """The description and the tags of every version of a registered model."""
        found = self._versions(name, f"list the versions of `{name}`")
        return {int(each.version): (str(each.description or ""), dict(each.tags)) for each in found}

    def description(self, name: str, version: int) -> str:
        """The description of a model version."""
        found = self._ask(f"read the description of `{name}` {version}", lambda: self.client.get_model_version(name, str(version)))
        return str(found.description or "")

    def describe(self, name: str, version: int, text: str) -> None:
        """Write the description of a model version; left alone where it is that already."""
        if self.description(name, version) != text:
            self._ask(f"describe `{name}` {version}", lambda: self.client.update_model_version(name, str(version), text))

    def keep_file(self, source: ModelSource, file: Path, folder: str) -> None:
        """Make a file an artifact of the version's run, in `folder`; nothing happens where the version has no run."""
        if source.run_id is not None:
            self._ask(f"keep {file.name}", lambda: self.client.log_artifact(source.run_id, str(file), folder))

    def keep_folder(self, source: ModelSource, files: Path, folder: str) -> None:
        """Make everything in a folder artifacts of the version's run, in `folder`; nothing happens where the version has no run."""
        run_id = source.run_id
        if run_id is not None:
            self._ask(f"keep {folder}", lambda: self.client.log_artifacts(run_id, str(files), folder))

    def log_metrics(self, source: ModelSource, metrics: Mapping[str, float]) -> None:
        """Log metrics on the version's run, now; nothing happens where the version has no run. Their names must be as MLflow takes them."""
        from mlflow.entities import Metric

        run_id, now = source.run_id, int(time.time() * 1000)
        if run_id is None:
            return
        logged = [Metric(name, value, now, 0) for name, value in metrics.items()]
        for start in range(0, len(logged), _MOST_METRICS):
            some = logged[start : start + _MOST_METRICS]
            self._ask("log metrics", lambda some=some: self.client.log_batch(run_id, metrics=some))  # type: ignore[misc]

    def artifact_link(self, run_id: str, path: str) -> str:
        """Where to look at an artifact of a run: in MLflow's pages where it is a server, else its URI. No credentials."""
        run = self._ask(f"find the run {run_id}", lambda: self.client.get_run(run_id)).info
        if pages := _pages(str(self.client.tracking_uri)):
            return f"{pages}/experiments/{run.experiment_id}/runs/{run_id}/artifacts/{quote(path)}"
        return f"{_without_password(str(run.artifact_uri)).rstrip('/')}/{path}"

    def version_link(self, source: ModelSource) -> str:
        """The version's page in MLflow; "" where MLflow is no server."""
        import mlflow

        pages = _pages(str(self._uri or mlflow.get_registry_uri()))
        return f"{pages}/models/{quote(source.name, safe='')}/versions/{source.version}" if pages else ""

    def artifact(self, run_id: str, path: str, into: Path) -> Path:
        """Download an artifact of a run, a file or a folder, below `into`, and answer where it lies."""
        import mlflow.artifacts

        found = self._ask(
            f"download {path} of the run {run_id}",
            lambda: mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=path, dst_path=str(into), tracking_uri=self._uri, registry_uri=self._uri
            ),
        )
        return Path(found)

    def datasets(self, run_id: str) -> list[Any]:
        """The datasets that a run logged as its inputs (MLflow's DatasetInput)."""
        inputs = self._ask(f"read the datasets of the run {run_id}", lambda: self.client.get_run(run_id)).inputs
        return list(inputs.dataset_inputs) if inputs else []

    def tagged_models(self, key: str, value: str | None = None, *, name: str | None = None) -> dict[str, tuple[int, ...]]:
        """The versions that carry the tag `key` (with this value, or any), in rising order, of every registered model or of one."""
        holds = [f"tags.`{_quoted(key)}` = '{_quoted(value)}'" if value is not None else f"tags.`{_quoted(key)}` LIKE '%'"]
        if name is not None:
            holds.append(f"name='{_quoted(name)}'")

        def page(token: str | None) -> Any:
            return self._ask(
                f"list the versions with the tag `{key}`",
                lambda: self.client.search_model_versions(" AND ".join(holds), max_results=_MOST_MODELS, page_token=token),
            )

        found: dict[str, list[int]] = {}
        for each in _pages_of(page):
            found.setdefault(each.name, []).append(int(each.version))
        return {model: tuple(sorted(versions)) for model, versions in found.items()}

    def tags(self, name: str, version: int) -> dict[str, str]:
        """The tags of a model version."""
        return dict(self._ask(f"read the tags of `{name}` {version}", lambda: self.client.get_model_version(name, str(version))).tags)

    def newest_tagged(self, name: str, key: str) -> tuple[int, dict[str, str]] | None:
        """The highest version that carries the tag `key`, with its tags; None where no version does."""
        return max(self.tagged(name, key).items(), default=None)

    def tagged(self, name: str, key: str) -> dict[int, dict[str, str]]:
        """Every version that carries the tag `key`, with its tags."""
        found = self._versions(name, f"list the versions of `{name}`")
        return {int(each.version): dict(each.tags) for each in found if key in each.tags}


def _pages_of(page: Callable[[str | None], Any]) -> Iterator[Any]:
    """The entries of all of MLflow's pages."""
    token: str | None = None
    while True:
        entries = page(token)
        yield from entries
        token = entries.token
        if not token:
            return


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


def _pages(uri: str) -> str:
    """Where MLflow's pages are, credentials removed; "" where it is no server."""
    parts = urlsplit(uri)
    web = parts.scheme in {"http", "https"}
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/#" if web else ""


def _without_password(uri: str) -> str:
    """A store's URI; `wasbs://CONTAINER@ACCOUNT` holds no secret, and means nothing without its container."""
    return re.sub(r"//[^/\s@]*:[^/\s]*@", "//", uri)


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/\s]+@", "//***@", text)
