"""A proxy between a store and its server that fails as networks and servers do."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What can befall a request, by name. "Lost" requests never reach the server; of "done" ones the
# server has done what they ask, and the client is not told.
KINDS = (
    *("lost: 500", "lost: 503", "lost: cut", "done: 500", "done: cut", "done: cut within answer"),
    "slow",
)
SLOW_SECONDS = 0.5
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Request:
    """What a client asks; `path` has the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a server says to it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def forward(port: int, request: Request) -> Answer:
    """The answer of the server at a port of this machine, to the request as it came."""
    server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        server.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                server.putheader(name, value)
        server.putheader("Content-Length", str(len(request.body)))
        server.endheaders(request.body)
        answer = server.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        server.close()


@dataclass
class FaultProxy:
    """Passes requests on to a server on this machine, and lets some of them fail.

    `shares` says which share of all requests each kind befalls, drawn at random, and
    `next_writes` are the kinds that befall the next PUT requests, in turn. `seen` counts what
    befell, by kind, and `requests` all that came, by method.
    """

    ask: Callable[[Request], Answer]  # e.g. partial(forward, port)

    def __post_init__(self) -> None:
        self.next_writes: deque[str] = deque()
        self.seen: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.shares: Mapping[str, float] = {}
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def fault(self, method: str) -> str:
        """What befalls a request that has come; empty if nothing does."""
        with self._lock:
            self.requests[method] += 1
            kind = ""
            if method == "PUT" and self.next_writes:
                kind = self.next_writes.popleft()
            elif self.shares:
                draw = self._random.random()
                for each, share in self.shares.items():
                    if draw < share:
                        kind = each
                        break
                    draw -= share
            assert kind in ("", *KINDS), kind
            if kind:
                self.seen[kind] += 1
            return kind


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self._body()
            kind = proxy.fault(self.command)
            if kind == "slow":
                time.sleep(SLOW_SECONDS)
            if kind.startswith("lost"):
                return self._fail(kind)
            answer = proxy.ask(Request(self.command, self.path, dict(self.headers), body))
            if kind.startswith("done") and kind != "done: cut within answer":
                return self._fail(kind)
            if kind == "done: cut within answer" and not answer.body:
                self.wfile.write(b"HTTP/1.1 ")
                return self._cut()
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            length = len(answer.body)
            if self.command == "HEAD":
                length = int(answer.headers.get("Content-Length", 0))
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if kind == "done: cut within answer":
                self.wfile.write(answer.body[: len(answer.body) // 2])
                return self._cut()
            self.wfile.write(answer.body)
            return None

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while length := int(self.rfile.readline().partition(b";")[0], 16):
                parts.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _fail(self, kind: str) -> None:
            if kind.endswith("cut"):
                return self._cut()
            text = b"<Error><Code>SlowDown</Code></Error>"
            self.send_response_only(int(kind[-3:]))
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)
            return None

        def _cut(self) -> None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
