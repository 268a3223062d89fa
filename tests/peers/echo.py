"""Small socket servers for the far end of a forward."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.endpoint import HOST

CHUNK = 1 << 16


def echo(peer: socket.socket) -> None:
    """Send back what comes; after the peer's half-close, half-close too."""
    while data := peer.recv(CHUNK):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


class EchoServer:
    """A server on loopback TCP, or on a unix socket when `path` is given; `serve` handles one connection."""

    def __init__(
        self, serve: Callable[[socket.socket], None] = echo, *, path: Path | None = None, port: int = 0
    ) -> None:
        self.serve = serve
        if path is None:
            self.listener = socket.socket()
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((HOST, port))
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(path))
        self.listener.listen(64)
        self.port = 0 if path else int(self.listener.getsockname()[1])
        self.connections: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.accepter = threading.Thread(target=self._accept, daemon=True)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            self.serve(peer)

    def __enter__(self) -> Self:
        self.accepter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept(); close() alone does not
        self.listener.close()
        self.accepter.join(5)
        for peer in self.connections:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)


def through(connect: Callable[[], socket.socket], payload: bytes, *, within_s: float = 30.0) -> bytes:
    """Send `payload`, half-close, and return what comes back until the peer's end."""
    back = bytearray()
    with connect() as link:
        link.settimeout(within_s)

        def send() -> None:
            with contextlib.suppress(OSError):
                link.sendall(payload)
                link.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        while data := link.recv(CHUNK):
            back += data
        sender.join(within_s)
    return bytes(back)
