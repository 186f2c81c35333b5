"""What a single value of a spec may be: names, URIs, servers, paths, schedules. Each check returns the value in its one form."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import SplitResult, urlsplit

from airflow_triton.spec.problems import shown, valid_words

CANDIDATE_MARK = "--candidate-"
"""Reserved: it separates a model's name from the rest of its candidate's."""

MODEL_FORMS = "models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest, runs:/RUN_ID/PATH"

NAME_PATTERN = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
MODEL_PATTERN = r"models:/[^/@:]+(@[A-Za-z0-9_-]+|/([1-9][0-9]*|latest))|runs:/[A-Za-z0-9_-]+/.+"
_NAME = re.compile(NAME_PATTERN)
_MODEL = re.compile(MODEL_PATTERN)
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_NO_ALIAS = re.compile(r"latest|v[0-9]+", re.IGNORECASE)
_LOGGED_MODEL = re.compile(r"models:/m-[0-9A-Za-z]+")
_CONNECTION = re.compile(r"^s3://[A-Za-z0-9_.-]+@")
"""The id of an Airflow connection in the address of a bucket, as in Airflow's own ObjectStoragePath."""
_STAGE = re.compile(r"models:/[^/@:]+/(Production|Staging|Archived|None)", re.IGNORECASE)

_SERVER_ID = re.compile(r"[A-Za-z0-9_.-]{1,250}")
_PORTS = {"http": 8000, "https": 8000, "grpc": 8001, "grpcs": 8001, "dns+http": 8000, "dns+grpc": 8001, "dns+grpcs": 8001}
_SERVER_FORMS = (
    "an Airflow connection id, http://HOST:8000, https://HOST:8000, grpc://HOST:8001, grpcs://HOST:8001, "
    "or with dns+ before it (dns+grpc://HOST:8001), where HOST resolves to every replica"
)
_HOST = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_STORES = ("s3://", "gs://", "as://")
_DATA_SUFFIXES = (".parquet", ".csv", ".json", ".npz", ".jsonl")
_IN_MLFLOW = re.compile(r"(runs:/[A-Za-z0-9_-]+/|artifact:)(?P<path>.+)")
"""A file among the artifacts of a run, or of the model version's own run."""
_DATASET = re.compile(r"dataset:[^/]+")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_CRON_FIELD = re.compile(r"[0-9A-Za-z*?][0-9A-Za-z*/,#-]*")
_CRON_WORDS = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")


def checked_name(name: str) -> str:
    """A name that Triton, a file system and an object store all take as one plain folder name."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"got {shown(name)}; a Triton model's name is made of the letters a-z and A-Z, digits, `_`, `-` and `.`, "
            "does not start with a dot and has no `..` in it"
        )
    if len(name) > 200:  # noqa: PLR2004 - said in the message
        raise ValueError(f"the name has {len(name)} characters; at most 200 are allowed")
    if CANDIDATE_MARK in name:
        raise ValueError(f"got {shown(name)}; `{CANDIDATE_MARK}` is reserved for candidates")
    return name


def checked_model(uri: str) -> str:
    """An MLflow URI that leads to one registered version."""
    if _LOGGED_MODEL.fullmatch(uri):
        raise ValueError(f"got {shown(uri)}; a logged model has no registry version: register it, then use one of: {MODEL_FORMS}")
    if _STAGE.fullmatch(uri):
        raise ValueError(f"got {shown(uri)}; MLflow gave stages up: set an alias instead, and use one of: {MODEL_FORMS}")
    steps = uri.split("/")
    if not _MODEL.fullmatch(uri) or not uri.isprintable() or not {"", ".", ".."}.isdisjoint(steps):
        raise ValueError(f"got {shown(uri)}; valid: {MODEL_FORMS}")
    return uri


def follows_registry(uri: str) -> bool:
    """Whether the URI can mean another version tomorrow: an alias, or `latest`."""
    return uri.startswith("models:/") and ("@" in uri or uri.endswith("/latest"))


def checked_alias(alias: str) -> str:
    """A name that MLflow takes as an alias: neither `latest` nor a version such as `v3`."""
    if not _ALIAS.fullmatch(alias) or _NO_ALIAS.fullmatch(alias):
        raise ValueError(f"got {shown(alias)}; an alias is made of letters, digits, `_` and `-`, and is not `latest` or like `v3`")
    return alias


def is_url(server: str) -> bool:
    """Whether the server is given as a URL; otherwise it is an Airflow connection id."""
    return "://" in server


def checked_server(server: str) -> str:
    """A connection id as it is, or a URL as `scheme://host:port`, with Triton's default port where it names none."""
    if not is_url(server):
        if not _SERVER_ID.fullmatch(server):
            safe = f"***@{server.rpartition('@')[2]}" if "@" in server else server
            raise ValueError(f"got {shown(safe)}; valid: {_SERVER_FORMS}")
        return server
    parts = _split(server)
    if parts.scheme == "dns+https":
        raise ValueError(
            f"got {shown(server)}; a replica's certificate names HOST and not its address, which the HTTP client cannot be told: "
            "use dns+grpcs://HOST:8001, or one https:// URL for each replica"
        )
    if parts.scheme not in _PORTS:
        raise ValueError(f"got {shown(server)}; {valid_words(parts.scheme, _PORTS)}, each followed by ://HOST:PORT")
    if parts.path.strip("/") or "?" in server or "#" in server:
        raise ValueError(f"got {shown(server)}; a server's URL has no path and no query: {_SERVER_FORMS}")
    try:
        host, port = parts.hostname or "", _PORTS[parts.scheme] if parts.port is None else parts.port
    except ValueError:
        host, port = "", 0
    if not _HOST.fullmatch(host) or not port or parts.netloc.endswith(":"):
        raise ValueError(f"got {shown(server)}; a server's URL has a host, and a port from 1 to 65535 or none: {_SERVER_FORMS}")
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"


def checked_servers(servers: tuple[str, ...]) -> tuple[str, ...]:
    """At least one server, and none twice."""
    if not servers:
        raise ValueError("the list is empty; name a server, or leave the key out and set TRITON_URL")
    twice = sorted({server for server in servers if servers.count(server) > 1})
    if twice:
        raise ValueError(f"named twice: {', '.join(twice)}")
    return servers


def checked_location(value: str, folder: str | None) -> str:
    """A folder or file as an absolute path, or an object store's URL without credentials and without a final slash."""
    if "://" not in value:
        return absolute(value, folder)
    if not value.startswith(_STORES):
        raise ValueError(
            f"got {shown(value)}; valid: a path, s3://BUCKET/PREFIX, s3://CONNECTION@BUCKET/PREFIX, gs://BUCKET/PREFIX, as://ACCOUNT/CONTAINER/PREFIX"
        )
    _split(_CONNECTION.sub("s3://", value))
    if value in _STORES or not value.isprintable() or " " in value or "?" in value or "#" in value:
        raise ValueError(f"got {shown(value)}; an object store's URL names a bucket, and has no query in it")
    return value.rstrip("/")


def checked_data(value: str, folder: str | None) -> str:
    """A location whose file name says how to read it, or an MLflow dataset by its name."""
    if _DATASET.fullmatch(value) and value.isprintable():
        return value
    known = _IN_MLFLOW.fullmatch(value)
    if known and (not value.isprintable() or not {"", ".", ".."}.isdisjoint(known["path"].split("/"))):
        raise ValueError(f"got {shown(value)}; an artifact is runs:/RUN_ID/FILE or artifact:FILE, without `..`")
    location = value if known else checked_location(value, folder)
    if not location.lower().endswith(_DATA_SUFFIXES):
        raise ValueError(f"got {shown(value)}; a data file ends in one of: {', '.join(_DATA_SUFFIXES)}; an MLflow dataset is dataset:NAME")
    return location


def checked_function(value: str) -> str:
    """A Python function, as an entry point writes it."""
    if not _FUNCTION.fullmatch(value):
        raise ValueError(f"got {shown(value)}; a function is given as MODULE:NAME, such as mypackage.metrics:profit")
    return value


def checked_word(name: str) -> str:
    """What is wrong with a name that becomes part of tags, figures and files; "" if nothing is."""
    return "" if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}", name) else "a name is made of letters, digits, `_`, `-` and `.`"


def checked_tracking_uri(value: str, folder: str | None) -> str:
    """An MLflow URI without credentials; a folder becomes absolute, and so does the file of an SQLite database."""
    if "://" in value:
        _split(value)
    if value.startswith("sqlite:///"):
        return f"sqlite:///{absolute(value.removeprefix('sqlite:///'), folder)}"
    if re.match(r"[a-z][a-z0-9+.-]*:", value) or value in {"databricks", "databricks-uc"}:
        return value
    return absolute(value, folder)


def absolute(value: str, folder: str | None) -> str:
    """The path as seen from the folder of the spec, so that it means the same wherever the process was started."""
    if not value.strip() or not value.isprintable():
        raise ValueError(f"got {shown(value)}; expected a path")
    path = os.path.expanduser(value)  # noqa: PTH111 - the spec holds strings
    if not os.path.isabs(path):  # noqa: PTH117
        if folder is None:
            raise ValueError(f"got the relative path {shown(value)}, and there is no spec file that it is relative to; make it absolute")
        return os.path.abspath(os.path.join(folder, path))  # noqa: PTH100, PTH118 - symlinks stay
    return os.path.normpath(path)


def checked_schedule(schedule: str | None) -> str | None:
    """`registry`, a cron expression with single spaces, or nothing for "by hand"; only the shape of a cron expression is checked."""
    if schedule is None or schedule == "none":
        return None
    fields = schedule.split()
    is_cron = len(fields) == 5 and all(map(_CRON_FIELD.fullmatch, fields))  # noqa: PLR2004 - a cron expression has five
    if schedule != "registry" and schedule not in _CRON_WORDS and not is_cron:
        raise ValueError(f"got {shown(schedule)}; valid: registry, none, a cron expression of five fields, {', '.join(_CRON_WORDS)}")
    return " ".join(fields)


def refused_config_keys(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The keys that a spec's `config` may not set, each with the reason."""
    policy = "every version that is published is named there by the pipeline; `promote.keep` says how many stay"
    reasons = {"name": "the spec's own `name` is the model's name", "version_policy": policy, "versionPolicy": policy}
    return [(key, f"not allowed here: {reason}") for key, reason in reasons.items() if key in config]


def _split(url: str) -> SplitResult:
    """The URL in its parts; refused where it holds credentials, which belong into a connection or the environment."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"got {shown(url)}; this is no URL: {error}") from None
    if "@" in url:
        raise ValueError(f"got {shown(url)}; no credentials in a URL: they belong into an Airflow connection or the environment")
    return parts
