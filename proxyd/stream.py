"""Streams over the host loop's transports: awaitable while a session logs in, joinable (relay.py) afterwards.

Rule 1: nothing is read that nobody asked for: memory is bounded by one read of the host loop + BUFFER_HIGH.
Rule 2: an end of stream never overtakes data, and a cut connection is not an end: TLS without close_notify
        is told by `ragged`, a reset by the side's own error (ClientError, TargetError).
Rule 3: `send_eof` closes one direction only. Over TLS that is the close_notify and the FIN; a peer that
        answers it by closing both ways, as TLS 1.2 asks, ends the stream.
Rule 4: a socket given to `adopt_*` has been given away, also when that raises. `aclose` and `abort` both end
        with the descriptor closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import fcntl
import socket
import ssl
import struct
import termios
from collections import deque
from typing import NoReturn, Protocol, cast

import trio

from proxyd import host
from proxyd.errors import ProxydError
from proxyd.preamble import Side, shake_hands
from proxyd.tls import Tls

BUFFER_HIGH = (
    256 * 1024
)  # unsent bytes at which the other side is not read any more: one read of the host loop
BUFFER_LOW = 64 * 1024  # and at which it is read again: early enough that the socket does not run dry
HANDSHAKE_SECONDS = 10.0  # three round trips; slower peers are stuck
CLOSE_SECONDS = 5.0  # for the last bytes to leave and for the peer to close as well
ABORT_SECONDS = 1.0  # the host loop closes an aborted transport in its next turn; longer would be its bug

LOOK_SECONDS = 0.002  # between two looks at the kernel's queue, which tells of nothing by itself
_QUEUED = struct.Struct("i")  # what TIOCOUTQ answers


class Pause(enum.Flag):
    """Why a stream is not read now; it is read when no reason is left."""

    NONE = 0
    IDLE = enum.auto()  # nobody waits in `receive`
    PEER = enum.auto()  # the stream its bytes go to is full
    JUDGED = enum.auto()  # what it said last waits for a decision
    HELD = enum.auto()  # the tape asks for time


class Sink(Protocol):
    """What a joined stream calls from the host loop; no method raises."""

    def data(self, data: bytes) -> None:
        """Take bytes that have arrived."""

    def eof(self) -> None:
        """Learn that no more will arrive."""

    def lost(self) -> None:
        """Learn that the connection is gone."""

    def full(self, full: bool) -> None:  # noqa: FBT001 - a callback with one state
        """Learn that more should not be sent now, or may be again."""


async def adopt_server(
    sock: socket.socket, ssl_context: ssl.SSLContext | None = None, *, seconds: float = HANDSHAKE_SECONDS
) -> Stream:
    """Make a stream of a client's connected, non-blocking socket; with a context, be the TLS server first.

    Raises ClientError when the handshake fails or takes longer than `seconds`.
    """
    tls = Tls(ssl_context, server_side=True, server_hostname=None) if ssl_context else None
    return await _adopt(sock, Side.CLIENT, tls, seconds)


async def adopt_client(
    sock: socket.socket,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    *,
    seconds: float = HANDSHAKE_SECONDS,
) -> Stream:
    """Make a stream of a socket connected to the target; with a context, be the TLS client first.

    Raises TargetError when the handshake fails, the certificate is not trusted, or `seconds` are over.
    """
    tls = Tls(ssl_context, server_side=False, server_hostname=server_hostname) if ssl_context else None
    return await _adopt(sock, Side.TARGET, tls, seconds)


class Stream(asyncio.Protocol):
    """One connection. `send` and `abort` may be called from both planes, what is awaited from trio only.

    After `aclose` or `abort` every call raises trio.ClosedResourceError; a second task in `receive` gets
    trio.BusyResourceError.
    """

    def __init__(self, side: Side, tls: Tls | None = None, early: bytes = b"") -> None:
        self.side = side
        self.closed = trio.Event()  # the descriptor is closed
        self.ended = False  # nothing more will arrive
        self.ragged = False  # TLS ended without close_notify: the last bytes may be missing
        self.broken: ProxydError | None = None  # how the connection broke, if it did
        self._tls = tls
        self._chunks = deque([early] if early else [])
        self._sink: Sink | None = None
        self._transport: asyncio.Transport
        self._pause = Pause.IDLE
        self._news = trio.Event()  # replaced for every wait: data, room, an end
        self._receiving = self._closing = self._finished = self._full = False
        self._mute = False  # for any of the reasons `send` has to refuse

    # -- awaited from trio -------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Give the next bytes, b"" at the end of the stream; raise the side's error when it broke."""
        self._check_open()
        if self._receiving or self._sink is not None:
            raise trio.BusyResourceError("another task receives from this stream")
        await trio.lowlevel.checkpoint()
        self._receiving = True
        try:
            while not self._chunks and not self.ended:
                self.resume(Pause.IDLE)
                await self._wait()
                self._check_open()
        finally:
            self._receiving = False
            self.pause(Pause.IDLE)
        if self._chunks:
            return self._chunks.popleft()
        if self.broken is not None:
            raise self.broken
        return b""

    def unread(self, data: bytes) -> None:
        """Put bytes back in front: what came in one read with the login but belongs to the session."""
        if data:
            self._chunks.appendleft(data)

    def send(self, data: bytes) -> None:
        """Send at once, without waiting; whoever may send much awaits `drain` in between.

        Raises the side's error when the connection is gone.
        """
        if self._mute:
            self._refuse_to_send()
        self._transport.write(self._tls.encrypt(data) if self._tls else data)

    async def drain(self) -> None:
        """Wait until less than BUFFER_LOW is unsent, if it was more than BUFFER_HIGH; raises as `send`."""
        await trio.lowlevel.checkpoint()
        while self._full and not self.closed.is_set():
            await self._wait()
        self._check_open()
        if self.closed.is_set():
            raise self.broken or self.side.fault("closed the connection")

    def send_eof(self, *, cut: bool = False) -> None:
        """Say that nothing more will be sent, behind everything that was; receiving goes on. Idempotent.

        `cut`: end as a cut connection does, without TLS's close_notify: the peer is to know that something may lack.
        """
        if self._finished or self.closed.is_set():
            return
        if self._tls is not None and not cut and (notify := self._tls.finish()):
            self._transport.write(notify)
        self._finished = self._mute = True
        with contextlib.suppress(OSError):  # the connection is gone already, and connection_lost on its way
            self._transport.write_eof()

    async def aclose(self, seconds: float = CLOSE_SECONDS) -> None:
        """Close so that what was sent arrives: end of stream, then wait for the peer's; abort after `seconds`.

        What still arrives is thrown away; closing over unread bytes would make the kernel send a reset, and
        the peer lose our last words. Cancelled: aborts at once. Never raises anything else; idempotent.
        """
        if self._sink is not None:
            self._sink.lost()  # whoever joined it lets go
        self._closing = self._mute = True
        self._sink = None
        self._chunks.clear()
        try:
            with trio.move_on_after(seconds):
                self.send_eof()
                self.resume(~Pause.NONE)
                while not self.ended:
                    await self._wait()
                if not self.closed.is_set():
                    self._transport.close()
                    await self.closed.wait()
        finally:
            self.abort()
            with trio.move_on_after(ABORT_SECONDS, shield=True):
                await self.closed.wait()

    def abort(self) -> None:
        """Close at once; unsent bytes are lost. Idempotent; the descriptor is closed in the loop's next turn."""
        self._closing = self._mute = True
        if not self.closed.is_set():
            self._transport.abort()
        self._news.set()

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's TLS certificate in DER; None without TLS, or when it showed none."""
        return self._tls.peer_certificate if self._tls else None

    @property
    def alpn(self) -> str | None:
        """The protocol agreed on inside TLS (RFC 7301); None without one."""
        return self._tls.alpn if self._tls else None

    @property
    def unsent(self) -> int:
        """The bytes sent that the peer's host has not acknowledged: ours and our kernel's; 0 once closed."""
        if self.closed.is_set():
            return 0
        waiting = self._transport.get_write_buffer_size()
        try:
            sock = self._transport.get_extra_info("socket")
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_QUEUED.size))
        except (OSError, ValueError):  # closed a moment ago
            return 0
        return waiting + int(_QUEUED.unpack(answer)[0])

    async def arrived(self, seconds: float) -> bool:
        """Wait until the peer's host has everything that was sent; False when it has not after `seconds`."""
        with trio.move_on_after(seconds) as waiting:
            while self.unsent:  # noqa: ASYNC110 - the kernel's queue has no event
                await trio.sleep(LOOK_SECONDS)
        return not waiting.cancelled_caught

    # -- joined: called by the relay ---------------------------------------------------------------------------

    def attach(self, sink: Sink) -> None:
        """Hand everything that arrives to `sink`, first what is here already; reading starts."""
        self._check_open()
        self._sink = sink
        sink.full(self._full)
        while self._chunks and self._sink is sink:
            sink.data(self._chunks.popleft())
        if self.ended and self._sink is sink:
            sink.eof()
        if self.closed.is_set() and self._sink is sink:
            sink.lost()
        if self._sink is sink:
            self.resume(Pause.IDLE)

    def detach(self) -> None:
        """Stop handing on; what arrives from now on waits for `receive`."""
        self._sink = None
        self.pause(Pause.IDLE)

    def pause(self, why: Pause) -> None:
        """Stop reading for this reason."""
        if not self._pause and not self.ended:
            self._transport.pause_reading()
        self._pause |= why

    def resume(self, why: Pause) -> None:
        """Read again, if no other reason is left."""
        self._pause &= ~why
        if not self._pause and not self.ended:
            self._transport.resume_reading()

    # -- called by the host loop -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(BUFFER_HIGH, BUFFER_LOW)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._tls is None:
            self._deliver(data)
            return
        if self.ended:
            return  # behind the close_notify nothing counts
        try:
            plain = self._tls.decrypt(data)
        except ssl.SSLError as error:
            self.broken = self.side.fault(f"broke TLS: {error.reason}")
            self._answer_tls()
            self._transport.abort()
            return
        self._answer_tls()
        if plain:
            self._deliver(plain)
        if self._tls.ended:
            self._end()

    def eof_received(self) -> bool:
        """Take the peer's FIN; True: our direction stays open."""
        self.ragged = self._tls is not None and not self._tls.ended
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the transport, wanted or not."""
        if exc is not None and self.broken is None:
            reason = exc.strerror if isinstance(exc, OSError) else None
            self.broken = self.side.fault(f"broke the connection: {reason or type(exc).__name__}")
        self.ended = self._mute = True
        self.closed.set()
        self._news.set()
        if self._sink is not None:
            self._sink.lost()

    def pause_writing(self) -> None:
        """Learn that BUFFER_HIGH is exceeded."""
        self._full = True
        if self._sink is not None:
            self._sink.full(True)

    def resume_writing(self) -> None:
        """Learn that the buffer is below BUFFER_LOW."""
        self._full = False
        self._news.set()
        if self._sink is not None:
            self._sink.full(False)

    # -- inside ------------------------------------------------------------------------------------------------

    def _deliver(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.data(data)
        elif not self._closing:
            self._chunks.append(data)
            self._transport.pause_reading()
            self._pause |= Pause.IDLE
            self._news.set()

    def _answer_tls(self) -> None:
        """Send what TLS itself has to say: an alert, a ticket, a key update."""
        assert self._tls is not None  # noqa: S101 - asked by the TLS branch only
        if (out := self._tls.outgoing()) and not self._finished:
            self._transport.write(out)

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self._news.set()
            if self._sink is not None:
                self._sink.eof()

    def _check_open(self) -> None:
        if self._closing:
            raise trio.ClosedResourceError("this stream was closed")

    def _refuse_to_send(self) -> NoReturn:
        self._check_open()
        if self._finished:
            raise trio.ClosedResourceError("send_eof has been called")
        raise self.broken or self.side.fault("closed the connection")

    async def _wait(self) -> None:
        if self._news.is_set():
            self._news = trio.Event()
        await self._news.wait()


async def _adopt(sock: socket.socket, side: Side, tls: Tls | None, seconds: float) -> Stream:
    """Shake hands on the raw socket, then give it to the host loop."""
    try:
        early = await shake_hands(sock, tls, side=side, seconds=seconds) if tls else b""
        stream = Stream(side, tls, early)
        # shielded: this waits for the loop's next turn only, and a transport cut off half made keeps its descriptor
        with trio.CancelScope(shield=True):
            await host.on_host(host.loop().connect_accepted_socket(lambda: stream, sock))
    except BaseException:
        sock.close()
        raise
    if tls is not None and tls.ended:
        stream.ended = True
    return stream
