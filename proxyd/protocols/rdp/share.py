"""Share control and share data PDUs: what crosses the I/O channel once the connection stands (slow path).

Rule 1: whatever a peer sends is a value or a WireError.
Rule 2: a payload may hold several PDUs; they are given in their order, each as it came.

MS-RDPBCGR 2.2.8.1.1.1 (headers), 2.2.1.14 to 2.2.1.22 (finalization), 2.2.5.1 (Set Error Info), 2.2.10.1 (Save Session
Info), 2.2.11 (Refresh Rect, Suppress Output), 2.2.13 (redirection), 2.2.3.1 (Deactivate All).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import Reader, WireError, u16, u32

_CONTROL: Final = Struct("<HHH")  # TS_SHARECONTROLHEADER: totalLength, pduType, pduSource
_DATA: Final = Struct("<IBBHBBH")  # TS_SHAREDATAHEADER without the control header
_LEAST_CONTROL: Final = 4  # some servers' Deactivate All ends behind its type
_KIND_BITS: Final = 0x0F
_VERSION: Final = 0x10  # TS_PROTOCOL_VERSION
_FLOW_MARK: Final = (
    0x8000  # in place of a length: a flow control PDU of T.128 8.5, which has no meaning any more
)
_FLOW_SIZE: Final = 8
_COUNTED: Final = (
    4  # uncompressedLength counts pduType2, compressedType and compressedLength, as Windows does
)
STREAM_LOW: Final = 1
MAX_TOTAL: Final = 0x7FFF  # what fits into MCS data
_RECTANGLE: Final = Struct("<HHHH")
MAX_RECTANGLES: Final = 0xFF  # numberOfAreas is one byte


class ControlKind(enum.IntEnum):
    """Types of share control PDUs, 2.2.8.1.1.1.1."""

    DEMAND_ACTIVE = 0x1
    CONFIRM_ACTIVE = 0x3
    DEACTIVATE_ALL = 0x6
    DATA = 0x7
    SERVER_REDIRECTION = 0xA
    FLOW = 0x10  # ours: a PDU that has no type of its own


class DataKind(enum.IntEnum):
    """Types of share data PDUs (pduType2), 2.2.8.1.1.1.2."""

    UPDATE = 0x02
    CONTROL = 0x14
    POINTER = 0x1B
    INPUT = 0x1C
    SYNCHRONIZE = 0x1F
    REFRESH_RECT = 0x21
    PLAY_SOUND = 0x22
    SUPPRESS_OUTPUT = 0x23
    SHUTDOWN_REQUEST = 0x24
    SHUTDOWN_DENIED = 0x25
    SAVE_SESSION_INFO = 0x26
    FONT_LIST = 0x27
    FONT_MAP = 0x28
    SET_KEYBOARD_INDICATORS = 0x29
    BITMAPCACHE_PERSISTENT_LIST = 0x2B
    BITMAPCACHE_ERROR = 0x2C
    SET_KEYBOARD_IME_STATUS = 0x2D
    OFFSCRCACHE_ERROR = 0x2E
    SET_ERROR_INFO = 0x2F
    DRAWNINEGRID_ERROR = 0x30
    DRAWGDIPLUS_ERROR = 0x31
    ARC_STATUS = 0x32
    STATUS_INFO = 0x36
    MONITOR_LAYOUT = 0x37
    FRAME_ACKNOWLEDGE = 0x38


class Compression(enum.IntFlag):
    """compressedType and compressionFlags, 2.2.8.1.1.1.2; the low four bits are the kind of compression."""

    TYPE = 0x0F
    COMPRESSED = 0x20
    AT_FRONT = 0x40
    FLUSHED = 0x80


class Action(enum.IntEnum):
    """Actions of the Control PDU, 2.2.1.15."""

    REQUEST_CONTROL = 1
    GRANTED_CONTROL = 2
    DETACH = 3
    COOPERATE = 4


class ErrorInfo(enum.IntEnum):
    """errorInfo codes we say, 2.2.5.1.1."""

    NONE = 0x00
    RPC_INITIATED_DISCONNECT = 0x01
    RPC_INITIATED_LOGOFF = 0x02
    IDLE_TIMEOUT = 0x03
    LOGON_TIMEOUT = 0x04
    SERVER_DENIED_CONNECTION = 0x07
    SERVER_INSUFFICIENT_PRIVILEGES = 0x09
    LOGOFF_BY_USER = 0x0C


_PICTURES: Final = frozenset({DataKind.UPDATE, DataKind.POINTER})
_DATA_KIND_AT: Final = 14  # of pduType2 in a payload


class Control(NamedTuple):
    """A share control PDU; `body` follows its header."""

    kind: int
    source: int
    body: bytes


class ShareData(NamedTuple):
    """A share data PDU; `body` follows its header, deflated when `compression` says so."""

    share_id: int
    source: int
    kind: int
    body: bytes
    compression: int = 0
    stream: int = STREAM_LOW

    @property
    def compressed(self) -> bool:
        """Whether the body must be inflated before it can be read."""
        return bool(self.compression & Compression.COMPRESSED)


class Rectangle(NamedTuple):
    """TS_RECTANGLE16, 2.2.11.1: right and bottom are inside."""

    left: int
    top: int
    right: int
    bottom: int


# ---------------------------------------------------------------------------------------------- headers


def split(payload: bytes) -> list[Control]:
    """Take the payload of I/O channel data apart into its share control PDUs; raises WireError."""
    found = []
    at, end = 0, len(payload)
    while end - at >= _LEAST_CONTROL:  # less than a header is padding, which no peer reads either
        total, kind = int.from_bytes(payload[at : at + 2], "little"), payload[at + 2] & _KIND_BITS
        if total == _FLOW_MARK:
            total, kind = _FLOW_SIZE, ControlKind.FLOW
        if not _LEAST_CONTROL <= total <= end - at:
            raise WireError("a share control message has a wrong length")
        source = int.from_bytes(payload[at + 4 : at + 6], "little") if total >= _CONTROL.size else 0
        found.append(Control(kind, source, payload[min(at + _CONTROL.size, at + total) : at + total]))
        at += total
    return found


def paints(payload: bytes) -> bool:
    """Tell a payload that is one update or pointer PDU and nothing else, which is nearly all that targets send."""
    return (
        len(payload) >= _CONTROL.size + _DATA.size
        and payload[_DATA_KIND_AT] in _PICTURES
        and payload[2] & _KIND_BITS == ControlKind.DATA
        and payload[0] | payload[1] << 8 == len(payload)
    )


def build_control(control: Control) -> bytes:
    """Write a share control PDU; raises WireError when it is longer than MCS data can be."""
    total = len(control.body) + _CONTROL.size
    if total > MAX_TOTAL:
        raise WireError("a share control message of ours is too long")
    return _CONTROL.pack(total, control.kind | _VERSION, control.source) + control.body


def share_data(control: Control) -> ShareData:
    """Read the header of a share data PDU; raises WireError."""
    if control.kind != ControlKind.DATA or len(control.body) < _DATA.size:
        raise WireError("a share data message is cut short")
    share_id, _, stream, _, kind, compression, _ = _DATA.unpack_from(control.body)
    return ShareData(share_id, control.source, kind, control.body[_DATA.size :], compression, stream)


def build_share_data(data: ShareData) -> bytes:
    """Write a share data PDU whose body is not compressed, as a payload; raises WireError when it is too long."""
    if len(data.body) > MAX_TOTAL:
        raise WireError("a share data message of ours is too long")
    head = _DATA.pack(data.share_id, 0, data.stream, len(data.body) + _COUNTED, data.kind, 0, 0)
    return build_control(Control(ControlKind.DATA, data.source, head + data.body))


# ---------------------------------------------------------------------------------------------- finalization


class ControlAction(NamedTuple):
    """The body of a Control PDU, 2.2.1.15."""

    action: int
    grant: int = 0
    control: int = 0


def synchronize(user: int) -> bytes:
    """Write the body of a Synchronize PDU, 2.2.1.14: it names the other side's user."""
    return u16(1) + u16(user)


def control_action(action: ControlAction) -> bytes:
    """Write the body of a Control PDU, 2.2.1.15."""
    return u16(action.action) + u16(action.grant) + u32(action.control)


def parse_control_action(body: bytes) -> ControlAction:
    """Read the body of a Control PDU, 2.2.1.15; raises WireError."""
    reader = Reader(body, what="a control message")
    return ControlAction(reader.u16(), reader.u16(), reader.u32())


FONT_LIST: Final = u16(0) + u16(0) + u16(3) + u16(0x32)
"""The body of a Font List PDU, 2.2.1.18: no fonts, first and last."""
FONT_MAP: Final = u16(0) + u16(0) + u16(3) + u16(4)
"""The body of a Font Map PDU, 2.2.1.22: the end of a connection's beginning."""


def deactivate_all(share_id: int, source: int) -> bytes:
    """Write a Deactivate All PDU, 2.2.3.1, as a payload: the client waits for a Demand Active then."""
    return build_control(Control(ControlKind.DEACTIVATE_ALL, source, u32(share_id) + u16(1) + b"\0"))


# ---------------------------------------------------------------------------------------------- what is said in a session


def error_info(code: int) -> bytes:
    """Write the body of a Set Error Info PDU, 2.2.5.1."""
    return u32(code)


def parse_error_info(body: bytes) -> int:
    """Read the body of a Set Error Info PDU, 2.2.5.1; raises WireError."""
    return Reader(body, what="an error message").u32()


def refresh_rect(areas: Iterable[Rectangle]) -> bytes:
    """Write the body of a Refresh Rect PDU, 2.2.11.2: the server paints these again; raises WireError."""
    rectangles = [_RECTANGLE.pack(*area) for area in areas]
    if len(rectangles) > MAX_RECTANGLES:
        raise WireError("a refresh message of ours has too many areas")
    return u32(len(rectangles)) + b"".join(rectangles)


def parse_refresh_rect(body: bytes) -> list[Rectangle]:
    """Read the body of a Refresh Rect PDU, 2.2.11.2; raises WireError."""
    reader = Reader(body, what="a refresh message")
    count = reader.u8()
    reader.skip(3)
    areas = reader.take(count * _RECTANGLE.size)
    return [Rectangle._make(values) for values in _RECTANGLE.iter_unpack(areas)]


def suppress_output(area: Rectangle | None) -> bytes:
    """Write the body of a Suppress Output PDU, 2.2.11.3: paint this area on, or, for None, nothing."""
    return u32(0) if area is None else u32(1) + _RECTANGLE.pack(*area)


def parse_suppress_output(body: bytes) -> Rectangle | None:
    """Read the body of a Suppress Output PDU, 2.2.11.3; None: nothing is to be painted. Raises WireError."""
    reader = Reader(body, what="a message about output")
    allowed = reader.u8()
    reader.skip(3)
    if not allowed:
        return None
    return Rectangle._make(_RECTANGLE.unpack(reader.take(_RECTANGLE.size)))


# ---------------------------------------------------------------------------------------------- Save Session Info

_EXTENDED_INFO: Final = 3  # INFOTYPE_LOGON_EXTENDED_INFO, 2.2.10.1.1
_COOKIE_PRESENT: Final = 0x01  # LOGON_EX_AUTORECONNECTCOOKIE, 2.2.10.1.1.4


def without_reconnect_cookie(body: bytes) -> bytes | None:
    """Give the body of a Save Session Info PDU without its auto-reconnect cookie, 2.2.10.1.1.4; raises WireError.

    None: there is nothing else in it, and it need not be sent. With the cookie a client could come back to the target
    without a password.
    """
    reader = Reader(body, what="session information")
    if reader.u32() != _EXTENDED_INFO:
        return body
    length, fields = reader.u16(), reader.u32()
    if not fields & _COOKIE_PRESENT:
        return body
    start = reader.at
    reader.skip(reader.u32())  # cbFieldData and the cookie
    if fields == _COOKIE_PRESENT:
        return None
    cookie = reader.at - start
    if length < cookie:
        raise WireError("session information has a wrong length")
    return u32(_EXTENDED_INFO) + u16(length - cookie) + u32(fields & ~_COOKIE_PRESENT) + reader.rest()


# ---------------------------------------------------------------------------------------------- redirection

_REDIRECTION_PAD: Final = 2  # 2.2.13.3.1: behind the share control header
_REDIRECTION: Final = Struct("<HHII")  # 2.2.13.1: flags, length, session, RedirFlags


class Redirection(NamedTuple):
    """The beginning of RDP_SERVER_REDIRECTION_PACKET, 2.2.13.1: no address and no credential of it is read."""

    session: int
    flags: int


def parse_redirection(control: Control) -> Redirection:
    """Read the beginning of a Server Redirection PDU, 2.2.13.3.1; raises WireError."""
    if (
        control.kind != ControlKind.SERVER_REDIRECTION
        or len(control.body) < _REDIRECTION_PAD + _REDIRECTION.size
    ):
        raise WireError("a redirection is cut short")
    _, _, session, flags = _REDIRECTION.unpack_from(control.body, _REDIRECTION_PAD)
    return Redirection(session, flags)
