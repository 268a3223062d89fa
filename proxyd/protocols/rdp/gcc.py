"""The conference's settings (GCC, T.124): what client and server tell each other inside MCS's connect messages.

Rule 1: blocks are kept as they came, unknown ones too; an edit changes the bytes of its field and no others.
Rule 2: a field that a block is too short to have is not there: it reads as its default, and an edit of it does nothing.
Rule 3: of blocks that may come once only the first counts, for peers and for us; a second one is refused.

MS-RDPBCGR 2.2.1.3 and 2.2.1.4; blocks 2.2.1.3.1 (TS_UD_HEADER) to 2.2.1.4.6.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.mcs import GLOBAL_CHANNEL, per_length, to_per_length
from proxyd.protocols.rdp.wire import Protocol, Reader, WireError, text, u16, u32

Blocks = tuple["Block", ...]

_T124: Final = bytes.fromhex(
    "000500147c0001"
)  # T.124 8.7: the key, {itu-t recommendation t 124 version(0) 1}
_CREATE_REQUEST: Final = (
    bytes.fromhex("0008001000") + b"\x01\xc0\x00"
)  # ConferenceCreateRequest with user data
_CLIENT_KEY: Final = b"Duca"  # H.221 keys, MS-RDPBCGR 2.2.1.3 and 2.2.1.4
_SERVER_KEY: Final = b"McDn"
_CREATE_RESPONSE: Final = 0x14
_NODE: Final = 0x79F3 - 1001  # MS-RDPBCGR 4.1.4: the node Windows is; nobody reads it
_RESPONSE_HEAD: Final = Struct(">BHBBBB2s")  # choice, node, tag's length and value, result, sets, set's kind
_USER_DATA_SET: Final = b"\xc0\x00"  # h221NonStandard, a key of four bytes
_BLOCK: Final = Struct("<HH")
MAX_CHANNELS: Final = 31  # MS-RDPBCGR 2.2.1.3.4
MAX_MONITORS: Final = 16  # 2.2.1.3.6
_CHANNEL: Final = Struct("<8sI")
_MONITOR: Final = Struct("<iiiiI")
RDP_VERSION: Final = 0x00080004  # 2.2.1.4.2: 5.0 to 8.1, what servers say to which newer ones do not matter


class Kind(enum.IntEnum):
    """Types of blocks, 2.2.1.3.1."""

    CS_CORE = 0xC001
    CS_SECURITY = 0xC002
    CS_NET = 0xC003
    CS_CLUSTER = 0xC004
    CS_MONITOR = 0xC005
    CS_MCS_MSGCHANNEL = 0xC006
    CS_MONITOR_EX = 0xC008
    CS_MULTITRANSPORT = 0xC00A
    SC_CORE = 0x0C01
    SC_SECURITY = 0x0C02
    SC_NET = 0x0C03
    SC_MCS_MSGCHANNEL = 0x0C04
    SC_MULTITRANSPORT = 0x0C08


class Early(enum.IntFlag):
    """earlyCapabilityFlags of a client, 2.2.1.3.2."""

    SUPPORT_ERRINFO_PDU = 0x0001
    WANT_32BPP_SESSION = 0x0002
    SUPPORT_STATUSINFO_PDU = 0x0004
    STRONG_ASYMMETRIC_KEYS = 0x0008
    RELATIVE_MOUSE_INPUT = 0x0010
    VALID_CONNECTION_TYPE = 0x0020
    SUPPORT_MONITOR_LAYOUT_PDU = 0x0040
    SUPPORT_NETCHAR_AUTODETECT = 0x0080
    SUPPORT_DYNVC_GFX_PROTOCOL = 0x0100
    SUPPORT_DYNAMIC_TIME_ZONE = 0x0200
    SUPPORT_HEARTBEAT_PDU = 0x0400
    SUPPORT_SKIP_CHANNELJOIN = 0x0800


OWN_PHASES: Final = (
    Early.SUPPORT_NETCHAR_AUTODETECT | Early.SUPPORT_HEARTBEAT_PDU | Early.SUPPORT_SKIP_CHANNELJOIN
)
"""What a target may not be told when the client was connected before it: those phases we answer ourselves."""


class ChannelOption(enum.IntFlag):
    """Options of a static virtual channel that matter here, CHANNEL_DEF 2.2.1.3.4.1."""

    COMPRESS_RDP = 0x00800000
    COMPRESS = 0x00400000
    SHOW_PROTOCOL = 0x00200000


class Block(NamedTuple):
    """A block; `body` is what follows its header."""

    kind: int
    body: bytes


class ClientCore(NamedTuple):
    """What is read of TS_UD_CS_CORE, 2.2.1.3.2."""

    version: int
    width: int
    height: int
    layout: int  # keyboardLayout: a Windows input locale
    build: int
    name: str
    keyboard_type: int
    keyboard_subtype: int
    function_keys: int
    depth: int = 0  # highColorDepth; 0: not said
    early: Early = Early(0)
    selected: Protocol | None = None  # serverSelectedProtocol
    scale: int = 100  # desktopScaleFactor, in percent


class Channel(NamedTuple):
    """A static virtual channel a client asks for, CHANNEL_DEF 2.2.1.3.4.1."""

    name: str
    options: int


class Monitor(NamedTuple):
    """TS_MONITOR_DEF, 2.2.1.3.6.1; right and bottom are inside."""

    left: int
    top: int
    right: int
    bottom: int
    flags: int


class ServerCore(NamedTuple):
    """TS_UD_SC_CORE, 2.2.1.4.2."""

    version: int
    requested: Protocol | None = None  # clientRequestedProtocols: what the client's X.224 request asked for


class ServerNetwork(NamedTuple):
    """TS_UD_SC_NET, 2.2.1.4.4: the channels' ids, in the order in which the client asked for them."""

    io: int
    channels: tuple[int, ...]


class ServerSecurity(NamedTuple):
    """The beginning of TS_UD_SC_SEC1, 2.2.1.4.3; both are 0 under TLS."""

    method: int
    level: int


# ---------------------------------------------------------------------------------------------- the conference


def parse_create_request(user_data: bytes) -> Blocks:
    """Read a Conference Create Request into its blocks; raises WireError."""
    reader = Reader(user_data, what="a conference's request")
    reader.expect(_T124)
    per_length(reader)  # of what follows; old clients count it wrong
    reader.expect(_CREATE_REQUEST + _CLIENT_KEY)
    return _blocks(reader)


def build_create_request(blocks: Iterable[Block]) -> bytes:
    """Write a Conference Create Request."""
    data = _build_blocks(blocks)
    body = _CREATE_REQUEST + _CLIENT_KEY + to_per_length(len(data)) + data
    return _T124 + to_per_length(len(body)) + body


def parse_create_response(user_data: bytes) -> Blocks:
    """Read a Conference Create Response into its blocks; raises WireError."""
    reader = Reader(user_data, what="a conference's response")
    reader.expect(_T124)
    per_length(reader)  # of what follows; Windows and xrdp say 42 whatever it is
    reader.expect(bytes((_CREATE_RESPONSE,)))
    reader.u16_big()  # node
    reader.skip(reader.u8())  # tag
    result, sets = reader.u8(), reader.u8()
    if result or sets != 1:
        raise WireError("a conference's response refuses")
    reader.expect(_USER_DATA_SET + _SERVER_KEY)
    return _blocks(reader)


def build_create_response(blocks: Iterable[Block]) -> bytes:
    """Write a Conference Create Response."""
    data = _build_blocks(blocks)
    body = _RESPONSE_HEAD.pack(_CREATE_RESPONSE, _NODE, 1, 1, 0, 1, _USER_DATA_SET)
    body += _SERVER_KEY + to_per_length(len(data)) + data
    return _T124 + to_per_length(len(body)) + body


def _blocks(reader: Reader) -> Blocks:
    reader = reader.part(per_length(reader), reader.what)
    found: dict[int, Block] = {}
    while reader.left:
        kind, size = reader.u16(), reader.u16()
        if kind in found:
            raise WireError(f"{reader.what} has a block twice")
        found[kind] = Block(kind, reader.take(size - _BLOCK.size))
    return tuple(found.values())


def _build_blocks(blocks: Iterable[Block]) -> bytes:
    return b"".join(_BLOCK.pack(kind, len(body) + _BLOCK.size) + body for kind, body in blocks)


def find(blocks: Blocks, kind: Kind) -> bytes | None:
    """Give the body of the block of a kind, None without one."""
    return next((block.body for block in blocks if block.kind == kind), None)


def edit(blocks: Blocks, kind: Kind, change: Callable[[bytes], bytes]) -> Blocks:
    """Give the blocks with the body of one changed."""
    return tuple(Block(block.kind, change(block.body)) if block.kind == kind else block for block in blocks)


def without(blocks: Blocks, *kinds: Kind) -> Blocks:
    """Give the blocks without those of some kinds."""
    return tuple(block for block in blocks if block.kind not in kinds)


# ---------------------------------------------------------------------------------------------- what a client says

_CORE: Final = Struct("<IHHHHII32sIII")  # CS_CORE, 2.2.1.3.2, as every client has it, but for imeFileName
_CORE_LEAST: Final = _CORE.size + 64  # with imeFileName
_POST_BETA2_DEPTH: Final = 128
_HIGH_DEPTH: Final = 136
_SUPPORTED_DEPTHS: Final = 138
_EARLY: Final = 140
_SELECTED: Final = 208
_SCALE: Final = 222
_DEVICE_SCALE: Final = 226
_SCALES: Final = range(
    100, 501
)  # 2.2.1.3.2: of desktopScaleFactor; out of it, or with another device's, it is not said
_DEVICE_SCALES: Final = frozenset({100, 140, 180})
_DEPTH_16: Final = 0x0002  # RNS_UD_16BPP_SUPPORT
_BETA2_16: Final = 0xCA03  # RNS_UD_COLOR_16BPP_565


def client_core(blocks: Blocks) -> ClientCore:
    """Read CS_CORE, 2.2.1.3.2, which every client sends; raises WireError."""
    body = find(blocks, Kind.CS_CORE)
    if body is None or len(body) < _CORE_LEAST:
        raise WireError("a client says nothing of its core settings")
    version, width, height, _, _, layout, build, name, kind, subtype, keys = _CORE.unpack_from(body)
    selected = _get(body, _SELECTED, 4)
    scale = _get(body, _SCALE, 4)
    said = scale in _SCALES and _get(body, _DEVICE_SCALE, 4) in _DEVICE_SCALES
    return ClientCore(
        version, width, height, layout, build, text(name), kind, subtype, keys,
        depth=_get(body, _HIGH_DEPTH, 2) or 0,
        early=Early(_get(body, _EARLY, 2) or 0),
        selected=None if selected is None else Protocol(selected),
        scale=scale if scale is not None and said else 100,
    )  # fmt: skip


def channels(blocks: Blocks) -> tuple[Channel, ...]:
    """Read CS_NET, 2.2.1.3.4: the static virtual channels a client asks for; raises WireError."""
    return tuple(map(_channel, _channel_definitions(find(blocks, Kind.CS_NET))))


def monitors(blocks: Blocks) -> tuple[Monitor, ...]:
    """Read CS_MONITOR, 2.2.1.3.6; raises WireError."""
    body = find(blocks, Kind.CS_MONITOR)
    if body is None:
        return ()
    reader = Reader(body, what="a list of monitors")
    reader.u32()  # flags, unused
    count = reader.u32()
    if count > MAX_MONITORS or count * _MONITOR.size != reader.left:
        raise WireError("a list of monitors has a wrong length")
    return tuple(Monitor._make(values) for values in _MONITOR.iter_unpack(reader.rest()))


def set_selected(blocks: Blocks, selected: Protocol) -> Blocks:
    """Give the blocks with the serverSelectedProtocol the target must find there: the one it selected itself."""
    return edit(blocks, Kind.CS_CORE, lambda body: _put(body, _SELECTED, u32(selected)))


def clear_early(blocks: Blocks, flags: Early) -> Blocks:
    """Give the blocks without some earlyCapabilityFlags."""

    def change(body: bytes) -> bytes:
        early = _get(body, _EARLY, 2)
        return body if early is None else _put(body, _EARLY, u16(early & ~int(flags)))

    return edit(blocks, Kind.CS_CORE, change)


def set_depth_16(blocks: Blocks) -> Blocks:
    """Give the blocks of a client that knows no other colours than those of 16 bits."""

    def change(body: bytes) -> bytes:
        for at, value in ((_POST_BETA2_DEPTH, _BETA2_16), (_HIGH_DEPTH, 16), (_SUPPORTED_DEPTHS, _DEPTH_16)):
            body = _put(body, at, u16(value))
        return body

    return clear_early(edit(blocks, Kind.CS_CORE, change), Early.WANT_32BPP_SESSION)


def edit_channels(blocks: Blocks, change: Callable[[Channel], Channel]) -> Blocks:
    """Give the blocks with the channels changed one by one: names and options, never their number; raises WireError."""

    def rewrite(body: bytes) -> bytes:
        definitions = _channel_definitions(body)
        return u32(len(definitions)) + b"".join(
            _changed(raw, options, change) for raw, options in definitions
        )

    return edit(blocks, Kind.CS_NET, rewrite)


def keep_channels(blocks: Blocks, kept: Iterable[bool]) -> Blocks:
    """Give the blocks with only some of the channels, `kept` one by one in their order; raises WireError."""
    choice = list(kept)

    def rewrite(body: bytes) -> bytes:
        definitions = zip(_channel_definitions(body), choice, strict=True)
        left = [_CHANNEL.pack(*definition) for definition, passes in definitions if passes]
        return u32(len(left)) + b"".join(left)

    return edit(blocks, Kind.CS_NET, rewrite)


def clear_multitransport(blocks: Blocks) -> Blocks:
    """Give the blocks of a client that wants no other transport (2.2.1.3.8): UDP would pass the proxy by."""
    return edit(blocks, Kind.CS_MULTITRANSPORT, lambda body: _put(body, 0, u32(0)))


def _channel_definitions(body: bytes | None) -> list[tuple[bytes, int]]:
    if body is None:
        return []
    reader = Reader(body, what="a list of channels")
    count = reader.u32()
    if count > MAX_CHANNELS or count * _CHANNEL.size > reader.left:
        raise WireError("a list of channels has a wrong length")
    return [(name, options) for name, options in _CHANNEL.iter_unpack(reader.take(count * _CHANNEL.size))]


def _channel(definition: tuple[bytes, int]) -> Channel:
    return Channel(definition[0].split(b"\0", 1)[0].decode("latin-1"), definition[1])


def _changed(raw: bytes, options: int, change: Callable[[Channel], Channel]) -> bytes:
    before = _channel((raw, options))
    after = change(before)
    name = raw if after.name == before.name else after.name.encode("latin-1")[:7].ljust(8, b"\0")
    return _CHANNEL.pack(name, after.options)


def _get(body: bytes, at: int, size: int) -> int | None:
    return int.from_bytes(body[at : at + size], "little") if at + size <= len(body) else None


def _put(body: bytes, at: int, value: bytes) -> bytes:
    end = at + len(value)
    return body[:at] + value + body[end:] if end <= len(body) else body


# ---------------------------------------------------------------------------------------------- what a server says

_REQUESTED: Final = 4  # of the body of SC_CORE, 2.2.1.4.2


def server_core(blocks: Blocks) -> ServerCore:
    """Read SC_CORE, 2.2.1.4.2; raises WireError."""
    body = find(blocks, Kind.SC_CORE)
    version = None if body is None else _get(body, 0, 4)
    if body is None or version is None:
        raise WireError("a server says nothing of its core settings")
    requested = _get(body, _REQUESTED, 4)
    return ServerCore(version, None if requested is None else Protocol(requested))


def server_network(blocks: Blocks) -> ServerNetwork:
    """Read SC_NET, 2.2.1.4.4; raises WireError."""
    body = find(blocks, Kind.SC_NET)
    if body is None:
        raise WireError("a server says nothing of its channels")
    reader = Reader(body, what="a list of channel numbers")
    io, count = reader.u16(), reader.u16()
    if count > MAX_CHANNELS:
        raise WireError("a list of channel numbers has a wrong length")
    return ServerNetwork(io, tuple(reader.u16() for _ in range(count)))


def server_security(blocks: Blocks) -> ServerSecurity:
    """Read SC_SECURITY, 2.2.1.4.3; raises WireError."""
    body = find(blocks, Kind.SC_SECURITY)
    if body is None:
        raise WireError("a server says nothing of its encryption")
    reader = Reader(body, what="a server's security settings")
    return ServerSecurity(reader.u32(), reader.u32())


def message_channel(blocks: Blocks) -> int | None:
    """Read SC_MCS_MSGCHANNEL, 2.2.1.4.5: the channel whose join the server waits for; None without one."""
    body = find(blocks, Kind.SC_MCS_MSGCHANNEL)
    return None if body is None else _get(body, 0, 2)


def set_requested(blocks: Blocks, requested: Protocol) -> Blocks:
    """Give the blocks with the clientRequestedProtocols the client must find there: those it asked us for."""
    return edit(blocks, Kind.SC_CORE, lambda body: _put(body, _REQUESTED, u32(requested)))


def server_blocks(requested: Protocol, channel_ids: Iterable[int], io: int = GLOBAL_CHANNEL) -> Blocks:
    """Give what we say as a server, in the order of Windows: some clients lose SC_NET when it comes last."""
    ids = tuple(channel_ids)
    network = u16(io) + u16(len(ids)) + b"".join(map(u16, ids))
    return (
        Block(Kind.SC_CORE, u32(RDP_VERSION) + u32(requested) + u32(0)),
        Block(Kind.SC_NET, network + b"\0\0" * (len(ids) & 1)),  # padded to four bytes
        Block(Kind.SC_SECURITY, u32(0) + u32(0)),
    )
