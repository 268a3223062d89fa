"""Relays keep their rules over every kind of connection: all bytes, bounded memory, and an end when it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from proxyd import host, relay
from proxyd.errors import ClientError, Dropped, ProxydError, TargetError
from proxyd.relay import End, Relay, Scanner
from proxyd.stream import BUFFER_HIGH, Stream, adopt_server
from tests.contract.stream_contract import (
    HOUR,
    READ_SIZE,
    SMALL_BUFFER,
    STUCK_SECONDS,
    Link,
    descriptors_are,
    fill,
    open_descriptors,
    read_all,
)
from tests.contract.test_stream import cancelled_everywhere

pytestmark = pytest.mark.hosted
BULK = 50 * 1024 * 1024  # the transfer that must come through intact
BOUND = 2 * BUFFER_HIGH + 2 * READ_SIZE  # what one direction of a relay may have inside it


@pytest.fixture(autouse=True)
def _no_deadline_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends here ends by itself: a wait for one of these deadlines is stuck for the test as well."""
    monkeypatch.setattr(relay, "FLUSH_SECONDS", HOUR)
    monkeypatch.setattr(relay, "HALF_CLOSED_SECONDS", HOUR)
    monkeypatch.setattr(Stream.aclose, "__defaults__", (HOUR,))


def plain(data: bytes) -> bytes:
    """Send on what arrives."""
    return data


class Rig:
    """A user's end, the relay under test in a task of its own, and a target's end."""

    user: Stream
    server: Stream
    relay: Relay

    def __init__(self) -> None:
        self.end: End | None = None
        self.error: Exception | None = None
        self.scope = trio.CancelScope()
        self.over = trio.Event()

    async def run(self) -> None:
        try:
            with self.scope:
                self.end = await self.relay.join()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.error = error
        self.over.set()


@contextlib.asynccontextmanager
async def rigged(
    link: Link,
    directory: Path,
    *,
    from_client: Scanner = plain,
    from_target: Scanner = plain,
    target_link: Link | None = None,
    seconds: float = STUCK_SECONDS,
    start: bool = True,
    halves: bool = True,
) -> AsyncIterator[Rig]:
    """Build the rig, limit the time, and see that both sides and every descriptor are closed at the end."""
    before = open_descriptors()
    rig = Rig()
    with trio.fail_after(seconds):
        async with trio.open_nursery() as nursery:
            client, rig.user = await link.pair(directory)
            rig.server, target = await (target_link or link).pair(directory)
            rig.relay = Relay(client, target, from_client=from_client, from_target=from_target, halves=halves)
            try:
                if start:
                    nursery.start_soon(rig.run)
                yield rig
                if start:
                    await rig.over.wait()
            finally:
                for stream in (rig.user, rig.server, client, target):
                    stream.abort()
    await descriptors_are(before)


@pytest.mark.parametrize(
    ("near", "far"), [("tcp", "tcp"), ("tls1.3", "tls1.3"), ("tls1.2", "unix"), ("unix", "tls1.3")]
)
async def test_bulk_both_ways_intact(links, tmp_path, near, far):
    """50 MB there and back at once, both digests right, both counters right."""
    blob = random.Random(1).randbytes(1 << 20)
    tape = {"up": hashlib.sha256(), "down": hashlib.sha256()}

    def taped(way):
        def scan(data: bytes) -> bytes:
            tape[way].update(data)
            return data

        return scan

    async with rigged(
        links[near],
        tmp_path,
        from_client=taped("up"),
        from_target=taped("down"),
        target_link=links[far],
        seconds=4 * STUCK_SECONDS,
    ) as rig:
        got = {rig.user: hashlib.sha256(), rig.server: hashlib.sha256()}

        async def write(stream: Stream) -> None:
            for _ in range(BULK // len(blob)):
                stream.send(blob)
                await stream.drain()
            stream.send_eof()

        async def read(stream: Stream) -> None:
            while data := await stream.receive():
                got[stream].update(data)

        async with trio.open_nursery() as nursery:
            for stream in (rig.user, rig.server):
                nursery.start_soon(write, stream)
                nursery.start_soon(read, stream)
        whole = hashlib.sha256(blob * (BULK // len(blob))).digest()
        assert {digest.digest() for digest in (*got.values(), *tape.values())} == {whole}
    assert rig.end in (End.CLIENT_CLOSED, End.TARGET_CLOSED)
    assert rig.relay.up.arrived == rig.relay.up.sent == rig.relay.down.arrived == rig.relay.down.sent == BULK


async def test_where_there_are_no_halves_the_first_end_is_the_end(link, tmp_path):
    """What was said before it still arrives, and both sides are closed."""
    for first, other, end in (("user", "server", End.CLIENT_CLOSED), ("server", "user", End.TARGET_CLOSED)):
        async with rigged(link, tmp_path, halves=False) as rig:
            source, dest = getattr(rig, first), getattr(rig, other)
            source.send(b"last")
            source.send_eof()
            assert await read_all(dest) == b"last"
            dest.send_eof()
        assert (rig.end, rig.error) == (end, None)


async def test_half_close_passes_through(link, tmp_path):
    async with rigged(link, tmp_path) as rig:
        rig.user.send(b"select 1")
        rig.user.send_eof()
        assert await read_all(rig.server) == b"select 1"
        await trio.sleep(0.05)
        for _ in range(30):
            rig.server.send(b"row" * 10_000)
            await host.on_host(asyncio.sleep(0))
        rig.server.send_eof()
        assert await read_all(rig.user) == b"row" * 300_000
        assert not rig.user.ragged
    assert rig.end is End.CLIENT_CLOSED


async def test_target_closes_first(link, tmp_path):
    async with rigged(link, tmp_path) as rig:
        rig.server.send(b"bye" * 100_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.server.aclose)
            assert await read_all(rig.user) == b"bye" * 100_000
            await rig.user.aclose()
    assert rig.end is End.TARGET_CLOSED


async def test_scanners_decide_what_goes_on(link, tmp_path):
    seen = []

    def gate(data: bytes) -> bytes | None:
        seen.append(data)
        return None if data.startswith(b"refused") else data.upper()

    async with rigged(link, tmp_path, from_client=gate, from_target=lambda data: b"<" + data + b">") as rig:
        for word in (b"one", b"refused", b"two"):
            rig.user.send(word)
            while b"".join(seen).count(word) == 0:
                await host.on_host(asyncio.sleep(0))
        rig.server.send(b"answer")
        assert await rig.user.receive() == b"<answer>"
        rig.user.send_eof()
        assert await read_all(rig.server) == b"ONETWO"
        rig.server.send_eof()
    assert (rig.relay.up.arrived, rig.relay.up.sent) == (13, 6)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_peer_that_never_reads_bounds_memory_and_loses_nothing(link, tmp_path, way):
    async with rigged(link, tmp_path) as rig:
        source, dest = (rig.user, rig.server) if way == "up" else (rig.server, rig.user)
        leg = rig.relay.up if way == "up" else rig.relay.down
        sent = await fill(source)
        assert sent < BOUND + BUFFER_HIGH + 16 * SMALL_BUFFER + 3 * 65536
        assert leg.arrived <= BOUND
        assert leg.dest._transport.get_write_buffer_size() <= BUFFER_HIGH + READ_SIZE + 10_000
        dest.send(b"the other way still works")
        assert await source.receive() == b"the other way still works"
        got = 0
        source.send_eof()
        while data := await dest.receive():
            got += len(data)
        assert got == sent
        dest.send_eof()


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("kind", [Dropped, ClientError, LookupError])
async def test_error_in_a_scanner_ends_both_sides(link, tmp_path, way, kind):
    error = kind("no further")

    def refuses(data: bytes) -> bytes:
        if b"bad" in data:
            raise error
        return data

    scanners = {"from_client" if way == "up" else "from_target": refuses}
    async with rigged(link, tmp_path, **scanners) as rig:
        source, dest = (rig.user, rig.server) if way == "up" else (rig.server, rig.user)
        source.send(b"good")
        assert await dest.receive() == b"good"
        source.send(b"bad")
        await rig.over.wait()
        for stream, fault in ((rig.user, TargetError), (rig.server, ClientError)):
            with contextlib.suppress(fault):
                assert await read_all(stream) == b""
    assert rig.error is error
    assert rig.relay.client.closed.is_set()
    assert rig.relay.target.closed.is_set()


async def test_last_words_reach_a_client_that_floods(link, tmp_path):
    """An engine's farewell is behind everything sent before it, and arrives although the client keeps sending."""
    async with rigged(link, tmp_path) as rig:
        rig.server.send(b"output")
        assert await rig.user.receive() == b"output"

        async def floods() -> None:
            with contextlib.suppress(ProxydError, trio.ClosedResourceError):
                while True:
                    rig.user.send(b"x" * 50_000)
                    await rig.user.drain()
                    await trio.sleep(0)

        async def drains() -> None:
            with contextlib.suppress(ProxydError, trio.ClosedResourceError):
                while await rig.server.receive():
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(floods)
            nursery.start_soon(drains)
            await trio.sleep(0.05)
            rig.relay.client.send(b"You have been disconnected")
            rig.relay.stop(Dropped("by an operator"))
            rig.relay.stop(Dropped("a second reason"))
            assert await rig.user.receive() == b"You have been disconnected"
            await rig.over.wait()
            nursery.cancel_scope.cancel()
    assert str(rig.error) == "by an operator"


async def test_stop_gives_a_stuck_client_half_a_second(link, tmp_path):
    async with rigged(link, tmp_path) as rig:
        await fill(rig.server)
        began = trio.current_time()
        rig.relay.stop(Dropped("by an operator"))
        await rig.over.wait()
        assert trio.current_time() - began >= 0.9 * relay.FAREWELL_SECONDS  # clocks are read apart


async def test_a_promised_moment_cuts_a_stuck_client_before_its_farewell_is_over(link, tmp_path, monkeypatch):
    monkeypatch.setattr(relay, "FAREWELL_SECONDS", HOUR)
    async with rigged(link, tmp_path) as rig:
        await fill(rig.server)
        rig.relay.stop(Dropped("by an operator"), cut_at=time.monotonic() + 0.1)
        await rig.over.wait()
    assert str(rig.error) == "by an operator"


@pytest.mark.parametrize("stuck", ["user", "server", "both"])
async def test_cancel_cuts_stuck_sides_at_once(link, tmp_path, monkeypatch, stuck):
    monkeypatch.setattr(relay, "FAREWELL_SECONDS", HOUR)
    async with rigged(link, tmp_path) as rig:
        if stuck != "user":
            await fill(rig.user)
        if stuck != "server":
            await fill(rig.server)
        rig.scope.cancel()
        await rig.over.wait()
        assert rig.relay.client.closed.is_set()
        assert rig.relay.target.closed.is_set()
    assert rig.end is None


async def test_join_cancelled_at_every_await_leaks_nothing(link, tmp_path):
    async def life() -> None:
        ends: list[Stream] = []
        with trio.CancelScope(shield=True):
            client, user = await link.pair(tmp_path)
            server, target = await link.pair(tmp_path)
            ends += [client, user, server, target]
        try:
            user.send(b"question")
            user.send_eof()
            server.send(b"answer")
            server.send_eof()
            async with trio.open_nursery() as nursery:
                for stream in (user, server):
                    nursery.start_soon(stream.aclose)
                await relay.join(client, target, from_client=plain, from_target=plain)
        finally:
            for stream in ends:
                stream.abort()
            with trio.CancelScope(shield=True):
                for stream in ends:
                    await stream.closed.wait()

    assert await cancelled_everywhere(life) > 2


async def test_what_was_there_before_the_join_goes_first(link, tmp_path):
    seen = []

    def tape(data: bytes) -> bytes:
        seen.append(data)
        return data

    async with rigged(link, tmp_path, from_client=tape, start=False) as rig:
        client, target = rig.relay.client, rig.relay.target
        rig.user.send(b"login, statement one;")
        rig.server.send(b"ready")
        rig.server.send_eof()
        assert await client.receive() == b"login, statement one;"
        client.unread(b"statement one;")
        rig.user.send(b"statement two;")
        rig.user.send_eof()
        with trio.move_on_after(0.05):
            await target.drain()
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.run)
            assert await read_all(rig.server) == b"statement one;statement two;"
            assert await read_all(rig.user) == b"ready"
            await rig.over.wait()
        assert seen[0] == b"statement one;"
    assert rig.error is None


async def test_error_on_what_was_there_before_the_join(link, tmp_path):
    def refuses(_: bytes) -> bytes:
        raise Dropped("no")

    async with rigged(link, tmp_path, from_client=refuses, start=False) as rig:
        rig.relay.client.unread(b"statement")
        rig.server.send(b"never sent on")
        with pytest.raises(Dropped):
            await rig.relay.join()
        with contextlib.suppress(TargetError):
            assert await read_all(rig.user) == b""


@pytest.mark.parametrize("gone", ["user", "server"])
async def test_side_that_is_gone_before_the_join(link, tmp_path, gone):
    async with rigged(link, tmp_path, start=False) as rig:
        await getattr(rig, gone).aclose(0.1)
        ours = rig.relay.client if gone == "user" else rig.relay.target
        assert await ours.receive() == b""
        ours.abort()
        await ours.closed.wait()
        with pytest.raises(trio.ClosedResourceError):
            await rig.relay.join()
        assert rig.relay.client.closed.is_set()
        assert rig.relay.target.closed.is_set()


async def test_hold_stops_both_ways_and_goes_on(link, tmp_path):
    async with rigged(link, tmp_path) as rig:
        rig.user.send(b"a")
        assert await rig.server.receive() == b"a"
        rig.relay.hold(True)
        rig.relay.hold(True)
        for stream in (rig.user, rig.server):
            stream.send(b"later")
        await trio.sleep(0.1)
        assert (rig.relay.up.arrived, rig.relay.down.arrived) == (1, 0)
        rig.relay.hold(False)
        assert await rig.server.receive() == b"later"
        assert await rig.user.receive() == b"later"
        sent = await fill(rig.user)  # held and full at once: both reasons must go before reading does
        arrived = rig.relay.up.arrived
        rig.relay.hold(True)
        async with trio.open_nursery() as nursery:
            got = 0

            async def read() -> None:
                nonlocal got
                while data := await rig.server.receive():
                    got += len(data)

            nursery.start_soon(read)
            await trio.sleep(0.1)
            assert rig.relay.up.arrived == arrived
            rig.relay.hold(False)
            rig.user.send_eof()
        assert got == sent
        rig.server.send_eof()


async def test_held_from_the_start(link, tmp_path):
    async with rigged(link, tmp_path, start=False) as rig:
        rig.relay.hold(True)
        rig.user.send(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.run)
            await trio.sleep(0.05)
            assert rig.relay.up.arrived <= 1  # what was read before the hold
            rig.relay.hold(False)
            assert await rig.server.receive() == b"x"
            rig.scope.cancel()


async def test_client_that_resets_is_an_end_and_the_target_gets_all(links, tmp_path):
    link = links["tcp"]
    far, near = link.sockets(tmp_path)
    before = open_descriptors()
    client = await adopt_server(far)
    server, target = await link.pair(tmp_path)
    joined = Relay(client, target, from_client=plain, from_target=plain)
    async with trio.open_nursery() as nursery:
        ends: list[End] = []

        async def run() -> None:
            ends.append(await joined.join())

        nursery.start_soon(run)
        near.send(b"last statement")
        while not joined.up.arrived:
            await host.on_host(asyncio.sleep(0))
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        near.close()
        with trio.fail_after(STUCK_SECONDS):
            assert await read_all(server) == b"last statement"
            await server.aclose()
    assert ends == [End.CLIENT_BROKEN]
    assert isinstance(client.broken, ClientError)
    await descriptors_are(before - 2)


async def test_slow_client_gets_the_end_of_the_answer(link, tmp_path):
    async with rigged(link, tmp_path) as rig:
        async with trio.open_nursery() as nursery:

            async def answers() -> None:
                for _ in range(20):
                    rig.server.send(b"r" * 50_000)
                    await rig.server.drain()
                await rig.server.aclose()

            nursery.start_soon(answers)
            await trio.sleep(0.2)
            got = 0
            while data := await rig.user.receive():
                got += len(data)
                await trio.sleep(0.001)
            assert got == 1_000_000
            assert not rig.user.ragged
            await rig.user.aclose()
    assert rig.end is End.TARGET_CLOSED


async def test_stuck_client_at_the_end_costs_the_flush_deadline_only(link, tmp_path, monkeypatch):
    monkeypatch.setattr(relay, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(relay, "HALF_CLOSED_SECONDS", 0.2)
    async with rigged(link, tmp_path) as rig:
        rig.server.send(b"r" * (BUFFER_HIGH // 2))
        await rig.server.aclose()
        await rig.over.wait()
    assert rig.end is End.TARGET_CLOSED


class Silences:
    """Stands where the relay has trio: its waits for a silent client are over when the test says so."""

    def __init__(self) -> None:
        self.waits: list[trio.CancelScope] = []

    def __getattr__(self, name: str) -> object:
        return getattr(trio, name)

    def move_on_after(self, seconds: float, *, shield: bool = False) -> trio.CancelScope:
        if seconds != HOUR:
            return trio.move_on_after(seconds, shield=shield)
        self.waits.append(trio.CancelScope())
        return self.waits[-1]

    async def over(self, before: int) -> None:
        """End the wait that goes on, and see whether another one follows `before` of them."""
        self.waits[-1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert len(self.waits) == before + 1


async def test_client_that_goes_on_after_the_targets_end_is_waited_for(link, tmp_path, monkeypatch):
    silences = Silences()
    monkeypatch.setattr(relay, "trio", silences)
    async with rigged(link, tmp_path) as rig:
        rig.server.send_eof()
        while not silences.waits:
            await host.on_host(asyncio.sleep(0))
        for turn in range(1, 11):
            rig.user.send(b"still here")
            while rig.relay.up.arrived < 10 * turn:
                await host.on_host(asyncio.sleep(0))
            await silences.over(turn)
            assert not rig.over.is_set()
        rig.user.send_eof()
        assert await read_all(rig.server) == b"still here" * 10
    assert rig.end is End.TARGET_CLOSED


async def test_stop_while_flushing(link, tmp_path):
    async with rigged(link, tmp_path) as rig:
        rig.server.send(b"r" * (BUFFER_HIGH // 2))
        rig.server.send_eof()
        rig.user.send_eof()
        assert await rig.server.receive() == b""
        await trio.sleep(0.05)
        rig.relay.stop(Dropped("now"))
        await rig.over.wait()
    assert isinstance(rig.error, Dropped)


async def test_cut_tls_is_an_end_and_told(tls_link, tmp_path):
    async with rigged(tls_link, tmp_path) as rig:
        rig.server.send(b"half an ans")
        assert await rig.user.receive() == b"half an ans"
        rig.server.abort()
        await rig.server.closed.wait()
        assert await rig.user.receive() == b""
        rig.user.send_eof()
        await rig.over.wait()
    assert rig.end in (End.TARGET_CLOSED, End.TARGET_BROKEN)
    assert rig.relay.target.ragged or rig.relay.target.broken


async def test_end_of_tls_that_was_cut_is_passed_on_as_cut(tls_link, tmp_path):
    """A server that waits in a statement takes a close_notify for something more to read."""
    async with rigged(tls_link, tmp_path) as rig:
        rig.user.send(b"half a quest")
        assert await rig.server.receive() == b"half a quest"
        rig.user.send_eof(cut=True)
        assert await rig.server.receive() == b""
        assert rig.server.ragged
        rig.server.send_eof()
        await rig.over.wait()


async def test_engine_that_aborts_a_joined_stream_ends_the_join(link, tmp_path):
    async with rigged(link, tmp_path) as rig:
        rig.user.send(b"x")
        assert await rig.server.receive() == b"x"
        rig.relay.target.abort()
        assert await rig.user.receive() == b""
        await rig.user.aclose()
        await rig.over.wait()
    assert rig.end is End.TARGET_BROKEN


async def test_engine_that_closes_a_joined_stream_ends_the_join(link, tmp_path):
    async with rigged(link, tmp_path) as rig:
        rig.server.send(b"x")
        assert await rig.user.receive() == b"x"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.relay.client.aclose)
            assert await rig.user.receive() == b""
            await rig.user.aclose()
            assert await rig.server.receive() == b""
            await rig.server.aclose()
        await rig.over.wait()
    assert rig.end is End.CLIENT_BROKEN


async def test_adopting_again_what_a_relay_closed_is_refused(links, tmp_path):
    async with rigged(links["tcp"], tmp_path) as rig:
        rig.scope.cancel()
        await rig.over.wait()
        with pytest.raises(trio.ClosedResourceError):
            await rig.relay.join()
