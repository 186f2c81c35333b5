"""A proxy between a client and an S3 server that counts requests, makes chosen ones fail, and kills the client at the Nth.

What it does not spoil on purpose it passes on as it came, byte for byte (the signature covers the Host header), in pieces of 64 KiB.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal

ADDRESS = "127.0.0.1"
PIECE = 64 * 1024
LONGEST_HEAD = 256 * 1024
DEATH_SECONDS = 10.0
IDLE_SECONDS = 30.0
CONTINUE_SECONDS = 1.0
LOOK_SECONDS = 0.01
NO_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
When = Literal["before", "after"]


@dataclass
class Request:
    """One request as the proxy saw it."""

    number: int
    """Counted from 1, in the order of arrival, since the proxy was armed last."""
    method: str
    path: str
    """`/bucket/key`, decoded."""
    query: str
    """As it came."""
    headers: dict[str, str] = field(repr=False)
    """With names in lower case."""
    size: int = 0
    """Bytes of the body that the proxy has read."""
    status: int | None = None
    """What the server answered, or what the proxy did in its place; None where neither did."""
    fault: str | None = None
    """What the proxy did on purpose."""


class Exchange:
    """One request on its way, and its answer on the way back: what a fault works with."""

    def __init__(self, client: _Stream, upstream: _Stream, request: Request, head: bytes) -> None:
        self.client = client
        self.upstream = upstream
        self.request = request
        self._head = head
        self._body = client.body(request.headers)
        self._answer: bytes | None = None  # the head of an answer that came before the whole request was sent
        self._expects = request.headers.get("expect", "").lower() == "100-continue"

    def forward(self, change: Callable[[bytes], bytes] | None = None, limit: int | None = None) -> None:
        """Send the request to the server, or only so many bytes of its body; `change` is applied to each piece of the body."""
        self.upstream.socket.sendall(self._head)
        if self._expects and _readable(self.upstream.socket, timeout=CONTINUE_SECONDS):
            self._take_early_answer()
        if self._answer is None:
            self.continue_()
        else:
            self.discard()
        for piece, is_data in self._body:
            self.request.size += len(piece) if is_data else 0
            try:
                if limit is not None and self.request.size >= limit:
                    self.upstream.socket.sendall(piece[: max(0, len(piece) - (self.request.size - limit))])
                    return
                self.upstream.socket.sendall(change(piece) if change and is_data else piece)
                if self.upstream.ready():
                    self._take_early_answer()
            except OSError:  # it does not want the rest; its answer says why
                self._answer = self._answer or self.upstream.head()
            if self._answer is not None:
                self.discard()

    def _take_early_answer(self) -> None:
        """An answer before the end of the request: `100 Continue`, which is passed on, or the final one, which waits for `relay`."""
        head = self.upstream.head()
        if _status(head) == HTTPStatus.CONTINUE:
            self.continue_()
        else:
            self._answer = head

    def continue_(self) -> None:
        """Ask a client that waits for it (`Expect: 100-continue`) for the body."""
        if self._expects:
            self._expects = False
            self.client.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def discard(self) -> None:
        """Read the (rest of the) body, to nobody's use."""
        self.continue_()
        for piece, is_data in self._body:
            self.request.size += len(piece) if is_data else 0

    def relay(self, limit: int | None = None, *, to_client: bool = True) -> bool:
        """Read the server's answer and pass it on, or only so many bytes of its body; whether the connection can be used again."""
        head = self._answer or self.upstream.head()
        while 0 < _status(head) < HTTPStatus.OK:
            head = self.upstream.head()
        if not head:
            raise ConnectionError("the server closed the connection")
        self._answer = None
        self.request.status = _status(head)
        headers = _headers(head)
        if to_client:
            self.client.socket.sendall(head)
        empty = self.request.method == "HEAD" or self.request.status in NO_BODY
        for piece, is_data in () if empty else self.upstream.body(headers, until_end=True):
            if limit is not None and is_data:
                if to_client:
                    self.client.socket.sendall(piece[:limit])
                limit -= len(piece)
                if limit <= 0:
                    return False
            elif to_client:
                self.client.socket.sendall(piece)
        sized = empty or "content-length" in headers or "transfer-encoding" in headers
        return sized and "close" not in (headers.get("connection", "").lower(), self.request.headers.get("connection", "").lower())

    def answer(self, status: int, body: bytes, kind: str = "application/xml") -> None:
        """Answer in the server's place."""
        self.request.status = status
        head = f"HTTP/1.1 {status} Set by the proxy\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.client.socket.sendall(head.encode() + (b"" if self.request.method == "HEAD" else body))


Fault = Callable[[Exchange], bool]
"""What is done with a request; whether the connection can be used again."""


@dataclass
class Rule:
    """A fault, and the requests it hits: of those that `hits` says yes to, `times` (None: all) after the first `skip`."""

    hits: Callable[[Request], bool]
    fault: Fault
    times: int | None = 1
    skip: int = 0
    seen: int = field(default=0, init=False)

    def applies(self, request: Request) -> bool:
        """Whether it hits this request, which is counted."""
        if not self.hits(request):
            return False
        self.seen += 1
        return self.skip < self.seen and (self.times is None or self.seen <= self.skip + self.times)


def on(method: str | None = None, path: str = "", query: str | None = None) -> Callable[[Request], bool]:
    """Requests of that method, with that text in their path, and in their query; the query "" means none."""

    def hits(request: Request) -> bool:
        asked = re.sub(r"&?x-id=\w+", "", request.query)  # boto3 names the operation so
        fits = query is None or (query in asked if query else not asked)
        return fits and method in (None, request.method) and path in request.path

    return hits


def respond(status: int, code: str) -> Fault:
    """An S3 error instead of the server's answer; the server sees nothing of the request."""

    def fault(exchange: Exchange) -> bool:
        exchange.discard()
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>Set by the proxy</Message></Error>'
        exchange.answer(status, body.encode())
        return True

    return _named(fault, f"respond {status} {code}")


def hang(seconds: float) -> Fault:
    """No answer for so long, or until the client gives up; then the connection is closed. The server sees nothing of the request."""

    def fault(exchange: Exchange) -> bool:
        exchange.discard()
        _readable(exchange.client.socket, timeout=seconds)
        return False

    return _named(fault, f"hang {seconds:g}")


def truncate_answer(size: int) -> Fault:
    """The server's answer breaks off after so many bytes of its body."""

    def fault(exchange: Exchange) -> bool:
        exchange.forward()
        exchange.relay(limit=size)
        return False

    return _named(fault, f"truncate answer {size}")


def cut_upload(size: int) -> Fault:
    """The connection is reset, on both sides, after so many bytes of the request's body, of which it must have more."""

    def fault(exchange: Exchange) -> bool:
        exchange.forward(limit=size)
        exchange.client.reset()
        exchange.upstream.reset()
        return False

    return _named(fault, f"cut upload {size}")


def lose_answer() -> Fault:
    """The server does what it is asked, and the client never learns it: the connection is closed instead."""

    def fault(exchange: Exchange) -> bool:
        exchange.forward()
        exchange.relay(to_client=False)
        return False

    return _named(fault, "lose answer")


def corrupt_upload() -> Fault:
    """One byte of the request's body is flipped on its way."""

    def fault(exchange: Exchange) -> bool:
        done: list[bool] = []

        def flip(piece: bytes) -> bytes:
            if done:
                return piece
            done.append(True)
            middle = len(piece) // 2
            return piece[:middle] + bytes([piece[middle] ^ 0x01]) + piece[middle + 1 :]

        exchange.forward(change=flip)
        return exchange.relay()

    return _named(fault, "corrupt upload")


def _named(fault: Fault, name: str) -> Fault:
    fault.__name__ = name
    return fault


@dataclass
class _Order:
    """Whom to kill, and when."""

    pid: int
    at: int
    when: When


class Proxy:
    """Listens on a port of its own and passes everything on to `upstream` (`http://host:port`); a context manager.

    A client process can order its own death: see `arm`.
    """

    def __init__(self, upstream: str) -> None:
        parts = urllib.parse.urlsplit(upstream)
        assert parts.scheme == "http", upstream
        assert parts.hostname is not None, upstream
        self._upstream = (parts.hostname, parts.port or 80)
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._requests: list[Request] = []
        self._order: _Order | None = None
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._idle: set[socket.socket] = set()
        self._active = 0  # connections that do not wait for a request
        self._ending = False
        self._listener: socket.socket | None = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://{ADDRESS}:{self._port}"

    @property
    def requests(self) -> list[Request]:
        """The requests since the proxy was armed last (or since the start), in the order of arrival."""
        with self._lock:
            return [replace(request) for request in self._requests]

    def arm(self, pid: int = 0, at: int = 0, when: When = "before") -> None:
        """Count anew; kill that process when its `at`th request has come (`before` it is passed on, or `after` the server did it).

        With `at` 0, count only.
        """
        assert when in ("before", "after"), when
        assert at == 0 or pid > 1, pid
        with self._lock:
            self._requests = []
            self._order = _Order(pid, at, when) if at else None

    @contextlib.contextmanager
    def faults(self, *rules: Rule) -> Iterator[None]:
        """For as long as the context lasts, the first of these rules that applies to a request decides what becomes of it.

        A request of before may still come late (a part of an upload that has failed): see `wait_idle`.
        """
        with self._lock:
            before, self._rules = self._rules, list(rules)
            for rule in rules:
                rule.seen = 0
        try:
            yield
        finally:
            with self._lock:
                self._rules = before

    def wait_idle(self, timeout: float = IDLE_SECONDS) -> None:
        """Wait until no request is on its way: what a killed client had sent is done, or never will be. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while not self._is_idle():
            if time.monotonic() > deadline:
                raise TimeoutError(f"requests are still on their way after {timeout:g} s")
            time.sleep(LOOK_SECONDS)

    def _is_idle(self) -> bool:
        with self._lock:
            return not self._active and not _readable(*self._idle, *([self._listener] if self._listener else []), timeout=0)

    def start(self) -> None:
        """Listen."""
        self._listener = socket.create_server((ADDRESS, 0), backlog=128)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """Close every connection."""
        with self._lock:
            self._ending = True
            for each in [*self._open, *([self._listener] if self._listener else [])]:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join(IDLE_SECONDS)
        if self._listener:
            self._listener.close()

    def __enter__(self) -> Proxy:  # noqa: PYI034  # typing.Self is newer than Python 3.10
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _spawn(self, target: Callable[[socket.socket], None], one: socket.socket) -> None:
        def run() -> None:
            try:
                target(one)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="proxy", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            _readable(listener)
            with self._lock:
                try:
                    client, _ = listener.accept()
                except BlockingIOError:  # it has gone again
                    continue
                except OSError:  # closed
                    return
                self._active += 1
            client.setblocking(True)
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        """One connection of a client, with one connection of its own to the server, until either ends."""
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.callback(self._ended)
            near = stack.enter_context(self._opened(client))
            head = self._next_head(near)
            while head and _target(head).startswith("/__"):
                self._control(near, head)
                head = self._next_head(near)
            if not head:
                return
            far = stack.enter_context(self._opened(socket.create_connection(self._upstream)))
            while head and self._pass_on(near, far, head):
                head = self._next_head(near, far)

    def _next_head(self, near: _Stream, far: _Stream | None = None) -> bytes:
        """The head of the next request; nothing at the end.

        A server that closes an idle connection closes the client's, too: the client must not lose a request that way.
        """
        if not near.buffer:
            with self._lock:
                self._active -= 1
                self._idle.add(near.socket)
            try:
                ready = _readable(near.socket, *([far.socket] if far else []))
            finally:
                with self._lock:
                    self._active += 1
                    self._idle.discard(near.socket)
            if near.socket not in ready:
                return b""
        return near.head()

    def _ended(self) -> None:
        with self._lock:
            self._active -= 1

    @contextlib.contextmanager
    def _opened(self, one: socket.socket) -> Iterator[_Stream]:
        with self._lock:
            self._open.add(one)
            if self._ending:
                one.shutdown(socket.SHUT_RDWR)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            yield _Stream(one)
        finally:
            with self._lock:
                self._open.discard(one)
            one.close()

    def _pass_on(self, client: _Stream, upstream: _Stream, head: bytes) -> bool:
        with self._lock:
            request = self._record(head)
            order = self._order if self._order and self._order.at == request.number else None
            rule = None if order else next((rule for rule in self._rules if rule.applies(request)), None)
            fault = _kill(order) if order else rule.fault if rule else None
            request.fault = getattr(fault, "__name__", None)
        exchange = Exchange(client, upstream, request, head)
        if fault:
            return fault(exchange)
        exchange.forward()
        return exchange.relay()

    def _record(self, head: bytes) -> Request:
        method = head.split(b" ", 1)[0].decode("latin-1")
        path, _, query = _target(head).partition("?")
        request = Request(len(self._requests) + 1, method, urllib.parse.unquote(path), query, _headers(head))
        self._requests.append(request)
        return request

    def _control(self, client: _Stream, head: bytes) -> None:
        path, _, query = _target(head).partition("?")
        status, answer = HTTPStatus.OK, b"[]"
        try:
            if path == "/__requests":
                answer = json.dumps([asdict(request) for request in self.requests]).encode()
            elif path == "/__arm":
                given: dict[str, Any] = dict(urllib.parse.parse_qsl(query))
                self.arm(int(given.get("pid", 0)), int(given.get("at", 0)), given.get("when", "before"))
            else:
                status = HTTPStatus.NOT_FOUND
        except (AssertionError, ValueError) as error:
            status, answer = HTTPStatus.BAD_REQUEST, str(error).encode()
        fields = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
        client.socket.sendall(fields.encode() + answer)


def _kill(order: _Order) -> Fault:
    def fault(exchange: Exchange) -> bool:
        if order.when == "after":
            exchange.forward()
            exchange.relay(to_client=False)
        kill(order.pid)
        return False

    return _named(fault, f"kill {order.when}")


def kill(pid: int) -> None:
    """SIGKILL that process, and wait until it is dead: it must not see what happens to its connection."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            _readable(handle, timeout=DEATH_SECONDS)
        finally:
            os.close(handle)


def arm(endpoint: str, *, at: int, when: When = "before", pid: int | None = None) -> None:
    """Ask the proxy to kill that process (this one, if none is named) at its `at`th request from now; with `at` 0, to count anew."""
    query = urllib.parse.urlencode({"pid": os.getpid() if pid is None else pid, "at": at, "when": when})
    _ask(f"{endpoint}/__arm?{query}")


def requests(endpoint: str) -> list[Request]:
    """The requests that the proxy has counted since it was armed last."""
    return [Request(**row) for row in json.loads(_ask(f"{endpoint}/__requests"))]


def _ask(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the environment's proxies are not meant
    with opener.open(url, timeout=IDLE_SECONDS) as answer:
        content: bytes = answer.read()
        return content


class _Stream:
    """A socket that is read by heads and bodies of HTTP messages."""

    def __init__(self, one: socket.socket) -> None:
        self.socket = one
        self.buffer = b""

    def ready(self) -> bool:
        """Whether there is something to read (or the end)."""
        return bool(self.buffer or _readable(self.socket, timeout=0))

    def head(self) -> bytes:
        """The start line and the headers, with the empty line; nothing at the end of the stream."""
        return self._until(b"\r\n\r\n")

    def body(self, headers: dict[str, str], *, until_end: bool = False) -> Iterator[tuple[bytes, bool]]:
        """Pieces of the body as they come, each with whether it is data, and not the frame around it."""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            yield from self._chunks()
        elif "content-length" in headers:
            yield from self._pieces(int(headers["content-length"]))
        elif until_end:
            while piece := self._some(PIECE):
                yield piece, True

    def reset(self) -> None:
        """Close so that the other side sees a reset, and not an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _chunks(self) -> Iterator[tuple[bytes, bool]]:
        while True:
            line = self._until(b"\r\n")
            yield line, False
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            yield from self._pieces(size)
            yield self._until(b"\r\n"), False
        while (line := self._until(b"\r\n")) != b"\r\n":
            yield line, False
        yield line, False

    def _pieces(self, size: int) -> Iterator[tuple[bytes, bool]]:
        while size:
            piece = self._some(min(size, PIECE))
            if not piece:
                raise ConnectionError("the connection ended in the middle of a body")
            size -= len(piece)
            yield piece, True

    def _some(self, size: int) -> bytes:
        if not self.buffer:
            return self.socket.recv(size)
        piece, self.buffer = self.buffer[:size], self.buffer[size:]
        return piece

    def _until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            more = self.socket.recv(PIECE)
            if not more or len(self.buffer) > LONGEST_HEAD:
                if self.buffer:
                    raise ConnectionError("the connection ended in the middle of a head")
                return b""
            self.buffer += more
        found, _, self.buffer = self.buffer.partition(end)
        return found + end


def _readable(*what: Any, timeout: float | None = None) -> list[Any]:
    """Those sockets or descriptors that have something to read, or have ended; none after `timeout` seconds."""
    poller = select.poll()
    by_number = {one if isinstance(one, int) else one.fileno(): one for one in what}
    for number in by_number:
        poller.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poller.poll(None if timeout is None else timeout * 1000)]


def _target(head: bytes) -> str:
    return head.split(b" ", 2)[1].decode("latin-1")


def _status(head: bytes) -> int:
    return int(head.split(b" ", 2)[1]) if head else 0


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
