"""An HTTP proxy before a real S3 server that spoils one request after the other, as a script says."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.peers.endpoint import HOST

HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})


class Spoil(Enum):
    """What becomes of a request."""

    NOTHING = "passes"
    ERROR = "500, and the server never hears of it"
    BUSY = "503, as S3 says SlowDown"
    LATE_ERROR = "500, and the server has done it"
    LOST = "the server has done it, and the connection ends without an answer"
    HALF_SENT = "the server gets half of the body, then the connection ends"
    HALF_ANSWERED = "half of the answer comes, then the connection ends"
    SHORT = "an answer shorter than was asked for that says it is whole"
    STUCK = "nothing comes until the proxy is closed"


BREAKING = frozenset({Spoil.LOST, Spoil.HALF_SENT, Spoil.HALF_ANSWERED, Spoil.STUCK})


class Flaky:
    """`with Flaky(port, script) as proxy: proxy.endpoint`; when the script is over everything passes."""

    def __init__(self, port: int, script: Iterator[Spoil]) -> None:
        self.target, self.script = port, script
        self.seen: list[tuple[str, Spoil]] = []
        self._lock, self.closing = threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def draw(self, method: str) -> Spoil:
        """Say what becomes of the next request."""
        with self._lock:
            spoil = next(self.script, Spoil.NOTHING)
            self.seen.append((method, spoil))
            return spoil

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                _one(proxy, self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815 - http.server's names

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _one(proxy: Flaky, request: BaseHTTPRequestHandler) -> None:
    body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
    spoil = proxy.draw(request.command)
    request.close_connection = spoil in BREAKING
    if spoil is Spoil.STUCK:
        proxy.closing.wait()
        return
    if spoil in (Spoil.ERROR, Spoil.BUSY):
        _say(request, 503 if spoil is Spoil.BUSY else 500, {}, b"<Error><Code>SlowDown</Code></Error>")
        return
    server = http.client.HTTPConnection(HOST, proxy.target, timeout=30)
    try:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        if spoil is Spoil.HALF_SENT:
            server.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                server.putheader(name, value)
            server.endheaders(body[: len(body) // 2])
            return
        server.request(request.command, request.path, body, headers)
        answer = server.getresponse()
        _pass(request, spoil, answer, answer.read())
    finally:
        server.close()


def _pass(
    request: BaseHTTPRequestHandler, spoil: Spoil, answer: http.client.HTTPResponse, data: bytes
) -> None:
    if spoil is Spoil.LOST:
        return
    if spoil is Spoil.LATE_ERROR:
        _say(request, 500, {}, b"<Error><Code>InternalError</Code></Error>")
        return
    headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
    if spoil is Spoil.SHORT:
        data = data[:-1]
        headers["Content-Length"] = str(len(data))
    _say(request, answer.status, headers, data, half=spoil is Spoil.HALF_ANSWERED)


def _say(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, *, half: bool = False
) -> None:
    request.send_response_only(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data[: len(data) // 2] if half else data)
