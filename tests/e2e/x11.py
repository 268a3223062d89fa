"""As much of an X server and an X client as shows that X11 forwarding works: the connection set-up and its cookie."""

from __future__ import annotations

import socket
import struct
import subprocess
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Self

from tests.peers import EchoServer
from tests.peers.endpoint import HOST
from tests.peers.process import free_port

BASE_PORT = 6000
PROTOCOL = b"MIT-MAGIC-COOKIE-1"
ANSWER = b"the display of the client"

PROBE = r"""
import os, socket, struct, subprocess, sys
host, _, rest = os.environ["DISPLAY"].rpartition(":")
number = int(rest.split(".")[0])
lines = subprocess.run(["xauth", "list", os.environ["DISPLAY"]], capture_output=True, text=True).stdout.split()
cookie = bytes.fromhex(lines[2])
link = socket.create_connection((host or "127.0.0.1", 6000 + number), 10)
name = b"MIT-MAGIC-COOKIE-1"
pad = lambda data: data + bytes(-len(data) % 4)
link.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(name), len(cookie)) + pad(name) + pad(cookie))
answer = b""
while data := link.recv(4096):
    answer += data
sys.stdout.buffer.write(answer)
"""


def x11_probe() -> str:
    """A remote command: connect to $DISPLAY with its cookie and print the raw answer."""
    return "exec /usr/bin/python3 -c '" + PROBE.replace("'", "'\\''") + "'"


class XServer:
    """Answers every connection set-up with `Failed` and a reason, and counts right and wrong cookies."""

    def __init__(self, directory: Path) -> None:
        self.number = free_port() - BASE_PORT
        self.display = f"{HOST}:{self.number}"
        self.cookie = token_hex(16)
        self.authority = directory / "Xauthority"
        self.right = self.wrong = 0
        self.server = EchoServer(self._serve, port=BASE_PORT + self.number)
        self.authority.touch(mode=0o600)
        subprocess.run(
            ["xauth", "-q", "-f", self.authority, "add", self.display, PROTOCOL.decode(), self.cookie],
            check=True,
            timeout=10,
        )

    def _serve(self, peer: socket.socket) -> None:
        head = self._exactly(peer, 12)
        _order, _major, _minor, name_size, data_size = struct.unpack("<BxHHHHxx", head)
        name = self._exactly(peer, name_size + -name_size % 4)[:name_size]
        data = self._exactly(peer, data_size + -data_size % 4)[:data_size]
        if name == PROTOCOL and data.hex() == self.cookie:
            self.right += 1
        else:
            self.wrong += 1
        padded = ANSWER + bytes(-len(ANSWER) % 4)
        peer.sendall(struct.pack("<BBHHH", 0, len(ANSWER), 11, 0, len(padded) // 4) + padded)
        peer.shutdown(socket.SHUT_WR)

    @staticmethod
    def _exactly(peer: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = peer.recv(size - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.__exit__(kind, error, trace)
