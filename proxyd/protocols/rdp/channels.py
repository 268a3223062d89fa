"""Virtual channels: the chunks of the static ones, and the dynamic ones that run inside one of them.

Rule 1: whatever a peer sends is a value or a WireError.
Rule 2: what is put together grows with what has arrived, up to a limit; of a longer message the beginning is given,
        and that it is cut is said.
Rule 3: compressed data is refused where it would have to be read: the capabilities were edited so that there is none.

MS-RDPBCGR 2.2.6.1 (Virtual Channel PDU), MS-RDPEDYC 2.2 (dynamic channels).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import Reader, WireError, u16, u32

_HEADER: Final = Struct("<II")  # CHANNEL_PDU_HEADER, 2.2.6.1.1: length of the message, flags
CHUNK: Final = 1600  # CHANNEL_CHUNK_LENGTH: what every peer takes
MAX_MESSAGE: Final = 1 << 20  # bytes kept of a message: more than any text a person pastes
MAX_DYNAMIC: Final = 256  # dynamic channels open at once; Windows opens about 20


class ChannelFlag(enum.IntFlag):
    """Flags of a chunk, 2.2.6.1.1."""

    FIRST = 0x00000001
    LAST = 0x00000002
    SHOW_PROTOCOL = 0x00000010
    SUSPEND = 0x00000020
    RESUME = 0x00000040
    SHADOW_PERSISTENT = 0x00000080
    PACKET_COMPRESSED = 0x00200000
    PACKET_AT_FRONT = 0x00400000
    PACKET_FLUSHED = 0x00800000


class Chunk(NamedTuple):
    """A Virtual Channel PDU: a piece of a message of `total` bytes."""

    total: int
    flags: int
    data: bytes


class ChannelMessage(NamedTuple):
    """A message of a channel; `data` is its beginning when it is not `whole`."""

    total: int
    data: bytes

    @property
    def whole(self) -> bool:
        """Whether all of it is here."""
        return len(self.data) == self.total


def parse_chunk(payload: bytes) -> Chunk:
    """Read a Virtual Channel PDU, 2.2.6.1; raises WireError."""
    if len(payload) < _HEADER.size:
        raise WireError("a channel's chunk is cut short")
    total, flags = _HEADER.unpack_from(payload)
    return Chunk(total, flags, payload[_HEADER.size :])


def build_chunks(message: bytes, flags: int = 0, size: int = CHUNK) -> list[bytes]:
    """Write a message as the payloads of its Virtual Channel PDUs."""
    found = []
    for at in range(0, len(message) or 1, size):
        here = flags | ChannelFlag.FIRST * (at == 0) | ChannelFlag.LAST * (at + size >= len(message))
        found.append(_HEADER.pack(len(message), here) + message[at : at + size])
    return found


class _Gathering:
    """Puts a message together from its pieces and keeps at most `limit` bytes of it."""

    __slots__ = ("came", "kept", "limit", "total")

    def __init__(self, total: int, limit: int) -> None:
        self.total = total
        self.limit = limit
        self.came = 0
        self.kept = bytearray()

    def add(self, data: bytes) -> None:
        """Take a piece; raises WireError when the message gets longer than it said."""
        self.came += len(data)
        if self.came > self.total:
            raise WireError("a channel's message is longer than it said")
        self.kept += data[: max(0, self.limit - len(self.kept))]


class Reassembly:
    """The messages of a static channel in one direction, from its chunks."""

    __slots__ = ("_gathering", "_limit")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._gathering: _Gathering | None = None

    @property
    def held(self) -> int:
        """How many bytes are kept of a message that is not whole."""
        return len(self._gathering.kept) if self._gathering else 0

    def feed(self, payload: bytes) -> ChannelMessage | None:
        """Take the payload of a Virtual Channel PDU; gives the message with its last chunk. Raises WireError."""
        total, flags, data = parse_chunk(payload)
        if flags & ChannelFlag.PACKET_COMPRESSED:
            raise WireError("a channel's chunk is compressed")
        if flags & ChannelFlag.FIRST:
            if self._gathering is not None:
                raise WireError("a channel's message begins inside another")
            self._gathering = _Gathering(total, self._limit)
        gathering = self._gathering
        if gathering is None:
            if not data:
                return None  # SUSPEND and RESUME come alone, outside of messages
            raise WireError("a channel's message has no beginning")
        gathering.add(data)
        if not flags & ChannelFlag.LAST:
            return None
        self._gathering = None
        if gathering.came != gathering.total:
            raise WireError("a channel's message is shorter than it said")
        return ChannelMessage(gathering.total, bytes(gathering.kept))


# ---------------------------------------------------------------------------------------------- dynamic channels

GRAPHICS: Final = "Microsoft::Windows::RDS::Graphics"  # MS-RDPEGFX 1.7
DISPLAY_CONTROL: Final = "Microsoft::Windows::RDS::DisplayControl"  # MS-RDPEDISP 1.7
DYNAMIC_VERSION: Final = 2  # DYNVC_CAPS_VERSION2: version 3 compresses data
_SIZES: Final = (1, 2, 4)  # of numbers, by the two bits that say it
_SIZE_BITS: Final = 0x03
_COMMAND_SHIFT: Final = 4
_LENGTH_SHIFT: Final = 2
_VERSION_AT: Final = 2  # in a capabilities message, behind its header and pad
MAX_NAME: Final = 256  # characters of a channel's name


class Dynamic(enum.IntEnum):
    """Commands of MS-RDPEDYC 2.2."""

    CREATE = 0x1
    DATA_FIRST = 0x2
    DATA = 0x3
    CLOSE = 0x4
    CAPABILITIES = 0x5
    DATA_FIRST_COMPRESSED = 0x6
    DATA_COMPRESSED = 0x7
    SOFT_SYNC_REQUEST = 0x8
    SOFT_SYNC_RESPONSE = 0x9


class Capabilities(NamedTuple):
    """DYNVC_CAPS, MS-RDPEDYC 2.2.1."""

    version: int


class Create(NamedTuple):
    """DYNVC_CREATE_REQ of a server, 2.2.2.1."""

    channel: int
    name: str


class Created(NamedTuple):
    """DYNVC_CREATE_RSP of a client, 2.2.2.2; negative is a failure."""

    channel: int
    status: int


class DynamicData(NamedTuple):
    """DYNVC_DATA_FIRST with the message's `total`, or DYNVC_DATA, whose total is None, 2.2.3."""

    channel: int
    data: bytes
    total: int | None = None


class Close(NamedTuple):
    """DYNVC_CLOSE, 2.2.4."""

    channel: int


class Other(NamedTuple):
    """A command of later versions: soft sync to UDP, and compressed data."""

    command: int


DynamicMessage = Capabilities | Create | Created | DynamicData | Close | Other


def parse_dynamic(message: bytes, *, from_server: bool) -> DynamicMessage:
    """Read a message of the channel "drdynvc", MS-RDPEDYC 2.2; raises WireError."""
    reader = Reader(message, what="a dynamic channel's message")
    head = reader.u8()
    match head >> _COMMAND_SHIFT:
        case Dynamic.CAPABILITIES:
            reader.u8()  # pad
            return Capabilities(reader.u16())
        case Dynamic.CREATE:
            channel = _number(reader, head)
            return Create(channel, _name(reader)) if from_server else Created(channel, reader.i32())
        case Dynamic.DATA_FIRST:
            channel = _number(reader, head)
            total = _number(reader, head >> _LENGTH_SHIFT)
            return DynamicData(channel, reader.rest(), total)
        case Dynamic.DATA:
            return DynamicData(_number(reader, head), reader.rest())
        case Dynamic.CLOSE:
            return Close(_number(reader, head))
    return Other(head >> _COMMAND_SHIFT)


def _number(reader: Reader, bits: int) -> int:
    if bits & _SIZE_BITS >= len(_SIZES):
        raise WireError(f"{reader.what} has a number of impossible size")
    return int.from_bytes(reader.take(_SIZES[bits & _SIZE_BITS]), "little")


def _name(reader: Reader) -> str:
    name, end, _ = reader.rest().partition(b"\0")
    if not end or len(name) > MAX_NAME:
        raise WireError("a dynamic channel's name does not end")
    return name.decode("latin-1")


def limit_version(message: bytes, version: int = DYNAMIC_VERSION) -> bytes:
    """Give a capabilities message of either side that knows no later version; raises WireError."""
    if len(message) < _VERSION_AT + 2:
        raise WireError("a dynamic channel's message is cut short")
    if int.from_bytes(message[_VERSION_AT : _VERSION_AT + 2], "little") <= version:
        return message
    return message[:_VERSION_AT] + u16(version) + message[_VERSION_AT + 2 :]


def build_created(created: Created) -> bytes:
    """Write a DYNVC_CREATE_RSP, 2.2.2.2: the answer to a server whose channel the client shall not see."""
    return _build_head(Dynamic.CREATE, created.channel) + u32(created.status & 0xFFFFFFFF)


def build_close(channel: int) -> bytes:
    """Write a DYNVC_CLOSE, 2.2.4."""
    return _build_head(Dynamic.CLOSE, channel)


def build_answer(told: Capabilities | Create | Created | Close) -> bytes:
    """Write what a client says of its dynamic channels, and nothing behind it; of no version later than ours."""
    match told:
        case Capabilities(version):
            return bytes((Dynamic.CAPABILITIES << _COMMAND_SHIFT, 0)) + u16(min(version, DYNAMIC_VERSION))
        case Created():
            return build_created(told)
        case Close(channel):
            return build_close(channel)
        case Create():
            raise TypeError("only a server creates channels")


def build_dynamic_data(channel: int, data: bytes, size: int = CHUNK) -> Iterator[bytes]:
    """Write a message on a dynamic channel, 2.2.3, as messages of "drdynvc" of at most `size` bytes."""
    head = _build_head(Dynamic.DATA, channel)
    if len(head) + len(data) <= size:
        yield head + data
        return
    first = _build_head(Dynamic.DATA_FIRST, channel, 2 << _LENGTH_SHIFT) + u32(len(data))
    at = size - len(first)
    yield first + data[:at]
    for start in range(at, len(data), size - len(head)):
        yield head + data[start : start + size - len(head)]


def _build_head(command: Dynamic, channel: int, bits: int = 0) -> bytes:
    size = 0 if channel < 1 << 8 else 1 if channel < 1 << 16 else 2
    return bytes((command << _COMMAND_SHIFT | bits | size,)) + channel.to_bytes(_SIZES[size], "little")


class DynamicReassembly:
    """The messages of all dynamic channels in one direction."""

    __slots__ = ("_gathering", "_limit")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._gathering: dict[int, _Gathering] = {}

    @property
    def held(self) -> int:
        """How many bytes are kept of messages that are not whole."""
        return sum(len(gathering.kept) for gathering in self._gathering.values())

    def feed(self, data: DynamicData) -> ChannelMessage | None:
        """Take data; gives a message when it is complete. Raises WireError."""
        if data.total is not None:
            if data.channel in self._gathering:
                raise WireError("a dynamic channel's message begins inside another")
            if len(self._gathering) == MAX_DYNAMIC:
                raise WireError("too many dynamic channels")
            self._gathering[data.channel] = _Gathering(data.total, self._limit)
        gathering = self._gathering.get(data.channel)
        if gathering is None:
            return ChannelMessage(len(data.data), data.data[: self._limit])
        gathering.add(data.data)
        if gathering.came < gathering.total:
            return None
        del self._gathering[data.channel]
        return ChannelMessage(gathering.total, bytes(gathering.kept))

    def close(self, channel: int) -> None:
        """Forget what a channel that is closed had begun."""
        self._gathering.pop(channel, None)
