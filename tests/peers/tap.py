"""A TCP relay that counts, and that can break a real peer's bytes.

Used where a test must know what crossed a wire after a moment (the gate), or needs a target that black-holes, resets in
the middle of a packet or turns into noise: the peer behind it stays the real one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys
import termios
import threading
from enum import Enum
from types import TracebackType
from typing import Self

from tests.peers.endpoint import HOST

CHUNK = 1 << 16
LINGER_RESET = struct.pack("ii", 1, 0)  # close() sends RST


class Fault(Enum):
    """What the tap does once its limit of bytes from the server has passed."""

    NONE = "none"
    RESET = "reset"  # RST to the client
    CLOSE = "close"  # FIN in the middle of a packet
    HOLE = "hole"  # reads nothing, sends nothing, keeps the connection
    NOISE = "noise"  # random bytes in place of the server's


def _reset(end: socket.socket) -> None:
    """Break a connection as its other side was broken, and wake the thread that reads it."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        end.shutdown(socket.SHUT_RDWR)


class Tap:
    """Relay loopback connections to `port`; `up` and `down` count bytes client -> server and back."""

    def __init__(self, port: int, *, fault: Fault = Fault.NONE, after_bytes: int = 0) -> None:
        self.target = port
        self.fault = fault
        self.after_bytes = after_bytes
        self.listener = socket.create_server((HOST, 0), backlog=256)
        self.port = int(self.listener.getsockname()[1])
        self.up = 0
        self.down = 0
        self.accepted = 0
        self.stalled = threading.Event()  # set: bytes client -> server are not read (a stuck server)
        self.stalled_down = threading.Event()  # set: bytes server -> client are not delivered
        self.closing = threading.Event()
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def _spawn(self, call: object, *args: object) -> None:
        thread = threading.Thread(target=call, args=args, daemon=True)  # type: ignore[arg-type]
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.sockets.append(client)
            try:
                server = socket.create_connection((HOST, self.target), 10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self.sockets.append(server)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._spawn(self._upward, client, server)
            self._spawn(self._downward, server, client)

    def _wait(self, stalled: threading.Event) -> None:
        while stalled.is_set() and not self.closing.wait(0.01):
            pass

    def _upward(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(CHUNK):
                self._wait(self.stalled)
                self.up += len(data)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:  # a client that leaves what it was sent unread resets its connection
            _reset(server)

    def _downward(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(CHUNK):
                self._wait(self.stalled_down)
                if self.fault is not Fault.NONE and passed + len(data) >= self.after_bytes:
                    client.sendall(data[: max(0, self.after_bytes - passed)])
                    self._break(client, server)
                    return
                passed += len(data)
                self.down += len(data)
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    def _break(self, client: socket.socket, server: socket.socket) -> None:
        if self.fault is Fault.NOISE:
            while not self.closing.is_set():
                client.sendall(os.urandom(1024))
        elif self.fault is Fault.HOLE:
            self.stalled.set()
            self.closing.wait()
        self._arrived(client)
        if self.fault is Fault.RESET:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        with contextlib.suppress(OSError):
            # Wakes the thread that reads it: while that waits in the kernel, close() sends nothing.
            client.shutdown(socket.SHUT_RD if self.fault is Fault.RESET else socket.SHUT_RDWR)
        client.close()
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _arrived(self, client: socket.socket) -> None:
        """Wait until all has arrived: a reset throws away what is still on this side, and so may a close."""
        unsent = bytearray(4)
        while not fcntl.ioctl(client, termios.TIOCOUTQ, unsent) and int.from_bytes(unsent, sys.byteorder):
            if self.closing.wait(0.001):
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for end in self.sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in list(self.threads):
            thread.join(5)
        for end in self.sockets:
            end.close()
