"""From an address to a store: credentials, region, deadlines and retries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_triton.errors import RepositoryError, SpecError
from airflow_triton.repository.object_store.address import StoreAddress
from airflow_triton.repository.object_store.faults import translated

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_s3 import S3Client
    from obstore.store import ObjectStore

SessionLookup: TypeAlias = "Callable[[str], tuple[boto3.Session, str | None]]"
"""From the id of an Airflow connection to its boto3 session, and the endpoint that it names, if any."""


@dataclass(frozen=True)
class Deadlines:
    """How patient we are with a store, in seconds: to connect, for one request, and for one operation with all its retries.

    What may go away (5xx, throttling, lost connections) is retried with exponential back-off, `retries` times at most.
    """

    connect: float = 5.0
    request: float = 120.0
    operation: float = 180.0
    retries: int = 6


@dataclass(frozen=True)
class Connection:
    """A bucket, opened. `s3` is there for S3 only: what obstore cannot do is asked of boto3."""

    store: ObjectStore
    s3: S3Client | None

    @property
    def endpoint(self) -> str:
        """The server that is asked, where that is not the provider's one and only."""
        return self.s3.meta.endpoint_url if self.s3 else ""


def connect(address: StoreAddress, *, session: Any = None, lookup: SessionLookup | None = None, deadlines: Deadlines) -> Connection:
    """Open the bucket of an address.

    S3's credentials come from `session`, else from the Airflow connection that the address names, else from boto3's own chain
    (environment, AWS_PROFILE, web identity, the machine's role); those of Google and Azure from their environment variables.

    Raises:
        RepositoryError: there is no such bucket, or the credentials are refused.
        RepositoryUnreachableError: the store does not answer.

    """
    try:
        if address.scheme == "s3":
            return _connect_s3(address, session, lookup, deadlines)
        return Connection(_other_store(address, deadlines), None)
    except ImportError as error:
        extra = {"s3": "s3", "gs": "gcs", "as": "azure"}[address.scheme]
        raise RepositoryError(f"{address} needs {error.name}: pip install 'airflow-provider-triton[{extra}]'") from None


def _connect_s3(address: StoreAddress, session: Any, lookup: SessionLookup | None, deadlines: Deadlines) -> Connection:
    import boto3
    from botocore.config import Config
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    endpoint = address.endpoint
    if session is None and address.connection:
        if lookup is None:
            raise SpecError(f"`{address.connection}` in the repository's address is an Airflow connection id, and there is no Airflow here")
        session, named = lookup(address.connection)
        endpoint = endpoint or named
    session = session or boto3.Session()
    config = Config(
        connect_timeout=deadlines.connect,
        read_timeout=deadlines.request,
        retries={"mode": "standard", "total_max_attempts": deadlines.retries + 1},
        s3={"addressing_style": "path"} if endpoint else {},
        max_pool_connections=16,
    )
    client = session.client("s3", endpoint_url=endpoint, config=config)
    with translated(str(address), "look for the bucket"):
        if session.get_credentials() is None:
            raise RepositoryError(
                f"there are no credentials for {address}: looked at the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...), "
                "~/.aws and the machine's role"
            )
        answer = client.head_bucket(Bucket=address.bucket)
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    url = client.meta.endpoint_url
    own = not url.endswith("amazonaws.com")
    store = S3Store(
        address.bucket,
        credential_provider=Boto3CredentialProvider(session),
        region=headers.get("x-amz-bucket-region") or client.meta.region_name or "us-east-1",
        checksum_algorithm="SHA256",
        virtual_hosted_style_request=False,
        client_options=_client_options(deadlines, allow_http=url.startswith("http:")),
        retry_config=_retries(deadlines),
        **({"endpoint": url} if own else {}),
    )
    return Connection(store, client)


def _other_store(address: StoreAddress, deadlines: Deadlines) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore

    options = {"client_options": _client_options(deadlines), "retry_config": _retries(deadlines)}
    if address.scheme == "gs":
        return GCSStore(address.bucket, **options)
    return AzureStore(address.bucket, account_name=address.account, **options)


def _client_options(deadlines: Deadlines, *, allow_http: bool = False) -> Any:
    seconds = {"connect_timeout": timedelta(seconds=deadlines.connect), "timeout": timedelta(seconds=deadlines.request)}
    return {**seconds, "allow_http": allow_http}


def _retries(deadlines: Deadlines) -> Any:
    backoff = {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=10), "base": 2}
    return {"max_retries": deadlines.retries, "retry_timeout": timedelta(seconds=deadlines.operation), "backoff": backoff}
