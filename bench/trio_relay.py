"""`python -m bench.trio_relay --listen HOST:PORT --target HOST:PORT [--scan]`: a relay of trio's own sockets, to compare with.

Promise: this is what proxyd's data plane would be without uvloop below it, and not a strawman: two tasks a connection, reads of
64 KiB, TCP_NODELAY, one task's send awaited before its next read. It has no login, TLS, gate, rules, limits or metrics.

Without --scan it moves bytes. With it every PostgreSQL session passes proxyd's own scanners and dialogue once its login is
over, and every statement and outcome is described, redacted and packed; compression, encryption and the disk are left out.
So where proxyd costs less than the second form, it is the sockets, and not the work, that made the difference.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import msgpack
import trio

from proxyd.gate import Gate
from proxyd.protocols.postgres.dialogue import Dialogue
from proxyd.protocols.postgres.scan import ClientScanner, ServerScanner
from proxyd.session import Session
from proxyd.statement import Statements

READ_BYTES = 64 << 10  # what proxyd's relay asks the kernel for while little comes
BLOCK_RECORDS = 512  # packed at once: about what a block of proxyd's tape holds of short statements
READY_IDLE = b"Z\0\0\0\5I"  # ReadyForQuery, which ends a login

Scan = Callable[[bytes], bytes]


class Nowhere:
    """A tape that packs what it is given, as a tape does, and keeps none of it."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._records: list[tuple[int, int, int, Any]] = []

    def add(self, kind: int, body: Any, channel: int = 0, weight: int = 0) -> None:
        """Take a record; what it weighs is not asked for here."""
        del weight
        self._records.append((time.monotonic_ns() // 1000, int(kind), channel, body))
        if len(self._records) >= BLOCK_RECORDS:
            self._sink.write(msgpack.packb(self._records))
            self._records.clear()


class Scanned:
    """One PostgreSQL session through proxyd's scanners; a login passes as it is."""

    def __init__(self, tape: Nowhere) -> None:
        target = SimpleNamespace(statements="full", parameters="values", mask_errors=False)
        session = SimpleNamespace(
            permit=SimpleNamespace(target=target), protocol="postgres", tape=tape, gate=Gate()
        )
        self._dialogue = Dialogue(Statements(cast("Session", session)), session.gate)
        self._client, self._server = ClientScanner(self._dialogue), ServerScanner(self._dialogue)
        self._logged_in = False

    def up(self, data: bytes) -> bytes:
        """Scan what the client sent."""
        if not self._logged_in:
            return data
        pieces = self._client.feed(data)
        self._dialogue.before_sending()
        return _one(pieces)

    def down(self, data: bytes) -> bytes:
        """Scan what the server sent."""
        if not self._logged_in:
            self._logged_in = data.endswith(READY_IDLE)
            return data
        return _one(self.from_server(data))

    def from_server(self, data: bytes) -> list[bytes | memoryview]:
        """Scan what the server sent behind the login; give the scanner's pieces."""
        pieces = self._server.feed(data)
        self._dialogue.chunk_done()
        return pieces


def _one(pieces: list[bytes | memoryview]) -> bytes:
    if len(pieces) == 1 and isinstance(pieces[0], bytes):
        return pieces[0]
    return b"".join(pieces)


def as_it_is(data: bytes) -> bytes:
    """Scan nothing."""
    return data


async def pump(source: trio.socket.SocketType, dest: trio.socket.SocketType, scan: Scan) -> None:
    """Move one direction until its end, and pass the end on."""
    with suppress(OSError):  # the other side went away: the other direction's end too
        while data := await source.recv(READ_BYTES):
            out = scan(data)
            sent = await dest.send(out) if out else 0
            while sent < len(out):
                sent += await dest.send(memoryview(out)[sent:])
    with suppress(OSError):
        dest.shutdown(socket.SHUT_WR)


async def relay(target: tuple[str, int], tape: Nowhere | None, stream: trio.SocketStream) -> None:
    """Join one client with the target."""
    client, server = stream.socket, trio.socket.socket()
    with client, server:
        await server.connect(target)
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        scanned = Scanned(tape) if tape is not None else None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, client, server, scanned.up if scanned else as_it_is)
            nursery.start_soon(pump, server, client, scanned.down if scanned else as_it_is)


async def serve(listen: tuple[str, int], target: tuple[str, int], tape: Nowhere | None) -> None:
    """Relay every connection, for ever."""
    await trio.serve_tcp(partial(relay, target, tape), listen[1], host=listen[0])


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m bench.trio_relay", description=__doc__)
    parser.add_argument("--listen", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--target", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--scan", action="store_true", help="pass PostgreSQL sessions through proxyd's scanners"
    )
    asked = parser.parse_args()
    with Path(os.devnull).open("wb") as sink:
        trio.run(serve, asked.listen, asked.target, Nowhere(sink) if asked.scan else None)


if __name__ == "__main__":
    main()
