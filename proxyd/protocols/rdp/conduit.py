"""A live session: two streams joined frame by frame, gate and tape between; what operators do to it comes in here.

Rule 1: what is sent on to the target has been recorded before, and was let through by the gate at that moment.
Rule 2: the tape holds whole frames as the client sees them, in its numbers; of licensing it holds how much there was.
Rule 3: both directions move whole frames, so what we say ourselves never stands inside another's.
Rule 4: when the gate shuts, everything the user holds down is released at the target, once.
Rule 5: `part` draws why, lets it be read for PARTING_S while nothing passes any more, and says it once more as Set Error
        Info, for a client that is merely cut off comes back by itself. Both sides are closed PARTED_S behind the order,
        however late anything in between was.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import trio

from proxyd import metrics
from proxyd.errors import Dropped, ProtocolBroken, ProxydError, TargetError
from proxyd.gate import REVOKED, Settled
from proxyd.protocols.rdp import share
from proxyd.protocols.rdp.crossing import Desk, Numbers
from proxyd.protocols.rdp.fromclient import FromClient
from proxyd.protocols.rdp.fromtarget import FromTarget
from proxyd.protocols.rdp.front import farewell
from proxyd.protocols.rdp.notices import Notices, standing_s
from proxyd.protocols.rdp.share import DataKind, ErrorInfo, Rectangle
from proxyd.protocols.rdp.wire import Framer, WireError
from proxyd.recorder.record import Kind
from proxyd.relay import Relay
from proxyd.session import TIME_OVER
from proxyd.stream import Stream

if TYPE_CHECKING:
    from proxyd.session import Session

SETTLE_S: Final = 1.0
"""Seconds a block waits for the target's host to have everything that was sent, before it reports `settled: false`."""

LOOK_S: Final = 1.0
"""Seconds between two looks whether a notice that stands has been painted over: a video does so with every picture."""

PARTING_S: Final = 0.25
"""Seconds from the order to part until the last notice has stood alone: long enough to be seen."""

PARTED_S: Final = 0.6
"""Seconds from the order to part until a client that does not read is cut. Of the second that is promised the rest is for
what comes before and behind: the order's own way, a busy loop, the seal of the recording."""

UNREAD_NOTICES: Final = 1 << 20
"""Unread bytes from which on a client is shown no notice: one that does not read must not make the proxy grow."""

UNREAD_ANSWERS: Final = 4 << 20
"""Unread bytes from which on nothing is answered any more in the other side's place: who asks and never reads is ended."""

HASHED_S: Final = 2.0
"""Seconds an ended session waits for the hashes of what it moved; a gigabyte takes one."""


class Conduit:
    """The Conduit of `proxyd.session` for RDP."""

    def __init__(
        self, session: Session, client: Stream, target: Stream, numbers: Numbers, desk: Desk
    ) -> None:
        self._session = session
        self._client, self._target = client, target
        self._numbers, self._desk = numbers, desk
        self._from_client = FromClient(desk, numbers)
        self._from_target = FromTarget(desk, numbers)
        self._client_frames, self._target_frames = Framer(), Framer()
        self._relay = Relay(
            client, target, from_client=self._up, from_target=self._down, halves=False
        )  # a target that stays when its client has gone would keep the session
        self._nursery: trio.Nursery | None = None
        self._notices = Notices(desk)
        self._told = trio.CancelScope()  # of the task that sees to the notice that stands
        self._passed = 0
        self._licensing = {"input": 0, "output": 0}
        self._left: str | None = None
        self._ordered = 0.0  # when `part` was called
        self._over = False

    async def run(self) -> None:
        """Relay until either side has ended; raises ClientError, TargetError, Dropped."""
        failure: ProxydError | None = None
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._watch)
            try:
                with trio.CancelScope(shield=True):
                    await self._relay.join()
            except ProxydError as error:  # raised below, alone: out of the nursery it would come in a group
                failure = error
            finally:
                self._over = True
                await self._settled()
                self._session.tape.add(Kind.OMITTED, {"why": "licensing", **self._licensing})
                self._nursery.cancel_scope.cancel()
        if self._left:
            raise Dropped(self._left)
        if failure is not None:
            raise failure

    async def _settled(self) -> None:
        """Have what passed beside the screen on the tape, with its hashes."""
        over = trio.Event()
        self._desk.static.close()
        self._desk.static.ledger.settle(over.set)
        with trio.move_on_after(HASHED_S, shield=True):
            await over.wait()

    async def _watch(self) -> None:
        """Part when the session's scope ends, for an operator, a rule or because its time is over."""
        try:
            await trio.sleep_forever()
        finally:
            if not self._over:
                self.part(self._session.parting)

    # ------------------------------------------------------------------ the two directions, on the host loop

    def _up(self, data: bytes) -> bytes | None:
        if self._left is not None:
            return None
        out: list[bytes] = []
        try:
            for frame in self._client_frames.feed(data):
                self._take(frame, out)
        except WireError as error:
            self._last_words(ErrorInfo.SERVER_DENIED_CONNECTION)
            metrics.RDP_BROKEN.labels(by="client").inc()
            raise ProtocolBroken(f"The client {error}.") from None
        passing = b"".join(out)
        self._passed += len(passing)
        return passing

    def _take(self, frame: bytes, out: list[bytes]) -> None:
        gate = self._session.gate
        passed = self._from_client.take(frame, closed=gate.closed)
        for refused in self._from_client.refused:
            self._session.tape.add(Kind.REFUSED, refused)
            gate.refused_bytes += len(refused)
            gate.refused_requests += 1
        self._from_client.refused.clear()
        for one in passed:
            if self._from_client.licensing:
                self._licensing["input"] += len(one)
            else:
                self._session.tape.add(Kind.INPUT_PDU, one)
            out.append(self._numbers.for_target(one))
        self._say_ours(to_target=out)

    def _down(self, data: bytes) -> bytes | None:
        if self._left is not None and not self._notices.due:  # rule 5; the last notice waits for its turn
            return None
        out: list[bytes] = []
        try:
            for frame in self._target_frames.feed(data):
                self._give(frame, out)
        except WireError as error:
            self._last_words(ErrorInfo.RPC_INITIATED_DISCONNECT)
            metrics.RDP_BROKEN.labels(by="target").inc()
            raise TargetError(f"{self._session.target} {error}.") from None
        answers, licenses = self._from_target.answers, self._from_target.licenses
        while answers:
            self._say_to_target(answers.pop(0))
        while licenses:
            self._licensing["input"] += len(licenses[0])
            _send(self._target, self._numbers.for_target(licenses.pop(0)))
        return b"".join(out)

    def _give(self, frame: bytes, out: list[bytes]) -> None:
        if self._left is not None and not self._notices.due:
            return
        for one in self._from_target.take(frame, closed=self._session.gate.closed):
            if self._from_target.licensing:
                self._licensing["output"] += len(one)
            else:
                self._session.tape.add(Kind.PDU, one)
            out.append(one)
            self._notices.passed(one)
        if self._notices.waits and (drawn := self._notices.frames()):
            out.append(drawn)
        self._say_ours(to_client=out)

    def _say_ours(self, to_target: list[bytes] | None = None, to_client: list[bytes] | None = None) -> None:
        """Send what is answered in the place of either side, behind what is to be sent there; on the tape (rule 1)."""
        static = self._desk.static
        if max(self._client.unsent, self._target.unsent) > UNREAD_ANSWERS and (
            static.to_target or static.to_client
        ):
            raise WireError("does not read the answers to what it asks for")
        for frame in static.to_target:
            self._session.tape.add(Kind.INPUT_PDU, frame)
            if to_target is not None:
                to_target.append(self._numbers.for_target(frame))
            elif not self._target.closed.is_set():
                _send(self._target, self._numbers.for_target(frame))
        for frame in static.to_client:
            self._session.tape.add(Kind.PDU, frame)
            if to_client is not None:
                to_client.append(frame)
            else:
                _send(self._client, frame)
        static.to_target.clear()
        static.to_client.clear()

    def _say_to_target(self, frame: bytes) -> None:
        """Send a frame of ours in the client's name; it is on the tape as such (rule 1)."""
        if not self._target.closed.is_set():
            self._session.tape.add(Kind.INPUT_PDU, frame)
            _send(self._target, self._numbers.for_target(frame))

    def _last_words(self, code: ErrorInfo) -> None:
        _send(self._client, farewell(code, self._desk.share_id))

    # ------------------------------------------------------------------ what operators do

    def notify(self, text: str) -> bool:
        """Show the user a text, drawn over the session; all but REVOKED goes away by itself."""
        if self._over or self._left is not None or self._nursery is None:
            return False
        self._session.tape.add(Kind.NOTICE, text)
        self._show(text, self._nursery)
        return True

    def _show(self, text: str, nursery: trio.Nursery) -> None:
        self._told.cancel()
        self._told = trio.CancelScope()
        self._repaint(self._notices.put(text))
        self._draw()
        nursery.start_soon(self._stand, text, self._told, nursery)

    async def _stand(self, text: str, shown: trio.CancelScope, nursery: trio.Nursery) -> None:
        """Keep a notice there for its time, or until `shown` ends; while the gate is shut, REVOKED follows it."""
        with shown, trio.move_on_after(standing_s(text)):
            while True:
                await trio.sleep(LOOK_S)
                self._notices.again()
                self._draw()
        if shown.cancel_called or self._left is not None:
            return
        if self._session.gate.closed:
            self._show(REVOKED, nursery)
        else:
            self._repaint(self._notices.take_away())
            self._draw()

    def _draw(self) -> bool:
        """Draw what is due, if the client reads; tells whether it is, or will be, drawn."""
        if self._client.unsent > UNREAD_NOTICES:
            return False
        if frames := self._notices.frames():
            _send(self._client, frames)
        return True

    def _repaint(self, bared: list[Rectangle]) -> None:
        """Ask the target for what is below a notice: Refresh Rect, 2.2.11.2."""
        if bared and not self._over and self._left is None:
            area = share.refresh_rect(bared)
            self._say_to_target(self._from_client.said(DataKind.REFRESH_RECT, area))

    async def settle(self) -> Settled:
        """Release what the user holds, then wait until the target's host has everything that was passed."""
        discarded = self._client_frames.held
        if frame := self._from_client.released():
            self._say_to_target(frame)
        arrived = await self._target.arrived(SETTLE_S)
        return self._session.settled(self._passed, discarded, confirmed=arrived)

    def hold(self, held: bool) -> None:  # noqa: FBT001 - Conduit's signature
        """Stop, or resume, reading from both sides."""
        self._relay.hold(held)

    def part(self, text: str) -> None:
        """Tell the user why and close both sides (rule 5)."""
        if self._left is not None or self._over:
            return
        self._left = text
        self._ordered = time.monotonic()
        if not text or self._nursery is None or not self._desk.active:
            self._close(text)
            return
        self._session.tape.add(Kind.NOTICE, text)
        self._notices.put(text)
        if self._draw():
            self._nursery.start_soon(self._leave, text)
        else:
            self._close(text)

    async def _leave(self, text: str) -> None:
        """Close once the last notice could be read; the session's own scope has ended by then."""
        with trio.CancelScope(shield=True):
            await trio.sleep(max(0.0, self._ordered + PARTING_S - time.monotonic()))
        self._close(text)

    def _close(self, text: str) -> None:
        if text:
            over = text == TIME_OVER
            self._last_words(ErrorInfo.LOGON_TIMEOUT if over else ErrorInfo.RPC_INITIATED_DISCONNECT)
        self._relay.stop(Dropped(text), cut_at=self._ordered + PARTED_S)


def _send(stream: Stream, data: bytes) -> None:
    """Send, if the other side is still there; the relay knows when it is not."""
    with contextlib.suppress(ProxydError, trio.ClosedResourceError):
        stream.send(data)
