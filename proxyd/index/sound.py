"""Pieces of sound, whoever decoded them."""

from __future__ import annotations

from typing import Final, NamedTuple

LATE_US: Final = 40_000  # people notice sound behind a picture from about 45 ms on (ITU-R BT.1359)
_SECOND_US: Final = 1_000_000


class Sound(NamedTuple):
    """A piece of PCM: `bits` little-endian (8 bits unsigned, else signed), samples of all `channels` together."""

    stream: int  # the channel it came on: static ones by their id, dynamic ones by theirs and 0x10000
    at_us: int
    rate: int
    channels: int
    bits: int
    data: bytes

    @property
    def duration_us(self) -> int:
        """How long it lasts."""
        return len(self.data) // (self.channels * self.bits // 8) * _SECOND_US // self.rate
