"""Where a repository on an object store lies, written as Triton writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_triton.errors import SpecError

SCHEMES = {"s3": "Amazon S3 or what speaks its protocol", "gs": "Google Cloud Storage", "as": "Azure Blob Storage"}
FORMS = "s3://bucket/prefix, s3://http://host:port/bucket/prefix, s3://CONNECTION@bucket/prefix, gs://bucket/prefix, as://account/container/prefix"

_ENDPOINT = re.compile(r"(?P<endpoint>https?://[^/]+)/?(?P<rest>.*)")
_BARE = re.compile(r"(?P<host>[0-9a-zA-Z.-]+:[0-9]+)/(?P<rest>[^@]*)")
"""An endpoint without a protocol, which Triton and NVIDIA's MLflow plugin take for HTTP."""
_CONNECTION = re.compile(r"(?P<connection>[A-Za-z0-9_.-]+)@(?P<rest>.*)")


@dataclass(frozen=True)
class StoreAddress:
    """A prefix in a bucket (on Azure: in a container of an account).

    `endpoint` is the server of an S3 that is not Amazon's; `connection` the id of the Airflow connection that lets us in.
    """

    scheme: str
    bucket: str
    prefix: str
    endpoint: str | None = None
    account: str | None = None
    connection: str | None = None

    @classmethod
    def parse(cls, text: str) -> StoreAddress:
        """Read an address in one of the FORMS.

        Raises:
            SpecError: it has none of them, has credentials in it, or names a whole bucket: the work area lies beside the
                repository, and Triton would take it for a model if the bucket were the repository.

        """
        scheme, _, rest = text.partition("://")
        endpoint = account = connection = None
        if scheme not in SCHEMES or not rest:
            raise SpecError(f"`{re.sub('//.*@', '//...@', text)}` is no address of a model repository: valid are a folder and {FORMS}")
        if scheme == "s3" and (found := _ENDPOINT.fullmatch(rest)):
            endpoint, rest = found["endpoint"], found["rest"]
            if "@" in endpoint:
                raise SpecError("the repository's address has credentials in it: leave them to the environment, a profile or a connection")
        elif scheme == "s3" and (found := _BARE.fullmatch(rest)):
            endpoint, rest = f"http://{found['host']}", found["rest"]
        elif scheme == "s3" and (found := _CONNECTION.fullmatch(rest)):
            connection, rest = found["connection"], found["rest"]
        elif "@" in rest and {"@", ":"} & set(rest.split("/", 1)[0]):
            raise SpecError("the repository's address has credentials in it: leave them to the environment, a profile or a connection")
        if scheme == "as":
            account, _, rest = rest.partition("/")
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        if ":" in bucket:
            raise SpecError(f"`{text}` is no address of a model repository: a server goes with its protocol, {FORMS.split(', ')[1]}")
        if not bucket or any(part in ("", ".", "..") for part in prefix.split("/")):
            raise SpecError(
                f"`{text}` cannot be a model repository: it needs a bucket and a prefix below it, such as {text.rstrip('/')}/models "
                "(the work area lies beside the repository, so that Triton does not see it)"
            )
        return cls(scheme, bucket, prefix, endpoint, account, connection)

    @property
    def work_prefix(self) -> str:
        """Where the work area lies: beside the repository."""
        above, _, name = self.prefix.rpartition("/")
        return f"{above}/.{name}.airflow-triton".lstrip("/")

    def __str__(self) -> str:
        host = self.endpoint or self.account
        where = f"{host}/" if host else f"{self.connection}@" if self.connection else ""
        return f"{self.scheme}://{where}{self.bucket}/{self.prefix}"
