"""What the S3 servers have in common: they start on free ports, answer before the tests go on, and never outlive them."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import sysconfig
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_triton.local_triton.ports import ADDRESS, is_free
from airflow_triton.local_triton.process import GUARD

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from typing_extensions import Self

REGION = "us-east-1"
PROBE = "probe-of-the-tests"
FIRST_PORT, LAST_PORT = 10_000, 22_000
"""With the 10,000 that SeaweedFS adds for gRPC, still below the ports that Linux gives to clients."""
GRPC_OFFSET = 10_000
LOOK_SECONDS = 0.1
STOP_SECONDS = 10.0


class S3Server(ABC):
    """An S3 server over a folder; as a context manager it runs from the first line to the last, whatever happens in between.

    It ends when the test process dies, too. Started again, it has the same ports and the same objects.
    """

    name: str
    ports_needed = 1

    def __init__(
        self, folder: Path, *, access_key: str = "tests-key", secret_key: str = "secret-of-tests", start_timeout: float = 30.0
    ) -> None:
        self.folder = folder
        self.access_key = access_key
        self.secret_key = secret_key
        self.log_file = folder / "server.log"
        self._start_timeout = start_timeout
        self._ports: range | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @abstractmethod
    def _command(self, ports: range) -> list[str]:
        """What to run."""

    def _endpoint_port(self, ports: range) -> int:
        return ports[0]

    def _leftovers(self, ports: range) -> list[Path]:  # noqa: ARG002  # where there are any, their names have it
        """What the server leaves behind outside its folder."""
        return []

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`."""
        assert self._ports is not None, "not started"
        return f"http://{ADDRESS}:{self._endpoint_port(self._ports)}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which boto3, obstore, Triton and the command-line clients find this server, and no other."""
        return self.environment_at(self.endpoint)

    def environment_at(self, endpoint: str) -> dict[str, str]:
        """`environment`, for who comes by another way (a proxy)."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,  # boto3 and Triton read this one
            "AWS_ALLOW_HTTP": "true",  # obstore
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, endpoint: str | None = None, *, attempts: int = 1, timeout: float = 20.0) -> S3Client:
        """A boto3 client of this server, by the way of `endpoint` if given; it asks once unless told otherwise."""
        import boto3
        from botocore.config import Config

        return boto3.Session().client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": attempts, "mode": "standard"},
                connect_timeout=timeout,
                read_timeout=timeout,
                max_pool_connections=16,
            ),
        )

    def make_bucket(self, name: str) -> str:
        """Make the bucket; its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def url(self, bucket: str, prefix: str = "") -> str:
        """The place as Triton spells it: `s3://http://127.0.0.1:PORT/bucket/prefix`."""
        return f"s3://{self.endpoint}/{bucket}/{prefix}".rstrip("/")

    def start(self) -> None:
        """Start, and wait until an object can be written. Raises TimeoutError or RuntimeError with the end of the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ports = self._ports or free_range(self.ports_needed)
        prefix = f"airflow-triton-store-{secrets.token_hex(4)}-"  # of shared memory, of which there is none
        try:
            with self.log_file.open("ab") as log:
                self._guard = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), prefix, *self._command(self._ports)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, **self.environment},
                    cwd=self.folder,
                    start_new_session=True,
                )
            assert self._guard.stdout is not None
            with self._guard.stdout as told:
                self._pid = int(told.readline() or 0)
            self._await_writable()
        except BaseException:
            self.kill()
            raise

    def _await_writable(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        deadline = time.monotonic() + self._start_timeout
        client = self.client(timeout=2.0)
        while True:
            assert self._guard is not None
            if self._guard.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self._guard.returncode} before it answered.\n{self._log_tail()}")
            try:
                with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                    client.create_bucket(Bucket=PROBE)
                client.put_object(Bucket=PROBE, Key=PROBE, Body=b"1")
                client.delete_object(Bucket=PROBE, Key=PROBE)
                client.delete_bucket(Bucket=PROBE)
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{self.name} took no object within {self._start_timeout:g} s: {error}\n{self._log_tail()}"
                    ) from error
                time.sleep(LOOK_SECONDS)
            else:
                return

    def _log_tail(self) -> str:
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return f"The end of its log {self.log_file}:\n" + "\n".join(lines[-20:])

    def stop(self) -> None:
        """End the server in good order, or by force if that takes too long."""
        if self._guard is not None:
            self._guard.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._guard is None:
            return
        if self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if self._pid:
                    os.killpg(self._pid, signal.SIGKILL)
            try:
                self._guard.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
        self._guard = None
        if self._ports is not None:
            for left in self._leftovers(self._ports):
                left.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def program(name: str) -> str:
    """The path of a program that a wheel put into the environment."""
    path = Path(sysconfig.get_path("scripts"), name)
    assert path.exists(), f"{path} is missing: make install"
    return str(path)


def free_range(count: int) -> range:
    """Ports in a row that are free, as are those 10,000 above them."""
    for _ in range(200):
        first = random.randrange(FIRST_PORT, LAST_PORT)
        ports = range(first, first + count)
        if all(is_free(port) and is_free(port + GRPC_OFFSET) for port in ports):
            return ports
    raise RuntimeError(f"no {count} free ports in a row between {FIRST_PORT} and {LAST_PORT}")
