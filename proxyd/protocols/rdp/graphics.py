"""How a target may be painted: the policies, and what of the graphics pipeline each lets a client say.

Rule 1: pictures are never encoded again. A policy takes away from what client and server may agree on; what they then
        send passes as it came.
Rule 2: nothing is passed that a recording could not be drawn from: no picture of the client's own disk, no surface that
        is scaled, no codec that is not in MS-RDPEGFX.
Rule 3: a client is never said to know what it did not say itself.
Rule 4: whatever a client sends is a value or a WireError.

MS-RDPEGFX 2.2.1.5 (header), 2.2.2.13 (frame acknowledge), 2.2.2.16 (cache import offer), 2.2.2.18 (caps advertise),
2.2.3 (capability sets).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from proxyd.decoders import Graphics
from proxyd.protocols.rdp.wire import Reader, WireError, u16, u32

HEADER: Final = Struct("<HHI")  # cmdId, flags, pduLength with the header, 2.2.1.5
MAX_SETS: Final = 32  # there are eleven versions
_SET: Final = Struct("<II")
_ACKNOWLEDGE: Final = Struct("<III")  # queueDepth, frameId, totalFramesDecoded


class Command(enum.IntEnum):
    """cmdId, 2.2.1.5."""

    WIRETOSURFACE_1 = 0x0001
    WIRETOSURFACE_2 = 0x0002
    DELETEENCODINGCONTEXT = 0x0003
    SOLIDFILL = 0x0004
    SURFACETOSURFACE = 0x0005
    SURFACETOCACHE = 0x0006
    CACHETOSURFACE = 0x0007
    EVICTCACHEENTRY = 0x0008
    CREATESURFACE = 0x0009
    DELETESURFACE = 0x000A
    STARTFRAME = 0x000B
    ENDFRAME = 0x000C
    FRAMEACKNOWLEDGE = 0x000D
    RESETGRAPHICS = 0x000E
    MAPSURFACETOOUTPUT = 0x000F
    CACHEIMPORTOFFER = 0x0010
    CACHEIMPORTREPLY = 0x0011
    CAPSADVERTISE = 0x0012
    CAPSCONFIRM = 0x0013
    MAPSURFACETOWINDOW = 0x0015
    QOEFRAMEACKNOWLEDGE = 0x0016
    MAPSURFACETOSCALEDOUTPUT = 0x0017
    MAPSURFACETOSCALEDWINDOW = 0x0018


class Version(enum.IntEnum):
    """Versions of capability sets that pass, 2.2.3. 10.5 and 10.6 scale surfaces and can't be told not to (rule 2)."""

    V8 = 0x00080004
    V81 = 0x00080105
    V10 = 0x000A0002
    V101 = 0x000A0100
    V102 = 0x000A0200
    V103 = 0x000A0301
    V104 = 0x000A0400
    V107 = 0x000A0701


class Flag(enum.IntFlag):
    """Flags of capability sets, 2.2.3.1 to 2.2.3.10."""

    THINCLIENT = 0x01
    SMALL_CACHE = 0x02
    AVC420_ENABLED = 0x10  # of version 8.1
    AVC_DISABLED = 0x20  # of 10 and later, but 10.1
    AVC_THINCLIENT = 0x40
    SCALEDMAP_DISABLE = 0x80  # of 10.7


_KNOWN: Final = int(
    Flag.THINCLIENT
    | Flag.SMALL_CACHE
    | Flag.AVC420_ENABLED
    | Flag.AVC_DISABLED
    | Flag.AVC_THINCLIENT
    | Flag.SCALEDMAP_DISABLE
)


class Pdu(NamedTuple):
    """One message of the pipeline; `body` is what follows its header."""

    command: int
    flags: int
    body: bytes


class CapabilitySet(NamedTuple):
    """RDPGFX_CAPSET, 2.2.1.6; `data` is its flags, but for version 10.1, which has none."""

    version: int
    data: bytes


def split(message: bytes) -> Iterator[Pdu]:
    """Yield the messages that stand in one another's wake; raises WireError."""
    reader = Reader(message, what="a message of the graphics pipeline")
    while reader.left:
        command, flags, size = reader.u16(), reader.u16(), reader.u32()
        yield Pdu(command, flags, reader.take(size - HEADER.size))


def build(command: int, body: bytes, flags: int = 0) -> bytes:
    """Write a message."""
    return HEADER.pack(command, flags, len(body) + HEADER.size) + body


# ---------------------------------------------------------------------------------------------- what a client says


class OwnFrames:
    """Frames of our own among the target's: their numbers, and how many of them the client has acknowledged."""

    FIRST: Final = 0xF000_0000  # of their numbers: servers count up from 0

    def __init__(self) -> None:
        self._next = self.FIRST
        self._open: set[int] = set()
        self._seen = 0

    def number(self) -> int:
        """Give the number of a new frame."""
        frame, self._next = self._next, self._next + 1
        self._open.add(frame)
        return frame

    def acknowledged(self, frame: int) -> bool:
        """Tell whether it is one of ours."""
        return frame in self._open

    def without(self, body: bytes) -> bytes | None:
        """Give a Frame Acknowledge as the target may know it, None for one of ours; raises WireError."""
        if len(body) < _ACKNOWLEDGE.size:
            raise WireError("an acknowledgement of a frame is cut short")
        depth, frame, total = _ACKNOWLEDGE.unpack_from(body)
        if frame in self._open:
            self._open.discard(frame)
            self._seen += 1
            return None
        return _ACKNOWLEDGE.pack(depth, frame, max(0, total - self._seen)) + body[_ACKNOWLEDGE.size :]


def from_client(message: bytes, policy: Graphics, own: OwnFrames) -> bytes:
    """Give what a target may know of a client's message, which is empty when nothing of it is left; raises WireError."""
    return b"".join(_passed(pdu, policy, own) for pdu in split(message))


def _passed(pdu: Pdu, policy: Graphics, own: OwnFrames) -> bytes:
    body: bytes | None = pdu.body
    match pdu.command:
        case Command.CAPSADVERTISE:
            body = build_capabilities(limited(parse_capabilities(pdu.body), policy))
        case Command.CACHEIMPORTOFFER:
            return b""  # rule 2; a server that is offered nothing asks for nothing
        case Command.FRAMEACKNOWLEDGE:
            body = own.without(pdu.body)
        case Command.QOEFRAMEACKNOWLEDGE if own.acknowledged(int.from_bytes(pdu.body[:4], "little")):
            return b""
    return b"" if body is None else build(pdu.command, body, pdu.flags)


def parse_capabilities(body: bytes) -> list[CapabilitySet]:
    """Read RDPGFX_CAPS_ADVERTISE_PDU, 2.2.2.18; raises WireError."""
    reader = Reader(body, what="an offer of graphics")
    count = reader.u16()
    if count > MAX_SETS:
        raise WireError(f"{reader.what} has too many capability sets")
    return [CapabilitySet(reader.u32(), reader.take(reader.u32())) for _ in range(count)]


def build_capabilities(sets: list[CapabilitySet]) -> bytes:
    """Write RDPGFX_CAPS_ADVERTISE_PDU, 2.2.2.18."""
    return u16(len(sets)) + b"".join(_SET.pack(one.version, len(one.data)) + one.data for one in sets)


def limited(sets: list[CapabilitySet], policy: Graphics) -> list[CapabilitySet]:
    """Give what a policy leaves of a client's capability sets; raises WireError when that is nothing."""
    kept = [left for one in sets if (left := _limited(one, policy)) is not None]
    if not kept:
        raise WireError("offers no graphics that can be recorded")
    return kept


def _limited(one: CapabilitySet, policy: Graphics) -> CapabilitySet | None:
    modern = one.version >= Version.V10
    if one.version not in set(Version) or (modern and policy == "avc420"):
        return None
    if one.version == Version.V101:  # it means that H.264 is known at full colour
        return None if policy == "noavc" else one
    if len(one.data) != 4:
        raise WireError("a capability set of graphics has a wrong length")
    flags = int.from_bytes(one.data, "little") & _KNOWN
    if one.version == Version.V107:
        flags |= Flag.SCALEDMAP_DISABLE
    if policy == "noavc":
        flags &= ~int(Flag.AVC420_ENABLED | Flag.AVC_THINCLIENT)
        flags |= Flag.AVC_DISABLED if modern else 0
    return CapabilitySet(one.version, u32(flags))
