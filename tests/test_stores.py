"""The stores and the proxy that other tests rely on do what they say: seen with boto3 and obstore, on real servers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
import pytest
from botocore.exceptions import ClientError, HTTPClientError
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError
from obstore.store import S3Store
from stores import Proxy, RcloneS3, Rule, SeaweedFS, on
from stores.proxy import arm, corrupt_upload, cut_upload, hang, lose_answer, requests, respond, truncate_answer

if TYPE_CHECKING:
    from obstore.store import BackoffConfig
    from stores.server import S3Server

BUCKET = "models"
MIB = 1024 * 1024
THREADS = 12
BACKOFF: BackoffConfig = {"init_backoff": timedelta(milliseconds=10), "max_backoff": timedelta(milliseconds=50), "base": 2}


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneS3]:
    with RcloneS3(tmp_path_factory.mktemp("rclone")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="module")
def one_proxy(seaweed: SeaweedFS) -> Iterator[Proxy]:
    with Proxy(seaweed.endpoint) as running:
        yield running


@pytest.fixture
def proxy(one_proxy: Proxy) -> Proxy:
    one_proxy.wait_idle()
    one_proxy.arm()
    return one_proxy


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of the test's own."""
    return f"{request.node.originalname}/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]}"


def store(server: S3Server, endpoint: str | None = None, *, retries: int = 2, timeout: str = "10s", **config: Any) -> S3Store:
    return S3Store(
        BUCKET,
        config={  # type: ignore[arg-type]
            "endpoint": endpoint or server.endpoint,
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
            "region": "us-east-1",
            **config,
        },
        client_options={"allow_http": True, "timeout": timeout},
        retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=20), "backoff": BACKOFF},
    )


def content(server: S3Server, key: str) -> bytes | None:
    """The object as the server has it; None if it has none."""
    client = server.client()
    try:
        return client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return None


def outcomes(action: Callable[[int], Any], *errors: type[Exception]) -> int:
    """How many of the threads did it, where all try at once, and the others get one of these errors."""
    barrier = threading.Barrier(THREADS)

    def attempt(number: int) -> bool:
        barrier.wait()
        try:
            action(number)
        except errors:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(attempt, range(THREADS)))


def test_seaweed_lets_one_of_many_create(seaweed: SeaweedFS, key: str) -> None:
    writer = store(seaweed)
    assert outcomes(lambda number: obstore.put(writer, key, b"%d" % number, mode="create"), AlreadyExistsError) == 1


def test_seaweed_lets_one_of_many_update(seaweed: SeaweedFS, key: str) -> None:
    writer = store(seaweed)
    tag = obstore.put(writer, key, b"first")["e_tag"]
    assert outcomes(lambda number: obstore.put(writer, key, b"%d" % number, mode={"e_tag": tag}), PreconditionError) == 1
    with pytest.raises(PreconditionError):
        obstore.put(writer, key, b"late", mode={"e_tag": tag})


def test_seaweed_honours_the_conditions_of_boto3(seaweed: SeaweedFS, key: str) -> None:
    client = seaweed.client()
    tag = client.put_object(Bucket=BUCKET, Key=key, Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"2", IfNoneMatch="*")
    client.put_object(Bucket=BUCKET, Key=key, Body=b"3", IfMatch=tag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"4", IfMatch=tag)
    assert content(seaweed, key) == b"3"


def test_seaweed_takes_parts_and_copies(seaweed: SeaweedFS, key: str) -> None:
    data = os.urandom(12 * MIB)
    writer = store(seaweed, checksum_algorithm="SHA256")
    obstore.put(writer, key, data, attributes={"digest": "d"}, chunk_size=5 * MIB)
    obstore.copy(writer, key, key + "-copy")
    assert content(seaweed, key + "-copy") == data
    head = seaweed.client().head_object(Bucket=BUCKET, Key=key + "-copy")
    assert head["Metadata"] == {"digest": "d"}


def test_seaweed_makes_no_bucket_that_nobody_asked_for(seaweed: SeaweedFS) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        seaweed.client().put_object(Bucket="not-there", Key="k", Body=b"1")


def test_seaweed_wants_the_right_secret(seaweed: SeaweedFS) -> None:
    with pytest.raises(PermissionDeniedError, match="SignatureDoesNotMatch"):
        obstore.put(store(seaweed, secret_access_key="wrong"), "k", b"1")


def test_two_run_side_by_side_and_objects_outlive_a_crash(seaweed: SeaweedFS, tmp_path: Path) -> None:
    with SeaweedFS(tmp_path / "other") as other:
        other.make_bucket(BUCKET)
        assert other.endpoint != seaweed.endpoint
        assert other.url(BUCKET, "a/b") == f"s3://{other.endpoint}/{BUCKET}/a/b"
        before = other.endpoint
        obstore.put(store(other), "kept", b"1")
        other.kill()
        with pytest.raises(BaseError, match="error sending request"):
            obstore.put(store(other, retries=0), "k", b"1")
        other.start()
        assert other.endpoint == before
        assert content(other, "kept") == b"1"
    port = before.rpartition(":")[2]
    assert not list(Path(tempfile.gettempdir()).glob(f"seaweedfs-*{port}.sock"))


def test_the_environment_is_all_that_a_client_needs(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    obstore.put(S3Store(BUCKET), key, b"1")
    code = f"import boto3; print(boto3.client('s3').get_object(Bucket={BUCKET!r}, Key={key!r})['Body'].read())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "b'1'\n"


def test_a_server_dies_with_the_test_process(tmp_path: Path) -> None:
    code = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from stores import RcloneS3
        server = RcloneS3(Path({str(tmp_path)!r}))
        server.start()
        print(server._pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    started = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True)
    pid = int(started.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    server = RcloneS3(tmp_path, secret_key="bad,comma")
    with pytest.raises((RuntimeError, TimeoutError), match="The end of its log"):
        server.start()


def test_rclone_ignores_conditions(rclone: RcloneS3, key: str) -> None:
    writer = store(rclone)
    for number in range(2):
        obstore.put(writer, key, b"%d" % number, mode="create")
    obstore.put(writer, key, b"2", mode={"e_tag": '"0123"'})
    assert content(rclone, key) == b"2"


def test_the_proxy_passes_on_and_counts(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    data = os.urandom(3 * MIB)
    obstore.put(store(seaweed, proxy.endpoint), key, data, use_multipart=False)
    client = seaweed.client(proxy.endpoint)
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == data
    client.put_object(Bucket=BUCKET, Key=key + "é", Body=b"12")  # with `Expect: 100-continue`
    assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(data)
    client.delete_object(Bucket=BUCKET, Key=key)
    seen = [(one.number, one.method, one.path, one.size, one.status) for one in proxy.requests]
    path = f"/{BUCKET}/{key}"
    assert seen == [
        (1, "PUT", path, len(data), 200),
        (2, "GET", path, 0, 200),
        (3, "PUT", path + "é", 2, 200),
        (4, "HEAD", path, 0, 200),
        (5, "DELETE", path, 0, 204),
    ]
    assert [one.number for one in requests(proxy.endpoint)] == [1, 2, 3, 4, 5]


def test_the_proxy_takes_bodies_in_chunks(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    import http.client

    url = seaweed.client(proxy.endpoint).generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": key})
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"))
    pieces = [os.urandom(100_000) for _ in range(5)]
    connection.request("PUT", url.removeprefix(proxy.endpoint), body=iter(pieces), encode_chunked=True)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200
    assert content(seaweed, key) == b"".join(pieces)
    assert proxy.requests[0].size == 500_000


def test_the_proxy_serves_many_at_once(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    data = os.urandom(24 * MIB)
    obstore.put(store(seaweed, proxy.endpoint), key, data, chunk_size=5 * MIB, max_concurrency=8)
    assert content(seaweed, key) == data
    assert sorted(one.number for one in proxy.requests) == list(range(1, 8))


def test_the_proxy_tells_of_a_refusal_before_the_end_of_the_body(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    client = seaweed.client(proxy.endpoint)
    client.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    for _ in range(3):
        with pytest.raises(ClientError, match="PreconditionFailed"):
            client.put_object(Bucket=BUCKET, Key=key, Body=bytes(16 * MIB), IfNoneMatch="*")


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown")])
def test_an_error_twice_is_retried(seaweed: SeaweedFS, proxy: Proxy, key: str, status: int, code: str) -> None:
    with proxy.faults(Rule(on("PUT"), respond(status, code), times=2)):
        obstore.put(store(seaweed, proxy.endpoint), key, b"1")
    assert [one.status for one in proxy.requests] == [status, status, 200]
    assert [one.fault for one in proxy.requests] == [f"respond {status} {code}"] * 2 + [None]


def test_an_error_for_ever_is_an_error(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    with proxy.faults(Rule(on("PUT"), respond(503, "SlowDown"), times=None)), pytest.raises(BaseError, match="SlowDown"):
        obstore.put(store(seaweed, proxy.endpoint), key, b"1")
    assert len(proxy.requests) == 3
    assert content(seaweed, key) is None


def test_a_refusal_is_not_retried(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    with proxy.faults(Rule(on("PUT"), respond(403, "AccessDenied"))), pytest.raises(PermissionDeniedError, match="AccessDenied"):
        obstore.put(store(seaweed, proxy.endpoint), key, b"1")
    with proxy.faults(Rule(on("PUT"), respond(403, "AccessDenied"))), pytest.raises(ClientError, match="AccessDenied"):
        seaweed.client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=bytes(MIB))
    assert content(seaweed, key) is None


def test_a_rule_lets_some_through_first(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    writer = store(seaweed, proxy.endpoint, retries=0)
    with proxy.faults(Rule(on("PUT", path=key), respond(503, "SlowDown"), skip=1, times=1)):
        obstore.put(writer, "else", b"1")
        obstore.put(writer, key, b"1")
        with pytest.raises(BaseError):
            obstore.put(writer, key, b"2")
        obstore.put(writer, key, b"3")


def test_the_first_rule_that_applies_decides(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    rules = [
        Rule(on("PUT", query="partNumber=2"), respond(503, "SlowDown")),
        Rule(on("PUT", query=""), respond(500, "InternalError"), times=None),
        Rule(on("PUT", query="partNumber=2"), respond(500, "InternalError")),
    ]
    with proxy.faults(*rules):
        obstore.put(store(seaweed, proxy.endpoint), key, bytes(12 * MIB), chunk_size=5 * MIB)
    assert sorted(one.status or 0 for one in proxy.requests if "partNumber=2" in one.query) == [200, 500, 503]


def test_a_hanging_answer_runs_into_the_time_limit(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    start = time.monotonic()
    with proxy.faults(Rule(on("PUT"), hang(30), times=None)), pytest.raises(BaseError, match="TimedOut"):
        obstore.put(store(seaweed, proxy.endpoint, retries=0, timeout="300ms"), key, b"1")
    assert time.monotonic() - start < 5
    proxy.wait_idle(5)  # and the proxy has noticed that nobody waits any more
    assert content(seaweed, key) is None


def test_a_hanging_answer_ends(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    with proxy.faults(Rule(on("PUT"), hang(0.2))), pytest.raises(HTTPClientError):
        seaweed.client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=b"1")
    assert content(seaweed, key) is None


def test_a_truncated_answer_is_continued_or_an_error(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    data = os.urandom(MIB)
    obstore.put(store(seaweed), key, data)
    with proxy.faults(Rule(on("GET"), truncate_answer(100_000))):
        assert bytes(obstore.get(store(seaweed, proxy.endpoint), key).bytes()) == data
    assert [one.status for one in proxy.requests] == [200, 206]
    with proxy.faults(Rule(on("GET"), truncate_answer(100_000), times=None)), pytest.raises(BaseError, match="body error"):
        obstore.get(store(seaweed, proxy.endpoint), key).bytes()


def test_a_cut_upload_is_no_object(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    with proxy.faults(Rule(on("PUT"), cut_upload(100_000), times=None)), pytest.raises(BaseError, match="error sending request"):
        obstore.put(store(seaweed, proxy.endpoint), key, bytes(MIB))
    assert [one.status for one in proxy.requests] == [None] * 3
    assert content(seaweed, key) is None
    with proxy.faults(Rule(on("PUT"), cut_upload(100_000))):
        obstore.put(store(seaweed, proxy.endpoint), key, bytes(MIB))
    assert content(seaweed, key) == bytes(MIB)


def test_a_lost_answer_to_a_create_looks_like_somebody_elses(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    with proxy.faults(Rule(on("PUT"), lose_answer())), pytest.raises(AlreadyExistsError):
        obstore.put(store(seaweed, proxy.endpoint), key, b"mine", mode="create")
    assert [(one.status, one.fault) for one in proxy.requests] == [(200, "lose answer"), (412, None)]
    assert content(seaweed, key) == b"mine"


def test_a_lost_answer_to_an_update_looks_like_somebody_elses(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    tag = obstore.put(store(seaweed), key, b"old")["e_tag"]
    with proxy.faults(Rule(on("PUT"), lose_answer())), pytest.raises(PreconditionError):
        obstore.put(store(seaweed, proxy.endpoint), key, b"mine", mode={"e_tag": tag})
    assert content(seaweed, key) == b"mine"


def test_a_corrupted_upload_is_refused_where_it_has_a_checksum(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    data = bytes(12 * MIB)
    with proxy.faults(Rule(on("PUT", query="partNumber=2"), corrupt_upload())), pytest.raises(BaseError, match="BadDigest"):
        obstore.put(store(seaweed, proxy.endpoint, checksum_algorithm="SHA256"), key, data, chunk_size=5 * MIB)
    with proxy.faults(Rule(on("PUT", query=""), corrupt_upload())), pytest.raises(ClientError, match="BadDigest"):  # no part that is late
        seaweed.client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=data)
    assert content(seaweed, key) is None


def test_a_corrupted_upload_without_a_checksum_is_kept(seaweed: SeaweedFS, proxy: Proxy, key: str) -> None:
    """The signature covers a hash of the body, and SeaweedFS does not look at it."""
    with proxy.faults(Rule(on("PUT"), corrupt_upload())):
        obstore.put(store(seaweed, proxy.endpoint), key, bytes(MIB))
    kept = content(seaweed, key)
    assert kept is not None
    assert sum(byte != 0 for byte in kept) == 1


DYING = """
    import sys
    import obstore
    from obstore.store import S3Store
    sys.path.insert(0, {tests!r})
    from stores.proxy import arm
    store = S3Store({bucket!r})
    arm({endpoint!r}, at=2, when={when!r})
    for name in ("first", "second", "third"):
        obstore.put(store, {key!r} + name, b"1")
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_client_dies_at_its_second_request(seaweed: SeaweedFS, proxy: Proxy, key: str, when: str) -> None:
    code = DYING.format(tests=str(Path(__file__).parent), bucket=BUCKET, endpoint=proxy.endpoint, when=when, key=key)
    environment = {**os.environ, **seaweed.environment_at(proxy.endpoint)}
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, env=environment)
    assert ended.returncode == -9
    proxy.wait_idle()
    there = [content(seaweed, key + name) is not None for name in ("first", "second", "third")]
    assert there == [True, when == "after", False]
    assert [(one.status, one.fault) for one in proxy.requests] == [(200, None), (200 if when == "after" else None, f"kill {when}")]


def test_orders_that_make_no_sense_are_refused(proxy: Proxy) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        arm(proxy.endpoint, at=1, pid=1)
    arm(proxy.endpoint, at=0)
    assert proxy.requests == []


def test_a_proxy_ends_while_a_request_hangs(seaweed: SeaweedFS, key: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Proxy(seaweed.endpoint) as brief, brief.faults(Rule(on("PUT"), hang(60))):
            waiting = pool.submit(obstore.put, store(seaweed, brief.endpoint, retries=0), key, b"1")
            while not brief.requests:
                time.sleep(0.01)
        with pytest.raises(BaseError):
            waiting.result(10)
