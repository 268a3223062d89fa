"""What a film is made of: pictures with their times, and whoever gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from proxyd.index.area import Area
from proxyd.index.rdp.pointer import Shape
from proxyd.index.sound import Sound
from proxyd.recorder.record import Record

RATE: Final = 25  # pictures a second: what people see as moving
STEP_US: Final = 1_000_000 // RATE
SETTLE_US: Final = 10_000
"""How long a picture waits for what is painted with it: servers send a screen in dozens of messages."""
SHOWN_US: Final = 2_500_000  # how long a caption stands, unless another follows
PIXEL: Final = 4  # bytes: B, G, R and one of no meaning


class Sprite(NamedTuple):
    """A pointer and where its upper left corner is, which may be outside of the desktop."""

    left: int
    top: int
    shape: Shape


class Shot(NamedTuple):
    """A picture: B, G, R and a byte of no meaning of each pixel, the top row first; `dirty` is what changed in it."""

    at_us: int
    width: int
    height: int
    pixels: memoryview
    dirty: list[Area]
    pointer: Sprite | None = None


class Caption(NamedTuple):
    """A line that is shown for a while."""

    at_us: int
    until_us: int
    text: str


class Source(Protocol):
    """A session as a film shows it: `feed` its records in order; a shot is valid until the next one goes in.

    `least`: a film is no smaller than this. `sound`: known by the first shot.
    """

    least: tuple[int, int]
    sound: bool

    @property
    def faults(self) -> int:
        """How much of the recording could not be read."""

    def feed(self, record: Record) -> Iterator[Shot]:
        """Take the next record; gives the picture that was due before it."""

    def end(self, at_us: int) -> Iterator[Shot]:
        """Give the last picture, at the session's end."""

    def heard(self, record: Record) -> list[Sound]:
        """Give what a record sounds like."""

    def typed(self, record: Record) -> Iterator[Caption]:
        """Give what was typed, and over, before a record."""

    def typed_last(self) -> Iterator[Caption]:
        """Give what was typed last."""
