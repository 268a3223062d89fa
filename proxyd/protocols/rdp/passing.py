"""One direction of a static virtual channel that is judged message by message, and passed on chunk by chunk.

Rule 1: of a message nothing passes before it is judged; what is needed to judge it is kept, up to MAX_JUDGED.
Rule 2: what passes, passes in the chunks in which it came; what is kept of it is up to its sink.
Rule 3: once the gate is shut nothing more of a message passes: of one that is passing zeros follow, so that the channel
        stays readable, and one that began while it was shut is thrown away to its end.
Rule 4: a message of our own never stands inside another: it waits for the end of the one that is passing.

MS-RDPBCGR 2.2.6.1.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from proxyd.protocols.rdp import channels, mcs
from proxyd.protocols.rdp.channels import ChannelFlag, Chunk
from proxyd.protocols.rdp.mcs import Data
from proxyd.protocols.rdp.wire import WireError

MAX_JUDGED: Final = channels.MAX_MESSAGE  # bytes kept of a message that is judged as a whole
CHUNK_HEADER: Final = 8  # CHANNEL_PDU_HEADER


class Sink(Protocol):
    """Who follows a message that passes."""

    def piece(self, data: bytes) -> None:
        """Take the next bytes, beginning with the message's first."""

    def end(self, *, whole: bool) -> None:
        """Learn that it is over; not `whole`: the rest did not pass."""


class Pass(NamedTuple):
    """The message passes, and `sink` follows it."""

    sink: Sink | None = None


class Refuse(NamedTuple):
    """The message is thrown away."""


class Instead(NamedTuple):
    """Another message passes in its place; for messages that were judged as a whole."""

    message: bytes


Verdict = Pass | Refuse | Instead
Judge = Callable[[bytes, int, bool], Verdict | int]
"""(its beginning, its size, whether the gate is shut) -> what becomes of it, or how many bytes it takes to say so."""


class _State(enum.Enum):
    OUTSIDE = enum.auto()
    JUDGING = enum.auto()
    PASSING = enum.auto()
    DROPPING = enum.auto()


@dataclass
class Way:
    """One direction of the channel `channel`; `user`: in whose name we say what is ours."""

    user: int
    channel: int
    to_server: bool
    judge: Judge
    said: list[bytes]  # frames of ours, for whoever sends them
    refused: list[bytes] = field(default_factory=list)  # frames that met a shut gate, emptied by the reader
    _state: _State = _State.OUTSIDE
    _total: int = 0
    _came: int = 0
    _needed: int = 1
    _shut: bool = False
    _head: bytearray = field(default_factory=bytearray)
    _held: list[bytes] = field(default_factory=list)
    _sink: Sink | None = None
    _flags: int = 0
    _waiting: list[bytes] = field(default_factory=list)

    def take(self, frame: bytes, data: Data, *, closed: bool) -> list[bytes]:
        """Give what passes of a frame; raises WireError. A shut gate stops what goes to the server (rule 3)."""
        chunk = channels.parse_chunk(data.payload)
        if not self._continues(chunk):
            return [] if closed and self.to_server else [frame]
        out = self._step(frame, data, chunk, closed=closed)
        if chunk.flags & ChannelFlag.LAST:
            if self._came != self._total:
                raise WireError("a channel's message is shorter than it said")
            out += self._ended()
        return out

    def say(self, message: bytes) -> None:
        """Say something of our own in this direction (rule 4)."""
        frames = self._frames(message)
        if self._state is _State.PASSING:
            self._waiting += frames
        else:
            self.said += frames

    def close(self) -> None:
        """Tell the sink of a message that is passing that no more of it comes."""
        self._let_go(whole=False)

    def _continues(self, chunk: Chunk) -> bool:
        """Begin a message or go on with one; False for what stands outside of messages."""
        if chunk.flags & ChannelFlag.PACKET_COMPRESSED:
            raise WireError("a channel's chunk is compressed")
        if chunk.flags & ChannelFlag.FIRST:
            if self._state is not _State.OUTSIDE:
                raise WireError("a channel's message begins inside another")
            self._state, self._total, self._came = _State.JUDGING, chunk.total, 0
            self._needed, self._shut = 1, False
            self._flags = chunk.flags & ChannelFlag.SHOW_PROTOCOL
        elif self._state is _State.OUTSIDE:
            if chunk.data:
                raise WireError("a channel's message has no beginning")
            return False  # SUSPEND and RESUME come alone
        self._came += len(chunk.data)
        if self._came > self._total:
            raise WireError("a channel's message is longer than it said")
        return True

    def _step(self, frame: bytes, data: Data, chunk: Chunk, *, closed: bool) -> list[bytes]:
        if self._state is _State.JUDGING:
            return self._judge(frame, chunk, closed=closed)
        if self._state is _State.DROPPING:
            if self._shut and self.to_server:
                self.refused.append(frame)
            return []
        if not (closed and self.to_server):
            if self._sink is not None:
                self._sink.piece(chunk.data)
            return [frame]
        self._let_go(whole=False)
        self.refused.append(frame)
        blank = data.payload[:CHUNK_HEADER] + bytes(len(chunk.data))
        return [mcs.build_data(data._replace(payload=blank), to_server=self.to_server)]

    def _judge(self, frame: bytes, chunk: Chunk, *, closed: bool) -> list[bytes]:
        self._held.append(frame)
        self._head += chunk.data
        self._shut |= closed
        if len(self._head) < min(self._needed, self._total):
            return []
        head = bytes(self._head)
        verdict = self.judge(head, self._total, self._shut)
        if isinstance(verdict, int):
            if verdict > MAX_JUDGED:
                raise WireError("a channel's message is too long")
            self._needed = verdict
            return []
        held, self._held = self._held, []
        self._head.clear()
        if isinstance(verdict, Pass):
            self._state, self._sink = _State.PASSING, verdict.sink
            if self._sink is not None:
                self._sink.piece(head)
            return held
        self._state = _State.DROPPING
        if isinstance(verdict, Instead):
            return self._frames(verdict.message)
        if self._shut and self.to_server:
            self.refused += held
        return []

    def _ended(self) -> list[bytes]:
        if self._state is _State.JUDGING:
            raise WireError("a channel's message is cut short")
        self._state = _State.OUTSIDE
        self._let_go(whole=True)
        waiting, self._waiting = self._waiting, []
        return waiting

    def _let_go(self, *, whole: bool) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end(whole=whole)

    def _frames(self, message: bytes) -> list[bytes]:
        own = Data(self.user, self.channel, b"")
        return [
            mcs.build_data(own._replace(payload=chunk), to_server=self.to_server)
            for chunk in channels.build_chunks(message, self._flags)
        ]
