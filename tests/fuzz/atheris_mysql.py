"""One fuzzed MySQL session, login or stream of packets: what an input does, and what must hold whatever it does.

Rule 1: only WireError and ProxydError come out, of the scanners, the conduit, the logins.
Rule 2: both sides get what the other sent, in order and unchanged, less what was refused; what is ours is between messages.
Rule 3: while the gate is shut nothing leaves for the target.
Rule 4: each statement that passed has its outcome on the tape; no row, file or long data has come there.

What is played beside sessions is in `packets_mysql`.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, Final, cast

import trio
import trio.testing

from proxyd.errors import ProxydError
from proxyd.gate import RESTORED, Gate
from proxyd.protocols.mysql import back, responses
from proxyd.protocols.mysql.conduit import Conduit
from proxyd.protocols.mysql.login_packets import (
    Cap,
)
from proxyd.protocols.mysql.rules import Ruled
from proxyd.protocols.mysql.threads import FIRST, Threads
from proxyd.protocols.mysql.wire import HEADER, Command, Whole, WireError, packet
from tests.fuzz import program
from tests.fuzz.packets_mysql import PLAYED
from tests.fuzz.program import CANARY, Input, Op, Step, Tape
from tests.fuzz.seeds_mysql import LONG_DATA

LEVELS: Final = ("full", "literals-masked", "fingerprint", "off")
PARAMETERS: Final = ("values", "types", "hash", "off")
TYPED: Final = (WireError, ProxydError)
BLOCKED: Final = "Not here"
FAREWELL: Final = "An operator ends this"
CHARSETS: Final = (45, 8, 28, 63)  # utf8mb4, latin1, gbk, binary
KILLS: Final = (int(Command.PROCESS_KILL), int(Command.QUERY))
LONGEST_OURS: Final = 300  # bytes of an error of ours


class Stream:
    """Stands for a stream of the session: `out` is what its peer has been sent."""

    def __init__(self, out: bytearray) -> None:
        self.out = out
        self.closed = trio.Event()
        self.ended = False
        self.reasons: set[object] = set()
        self.detached = False

    def send(self, data: bytes) -> None:
        self.out += data

    def pause(self, why: object) -> None:
        self.reasons.add(why)

    def resume(self, why: object) -> None:
        self.reasons.discard(why)

    def abort(self) -> None:
        self.closed.set()

    def detach(self) -> None:
        self.detached = True


class Rules:
    """Stands for the rules: asked about what `active` says, and answers when the program does."""

    def __init__(self, *, active: bool, waits: bool) -> None:
        self.active = active
        self._waits = waits
        self._answer = trio.Event()
        self._refusal = ""

    def asks(self, code: int) -> bool:
        return code in (Command.QUERY, Command.STMT_PREPARE, Command.STMT_EXECUTE)

    def noted(self, script: object, item: Whole) -> bool:
        return not self._waits

    async def judge(self, script: object, item: Whole) -> Ruled:
        self._answer = trio.Event()
        await self._answer.wait()
        return Ruled(self._refusal)

    def say(self, refusal: str) -> None:
        self._refusal = refusal
        self._answer.set()


class Session:
    """A session's conduit, and both streams as they came and as they went on."""

    def __init__(self, settings: int, flags: int) -> None:
        target = SimpleNamespace(
            statements=LEVELS[settings >> 2 & 3], parameters=PARAMETERS[settings >> 4 & 3], mask_errors=bool(settings & 64)
        )  # fmt: skip
        self.tape, self.gate = Tape(), Gate()
        session = SimpleNamespace(permit=SimpleNamespace(target=target), protocol="mysql", tape=self.tape, gate=self.gate,
                                  user="ann", target="db", end=lambda _: None)  # fmt: skip
        self.up_in, self.up_out, self.down_in, self.down_out = (bytearray() for _ in range(4))
        self.client, self.target = Stream(self.down_out), Stream(self.up_out)
        self.rules = Rules(active=bool(settings & 1), waits=bool(settings & 2))
        self.judging = self.rules.active
        threads = Threads()
        threads.began(FIRST + 1, cast("Any", session), 7)
        caps = Cap.DEPRECATE_EOF * bool(flags & 1) | Cap.LOCAL_FILES * bool(flags & 2)
        link = back.Link(cast("Any", self.target), 7, Cap(caps), 2)
        self.conduit = Conduit(cast("Any", session), cast("Any", self.client), link, CHARSETS[flags >> 2 & 3],
                               cast("Any", self.rules), threads=threads)  # fmt: skip
        self.waiting: list[bytes] = []
        self.shut_at = -1  # bytes the target had when the gate was shut

    def run(self, source: Input) -> None:
        """Run a program to its end or to the first typed error; then look at everything."""
        sound = False
        with contextlib.suppress(*TYPED):
            if self.judging:
                trio.run(self._judged, source)
            else:
                for step in program.steps(source, framed):
                    self.step(step)
            sound = not self.client.detached
        self.conduit.close()
        self.check_up(sound=sound)
        self.check_down(sound=sound)
        self.tape.check_outcomes()
        if not self.told():
            self.tape.check_canary()

    async def _judged(self, source: Input) -> None:
        """Run a program beside the task that asks the rules."""
        failed: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.conduit.judge)
            try:
                for step in program.steps(source, framed):
                    self.step(step)
                    if step.op in program.BY_CLIENT or step.op is Op.VERDICT:
                        await trio.testing.wait_all_tasks_blocked()
                        self._deliver()
            except TYPED as error:  # out of the nursery it would come in a group
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    def step(self, step: Step) -> None:
        """Do one step."""
        if self.client.detached:
            return
        for piece in step.pieces:
            if step.op in program.BY_CLIENT:
                self.waiting.append(piece)
                self._deliver()
            elif not self.target.closed.is_set():
                self.down_in += piece
                self.client.send(self.conduit._from_target(piece))
        match step.op:
            case Op.SHUT if not self.gate.closed:
                self.gate.shut("ann", "")
                self.shut_at = len(self.up_out)
            case Op.OPEN if self.gate.closed:
                self._check_shut()
                self.gate.open()
                self.conduit.notify(RESTORED)
                self._deliver()
            case Op.VERDICT if self.judging:
                self.rules.say(BLOCKED if step.argument & 1 else "")
            case Op.NOTIFY:
                self.conduit.hold(held=True)
                self.conduit.hold(held=False)
            case Op.PART:
                self.conduit.part(FAREWELL)

    def _deliver(self) -> None:
        """Let the client's bytes arrive while it is read."""
        while self.waiting and not self.client.reasons and not self.client.detached:
            piece = self.waiting.pop(0)
            self.up_in += piece
            self.target.send(self.conduit._from_client(piece))

    # ------------------------------------------------------------------ what must hold

    def _check_shut(self) -> None:
        assert len(self.up_out) == self.shut_at, "something passed a shut gate"

    def check_up(self, *, sound: bool) -> None:
        """Rules 2 and 3, towards the target."""
        if self.gate.closed:
            self._check_shut()
        sent, beginning = split(self.up_in)
        got, rest = split(self.up_out)
        assert program.in_order(sent, got, translated), "the target got something else"
        assert any(one.startswith(rest) for one in (beginning, *sent)) if rest else True, (
            "the target got half of something else"
        )
        refused = self.conduit._swallowing or any("refused" in body for body in self.tape.bodies)
        if sound and not refused and self.shut_at < 0 and not any(map(translated, got)):
            held = len(self.up_in) - len(self.up_out)
            assert self.up_in.startswith(self.up_out), "bytes are lost"
            assert self.conduit._waits or held == self.conduit._commands.waiting, "bytes are lost"

    def check_down(self, *, sound: bool) -> None:
        """Rule 2, towards the client."""
        sent, beginning = split(self.down_in)
        got, rest = split(self.down_out)
        at = 0
        for one in got:
            if at < len(sent) and one == sent[at]:
                at += 1
            else:
                assert ours(one), "the client got something else"
        assert (sent[at] if at < len(sent) else beginning).startswith(rest), (
            "the client got half of something else"
        )
        if sound and not self.conduit.parted.is_set():
            assert at == len(sent) and rest == beginning, "the client did not get all"

    def told(self) -> bool:
        """Whether the canary stands where it may be recorded: in a command but long data, in an error's message."""
        client, target = split(self.up_in), split(self.down_in)
        by_client = any(CANARY in one and one[HEADER] != LONG_DATA for one in (*client[0], client[1]))
        return by_client or any(
            CANARY in one and one[HEADER] == responses.ERR for one in (*target[0], target[1])
        )


def translated(one: bytes) -> bool:
    """Whether this may be a KILL whose number was translated."""
    return (
        one[HEADER : HEADER + 1] in (b"\x03", b"\x0c")
        and len(one) < 80
        and b"7" in one[HEADER:] + b"7" * (one[HEADER] == 12)
    )


def ours(one: bytes) -> bool:
    """Whether this may be an error of ours."""
    return (
        one[HEADER : HEADER + 1] == b"\xff"
        and one[HEADER + 3 : HEADER + 4] == b"#"
        and len(one) < LONGEST_OURS
    )


def split(stream: bytes | bytearray) -> tuple[list[bytes], bytes]:
    """Cut a stream into packets, and what is no whole one."""
    stream, at, found = bytes(stream), 0, []
    while len(stream) - at >= HEADER:
        end = at + HEADER + int.from_bytes(stream[at : at + 3], "little")
        if end > len(stream):
            break
        found.append(stream[at:end])
        at = end
    return found, stream[at:]


def framed(by_client: bool, kind: int, body: bytes) -> bytes:
    """A client's command; of a target's message `kind` is its first byte, and the sequence number of no interest."""
    return packet(0 if by_client else 1, bytes((kind,)) + body)


def play(data: bytes) -> None:
    """Run one input; AssertionError, or whatever else comes out, is a finding."""
    source = Input(data)
    mode = source.byte() % 16
    if mode < 8:
        Session(source.byte(), source.byte()).run(source)
        return
    with contextlib.suppress(*TYPED):
        PLAYED[mode % len(PLAYED)](source)


def quiet() -> None:
    """Log nothing of what logins say: millions fail."""
    back._log = cast("Any", SimpleNamespace(warning=lambda *_, **__: None))
