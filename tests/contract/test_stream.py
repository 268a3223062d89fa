"""Streams keep their contract over TCP, unix sockets and TLS, also towards peers that are not ours."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from proxyd import host
from proxyd.errors import ClientError, ProxydError, TargetError
from proxyd.preamble import Side, read_preamble
from proxyd.stream import Stream, adopt_client, adopt_server
from proxyd.tls import RECORD_BYTES, Tls
from tests.contract import stream_contract
from tests.contract.stream_contract import (
    STUCK_SECONDS,
    descriptors_are,
    fill,
    open_descriptors,
    opened,
    read_all,
)

pytestmark = pytest.mark.hosted
BULK = 50 * 1024 * 1024  # the transfer that must come through intact
MANY_STEPS = 400  # an operation that still has new places to be cancelled at after so many never ends


@pytest.mark.parametrize("check", stream_contract.ALL, ids=lambda check: check.__name__)
async def test_contract(check, link, tmp_path):
    async def make() -> stream_contract.Pair:
        return await link.pair(tmp_path)

    await check(make)


class CancelAt(trio.abc.Instrument):
    """Cancel a scope at the n-th step of the task that opened it."""

    def __init__(self, step: int) -> None:
        self.left, self.task, self.scope = step, trio.lowlevel.current_task(), trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def cancelled_everywhere(operation: Callable[[], Awaitable[object]]) -> int:
    """Run the operation again and again, cancelled one step later each time, until it gets through."""
    for step in range(1, MANY_STEPS):
        before = open_descriptors()
        at = CancelAt(step)
        trio.lowlevel.add_instrument(at)
        try:
            with trio.fail_after(STUCK_SECONDS), at.scope:
                await operation()
        except ExceptionGroup as group:  # one end may see the other go before it sees its own cancellation
            if not at.scope.cancel_called or group.split(ProxydError)[1] is not None:
                raise
        finally:
            trio.lowlevel.remove_instrument(at)
        await descriptors_are(before)
        if not at.scope.cancel_called:
            return step
    raise AssertionError("it never got through")


async def test_a_life_cancelled_at_every_await_leaks_nothing(link, tmp_path):
    async def life() -> None:
        ends: list[Stream] = []
        far, near = link.sockets(tmp_path)
        try:
            async with trio.open_nursery() as nursery:
                other: list[Stream] = []

                async def peer() -> None:
                    try:
                        other.append(await adopt_client(near, link.client_tls, "target.test"))
                        other[0].send(await other[0].receive())
                        await other[0].aclose()
                    except ProxydError:
                        pass  # the side under test was cancelled inside the handshake
                    finally:
                        for stream in other:
                            await stream.aclose()

                nursery.start_soon(peer)
                try:
                    ends.append(await adopt_server(far, link.server_tls))
                    ends[0].send(b"ping")
                    await ends[0].drain()
                    assert await ends[0].receive() == b"ping"
                    await ends[0].aclose()
                finally:
                    for stream in ends:
                        await stream.aclose()
        finally:
            near.close()
            far.close()

    assert await cancelled_everywhere(life) > 5


async def test_peer_certificate(tls_link, tmp_path, certificate):
    server, client = await tls_link.pair(tmp_path)
    assert client.peer_certificate == ssl.PEM_cert_to_DER_cert(
        certificate.read_text().split("-----BEGIN PRIVATE")[0]
    )
    assert server.peer_certificate is None
    await server.aclose(0.1)
    await client.aclose(0.1)


class Foreign:
    """A TLS or plain peer made of Python's blocking sockets, in a thread of its own."""

    def __init__(self, sock: socket.socket, work: Callable[[socket.socket], object]) -> None:
        sock.settimeout(STUCK_SECONDS)
        self.result: object = None
        self.error: BaseException | None = None
        self._sock, self._work = sock, work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._sock:
                self.result = self._work(self._sock)
        except BaseException as error:  # noqa: BLE001 - raised in ended()
            self.error = error

    async def ended(self) -> object:
        await trio.to_thread.run_sync(self._thread.join)
        if self.error is not None:
            raise self.error
        return self.result


@pytest.mark.parametrize("ours", ["server", "client"])
async def test_bulk_with_a_foreign_peer_comes_back_intact(link, tmp_path, ours):
    far, near = link.sockets(tmp_path)
    blob = os.urandom(1 << 20)

    def echo(sock: socket.socket) -> int:
        if link.server_tls is not None and link.client_tls is not None:
            sock = (
                link.client_tls.wrap_socket(sock, server_hostname="target.test")
                if ours == "server"
                else link.server_tls.wrap_socket(sock, server_side=True)
            )
        count = 0
        with sock:
            while data := sock.recv(65536):
                sock.sendall(data)
                count += len(data)
        return count

    foreign = Foreign(near if ours == "server" else far, echo)
    stream = await (
        adopt_server(far, link.server_tls)
        if ours == "server"
        else adopt_client(near, link.client_tls, "target.test")
    )
    back = 0

    async def send() -> None:
        for _ in range(BULK // len(blob)):
            stream.send(blob)
            await stream.drain()
        stream.send_eof()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while data := await stream.receive():
                at = back % len(blob)
                assert (blob + blob)[at : at + len(data)] == data
                back += len(data)
    assert back == BULK
    assert await foreign.ended() == BULK
    await stream.aclose()


async def test_end_of_tls_behind_unread_data_loses_none_of_it(tls_link, tmp_path):
    """Answer, close_notify and FIN arrive in one go while nobody reads: where the host loop's own TLS drops bytes."""
    size = 200_000
    far, near = tls_link.sockets(tmp_path)

    def answers(sock: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = tls_link.server_tls.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(b"r" * size)
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        sock.sendall(outgoing.read())

    foreign = Foreign(far, answers)
    stream = await adopt_client(near, tls_link.client_tls, "target.test")
    got = []
    with trio.fail_after(STUCK_SECONDS):
        while data := await stream.receive():
            got.append(len(data))
            await host.on_host(asyncio.sleep(0.01))  # reading is paused: the rest and the FIN are waiting
    await foreign.ended()
    assert sum(got) == size
    assert not stream.ragged
    await stream.aclose()


async def test_end_without_close_notify_is_told(tls_link, tmp_path):
    far, near = tls_link.sockets(tmp_path)

    def cuts(sock: socket.socket) -> None:
        with tls_link.client_tls.wrap_socket(sock, server_hostname="target.test") as tls:
            assert tls.recv(1) == b"?"  # TLS 1.3 sends tickets before it; closing over them would be a reset
            tls.sendall(b"half a mess")
            os.close(tls.detach())

    foreign = Foreign(near, cuts)
    stream = await adopt_server(far, tls_link.server_tls)
    stream.send(b"?")
    with trio.fail_after(STUCK_SECONDS):
        assert await read_all(stream) == b"half a mess"
    assert stream.ragged
    await stream.aclose()
    await foreign.ended()


async def test_garbage_inside_tls_is_the_peers_fault(tls_link, tmp_path):
    far, near = tls_link.sockets(tmp_path)

    def breaks(sock: socket.socket) -> None:
        tls = tls_link.client_tls.wrap_socket(sock, server_hostname="target.test")
        tls.sendall(b"fine")
        with socket.socket(fileno=tls.detach()) as raw:
            raw.settimeout(STUCK_SECONDS)
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while raw.recv(1000):
                pass

    foreign = Foreign(near, breaks)
    stream = await adopt_server(far, tls_link.server_tls)
    with trio.fail_after(STUCK_SECONDS), pytest.raises(ClientError, match="the client broke TLS"):
        await read_all(stream)
    await stream.closed.wait()
    await foreign.ended()
    await stream.aclose()


async def test_reset_is_the_peers_fault(links, tmp_path):
    far, near = links["tcp"].sockets(tmp_path)
    server = await adopt_server(far)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    near.close()
    with trio.fail_after(STUCK_SECONDS), pytest.raises(ClientError, match="the client broke the connection"):
        await server.receive()
    with pytest.raises(ClientError):
        server.send(b"x")
    await server.aclose()


@pytest.mark.parametrize(
    ("says", "match"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "failed the TLS handshake"),
        (b"", "closed the connection inside its TLS handshake"),
        (b"\x16\x03\x01\x02\x00", "closed the connection inside its TLS handshake"),
        (None, "did not finish its TLS handshake in time"),
    ],
    ids=["http", "eof", "cut", "silence"],
)
async def test_broken_handshakes(tls_link, tmp_path, says, match):
    before, seconds = open_descriptors(), STUCK_SECONDS if says is not None else 0.2
    for adopt, fault in ((adopt_server, ClientError), (adopt_client, TargetError)):
        far, near = tls_link.sockets(tmp_path)
        with near:
            if says is not None:
                near.send(says)
                near.shutdown(socket.SHUT_WR)
            context = tls_link.server_tls if adopt is adopt_server else tls_link.client_tls
            extra = () if adopt is adopt_server else ("target.test",)
            with trio.fail_after(2 * STUCK_SECONDS), pytest.raises(fault, match=match):
                await adopt(far, context, *extra, seconds=seconds)
            assert far.fileno() == -1
    await descriptors_are(before)


async def test_untrusted_certificate_is_refused_and_named(tls_link, tmp_path):
    far, near = tls_link.sockets(tmp_path)

    async def serves() -> None:
        with pytest.raises(
            ClientError, match="TLS"
        ):  # a TLS 1.3 server may have finished before it hears of it
            stream = await adopt_server(far, tls_link.server_tls)
            try:
                await stream.receive()
            finally:
                await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serves)
        with pytest.raises(TargetError, match=r"showed a certificate that is not trusted: .*elsewhere"):
            await adopt_client(near, tls_link.client_tls, "elsewhere.test")


def announced(got: bytes) -> int:
    """A greeting in the manner of TPKT: two bytes of length, then as much."""
    return 2 - len(got) if len(got) < 2 else 2 + int.from_bytes(got[:2], "big") - len(got)


async def test_preamble_is_read_to_the_byte(tls_link, tmp_path):
    """The ClientHello comes in the segment of the greeting, as MySQL clients send it; TLS still finds it."""
    far, near = tls_link.sockets(tmp_path)
    hello = ssl.MemoryBIO()
    tls = tls_link.client_tls.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="target.test")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    near.send(b"\0\5hello" + hello.read())
    got = await read_preamble(far, announced, side=Side.CLIENT, limit=100, seconds=STUCK_SECONDS)
    assert got == b"\0\5hello"
    assert far.recv(1, socket.MSG_PEEK) == b"\x16"
    near.close()
    with pytest.raises(ClientError, match=r"TLS handshake|broke the connection"):
        await adopt_server(far, tls_link.server_tls)


async def test_preamble_byte_by_byte(links, tmp_path):
    far, near = links["tcp"].sockets(tmp_path)

    async def trickle() -> None:
        for byte in b"\0\5hello!":
            near.send(bytes([byte]))
            await trio.sleep(0.001)

    with far, near:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            got = await read_preamble(far, announced, side=Side.CLIENT, limit=100, seconds=STUCK_SECONDS)
            assert got == b"\0\5hello"


@pytest.mark.parametrize(
    ("says", "match"),
    [
        (b"\xff\xffx", "announced a greeting of 65537 bytes, the limit is 100"),
        (b"\0\5hel", "did not finish its greeting in time"),
        (None, "closed the connection before its greeting was complete"),
    ],
    ids=["long", "late", "cut"],
)
async def test_broken_preambles(links, tmp_path, says, match):
    seconds = 0.2 if "in time" in match else STUCK_SECONDS
    far, near = links["tcp"].sockets(tmp_path)
    with far, near:
        if says is None:
            near.shutdown(socket.SHUT_WR)
        else:
            near.send(says)
        with pytest.raises(TargetError, match=match):
            await read_preamble(far, announced, side=Side.TARGET, limit=100, seconds=seconds)


async def test_reading_stops_when_nobody_asks(link, tmp_path):
    async def make() -> stream_contract.Pair:
        return await link.pair(tmp_path)

    async with opened(make) as (one, other):
        other.send(b"x" * 1000)
        assert await one.receive() == b"x" * 1000
        sent = await fill(other)
        assert sum(map(len, one._chunks)) <= stream_contract.READ_SIZE
        assert sent < 2_000_000


def test_records_are_no_larger_than_libpq_reads_at_once(certificate):
    """What it does not read of a record waits inside its TLS, where a client that polls the socket never looks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Tls(context, server_side=True, server_hostname=None)
    client = Tls(
        ssl.create_default_context(cafile=str(certificate)), server_side=False, server_hostname="target.test"
    )
    client.shake()
    for _ in range(2):  # round trips, RFC 8446 2
        server.shake(client.outgoing())
        client.shake(server.outgoing())
    sent = os.urandom(100_000)
    out = server.encrypt(sent)
    assert client.decrypt(out) == sent
    lengths = []
    while out:
        (length,) = struct.unpack_from(">H", out, 3)  # RFC 8446 5.2
        lengths.append(length)
        out = out[5 + length :]
    assert max(lengths) <= RECORD_BYTES + 256  # what a record may add, RFC 8446 5.2
