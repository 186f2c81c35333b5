"""The load of the soak: processes of `asking.py`, and what they saw."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from airflow_triton.local_triton import LocalTriton

PROTOCOLS = ("http", "grpc", "http", "grpc")
RATE = 25
"""Requests a second of each client."""


@dataclass(frozen=True)
class Saw:
    """What one client saw; times in milliseconds, `versions` are the requests that each version answered."""

    protocol: str
    asked: int
    failed: int
    wrong: int
    milliseconds: dict[str, float]
    versions: dict[str, int]
    words: list[str]


@dataclass
class Load:
    """Clients that ask all the time. Use as a context manager; `saw` is filled at its end.

    `known_by` is for each version that may serve the number by which its answers are known.
    """

    triton: LocalTriton
    model: str
    known_by: dict[int, float]
    saw: list[Saw] = field(default_factory=list)
    _running: list[tuple[str, subprocess.Popen[str]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        addresses = {"http": self.triton.http_url, "grpc": self.triton.grpc_url}
        for protocol in PROTOCOLS:
            arguments = [protocol, addresses[protocol].partition("://")[2], self.model, json.dumps(self.known_by), str(RATE)]
            command = [sys.executable, str(Path(__file__).with_name("asking.py")), *arguments]
            self._running.append((protocol, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)))
        return self

    def __exit__(self, *_: object) -> None:
        for protocol, process in self._running:
            told, _errors = process.communicate()
            found: dict[str, Any] = json.loads(told)
            self.saw.append(Saw(protocol, **found))
