"""A live session: two streams joined through scanners, gate, rules and tape; what operators do to it comes in here.

Rule 1: what is sent on to the target has been recorded before, and was let through by the gate at that moment.
Rule 2: a statement that rules could block waits for its verdict, and the client with it; nothing else waits.
Rule 3: what is said to the client by us stands between two messages, never inside one.
Rule 4: `part` is over after PART_S: the goodbye at the first end of a message, or, where none comes in time, a cut.
        What runs on the target is cancelled.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from proxyd import metrics
from proxyd.errors import Dropped, ProtocolBroken, ProxydError, TargetError
from proxyd.gate import Settled
from proxyd.protocols.postgres import back, wire
from proxyd.protocols.postgres.scan import ClientScanner, ServerScanner
from proxyd.protocols.postgres.wire import WireError
from proxyd.recorder.record import Kind
from proxyd.relay import Relay
from proxyd.session import Ending
from proxyd.stream import Pause, Stream

if TYPE_CHECKING:
    from proxyd.policy import Policy
    from proxyd.protocols.postgres.dialogue import Dialogue
    from proxyd.session import Session

PART_S: Final = 0.8
"""Seconds a goodbye may take in all, the flush of what was sent before included; both sides are closed within one."""

CANCEL_S: Final = 0.8
"""Seconds the target gets to take the cancel of a session that was dropped: who drops waits for it."""

SETTLE_S: Final = 1.0
"""Seconds a block waits for the target's host to have everything that was sent, before it reports `settled: false`."""

JUDGED_BYTES: Final = 16 << 20
"""Bytes of a statement that is held to be judged; longer ones are refused where rules could block them."""

MAX_HEARD: Final = 1000
"""Statements waiting for rules that only flag; the client waits while there are more."""

SAID_BYTES: Final = 64 << 10
"""Bytes of our own answers after which a client must read before it is listened to again."""


class Conduit:
    """The Conduit of `proxyd.session` for PostgreSQL."""

    def __init__(
        self, session: Session, client: Stream, target: back.Back, dialogue: Dialogue, policy: Policy
    ) -> None:
        self._session = session
        self._key = target.key
        self._target = target.stream
        self._client = client
        self._dialogue = dialogue
        self._policy = policy
        self._from_client = ClientScanner(dialogue)
        self._from_target = ServerScanner(dialogue)
        self._relay = Relay(client, target.stream, from_client=self._up, from_target=self._down)
        self._life = trio.CancelScope(shield=True)
        self._nursery: trio.Nursery | None = None
        self._news = trio.Event()  # a statement waits for its verdict, or was heard, or answers were said
        self._heard: deque[bytes] = deque()
        self._passed = 0
        self._said = 0
        self._farewell: bytes | None = None
        self._left = ""
        self._ending = False  # nothing is waited for any more
        self._over = False
        if policy.decides:
            self._from_client.judged = JUDGED_BYTES
        elif policy.active:
            dialogue.heard = self._hear

    async def run(self) -> None:
        """Relay until either side has ended; raises ClientError, TargetError, Dropped."""
        failure: ProxydError | None = None
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._watch)
            self._nursery.start_soon(self._attend)
            try:
                with self._life:
                    await self._relay.join()
            except ProxydError as error:  # raised below, alone: out of the nursery it would come in a group
                failure = error
            finally:
                self._over = True
                self._dialogue.cut()
                self._account()
                self._nursery.cancel_scope.cancel()
        if self._left:
            raise Dropped(self._left)
        if failure is not None:
            raise failure

    def _account(self) -> None:
        """Put on the tape how much passed that is not on it."""
        crossed = {"why": "rows and the protocol around statements", "input": self._passed}
        self._session.tape.add(Kind.OMITTED, {**crossed, "output": self._relay.down.arrived})

    async def _watch(self) -> None:
        """Part when the session's scope ends, for an operator, a rule or because its time is over."""
        try:
            await trio.sleep_forever()
        finally:
            if not self._over:
                self.part(self._session.parting)

    # ------------------------------------------------------------------ the two directions, on the host loop

    def _up(self, data: bytes) -> bytes | None:
        if self._farewell is not None:
            return None
        try:
            pieces = self._from_client.feed(data)
            self._dialogue.before_sending()
        except WireError as error:
            raise self._broken(error) from None
        if self._dialogue.question is not None:
            self._client.pause(Pause.JUDGED)
            self._news.set()
        if self._dialogue.words:
            self._speak()
        out = _one(pieces)
        self._passed += len(out)
        return out

    def _down(self, data: bytes) -> bytes | None:
        try:
            pieces = self._from_target.feed(data)
        except WireError as error:
            text = f"{self._session.target} {error}."
            self._last_words("08P01", text)
            raise TargetError(text) from None
        self._dialogue.chunk_done()
        if self._dialogue.owed:
            owed, self._dialogue.owed = self._dialogue.owed, b""
            if not self._target.closed.is_set():
                self._target.send(owed)
        if self._farewell is not None and self._farewell in pieces:
            del pieces[pieces.index(self._farewell) + 1 :]
            self._client.send(_one(pieces))
            raise Dropped(self._left)
        return _one(pieces)

    def _broken(self, error: WireError) -> ProtocolBroken:
        text = f"The client {error}."
        self._last_words("08P01", text)
        return ProtocolBroken(text)

    def _last_words(self, code: str, text: str) -> None:
        if self._from_target.at_boundary and not self._client.closed.is_set():
            self._client.send(wire.error("FATAL", code, text))

    def _speak(self) -> None:
        """Say what is to be said, if no message is half at the client (rule 3); the scanner does it otherwise."""
        words = self._dialogue.words
        if not words or not self._from_target.at_boundary or self._client.closed.is_set():
            return
        out = b"".join(words)
        words.clear()
        self._client.send(out)
        self._said += len(out)
        if self._said > SAID_BYTES:
            self._client.pause(Pause.JUDGED)
            self._news.set()

    # ------------------------------------------------------------------ rules, in trio (rule 2)

    def _hear(self, text: bytes) -> None:
        self._heard.append(text)
        self._news.set()
        if len(self._heard) > MAX_HEARD:
            self._client.pause(Pause.JUDGED)

    async def _attend(self) -> None:
        """Judge what waits, and let the client go on once it may."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            if self._said > SAID_BYTES:
                await self._drained()
                self._said = 0
            while self._heard:
                await self._verdict(self._heard.popleft())
            while self._dialogue.question is not None and not self._ending:
                await self._decide(self._dialogue.question)
            if self._ending:
                return
            self._client.resume(Pause.JUDGED)

    async def _drained(self) -> None:
        try:
            await self._client.drain()
        except (ProxydError, trio.ClosedResourceError):
            self._ending = True  # it is gone, and the relay knows

    async def _decide(self, text: bytes) -> None:
        why = await self._verdict(text)
        if self._farewell is not None:
            return
        try:
            fate = self._dialogue.verdict(why)
            pieces = self._from_client.decided(fate)
            self._dialogue.before_sending()
            out = _one(pieces)
            if out and self._farewell is None and not self._target.closed.is_set():
                self._target.send(out)
                self._passed += len(out)
            self._speak()
        except WireError as error:
            self._stop(self._broken(error))
        except ProxydError as error:
            self._stop(error)

    def _stop(self, error: ProxydError) -> None:
        self._ending = True
        self._relay.stop(error)

    async def _verdict(self, text: bytes) -> str:
        """Ask the rules; gives why the statement is refused, empty when it is not."""
        found = await self._policy.judge_in_thread(text.decode("utf-8", "backslashreplace"), "postgres")
        if found is None:
            return ""
        if self._policy.hit(self._session, found):
            self._session.control("drop", f"rule {found.rule.name}", found.text)
            metrics.DROPS.labels(by="rule").inc()
            self._session.end(Ending("dropped", f"rule {found.rule.name}", found.text))
            return found.text
        return found.text if found.action == "block" else ""

    # ------------------------------------------------------------------ what operators do

    def notify(self, text: str) -> bool:
        """Show the user one line, as a notice; clients show it at the latest with their next statement's result."""
        self._session.tape.add(Kind.NOTICE, text)
        self._dialogue.words.append(wire.notice(text))
        self._speak()
        return True

    async def settle(self) -> Settled:
        """Close the open batch, then wait until the target's host has everything that was passed."""
        discarded = self._from_client.held_bytes
        out = self._dialogue.shut()
        if out and not self._target.closed.is_set():
            self._target.send(out)
        arrived = await self._target.arrived(SETTLE_S)
        return self._session.settled(self._passed, discarded, confirmed=arrived)

    def hold(self, held: bool) -> None:  # noqa: FBT001 - Conduit's signature
        """Stop, or resume, reading from both sides."""
        self._relay.hold(held)

    def part(self, text: str) -> None:
        """Tell the user `text` and close both sides (rule 4)."""
        if self._farewell is not None or self._over:
            return
        self._left, self._ending = text, True
        self._farewell = wire.error("FATAL", "57P01", text) if text else b""
        self._life.deadline = trio.current_time() + PART_S
        if self._dialogue.busy and self._nursery is not None:
            self._nursery.start_soon(self._cancel_at_target, CANCEL_S)
        if self._from_target.at_boundary or not text:
            if text and not self._client.closed.is_set():
                self._client.send(self._farewell)
            self._relay.stop(Dropped(text))
        else:
            self._dialogue.words.append(self._farewell)

    async def cancel(self) -> None:
        """Take a CancelRequest of the client's: cancel at the target, unless the gate is shut."""
        if self._session.gate.closed:
            self._session.gate.refused_requests += 1
            return
        self._session.tape.add(Kind.REQUEST, {"name": "cancel", "side": "client"})
        await self._cancel_at_target(back.CANCEL_SECONDS)

    async def _cancel_at_target(self, seconds: float) -> None:
        with trio.move_on_after(seconds, shield=True):
            try:
                await back.cancel(self._session.permit.target, self._session.login, self._key)
            except TargetError as error:
                self._session.finding("cancel-failed", "low", str(error))


def _one(pieces: list[bytes | memoryview]) -> bytes:
    """Make one of what is sent together; nothing is copied where a chunk passes as it came."""
    if len(pieces) == 1 and isinstance(pieces[0], bytes):
        return pieces[0]
    return b"".join(pieces)
