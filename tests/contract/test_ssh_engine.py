"""The SSH engine's bounds and ends: what floods cost, and that whatever is cut, wherever, nothing is left behind.

`rigged` fails a test that leaves a session unsealed, a task of the host loop or a socket.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import asyncssh
import pytest
import trio
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_IGNORE, MSG_KEXINIT

from proxyd.errors import RecordingFailed
from proxyd.host import loop, on_host
from proxyd.protocols.ssh import bounds
from proxyd.protocols.ssh.back import MAX_BANNER
from proxyd.protocols.ssh.channel import LEAST_PACKET, PIECES, WINDOW
from proxyd.protocols.ssh.front import MAX_GLOBAL_REQUESTS
from proxyd.protocols.ssh.relay import MAX_CHANNELS
from proxyd.protocols.ssh.wire import string, uint32
from proxyd.recorder.record import Kind
from proxyd.session import DISCONNECTED, SHUTTING_DOWN, TIME_OVER
from tests.contract.ssh_rig import HOST, Attacker, Rig, Sink, connect, host_tasks, rigged, until

pytestmark = pytest.mark.hosted
MIB = 1 << 20
SOON_S = 5.0  # for what promises a second: a fifth of the login's deadline; end-to-end tests hold the figure itself
LOGIN = "login_seconds = 25"
UNKNOWN_MESSAGE = 200


def waiting(link: Any) -> int:
    """Bytes a connection's transport holds that the kernel has not taken."""
    transport = link._transport
    return 0 if transport is None else transport.get_write_buffer_size()


async def flood(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """A command that writes for ever."""
    try:
        while True:
            process.stdout.write(bytes(65536))
            await process.stdout.drain()
    except (BrokenPipeError, ConnectionError, asyncssh.Error):
        return


async def running(rig: Rig, client: Attacker, command: bytes = b"bash") -> tuple[Any, Sink]:
    channel = await client.channel()
    assert await on_host(channel._make_request(b"exec", string(command)))
    return channel, await rig.sink()


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a target that takes connections and never says a word."""
    with socket.create_server((HOST, 0)) as listening:
        yield f"{HOST}:{listening.getsockname()[1]}"


async def dialling(rig: Rig) -> Any:
    """Wait until a session is on its way to its target."""
    (session,) = await until("a session begins", rig.core.registry.list)
    return session


async def begin(rig: Rig, username: str = "alice+web1") -> tuple[Any, list[BaseException]]:
    """Begin a login that will not end well; the list gets what it ends with."""
    ends: list[BaseException] = []

    async def go() -> None:
        try:
            await connect(rig, username, {"client_keys": [rig.key], "factory": Leaver})
        except (OSError, asyncssh.Error) as error:
            ends.append(error)

    task = loop().create_task(go())
    return task, ends


class Leaver(Attacker):
    """A client the test can reach while its login goes on."""

    made: ClassVar[list[Leaver]] = []

    def connection_made(self, link: asyncio.BaseTransport) -> None:
        self.made.append(self)
        super().connection_made(link)


# ---------------------------------------------------------------------- what a client can make us hold


async def test_a_key_exchange_that_never_ends_holds_nothing(tmp_path: Path) -> None:
    async with rigged(tmp_path, flood) as rig:
        client = await rig.attack("alice+web1")
        await on_host(client.create_process("x", encoding=None, window=1 << 30))
        front = rig.engines[0]._front
        client._packet_handlers = {**client._packet_handlers, MSG_KEXINIT: lambda *_: None}  # type: ignore[misc]
        client._send_kexinit()
        await until("keys are being exchanged", lambda: not front._kex_complete)
        with trio.move_on_after(1):
            await until("it grows", lambda: front._deferred_bytes > MIB)
        assert front._deferred_bytes < MIB
        client.abort()


@pytest.mark.parametrize("early", [True, False])
async def test_key_exchanges_for_their_own_sake_end(early: bool, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        front = rig.engines[0]._front
        front._rekeys_left = 3.0
        front._rekey_at = began = time.monotonic()
        if early:
            front._auth_complete = False
        count = 0
        with trio.fail_after(60):
            while not client.is_closed():
                if client._kex_complete:
                    client._send_kexinit()
                    client._kexinit_sent = True
                    count += 1
                await trio.sleep(0.001)
        earned = int(bounds.REKEY_RATE * max(1.0, time.monotonic() - began))
        assert count <= (1 if early else 3 + 2 + earned)


async def test_key_exchanges_that_are_earned_go_on(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1", rekey_bytes=MIB)
        channel, sink = await running(rig, client)
        rig.engines[0]._front._rekeys_left = 0.0
        rig.engines[0]._front._rekey_at = time.monotonic()
        for _ in range(32):
            channel.write(bytes(MIB))
        await until("all has arrived", lambda: len(sink.got) == 32 * MIB, within_s=60)
        client.abort()


@pytest.mark.parametrize("logged_in", [True, False])
async def test_answers_nobody_reads_end_the_connection(logged_in: bool, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        username = "alice+web1" if logged_in else "alice"
        client = await rig.attack(username)
        front = rig.engines[0]._front
        client._transport.pause_reading()
        most = 0
        with trio.fail_after(60):
            while front._transport is not None:
                while client._transport.get_write_buffer_size() < MIB:
                    client.send_packet(UNKNOWN_MESSAGE, bytes(8))
                most = max(most, waiting(front))
                await trio.sleep(0.001)
        assert most < bounds.UNREAD_MAX + MIB
        client.abort()


@pytest.mark.parametrize("reply", [True, False])
async def test_forwards_the_target_never_answers_are_bounded(reply: bool, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        target = await rig.target()
        asked: list[int] = []
        target._packet_handlers = {**target._packet_handlers, 80: lambda *_: asked.append(1)}  # type: ignore[misc]
        before = len(host_tasks())
        for number in range(2000):
            client.ask_raw(b"tcpip-forward", string(b"") + uint32(number), reply=reply)
        if reply:
            await until("the client is sent away", client.is_closed)
        else:
            await until("all were passed on", lambda: len(asked) == 2000)
        assert len(host_tasks()) - before <= MAX_GLOBAL_REQUESTS + 2
        client.abort()


async def test_single_bytes_before_a_start_are_joined(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        session = await rig.session()
        near = next(iter(session.conduit._lines.values())).near
        sent = bytes(number % 251 for number in range(50_000))
        for at in range(len(sent)):
            channel.send_packet(MSG_CHANNEL_DATA, string(sent[at : at + 1]))
        await until("all is there", lambda: near._recv_window == WINDOW - len(sent))
        assert len(near._recv_buf) < 2 * PIECES
        assert await on_host(channel._make_request(b"exec", string(b"bash")))
        sink = await rig.sink()
        await until("all has arrived", lambda: len(sink.got) == len(sent))
        assert sink.got == sent
        client.abort()


async def test_nobody_asks_for_packets_of_a_byte(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        client.open_raw(7, size=LEAST_PACKET - 1)
        client.open_raw(8, size=LEAST_PACKET)
        await until("both are answered", lambda: client._channels[8].number is not None)
        assert client._channels[7].number is None
        target = await rig.target()
        confirm = target.send_channel_open_confirmation
        target.send_channel_open_confirmation = lambda a, b, c, _, *rest: confirm(a, b, c, 1, *rest)
        with pytest.raises(asyncssh.ChannelOpenError):
            await client.channel()
        client.abort()


async def test_who_says_too_much_while_a_login_waits_is_sent_away(mute: str, tmp_path: Path) -> None:
    async with rigged(tmp_path, address=mute, target="login_seconds = 120") as rig:
        outer = await rig.attack("alice")
        go = asyncio.Event()

        async def inner() -> None:
            options = await asyncssh.connection.SSHClientConnectionOptions.construct(
                config=None, host="web1", port=22, username="root", known_hosts=None, agent_path=None,
                client_keys=None, gss_auth=False, gss_kex=False, x509_trusted_certs=None,
            )  # fmt: skip
            made: list[Attacker] = []

            def make() -> Attacker:
                made.append(Attacker(asyncio.get_running_loop(), options))
                return made[-1]

            await outer.create_connection(make, "web1", 22)
            await go.wait()
            for _ in range(500):
                made[-1].send_packet(MSG_IGNORE, string(bytes(16384)))
                await asyncio.sleep(0)

        task = loop().create_task(inner())
        await dialling(rig)
        (channel,) = rig.engines[0]._front._channels.values()
        front = channel._session
        most = 0
        go.set()
        with trio.move_on_after(60):
            while front._transport is not None:
                most = max(most, len(front._inpbuf))
                await trio.sleep(0.01)
        assert most < 2 * bounds.AHEAD_MAX
        assert front._transport is None
        outer.abort()
        task.cancel()


async def test_nobody_says_a_thousand_things_before_the_login(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        ignored = struct.pack(">IBBI", 12, 6, MSG_IGNORE, 0) + bytes(6)
        with socket.create_connection((HOST, rig.port)) as link:
            link.sendall(b"SSH-2.0-x\r\n" + ignored * (2 * bounds.EARLY_PACKETS))
            await until(
                "the client is sent away", lambda: rig.engines and rig.engines[0]._front.left.is_set()
            )
            front = rig.engines[0]._front
            assert front._recv_seq <= bounds.EARLY_PACKETS + bounds.SLICE // len(ignored)
            assert "before the login" in str(front.why_left())


async def test_a_burst_of_tiny_packets_holds_up_nobody_for_long(tmp_path: Path) -> None:
    """Each packet used to cost two copies of all that had come with it: 16 seconds for what takes a tenth of one."""
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice")
        front = rig.engines[0]._front
        packet = bytes(16)
        sizes: list[int] = []
        front._recv_handler = front._recv_pkthdr

        def counted() -> bool:
            sizes.append(len(front._inpbuf))
            front._inpbuf = front._inpbuf[len(packet) :]
            return bool(front._inpbuf)

        front._recv_pkthdr = counted  # type: ignore[method-assign]
        front._recv_handler = counted
        front._inpbuf = packet * 16384
        front._recv_data()
        assert len(sizes) == 16384
        assert max(sizes) <= bounds.SLICE
        client.abort()


# ---------------------------------------------------------------------- what a target can make us hold


async def test_a_target_that_opens_channels_without_end_is_bounded(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        await running(rig, client)
        client.ask_raw(b"tcpip-forward", string(b"") + uint32(0), reply=False)
        client._packet_handlers = {**client._packet_handlers, 90: lambda *_: None}  # type: ignore[misc]
        target, session = await rig.target(), await rig.session()
        await until("it was asked for", lambda: session.conduit.asked)
        rest = string(b"localhost") + uint32(9) + string(b"10.0.0.1") + uint32(9)
        before = len(host_tasks())
        for number in range(1000, 4000):
            Attacker.open_raw(target, number, b"forwarded-tcpip", rest=rest)  # type: ignore[arg-type]
        await until("all are judged", lambda: len(session.conduit._lines) >= MAX_CHANNELS)
        with trio.move_on_after(0.5):
            await until("there are more", lambda: len(session.conduit._lines) > MAX_CHANNELS)
        assert len(session.conduit._lines) == MAX_CHANNELS
        assert len(host_tasks()) - before <= 2 * MAX_CHANNELS
        client.abort()


async def test_exit_statuses_nobody_reads_end_the_session(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        _, sink = await running(rig, client)
        front, link = rig.engines[0]._front, sink.target._transport
        client._transport.pause_reading()
        most = 0
        with trio.fail_after(60):
            while front._transport is not None:
                while link.get_write_buffer_size() < MIB and not link.is_closing():
                    sink.channel._send_request(b"exit-status", uint32(1) + bytes(200))
                most = max(most, waiting(front))
                await trio.sleep(0.001)
        assert most < bounds.UNREAD_MAX + MIB
        client.abort()


class Talker(asyncssh.SSHServer):
    """A target that says the same again and again before it lets anybody in."""

    def connection_made(self, conn: Any) -> None:
        self.conn = conn

    def begin_auth(self, username: str) -> bool:
        for _ in range(500):
            self.conn.send_auth_banner("\x1b[2Jalice@proxy's password: \u202e" + "x" * 1000 + "\n")
        return False


class Listener(Attacker):
    """A client that keeps the banners."""

    banners: ClassVar[list[str]] = []

    def connection_made(self, link: asyncio.BaseTransport) -> None:
        super().connection_made(link)
        self._owner.auth_banner_received = lambda text, _: self.banners.append(text)  # type: ignore[method-assign, union-attr]


async def test_a_targets_banners_are_bounded_and_plain(tmp_path: Path) -> None:
    Listener.banners = []
    async with rigged(tmp_path, server={"owner": Talker}) as rig:
        client = await rig.attack("alice+web1", factory=Listener)
        said = "".join(Listener.banners)
        assert 0 < len(said) <= MAX_BANNER
        assert not {"\x1b", "\u202e"} & set(said)
        client.abort()


class Rude(asyncssh.SSHServer):
    """A target that ends the login with words of its own."""

    def connection_made(self, conn: Any) -> None:
        self.conn = conn

    def begin_auth(self, username: str) -> bool:
        self.conn.disconnect(2, "Your password has expired: visit http://evil.example/\x1b[2J")
        return True


async def test_what_a_target_says_of_a_failed_login_stays_here(tmp_path: Path) -> None:
    async with rigged(tmp_path, server={"owner": Rude}) as rig:
        with pytest.raises(asyncssh.DisconnectError) as refused:
            await rig.attack("alice+web1")
        assert (
            str(refused.value).partition(" (error")[0]
            == "web1 broke off the connection before the login was over."
        )


# ---------------------------------------------------------------------- cut at every step


@pytest.mark.mission("M4")
async def test_a_client_that_leaves_while_its_target_is_dialled(mute: str, tmp_path: Path) -> None:
    async with rigged(tmp_path, address=mute, target=LOGIN) as rig:
        Leaver.made = []
        task, _ = await begin(rig)
        session = await dialling(rig)
        Leaver.made[-1].abort()
        began = time.monotonic()
        row = await rig.ended(session)
        assert time.monotonic() - began < SOON_S
        assert row.state == "ended"
        await on_host(asyncio.wait([task]))


@pytest.mark.mission("M4")
@pytest.mark.parametrize("how", ["drop", "time over", "recording failed"])
async def test_an_end_while_the_target_is_dialled_is_told_at_once(
    how: str, mute: str, tmp_path: Path
) -> None:
    async with rigged(tmp_path, address=mute, target=LOGIN) as rig:
        task, ends = await begin(rig)
        session = await dialling(rig)
        began = time.monotonic()
        if how == "drop":
            await session.drop("operator", "test")
        elif how == "time over":
            session.scope.deadline = trio.current_time()
        else:
            session.failed(RecordingFailed("The recording failed: no more disk"))
        await until("the client is told", lambda: ends)
        assert time.monotonic() - began < SOON_S
        wanted = {"drop": DISCONNECTED, "time over": TIME_OVER}.get(how, "The recording failed: no more disk")
        assert wanted in str(ends[0])
        row = await rig.ended(session)
        assert (row.reason, row.error) == ({"drop": "dropped"}.get(how, how), wanted)
        assert len(rig.bodies(session, Kind.END)) == 1
        await on_host(asyncio.wait([task]))


@pytest.mark.parametrize(
    "phase", ["connected", "version", "keys", "lobby", "menu", "inner", "dialling", "live"]
)
async def test_a_stop_in_every_phase_leaves_nothing(phase: str, mute: str, tmp_path: Path) -> None:
    address = mute if phase == "dialling" else ""
    tasks: list[Any] = []
    async with rigged(tmp_path, address=address) as rig:
        if phase in ("connected", "version", "keys"):
            link = socket.create_connection((HOST, rig.port))
            tasks.append(link)
            if phase != "connected":
                link.sendall(b"SSH-2.0-x\r\n")
            if phase == "keys":
                link.sendall(b"\0\0\1\0")
            await until("it is accepted", lambda: rig.engines)
        elif phase == "dialling":
            tasks.append((await begin(rig))[0])
            await dialling(rig)
        else:
            client = await rig.attack("alice+web1" if phase == "live" else "alice")
            if phase == "live":
                await running(rig, client)
            elif phase == "menu":
                channel = await client.channel()
                pty = string(b"xterm") + bytes(16) + string(b"")
                await on_host(channel._make_request(b"pty-req", pty))
                await on_host(channel._make_request(b"shell"))
            elif phase == "inner":
                await on_host(
                    client.connect_ssh(
                        "web1",
                        22,
                        username="root",
                        known_hosts=None,
                        client_keys=None,
                        config=None,
                        agent_path=None,
                    )
                )
        rig.stop()
        for one in tasks:
            if isinstance(one, socket.socket):
                one.close()
    for one in tasks:
        if isinstance(one, asyncio.Task):
            await on_host(asyncio.wait([one]))


@pytest.mark.mission("M4")
async def test_a_drop_finds_no_half_closed_channel_in_its_way(tmp_path: Path) -> None:
    async with rigged(tmp_path, flood) as rig:
        client = await rig.attack("alice+web1")
        process = await on_host(client.create_process("x", encoding=None))
        process.channel.pause_reading()
        session = await rig.session()
        line = next(iter(session.conduit._lines.values()))
        await until("output waits", lambda: line.near._send_paused)
        target = await rig.target()
        target._transport.pause_reading()
        line.near._close_send()  # the near half is gone, the far one waits for an answer that does not come
        line.near._recv_state = "close_pending"
        line.near._flush_recv_buf()
        await until("one half is gone", lambda: line.near._session is None)
        assert session.conduit._lines
        await session.block("operator")
        await session.drop("operator")
        assert (await rig.ended(session)).reason == "dropped"


async def test_a_line_whose_client_left_while_it_was_opened_ends(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        target = await rig.target()
        opens: list[Any] = []
        whole = target._packet_handlers
        target._packet_handlers = {**whole, 90: lambda *packet: opens.append(packet)}  # type: ignore[misc]
        client.open_raw(5)
        await until("the target is asked", lambda: opens)
        session = await rig.session()
        client.abort()
        began = time.monotonic()
        await until("the client is seen to be gone", rig.engines[0]._front.left.is_set)
        whole[90](*opens[0])  # now it answers
        await rig.ended(session)
        assert time.monotonic() - began < SOON_S


class Brief(asyncssh.SSHServer):
    """A target that lets everybody in, and goes."""

    def connection_made(self, conn: Any) -> None:
        self.conn = conn

    def begin_auth(self, username: str) -> bool:
        return False

    def auth_completed(self) -> None:
        self.conn.abort()


async def test_a_target_that_goes_the_moment_it_let_us_in(tmp_path: Path) -> None:
    async with rigged(tmp_path, server={"owner": Brief}) as rig:
        task, _ = await begin(rig)
        await rig.target()
        await until("the session is over", lambda: rig.core.catalog.sessions() and not len(rig.core.registry))
        await on_host(asyncio.wait([task]))


async def test_no_session_begins_once_the_registry_is_closed(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.core.registry.close()
        with pytest.raises(asyncssh.DisconnectError, match=SHUTTING_DOWN):
            await rig.attack("alice+web1")
        assert rig.targets == []


async def test_a_bug_in_one_session_is_no_other_sessions_business(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        clients = [await rig.attack("alice+web1") for _ in range(2)]
        (first, _), (second, sink) = [await running(rig, client) for client in clients]
        broken, whole = rig.core.registry.list()

        def breaks(*_: object) -> None:
            raise ZeroDivisionError

        next(iter(broken.conduit._lines.values())).near._take = breaks
        first.write(b"x")
        await rig.ended(broken)
        second.write(b"y")
        await until("the other goes on", lambda: sink.got == b"y")
        clients[1].abort()
        await rig.ended(whole)
