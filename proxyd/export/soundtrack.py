"""What a session sounded like as one track: 48 kHz, stereo, 16 bit, silence where nothing was heard.

Rule 1: a sound stands where it began, to the sample of its first piece; pieces that join are resampled as one.
Rule 2: sounds of several channels at once are added up.
Rule 3: at most AHEAD_US of sound are held; what a target sends further ahead is counted in `faults` and left out.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Iterator
from typing import Final

from av import AudioFrame, AudioResampler
from av.error import FFmpegError

from proxyd.index.sound import LATE_US, Sound

HZ: Final = 48_000  # what Opus has, and AAC players all take
CHANNELS: Final = 2
BYTES: Final = CHANNELS * 2  # of one sample of both
AHEAD_US: Final = 60_000_000  # clients buffer a few seconds; 11.5 MB
HOLD_US: Final = LATE_US + 10_000  # a piece may begin that long before it came
_JOIN_US: Final = 2  # rounding of the pieces' times
_LAYOUTS: Final = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_FORMATS: Final = {8: "u8", 16: "s16", 24: "s32", 32: "s32"}
_LOUDEST: Final = 0x7FFF
_SECOND_US: Final = 1_000_000


class _Run:
    """Pieces of one channel that join: their samples as the track has them."""

    def __init__(self, first: Sound) -> None:
        self.end_us = first.at_us
        self.at = _samples(first.at_us)  # where the next of its samples goes
        self._form = (first.rate, first.channels, first.bits)
        self._resampler = AudioResampler(format="s16", layout="stereo", rate=HZ)

    def joins(self, piece: Sound) -> bool:
        """Say whether a piece goes on with it."""
        same = self._form == (piece.rate, piece.channels, piece.bits)
        return same and abs(piece.at_us - self.end_us) <= _JOIN_US

    def take(self, piece: Sound) -> bytes:
        """Take the next piece; gives samples, which are later than it by what the resampler holds back."""
        self.end_us = piece.at_us + piece.duration_us
        data = _widened(piece.data) if piece.bits == 24 else piece.data
        count = len(piece.data) // (piece.channels * piece.bits // 8)
        frame = AudioFrame(format=_FORMATS[piece.bits], layout=_LAYOUTS[piece.channels], samples=count)
        frame.sample_rate = piece.rate
        frame.planes[0].update(data)
        return self._resampled(frame)

    def end(self) -> bytes:
        """Give what the resampler still holds."""
        return self._resampled(None)

    def _resampled(self, frame: AudioFrame | None) -> bytes:
        parts = self._resampler.resample(frame)
        return b"".join(bytes(part.planes[0])[: part.samples * BYTES] for part in parts)


class Soundtrack:
    """The track of one session: `feed` it sounds in their order, `take` it up to a time."""

    def __init__(self) -> None:
        self.faults = 0
        self._taken = 0  # samples given out
        self._ahead = bytearray()  # those behind them that are known
        self._runs: dict[int, _Run] = {}

    def feed(self, piece: Sound) -> None:
        """Take the next piece of sound."""
        if not piece.data:
            return
        if _samples(piece.at_us + piece.duration_us) - self._taken > _samples(AHEAD_US):
            self.faults += 1
            return
        run = self._runs.get(piece.stream)
        if run is None or not run.joins(piece):
            self._end(run)
            run = self._runs[piece.stream] = _Run(piece)
        try:
            self._lay(run, run.take(piece))
        except FFmpegError:
            self.faults += 1
            del self._runs[piece.stream]

    def take(self, until_us: int) -> bytes:
        """Give the track up to a time, from where it was taken last."""
        for stream, run in list(self._runs.items()):
            if run.end_us <= until_us:
                self._end(run)
                del self._runs[stream]
        wanted = max(0, _samples(until_us) - self._taken)
        given = bytes(self._ahead[: wanted * BYTES]).ljust(wanted * BYTES, b"\0")
        del self._ahead[: wanted * BYTES]
        self._taken += wanted
        return given

    def _end(self, run: _Run | None) -> None:
        if run is not None:
            self._lay(run, run.end())

    def _lay(self, run: _Run, samples: bytes) -> None:
        """Put samples where their run is by now (rule 2); what is given out already is over."""
        start = (run.at - self._taken) * BYTES
        run.at += len(samples) // BYTES
        if start < 0:
            samples, start = samples[-start:], 0
        if len(self._ahead) < start:
            self._ahead += bytes(start - len(self._ahead))
        both = min(len(samples), len(self._ahead) - start)
        if both:
            self._ahead[start : start + both] = _added(self._ahead[start : start + both], samples[:both])
        self._ahead += samples[both:]


def frames(samples: bytes, size: int) -> Iterator[AudioFrame]:
    """Yield samples as frames of `size`; the last one may be shorter."""
    for at in range(0, len(samples), size * BYTES):
        part = samples[at : at + size * BYTES]
        frame = AudioFrame(format="s16", layout="stereo", samples=len(part) // BYTES)
        frame.sample_rate = HZ
        frame.planes[0].update(part)
        yield frame


def _samples(us: int) -> int:
    return us * HZ // _SECOND_US


def _widened(data: bytes) -> bytes:
    """Give samples of 24 bits as such of 32."""
    wide = bytearray(len(data) // 3 * 4)
    for place in range(3):
        wide[place + 1 :: 4] = data[place : len(wide) // 4 * 3 : 3]
    return bytes(wide)


def _added(one: bytes | bytearray, other: bytes) -> bytes:
    sums = (left + right for left, right in zip(_words(one), _words(other), strict=True))
    words = array.array("h", (max(-_LOUDEST, min(_LOUDEST, value)) for value in sums))
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def _words(samples: bytes | bytearray) -> array.array[int]:
    words = array.array("h", bytes(samples))
    if sys.byteorder == "big":
        words.byteswap()
    return words
