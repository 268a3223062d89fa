"""The contract of `proxyd.stream.Stream`, in the manner of trio.testing.check_half_closeable_stream.

Each check takes a way to make a connected pair, and makes as many as it needs. Both ends are streams of ours; tests
with foreign peers (ssl.SSLSocket in a thread, raw sockets) stand beside the checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from proxyd import host
from proxyd.errors import ClientError, ProxydError, TargetError
from proxyd.stream import BUFFER_HIGH, Stream, adopt_client, adopt_server

STUCK_SECONDS = 60.0  # whatever takes longer on loopback is stuck, on the busiest machine too
HOUR = 3600.0  # in place of a deadline that must not be what ends something
SMALL_BUFFER = 16 * 1024  # kernel buffers small enough that back-pressure shows after a few writes
READ_SIZE = 256 * 1024  # the most one read of the host loop gives

Pair = tuple[Stream, Stream]  # (the server's end, the client's end)


@dataclass(frozen=True)
class Link:
    """A kind of connection: its sockets, and TLS contexts if it has any."""

    name: str
    family: socket.AddressFamily = socket.AF_INET
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None

    def sockets(self, directory: Path) -> tuple[socket.socket, socket.socket]:
        """Give two connected, non-blocking sockets: the accepted one and the connecting one."""
        unix = self.family is socket.AF_UNIX
        with socket.socket(self.family) as listener:
            listener.bind(str(directory / f"{random.getrandbits(64):x}") if unix else ("127.0.0.1", 0))
            listener.listen(1)
            near = socket.socket(self.family)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                listener.setsockopt(socket.SOL_SOCKET, option, SMALL_BUFFER)
                near.setsockopt(socket.SOL_SOCKET, option, SMALL_BUFFER)
            near.connect(listener.getsockname())
            far, _ = listener.accept()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)  # not inherited by unix sockets
        if unix:
            Path(near.getpeername()).unlink()
        for sock in (near, far):
            sock.setblocking(False)
        return far, near

    async def pair(self, directory: Path) -> Pair:
        """Give two connected streams, TLS done."""
        far, near = self.sockets(directory)
        ends: dict[str, Stream] = {}

        async def server() -> None:
            ends["server"] = await adopt_server(far, self.server_tls)

        async def client() -> None:
            ends["client"] = await adopt_client(near, self.client_tls, self.client_tls and "target.test")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server)
            nursery.start_soon(client)
        return ends["server"], ends["client"]


MakePair = Callable[[], Awaitable[Pair]]


def open_descriptors() -> int:
    """Count the sockets this process holds; other descriptors are the loops' own, opened when first needed."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            count += str(entry.readlink()).startswith("socket:")
    return count


async def descriptors_are(count: int) -> None:
    """Wait until the host loop closed what it was told to close: it does that behind connection_lost."""
    with trio.fail_after(STUCK_SECONDS):
        while open_descriptors() != count:
            await host.on_host(asyncio.sleep(0.001))


@contextlib.asynccontextmanager
async def opened(make: MakePair) -> AsyncIterator[Pair]:
    """Open a pair, limit the time, and see that no descriptor is left behind."""
    gc.collect()  # what an earlier test left is closed now, not while this one counts
    before = open_descriptors()
    with trio.fail_after(STUCK_SECONDS):
        pair = await make()
        try:
            yield pair
        finally:
            for end in pair:
                end.abort()
            for end in pair:
                await end.closed.wait()
    await descriptors_are(before)


async def read_all(stream: Stream) -> bytes:
    parts = []
    while data := await stream.receive():
        parts.append(data)
    return b"".join(parts)


async def fill(stream: Stream, piece: bytes = b"f" * 65536, limit: int = 64 * 1024 * 1024) -> int:
    """Send until `drain` waits; give how much went in."""
    sent = 0
    while sent < limit:
        stream.send(piece)
        sent += len(piece)
        with trio.move_on_after(0.2) as scope:
            await stream.drain()
        if scope.cancelled_caught:
            return sent
    raise AssertionError("nothing pushed back")


async def check_two_way(make: MakePair) -> None:
    """Bytes arrive whole and in order, both ways at once, in pieces of every size."""
    async with opened(make) as (one, other):
        draw = random.Random(7)
        blobs = {one: draw.randbytes(1_000_000), other: draw.randbytes(1_000_000)}
        got = {}

        async def write(stream: Stream) -> None:
            left = memoryview(blobs[stream])
            while left:
                size = draw.choice((1, 5, 100, 16384, 16385, 100_000))
                stream.send(bytes(left[:size]))
                left = left[size:]
                await stream.drain()
            stream.send_eof()

        async def read(stream: Stream) -> None:
            got[stream] = await read_all(stream)

        async with trio.open_nursery() as nursery:
            for stream in (one, other):
                nursery.start_soon(write, stream)
                nursery.start_soon(read, stream)
        assert got[one] == blobs[other]
        assert got[other] == blobs[one]


async def check_half_close(make: MakePair) -> None:
    """One direction ends, the other goes on; the end never overtakes data; nothing can be sent after it."""
    for way in (0, 1):
        async with opened(make) as pair:
            one, other = pair[way], pair[1 - way]
            one.send(b"question")
            one.send_eof()
            one.send_eof()
            with pytest.raises(trio.ClosedResourceError):
                one.send(b"more")
            assert await read_all(other) == b"question"
            assert await other.receive() == b""
            for _ in range(20):
                other.send(b"answer" * 1000)
                await other.drain()
            other.send_eof()
            assert await read_all(one) == b"answer" * 20000
            assert not one.ragged
            assert not other.ragged


async def check_back_pressure(make: MakePair) -> None:
    """A peer that never reads stops the sender within the limits; all of it arrives when it reads at last."""
    for way in (0, 1):
        async with opened(make) as pair:
            one, other = pair[way], pair[1 - way]
            sent = await fill(one)
            assert sent < BUFFER_HIGH + READ_SIZE + 8 * SMALL_BUFFER + 3 * 65536
            assert one._transport.get_write_buffer_size() <= BUFFER_HIGH + 2 * 65536
            assert sum(map(len, other._chunks)) <= READ_SIZE
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.aclose, STUCK_SECONDS)
                assert len(await read_all(other)) == sent
                other.abort()


async def check_close(make: MakePair) -> None:
    """aclose delivers what was sent, also past a peer's flood; is idempotent; nothing works afterwards."""
    for way in (0, 1):
        async with opened(make) as pair:
            one, other = pair[way], pair[1 - way]
            one.send(b"last words")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.aclose)
                with contextlib.suppress(ProxydError):
                    for _ in range(10):
                        other.send(b"flood" * 20000)
                        await other.drain()
                assert await read_all(other) == b"last words"
                await other.aclose()
            assert one.closed.is_set()
            await one.aclose()
            one.abort()
            for use in (one.receive, one.drain):
                with pytest.raises(trio.ClosedResourceError):
                    await use()
            with pytest.raises(trio.ClosedResourceError):
                one.send(b"x")


async def check_close_deadline(make: MakePair) -> None:
    """aclose gives a stuck peer its seconds, and no more; cancelled, it gives none."""
    async with opened(make) as (one, _):
        await fill(one)
        began = trio.current_time()
        await one.aclose(0.2)
        assert trio.current_time() - began > 0.15
        assert one.closed.is_set()
    async with opened(make) as (one, _):
        await fill(one)
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.aclose(HOUR)
        assert one.closed.is_set()


async def check_abort(make: MakePair) -> None:
    """abort wakes whoever waits here and ends the other side with its own error or an end."""
    for way in (0, 1):
        async with opened(make) as pair:
            one, other = pair[way], pair[1 - way]
            other.send(b"never read")
            async with trio.open_nursery() as nursery:

                async def waits(stream: Stream) -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        while True:
                            await stream.receive()

                nursery.start_soon(waits, one)
                await trio.testing.wait_all_tasks_blocked()
                one.abort()
            await one.closed.wait()
            fault = ClientError if way else TargetError
            with contextlib.suppress(fault):
                assert await other.receive() == b""
            with pytest.raises(fault):
                while True:
                    other.send(b"x" * 1000)
                    await other.drain()
                    await trio.sleep(0.001)


async def check_one_reader(make: MakePair) -> None:
    """Two tasks can't receive at once."""
    async with opened(make) as (one, other), trio.open_nursery() as nursery:

        async def waits() -> None:
            assert await one.receive() == b"x"

        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await one.receive()
        other.send(b"x")


async def check_unread(make: MakePair) -> None:
    """What is put back comes first."""
    async with opened(make) as (one, other):
        one.send(b"login")
        assert await other.receive() == b"login"
        one.send(b" more")
        other.unread(b"in")
        other.unread(b"")
        assert await other.receive() == b"in"
        assert await other.receive() == b" more"


async def check_cancel(make: MakePair) -> None:
    """Cancelling any wait loses no byte and leaves the stream as usable as before."""
    async with opened(make) as (one, other):
        for number in range(3):
            with trio.move_on_after(0.01) as scope:
                await one.receive()
            assert scope.cancelled_caught
            other.send(b"%d" % number)
            assert await one.receive() == b"%d" % number
        sent = await fill(one)
        with trio.move_on_after(0.01) as scope:
            await one.drain()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.aclose, STUCK_SECONDS)
            assert len(await read_all(other)) == sent
            other.abort()


ALL = (
    check_two_way,
    check_half_close,
    check_back_pressure,
    check_close,
    check_close_deadline,
    check_abort,
    check_one_reader,
    check_unread,
    check_cancel,
)
