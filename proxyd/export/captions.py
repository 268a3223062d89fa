"""What was typed as subtitles of a film."""

from __future__ import annotations

import html
from fractions import Fraction
from typing import Final

from av import Packet
from av.container import OutputContainer
from av.subtitles.stream import SubtitleStream

from proxyd.export.shot import Caption

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
