"""Before a target is chosen: the menu and the inner side of `ssh -J`, with clients that do not behave."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import trio

from proxyd.host import on_host
from proxyd.protocols.ssh.lobby import MAX_HELD, UNREAD_MENU
from proxyd.protocols.ssh.wire import string, uint32
from proxyd.recorder.record import Kind
from tests.contract.ssh_rig import Attacker, Rig, rigged, until

pytestmark = pytest.mark.hosted
PTY = string(b"xterm") + uint32(80) + uint32(24) + bytes(8) + string(b"")
PROMPT = b"Number or name"


class Screen(asyncssh.SSHClientSession[bytes]):
    """What a menu's terminal shows."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.closed = False

    def data_received(self, data: bytes, datatype: Any) -> None:
        self.seen += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True


async def menu(client: Attacker) -> tuple[Any, Screen]:
    """A terminal at the menu."""
    screen = Screen()
    channel = await client.channel()
    channel._session = screen
    assert await on_host(channel._make_request(b"pty-req", PTY))
    assert await on_host(channel._make_request(b"shell"))
    await until("the menu is shown", lambda: PROMPT in screen.seen)
    return channel, screen


async def inner(client: Attacker, host: str = "web1", user: str = "root", port: int = 22) -> Any:
    """The inner side of `ssh -J`."""
    return await on_host(
        client.connect_ssh(
            host, port, username=user, known_hosts=None, client_keys=None, config=None, agent_path=None,
            gss_auth=False, gss_kex=False,
        )
    )  # fmt: skip


def resting(rig: Rig) -> bool:
    return not len(rig.core.registry)


async def test_what_is_typed_ahead_reaches_the_target_once_and_is_recorded(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice")
        channel, _ = await menu(client)
        channel.write(b"web1\rls -l\r")
        channel.write(b"more\r")
        sink = await rig.sink()
        await until("it has arrived", lambda: sink.got == b"ls -l\rmore\r")
        assert sink.asked == ["pty", "shell"]
        session = await rig.session()
        client.abort()
        await rig.ended(session)
        assert b"".join(rig.bodies(session, Kind.INPUT)) == b"ls -l\rmore\r"


async def test_a_connection_becomes_one_session_by_one_menu(tmp_path: Path) -> None:
    async with rigged(tmp_path, channels=("shell",)) as rig:
        client = await rig.attack("alice")
        (first, _), (second, screen) = await menu(client), await menu(client)
        first.write(b"1\r")
        second.write(b"1\r")
        await until("the second is told", lambda: screen.closed)
        assert b"has its session already" in screen.seen
        await rig.sink()
        assert len(rig.core.registry) == 1
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.DisconnectError)):
            await inner(client)
        client.abort()


async def test_a_connection_that_carries_others_becomes_no_session(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice")
        jumped = await inner(client)
        await rig.session()
        channel, screen = await menu(client)
        channel.write(b"1\r")
        await until("it is told", lambda: screen.closed)
        assert b"has its session already" in screen.seen
        assert len(rig.core.registry) == 1
        jumped.abort()
        await until("the inner session is over", lambda: resting(rig))
        client.abort()


@pytest.mark.parametrize(
    ("host", "user", "port"),
    [("web1", "nobody", 22), ("web1", "root+web2", 22), ("web2", "root", 22), ("127.0.0.1", "root", 23), ("localhost", "root", 22), ("\x1b[2J", "root", 22)],
)  # fmt: skip
async def test_a_jump_leads_only_where_a_grant_does(host: str, user: str, port: int, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice")
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.DisconnectError)) as refused:
            await inner(client, host, user, port)
        assert "\x1b" not in str(refused.value)
        assert (rig.targets, len(rig.core.registry)) == ([], 0)
        client.abort()


async def test_an_inner_session_is_of_who_logged_in_outside(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("bob", key=False, password="correct horse")
        jumped = await inner(client)
        session = await rig.session()
        assert (session.user, session.how, session.login, session.target) == (
            "bob",
            "password",
            "root",
            "web1",
        )
        client.abort()
        row = await rig.ended(session)
        assert row.reason == "closed"
        jumped.abort()


async def test_a_jump_needs_a_grant_at_its_own_time(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice")
        settings = rig.core.config
        settings.grants.clear()  # as a reload would leave it
        rig.core.access = rig.core.access.renewed(settings)
        with pytest.raises(asyncssh.ChannelOpenError, match="ask for a grant"):
            await inner(client)
        client.abort()


@pytest.mark.parametrize("refused", ["session", "shell"])
async def test_a_target_that_wants_no_shell_is_said_and_nothing_breaks(
    refused: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with rigged(tmp_path) as rig:
        rig.refuses = {refused}
        client = await rig.attack("alice")
        channel, screen = await menu(client)
        channel.write(b"1\r")
        await until("the terminal is closed", lambda: screen.closed)
        assert b"web1 refused" in screen.seen
        assert b"\x1b[2J" not in screen.seen
        client.abort()
        await until("the session is over", lambda: resting(rig))
    assert "a bug" not in "".join(capfd.readouterr())


async def test_a_target_that_never_answers_a_shell_holds_no_session(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice")
        channel, _ = await menu(client)
        channel.write(b"1\r")
        target = await rig.target()
        target._packet_handlers = {**target._packet_handlers, 90: lambda *_: None}  # type: ignore[misc]
        await until("it is live", lambda: [one for one in rig.core.registry.list() if one.conduit])
        await trio.sleep(0.1)  # the terminal is being handed over
        client.abort()
        await until("the session is over", lambda: resting(rig), within_s=15)


async def test_a_target_that_goes_while_a_terminal_is_handed_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with rigged(tmp_path) as rig:
        rig.refuses = {"living"}
        client = await rig.attack("alice")
        channel, _ = await menu(client)
        channel.write(b"1\r")
        target = await rig.target()
        await until("the session is over", lambda: target.is_closed() and resting(rig))
        client.abort()
    assert "a bug" not in "".join(capfd.readouterr())


async def test_a_menu_nobody_reads_holds_little(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice")
        client.open_raw(50, window=0)
        front = rig.engines[0]._front
        (near,) = await until("the channel is open", lambda: list(front._channels.values()))
        number = near._recv_chan
        client.request_raw(number, b"pty-req", PTY)
        for _ in range(2000):
            client.request_raw(number, b"shell")
        for _ in range(20000):
            client.send_packet(94, uint32(number), string(b"x"))
        most = 0

        async def watched() -> None:
            nonlocal most
            while not client.is_closed() and front._channels:
                most = max(most, near.get_write_buffer_size())
                await asyncio.sleep(0.001)

        with trio.move_on_after(5):
            await on_host(watched())
        assert most < 2 * UNREAD_MENU
        assert len(near.line.held) <= MAX_HELD
        client.abort()


async def test_a_user_without_grants_is_told_and_left(tmp_path: Path) -> None:
    async with rigged(tmp_path, grants="#") as rig:
        client = await rig.attack("alice")
        screen = Screen()
        channel = await client.channel()
        channel._session = screen
        await on_host(channel._make_request(b"pty-req", PTY))
        await on_host(channel._make_request(b"shell"))
        await until("it is told", lambda: screen.closed)
        assert b"no target you may reach" in screen.seen
        client.abort()
