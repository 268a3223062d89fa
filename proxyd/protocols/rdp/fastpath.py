"""The fast path: input events of a client and updates of a server in frames of their own.

Rule 1: whatever a peer sends is a value or a WireError.
Rule 2: of a frame nothing is left unread: an event or update nobody looked at would cross the proxy unseen.
Rule 3: an update in fragments grows with what has arrived, up to MAX_UPDATE.

MS-RDPBCGR 2.2.8.1.2 (input), 2.2.9.1.2 (output). Under TLS no frame is encrypted or signed once more.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.events import (
    Event,
    Extended,
    ExtendedMouse,
    Mouse,
    Pointer,
    Quality,
    RelativeMouse,
    Scancode,
    Sync,
    Toggle,
    Unicode,
)
from proxyd.protocols.rdp.wire import (
    ACTION_BITS,
    ACTION_FAST_PATH,
    LEAST_FAST_PATH,
    LONG_LENGTH,
    MAX_FAST_PATH,
    Reader,
    WireError,
    u16,
    u16_big,
    u32,
)

MAX_EVENTS: Final = 0xFF  # numEvents is one byte where four bits are too few
MAX_UPDATE: Final = (
    32 << 20
)  # bytes: more than a whole screen of 4K is, and no server fragments more than that
_SECURED: Final = 0xC0  # FASTPATH_INPUT_SECURE_CHECKSUM, _ENCRYPTED: never under TLS
_COUNT_SHIFT: Final = 2
_COUNT_BITS: Final = 0x0F
_CODE_SHIFT: Final = 5  # of an event's header: eventFlags below, eventCode above
_FLAG_BITS: Final = 0x1F
_MOUSE: Final = Struct("<HHH")
_RELATIVE: Final = Struct("<Hhh")


class EventCode(enum.IntEnum):
    """eventCode of a fast-path event, 2.2.8.1.2.2."""

    SCANCODE = 0
    MOUSE = 1
    MOUSEX = 2
    SYNC = 3
    UNICODE = 4
    RELMOUSE = 5
    QOE_TIMESTAMP = 6


class KeyFlag(enum.IntFlag):
    """eventFlags of a key, 2.2.8.1.2.2.1."""

    RELEASE = 0x01
    EXTENDED = 0x02
    EXTENDED1 = 0x04


class UpdateCode(enum.IntEnum):
    """updateCode, 2.2.9.1.2.1."""

    ORDERS = 0x0
    BITMAP = 0x1
    PALETTE = 0x2
    SYNCHRONIZE = 0x3
    SURFACE_COMMANDS = 0x4
    POINTER_NULL = 0x5
    POINTER_DEFAULT = 0x6
    POINTER_POSITION = 0x8
    POINTER_COLOR = 0x9
    POINTER_CACHED = 0xA
    POINTER = 0xB
    POINTER_LARGE = 0xC


class Fragment(enum.IntEnum):
    """fragmentation, 2.2.9.1.2.1."""

    SINGLE = 0
    LAST = 1
    FIRST = 2
    NEXT = 3


class Update(NamedTuple):
    """TS_FP_UPDATE, 2.2.9.1.2.1; `compression` as in a share data header, each fragment by itself."""

    code: int
    fragment: int
    compression: int
    data: bytes


def _open(frame: bytes, what: str) -> Reader:
    """Read a frame's first byte and its length; gives the reader of what follows."""
    if len(frame) < LEAST_FAST_PATH or frame[0] & ACTION_BITS != ACTION_FAST_PATH:
        raise WireError(f"{what} is none")
    if frame[0] & _SECURED:
        raise WireError(f"{what} is encrypted a second time")
    reader = Reader(frame, 1, what=what)
    length = reader.u8()
    if length & LONG_LENGTH:
        length = (length & ~LONG_LENGTH) << 8 | reader.u8()
    if length != len(frame):
        raise WireError(f"{what} has a wrong length")
    return reader


def _close(first: int, body: bytes) -> bytes:
    """Frame what a frame's first byte and its length stand before."""
    length = len(body) + 2
    if length < LONG_LENGTH:
        return bytes((first, length)) + body
    length += 1
    if length > MAX_FAST_PATH:
        raise WireError("a message of ours is longer than a fast-path frame")
    return bytes((first,)) + u16_big(length | LONG_LENGTH << 8) + body


# ---------------------------------------------------------------------------------------------- input


def parse_input(frame: bytes) -> list[Event]:
    """Read a client's frame, 2.2.8.1.2; raises WireError."""
    reader = _open(frame, "an input message")
    count = frame[0] >> _COUNT_SHIFT & _COUNT_BITS or reader.u8()
    events = [_event(reader) for _ in range(count)]
    reader.done()
    return events


def _event(reader: Reader) -> Event:
    head = reader.u8()
    flags = head & _FLAG_BITS
    match head >> _CODE_SHIFT:
        case EventCode.SCANCODE:
            return Scancode(
                reader.u8(),
                bool(flags & KeyFlag.RELEASE),
                bool(flags & KeyFlag.EXTENDED),
                bool(flags & KeyFlag.EXTENDED1),
            )
        case EventCode.MOUSE:
            pointer, x, y = _MOUSE.unpack(reader.take(_MOUSE.size))
            return Mouse(Pointer(pointer), x, y)
        case EventCode.MOUSEX:
            pointer, x, y = _MOUSE.unpack(reader.take(_MOUSE.size))
            return ExtendedMouse(Extended(pointer), x, y)
        case EventCode.SYNC:
            return Sync(Toggle(flags))
        case EventCode.UNICODE:
            return Unicode(reader.u16(), bool(flags & KeyFlag.RELEASE))
        case EventCode.RELMOUSE:
            pointer, dx, dy = _RELATIVE.unpack(reader.take(_RELATIVE.size))
            return RelativeMouse(Pointer(pointer), dx, dy)
        case EventCode.QOE_TIMESTAMP:
            return Quality(reader.u32())
    raise WireError("an input message has an event of unknown kind")


def build_input(events: Iterable[Event]) -> bytes:
    """Write a client's frame, 2.2.8.1.2; raises WireError for none or too many events."""
    written = [_build_event(event) for event in events]
    if not 0 < len(written) <= MAX_EVENTS:
        raise WireError("an input message of ours has no events or too many")
    body = b"".join(written)
    if len(written) <= _COUNT_BITS:
        return _close(len(written) << _COUNT_SHIFT, body)
    return _close(0, bytes((len(written),)) + body)


def _build_event(event: Event) -> bytes:
    match event:
        case Scancode(code, released, extended, extended1):
            flags = KeyFlag.RELEASE * released | KeyFlag.EXTENDED * extended | KeyFlag.EXTENDED1 * extended1
            return bytes((EventCode.SCANCODE << _CODE_SHIFT | flags, code))
        case Mouse(flags, x, y):
            return _head(EventCode.MOUSE) + _MOUSE.pack(flags, x, y)
        case ExtendedMouse(flags, x, y):
            return _head(EventCode.MOUSEX) + _MOUSE.pack(flags, x, y)
        case Sync(toggles):
            return _head(EventCode.SYNC, toggles & _FLAG_BITS)
        case Unicode(code, released):
            return _head(EventCode.UNICODE, KeyFlag.RELEASE * released) + u16(code)
        case RelativeMouse(flags, dx, dy):
            return _head(EventCode.RELMOUSE) + _RELATIVE.pack(flags, dx, dy)
        case Quality(timestamp):
            return _head(EventCode.QOE_TIMESTAMP) + u32(timestamp)


def _head(code: EventCode, flags: int = 0) -> bytes:
    return bytes((code << _CODE_SHIFT | flags,))


# ---------------------------------------------------------------------------------------------- output

_CODE_BITS: Final = 0x0F  # of an update's header: updateCode, then fragmentation, then compression
_FRAGMENT_SHIFT: Final = 4
_FRAGMENT_BITS: Final = 0x03
_COMPRESSION_USED: Final = 0x80  # FASTPATH_OUTPUT_COMPRESSION_USED


def parse_output(frame: bytes) -> list[Update]:
    """Read a server's frame, 2.2.9.1.2; raises WireError."""
    reader = _open(frame, "an update")
    found = []
    while reader.left:
        head = reader.u8()
        compression = reader.u8() if head & _COMPRESSION_USED else 0
        fragment = head >> _FRAGMENT_SHIFT & _FRAGMENT_BITS
        found.append(Update(head & _CODE_BITS, fragment, compression, reader.take(reader.u16())))
    return found


def build_output(updates: Iterable[Update]) -> bytes:
    """Write a server's frame, 2.2.9.1.2; raises WireError when it is too long."""
    return _close(0, b"".join(_build_update(update) for update in updates))


def _build_update(update: Update) -> bytes:
    if len(update.data) > MAX_FAST_PATH:
        raise WireError("an update of ours is longer than a fast-path frame")
    head = update.code | update.fragment << _FRAGMENT_SHIFT
    if update.compression:
        return bytes((head | _COMPRESSION_USED, update.compression)) + u16(len(update.data)) + update.data
    return bytes((head,)) + u16(len(update.data)) + update.data


class Fragments:
    """Puts updates together that came in fragments, each inflated before it comes here."""

    __slots__ = ("_code", "_part")

    def __init__(self) -> None:
        self._part = bytearray()
        self._code: int | None = None

    @property
    def held(self) -> int:
        """How many bytes are kept for an update that is not whole."""
        return len(self._part)

    def feed(self, code: int, fragment: int, data: bytes) -> bytes | None:
        """Take a fragment; gives the whole update with its last one. Raises WireError."""
        if fragment == Fragment.SINGLE:
            if self._code is not None:
                raise WireError("an update begins inside another")
            return data
        if (fragment == Fragment.FIRST) is not (self._code is None) or self._code not in {None, code}:
            raise WireError("an update's fragments are out of order")
        if len(self._part) + len(data) > MAX_UPDATE:
            raise WireError("an update is too long")
        self._code = code
        self._part += data
        if fragment != Fragment.LAST:
            return None
        whole = bytes(self._part)
        self._part.clear()
        self._code = None
        return whole
