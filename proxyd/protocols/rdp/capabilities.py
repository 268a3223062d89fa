"""What client and server say they can do, and the edits after which only bitmaps are painted, and the graphics pipeline.

Rule 1: whatever a peer sends is a value or a WireError. Sets are kept as they came, unknown ones too.
Rule 2: after the edits a server has no way left to paint but bitmap updates and pointers, and where the target's policy
        has them (`graphics`) the pipeline and surface commands by RemoteFX; nothing is cached on the client's disk, and
        channels are not compressed: a recording can be decoded from its first byte alone.
Rule 3: both sides are edited, so that neither relies on what the other no longer knows.

MS-RDPBCGR 2.2.1.13.1 (Demand Active), 2.2.1.13.2 (Confirm Active), 2.2.7 (capability sets); MS-RDPRFX 2.2.1.1.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from struct import Struct
from typing import Final, NamedTuple

from proxyd.decoders import Graphics
from proxyd.protocols.rdp import gcc
from proxyd.protocols.rdp.gcc import Blocks, Channel, ChannelOption, Early
from proxyd.protocols.rdp.info import ClientInfo, InfoFlag, cap_compression
from proxyd.protocols.rdp.mcs import SERVER_USER
from proxyd.protocols.rdp.share import Control, ControlKind
from proxyd.protocols.rdp.wire import Reader, WireError, u16, u32

MAX_SETS: Final = 64  # there are 30 kinds, and each comes once
ORIGINATOR: Final = 0x03EA  # originatorId of a Confirm Active: always the server's user, 2.2.1.13.2.1
_SET_HEADER: Final = 4


class SetKind(enum.IntEnum):
    """Kinds of capability sets, 2.2.1.13.1.1.1."""

    GENERAL = 1
    BITMAP = 2
    ORDER = 3
    BITMAPCACHE = 4
    CONTROL = 5
    ACTIVATION = 7
    POINTER = 8
    SHARE = 9
    COLORCACHE = 10
    SOUND = 12
    INPUT = 13
    FONT = 14
    BRUSH = 15
    GLYPHCACHE = 16
    OFFSCREENCACHE = 17
    BITMAPCACHE_HOSTSUPPORT = 18
    BITMAPCACHE_REV2 = 19
    VIRTUALCHANNEL = 20
    DRAWNINEGRIDCACHE = 21
    DRAWGDIPLUS = 22
    RAIL = 23
    WINDOW = 24
    COMPDESK = 25
    MULTIFRAGMENTUPDATE = 26
    LARGE_POINTER = 27
    SURFACE_COMMANDS = 28
    BITMAP_CODECS = 29
    FRAME_ACKNOWLEDGE = 30


class Set(NamedTuple):
    """A capability set; `body` is what follows its header."""

    kind: int
    body: bytes


class Active(NamedTuple):
    """A Demand Active of a server or a Confirm Active of a client."""

    share_id: int
    source: int  # pduSource: whose it is
    descriptor: bytes
    sets: tuple[Set, ...]
    session: int = 0  # sessionId, of a Demand Active only

    def find(self, kind: SetKind) -> bytes | None:
        """Give the body of the set of a kind, None without one."""
        return next((found.body for found in self.sets if found.kind == kind), None)


class Desktop(NamedTuple):
    """The size of the screen and its colours, TS_BITMAP_CAPABILITYSET 2.2.7.1.2."""

    width: int
    height: int
    depth: int


# ---------------------------------------------------------------------------------------------- layouts


def parse_demand_active(control: Control) -> Active:
    """Read a Demand Active PDU, 2.2.1.13.1.1; raises WireError."""
    reader = _open(control, ControlKind.DEMAND_ACTIVE, "a demand active")
    share_id = reader.u32()
    descriptor, sets = _sets(reader)
    session = reader.u32() if reader.left >= 4 else 0  # some servers leave it out
    return Active(share_id, control.source, descriptor, sets, session)


def parse_confirm_active(control: Control) -> Active:
    """Read a Confirm Active PDU, 2.2.1.13.2.1; raises WireError."""
    reader = _open(control, ControlKind.CONFIRM_ACTIVE, "a confirm active")
    share_id = reader.u32()
    reader.u16()  # originatorId
    descriptor, sets = _sets(reader)
    return Active(share_id, control.source, descriptor, sets)


def _open(control: Control, kind: ControlKind, what: str) -> Reader:
    if control.kind != kind:
        raise WireError(f"sent something else than {what}")
    return Reader(control.body, what=what)


def _sets(reader: Reader) -> tuple[bytes, tuple[Set, ...]]:
    descriptor_size, combined = reader.u16(), reader.u16()
    descriptor = reader.take(descriptor_size)
    sets = reader.part(combined, reader.what)
    count = sets.u16()
    sets.u16()  # pad
    if count > MAX_SETS:
        raise WireError(f"{reader.what} has too many capability sets")
    return descriptor, tuple(_set(sets) for _ in range(count))


def _set(reader: Reader) -> Set:
    kind, size = reader.u16(), reader.u16()
    return Set(kind, reader.take(size - _SET_HEADER))


def build_demand_active(active: Active) -> Control:
    """Write a Demand Active PDU, 2.2.1.13.1.1."""
    body = u32(active.share_id) + _build_sets(active) + u32(active.session)
    return Control(ControlKind.DEMAND_ACTIVE, active.source, body)


def build_confirm_active(active: Active) -> Control:
    """Write a Confirm Active PDU, 2.2.1.13.2.1."""
    body = u32(active.share_id) + u16(ORIGINATOR) + _build_sets(active)
    return Control(ControlKind.CONFIRM_ACTIVE, active.source, body)


def _build_sets(active: Active) -> bytes:
    sets = b"".join(u16(kind) + u16(len(body) + _SET_HEADER) + body for kind, body in active.sets)
    sizes = u16(len(active.descriptor)) + u16(len(sets) + 4)  # with their count and its pad
    return sizes + active.descriptor + u16(len(active.sets)) + u16(0) + sets


# ---------------------------------------------------------------------------------------------- what is read

_BITMAP_DEPTH: Final = 0  # in the body of the set, 2.2.7.1.2
_BITMAP_SIZE: Final = 8
_BITMAP_DRAWING: Final = 19  # drawingFlags
_BITMAP_LEAST: Final = 20


def desktop(active: Active) -> Desktop:
    """Give the screen a Demand Active announces; raises WireError when it says nothing of it."""
    body = active.find(SetKind.BITMAP)
    if body is None:
        raise WireError("a server says nothing of its screen")
    reader = Reader(body, what="a bitmap capability set")
    depth = reader.u16()
    reader.skip(_BITMAP_SIZE - 2)
    return Desktop(reader.u16(), reader.u16(), depth)


# ---------------------------------------------------------------------------------------------- the edits

_NO_COPY: Final = frozenset(
    {
        SetKind.GLYPHCACHE,
        SetKind.OFFSCREENCACHE,
        SetKind.BITMAPCACHE_HOSTSUPPORT,  # in a Demand Active; with it a client would send the keys of its disk cache
        SetKind.BITMAPCACHE_REV2,
        SetKind.DRAWNINEGRIDCACHE,
        SetKind.DRAWGDIPLUS,
        SetKind.RAIL,
        SetKind.WINDOW,
        SetKind.COMPDESK,
    }
)
"""Sets that name other ways to paint than bitmap updates."""
_SURFACES: Final = frozenset({SetKind.SURFACE_COMMANDS, SetKind.BITMAP_CODECS, SetKind.FRAME_ACKNOWLEDGE})
"""Sets of those who paint by surface commands, each with a codec that both know."""
_REMOTEFX: Final = bytes.fromhex("122f777672bd6344afb3b73c9c6f7886")  # CODEC_GUID_REMOTEFX, 2.2.7.2.10.1.1
_GUID: Final = 16
_WITHOUT_REMOTEFX: Final = frozenset[Graphics]({"bitmap", "avc420"})

_ORDER_FLAGS: Final = 30  # in the body of TS_ORDER_CAPABILITYSET, 2.2.7.1.3
_ORDER_SUPPORT: Final = 32
_ORDER_SUPPORTS: Final = 32  # bytes, one for each kind of order
_ORDER_EXTRA: Final = 66  # orderSupportExFlags
_NEGOTIATE_ORDERS: Final = 0x0002 | 0x0008  # NEGOTIATEORDERSUPPORT, ZEROBOUNDSDELTASSUPPORT: both must be set
_EXTRA_FLAGS: Final = 0x0080  # ORDERFLAGS_EXTRA_FLAGS: orderSupportExFlags counts
_GENERAL_FLAGS: Final = 10  # extraFlags in the body of TS_GENERAL_CAPABILITYSET, 2.2.7.1.1
_AUTORECONNECT: Final = 0x0008  # AUTORECONNECT_SUPPORTED: a server sends its cookie to who has it
_LOSSY: Final = 0x02 | 0x04  # DRAW_ALLOW_DYNAMIC_COLOR_FIDELITY, DRAW_ALLOW_COLOR_SUBSAMPLING: not decoded
_COMPRESSED_CHANNEL: Final = ChannelOption.COMPRESS_RDP | ChannelOption.COMPRESS
_RAIL: Final = InfoFlag.RAIL | InfoFlag.HIDEF_RAIL_SUPPORTED
DEPTH_16: Final = 16
DEPTH_32: Final = 32


def bitmap_request(blocks: Blocks, depth: int = DEPTH_32, *, pipeline: bool = False) -> Blocks:
    """Give what a client asks for in its conference request: no UDP, 32 or 16 bits, perhaps the graphics pipeline.

    A client that does not want 32 bits gets 16: 24 bits are what decoders are worst at. Raises WireError.
    """
    if not pipeline:
        blocks = gcc.clear_early(blocks, Early.SUPPORT_DYNVC_GFX_PROTOCOL)
    blocks = gcc.clear_multitransport(gcc.edit_channels(blocks, _uncompressed))
    if depth == DEPTH_16 or not gcc.client_core(blocks).early & Early.WANT_32BPP_SESSION:
        blocks = gcc.set_depth_16(blocks)
    return blocks


def _uncompressed(channel: Channel) -> Channel:
    return channel._replace(options=channel.options & ~int(_COMPRESSED_CHANNEL))


def bitmap_info(info: ClientInfo, *, compressed: bool = True) -> ClientInfo:
    """Give Client Info of a client whose updates can be inflated or are plain, and that paints no windows of its own."""
    dropped = int(_RAIL) if compressed else int(_RAIL | InfoFlag.COMPRESSION | InfoFlag.COMPRESSION_TYPE)
    return cap_compression(replace(info, flags=InfoFlag(info.flags & ~dropped)))


def limited(active: Active, graphics: Graphics = "bitmap") -> Active:
    """Give what a policy leaves of a server's Demand Active or a client's Confirm Active; raises WireError."""
    kept = [_edited(found) for found in active.sets if found.kind not in _NO_COPY]
    codecs = active.find(SetKind.BITMAP_CODECS)
    left = _remotefx(codecs) if codecs is not None and graphics not in _WITHOUT_REMOTEFX else b""
    if not left:
        return active._replace(sets=tuple(one for one in kept if one.kind not in _SURFACES))
    return active._replace(
        sets=tuple(Set(one.kind, left) if one.kind == SetKind.BITMAP_CODECS else one for one in kept)
    )


def _remotefx(codecs: bytes) -> bytes:
    """Give a bitmap codecs set, 2.2.7.2.10, that has no codec but RemoteFX; empty without it. Raises WireError."""
    reader = Reader(codecs, what="a set of bitmap codecs")
    for _ in range(reader.u8()):
        guid, number, size = reader.take(_GUID), reader.u8(), reader.u16()
        properties = reader.take(size)
        if guid == _REMOTEFX:
            return b"\1" + guid + bytes((number,)) + u16(size) + properties
    return b""


def _edited(found: Set) -> Set:
    kind, body = found
    match kind:
        case SetKind.ORDER if len(body) >= _ORDER_EXTRA + 2:
            flags = int.from_bytes(body[_ORDER_FLAGS:_ORDER_SUPPORT], "little")
            flags = flags & ~_EXTRA_FLAGS | _NEGOTIATE_ORDERS
            body = (
                body[:_ORDER_FLAGS]
                + u16(flags)
                + bytes(_ORDER_SUPPORTS)
                + body[_ORDER_SUPPORT + _ORDER_SUPPORTS :]
            )
            body = body[:_ORDER_EXTRA] + u16(0) + body[_ORDER_EXTRA + 2 :]
        case SetKind.BITMAPCACHE:
            body = bytes(len(body))
        case SetKind.GENERAL if len(body) >= _GENERAL_FLAGS + 2:
            flags = int.from_bytes(body[_GENERAL_FLAGS : _GENERAL_FLAGS + 2], "little")
            body = body[:_GENERAL_FLAGS] + u16(flags & ~_AUTORECONNECT) + body[_GENERAL_FLAGS + 2 :]
        case SetKind.BITMAP if len(body) >= _BITMAP_LEAST:
            drawing = body[_BITMAP_DRAWING] & ~_LOSSY
            body = body[:_BITMAP_DRAWING] + bytes((drawing,)) + body[_BITMAP_DRAWING + 1 :]
        case SetKind.VIRTUALCHANNEL:
            body = u32(0) + body[4:]
    return Set(kind, body)


# ---------------------------------------------------------------------------------------------- a server of our own

OUR_SHARE: Final = 0x000103EA  # as Windows numbers its first share
_GENERAL: Final = Struct("<9HBB")
_BITMAP: Final = Struct("<9HBBHH")
_ORDER: Final = Struct("<16sI6H32sHHIIHHHH")
_INPUT: Final = Struct("<HHIIII64s")
_FASTPATH_OUTPUT: Final = 0x0001
_LONG_CREDENTIALS: Final = 0x0004
_NO_BITMAP_HEADER: Final = 0x0400
_INPUT_FLAGS: Final = 0x0001 | 0x0004 | 0x0010 | 0x0020  # scancodes, MOUSEX, UNICODE, FASTPATH_INPUT2
_CHUNK: Final = 1600  # CHANNEL_CHUNK_LENGTH
_MAX_FRAGMENTS: Final = 0x3F0000  # MaxRequestSize of 2.2.7.2.6
_DESKTOP_SAVE: Final = 480 * 480


def our_demand_active(width: int, height: int, depth: int = DEPTH_32) -> Active:
    """Give the Demand Active of a screen the proxy draws itself, before there is a target."""
    flags = _FASTPATH_OUTPUT | _LONG_CREDENTIALS | _NO_BITMAP_HEADER
    general = _GENERAL.pack(1, 3, 0x0200, 0, 0, flags, 0, 0, 0, 1, 1)
    bitmap = _BITMAP.pack(depth, 1, 1, 1, width, height, 0, 1, 1, 0, 0x08, 1, 0)
    order = _ORDER.pack(
        b"", 0, 1, 20, 0, 1, 0, _NEGOTIATE_ORDERS | 0x20, b"", 0, 0, 0, _DESKTOP_SAVE, 0, 0, 0, 0
    )
    sets = (
        Set(SetKind.SHARE, u16(SERVER_USER) + u16(0)),
        Set(SetKind.GENERAL, general),
        Set(SetKind.BITMAP, bitmap),
        Set(SetKind.ORDER, order),
        Set(SetKind.POINTER, u16(1) + u16(25) + u16(25)),
        Set(SetKind.INPUT, _INPUT.pack(_INPUT_FLAGS, 0, 0, 0, 0, 0, b"")),
        Set(SetKind.VIRTUALCHANNEL, u32(0) + u32(_CHUNK)),
        Set(SetKind.MULTIFRAGMENTUPDATE, u32(_MAX_FRAGMENTS)),
    )
    return Active(OUR_SHARE, SERVER_USER, b"RDP\0", sets)
