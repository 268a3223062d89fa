"""Before a target is chosen: a menu for a terminal, and the inner side of `ssh -J user@proxy login@target`.

Rule 1: nothing here is a session yet; a session begins with the permit, as for everyone else.
Rule 2: the menu shows what the user may reach, and nothing of what they may not.
Rule 3: the inner connection of `ssh -J` is another client, already proved by the outer one; it shows a host
        certificate of the proxy's own CA for the target's name.
Rule 4: a connection becomes one session, by one menu, or carries those of `ssh -J`; never both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncssh
import trio
from asyncssh.channel import SSHChannel
from asyncssh.constants import (
    EXTENDED_DATA_STDERR,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_UNKNOWN_CHANNEL_TYPE,
)
from asyncssh.misc import ChannelOpenError

from proxyd.protocols.ssh.channel import JumpChannel, RelayChannel, settled
from proxyd.protocols.ssh.wire import WireError, describe_open, printable

if TYPE_CHECKING:
    from proxyd.access import Permit
    from proxyd.protocols.ssh.front import FrontConnection
    from proxyd.protocols.ssh.relay import Relay

MAX_LINE = 128
"""Characters of an answer at the menu; target names are shorter."""

MAX_HELD = 64
"""Requests the menu keeps for the target: a terminal, its variables, a shell."""

UNREAD_MENU = 64 * 1024
"""Bytes a client may leave unread at the menu before it is left: every key makes us write the line again."""

CERTIFICATE_S = 3600
"""Seconds a host certificate for `ssh -J` is good for; it is made anew for every connection."""

NO_TARGET = "Name a target: ssh {user}+LOGIN+TARGET@proxy, ssh {user}+TARGET@proxy, or ssh -J {user}@proxy LOGIN@TARGET."
_CLEAR_LINE = b"\r\x1b[K"
_REFUSED_STATUS = 255


class Menu:
    """The terminal before the target is chosen; stands where a Line will."""

    def __init__(self, lobby: Lobby) -> None:
        self.lobby = lobby
        self.near: RelayChannel
        self.pty = False
        self.shown = False  # a menu, or why there is none
        self.held: list[tuple[str, bytes]] = []
        self._choices: list[Permit] = []
        self._typed = ""
        self._turned_away = ""
        self.ahead = b""

    def request(self, half: RelayChannel, name: str, body: bytes, wants_reply: bool) -> asyncio.Future[bool]:  # noqa: ARG002, FBT001
        """Keep what a terminal asks for until there is a target; show the menu when it asks for a shell."""
        loop = half._loop
        if name in ("pty-req", "env", "window-change") and len(self.held) < MAX_HELD:
            self.pty = self.pty or name == "pty-req"
            self.held.append((name, body))
            return settled(loop, granted=True)
        if self.shown:
            return settled(loop, granted=False)
        if name == "shell" and self.pty:
            self.shown = True
            self.held.append((name, body))
            return settled(loop, granted=True)
        if name in ("shell", "exec", "subsystem"):
            self.shown = True
            self._turned_away = NO_TARGET.format(user=self.lobby.front.user)
            return settled(loop, granted=True)
        return settled(loop, granted=False)

    def _show(self) -> None:
        self._choices = self.lobby.reachable()
        if not self._choices:
            self._leave("There is no target you may reach now; ask for a grant.")
            return
        width = max(len(choice.target.name) for choice in self._choices)
        lines = ["", f"Welcome, {self.lobby.front.user}. Where to?", ""]
        lines += [
            f" {number:3}  {choice.target.name:{width}}  as {choice.account}  {choice.target.description}".rstrip()
            for number, choice in enumerate(self._choices, 1)
        ]
        self.near.write(("\r\n".join([*lines, "", ""]) + self._prompt()).encode())
        self.near.begin()

    @staticmethod
    def _prompt() -> str:
        return "Number or name (q to leave): "

    def from_client(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002 - clients send no extended data
        """Edit the answer: printable characters, backspace, ^U, Enter; ^C and ^D leave."""
        if self.near.get_write_buffer_size() > UNREAD_MENU:
            self.near.abort()
            return
        text = data.decode("utf-8", "ignore")
        for at, character in enumerate(text):
            if character in "\r\n":
                self.ahead = text[at + 1 :].encode()
                self._choose(self._typed.strip())
                self._typed = ""
                return
            if character in "\x03\x04":
                self._leave("")
                return
            if character in "\x7f\b":
                self._typed = self._typed[:-1]
            elif character == "\x15":
                self._typed = ""
            elif character.isprintable() and len(self._typed) < MAX_LINE:
                self._typed += character
        self.near.write(_CLEAR_LINE + (self._prompt() + self._typed).encode())

    def from_target(self, data: bytes, datatype: int | None) -> None:
        """Nothing comes: there is no target."""

    def _choose(self, answer: str) -> None:
        if answer in ("q", "quit", "exit"):
            self._leave("")
            return
        named = [
            choice
            for choice in self._choices
            if answer in (choice.target.name, f"{choice.account}@{choice.target.name}")
        ]
        if answer.isdigit() and 1 <= int(answer) <= len(self._choices):
            named = [self._choices[int(answer) - 1]]
        if len(named) != 1:
            text = "Several logins: give the number." if named else "Not on the list."
            self.near.write(f"\r\n{text}\r\n{self._prompt()}".encode())
            return
        self.near.write(b"\r\n")
        if not self.lobby.chose(named[0], self):
            self._leave("This connection has its session already; open another one.")
            return
        self.near.pause_reading()

    def _leave(self, text: str) -> None:
        if text and self.pty:
            self.near.write(f"{text}\r\n".encode())
        elif text:
            self.near.write(f"{text}\n".encode(), EXTENDED_DATA_STDERR)
        status = _REFUSED_STATUS if text else 0
        self.near.ask("exit-status", status.to_bytes(4, "big"), wants_reply=False)
        self.near.close()

    def tell(self, text: str) -> None:
        """Show one line."""
        self.near.write(f"{text}\r\n".encode())

    def started(self) -> None:
        """Show the menu, or why there is none: the client has been told that its request is granted."""
        if self._turned_away:
            self._leave(self._turned_away)
        else:
            self._show()

    def eof(self, half: RelayChannel) -> None:
        """Leave: nobody will type any more."""
        half.close()

    def lost(self) -> None:
        """Nothing: there is no target to lose."""

    def half_closed(self, half: RelayChannel) -> None:
        """Nothing to close on the other side."""


class Lobby:
    """Answers for a logged-in connection that named no target."""

    def __init__(self, front: FrontConnection, inner: Callable[[FrontConnection], None]) -> None:
        self.front = front
        self.picked = trio.Event()
        self.permit: Permit | None = None
        self.inners = 0
        self._menu: Menu | None = None
        self._start_inner = inner

    def reachable(self) -> list[Permit]:
        """Give what the user may reach now."""
        return self.front.access.reachable(self.front.user, self.front.ip)

    def open(self, kind: str, body: bytes) -> tuple[SSHChannel[bytes], Awaitable[Any]]:
        """Answer a channel open; raises ChannelOpenError."""
        if kind == "session":
            menu = Menu(self)
            menu.near = RelayChannel(self.front, menu, near=True)
            return menu.near, _ready(menu.near)
        if kind == "direct-tcpip":
            return self._jump(body)
        raise ChannelOpenError(OPEN_UNKNOWN_CHANNEL_TYPE, "No target is chosen yet")

    def chose(self, permit: Permit, menu: Menu) -> bool:
        """Take the menu's choice, unless another was first (rule 4)."""
        if self.picked.is_set() or self.inners:
            return False
        self.permit, self._menu = permit, menu
        self.picked.set()
        return True

    # ------------------------------------------------------------------ the chosen terminal becomes a line

    async def hand_over(self, relay: Relay) -> None:
        """Connect the menu's terminal to the target: the same requests, in the same order; on the host loop."""
        menu = self._menu
        if menu is None:
            return
        near = menu.near
        line = relay.new_line("session")
        near.become(line)
        try:
            await relay.join(near, "session", b"")
        except ChannelOpenError as error:
            near.write(f"{relay.session.target} refused: {error.reason}\r\n".encode())
            near.close()
            return
        answers = [(name, line.request(near, name, body, True)) for name, body in menu.held]
        for _, answer in answers:
            answer.add_done_callback(_granted)  # nobody else looks at what the others end with
        started = next(answer for name, answer in answers if name == "shell")
        await asyncio.wait([started])
        if _granted(started):
            if menu.ahead:
                line.from_client(menu.ahead, None)
            line.started()
        else:
            line.tell(f"{relay.session.target} refused a shell.")
            line.close()

    # ------------------------------------------------------------------ ssh -J

    def _jump(self, body: bytes) -> tuple[SSHChannel[bytes], Awaitable[Any]]:
        try:
            wanted = describe_open("direct-tcpip", body)
        except WireError:
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "Malformed request") from None
        if self.picked.is_set():
            raise ChannelOpenError(
                OPEN_ADMINISTRATIVELY_PROHIBITED, "This connection has its session already"
            )
        permit = self._permit_for(wanted["host"], wanted["port"])
        channel = JumpChannel(self.front)
        channel.set_inbound_peer_names(
            wanted["host"], wanted["port"], wanted["origin"], wanted["origin_port"]
        )
        return channel, self._inner(permit, wanted["host"])

    def _permit_for(self, host: str, port: int) -> Permit:
        """Find any permit for the place named, so that its host certificate can be shown; raises ChannelOpenError."""
        for permit in self.reachable():
            target = permit.target
            if host in (target.name, target.host, target.address) and port in (22, target.port):
                return permit
        raise ChannelOpenError(
            OPEN_ADMINISTRATIVELY_PROHIBITED,
            f"You may not reach {printable(host)}:{port} through this proxy; ask for a grant.",
        )

    async def _inner(self, permit: Permit, host: str) -> FrontConnection:
        from proxyd.protocols.ssh.front import FrontConnection  # noqa: PLC0415 - the two know each other

        assert self.front.login is not None  # noqa: S101 - the lobby opens after the login
        options = await asyncssh.SSHServerConnectionOptions.construct(
            self.front._options, server_host_keys=_certified(self.front, {permit.target.name, host})
        )
        inner = FrontConnection(self.front._loop, options)
        inner.prepare(
            self.front.core, self.front.ip, carried=self.front.login, destination=permit.target.name
        )
        if self.picked.is_set():
            raise ChannelOpenError(
                OPEN_ADMINISTRATIVELY_PROHIBITED, "This connection has its session already"
            )
        self._start_inner(inner)
        return inner


def _granted(answer: asyncio.Future[bool]) -> bool:
    return not answer.cancelled() and answer.exception() is None and answer.result()


async def _ready(channel: RelayChannel) -> RelayChannel:
    return channel


def _certified(front: FrontConnection, names: set[str]) -> list[Any]:
    """Give the proxy's host keys, each with a certificate of its CA for `names` when a CA is configured."""
    listen = front.core.config.listen.ssh
    assert listen is not None  # noqa: S101 - this is a connection of that listener
    keys = [asyncssh.read_private_key(path) for path in listen.host_keys]
    if listen.host_ca is None:
        return list(keys)
    authority = asyncssh.read_private_key(listen.host_ca)
    now = int(time.time())
    return [
        (key, authority.generate_host_certificate(
            key, "proxyd", principals=sorted(names), valid_after=now - 60, valid_before=now + CERTIFICATE_S))
        for key in keys
    ]  # fmt: skip
