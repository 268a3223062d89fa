"""What a user does, as input events: the same values from both paths, and the slow path's Input PDU.

MS-RDPBCGR 2.2.8.1.1.3 (slow-path Input PDU) and 2.2.8.1.2.2 (fast-path events, read by `fastpath`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import Reader, WireError, u16, u32

_EVENT: Final = Struct("<IHHHH")  # 2.2.8.1.1.3.1: eventTime, messageType, and six bytes of data
_SIGNED: Final = Struct("<IHHhh")
_SYNC: Final = Struct("<IHHI")


class Slow(enum.IntEnum):
    """messageType of a slow-path event, 2.2.8.1.1.3.1.1."""

    SYNC = 0x0000
    UNUSED = 0x0002
    SCANCODE = 0x0004
    UNICODE = 0x0005
    MOUSE = 0x8001
    MOUSEX = 0x8002
    MOUSEREL = 0x8004


class Keyboard(enum.IntFlag):
    """keyboardFlags of slow-path events, 2.2.8.1.1.3.1.1.1."""

    EXTENDED = 0x0100
    EXTENDED1 = 0x0200
    DOWN = 0x4000
    RELEASE = 0x8000


class Pointer(enum.IntFlag):
    """pointerFlags of mouse events, 2.2.8.1.1.3.1.1.3; the low nine bits are how far the wheel turned."""

    WHEEL_NEGATIVE = 0x0100
    WHEEL = 0x0200
    HWHEEL = 0x0400
    MOVE = 0x0800
    BUTTON1 = 0x1000
    BUTTON2 = 0x2000
    BUTTON3 = 0x4000
    DOWN = 0x8000


class Extended(enum.IntFlag):
    """pointerFlags of extended mouse events, 2.2.8.1.1.3.1.1.4."""

    XBUTTON1 = 0x0001
    XBUTTON2 = 0x0002
    DOWN = 0x8000


class Toggle(enum.IntFlag):
    """Keys that are on or off, 2.2.8.1.1.3.1.1.5."""

    SCROLL_LOCK = 0x01
    NUM_LOCK = 0x02
    CAPS_LOCK = 0x04
    KANA_LOCK = 0x08


class Scancode(NamedTuple):
    """A key went down or up. `extended`: E0 stands before its code, `extended1`: E1 does."""

    code: int
    released: bool = False
    extended: bool = False
    extended1: bool = False


class Unicode(NamedTuple):
    """A character without a key: one UTF-16 code unit."""

    code: int
    released: bool = False


class Mouse(NamedTuple):
    """The mouse moved, its wheel turned, or one of its first three buttons changed."""

    flags: Pointer
    x: int
    y: int


class ExtendedMouse(NamedTuple):
    """The fourth or fifth button changed."""

    flags: Extended
    x: int
    y: int


class RelativeMouse(NamedTuple):
    """The mouse moved by so much, 2.2.8.1.1.3.1.1.7."""

    flags: Pointer
    dx: int
    dy: int


class Sync(NamedTuple):
    """The client's toggle keys are now so."""

    toggles: Toggle


class Quality(NamedTuple):
    """A time stamp of the client's, TS_FP_QOETIMESTAMP_EVENT 2.2.8.1.2.2.6; no action of the user's."""

    timestamp: int


Event = Scancode | Unicode | Mouse | ExtendedMouse | RelativeMouse | Sync | Quality

_MODIFIERS: Final = (
    Scancode(0x1D, released=True),  # left Ctrl
    Scancode(0x2A, released=True),  # left Shift
    Scancode(0x36, released=True),  # right Shift
    Scancode(0x38, released=True),  # left Alt
    Scancode(0x1D, released=True, extended=True),  # right Ctrl
    Scancode(0x38, released=True, extended=True),  # AltGr
    Scancode(0x5B, released=True, extended=True),  # left Windows
    Scancode(0x5C, released=True, extended=True),  # right Windows
)


def releases(x: int, y: int) -> tuple[Event, ...]:
    """Give the events after which no modifier and no button is held; the mouse is at `x`, `y`.

    Whose input is cut off between press and release would otherwise type in capitals, or drag, when it comes back.
    """
    buttons = tuple(Mouse(button, x, y) for button in (Pointer.BUTTON1, Pointer.BUTTON2, Pointer.BUTTON3))
    more = tuple(ExtendedMouse(button, x, y) for button in (Extended.XBUTTON1, Extended.XBUTTON2))
    return (*_MODIFIERS, *buttons, *more)


def parse_input(body: bytes) -> list[Event]:
    """Read the body of a slow-path Input PDU, 2.2.8.1.1.3; raises WireError."""
    reader = Reader(body, what="an input message")
    count = reader.u16()
    reader.u16()  # pad
    events = reader.part(count * _EVENT.size, "an input message")
    reader.done()
    found = []
    for at in range(events.at, events.end, _EVENT.size):
        event = _event(body, at)
        if event is not None:
            found.append(event)
    return found


def _event(body: bytes, at: int) -> Event | None:
    _, kind, first, second, third = _EVENT.unpack_from(body, at)
    match kind:
        case Slow.SCANCODE:
            return Scancode(
                second & 0xFF,
                bool(first & Keyboard.RELEASE),
                bool(first & Keyboard.EXTENDED),
                bool(first & Keyboard.EXTENDED1),
            )
        case Slow.UNICODE:
            return Unicode(second, bool(first & Keyboard.RELEASE))
        case Slow.MOUSE:
            return Mouse(Pointer(first), second, third)
        case Slow.MOUSEX:
            return ExtendedMouse(Extended(first), second, third)
        case Slow.MOUSEREL:
            _, _, flags, dx, dy = _SIGNED.unpack_from(body, at)
            return RelativeMouse(Pointer(flags), dx, dy)
        case Slow.SYNC:
            return Sync(Toggle(second | third << 16))
        case Slow.UNUSED:
            return None
    raise WireError("an input message has an event of unknown kind")


def build_input(events: Iterable[Event]) -> bytes:
    """Write the body of a slow-path Input PDU, 2.2.8.1.1.3."""
    written = [_build(event) for event in events]
    return u32(len(written)) + b"".join(written)


def _build(event: Event) -> bytes:
    match event:
        case Scancode(code, released, extended, extended1):
            flags = _released(released=released)
            flags |= Keyboard.EXTENDED * extended | Keyboard.EXTENDED1 * extended1
            return _EVENT.pack(0, Slow.SCANCODE, flags, code, 0)
        case Unicode(code, released):
            return _EVENT.pack(0, Slow.UNICODE, _released(released=released), code, 0)
        case Mouse(flags, x, y):
            return _EVENT.pack(0, Slow.MOUSE, flags, x, y)
        case ExtendedMouse(flags, x, y):
            return _EVENT.pack(0, Slow.MOUSEX, flags, x, y)
        case RelativeMouse(flags, dx, dy):
            return _SIGNED.pack(0, Slow.MOUSEREL, flags, dx, dy)
        case Sync(toggles):
            return _SYNC.pack(0, Slow.SYNC, 0, toggles)
        case Quality():
            return u32(0) + u16(Slow.UNUSED) + bytes(6)  # the slow path has no such event


def _released(*, released: bool) -> int:
    return Keyboard.RELEASE if released else 0  # a press has no flag: DOWN means it was down before
