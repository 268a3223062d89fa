"""What was typed as subtitles of a film: a caption for each burst of keys.

A caption is written when its burst is over, so a player meets it in the file at most BURST_US after its time.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, NamedTuple

from av import Packet
from av.container import OutputContainer
from av.subtitles.stream import SubtitleStream

from proxyd.characters import visible
from proxyd.index.rdp.keys import Keys, Keystroke
from proxyd.index.rdp.typed import lines
from proxyd.recorder.record import Record

BURST_US: Final = 1_500_000  # what is typed within that is read at once
SHOWN_US: Final = 2_500_000  # how long a caption stands, unless another follows
REFUSED: Final = "(blocked) "
_MS: Final = Fraction(1, 1000)
_STYLE: Final = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment, Encoding
Style: Default,Arial,16,&Hffffff,2,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
"""Encoders of subtitles want a header in ASS, whatever they write."""


class Caption(NamedTuple):
    """A line that is shown for a while."""

    at_us: int
    until_us: int
    text: str


class Bursts:
    """Reads what was typed as captions; `feed` it the session's records in their order."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._burst: list[Keystroke] = []

    @property
    def faults(self) -> int:
        """How many messages of the client could not be read."""
        return self._keys.faults

    def feed(self, record: Record) -> Iterator[Caption]:
        """Take the next record; gives the caption that was over before it."""
        if self._burst and record.at_us - self._burst[0].at_us >= BURST_US:
            yield from self.end()
        self._burst += self._keys.feed(record)

    def end(self) -> Iterator[Caption]:
        """Give what was typed last."""
        typed, self._burst = self._burst, []
        text = " ".join(f"{REFUSED if line.refused else ''}{line.text}" for line in lines(typed))
        if text:
            yield Caption(typed[0].at_us, typed[-1].at_us + SHOWN_US, visible(text))


class Captions:
    """The subtitles of one film: WebVTT in WebM, 3GPP Timed Text in MP4."""

    def __init__(self, container: OutputContainer, codec: str) -> None:
        self._container = container
        self._stream: SubtitleStream = container.add_stream(codec)  # type: ignore[assignment]
        self._stream.codec_context.subtitle_header = _STYLE
        self._pack = _webvtt if codec == "webvtt" else _timed_text
        self._held: Caption | None = None  # until it is known what follows

    def add(self, caption: Caption) -> None:
        """Add one, which ends where the next begins."""
        held, self._held = self._held, caption
        if held is not None:
            self._write(held._replace(until_us=min(held.until_us, caption.at_us)))

    def until(self, at_us: int) -> None:
        """Write what is over by then: the session is that far."""
        held = self._held
        if held is not None and held.until_us <= at_us:
            self._held = None
            self._write(held)

    def end(self, at_us: int) -> None:
        """Write the last one; the session ends then."""
        if self._held is not None:
            self._write(self._held._replace(until_us=min(self._held.until_us, at_us)))

    def _write(self, caption: Caption) -> None:
        packet = Packet(self._pack(caption.text))
        packet.stream, packet.time_base = self._stream, _MS
        packet.pts = packet.dts = caption.at_us // 1000
        packet.duration = max(1, (caption.until_us - caption.at_us) // 1000)
        self._container.mux(packet)


def _webvtt(text: str) -> bytes:
    """Write the payload of a cue: W3C WebVTT 4.2.2, where `<` and `&` mean something."""
    return html.escape(text, quote=False).encode()


def _timed_text(text: str) -> bytes:
    """Write a text sample: 3GPP TS 26.245 5.17, its length before it."""
    data = text.encode()[:0xFFFF]
    return len(data).to_bytes(2, "big") + data
