"""The webhooks of an MLflow server: registered, listed, tried and deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from airflow_triton.errors import RegistryError, SpecError
from airflow_triton.registry import Registry
from mlflow_plugin.webhooks.events import DEFAULT_EVENTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

NAME = "airflow-triton"
_MOST = 100
_DESCRIPTION = "starts deployments to Triton (airflow-provider-triton)"

_PRIVATE = "for a private address set MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true in the MLflow server's environment"
_KEY = (
    "a server that cannot read the secrets of its webhooks answers so: give it one MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY, the same for all "
    "workers and after each restart, and register the webhook anew"
)
_SETTINGS = {
    "webhook URL scheme": "name an https URL, or set MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https in the MLflow server's environment",
    "non-public IP": _PRIVATE,
    "not a public IP": _PRIVATE,
    "too many 500 error responses": _KEY,
    "error code 500": _KEY,
    "InvalidToken": _KEY,
}
"""What MLflow says -> which setting of its server is missing."""


class Webhook(BaseModel):
    """A webhook of an MLflow server. Its secret is never answered."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    status: str


class Tried(BaseModel):
    """What came of a trial: the receiver's HTTP status and answer, or why it was not reached."""

    success: bool
    status: int | None = None
    answer: str = ""
    why: str = ""


class Webhooks:
    """The webhooks of one MLflow server, which is `tracking_uri`, else the environment's.

    Every method raises RegistryError where MLflow refuses, with the setting of its server that is missing, where that is known.

    Raises:
        SpecError: it is no server; MLflow sends nothing for a database or a folder that clients open themselves.

    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        self._registry = Registry(tracking_uri)
        where = self._registry.tracking_uri
        if urlsplit(where).scheme not in ("http", "https"):
            raise SpecError(f"webhooks are sent by an MLflow server, and {where} is none: set MLFLOW_TRACKING_URI to its http(s) URL")

    def register(self, url: str, *, secret: str, name: str = NAME, events: Sequence[str] = DEFAULT_EVENTS) -> Webhook:
        """Let the server send these events to `url`, signed with `secret`. A webhook of this name is changed, not doubled."""
        known = next((each for each in self.all() if each.name == name), None)
        options: dict[str, Any] = {"url": url, "events": list(events), "description": _DESCRIPTION, "secret": secret, "status": "ACTIVE"}
        if known is None:
            return _described(self._ask(f"register a webhook for {url}", lambda client: client.create_webhook(name, **options)))
        return _described(self._ask(f"change the webhook `{name}`", lambda client: client.update_webhook(known.id, **options)))

    def all(self) -> list[Webhook]:
        """Every webhook of the server, not only ours."""
        found: list[Webhook] = []
        token: str | None = None
        while True:
            page = self._ask("list the webhooks", lambda client, token=token: client.list_webhooks(_MOST, token))  # type: ignore[misc]
            found += map(_described, page)
            if not (token := page.token):
                return found

    def test(self, name: str = NAME, event: str | None = None) -> Tried:
        """Let the server send an example of an event (default: the webhook's first) to the webhook of this name or id."""
        webhook = self._named(name)
        chosen: Any = event
        tried = self._ask(f"test the webhook `{name}`", lambda client: client.test_webhook(webhook.id, chosen))
        why = _with_setting(str(tried.error_message or ""))
        return Tried(success=tried.success, status=tried.response_status, answer=str(tried.response_body or ""), why=why)

    def delete(self, name: str = NAME) -> Webhook:
        """Delete the webhook of this name or id; answer what it was."""
        webhook = self._named(name)
        self._ask(f"delete the webhook `{name}`", lambda client: client.delete_webhook(webhook.id))
        return webhook

    def _named(self, name: str) -> Webhook:
        known = self.all()
        found = next((each for each in known if name in (each.name, each.id)), None)
        if found is None:
            there = ", ".join(f"`{each.name}`" for each in known) or "none"
            raise RegistryError(f"MLflow at {self._registry.tracking_uri} has no webhook `{name}`; there are: {there}")
        return found

    def _ask(self, what: str, call: Callable[[MlflowClient], T]) -> T:
        try:
            return self._registry.ask(what, lambda: call(self._registry.client))
        except RegistryError as error:
            raise type(error)(_with_setting(str(error))) from None


def _with_setting(reason: str) -> str:
    """MLflow's reason, with the setting that its server lacks."""
    missing = next((setting for known, setting in _SETTINGS.items() if known in reason), "")
    return f"{reason}; {missing}" if missing else reason


def _described(webhook: Any) -> Webhook:
    return Webhook(
        id=webhook.webhook_id,
        name=webhook.name,
        url=webhook.url,
        events=tuple(f"{event.entity.value}.{event.action.value}" for event in webhook.events),
        status=webhook.status.value,
    )
