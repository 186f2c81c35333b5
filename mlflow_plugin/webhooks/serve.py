"""The receiver alone: its own HTTP server in the foreground, for `airflow-triton webhook serve`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs

from airflow_triton.errors import DeployError, SpecError
from airflow_triton.rollout.following import followers
from mlflow_plugin.webhooks.airflow_api import AirflowApi
from mlflow_plugin.webhooks.check import MAX_AGE, SECRET_VARIABLE
from mlflow_plugin.webhooks.dag_runs import DagStarter
from mlflow_plugin.webhooks.journal import Journal
from mlflow_plugin.webhooks.pipelines import Pipelines
from mlflow_plugin.webhooks.receiver import BACKLOG, Receiver
from mlflow_plugin.webhooks.specs import SpecFolder
from mlflow_plugin.webhooks.starting import Starter

PORT = 8410
POLL_SECONDS = 60.0
JOBS = 2


@dataclass(frozen=True)
class Settings:
    """How a receiver runs. `poll` is in seconds (0: never), `max_age` too; `jobs` is how many pipelines run at a time.

    `airflow` is the URL of an API server; without one the pipelines run in this process. `journal` defaults to a file of the user's state
    folder that belongs to `specs`. `certificate` and `key` are PEM files, for https.
    """

    specs: Path
    airflow: str | None = None
    host: str = "127.0.0.1"
    port: int = PORT
    poll: float = POLL_SECONDS
    journal: Path | None = None
    max_age: float = MAX_AGE
    backlog: int = BACKLOG
    jobs: int = JOBS
    certificate: Path | None = None
    key: Path | None = None


def own_secret() -> str:
    """The secret from the environment.

    Raises:
        SpecError: there is none.

    """
    secret = os.environ.get(SECRET_VARIABLE, "").strip()
    if not secret:
        raise SpecError(
            f"no secret: set {SECRET_VARIABLE}, to the same value for `register` and `serve`, "
            'such as one of: python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return secret


def serve(settings: Settings, *, tell: Callable[[str], None], on_ready: Callable[[str, Path], None]) -> None:
    """Serve until SIGTERM or SIGINT. To be called in the main thread. `on_ready` is told the URL for MLflow, and the journal.

    Raises:
        SpecError: no secret, no folder of specs, or no way into Airflow.
        DeployError: the port is taken, the journal cannot be opened, or another receiver has it.

    """
    secret = own_secret()
    specs = SpecFolder(settings.specs.absolute(), tell)
    if not settings.specs.is_dir():
        raise SpecError(f"{settings.specs} is no folder: name the one with the deployments' specs")
    if not followers(specs.current().values()):
        tell(f"warning: no spec in {settings.specs} says `schedule: registry`: until one does, nothing is started")
    api = AirflowApi(settings.airflow) if settings.airflow else None
    path = settings.journal or _journal_of(specs.folder)
    with _alone(path), contextlib.closing(Journal(path)) as journal, _listening(settings) as listener:
        starter: Starter = DagStarter(api) if api else Pipelines(journal, specs, tell, jobs=settings.jobs)
        receiver = Receiver(specs=specs, journal=journal, starter=starter, tell=tell, poll=settings.poll or None, backlog=settings.backlog)
        receiver.begin()
        try:
            on_ready(_url(listener, settings), path)
            _run(receiver, secret, settings, listener)
        finally:
            receiver.end()


def _run(receiver: Receiver, secret: str, settings: Settings, listener: socket.socket) -> None:
    import uvicorn

    from mlflow_plugin.webhooks.app import make_app

    app = make_app(receiver, secret=lambda: secret, max_age=settings.max_age)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: None)  # uvicorn ends by them, and hands them on
    uvicorn.Server(config).run(sockets=[listener])


def _journal_of(specs: Path) -> Path:
    mark = hashlib.sha256(str(specs).encode()).hexdigest()[:12]
    return Path(platformdirs.user_state_dir("airflow-triton")) / f"webhook-{mark}.db"


@contextlib.contextmanager
def _alone(journal: Path) -> Iterator[None]:
    """Hold the journal's lock: two receivers with one journal would run the same pipelines."""
    lock = filelock.FileLock(journal.with_name(f"{journal.name}.lock"))
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise DeployError(f"another receiver runs with the journal {journal}: end it, or name another file with --journal") from None
    except OSError as error:
        raise DeployError(f"the journal {journal} cannot be written: {error}; name another file with --journal") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise DeployError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}") from None
    with listener:
        yield listener


def _url(listener: socket.socket, settings: Settings) -> str:
    from mlflow_plugin.webhooks.app import PATH

    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.certificate else 'http'}://{host}:{port}{PATH}"
