"""The console's connections, over real sockets and TLS: who gets one, what slow and broken ones come to, and that none ends another.

The clock is trio's own for tests: it jumps when nobody does anything, so that waits of half a minute are over at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from proxyd import metrics, setup
from proxyd.config import Admission, Console
from proxyd.console import server
from proxyd.console.forms import FORM_SECONDS, BadForm, read_form
from proxyd.console.server import CLOSE_SECONDS, HANDSHAKE_SECONDS, KEEP_ALIVE_SECONDS, OF_SOURCE, Door
from proxyd.errors import ConfigError

JUMP_S = 0.25  # of doing nothing, before the clock jumps: a busy machine's loopback takes some of it
OPEN = Admission(per_source_rate=1e6, per_source_burst=10_000)
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setup.initialise(tmp_path_factory.mktemp("door") / "p").config.parent / "keys"


def refused(reason: str) -> float:
    return metrics.CONSOLE.get_sample_value("proxyd_console_refused_total", {"reason": reason}) or 0.0


async def page(request: Request) -> Response:
    if request.method == "POST":
        try:
            await read_form(request)
        except BadForm as error:
            return PlainTextResponse(str(error), error.status)
    if request.url.path == "/fault":
        raise RuntimeError("a secret of ours")
    return PlainTextResponse("page")


async def mute(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive()


class Visitor:
    """A client of one Door, from one address."""

    def __init__(self, port: int, keys: Path) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=str(keys / "tls.crt"))

    async def plain(self, source: str = "127.0.0.1") -> trio.SocketStream:
        sock = trio.socket.socket()
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", self.port))
        return trio.SocketStream(sock)

    async def secure(self, source: str = "127.0.0.1") -> trio.SSLStream[trio.SocketStream]:
        plain = await self.plain(source)
        stream = trio.SSLStream(plain, self.context, server_hostname="127.0.0.1", https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        return stream

    async def refused(self, source: str) -> bool:
        async with await self.plain(source) as stream:
            return await rest(stream) == b""

    async def get(self, path: str = "/", source: str = "127.0.0.1") -> bytes:
        stream = await self.secure(source)
        async with stream:
            await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
            return await rest(stream)


async def rest(stream: Any) -> bytes:
    """Read until the other side closes, however."""
    found = b""
    try:
        while data := await stream.receive_some(65536):
            found += data
    except trio.BrokenResourceError:
        pass
    return found


Play = Callable[[Visitor], Awaitable[None]]


@pytest.fixture
def at_door(keys: Path) -> Callable[..., None]:
    """Run a play before a Door on a clock that jumps; `admission`: its limits."""

    def run(play: Play, admission: Admission = OPEN, jumps: bool = True) -> None:
        clock = trio.testing.MockClock(autojump_threshold=JUMP_S) if jumps else None
        trio.run(_play, play, admission, keys, clock=clock)

    return run


@asynccontextmanager
async def opened(keys: Path, admission: Admission) -> AsyncIterator[tuple[Door, socket.socket, trio.Event]]:
    app = Starlette(
        routes=[Route("/{path:path}", page, methods=["GET", "POST"]), WebSocketRoute("/mute", mute)]
    )
    settings = Console(certificate=keys / "tls.crt", key=keys / "tls.key")
    listening = server.listen("127.0.0.1:0")
    yield Door(app, settings, admission), listening, trio.Event()


async def _play(play: Play, admission: Admission, keys: Path) -> None:
    async with opened(keys, admission) as (door, listening, ended), trio.open_nursery() as nursery:
        port = listening.getsockname()[1]
        await nursery.start(door.run, listening, ended)
        await play(Visitor(port, keys))
        ended.set()


def test_it_serves_and_closes(at_door):
    async def play(visitor: Visitor) -> None:
        answer = await visitor.get()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"page")

    at_door(play)


def test_a_source_has_so_many_connections_and_others_have_theirs(at_door):
    async def play(visitor: Visitor) -> None:
        before = refused("source")
        held = [await visitor.plain("127.0.0.3") for _ in range(OF_SOURCE)]
        over = await visitor.plain("127.0.0.3")
        assert await rest(over) == b""
        assert refused("source") == before + 1
        assert b" 200 " in await visitor.get(source="127.0.0.2")
        for stream in (*held, over):
            await stream.aclose()
        with trio.fail_after(60):
            while metrics.CONSOLE.get_sample_value("proxyd_console_connections") != 0:
                await trio.sleep(0.1)
        assert b" 200 " in await visitor.get(source="127.0.0.3")

    at_door(play, jumps=False)


def test_connections_come_so_fast_and_exempt_ones_as_they_like(at_door):
    async def play(visitor: Visitor) -> None:
        before = refused("rate")
        for _ in range(5):
            assert b" 200 " in await visitor.get(source="127.0.0.4")
        assert await visitor.refused("127.0.0.4")
        assert refused("rate") == before + 1
        for _ in range(20):
            assert b" 200 " in await visitor.get(source="127.0.0.5")

    at_door(play, Admission(per_source_rate=1e-6, per_source_burst=5, exempt=["127.0.0.5/32"]))


def test_all_together_are_bounded(at_door, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 30)

    async def play(visitor: Visitor) -> None:
        held = [await visitor.plain(f"127.0.1.{number}") for number in range(1, 31)]
        before = refused("full")
        assert await visitor.refused("127.0.1.99")
        assert refused("full") == before + 1
        for stream in held:
            await stream.aclose()

    at_door(play, jumps=False)


def test_silence_before_during_and_after_a_request_ends(at_door):
    async def play(visitor: Visitor) -> None:
        async def ends(stream: Any, after: float, said: bytes = b"") -> None:
            began = trio.current_time()
            async with stream:
                found = await rest(stream)
            took = trio.current_time() - began
            assert after - 1 <= took <= after + CLOSE_SECONDS + 1, (after, took)
            assert said in found

        begun = await visitor.plain()
        await begun.send_all(b"\x16\x03\x01\x02\x00")  # a ClientHello that never comes
        await ends(begun, HANDSHAKE_SECONDS)
        await ends(await visitor.secure(), KEEP_ALIVE_SECONDS)
        half = await visitor.secure()
        await half.send_all(HEAD)
        await ends(half, KEEP_ALIVE_SECONDS)
        kept = await visitor.secure()
        await kept.send_all(HEAD + b"\r\n")
        await ends(kept, KEEP_ALIVE_SECONDS, b" 200 ")
        form = await visitor.secure()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\n"
        await form.send_all(head + b"a=")
        await ends(form, FORM_SECONDS, b" 408 ")

    at_door(play)


def test_a_byte_now_and_then_is_as_slow_as_none(at_door):
    async def play(visitor: Visitor) -> None:
        async def drips(head: bytes, drop: bytes, longest: float) -> None:
            stream = await visitor.secure()
            await stream.send_all(head)
            began = trio.current_time()
            with trio.fail_after(3 * longest):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(dripping, stream, drop, longest / 6)
                    await rest(stream)
                    nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)
            assert trio.current_time() - began <= longest + CLOSE_SECONDS + 2

        form = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9999\r\n\r\n"
        await drips(HEAD + b"X: ", b"y", KEEP_ALIVE_SECONDS)
        await drips(form, b"a", FORM_SECONDS)

    async def dripping(stream: Any, drop: bytes, apart_s: float) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await trio.sleep(apart_s)
                await stream.send_all(drop)

    at_door(play)


def test_who_does_not_say_goodbye_is_not_waited_for(at_door):
    async def play(visitor: Visitor) -> None:
        stream = await visitor.secure()
        await stream.send_all(HEAD + b"Connection: close\r\n\r\n")
        found = b""
        while not found.endswith(b"page"):
            found += await stream.receive_some(65536)
        began = trio.current_time()
        with trio.fail_after(CLOSE_SECONDS + 5):
            while await stream.transport_stream.receive_some(
                65536
            ):  # its close_notify is there, ours never comes
                pass
        assert trio.current_time() - began <= CLOSE_SECONDS + 1
        await trio.aclose_forcefully(stream)

    at_door(play)


GARBAGE = {
    "no TLS": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SSL 2": b"\x80\x2e\x01\x00\x02",
    "TLS 1.0 only": bytes.fromhex("160301002f0100002b0301") + bytes(32) + bytes.fromhex("000004002f000a0100"),
    "a record of 2^16 bytes": b"\x16\x03\x01\xff\xff" + b"a" * 70_000,
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "random": bytes(range(256)) * 20,
    "nothing": b"",
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_no_tls_ends_itself(at_door, garbage):
    async def play(visitor: Visitor) -> None:
        before = refused("handshake")
        stream = await visitor.plain()
        async with stream:
            try:
                await stream.send_all(GARBAGE[garbage])
                await stream.send_eof()
            except trio.BrokenResourceError:
                pass  # it has heard enough
            await rest(stream)
        assert b" 200 " in await visitor.get()
        assert refused("handshake") == before + 1

    at_door(play)


def test_a_fault_of_ours_or_a_librarys_ends_one_connection(at_door, capfd, monkeypatch):
    """The wall: 0.20 of anycorn lets some exceptions out, which would end the process with all its connections."""

    async def play(visitor: Visitor) -> None:
        before = metrics.CONSOLE.get_sample_value("proxyd_console_faults_total") or 0.0
        original, broken = server.Door._handshake, []

        async def breaks(self: Door, sock: socket.socket) -> Any:
            if not broken:
                broken.append(sock)
                raise ExceptionGroup("as a nursery has it", [KeyError("what a browser sent")])
            return await original(self, sock)

        monkeypatch.setattr(server.Door, "_handshake", breaks)
        other = None
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            other = await visitor.secure()
        assert other is None
        assert b" 200 " in await visitor.get()
        assert metrics.CONSOLE.get_sample_value("proxyd_console_faults_total") == before + 1

    at_door(play)
    assert "what a browser sent" not in capfd.readouterr().err


@pytest.fixture
def few_files() -> Iterator[None]:
    """So many descriptors that a test can use them up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors_it_waits(at_door, few_files, monkeypatch):
    monkeypatch.setattr(server, "at_most", lambda: server.CONNECTIONS)

    async def play(visitor: Visitor) -> None:
        before, taken = refused("descriptors"), []
        stream = trio.socket.socket()
        try:
            with pytest.raises(OSError) as full:
                while True:
                    taken.append(os.dup(0))
            assert full.value.errno == errno.EMFILE
            os.close(taken.pop())
            held = socket.socket()  # the last one
            await stream.connect(("127.0.0.1", visitor.port))
            with trio.fail_after(60):
                while refused("descriptors") == before:
                    await trio.sleep(0.1)
            held.close()
        finally:
            for number in taken:
                os.close(number)
            stream.close()
        assert b" 200 " in await visitor.get()

    at_door(play, jumps=False)


def test_it_says_how_many_it_can_have():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert server.at_most() == min(server.CONNECTIONS, hard - server.SPARE_FILES) or hard < 512
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(
            hard, server.CONNECTIONS + server.SPARE_FILES
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_place_that_is_taken_and_a_certificate_that_is_none(keys, tmp_path):
    with server.listen("127.0.0.1:0") as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match="can't listen"):
            server.listen(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="TLS"):
        Door(None, Console(certificate=keys / "tls.key", key=keys / "tls.key"), OPEN)
