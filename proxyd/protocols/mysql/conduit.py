"""A live session: client and target joined, each command through gate, rules and tape; and the session's Conduit.

Rule 1: a command is on the tape before its last byte leaves. One that fits KEPT_BYTES leaves whole or not at all.
Rule 2: what is refused is answered by us, in its turn: behind the answers to all that was sent before it.
Rule 3: while the gate is shut nothing leaves. A command that had begun to leave ends while `settle` waits, or waits
        itself, unread, until the gate opens: cut in the middle it would be another command.
Rule 4: while a rule that may forbid is being asked the client is not read; its commands stay in order.
Rule 5: `part` says its word where a message of the target ends; where none ends within PART_SECONDS, it cuts.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from proxyd.errors import Dropped, ProtocolBroken, ProxydError, TargetError
from proxyd.gate import RESTORED, REVOKED, Settled
from proxyd.protocols.mysql.login_packets import Cap, error_payload
from proxyd.protocols.mysql.responses import Reply, Responses
from proxyd.protocols.mysql.script import LAST_PREPARED, Script, Told
from proxyd.protocols.mysql.threads import LONGEST_KILL
from proxyd.protocols.mysql.wire import (
    SILENT,
    Command,
    Commands,
    FileData,
    Part,
    Whole,
    WireError,
    packet,
    uint32_at,
)
from proxyd.protocols.mysql.words import DENIED, KILLED, MALFORMED, NOT_HERE, SPOILED, TOO_LONG, UNKNOWN
from proxyd.recorder.record import Kind
from proxyd.relay import Relay
from proxyd.statement import KEPT_BYTES, Cutting
from proxyd.stream import LOOK_SECONDS, Pause, Stream

if TYPE_CHECKING:
    from proxyd.protocols.mysql.back import Link
    from proxyd.protocols.mysql.rules import Rules
    from proxyd.protocols.mysql.threads import Threads
    from proxyd.session import Session

JUDGED_BYTES: Final = 16 << 20  # the longest statement rules are asked about: MariaDB's own default limit
SETTLE_SECONDS: Final = 1.0  # a block waits no longer for what is under way
PART_SECONDS: Final = 0.4  # a drop waits no longer for a message to end; both sides close within 1 s
LEAVING_SECONDS: Final = (
    2.0  # a target whose client has left gets this long to close as well, once it has answered
)
MAX_ASKED: Final = 100_000  # commands sent ahead of their answers; a pipeline has thousands
SAID_BYTES: Final = 64 << 10  # of our own answers, after which a client must read before it is listened to
CURSOR_AT: Final = 5  # where a COM_STMT_EXECUTE asks for a cursor, its command's byte included

_KNOWN: Final = frozenset(int(code) for code in Command)
_EXECUTE: Final = int(Command.STMT_EXECUTE)  # plain numbers are reached faster than an Enum's members
_QUIT: Final = int(Command.QUIT)
_KILLS: Final = frozenset({int(Command.QUERY), int(Command.PROCESS_KILL)})
_TEXTS: Final = frozenset({int(Command.QUERY), int(Command.STMT_PREPARE)})


class Conduit:
    """Joins a client's and a target's stream for one session; satisfies `proxyd.session.Conduit`."""

    def __init__(
        self, session: Session, client: Stream, link: Link, charset: int, rules: Rules, *, threads: Threads
    ) -> None:
        self._session, self._rules, self._threads = session, rules, threads
        self._client, self._target = client, link.stream
        self._script = Script(session, charset)
        self._commands = Commands(JUDGED_BYTES if rules.active else KEPT_BYTES)
        self._responses = Responses(
            deprecate_eof=Cap.DEPRECATE_EOF in link.flags, local_infile=Cap.LOCAL_FILES in link.flags
        )
        self._asked: deque[Told] = deque()
        self._cutting: Cutting | None = None  # of a statement that passes in pieces
        self._head = b""  # of a command that passes in pieces
        self._long_bytes = 0
        self._swallowing = ""  # why the command that arrives in pieces is thrown away
        self._kept: Part | FileData | None = None  # rule 3
        self._judged: Whole | None = None  # rule 4
        self._to_judge = trio.Event()
        self._unheard = trio.Event()
        self._quitting = False  # the client has said goodbye
        self._said = 0  # bytes of our own answers it may not have taken
        self._settling = False
        self._parting: str | None = None
        self._quiet = trio.Event()  # nothing is unanswered; replaced for every wait
        self.parted = trio.Event()
        self.passed_bytes = 0
        self.relay = Relay(client, link.stream, from_client=self._from_client, from_target=self._from_target)

    @property
    def running(self) -> bool:
        """Tell whether the target has not answered everything it was asked."""
        return self._responses.pending > 0 or self._commands.inside

    # ------------------------------------------------------------------ client -> target

    def _from_client(self, data: bytes) -> bytes:
        self._commands.feed(data)
        return self._advance()

    def _advance(self) -> bytes:
        """Take what has arrived as far as it may go now; give what is to be sent on."""
        out = []
        try:
            while not self._waits and (item := self._commands.next()) is not None:
                if raw := self._pass(item):
                    out.append(raw)
        except WireError as error:
            if self._responses.between:
                self._tell(
                    packet(
                        self._responses.next_sequence, error_payload(*MALFORMED, f"Malformed packet: {error}")
                    )
                )
            raise ProtocolBroken(f"The client broke the MySQL protocol: {error}.") from None
        passing = out[0] if len(out) == 1 else b"".join(out)
        self.passed_bytes += len(passing)
        return passing

    @property
    def _waits(self) -> bool:
        return self._judged is not None or self._kept is not None

    def _pass(self, item: Whole | Part | FileData) -> bytes:
        if len(self._asked) >= MAX_ASKED:
            raise WireError("too many commands ahead of their answers")
        if isinstance(item, Whole):
            return self._whole(item)
        closed = self._session.gate.closed and not self._settling
        if isinstance(item, FileData):
            if closed:
                return self._keep(item)
            return item.raw
        if item.first:
            self._begin_long(item)
        if self._swallowing:
            self._swallow(item)
            return b""
        return self._keep(item) if closed else self._long(item)

    def _keep(self, item: Part | FileData) -> bytes:
        """Let what belongs to a command that has begun to leave wait for the gate."""
        self._kept = item
        self._steer()
        return b""

    def _whole(self, item: Whole) -> bytes:
        why = self._why_not(item.code, item.payload)
        if why:
            return self._refuse(item, why)
        if item.code in _KILLS and len(item.payload) <= LONGEST_KILL:
            item = self._threads.translated(item, self._session)
        if self._must_wait(item):
            self._judged = item
            self._steer()
            self._to_judge.set()
            return b""
        return self._forward(item)

    def _must_wait(self, item: Whole) -> bool:
        """Tell whether something must be known before: what the rules say, or what is being prepared."""
        if self._rules.active and self._rules.asks(item.code) and not self._rules.noted(self._script, item):
            return True
        last = item.code == _EXECUTE and uint32_at(item.payload.ljust(5, b"\0"), 1)[0] == LAST_PREPARED
        return last and self._responses.pending > 0

    def _why_not(self, code: int, payload: bytes) -> str:
        """Say why a command may not leave, "" if it may."""
        if self._session.gate.closed:
            return REVOKED
        if code in NOT_HERE:
            return NOT_HERE[Command(code)]
        if code not in _KNOWN:
            return "Unknown command"
        if code == _EXECUTE:
            statement = self._script.statement_of(payload)
            if statement is not None and statement.spoiled:
                return SPOILED
        return ""

    def _forward(self, item: Whole) -> bytes:
        code, payload = item.code, item.payload
        told = self._script.told(code, payload)
        if code in SILENT:
            self._quitting = code == _QUIT
            self._script.note_silent(code, payload, len(payload))
            return item.raw
        self._script.note_sent(code, payload)
        self._expect(told, item.sequence, payload)
        return item.raw

    def _expect(self, told: Told, sequence: int, payload: bytes) -> None:
        self._asked.append(told)
        self._responses.expect(told.code, sequence, cursor=payload[CURSOR_AT : CURSOR_AT + 1] > b"\0")

    def _refuse(self, item: Whole, why: str) -> bytes:
        """Answer in the target's place, in turn (rule 2)."""
        gate = self._session.gate
        if gate.closed:
            gate.refused_bytes += len(item.raw)
            gate.refused_requests += 1
        if item.code != Command.QUIT:
            self._script.refused(item.code, item.payload, why)
        self._answer_refused(item.code, item.payload, item.sequence, why)
        return b""

    def _answer_refused(self, code: int, payload: bytes, sequence: int, why: str) -> None:
        if code in SILENT:
            statement = self._script.statement_of(payload)
            if statement is not None and code == Command.STMT_SEND_LONG_DATA:
                statement.spoiled = True
            return
        kind = DENIED if code in _KNOWN else UNKNOWN
        refusal = packet(sequence + 1, error_payload(*kind, why))
        if self._asked or not self._responses.between:
            self._asked.append(Told(code, refusal=refusal))
        else:
            self._tell(refusal)

    # ------------------------------------------------------------------ commands in pieces

    def _begin_long(self, item: Part) -> None:
        code = item.code
        why = self._why_not(code, bytes(item.payload[0][:16]))
        if not why and self._rules.active and self._rules.asks(code):
            why = TOO_LONG
        self._swallowing = why
        self._cutting = Cutting()
        self._head = bytes(item.payload[0][:KEPT_BYTES])
        self._long_bytes = 0

    def _collect(self, item: Part) -> None:
        cutting = self._cutting
        assert cutting is not None  # noqa: S101 - made with the first piece
        skip = 1 if item.first else 0  # the command's byte is no text
        for piece in item.payload:
            self._long_bytes += len(piece)
            if item.code in _TEXTS:
                cutting.feed(memoryview(piece)[skip:])
            skip = 0

    def _long(self, item: Part) -> bytes:
        """Pass a piece; with the last one the command is told."""
        self._collect(item)
        if item.sequence is None:
            return item.raw
        code, cutting, head = item.code, self._cutting, self._head
        self._cutting, self._head = None, b""
        told = self._script.told(code, head, cutting)
        if code in SILENT:
            self._script.note_silent(code, head, self._long_bytes)
            return item.raw
        self._script.note_sent(code, head)
        self._expect(told, item.sequence, head)
        return item.raw

    def _swallow(self, item: Part) -> None:
        """Throw a piece away; with the last one the command is told as refused."""
        gate = self._session.gate
        if gate.closed:
            gate.refused_bytes += len(item.raw)
            gate.refused_requests += item.first
        self._collect(item)
        if item.sequence is not None:
            self._script.refused(item.code, self._head, self._swallowing, self._cutting)
            self._answer_refused(item.code, self._head, item.sequence, self._swallowing)
            self._cutting, self._head, self._swallowing = None, b"", ""

    # ------------------------------------------------------------------ rule 4

    async def judge(self) -> None:
        """Ask the rules about one command after the other, until cancelled; a task of the session."""
        while True:
            await self._to_judge.wait()
            self._to_judge = trio.Event()
            item = self._judged
            if item is None:
                continue
            while item.code == _EXECUTE and self._responses.pending:
                self._quiet = trio.Event()
                await self._quiet.wait()
            ruled = await self._rules.judge(self._script, item)
            self._judged = None
            why = self._why_not(item.code, item.payload) or ruled.refusal
            raw = b""
            if why:
                self._refuse(item, why)
            else:
                raw = self._forward(item)
                self.passed_bytes += len(raw)
            if ruled.ends:
                self._session.end(ruled.ends)
                return
            self._go_on(raw)

    def _go_on(self, raw: bytes) -> None:
        """Send what waited, and go on with what came behind it."""
        try:
            more = self._advance()
            if not self._target.closed.is_set():
                self._target.send(raw + more)
        except trio.ClosedResourceError:  # the client has said its last; nobody waits for this answer
            pass
        except ProxydError as error:
            self.relay.stop(error)
        self._steer()

    # ------------------------------------------------------------------ target -> client

    def _from_target(self, data: bytes) -> bytes:
        between, sequence = self._responses.between, self._responses.next_sequence
        try:
            replies = self._responses.feed(data)
        except WireError as error:
            if between:
                self._tell(
                    packet(sequence, error_payload(*KILLED, f"The target broke the protocol: {error}"))
                )
            raise TargetError(f"{self._session.target} broke the MySQL protocol: {error}.") from None
        if self._responses.wants_file:
            self._responses.wants_file = False
            self._commands.expect_file()
        out = self._settle_replies(data, replies) if replies else data
        if self._parting is not None and self._responses.boundary >= 0:
            out = data[: self._responses.boundary]
            text, self._parting = self._parting, None
            out += packet(self._responses.next_sequence, error_payload(*KILLED, text))
            self._stop(text)
        return out

    def _settle_replies(self, data: bytes, replies: list[Reply]) -> bytes:
        """Record outcomes; put refusals in where their turn has come."""
        parts, sent = [], 0
        for reply in replies:
            self._script.answered(self._asked.popleft(), reply)
            while self._asked and self._asked[0].refusal:
                parts += [data[sent : reply.at], self._asked.popleft().refusal]
                sent = reply.at
        if not self._responses.pending:
            self._quiet.set()
        if not parts:
            return data
        return b"".join((*parts, data[sent:]))

    def _tell(self, message: bytes) -> None:
        """Send the client a packet of ours."""
        with contextlib.suppress(ProxydError, trio.ClosedResourceError):  # who has gone hears nothing
            self._client.send(message)
        self._said += len(message)
        if self._said > SAID_BYTES:
            self._steer()
            self._unheard.set()

    async def hear(self) -> None:
        """Listen to a client again once it has taken our answers, until cancelled; a task of the session."""
        while True:
            await self._unheard.wait()
            self._unheard = trio.Event()
            with contextlib.suppress(
                ProxydError, trio.ClosedResourceError
            ):  # it has gone, and the relay knows
                await self._client.drain()
            self._said = 0
            self._steer()

    # ------------------------------------------------------------------ Conduit

    def notify(self, text: str) -> bool:
        """Go on when the gate opens; the protocol can tell a client nothing it has not asked."""
        if text != RESTORED or self._kept is None:
            return False
        item, self._kept = self._kept, None
        raw = item.raw if isinstance(item, FileData) else self._long(item)
        self.passed_bytes += len(raw)
        self._go_on(raw)
        return False

    async def settle(self) -> Settled:
        """Wait until everything that has passed is with the target: answered, or taken by its kernel."""
        self._settling = True
        try:
            with trio.move_on_after(SETTLE_SECONDS):
                while not self._settled():  # noqa: ASYNC110
                    await trio.sleep(LOOK_SECONDS)  # the kernel tells nobody
        finally:
            self._settling = False
        discarded = self._session.gate.refused_bytes + self._commands.waiting
        return self._session.settled(self.passed_bytes, discarded, confirmed=self._settled())

    def _settled(self) -> bool:
        if self._commands.reading_file or (self._commands.inside and not self._swallowing):
            return False
        return not self._responses.pending or not self._target.unsent

    def hold(self, held: bool) -> None:  # noqa: FBT001 - Conduit's signature
        """Stop, or resume, reading both sides: the tape asks for time."""
        self.relay.hold(held)

    def _steer(self) -> None:
        """Read the client unless what it said last waits, or it does not read what we say."""
        held = self._waits or self._said > SAID_BYTES
        (self._client.pause if held else self._client.resume)(Pause.JUDGED)

    def part(self, text: str) -> None:
        """Say `text` where a message ends, now if none is under way (rule 5)."""
        if self._parting is not None or self.parted.is_set():
            return
        if not self._responses.between:
            self._parting = text
            return
        self._tell(packet(self._responses.next_sequence, error_payload(*KILLED, text)))
        self._stop(text)

    async def see_off(self, text: str) -> None:
        """Part, and cut when no message ends in time."""
        self.part(text)
        with trio.move_on_after(PART_SECONDS):
            await self.parted.wait()
        self._stop(text)

    def _stop(self, text: str) -> None:
        self.parted.set()
        self.relay.stop(Dropped(text))

    async def see_leave(self) -> None:
        """Cut a target that stays when the client has left, until cancelled.

        A client that said goodbye may still wait for answers. One that vanished does not, and a server that waits in
        SLEEP or GET_LOCK looks whether its connection still stands.
        """
        left = False
        while True:
            await trio.sleep(LEAVING_SECONDS)
            if left and not (self._quitting and self._responses.pending):
                self._target.abort()
                return
            left = self._client.ended

    def close(self) -> None:
        """Record what was never answered, and how much crossed."""
        while self._asked:
            self._script.cut(self._asked.popleft())
        crossed = {"why": "database rows", "input": self.passed_bytes, "output": self.relay.down.arrived}
        self._session.tape.add(Kind.OMITTED, crossed)
