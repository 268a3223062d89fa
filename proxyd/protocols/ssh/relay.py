"""A live SSH session: every line between the client's connection and the target's, and the session's Conduit.

Rule 1: whatever one side opens, the other is asked for the same, with the same bytes; who may ask for what stands in
        `NEEDS` and nowhere else.
Rule 2: `settle` throws away what has not left, then asks the target for a sign that it has all the rest.
Rule 3: `part` says goodbye both ways: a line in every terminal, and the disconnect text if that never gets through.
Rule 4: a target opens channels to the client only for what the client has asked for, and none while the gate is shut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import trio
from asyncssh.constants import (
    DISC_BY_APPLICATION,
    MSG_REQUEST_SUCCESS,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_CHANNEL_TYPE,
)
from asyncssh.misc import ChannelOpenError

from proxyd import log, metrics
from proxyd.gate import REVOKED, Settled
from proxyd.policy import Policy
from proxyd.protocols.ssh.channel import RelayChannel
from proxyd.protocols.ssh.line import MALFORMED, Line
from proxyd.protocols.ssh.wire import WireError, describe_global, printable
from proxyd.recorder.record import Kind
from proxyd.session import DISCONNECTED, Ending

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket

    from proxyd.protocols.ssh.back import BackConnection
    from proxyd.protocols.ssh.front import FrontConnection
    from proxyd.session import Session

MAX_CHANNELS = 256
"""Open channels of one connection; a browser behind -D opens some 50, a flood thousands."""

TOLD_S = 5.0
"""Seconds the end of a session waits for hashes of transfers that are still being computed."""

LAST_WORDS_S = 5.0
"""Seconds a client gets to read what a target said before its connection ended."""

SETTLE_S = 1.0
"""Seconds a block waits for the target's sign before it reports `settled: false`."""

UNCHECKED = "Your command could not be checked against the rules."
UNASKED = "Nobody has asked for it"

NEEDS = {
    "session": "",  # judged request by request
    "direct-tcpip": "local-forward",
    "direct-streamlocal@openssh.com": "local-forward",
    "forwarded-tcpip": "remote-forward",
    "forwarded-streamlocal@openssh.com": "remote-forward",
    "auth-agent@openssh.com": "agent",
    "x11": "x11",
}
FROM_CLIENT = frozenset({"session", "direct-tcpip", "direct-streamlocal@openssh.com"})
FROM_TARGET = frozenset(NEEDS) - FROM_CLIENT

FORWARD_REQUESTS = frozenset(
    {
        "tcpip-forward",
        "cancel-tcpip-forward",
        "streamlocal-forward@openssh.com",
        "cancel-streamlocal-forward@openssh.com",
    }
)


_log = log.get("ssh")


class Relay:
    """Joins a front and a back connection for one session."""

    def __init__(self, session: Session, front: FrontConnection, back: BackConnection) -> None:
        self.session = session
        self.front = front
        self.back = back
        self.over = trio.Event()
        self.ssh_in_forward = False
        allowed = session.login_record.allowed
        self.channels = session.permit.channels if allowed is None else session.permit.channels & allowed
        self.may_have_terminal = allowed is None or "terminal" in allowed
        core = front.core
        self.policy = Policy(core.config.rules, core.access.user(session.user), session.target, sql=False)
        self._judging: set[asyncio.Task[None]] = set()
        self.asked: set[str] = set()  # of remote-forward, agent, x11: what the client has asked for
        self._lines: dict[int, Line] = {}
        self._numbers = 0
        self._passed_by_ended = 0
        self._held = False
        self._gone = ""  # what the target's end is told with, once it has ended
        self._quiet = trio.Event()

    # ------------------------------------------------------------------ rule 1: channels

    def new_line(self, kind: str) -> Line:
        """Start a line with the next number on the tape."""
        self._numbers += 1
        return Line(self, self._numbers, kind)

    async def told(self) -> None:
        """Wait until every line has put its end on the tape, at most TOLD_S."""
        with trio.move_on_after(TOLD_S):
            while self._lines:
                await self._quiet.wait()

    async def join(self, opener: RelayChannel, kind: str, body: bytes) -> RelayChannel:
        """Open the other half of the line whose first half a peer just opened; asyncssh awaits this.

        Raises ChannelOpenError: refused by policy, or with the other peer's own words.
        """
        line = opener.line
        assert isinstance(line, Line)  # noqa: S101 - a menu has become a line before it joins
        try:
            self._judge(kind, near=opener.near)
            other = RelayChannel(self.back if opener.near else self.front, line, near=not opener.near)
            self._pair(line, opener, other)
            line.open_record(body)
            await other.open_as(kind, body)
            self._judge_again(opener, other)
        except ChannelOpenError as error:
            self._forget(line)
            self._note_refused(line, error.reason)
            raise ChannelOpenError(error.code, printable(error.reason)) from None
        except Exception as error:  # a bug here must cost one channel, not the connection
            self._forget(line)
            raise ChannelOpenError(OPEN_CONNECT_FAILED, "The channel could not be opened") from error
        if opener.get_connection_or_none() is None:  # who asked has gone meanwhile
            line.half_closed(opener)
        if self._held:
            line.near.hold(held=True)
            other.hold(held=True)
        if kind != "session":
            front_loop = opener._loop
            front_loop.call_soon(line.started)
        return opener

    def _pair(self, line: Line, opener: RelayChannel, other: RelayChannel) -> None:
        opener.other, other.other = other, opener
        line.near, line.far = (opener, other) if opener.near else (other, opener)
        self._lines[line.number] = line
        self._quiet = trio.Event()

    def _note_refused(self, line: Line, reason: str) -> None:
        refused = {"event": "refused", "type": printable(line.kind), "reason": printable(reason)}
        self.session.tape.add(Kind.CHANNEL, refused, line.number)

    def _judge_again(self, opener: RelayChannel, other: RelayChannel) -> None:
        """Tell the target nothing of a channel it has opened to a client that was blocked meanwhile."""
        if self.session.gate.closed and not opener.near:
            other.close()
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, REVOKED)

    def _judge(self, kind: str, *, near: bool) -> None:
        if kind not in (FROM_CLIENT if near else FROM_TARGET):
            raise ChannelOpenError(OPEN_UNKNOWN_CHANNEL_TYPE, "Unknown channel type")
        if self.session.gate.closed:
            self.session.gate.refused_requests += near
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, REVOKED)
        needed = NEEDS[kind]
        if needed and needed not in self.channels:
            raise ChannelOpenError(
                OPEN_ADMINISTRATIVELY_PROHIBITED,
                f"Your grant on {self.session.target} does not allow {needed}.",
            )
        if not near and needed not in self.asked:
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, UNASKED)
        if len(self._lines) >= MAX_CHANNELS:
            raise ChannelOpenError(OPEN_RESOURCE_SHORTAGE, f"More than {MAX_CHANNELS} channels at once")

    # ------------------------------------------------------------------ rules of the configuration

    def start(self, judging: Coroutine[Any, Any, None]) -> None:
        """Run on the host loop what a line waits for."""
        task = self.front._loop.create_task(judging)
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    async def refused_by_rule(self, command: str, *, unsure: bool = False) -> str:
        """Judge a command; give the sentence it is refused with, or nothing. Waits only where a rule could refuse."""
        if self.policy.decides:
            return await self._judged(command, unsure=unsure)
        self.start(self._noted(command))
        return ""

    async def _noted(self, command: str) -> None:
        await self._judged(command, unsure=False)

    async def _judged(self, command: str, *, unsure: bool) -> str:
        policy = self.policy
        try:
            verdict = await self.front._loop.run_in_executor(None, policy.judge_apart, command, "", unsure)
        except Exception:  # noqa: BLE001 - a bug in a check must not let pass what it checks
            _log.exception("a bug while checking a command", session=self.session.id)
            return UNCHECKED
        if verdict is None:
            return ""
        if policy.hit(self.session, verdict):
            self._end_by_rule(verdict.rule.name)
            return verdict.text
        return verdict.text if verdict.action == "block" else ""

    def _end_by_rule(self, name: str) -> None:
        metrics.DROPS.labels(by="rule").inc()
        self.session.control("drop", f"rule {name}", "")
        self.session.end(Ending("dropped", f"rule {name}", DISCONNECTED))

    def line_ended(self, line: Line) -> None:
        """Take a line off the list."""
        self._passed_by_ended += line.passed_bytes
        self._forget(line)

    def _forget(self, line: Line) -> None:
        self._lines.pop(line.number, None)
        if not self._lines:
            self._quiet.set()
            if self._gone:
                self._say_gone()

    def resized(self, line: Line, columns: int, rows: int) -> None:
        """Put a terminal's size on the tape."""
        self.session.tape.add(Kind.RESIZE, [columns, rows], line.number)

    # ------------------------------------------------------------------ global requests

    def judge_global(self, name: str, body: bytes) -> bool:
        """Record a client's global request for a forward, and tell whether it may pass."""
        fields: dict[str, Any]
        try:
            fields = describe_global(name, body)
        except WireError:
            fields, refused = {"rest": body}, MALFORMED
        else:
            refused = self._global_refusal()
        record = {"name": name, "side": "client", **fields}
        self.session.tape.add(Kind.REQUEST, {**record, "refused": refused} if refused else record)
        if not refused:
            self.asked.add("remote-forward")
        return not refused

    async def ask_target(self, name: str, body: bytes) -> bytes | None:
        """Relay a client's global request; give the target's answer, None when it refused."""
        pkttype, packet = await self.back._make_global_request(name.encode("ascii"), body)
        if pkttype != MSG_REQUEST_SUCCESS:
            return None
        answer: bytes = packet.get_remaining_payload()
        return answer

    def tell_target(self, name: str, body: bytes) -> None:
        """Relay a client's global request that wants no answer."""
        self.back._send_global_request(name.encode("ascii"), body)

    def _global_refusal(self) -> str:
        if self.session.gate.closed:
            self.session.gate.refused_requests += 1
            return REVOKED
        if "remote-forward" not in self.channels:
            return f"Your grant on {self.session.target} does not allow remote-forward."
        return ""

    # ------------------------------------------------------------------ Conduit

    def notify(self, text: str) -> bool:
        """Show `text` in every terminal, and let the lines know when the gate has opened."""
        told = False
        for line in list(self._lines.values()):
            told |= line.tell(text)
            if not self.session.gate.closed:
                line.gate_opened()
        return told

    async def settle(self) -> Settled:
        """Throw away input that waits for the target's window; wait for the target's sign about the rest (rule 2)."""
        discarded = 0
        for line in list(self._lines.values()):
            discarded += line.throw_away()
        passed = self._passed_by_ended + sum(line.passed_bytes for line in self._lines.values())
        with (
            self.front.unheard()
        ):  # a flood that is decrypted only to be refused competes with the sign for the core
            confirmed = await self.back.confirmed(SETTLE_S)
        return self.session.settled(passed, discarded, confirmed=confirmed)

    def hold(self, held: bool) -> None:  # noqa: FBT001 - Conduit's signature
        """Stop, or resume, reading on every line, both ways."""
        self._held = held
        for line in list(self._lines.values()):
            for half in (line.near, line.far):
                if half is not None and self._held is held:  # what a half had kept may press the tape again
                    half.hold(held)

    def part(self, text: str) -> None:
        """Say goodbye to the client, and leave the target (rule 3)."""
        try:
            for line in list(self._lines.values()):
                line.part(text)
        finally:
            self.front.say_goodbye(DISC_BY_APPLICATION, text)
            self.back.abort()
            self.over.set()

    # ------------------------------------------------------------------ ends from either side

    def client_gone(self) -> None:
        """End: the client has left."""
        self.over.set()

    def target_gone(self, reason: str) -> None:
        """End: the target has closed; what it said last goes out first, for at most LAST_WORDS_S."""
        if self.over.is_set():
            return
        self._gone = reason or f"{self.session.target} closed the connection"
        if self._lines:
            self.front._loop.call_later(LAST_WORDS_S, self._say_gone)
        else:
            self._say_gone()

    def _say_gone(self) -> None:
        if not self.over.is_set():
            self.front.say_goodbye(DISC_BY_APPLICATION, self._gone)
            self.over.set()


def global_request(packet: SSHPacket) -> tuple[str, bool, bytes]:
    """Parse SSH_MSG_GLOBAL_REQUEST (RFC 4254, 4) to name, want_reply and the rest; raises PacketDecodeError."""
    name = packet.get_string().decode("ascii", "replace")
    wants_reply = packet.get_boolean()
    return name, wants_reply, packet.get_remaining_payload()
