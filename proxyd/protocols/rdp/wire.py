"""What every RDP message stands in: TPKT, X.224 and fast-path frames, and the reader of all other layouts.

Rule 1: no socket, clock, loop or log. Whatever a peer sends is a value or a WireError, never another exception.
Rule 2: a length from the wire is compared with what is there before it is used, and nothing is allocated by it.
Rule 3: a frame that is given is exactly as long as its own header says, and frames put together are what came in.

Layouts: RFC 1006 (TPKT), X.224 as MS-RDPBCGR 2.2.1.1 and 2.2.1.2 use it, MS-RDPBCGR 2.2.8.1.2 and 2.2.9.1.2 (fast-path).
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final, NamedTuple

TPKT_VERSION: Final = 3
TPKT_HEADER: Final = 4  # version, reserved, length of it all
LEAST_TPKT: Final = 7  # RFC 1006 6: the header and the least X.224 TPDU
MAX_TPKT: Final = 0xFFFF  # what its length can say
LEAST_FAST_PATH: Final = 3  # a header, a length of one byte, and something
MAX_FAST_PATH: Final = 0x7FFF  # what its length of 15 bits can say
ACTION_BITS: Final = 0x03
ACTION_FAST_PATH: Final = 0x00  # FASTPATH_INPUT_ACTION_FASTPATH, FASTPATH_OUTPUT_ACTION_FASTPATH
LONG_LENGTH: Final = 0x80  # of the first length byte: a second one follows

_u16: Final = Struct("<H")
_u32: Final = Struct("<I")
_i32: Final = Struct("<i")
_u16_big: Final = Struct(">H")
_u32_big: Final = Struct(">I")


class WireError(ValueError):
    """A peer sent what the protocol does not allow; the text is one clause without any of its bytes."""


class Reader:
    """Takes a message apart from its beginning; every step raises WireError when there is too little left."""

    __slots__ = ("at", "data", "end", "what")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None, *, what: str = "a message") -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end
        self.what = what

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return self.end - self.at

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; gives where they begin."""
        start = self.at
        if size < 0 or size > self.end - start:
            raise WireError(f"{self.what} is cut short")
        self.at = start + size
        return start

    def take(self, size: int) -> bytes:
        """Take `size` bytes."""
        start = self.skip(size)
        return bytes(self.data[start : self.at])

    def rest(self) -> bytes:
        """Take all that is left."""
        return self.take(self.left)

    def part(self, size: int, what: str) -> Reader:
        """Take `size` bytes as a message of their own."""
        start = self.skip(size)
        return Reader(self.data, start, self.at, what=what)

    def u8(self) -> int:
        """Take a byte."""
        return self.data[self.skip(1)]

    def u16(self) -> int:
        """Take two bytes, the low one first."""
        return int(_u16.unpack_from(self.data, self.skip(2))[0])

    def u32(self) -> int:
        """Take four bytes, the low one first."""
        return int(_u32.unpack_from(self.data, self.skip(4))[0])

    def i32(self) -> int:
        """Take four bytes with a sign, the low one first."""
        return int(_i32.unpack_from(self.data, self.skip(4))[0])

    def u16_big(self) -> int:
        """Take two bytes, the high one first."""
        return int(_u16_big.unpack_from(self.data, self.skip(2))[0])

    def u32_big(self) -> int:
        """Take four bytes, the high one first."""
        return int(_u32_big.unpack_from(self.data, self.skip(4))[0])

    def expect(self, literal: bytes) -> None:
        """Take bytes that can only be these."""
        if self.take(len(literal)) != literal:
            raise WireError(f"{self.what} is none")

    def done(self) -> None:
        """Refuse what goes on behind its end."""
        if self.left:
            raise WireError(f"{self.what} goes on behind its end")


def u16(number: int) -> bytes:
    """Write two bytes, the low one first."""
    return _u16.pack(number)


def u32(number: int) -> bytes:
    """Write four bytes, the low one first."""
    return _u32.pack(number)


def u16_big(number: int) -> bytes:
    """Write two bytes, the high one first."""
    return _u16_big.pack(number)


def text(data: bytes) -> str:
    """Decode UTF-16 up to its first NUL; what is none becomes U+FFFD."""
    return data[: len(data) & ~1].decode("utf-16-le", "replace").split("\0", 1)[0]


# ---------------------------------------------------------------------------------------------- frames


def is_fast_path(frame: bytes) -> bool:
    """Tell a fast-path frame from a TPKT."""
    return frame[0] & ACTION_BITS == ACTION_FAST_PATH


def frame_length(data: bytes | bytearray, at: int = 0) -> int:
    """Say how long the frame is that begins at `at`, 0 when its header is not all there; raises WireError."""
    there = len(data) - at
    if there < 2:  # the least that tells a length
        return 0
    first = data[at]
    if first == TPKT_VERSION:
        if there < TPKT_HEADER:
            return 0
        length = data[at + 2] << 8 | data[at + 3]
        if length < LEAST_TPKT:
            raise WireError("sent a frame of impossible length")
        return length
    if first & ACTION_BITS != ACTION_FAST_PATH:
        raise WireError("sent a frame of unknown kind")
    length = data[at + 1]
    if length & LONG_LENGTH:
        if there < LEAST_FAST_PATH:
            return 0
        length = (length & ~LONG_LENGTH) << 8 | data[at + 2]
    if length < LEAST_FAST_PATH:
        raise WireError("sent a frame of impossible length")
    return length


class Framer:
    """Cuts a stream into frames; keeps what has begun, which is at most MAX_TPKT bytes."""

    __slots__ = ("_part", "_wanted")

    def __init__(self) -> None:
        self._part = bytearray()
        self._wanted = 0  # length of the frame in _part, 0 while that is not known

    @property
    def held(self) -> int:
        """How many bytes are kept for a frame that is not whole."""
        return len(self._part)

    def feed(self, data: bytes) -> list[bytes]:
        """Take what has arrived and give the frames that are whole; raises WireError."""
        part = self._part
        if part:
            part += data
            if len(part) < self._wanted:
                return []
            data = bytes(part)
            part.clear()
        frames: list[bytes] = []
        at, end = 0, len(data)
        while length := frame_length(data, at):
            if at + length > end:
                break
            frames.append(data[at : at + length])
            at += length
        self._wanted = length
        part += data[at:]
        return frames

    def release(self) -> bytes:
        """Give back what is kept: another protocol (TLS, CredSSP) goes on from here."""
        held = bytes(self._part)
        self._part.clear()
        self._wanted = 0
        return held


def tpkt(payload: bytes) -> bytes:
    """Frame a TPDU; raises WireError when it does not fit."""
    length = len(payload) + TPKT_HEADER
    if length > MAX_TPKT:
        raise WireError("a message of ours is longer than a frame")
    return bytes((TPKT_VERSION, 0)) + _u16_big.pack(length) + payload


# ---------------------------------------------------------------------------------------------- X.224

DATA_TPDU: Final = b"\x02\xf0\x80"  # MS-RDPBCGR 2.2.1.3: length 2, DT, end of TSDU
DATA_HEADER: Final = TPKT_HEADER + len(DATA_TPDU)
_CONNECTION_REQUEST: Final = 0xE0
_CONNECTION_CONFIRM: Final = 0xD0
_CODE_BITS: Final = 0xF0
_TPDU_HEADER: Final = 6  # of CR and CC behind the length: code, destination, source, class
_SOURCE: Final = 0x1234  # our reference, as Windows has it; nobody reads it
MAX_CONNECTION_REQUEST: Final = 512  # a CR's length is one byte; some clients' correlation stands behind it
_TYPE_REQUEST: Final = 0x01  # TYPE_RDP_NEG_REQ
_TYPE_RESPONSE: Final = 0x02  # TYPE_RDP_NEG_RSP
_TYPE_FAILURE: Final = 0x03  # TYPE_RDP_NEG_FAILURE
_NEGOTIATION: Final = Struct("<BBHI")  # 2.2.1.1.1, 2.2.1.2.1, 2.2.1.2.2: type, flags, length, value
_END_OF_LINE: Final = b"\r\n"
_COOKIE: Final = b"Cookie: mstshash="  # 2.2.1.1: the client's name, as far as it wants to say it


class Protocol(enum.IntFlag):
    """Security protocols, MS-RDPBCGR 2.2.1.1.1; no bit at all is standard RDP security."""

    SSL = 0x01
    HYBRID = 0x02
    RDSTLS = 0x04
    HYBRID_EX = 0x08
    RDSAAD = 0x10


STANDARD_SECURITY: Final = Protocol(0)


class RequestFlag(enum.IntFlag):
    """Flags of RDP_NEG_REQ, 2.2.1.1.1."""

    RESTRICTED_ADMIN_MODE_REQUIRED = 0x01
    REDIRECTED_AUTHENTICATION_MODE_REQUIRED = 0x02
    CORRELATION_INFO_PRESENT = 0x08


class ResponseFlag(enum.IntFlag):
    """Flags of RDP_NEG_RSP, 2.2.1.2.1. The last two ask a client to send no password: we never offer them."""

    EXTENDED_CLIENT_DATA_SUPPORTED = 0x01
    DYNVC_GFX_PROTOCOL_SUPPORTED = 0x02
    NEGRSP_FLAG_RESERVED = 0x04
    RESTRICTED_ADMIN_MODE_SUPPORTED = 0x08
    REDIRECTED_AUTHENTICATION_MODE_SUPPORTED = 0x10


class NegotiationFailure(enum.IntEnum):
    """Failure codes of RDP_NEG_FAILURE, 2.2.1.2.2."""

    SSL_REQUIRED_BY_SERVER = 1
    SSL_NOT_ALLOWED_BY_SERVER = 2
    SSL_CERT_NOT_ON_SERVER = 3
    INCONSISTENT_FLAGS = 4
    HYBRID_REQUIRED_BY_SERVER = 5
    SSL_WITH_USER_AUTH_REQUIRED_BY_SERVER = 6


class ConnectionRequest(NamedTuple):
    """X.224 Connection Request, 2.2.1.1. `routing`: cookie or token as it came, without its end of line."""

    routing: bytes = b""
    protocols: Protocol = STANDARD_SECURITY
    flags: RequestFlag = RequestFlag(0)
    negotiates: bool = True  # it has an RDP_NEG_REQ: clients older than it know standard security only

    @property
    def user(self) -> str:
        """The name of an mstshash cookie, a hint at most: mstsc cuts it at nine characters; "" without one."""
        if not self.routing.startswith(_COOKIE):
            return ""
        return self.routing[len(_COOKIE) :].decode("utf-8", "replace")


class ConnectionConfirm(NamedTuple):
    """X.224 Connection Confirm, 2.2.1.2; with a failure there is no selected protocol."""

    selected: Protocol
    flags: ResponseFlag
    failure: int = 0  # a NegotiationFailure, or what a server says in its place


def cookie(user: str) -> bytes:
    """Give the routing of a client that says its user's name."""
    return _COOKIE + user.encode("ascii", "replace")


def parse_connection_request(frame: bytes) -> ConnectionRequest:
    """Read a Connection Request, 2.2.1.1; raises WireError."""
    if len(frame) > MAX_CONNECTION_REQUEST:
        raise WireError("a connection request is too long")
    reader = _connection(frame, _CONNECTION_REQUEST, "a connection request")
    routing = b""
    end = frame.find(_END_OF_LINE, reader.at)
    if end >= 0 and frame[reader.at] != _TYPE_REQUEST:
        routing = reader.take(end - reader.at)
        reader.skip(len(_END_OF_LINE))
    if not reader.left:
        return ConnectionRequest(routing, negotiates=False)
    kind, flags, length, protocols = _NEGOTIATION.unpack(reader.take(_NEGOTIATION.size))
    if kind != _TYPE_REQUEST or length != _NEGOTIATION.size:
        raise WireError("a connection request asks for nothing known")
    return ConnectionRequest(routing, Protocol(protocols), RequestFlag(flags))


def build_connection_request(request: ConnectionRequest) -> bytes:
    """Write a Connection Request, 2.2.1.1."""
    body = request.routing + _END_OF_LINE if request.routing else b""
    if request.negotiates:
        body += _NEGOTIATION.pack(_TYPE_REQUEST, request.flags, _NEGOTIATION.size, request.protocols)
    return _build_connection(_CONNECTION_REQUEST, 0, body)


def parse_connection_confirm(frame: bytes) -> ConnectionConfirm:
    """Read a Connection Confirm, 2.2.1.2; raises WireError."""
    reader = _connection(frame, _CONNECTION_CONFIRM, "a connection confirm")
    if not reader.left:
        return ConnectionConfirm(STANDARD_SECURITY, ResponseFlag(0))
    kind, flags, length, value = _NEGOTIATION.unpack(reader.take(_NEGOTIATION.size))
    reader.done()
    if length != _NEGOTIATION.size or kind not in {_TYPE_RESPONSE, _TYPE_FAILURE}:
        raise WireError("a connection confirm answers nothing known")
    if kind == _TYPE_FAILURE:
        return ConnectionConfirm(
            STANDARD_SECURITY, ResponseFlag(0), value or NegotiationFailure.INCONSISTENT_FLAGS
        )
    return ConnectionConfirm(Protocol(value), ResponseFlag(flags))


def build_connection_confirm(confirm: ConnectionConfirm) -> bytes:
    """Write a Connection Confirm with RDP_NEG_RSP or RDP_NEG_FAILURE, 2.2.1.2."""
    kind, value = (_TYPE_FAILURE, confirm.failure) if confirm.failure else (_TYPE_RESPONSE, confirm.selected)
    body = _NEGOTIATION.pack(kind, confirm.flags, _NEGOTIATION.size, value)
    return _build_connection(_CONNECTION_CONFIRM, _SOURCE, body)


def data_payload(frame: bytes) -> bytes:
    """Give what a Data TPDU carries; raises WireError for any other frame."""
    if frame[0] != TPKT_VERSION or not frame.startswith(DATA_TPDU, TPKT_HEADER):
        raise WireError("sent something else than data")
    return frame[DATA_HEADER:]


def build_data_tpdu(payload: bytes) -> bytes:
    """Frame what MCS says."""
    return tpkt(DATA_TPDU + payload)


def _connection(frame: bytes, code: int, what: str) -> Reader:
    """Read the header of a CR or CC; gives the reader of what follows."""
    reader = Reader(frame, what=what)
    reader.expect(bytes((TPKT_VERSION,)))
    reader.skip(TPKT_HEADER - 1)
    length = reader.u8()
    if reader.u8() & _CODE_BITS != code:
        raise WireError(f"{what} is none")
    reader.skip(_TPDU_HEADER - 1)
    # Some clients count the correlation of 36 bytes into it and some do not: what is there is what counts.
    if length < _TPDU_HEADER or length > len(frame) - TPKT_HEADER - 1:
        raise WireError(f"{what} has a wrong length")
    return reader


def _build_connection(code: int, source: int, body: bytes) -> bytes:
    length = _TPDU_HEADER + len(body)
    if length > 0xFE:  # X.224 13.2.1: 255 is reserved
        raise WireError("a connection request of ours is too long")
    return tpkt(bytes((length, code, 0, 0)) + _u16_big.pack(source) + b"\0" + body)
