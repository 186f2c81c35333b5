"""What this process and the server hold: memory, threads, open files, and what lies about."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import psutil

from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository
from airflow_triton.repository.base import MODELS, WORK

SHARED_MEMORY = Path("/dev/shm")
"""Where Triton's Python backend keeps its own."""


@dataclass(frozen=True)
class Held:
    """What is held at one moment. Memory is resident, in MiB; `server` is tritonserver, its backends' processes counted apart."""

    memory: float
    threads: int
    files: int
    server_memory: float
    server_threads: int
    server_files: int
    server_processes: int
    shared_memory_files: int
    repository_files: int
    work_area_files: int
    config_bytes: int
    models: int


def look(triton: LocalTriton, store: LocalRepository, model: str, models: int) -> Held:
    """What is held now; `models` is the number of names in the server's index."""
    gc.collect()
    this, server = psutil.Process(), psutil.Process(triton.pid)
    config = store.read_config(model)
    return Held(
        memory=this.memory_info().rss / 2**20,
        threads=this.num_threads(),
        files=this.num_fds(),
        server_memory=server.memory_info().rss / 2**20,
        server_threads=server.num_threads(),
        server_files=server.num_fds(),
        server_processes=len(server.children(recursive=True)),
        shared_memory_files=len(list(SHARED_MEMORY.glob(f"{_prefix(server)}*"))),
        repository_files=len(store.files(MODELS / model)),
        work_area_files=sum(not file.path.startswith("locks/") for file in store.files(WORK)),
        config_bytes=len(config.text) if config else 0,
        models=models,
    )


def _prefix(server: psutil.Process) -> str:
    """How the names of the server's shared memory begin: it is in its command line."""
    line = " ".join(server.cmdline())
    return line.partition("shm-region-prefix-name=")[2].split(" ", 1)[0].strip()
