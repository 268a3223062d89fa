"""What a session sounded like: the PCM a target played, each piece with its time (MS-RDPEA).

Rule 1: a piece begins when it came, as clients play it then; or where the one before ends, while it came no later than
        LATE_US behind that: so pieces of one sound join without gaps, and sound is never further than that from the picture.
Rule 2: formats are those the client named last on that channel: a wave gives a place in the client's list.
Rule 3: what cannot be read, or is no PCM, is counted in `faults` and left out; the waves behind it are read.
Rule 4: it can be left and gone on with (`saved`), but for a message that is under way: it is left out, as by rule 3.

Sound comes on the static channel "rdpsnd" or on dynamic channels of MS-RDPEA 2.1, from WAVE and WAVE2 messages alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from proxyd.index.rdp import frames
from proxyd.index.sound import LATE_US, Sound
from proxyd.protocols.rdp import channels, mcs, sound
from proxyd.protocols.rdp.channels import Close, Create, DynamicData, DynamicReassembly, Reassembly
from proxyd.protocols.rdp.sound import WAVE_FORMAT_PCM, AudioFormat, SoundType, Waves
from proxyd.protocols.rdp.wire import WireError, is_fast_path
from proxyd.recorder.record import Kind, Record

MAX_STREAMS: Final = 16  # sound channels of one session; Windows opens two
_DYNAMIC: Final = "drdynvc"
_BITS: Final = (8, 16, 24, 32)
_MAX_CHANNELS: Final = 8
_MAX_RATE: Final = 192_000  # samples a second


class _Stream:
    """One sound channel."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.formats: tuple[AudioFormat, ...] = ()
        self._waves = Waves()
        self._end_us = 0

    def from_target(self, message: bytes, at_us: int) -> Sound | None:
        """Take a message of the target's; raises WireError."""
        wave = self._waves.feed(message)
        if wave is None:
            return None
        if wave.format >= len(self.formats):
            raise WireError("a wave has a format the client did not name")
        form = self.formats[wave.format]
        _check(form)
        data = wave.data[: len(wave.data) // form.block * form.block]
        begins = self._end_us if at_us - self._end_us <= LATE_US and self._end_us else at_us
        piece = Sound(self.number, begins, form.rate, form.channels, form.bits, data)
        self._end_us = begins + piece.duration_us
        return piece

    def from_client(self, message: bytes) -> None:
        """Take a message of the client's; raises WireError."""
        if sound.sound_type(message) == SoundType.FORMATS:
            self.formats = sound.parse_formats(message).formats

    def saved(self) -> list[Any]:
        """Give what `resumed` needs; of the formats what says how PCM is to be read."""
        return [self.number, self._end_us, [[*form[:-1]] for form in self.formats]]

    @classmethod
    def resumed(cls, saved: list[Any]) -> _Stream:
        """Make one that goes on where another stood."""
        number, end_us, formats = saved
        stream = cls(number)
        stream.formats = tuple(AudioFormat._make([*form, b""]) for form in formats)
        stream._end_us = end_us
        return stream


def _check(form: AudioFormat) -> None:
    if form.tag != WAVE_FORMAT_PCM or form.bits not in _BITS:
        raise WireError("a wave is no PCM")
    if not (0 < form.channels <= _MAX_CHANNELS and 0 < form.rate <= _MAX_RATE):
        raise WireError("a wave has an impossible format")
    if form.block != form.channels * form.bits // 8:
        raise WireError("a wave has an impossible format")


class _Side:
    """What one side sends: messages put together from chunks, each channel by itself."""

    def __init__(self) -> None:
        self._static: dict[int, Reassembly] = {}
        self._dynamic = DynamicReassembly()

    def static(self, channel: int, payload: bytes) -> bytes | None:
        """Take a chunk; gives a whole message. Raises WireError."""
        try:
            return _whole(self._static.setdefault(channel, Reassembly()).feed(payload))
        except WireError:
            del self._static[channel]  # the next first chunk begins anew
            raise

    def dynamic(self, data: DynamicData) -> bytes | None:
        """Take data of a dynamic channel; gives a whole message. Raises WireError."""
        try:
            return _whole(self._dynamic.feed(data))
        except WireError:
            self._dynamic.close(data.channel)
            raise

    def close(self, channel: int) -> None:
        """Forget a dynamic channel."""
        self._dynamic.close(channel)


def _whole(message: channels.ChannelMessage | None) -> bytes | None:
    if message is not None and not message.whole:
        raise WireError("a sound message is too long")
    return message.data if message else None


_DYNAMIC_STREAMS: Final = 0x10000  # above every id of a static channel


class Audio:
    """Reads the records of one session in their order; `faults` says how much could not be read."""

    def __init__(self) -> None:
        self.faults = 0
        self._names: dict[int, str] = {}
        self._streams: dict[int, _Stream] = {}
        self._target, self._client = _Side(), _Side()

    def saved(self) -> dict[str, Any]:
        """Give what `resumed` needs (rule 4)."""
        return {"names": self._names, "streams": [stream.saved() for stream in self._streams.values()]}

    @classmethod
    def resumed(cls, saved: dict[str, Any]) -> Audio:
        """Make one that goes on where another stood."""
        audio = cls()
        audio._names = saved["names"]
        audio._streams = {stream.number: stream for stream in map(_Stream.resumed, saved["streams"])}
        return audio

    def feed(self, record: Record) -> list[Sound]:
        """Take the next record and give the sound in it."""
        if frames.is_session(record):
            self._names = {int(channel): name for channel, name in record.body["channels"].items()}
        if record.kind not in {Kind.PDU, Kind.INPUT_PDU} or not self._names:
            return []
        heard: list[Sound] = []
        try:
            for frame in frames.split(record.body):
                if not is_fast_path(frame):
                    self._frame(frame, record, heard)
        except WireError:
            self.faults += 1
        return heard

    def _frame(self, frame: bytes, record: Record, heard: list[Sound]) -> None:
        data = mcs.data_frame(frame)
        name = self._names.get(data.channel) if data else None
        if data is None or (name != _DYNAMIC and name not in sound.CHANNELS):
            return
        side = self._target if record.kind is Kind.PDU else self._client
        try:
            message = side.static(data.channel, data.payload)
            stream = (
                self._streams.setdefault(data.channel, _Stream(data.channel)) if name != _DYNAMIC else None
            )
            if message is not None and stream is None:
                stream, message = self._dynamic(message, side)
            if message is not None and stream is not None:
                _tell(stream, message, record, heard)
        except WireError:
            self.faults += 1

    def _dynamic(self, message: bytes, side: _Side) -> tuple[_Stream | None, bytes | None]:
        """Take a message of "drdynvc", MS-RDPEDYC 2.2; gives what a sound channel inside of it says."""
        match channels.parse_dynamic(message, from_server=side is self._target):
            case Create(channel, name) if name in sound.CHANNELS and len(self._streams) < MAX_STREAMS:
                number = channel + _DYNAMIC_STREAMS
                self._streams[number] = _Stream(number)
            case Close(channel):
                self._streams.pop(channel + _DYNAMIC_STREAMS, None)
                side.close(channel)
            case DynamicData(channel=channel) as data:
                stream = self._streams.get(channel + _DYNAMIC_STREAMS)
                return stream, side.dynamic(data) if stream else None
        return None, None


def _tell(stream: _Stream, message: bytes, record: Record, heard: list[Sound]) -> None:
    if record.kind is Kind.INPUT_PDU:
        stream.from_client(message)
    elif piece := stream.from_target(message, record.at_us):
        heard.append(piece)


def sounds(records: Iterable[Record]) -> Iterator[Sound]:
    """Yield the sound in a session's records, in order."""
    audio = Audio()
    for record in records:
        yield from audio.feed(record)
