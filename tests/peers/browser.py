"""Browsers without a screen: one that keeps its connection from page to page, and the WebSocket of one."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

import msgpack
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
)

from tests.peers.console import Answer, Client, Console
from tests.peers.endpoint import HOST

WAIT_S = 60.0
IDLE_S = 10.0  # after that the console may be about to close it: it gives 30 s
SWITCHED = 101
BAD = 400


class Browser(Client):
    """A client of the console whose requests share a connection, as long as that lasts."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._connection: http.client.HTTPSConnection | None = None
        self._used = 0.0

    def send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        """Send one request."""
        if time.monotonic() - self._used > IDLE_S:
            self.close()
        connection = self._connection = self._connection or self.console.connect()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        whole = Answer(answer.status, answer.headers, answer.read())
        self._used = time.monotonic()
        if body is not None and whole.status >= BAD:
            self.close()  # a form that was refused unread ends the connection it came on
        return whole

    def socket(self, path: str, **headers: str) -> Socket:
        """Open a WebSocket."""
        return Socket(self.console, path, {"cookie": self.cookie, "origin": self.console.origin} | headers)

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Socket:
    """A WebSocket of the console; `status` is 101 or why it is none, `code` and `reason` how it was closed."""

    def __init__(self, console: Console, path: str, headers: dict[str, str]) -> None:
        self.status = self.code = 0
        self.reason = ""
        self._messages: deque[Any] = deque()
        self._partly = bytearray()
        plain = socket.create_connection((HOST, console.port), timeout=WAIT_S)
        context = ssl.create_default_context(cafile=str(console.proxyd.home / "keys" / "tls.crt"))
        self._stream = context.wrap_socket(plain, server_hostname=HOST)
        self._wire = WSConnection(ConnectionType.CLIENT)
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._tell(Request(host=f"{HOST}:{console.port}", target=path, extra_headers=sent))
        while not self.status:
            self._take(within_s=WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def receive(self, *, within_s: float = WAIT_S) -> Any:
        """Give the next message; None once it is closed. Raises TimeoutError."""
        deadline = time.monotonic() + within_s
        while not self._messages:
            if self.status != SWITCHED or self.code:
                return None
            self._take(within_s=max(0.01, deadline - time.monotonic()))
        return self._messages.popleft()

    def closing(self, *, within_s: float = WAIT_S) -> int:
        """Wait for its end; give the code. Raises TimeoutError."""
        deadline = time.monotonic() + within_s
        while self.receive(within_s=max(0.01, deadline - time.monotonic())) is not None:
            pass
        return self.code

    def close(self) -> None:
        """Leave, as a browser that is closed does."""
        self._stream.close()

    def _take(self, *, within_s: float) -> None:
        self._stream.settimeout(within_s)
        data = self._stream.recv(1 << 16)
        self._wire.receive_data(data or None)
        for event in self._wire.events():
            self._event(event)
        if not data and not self.code:
            self.code = 1006  # RFC 6455 7.4.1: it ended without a word
            self.status = self.status or self.code

    def _event(self, event: Event) -> None:
        match event:
            case AcceptConnection():
                self.status = SWITCHED
            case RejectConnection():
                self.status = event.status_code
            case BytesMessage():
                self._partly += event.data
                if event.message_finished:
                    self._messages.append(msgpack.unpackb(bytes(self._partly)))
                    self._partly.clear()
            case Ping():
                self._tell(event.response())
            case CloseConnection():
                self.code, self.reason = event.code, event.reason or ""

    def _tell(self, event: Event) -> None:
        self._stream.sendall(self._wire.send(event))
