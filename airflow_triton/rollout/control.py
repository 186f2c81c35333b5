"""Triton's three model control modes: how a server comes to serve what config.pbtxt says.

EXPLICIT takes load calls. POLL looks at the repository by itself, so a release is published and waited for. NONE looks at it once,
when it starts. POLL and NONE refuse load calls with the same words, so which of the two it is has to be declared.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

from airflow_triton import model_config
from airflow_triton.errors import ControlModeError, ServerError, ServerUnreachableError
from airflow_triton.repository import Probe
from airflow_triton.server import TritonClient
from airflow_triton.server.client import LOAD_SECONDS
from airflow_triton.validation.probe import check_probe

if TYPE_CHECKING:
    from google.protobuf.message import Message

Mode: TypeAlias = Literal["explicit", "poll", "none"]
Loaded: TypeAlias = dict[str, Any]
"""The configuration with which a server has loaded a version, as `TritonClient.config` answers it."""

POLL_SECONDS = 120.0
"""How long a server in POLL mode may take to notice a release. Its loading comes on top."""
FAILED_SECONDS = 20.0
"""A load that is shown as failed for so long is not an old one that is about to be repeated."""
ALONE_SECONDS = 30.0
"""Triton has let go of other versions when it answers a load; so long a look, before it is said that it has not."""
LOOK_SECONDS = 0.05
_UNLOADED = ("", "unloaded")


class Control(Protocol):
    """What one mode makes of the steps that concern a server. Every wait ends within a deadline, with a ServerError."""

    takes_candidates: ClassVar[bool]
    """Whether a candidate in the repository comes to be loaded without a restart."""

    def check(self, client: TritonClient, probe_name: str) -> None:
        """Raise ControlModeError where the server answers as none does in this mode; nothing changes."""

    def look(self, client: TritonClient, model: str, version: int, replaced: str | None) -> Loaded | None:
        """What the server has loaded of a version that is about to get another configuration than `replaced`; None: of no use."""

    def serve(
        self, client: TritonClient, model: str, versions: tuple[int, ...], probe: Probe | None, *, config: str, before: Loaded | None
    ) -> None:
        """Return when just these versions, published with `config`, are ready, and the last gives the probe's answer.

        `versions` are those that config.pbtxt names, in rising order: the last one serves. `before` is `look`'s answer.
        """

    def follow(self, client: TritonClient, model: str, versions: tuple[int, ...], config: str) -> None:
        """Bring the server back to these versions, which config.pbtxt names again."""

    def withdraw(self, client: TritonClient, model: str) -> None:
        """Let go of a model whose files are about to be removed."""

    def restore(self, client: TritonClient, model: str) -> None:
        """Take back a withdrawal: the model's files stay."""

    def forget(self, client: TritonClient, model: str) -> None:
        """Return when a model whose files have been removed is gone from the server."""

    def warnings(self, version: int) -> list[str]:
        """What still has to be done by hand before a released version serves."""

    def warnings_of_deletion(self) -> list[str]:
        """What still has to be done by hand before no server has a model whose files were removed."""


class Explicit:
    """EXPLICIT: the server does what it is told, and answers when it has done so."""

    takes_candidates: ClassVar[bool] = True

    def check(self, client: TritonClient, probe_name: str) -> None:
        """See Control."""
        client.check_explicit_mode(probe_name)

    def look(self, client: TritonClient, model: str, version: int, replaced: str | None) -> None:
        """See Control."""

    def serve(
        self,
        client: TritonClient,
        model: str,
        versions: tuple[int, ...],
        probe: Probe | None,
        *,
        config: str,  # noqa: ARG002 the server has read it when it answers
        before: Loaded | None,  # noqa: ARG002
    ) -> None:
        """See Control."""
        client.load(model)
        client.wait_ready(model, versions[-1])
        _await_alone(client, model, versions)
        check_probe(client, model, versions[-1], probe)

    def follow(self, client: TritonClient, model: str, versions: tuple[int, ...], config: str) -> None:  # noqa: ARG002
        """See Control."""
        client.load(model)

    def withdraw(self, client: TritonClient, model: str) -> None:
        """See Control."""
        client.unload(model)
        client.wait_unloaded(model)

    def restore(self, client: TritonClient, model: str) -> None:
        """See Control."""
        client.load(model)

    def forget(self, client: TritonClient, model: str) -> None:
        """See Control. It was withdrawn."""

    def warnings(self, version: int) -> list[str]:  # noqa: ARG002
        """See Control."""
        return []

    def warnings_of_deletion(self) -> list[str]:
        """See Control."""
        return []


class _WithoutCalls:
    """What POLL and NONE share: the server refuses load calls."""

    mode: ClassVar[Mode]

    def check(self, client: TritonClient, probe_name: str) -> None:
        """See Control."""
        try:
            client.check_explicit_mode(probe_name)
        except ControlModeError:
            return
        raise ControlModeError(
            f"{client.address} takes load requests, so it runs in EXPLICIT mode, and `control_mode` says {self.mode}: "
            f"declare `control_mode: explicit`, or start it with --model-control-mode={self.mode}"
        )

    def withdraw(self, client: TritonClient, model: str) -> None:
        """See Control. There is no call for it."""

    def restore(self, client: TritonClient, model: str) -> None:
        """See Control. It never left."""


class Poll(_WithoutCalls):
    """POLL: the server notices what is published, each time it polls."""

    takes_candidates: ClassVar[bool] = True
    mode: ClassVar[Mode] = "poll"

    def look(self, client: TritonClient, model: str, version: int, replaced: str | None) -> Loaded | None:
        """See Control."""
        if replaced is None or version not in client.ready_versions(model):
            return None
        loaded = client.config(model, version)
        return loaded if satisfies(loaded, replaced) else None

    def serve(
        self, client: TritonClient, model: str, versions: tuple[int, ...], probe: Probe | None, *, config: str, before: Loaded | None
    ) -> None:
        """See Control."""
        self._await_taken(client, model, versions, config, before)
        check_probe(client, model, versions[-1], probe)

    def follow(self, client: TritonClient, model: str, versions: tuple[int, ...], config: str) -> None:
        """See Control."""
        self._await_taken(client, model, versions, config, None)

    def forget(self, client: TritonClient, model: str) -> None:
        """See Control. Triton's index does not list a model whose files are gone, although it answers until the next poll."""
        client.wait_unloaded(model, seconds=POLL_SECONDS)
        deadline = time.monotonic() + POLL_SECONDS
        while client.is_ready(model):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{client.address} still answers for `{model}` {POLL_SECONDS:g} s after its files were removed: is it in POLL mode "
                    "(NONE answers the same)?"
                )
            time.sleep(LOOK_SECONDS)

    def warnings(self, version: int) -> list[str]:  # noqa: ARG002
        """See Control."""
        return []

    def warnings_of_deletion(self) -> list[str]:
        """See Control."""
        return []

    def _await_taken(self, client: TritonClient, model: str, versions: tuple[int, ...], config: str, before: Loaded | None) -> None:
        """Return when no other versions are ready than these, and the last, which serves, was loaded with `config`.

        A failed load counts where it began while we looked, or is shown for long: what was there before may be an older release's.
        """
        version, started = versions[-1], time.monotonic()
        state, began, failed_at = "LOADING", False, None
        while True:
            rows = {row.version: row for row in client.index() if row.name == model}
            ready = sorted(number for number, row in rows.items() if number is not None and row.state == "READY")
            if ready == list(versions) and _has_taken(client, model, version, config, before):
                return
            now, last = time.monotonic(), state
            row = rows.get(version)
            state = row.state if row else ""
            began = began or (state == "LOADING" != last)
            failed = row is not None and state == "UNAVAILABLE" and row.reason not in _UNLOADED
            failed_at = (failed_at or now) if failed else None
            if row is not None and failed_at is not None and (began or now - failed_at > FAILED_SECONDS):
                raise ServerError(f"{client.address} cannot load version {version} of `{model}`: {row.reason}")
            if now - started > POLL_SECONDS + (LOAD_SECONDS if state == "LOADING" else 0):
                raise ServerError(
                    f"{client.address} has not taken version {version} of `{model}` within {POLL_SECONDS:g} s, ready there is {ready}: "
                    "is the server in POLL mode (NONE answers the same), does it serve from this repository, and does its log "
                    "show why it could not load it?"
                )
            time.sleep(LOOK_SECONDS)


class NoControl(_WithoutCalls):
    """NONE: a server serves what it found when it was started. It is asked nothing and told nothing."""

    takes_candidates: ClassVar[bool] = False
    mode: ClassVar[Mode] = "none"

    def look(self, client: TritonClient, model: str, version: int, replaced: str | None) -> None:
        """See Control."""

    def serve(
        self, client: TritonClient, model: str, versions: tuple[int, ...], probe: Probe | None, *, config: str, before: Loaded | None
    ) -> None:
        """See Control. It serves after a restart; `warnings` says so."""

    def follow(self, client: TritonClient, model: str, versions: tuple[int, ...], config: str) -> None:
        """See Control. It never left."""

    def forget(self, client: TritonClient, model: str) -> None:
        """See Control. It never had it."""

    def warnings(self, version: int) -> list[str]:
        """See Control."""
        return [f"restart: NONE mode; version {version} is released, and each server serves it once it has been started again"]

    def warnings_of_deletion(self) -> list[str]:
        """See Control."""
        return ["restart: NONE mode; the files are removed, and each server serves the model from memory until it is started again"]


CONTROLS: dict[Mode, Control] = {"explicit": Explicit(), "poll": Poll(), "none": NoControl()}


def _await_alone(client: TritonClient, model: str, versions: tuple[int, ...]) -> None:
    """Return when just these versions are ready: one that is on its way out may still be asked, but not by who names no version."""
    deadline = time.monotonic() + ALONE_SECONDS
    while (found := client.ready_versions(model)) != versions:
        if time.monotonic() > deadline:
            raise ServerError(f"{client.address} has the versions {list(found)} of `{model}` ready, config.pbtxt names {list(versions)}")
        time.sleep(LOOK_SECONDS)


def _has_taken(client: TritonClient, model: str, version: int, config: str, before: Loaded | None) -> bool:
    try:
        loaded = client.config(model, version)
    except ServerUnreachableError:
        raise
    except ServerError:
        return False  # it was replaced at this very moment
    return loaded != before and satisfies(loaded, config)


def satisfies(loaded: Loaded, config: str) -> bool:
    """Whether every field that `config` sets, but for the name and the versions, has the same value in what was loaded.

    The server adds to it (names, kinds, defaults), so the comparison goes one way only.
    """
    from google.protobuf.json_format import ParseDict

    published = model_config.without_versions(model_config.parse(config))
    published.name = ""
    return _within(published, ParseDict(loaded, type(published)()))


def _within(ours: Message, theirs: Message) -> bool:
    return all(
        (not field.has_presence or theirs.HasField(field.name)) and _value_within(value, getattr(theirs, field.name))
        for field, value in ours.ListFields()
    )


def _value_within(ours: Any, theirs: Any) -> bool:
    if hasattr(ours, "ListFields"):
        return _within(ours, theirs)
    if hasattr(ours, "items"):
        return all(key in theirs and _value_within(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, str | bytes | int | float):
        return bool(ours == theirs)
    return len(ours) <= len(theirs) and all(_value_within(value, other) for value, other in zip(ours, theirs, strict=False))
