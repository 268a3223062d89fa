"""Everything that is derived of one desktop session, record by record.

Rule 1: what comes out depends on the records alone, not on when or in what pieces they came: made anew it is equal.
Rule 2: a keyframe comes when going on from the one before would cost more than a moment: after KEYFRAME_US when much was
        painted, sooner when very much was (BUSY), or after a burst, or after LONGEST_US when anything was; and at the end.
Rule 3: a keyframe is taken where a decoder can go on from it; where none comes for a while, it is a picture only.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from proxyd.index.area import Area
from proxyd.index.heat import Heat
from proxyd.index.rdp.audio import Audio
from proxyd.index.rdp.canvas import Picture
from proxyd.index.rdp.keys import Keys
from proxyd.index.rdp.screen import Screen
from proxyd.index.rdp.typed import Line, Lines
from proxyd.index.sound import Sound
from proxyd.index.told import logged, told
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item, Keyframe, packed

KEYFRAME_US: Final = 10_000_000
LONGEST_US: Final = 60_000_000
BURST_BYTES: Final = 16 << 20  # of output: half a second to decode
DESKTOPS: Final = 4  # painted over so often: a tenth of a second to decode
BUSY_US, BUSY_DESKTOPS = (
    1_000_000,
    4,
)  # text that scrolls by, a film: a tenth of a second to read, for an index of an eighth of the recording
PATIENCE_US: Final = 2_000_000  # for a place where a decoder can go on: an update in fragments takes less


class Session:
    """One desktop session; `screen` is what it shows now."""

    def __init__(self, keyframe: Keyframe | None = None) -> None:
        """Begin, or go on behind a keyframe; raises FormatError, WireError."""
        self.screen, audio = resumed(keyframe) if keyframe else (Screen(), Audio())
        self.seq = self.at_us = 0
        self._keys, self._lines = Keys(), Lines()
        self._heat, self._sounds = Heat(), _Sounds(audio)
        self._keyframe_us = 0
        self._area = self._bytes = 0  # painted and come since the last keyframe

    @property
    def faults(self) -> int:
        """How much could not be read."""
        return self.screen.faults + self._keys.faults + self._sounds.faults

    def feed(self, record: Record) -> tuple[list[Item], list[Area]]:
        """Take the next record; gives what was derived, and what it painted."""
        self.seq, self.at_us = record.seq, record.at_us
        items = self._heat.feed(record) + told(record)
        if record.kind is not Kind.REFUSED:  # what a block refused stands among the lines that were typed
            items += logged(record)
        painted = self.screen.feed(record)
        items += [_typed(line) for stroke in self._keys.feed(record) for line in self._lines.feed(stroke)]
        items += self._sounds.feed(record)
        if record.kind is Kind.PDU:
            self._bytes += len(record.body)
        self._area += sum(area.width * area.height for area in painted)
        return items + self._keyframe(), painted

    def finish(self) -> list[Item]:
        """Give what is derived at the end."""
        items = self._heat.end()
        items += [_typed(line) for line in self._lines.end()]
        items += self._sounds.end()
        picture = self.screen.picture() if self._area else None
        if picture is not None:
            items.append(self._taken(picture))
        items.append(Item(Derived.SUMMARY, self.at_us, {"seq": self.seq, "faults": self.faults}))
        return items

    def _keyframe(self) -> list[Item]:
        """Take a keyframe where one is due (rules 2 and 3)."""
        since_us = self.at_us - self._keyframe_us
        if not self._area or not self._due(since_us):
            return []
        ready = self.screen.saved() is not None
        late = since_us >= LONGEST_US + PATIENCE_US or self._bytes >= 2 * BURST_BYTES
        picture = self.screen.picture() if ready or late else None
        return [self._taken(picture)] if picture else []

    def _due(self, since_us: int) -> bool:
        """Say whether going on from the last keyframe costs more than a moment by now (rule 2)."""
        width, height = self.screen.size
        painted = self._area // (width * height)
        return (
            self._bytes >= BURST_BYTES
            or since_us >= LONGEST_US
            or (since_us >= KEYFRAME_US and painted >= DESKTOPS)
            or (since_us >= BUSY_US and painted >= BUSY_DESKTOPS)
        )

    def _taken(self, picture: Picture) -> Item:
        self._keyframe_us, self._area, self._bytes = self.at_us, 0, 0
        saved = self.screen.saved()
        state = {"screen": saved, "audio": self._sounds.saved()} if saved else None
        body = {
            "seq": self.seq,
            "width": picture.width,
            "height": picture.height,
            "rgb": packed(picture.rgb),
            "saved": packed(msgpack.packb(state)) if state else b"",
        }
        return Item(Derived.KEYFRAME, self.at_us, body)


def resumed(keyframe: Keyframe, *, lazily: bool = False) -> tuple[Screen, Audio]:
    """Make what shows and plays a desktop from a keyframe on; raises FormatError, WireError."""
    picture = Picture(keyframe.width, keyframe.height, keyframe.picture())
    state = msgpack.unpackb(keyframe.state(), strict_map_key=False)
    return Screen.resumed(picture, state["screen"], lazily=lazily), Audio.resumed(state["audio"])


def _typed(line: Line) -> Item:
    return Item(Derived.TYPED, line.at_us, [line.refused, line.text])


class _Sounds:
    """Joins pieces of sound that follow each other to spans."""

    def __init__(self, audio: Audio) -> None:
        self._audio = audio
        self._spans: dict[
            int, tuple[Sound, int]
        ] = {}  # by stream: the first piece, and where the last one ends

    @property
    def faults(self) -> int:
        return self._audio.faults

    def saved(self) -> dict[str, Any]:
        """Give what sound goes on with."""
        return self._audio.saved()

    def feed(self, record: Record) -> list[Item]:
        """Take a record; gives the spans that ended with it."""
        ended = []
        for piece in self._audio.feed(record):
            before = self._spans.get(piece.stream)
            end_us = piece.at_us + piece.duration_us
            if before and before[1] == piece.at_us and _form(before[0]) == _form(piece):
                self._spans[piece.stream] = (before[0], end_us)
                continue
            if before:
                ended.append(_span(*before))
            self._spans[piece.stream] = (piece, end_us)
        return ended

    def end(self) -> list[Item]:
        """Give the spans that are open."""
        spans, self._spans = self._spans, {}
        return [_span(*span) for span in spans.values()]


def _form(piece: Sound) -> tuple[int, int, int]:
    return piece.rate, piece.channels, piece.bits


def _span(first: Sound, end_us: int) -> Item:
    return Item(Derived.SOUND, first.at_us, [first.stream, end_us, *_form(first)])
