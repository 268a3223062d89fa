"""Framing of the MySQL protocol: packets, length-encoded numbers, and the scanner of what a client sends.

Rule 1: no socket, clock, loop or log. Chunks come in as they arrived; what must not be is a WireError.
Rule 2: nothing is allocated by a length from the wire: what is kept grows with what has arrived, up to a limit.
Rule 3: a message is one packet, or several where each but the last is exactly MAX_PACKET long; only the first
        packet of a message has a meaning of its own.
Rule 4: what comes out, put together, is what went in, byte for byte.

Layouts: MySQL "Client/Server Protocol", MariaDB "Clients & Utilities: Client/Server Protocol".
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

HEADER: Final = 4  # int<3> length, int<1> sequence
MAX_PACKET: Final = 0xFFFFFF  # a packet this long is followed by another of the same message

header_at = Struct("<I").unpack_from
uint16_at = Struct("<H").unpack_from
uint32_at = Struct("<I").unpack_from
uint64_at = Struct("<Q").unpack_from


class WireError(ValueError):
    """A peer sent what the protocol does not allow; the text says what, in words fit for users."""


class Command(enum.IntEnum):
    """The first byte of a client's message."""

    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    CREATE_DB = 0x05
    DROP_DB = 0x06
    REFRESH = 0x07
    SHUTDOWN = 0x08
    STATISTICS = 0x09
    PROCESS_INFO = 0x0A
    PROCESS_KILL = 0x0C
    DEBUG = 0x0D
    PING = 0x0E
    CHANGE_USER = 0x11
    BINLOG_DUMP = 0x12
    TABLE_DUMP = 0x13
    REGISTER_SLAVE = 0x15
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_SEND_LONG_DATA = 0x18
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    STMT_FETCH = 0x1C
    BINLOG_DUMP_GTID = 0x1E
    RESET_CONNECTION = 0x1F


SILENT: Final = frozenset({Command.QUIT, Command.STMT_SEND_LONG_DATA, Command.STMT_CLOSE})
"""Commands a server never answers."""


def packet(sequence: int, payload: bytes) -> bytes:
    """Frame a payload that fits one packet."""
    if len(payload) >= MAX_PACKET:
        raise WireError("a message of ours is longer than a packet")
    return len(payload).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + payload


def lenenc(buffer: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read a length-encoded integer; give it and where it ends. Raises WireError."""
    try:
        first = buffer[at]
        if first < 0xFB:
            return first, at + 1
        size = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first]
    except (IndexError, KeyError):
        raise WireError("a number is missing") from None
    end = at + 1 + size
    if end > len(buffer):
        raise WireError("a number is cut short")
    return int.from_bytes(buffer[at + 1 : end], "little"), end


def lenenc_bytes(buffer: bytes, at: int) -> tuple[bytes, int]:
    """Read a length-encoded string; give it and where it ends. Raises WireError."""
    size, at = lenenc(buffer, at)
    if size > len(buffer) - at:
        raise WireError("a string is cut short")
    return buffer[at : at + size], at + size


def to_lenenc(number: int) -> bytes:
    """Give the length-encoded form of a number."""
    if number < 0xFB:
        return bytes((number,))
    for mark, size in ((b"\xfc", 2), (b"\xfd", 3)):
        if number < 1 << 8 * size:
            return mark + number.to_bytes(size, "little")
    return b"\xfe" + number.to_bytes(8, "little")


def text_to_nul(buffer: bytes, at: int) -> tuple[bytes, int]:
    """Read up to a NUL; give the text and where the rest begins. Raises WireError."""
    end = buffer.find(b"\0", at)
    if end < 0:
        raise WireError("a string has no end")
    return buffer[at:end], end + 1


class Whole(NamedTuple):
    """A message that is here from its first byte to its last, small enough to be kept."""

    code: int
    payload: bytes  # with the command's byte
    raw: bytes  # with the headers: what is sent on
    sequence: int  # of its last packet


class Part(NamedTuple):
    """A piece of a message that is too long to be kept whole."""

    code: int
    payload: Sequence[bytes | memoryview]  # with the command's byte in the first piece
    raw: bytes
    first: bool
    sequence: int | None  # of its last packet, with the last piece only


class FileData(NamedTuple):
    """A piece of what follows LOAD DATA LOCAL INFILE."""

    raw: bytes
    size: int
    ended: bool


class Commands:
    """Cuts what a client sends in the command phase into messages; `kept`: the longest that is given whole."""

    __slots__ = ("_at", "_chunk", "_code", "_header", "_last", "_left", "_long", "_open", "_payload", "_raw", "_sequence",
                 "_torn", "kept", "reading_file")  # fmt: skip

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.reading_file = False  # the client sends a file, until an empty packet
        self._torn = False  # it had begun to say something else when it was asked for the file
        self._chunk = b""
        self._at = 0
        self._header = b""  # of the packet that begins, while incomplete
        self._open = False  # a packet's header has been read, and not all of its bytes
        self._left = 0  # bytes of the packet that have not arrived
        self._last = True  # no packet of the same message follows this one
        self._sequence = -1  # of the packet being read; -1 between messages
        self._code = 0
        self._long = False  # the message has been given in part
        self._raw = bytearray()
        self._payload = bytearray()

    @property
    def inside(self) -> bool:
        """Tell whether a message has been given in part and its end has not arrived."""
        return self._long

    @property
    def waiting(self) -> int:
        """How many bytes have arrived and not been given."""
        given = self.reading_file and not self._torn  # of a file it has been
        header = 0 if given else len(self._header)
        return len(self._raw) + header + len(self._chunk) - self._at

    def expect_file(self) -> None:
        """Take what the client sends from now on for the file the target has asked for.

        A client that had begun a command is out of step: the rest of it would be read as a file here, and as what it
        likes at the target; `next` raises.
        """
        self._torn = self._sequence >= 0 or bool(self._header)
        self.reading_file = True

    def feed(self, chunk: bytes) -> None:
        """Take what has arrived; `next` gives what became of it."""
        self._chunk = self._chunk[self._at :] + chunk if self._at < len(self._chunk) else chunk
        self._at = 0

    def next(self) -> Whole | Part | FileData | None:
        """Give the next message or piece, None when more bytes are needed. Raises WireError."""
        if self.reading_file:
            if self._torn:
                raise WireError("a command where a file was asked for")
            return self._file_data()
        if self._sequence < 0 and not self._header and (whole := self._whole()):
            return whole
        while self._at < len(self._chunk):
            if not self._open and not self._begin_packet():
                return None
            self._take()
            self._open = self._left > 0
            if not self._open and self._last:
                return self._finish()
            if self._long or len(self._raw) > self.kept:
                return self._give_part(None)
        return None

    def _whole(self) -> Whole | None:
        """Give the message that begins here, if all of it is one packet of this chunk: the usual case."""
        chunk, at = self._chunk, self._at
        if len(chunk) - at <= HEADER:
            return None
        (header,) = header_at(chunk, at)
        size = header & 0xFFFFFF
        end = at + HEADER + size
        if end > len(chunk) or size > self.kept or not size or size == MAX_PACKET or header >> 24:
            return None
        self._at = end
        raw = chunk if not at and end == len(chunk) else chunk[at:end]
        return Whole(raw[HEADER], raw[HEADER:], raw, 0)

    def _begin_packet(self) -> bool:
        """Read a header; False when it is not all here."""
        missing = HEADER - len(self._header)
        self._header += self._chunk[self._at : self._at + missing]
        self._at = min(self._at + missing, len(self._chunk))
        if len(self._header) < HEADER:
            return False
        (header,) = header_at(self._header)
        size, sequence = header & 0xFFFFFF, header >> 24
        if sequence != (self._sequence + 1) & 0xFF:
            raise WireError("packets out of order")
        if self._sequence < 0 and not size:
            raise WireError("an empty command")
        self._left, self._last, self._sequence = size, size < MAX_PACKET, sequence
        self._raw += self._header
        self._header = b""
        return True

    def _take(self) -> None:
        """Take what is here of the packet, at most what is kept: the rest is for the next piece."""
        piece = self._chunk[self._at : self._at + self._left]
        if not self._payload and not self._long and piece:
            self._code = piece[0]
        self._raw += piece
        self._payload += piece
        self._at += len(piece)
        self._left -= len(piece)

    def _finish(self) -> Whole | Part:
        if self._long or len(self._raw) > self.kept:
            return self._give_part(self._sequence)
        whole = Whole(self._code, bytes(self._payload), bytes(self._raw), self._sequence)
        self._reset()
        return whole

    def _give_part(self, sequence: int | None) -> Part:
        part = Part(self._code, (bytes(self._payload),), bytes(self._raw), not self._long, sequence)
        self._long = True
        self._raw.clear()
        self._payload.clear()
        if sequence is not None:
            self._reset()
        return part

    def _reset(self) -> None:
        self._sequence = -1
        self._long = False
        self._raw.clear()
        self._payload.clear()

    def _file_data(self) -> FileData | None:
        """Give what is here of the file; packets are only counted."""
        start, size, ended = self._at, 0, False
        raw = b""
        while self._at < len(self._chunk) and not ended:
            if not self._left:
                missing = HEADER - len(self._header)
                self._header += self._chunk[self._at : self._at + missing]
                self._at = min(self._at + missing, len(self._chunk))
                if len(self._header) < HEADER:
                    break
                self._left = header_at(self._header)[0] & 0xFFFFFF
                self._header = b""
                ended = not self._left
            taken = min(self._left, len(self._chunk) - self._at)
            self._at += taken
            self._left -= taken
            size += taken
        raw = self._chunk[start : self._at]
        if not raw:
            return None
        if ended:
            self.reading_file = False
        return FileData(raw, size, ended)
