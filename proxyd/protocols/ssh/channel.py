"""One half of a channel: on the client's connection (near) or on the target's (far); the other half is its `other`.

Rule 1: requests are relayed raw and in order, and answered only with what the other side answered (RFC 4254, 5.4);
        they do not wait for each other, so a shell costs no extra round trip.
Rule 2: data leaves in packets that fit the peer's window; a half that can't send stops its other half from reading.
Rule 3: `exit-status` does not close a channel, and a close flushes first: late output is never cut.
Rule 4: a close is passed on and answered when the other side has answered: PuTTY closes at the end of output and still
        takes the exit status that comes a moment later.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from asyncssh.channel import SSHChannel, SSHTCPChannel
from asyncssh.connection import SSHConnection
from asyncssh.constants import (
    EXTENDED_DATA_STDERR,
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    OPEN_RESOURCE_SHORTAGE,
)
from asyncssh.misc import ChannelOpenError, ProtocolError
from asyncssh.packet import SSHPacket

if TYPE_CHECKING:
    from proxyd.protocols.ssh.line import Line
    from proxyd.protocols.ssh.lobby import Menu
    from proxyd.protocols.ssh.transport import Hardened

WINDOW = 2 * 1024 * 1024
"""Receive window of a channel in bytes; larger costs cache and CPU and gains nothing (research measured 8 MiB at 2x)."""

CROWD = 16
"""Channels of a connection after which further ones get CROWD_WINDOW: 256 whole windows would be half a gigabyte."""

CROWD_WINDOW = 256 * 1024
"""Receive window of such a channel in bytes."""

PIECES = 1024
"""Pieces a paused channel keeps before it joins them: a window of single bytes would cost a hundred times its size."""

JOINED = 256 * 1024
"""Bytes of PIECES pieces up to which they are joined: more are whole packets, and one record must stay a small one."""

MOST_PIECES = 128 * 1024
"""Pieces that can't be joined, for output and errors alternate, before the peer has gone too far: 16 bytes each."""

LEAST_PACKET = 1024
"""Largest data packet a peer must take: splitting a window into single bytes would hold up everybody for seconds."""

PACKET = 32 * 1024
"""Largest data packet we ask for, what every SSH implementation must take (RFC 4253, 6.1)."""

TERMINAL_AHEAD = 256 * 1024
"""Bytes of output a terminal may have on the way: a flood must not keep a notice, a drop or ^C waiting behind 2 MiB."""

MAX_WAITING = 256
"""Requests of one channel that may wait for their answer; a client that floods more breaks the protocol."""

CLOSE_ANSWER_S = 5.0
"""Seconds a half waits for the other side's answer to a close before it answers itself."""

_STARTS = frozenset({"shell", "exec", "subsystem"})
_chan_and_length = struct.Struct(">II").pack


class RelayChannel(SSHChannel[bytes]):
    """Half of a Line; its own asyncssh session object."""

    _read_datatypes = {EXTENDED_DATA_STDERR}  # noqa: RUF012 - asyncssh's class attribute
    _write_datatypes = {EXTENDED_DATA_STDERR}  # noqa: RUF012
    _send_buf: list[tuple[bytes | bytearray, int | None]]  # type: ignore[assignment]  # asyncssh copies each into a bytearray

    def __init__(self, connection: Hardened, line: Line | Menu, *, near: bool) -> None:
        window = WINDOW if len(connection._channels) < CROWD else CROWD_WINDOW
        super().__init__(connection, connection._loop, None, "strict", window, PACKET)
        self._low_window = window // 2
        self._owed = 0
        self.line = line
        self.near = near
        self._link = connection
        self.other: RelayChannel | None = None
        self.begun = False
        self._take = line.from_client if near else line.from_target
        self._closed_by_peer = False
        self._answering: asyncio.TimerHandle | None = None
        self._delivering = False
        self._held = False
        self._other_full = False
        self._waiting: deque[tuple[asyncio.Future[bool] | None, str]] = deque()

    # ------------------------------------------------------------------ opening

    async def open_as(self, kind: str, body: bytes) -> bytes:
        """Open this half towards its peer as `kind`; give what the confirmation carries.

        Raises ChannelOpenError with the peer's own code and reason.
        """
        packet = await self._open(kind.encode("ascii"), body)
        self._session = cast("Any", self)
        if self._send_pktsize < LEAST_PACKET:
            self.close()
            raise ChannelOpenError(OPEN_RESOURCE_SHORTAGE, f"Packets of less than {LEAST_PACKET} bytes")
        rest: bytes = packet.get_remaining_payload()
        return rest

    def become(self, line: Line) -> None:
        """Belong to `line` from now on: a menu's terminal that has found its target."""
        self.line = line
        self._take = line.from_client
        line.near = self

    def begin(self) -> None:
        """Let what has arrived, and what will, flow to the other half."""
        self.begun = True
        self._update_reading()

    def get_connection_or_none(self) -> SSHConnection | None:
        """Give the connection, None once the channel is closed."""
        return self._conn

    def is_open(self) -> bool:
        """Tell whether data may still be sent to the peer."""
        return bool(self._send_state == "open")

    # ------------------------------------------------------------------ data

    def _accept_data(self, data: bytes, datatype: int | None = None) -> None:
        """Take data from the peer, or keep it while this half is paused; data after our close is dropped."""
        if not data or self._send_state in {"close_pending", "closed"}:
            return
        self._recv_window -= len(data)
        if self._recv_paused:
            self._recv_buf.append(
                (data, None if self.near else datatype)
            )  # what clients send is input, all of it
            if len(self._recv_buf) % PIECES == 0:
                self._join_pieces()
        else:
            self._deliver_data(data, datatype)

    def _join_pieces(self) -> None:
        """Join the last PIECES pieces when they are tiny, where they are of one kind: one record each, not a thousand."""
        last = self._recv_buf[-PIECES:]
        if sum(len(piece) for piece, _ in last) > JOINED:
            return
        kinds = groupby(last, key=itemgetter(1))
        self._recv_buf[-PIECES:] = [(b"".join(piece for piece, _ in run), kind) for kind, run in kinds]
        if len(self._recv_buf) > MOST_PIECES:
            raise ProtocolError("Too many tiny packets")

    def _deliver_kept(self) -> None:
        """Deliver what was kept; asyncssh would take each piece from the front of the list and move all others."""
        kept = self._recv_buf
        kept.reverse()
        self._delivering = True
        try:
            while kept and not self._recv_paused and self._recv_buf is kept:
                self._deliver_data(*kept.pop())
        finally:
            self._delivering = False
            kept.reverse()

    def _deliver_data(self, data: bytes, datatype: int | None) -> None:
        """Take data from the peer: give its window back, then record and forward."""
        self._owed += len(data)
        if self._owed >= self._low_window:
            self._give_window_back()
        self._take(data, datatype)

    def _give_window_back(self) -> None:
        """Let the peer send as much as was delivered; what is kept here stays counted against its window."""
        self.send_packet(MSG_CHANNEL_WINDOW_ADJUST, self._owed.to_bytes(4, "big"))
        self._recv_window += self._owed
        self._owed = 0

    def take_waiting(self) -> bytes:
        """Give what has arrived and is not delivered, for somebody to refuse; an end behind it is passed on."""
        data = b"".join(piece for piece, _ in self._recv_buf)
        self._recv_buf.clear()
        self._owed += len(data)
        if self._owed >= self._low_window:
            self._give_window_back()
        self._flush_recv_buf()
        return data

    def write(self, data: bytes, datatype: int | None = None) -> None:
        """Send data to the peer, or queue it for the peer's window; data for a closed peer is dropped."""
        if self._send_state != "open":
            return
        size = len(data)
        waiting = self._send_buf
        if (
            datatype is None
            and not waiting
            and 0 < size <= self._send_window
            and size <= self._send_pktsize
            and not self._link.transport_full
        ):
            self._send_window -= size
            self._link.send_channel_data(self._send_chan, data)  # type: ignore[arg-type]  # an open channel has it
            return
        if not size:
            return
        if waiting and waiting[-1][1] == datatype and len(waiting[-1][0]) + size <= PACKET:
            last = waiting[-1][0]
            if isinstance(last, bytearray):
                last.extend(data)
            else:
                waiting[-1] = (bytearray(last) + data, datatype)
        else:
            waiting.append((data, datatype))
        self._send_buf_len += size
        self._flush_send_buf()

    def _flush_send_buf(self) -> None:
        """Send what the window allows while the transport takes it, and then an end or a close that came behind."""
        waiting = self._send_buf
        while waiting and self._send_window and not self._link.transport_full:
            data, datatype = waiting[0]
            most = min(self._send_window, self._send_pktsize)
            if len(data) > most:
                waiting[0] = (data[most:], datatype)
                data = data[:most]
            else:
                del waiting[0]
            self._send_buf_len -= len(data)
            self._send_window -= len(data)
            if datatype is None:
                self._link.send_channel_data(self._send_chan, data)  # type: ignore[arg-type]  # an open channel has it
            else:
                head = _chan_and_length(datatype, len(data))
                self.send_packet(MSG_CHANNEL_EXTENDED_DATA, head, bytes(data))
        if self._session is not None:
            self._pause_resume_writing()
        if not waiting:
            super()._flush_send_buf()

    def limit_ahead(self) -> None:
        """Use no more than TERMINAL_AHEAD of the window the peer has given; call it before data flows."""
        self._send_window = min(self._send_window, TERMINAL_AHEAD)

    def discard(self) -> int:
        """Throw away what waits for the peer's window; give how many bytes."""
        count: int = self._send_buf_len
        self._send_buf.clear()
        self._send_buf_len = 0
        if self._session is not None:  # a half that is gone has nobody to tell
            self._pause_resume_writing()
            if self._send_state == "close_pending":
                self._close_send()
        return count

    def take_back_eof(self) -> bool:
        """Undo an end of input that waited behind what was thrown away; tell whether there was one."""
        if self._send_state != "eof_pending":
            return False
        self._send_state = "open"
        return True

    # ------------------------------------------------------------------ flow control

    def hold(self, held: bool) -> None:  # noqa: FBT001 - a state
        """Stop, or resume, reading for a reason outside this channel (the tape is behind)."""
        self._held = held
        try:
            self._update_reading()
        except Exception:  # noqa: BLE001 - as asyncssh does: a bug ends this connection, not the recorder that called
            self._link.internal_error()

    def pause_writing(self) -> None:
        """Note that this half has too much to send: the other half stops reading."""
        if self.other is not None:
            self.other.note_other_full(full=True)

    def resume_writing(self) -> None:
        """Note that this half has room again."""
        if self.other is not None:
            self.other.note_other_full(full=False)

    def note_other_full(self, *, full: bool) -> None:
        """Stop, or resume, reading because the other half has too much to send, or has room."""
        self._other_full = full
        self._update_reading()

    def _update_reading(self) -> None:
        if not self.begun:
            return
        if self._held or self._other_full:
            self.pause_reading()
        else:
            self.resume_reading()

    # ------------------------------------------------------------------ the peer's end of it

    def connection_made(self, chan: Any) -> None:
        """Nothing to do: the line was made before its halves opened."""

    def session_started(self) -> None:
        """Nothing to do: `begin` is called when the far half has started."""

    def eof_received(self) -> bool:
        """Pass the end of input on; the channel stays open the other way (half-close)."""
        self.line.eof(self)
        return True

    def _process_close(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Pass the peer's close on, and answer it when the other half's peer has answered (rule 4)."""
        if self._recv_state not in {"open", "eof_pending", "eof"}:
            raise ProtocolError("Channel not open")
        packet.check_end()
        other = self.other
        if self._send_state == "closed" or other is None or other.get_connection_or_none() is None:
            self._answer_close()
            return
        self._closed_by_peer = True
        self._answering = self._loop.call_later(CLOSE_ANSWER_S, self._answer_close)
        self._flush_recv_buf()

    def _flush_recv_buf(self, exc: Exception | None = None) -> None:
        """Deliver what has arrived; a close that came behind it is passed on when nothing is left."""
        if self._delivering:
            return
        if len(self._recv_buf) > 1 and not self._recv_paused:
            self._deliver_kept()
        super()._flush_recv_buf(exc)
        if self._closed_by_peer and (not self._recv_buf or not self.begun) and self.other is not None:
            self.other.leave()

    def leave(self) -> None:
        """Close this half: at once when its peer waits for our answer, else after a flush."""
        if self._closed_by_peer:
            self._answer_close()
        elif self._send_state not in {"close_pending", "closed"}:
            self.close()

    def _answer_close(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
            self._answering = None
        if self._recv_state in {"open", "eof_pending", "eof"}:
            self._closed_by_peer = False
            self._close_send()
            self._recv_state = "close_pending"
            self._recv_buf = []
            self._flush_recv_buf()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other half once everything for it is flushed; what a lost target said last is part of that."""
        if exc is not None and not self.near:
            for data, datatype in self._recv_buf:
                self._take(data, datatype)
            self.line.lost()
        if self._answering is not None:
            self._answering.cancel()
        for answer, _ in self._waiting:
            if answer is not None:
                answer.cancel()
        self._waiting.clear()
        self.line.half_closed(self)

    # ------------------------------------------------------------------ requests

    def _process_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Relay a channel request at once; its answer is sent in the order of the requests (rule 1)."""
        if self._recv_state not in {"open", "eof_pending", "eof"}:
            raise ProtocolError("Channel not open")
        try:
            name = packet.get_string().decode("ascii")
        except UnicodeDecodeError:
            raise ProtocolError("Invalid channel request") from None
        wants_reply = packet.get_boolean()
        if len(self._waiting) >= MAX_WAITING:
            raise ProtocolError("Too many channel requests at once")
        answer = self.line.request(self, name, packet.get_remaining_payload(), wants_reply)
        if wants_reply:
            self._waiting.append((answer, name))
            answer.add_done_callback(self._answer_in_order)
        elif self.near and name in _STARTS and answer.result():
            self.line.started()  # dropbear's client asks without wanting to know

    def _process_response(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        """Take the peer's answer, and pass it on now: output and close may be in the same read, and must not overtake it."""
        super()._process_response(pkttype, pktid, packet)
        if self.other is not None:
            self.other._answer_in_order()

    def _answer_in_order(self, _done: asyncio.Future[bool] | None = None) -> None:
        while self._waiting:
            answer, name = self._waiting[0]
            if answer is None or not answer.done():
                return
            self._waiting.popleft()
            granted = not answer.cancelled() and answer.exception() is None and answer.result()
            if self._send_state not in {"close_pending", "closed"}:
                self.send_packet(MSG_CHANNEL_SUCCESS if granted else MSG_CHANNEL_FAILURE)
            if granted and self.near and name in _STARTS:
                self.line.started()

    def ask(self, name: str, body: bytes, *, wants_reply: bool) -> asyncio.Future[bool]:
        """Send a request to the peer; the future holds its answer, True at once when none is wanted."""
        answer: asyncio.Future[bool] = self._loop.create_future()
        if self._send_chan is None:
            answer.set_result(False)
            return answer
        if wants_reply:
            self._request_waiters.append(answer)
        else:
            answer.set_result(True)
        self._send_request(name.encode("ascii"), body, want_reply=wants_reply)
        return answer

    _packet_handlers = {  # noqa: RUF012 - asyncssh's class attribute
        **SSHChannel._packet_handlers,
        MSG_CHANNEL_REQUEST: _process_request,
        MSG_CHANNEL_CLOSE: _process_close,
        MSG_CHANNEL_SUCCESS: _process_response,
        MSG_CHANNEL_FAILURE: _process_response,
    }


class JumpChannel(SSHTCPChannel[bytes]):
    """The channel an inner connection of `ssh -J` runs over: stops with its transport, and joins what waits."""

    def __init__(self, connection: Hardened) -> None:
        super().__init__(connection, connection._loop, None, "strict", WINDOW, PACKET)
        self._link = connection

    def write(self, data: bytes, datatype: int | None = None) -> None:
        """Send data, or queue it behind what waits, in few pieces; raises BrokenPipeError once it is closed."""
        waiting = self._send_buf
        if self._send_state == "open" and waiting and len(waiting[-1][0]) < PACKET:
            waiting[-1][0].extend(data)
            self._send_buf_len += len(data)
            self._flush_send_buf()
        else:
            super().write(data, datatype)

    def _flush_send_buf(self) -> None:
        """Send what the window allows, unless the transport below is full."""
        if self._send_buf and self._link.transport_full:
            self._pause_resume_writing()
            return
        super()._flush_send_buf()


def settled(loop: asyncio.AbstractEventLoop, granted: bool) -> asyncio.Future[bool]:  # noqa: FBT001 - the answer itself
    """Give an answer that needs nobody."""
    answer: asyncio.Future[bool] = loop.create_future()
    answer.set_result(granted)
    return answer
