"""Joining two streams: bytes move in callbacks of the host loop, through a scanner each way.

Rule 1: a scanner sees every byte of its direction once and in order, and only what it gives back is sent on.
        There an engine asks the gate and writes the tape: what the tape does not know the target never gets.
Rule 2: memory is bounded. A stream is read only while the other one takes what it is given.
Rule 3: half-close passes through, but where a protocol has none. When both directions have ended, or there the first,
        what is on its way gets FLUSH_SECONDS.
Rule 4: an error ends both directions in the same callback: nothing more is sent on, the target is cut. What
        the client has been sent, an engine's last words too, gets FAREWELL_SECONDS, or what is left until a moment
        that was promised; then `join` raises it.
Rule 5: cancelling `join` cuts both sides at once, however stuck they are. However `join` ends, both streams
        are closed.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import trio

from proxyd.errors import ClientError, ProxydError
from proxyd.stream import ABORT_SECONDS, Pause, Stream

T = TypeVar("T")
Scanner = Callable[[bytes], bytes | None]  # what has arrived -> what to send on; raises ProxydError to end

FLUSH_SECONDS = 10.0  # 512 KiB to a client on a 56 kB/s line
FAREWELL_SECONDS = 0.5  # a drop closes both sides within 1 s, also when the client does not read
HALF_CLOSED_SECONDS = (
    30.0  # of silence after the target has ended: a client that neither sends nor closes is gone
)


class End(enum.Enum):
    """Who ended a relay that ended well."""

    CLIENT_CLOSED = "the client closed the connection"
    TARGET_CLOSED = "the target closed the connection"
    CLIENT_BROKEN = "the connection to the client broke"
    TARGET_BROKEN = "the connection to the target broke"


class Leg:
    """One direction of a relay: the sink of `source`, which sends on to `dest`."""

    __slots__ = ("_relay", "_scan", "arrived", "dest", "sent", "source")

    def __init__(self, relay: Relay, source: Stream, dest: Stream, scan: Scanner) -> None:
        self._relay, self._scan = relay, scan
        self.source, self.dest = source, dest
        self.arrived = 0  # bytes the scanner has been given
        self.sent = 0  # bytes it gave back

    def data(self, data: bytes) -> None:
        """Scan and send on; whatever the scanner raises ends the relay."""
        self.arrived += len(data)
        try:
            out = self._scan(data)
            if out and not self.dest.closed.is_set():
                self.dest.send(out)
                self.sent += len(out)
        except Exception as error:  # noqa: BLE001 - raised in `join`
            self._relay.stop(error)

    def eof(self) -> None:
        """Pass the half-close through; what was cut off ends cut off."""
        self.dest.send_eof(cut=self.source.ragged)
        self._relay.leg_ended(self)

    def lost(self) -> None:
        """End the relay: without one side there is nothing to join."""
        self._relay.leg_lost(self)

    def full(self, full: bool) -> None:  # noqa: FBT001 - a callback with one state
        """Read the other stream only while this one takes what it is given."""
        (self.dest.pause if full else self.dest.resume)(Pause.PEER)


class Relay:
    """Two joined streams; `up` and `down` count their bytes. `halves`: whether a side may end before the other."""

    def __init__(
        self,
        client: Stream,
        target: Stream,
        *,
        from_client: Scanner,
        from_target: Scanner,
        halves: bool = True,
    ) -> None:
        self.client, self.target = client, target
        self._halves = halves
        self.up = Leg(self, client, target, from_client)
        self.down = Leg(self, target, client, from_target)
        self._end: End | None = None
        self._error: Exception | None = None
        self._cut_at = math.inf  # by time.monotonic: no farewell goes on behind it
        self._over = trio.Event()
        self._target_ended = trio.Event()  # or the relay is over
        self._flushing = trio.CancelScope()

    async def join(self) -> End:
        """Move bytes both ways until both directions have ended or one connection is gone; say who was first.

        What a stream has received before goes through its scanner first. Raises what a scanner raised or
        `stop` was given. Waits for the peers as long as they like, and FLUSH_SECONDS at most at the end.
        """
        try:
            self.client.attach(self.up)
            if not self._over.is_set():
                self.target.attach(self.down)
            await self._until_over()
            if self._error is None:
                await self._flush()
            if self._error is not None:
                left = self._cut_at - time.monotonic()
                await self.client.aclose(max(0.0, min(FAREWELL_SECONDS, left)))
        finally:
            self.client.abort()
            self.target.abort()
            with trio.move_on_after(ABORT_SECONDS, shield=True):
                await self.client.closed.wait()
                await self.target.closed.wait()
        if self._error is not None:
            raise self._error
        return self._end or End.TARGET_CLOSED

    def hold(self, on: bool) -> None:  # noqa: FBT001 - the tape's pressure callback has this one argument
        """Stop reading both sides, or go on: for a tape that asks for time. What was read is still sent."""
        for stream in (self.client, self.target):
            (stream.pause if on else stream.resume)(Pause.HELD)

    def stop(self, error: Exception, *, cut_at: float = math.inf) -> None:
        """End both directions now; `join` raises `error`. The first error stays; callable from both planes.

        `cut_at`: when, by time.monotonic, the client is cut with what it has not read, if that is earlier than the farewell.
        """
        if self._error is None:
            self._error, self._cut_at = error, cut_at
            self.target.abort()
            self._stop()
            self._flushing.cancel()

    def leg_ended(self, leg: Leg) -> None:
        """Note that a leg's source has sent its last byte."""
        if self._end is None:
            self._end = End.CLIENT_CLOSED if leg is self.up else End.TARGET_CLOSED
        if leg is self.down:
            self._target_ended.set()
        if not self._halves or (self.client.ended and self.target.ended):
            self._stop()

    def leg_lost(self, leg: Leg) -> None:
        """Note that a leg's source is gone altogether."""
        if self._end is None:
            self._end = End.CLIENT_BROKEN if leg is self.up else End.TARGET_BROKEN
        self._stop()

    def _stop(self) -> None:
        """Move no more bytes."""
        self.client.detach()
        self.target.detach()
        self._over.set()
        self._target_ended.set()

    async def _until_over(self) -> None:
        await self._target_ended.wait()
        seen = -1
        while not self._over.is_set() and seen != self.up.arrived:
            seen = self.up.arrived
            with trio.move_on_after(HALF_CLOSED_SECONDS):
                await self._over.wait()

    async def _flush(self) -> None:
        with self._flushing:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.client.aclose, FLUSH_SECONDS)
                nursery.start_soon(self.target.aclose, FLUSH_SECONDS)


async def join(client: Stream, target: Stream, *, from_client: Scanner, from_target: Scanner) -> End:
    """Join two streams and wait for the end, see Relay.join."""
    return await Relay(client, target, from_client=from_client, from_target=from_target).join()


async def while_wanted(client: Stream, connecting: Coroutine[Any, Any, T]) -> T:
    """Wait for a target's connection for as long as the client is there to want it; what it sends waits.

    Raises what `connecting` raises, and ClientError when the client has left.
    """
    found: T | ProxydError = ClientError("The client left while its target was being connected.")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_gone, client, nursery.cancel_scope)
        try:
            found = await connecting
        except ProxydError as error:  # raised below, alone: out of the nursery it would come in a group
            found = error
        nursery.cancel_scope.cancel()
    if isinstance(found, ProxydError):
        raise found
    return found


async def _until_gone(client: Stream, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the client leaves; what it sends meanwhile waits for the session."""
    try:
        data = await client.receive()
    except ClientError:
        data = b""
    client.unread(data)
    if not data:
        scope.cancel()
