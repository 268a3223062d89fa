"""Sound of a session ("rdpsnd", and its dynamic channels): formats, and the waves that are played.

Rule 1: whatever a peer sends is a value or a WireError.
Rule 2: a wave names its format by its place in the client's list. So formats are taken away from the server's list,
        before the client makes its own of it; the client's is filtered too, for a client that names what nobody offered.

MS-RDPEA 2.2.2 (formats), 2.2.3 (waves).
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import Reader, WireError, u16

CHANNELS: Final = frozenset({"rdpsnd", "AUDIO_PLAYBACK_DVC", "AUDIO_PLAYBACK_LOSSY_DVC"})  # MS-RDPEA 2.1
_HEADER: Final = Struct("<BBH")  # SNDPROLOG, 2.2.1: msgType, pad, BodySize
_FORMATS: Final = Struct("<IIIHHBHB")  # 2.2.2.1, 2.2.2.2, up to the formats
_FORMAT: Final = Struct("<HHIIHHH")  # AUDIO_FORMAT, 2.2.2.1.1, up to its data
_WAVE: Final = Struct("<HHB3x")  # 2.2.3.3, 2.2.3.10: wTimeStamp, wFormatNo, cBlockNo, pad
_WAVE_HEAD: Final = 4  # bytes of the sound in a Wave Info; in the Wave that follows zeros stand for them
WAVE_FORMAT_PCM: Final = 0x0001
MAX_FORMATS: Final = 1024  # a list is at most 64 KiB long


class SoundType(enum.IntEnum):
    """msgType, 2.2.1."""

    CLOSE = 0x01
    WAVE = 0x02
    SETVOLUME = 0x03
    SETPITCH = 0x04
    WAVECONFIRM = 0x05
    TRAINING = 0x06
    FORMATS = 0x07
    CRYPTKEY = 0x08
    WAVEENCRYPT = 0x09
    UDPWAVE = 0x0A
    UDPWAVELAST = 0x0B
    QUALITYMODE = 0x0C
    WAVE2 = 0x0D


class AudioFormat(NamedTuple):
    """AUDIO_FORMAT, 2.2.2.1.1."""

    tag: int
    channels: int
    rate: int  # samples per second
    byte_rate: int
    block: int  # bytes of a sample of all channels
    bits: int
    data: bytes


class Formats(NamedTuple):
    """Server or Client Audio Formats and Version PDU, 2.2.2.1 and 2.2.2.2."""

    flags: int
    volume: int
    pitch: int
    port: int  # for sound by UDP, of a client
    confirmed: int
    version: int
    formats: tuple[AudioFormat, ...]


class Wave(NamedTuple):
    """A piece of sound; `format` is a place in the client's list, `timestamp` milliseconds modulo 2^16."""

    timestamp: int
    format: int
    block: int
    data: bytes
    audio_timestamp: int | None = None  # of a WAVE2: milliseconds modulo 2^32


def sound_type(message: bytes) -> int:
    """Read what kind a message is; raises WireError."""
    return Reader(message, what="a sound message").u8()


def parse_formats(message: bytes) -> Formats:
    """Read a list of formats of either side, 2.2.2.1 and 2.2.2.2; raises WireError."""
    kind, body = _open(message)
    if kind != SoundType.FORMATS:
        raise WireError("a list of sound formats is none")
    flags, volume, pitch, port, count, confirmed, version, _ = _FORMATS.unpack(body.take(_FORMATS.size))
    if count > MAX_FORMATS:
        raise WireError("a list of sound formats is too long")
    return Formats(flags, volume, pitch, port, confirmed, version, tuple(_format(body) for _ in range(count)))


def _open(message: bytes) -> tuple[int, Reader]:
    reader = Reader(message, what="a sound message")
    kind, _, size = _HEADER.unpack(reader.take(_HEADER.size))
    return kind, reader.part(size, reader.what)


def _format(reader: Reader) -> AudioFormat:
    tag, channels, rate, byte_rate, block, bits, size = _FORMAT.unpack(reader.take(_FORMAT.size))
    return AudioFormat(tag, channels, rate, byte_rate, block, bits, reader.take(size))


def build_formats(formats: Formats) -> bytes:
    """Write a list of formats, 2.2.2.1 and 2.2.2.2."""
    flags, volume, pitch, port, confirmed, version, listed = formats
    body = _FORMATS.pack(flags, volume, pitch, port, len(listed), confirmed, version, 0)
    body += b"".join(_FORMAT.pack(*one[:-1], len(one.data)) + one.data for one in listed)
    return bytes((SoundType.FORMATS, 0)) + u16(len(body)) + body


def pcm_only(message: bytes) -> bytes:
    """Give a list of formats of either side with PCM only, and without UDP; raises WireError."""
    formats = parse_formats(message)
    kept = tuple(one for one in formats.formats if one.tag == WAVE_FORMAT_PCM)
    if len(kept) == len(formats.formats) and not formats.port:
        return message
    return build_formats(formats._replace(port=0, formats=kept))


class Waves:
    """The waves of a server, from its messages: a WAVE comes as two of them."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: tuple[Wave, int] | None = None  # and how many bytes of sound are to come

    def feed(self, message: bytes) -> Wave | None:
        """Take a message; gives a wave when it is complete. Raises WireError."""
        if (begun := self._begun) is not None:
            self._begun = None
            return _finish(*begun, message)
        if sound_type(message) == SoundType.WAVE:
            self._begin(message)
            return None
        if sound_type(message) != SoundType.WAVE2:
            return None
        _, body = _open(message)
        timestamp, number, block = _WAVE.unpack(body.take(_WAVE.size))
        audio_timestamp = body.u32()
        return Wave(timestamp, number, block, body.rest(), audio_timestamp)

    def _begin(self, message: bytes) -> None:
        """Take a Wave Info, 2.2.3.3, whose BodySize counts the Wave that follows."""
        reader = Reader(message, what="a sound message")
        _, _, size = _HEADER.unpack(reader.take(_HEADER.size))
        timestamp, number, block = _WAVE.unpack(reader.take(_WAVE.size))
        head = reader.take(_WAVE_HEAD)
        reader.done()
        if size < _WAVE.size + _WAVE_HEAD:
            raise WireError("a sound message has a wrong length")
        self._begun = Wave(timestamp, number, block, head), size - _WAVE.size - _WAVE_HEAD


def _finish(begun: Wave, size: int, message: bytes) -> Wave:
    """Take a Wave, 2.2.3.4."""
    if len(message) != size + _WAVE_HEAD:
        raise WireError("a sound message has a wrong length")
    return begun._replace(data=begun.data + message[_WAVE_HEAD:])
