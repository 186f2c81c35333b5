"""PostgreSQL as a process, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from airflow_triton.local_triton.ports import ADDRESS, free_port
from live.process import Process, clean_environment

MISSING = "PostgreSQL is not installed: its `initdb` is neither on PATH nor below /usr/lib/postgresql (Debian: apt-get install postgresql)"


class PostgreSQL(Process):
    """A PostgreSQL with one superuser, whose password is asked for, and the databases named."""

    def __init__(self, folder: Path, *, password: str = "of-the-tests", databases: Sequence[str] = ("airflow",)) -> None:
        self.port = free_port()
        self.user = "airflow"
        self.password = password
        self.databases = tuple(databases)
        self.data = folder / "data"
        super().__init__(
            "postgres",
            [*_unprivileged(), program("postgres"), "-D", str(self.data), "-h", ADDRESS, "-p", str(self.port), "-k", str(folder)],
            environment=clean_environment({}),
            folder=folder,
            ready=self._answers,
        )

    def url(self, database: str, driver: str = "postgresql+psycopg2") -> str:
        """The database as SQLAlchemy spells it."""
        return f"{driver}://{self.user}:{self.password}@{ADDRESS}:{self.port}/{database}"

    def start(self) -> PostgreSQL:
        """Make the cluster on the first start, and the databases; wait until they answer."""
        first = not self.data.exists()
        if first:
            self._initialize()
        super().start()
        for name in self.databases if first else ():
            self.run(f'CREATE DATABASE "{name}"', database="postgres")
        return self

    def run(self, statement: str, *, database: str) -> None:
        """Run one statement, with `psql`."""
        self._psql("-c", statement, database=database)

    def run_file(self, path: Path, *, database: str) -> None:
        """Run the statements of a file, with `psql`."""
        self._psql("-f", str(path), database=database)

    def _psql(self, *arguments: str, database: str) -> None:
        command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", self.url(database, "postgresql"), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=self.environment)

    def _initialize(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        secret = self.folder / "password"
        secret.write_text(self.password)
        if os.getuid() == 0:
            self._reachable()
            for path in (self.folder, secret):
                shutil.chown(path, "postgres", "postgres")
        options = ["-D", str(self.data), "-U", self.user, f"--pwfile={secret}", "-A", "scram-sha-256", "--no-sync", "-E", "UTF8"]
        subprocess.run([*_unprivileged(), program("initdb"), *options], check=True, capture_output=True, timeout=120, cwd=self.folder)

    def _reachable(self) -> None:
        """PostgreSQL does not run as root, and pytest's folders are root's alone."""
        for parent in self.folder.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)

    def _answers(self) -> bool:
        command = [program("pg_isready"), "-q", "-h", ADDRESS, "-p", str(self.port)]
        return subprocess.run(command, check=False, timeout=10).returncode == 0


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; of several versions, the newest."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    path = str(found[-1]) if found else shutil.which(name)
    assert path, MISSING
    return path


def _unprivileged() -> list[str]:
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
