"""What a command line amounts to: the servers that a target names, and the spec that `-C KEY=VALUE` adds up to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from airflow_triton.errors import SpecError
from airflow_triton.registry import Registry
from airflow_triton.spec import Spec, is_url, load_spec, spec_from_mapping

_SCHEMES = {"triton": "http", "tritons": "https"}
_VALID = "valid are triton, triton://host:8000, tritons://host:8000, triton:grpc://host:8001 and triton:/CONNECTION"
_STAGES = {"production": "Production", "staging": "Staging", "archived": "Archived", "none": "None"}

_OPTIONS = {"name", "model"}

_log = logging.getLogger(__name__)


def servers_of(target_uri: str) -> tuple[str, ...]:
    """The servers that a target URI names; none for plain `triton`, which leaves it to the spec and the environment.

    Raises:
        SpecError: it names no Triton.

    """
    scheme, colon, rest = target_uri.partition(":")
    if not colon:
        return ()
    if scheme == "triton" and is_url(rest):
        return tuple(filter(None, (server.strip() for server in rest.split(","))))
    parts = urlsplit(target_uri)
    if parts.netloc and parts.scheme in _SCHEMES and not (parts.path.strip("/") or parts.query):
        return (f"{_SCHEMES[parts.scheme]}://{parts.netloc}",)
    connection = parts.path.strip("/")
    if parts.scheme == "triton" and not parts.netloc and connection and "/" not in connection:
        return (connection,)
    raise SpecError(f"the target is no Triton: {_VALID}")


def servers_at(endpoint: str) -> tuple[str, ...]:
    """The servers of an endpoint: URLs or ids of Airflow connections, separated by commas."""
    found = tuple(filter(None, (server.strip() for server in endpoint.split(","))))
    if not found:
        raise SpecError("the endpoint names no server: it is a URL such as grpc://host:8001, or the id of an Airflow connection")
    return found


def mapping_of(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The spec as far as `-C` says it: a file's, or none, with each key set over it. A value on a command line is read as YAML.

    Raises:
        SpecError: a key leads through a value, or the file is no spec.

    """
    settings = dict(config or {})
    start = settings.pop("spec", None)
    if (version := settings.pop("version", None)) is not None:
        _log.warning("-C version=%s is not used: a version is served under the number that it has in MLflow", version)
    mapping: dict[str, Any] = load_spec(start).to_mapping() if start else {}
    for key, value in settings.items():
        section = mapping
        *above, last = key.split(".")
        if key.partition(".")[0] in _OPTIONS:
            raise SpecError(f"-C {key}: the deployment's name and model are said by --name and --model-uri")
        for part in above:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise SpecError(f"-C {key}: `{part}` is a value, not a section")
        section[last] = _value(key, value)
    return mapping


def _value(key: str, value: Any) -> Any:
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise SpecError(f"-C {key}: the value is no YAML: {str(error).splitlines()[0]}") from None


def spec_of(name: str, model_uri: str | None, config: Mapping[str, Any] | None) -> Spec:
    """The spec of a deployment; SpecError where it is none. Relative paths are taken from the working directory."""
    mapping = mapping_of(config)
    mapping["name"] = name
    if model_uri:
        mapping["model"] = _without_stage(model_uri, mapping.get("tracking_uri"))
    return spec_from_mapping(mapping, where="mlflow deployments", folder=Path.cwd())


def _without_stage(uri: str, tracking_uri: Any) -> str:
    """`models:/NAME/Production` as the version that it means; every other URI as it is."""
    name, slash, stage = uri.removeprefix("models:/").rpartition("/")
    if not uri.startswith("models:/") or not slash or not name or stage.lower() not in _STAGES:
        return uri
    version = Registry(str(tracking_uri) if tracking_uri else None).in_stage(name, _STAGES[stage.lower()])
    _log.warning("%s is version %d: stages are deprecated in MLflow, and an alias (models:/%s@champion) says the same", uri, version, name)
    return f"models:/{name}/{version}"
