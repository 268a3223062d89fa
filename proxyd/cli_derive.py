"""Derives from one recording in the operator's own process what the daemon derives of live ones.

Rule 1: what decodes is the program the daemon's pool runs (proxyd.index.main), and is believed nothing but answers of the
        right shape; without one there is one clear sentence.
Rule 2: it gets records and nothing else: no key, no environment, no standard error; it is killed when it is silent for
        SILENT_S, and when whoever asks is interrupted.
Rule 3: one question is asked at a time, and its answer read before the next: nobody waits for each other for ever.
"""

from __future__ import annotations

import io
import os
import select
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from types import TracebackType
from typing import Final, Self

from proxyd.cli_decoder import FAILED, Drawn, Undecoded, require
from proxyd.errors import FormatError
from proxyd.indexing.child import ARGV, READ_BYTES, environment
from proxyd.indexing.frames import (
    VIEW,
    Begin,
    ChildFrames,
    Failed,
    Fed,
    Feed,
    Finish,
    Forget,
    FromChild,
    Glance,
    Hello,
    Paint,
    Painted,
    Print,
    Printed,
    Redraw,
    Redrawn,
    Shown,
    ToChild,
    pack,
)
from proxyd.recorder.hub import pack_batch
from proxyd.recorder.record import Record
from proxyd.recorder.reel import weigh
from proxyd.recorder.replay import Recording
from proxyd.recorder.sidecar import Item, Keyframe, inflated

SILENT_S: Final = 120.0  # for one batch; the decoder's own limit is half of it, of work
BATCH_BYTES: Final = 256 << 10  # of records sent at once
DESKTOP: Final = "rdp"  # the protocol of sessions that have one
TERMINAL: Final = "ssh"  # of those that have terminals
NUMBER: Final = 1  # of the one session


def draw_from(keyframe: Keyframe, records: Iterable[Record]) -> Drawn:
    """Draw the screen behind the last of these records, which follow the keyframe. Raises Undecoded."""
    with Decoder(DESKTOP, keyframe) as decoder:
        for _ in decoder.fed(records):
            pass
        shown = decoder.picture()
    if not shown.patches:
        raise Undecoded(FAILED)
    try:
        rgb = inflated(shown.patches[0].rgb, shown.width * shown.height * 3)
    except FormatError:
        raise Undecoded(FAILED) from None
    return Drawn(shown.width, shown.height, png_of(shown.width, shown.height, rgb), decoder.faults)


def png_of(width: int, height: int, rgb: bytes) -> bytes:
    """Write pixels as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), rgb).save(file, "PNG")
    return file.getvalue()


def small_png_of(width: int, height: int, rgb: bytes, most: tuple[int, int]) -> bytes:
    """Write pixels as PNG, scaled down to so many at most."""
    from PIL import Image

    image, file = Image.frombytes("RGB", (width, height), rgb), io.BytesIO()
    image.thumbnail(most)
    image.save(file, "PNG")
    return file.getvalue()


class Decoder:
    """A decoder of one session at work; `seq` is the last record it read, `faults` what it could not read."""

    def __init__(self, protocol: str, keyframe: Keyframe | None = None) -> None:
        self._protocol = protocol
        self.seq = self.at_us = self.faults = 0
        self._keyframe = keyframe
        self._frames = ChildFrames()

    def __enter__(self) -> Self:
        """Start it; raises Undecoded."""
        return self.begun()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begun(self) -> Self:
        """Start it, for who says when it is to end; raises Undecoded."""
        if self._protocol in (DESKTOP, VIEW):
            require()
        self._process = subprocess.Popen(
            ARGV,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # Rust says there what it panics at, which is nobody's error
            env=environment(),
            cwd="/",
        )
        try:
            self._greeted()
            self.begin(self._keyframe)
        except BaseException:
            self.end()
            raise
        return self

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def fed(self, records: Iterable[Record]) -> Iterator[list[Item]]:
        """Have records read, and yield what is derived of each batch. Raises Undecoded, and what `records` raises.

        While one batch is read there, the next is made ready here: where `records` raised, an answer may be under way, and
        nothing more can be asked.
        """
        asked = False
        for batch in _batches(records):
            frame = Feed(NUMBER, pack_batch(batch))
            if asked:
                yield self._derived()
            self._send(frame)
            asked = True
        if asked:
            yield self._derived()

    def finish(self) -> list[Item]:
        """Give what is derived at the end; raises Undecoded."""
        self._send(Finish(NUMBER))
        return self._derived()

    def begin(self, keyframe: Keyframe | None) -> None:
        """Begin anew, at the session's beginning or behind a keyframe; raises Undecoded."""
        self._send(Begin(NUMBER, self._protocol, keyframe))

    def picture(self) -> Shown:
        """Give the whole picture as it is now; raises Undecoded."""
        shown = self.glance(whole=True)
        if not shown.whole or len(shown.patches) > 1:
            raise Undecoded(FAILED)
        return shown

    def glance(self, *, whole: bool = False) -> Shown:
        """Give what changed in the picture since it was asked for last, or all of it; raises Undecoded."""
        self._send(Glance(NUMBER, whole))
        answer = self._answer()
        if not isinstance(answer, Shown):
            raise Undecoded(FAILED)
        return answer

    def printed(self, channel: int | None) -> Printed:
        """Give what a terminal shows now: of the channel, or of the one to be shown. Raises Undecoded."""
        self._send(Print(NUMBER, channel))
        answer = self._answer()
        if not isinstance(answer, Printed):
            raise Undecoded(FAILED)
        return answer

    def shown_at(
        self, recording: Recording, keyframe: Keyframe | None, at_us: int | None, channel: int | None = None
    ) -> Printed:
        """Give what a terminal showed at a moment of a recording, read from a keyframe before it or from the beginning.

        May be asked again and again. Raises Undecoded, after which nothing more can be, and what reading raises.
        """
        self.go(recording, keyframe, at_us)
        return self.printed(channel)

    def go(self, recording: Recording, keyframe: Keyframe | None, at_us: int | None) -> None:
        """Go to a moment of a recording, from a keyframe before it or from the beginning. Raises as `shown_at` does."""
        self.begin(keyframe)
        begin_us, after = (keyframe.at_us, keyframe.seq) if keyframe else (0, 0)
        behind = (record for record in recording.records(begin_us) if record.seq > after)
        for _ in self.fed(takewhile(lambda record: at_us is None or record.at_us <= at_us, behind)):
            pass

    def redrawn(self) -> Redrawn:
        """Give what brings an empty terminal to what is shown now. Raises Undecoded."""
        self._send(Redraw(NUMBER))
        answer = self._answer()
        if not isinstance(answer, Redrawn):
            raise Undecoded(FAILED)
        return answer

    def painted(self, width: int, height: int) -> bytes:
        """Give a picture of the terminal as PNG, of so many pixels at most; none where nothing was shown.

        Raises Undecoded.
        """
        self._send(Paint(NUMBER, width, height))
        answer = self._answer()
        if not isinstance(answer, Painted) or answer.width > width or answer.height > height:
            raise Undecoded(FAILED)
        if not answer.width:
            return b""
        try:
            rgb = inflated(answer.rgb, answer.width * answer.height * 3)
        except FormatError:
            raise Undecoded(FAILED) from None
        return png_of(answer.width, answer.height, rgb)

    def forget(self) -> None:
        """Have what was read forgotten; raises Undecoded."""
        self._send(Forget(NUMBER))

    def _greeted(self) -> None:
        if not isinstance(self._answer(), Hello):
            raise Undecoded(FAILED)

    def _derived(self) -> list[Item]:
        answer = self._answer()
        if not isinstance(answer, Fed):
            raise Undecoded(FAILED)
        self.seq, self.at_us, self.faults = answer.seq, answer.at_us, answer.faults
        return [Item(*item) for item in answer.items]

    def _send(self, frame: ToChild) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(pack(frame))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Undecoded(FAILED) from None

    def _answer(self) -> FromChild:
        """Wait for the one frame that answers; raises Undecoded."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        while True:
            ready, _, _ = select.select([self._process.stdout], [], [], SILENT_S)
            data = os.read(self._process.stdout.fileno(), READ_BYTES) if ready else b""
            if not data:
                raise Undecoded(FAILED)
            try:
                frames = self._frames.feed(data)
            except FormatError:
                raise Undecoded(FAILED) from None
            if len(frames) > 1 or any(map(_is_no_answer, frames)):
                raise Undecoded(FAILED)
            if frames:
                return frames[0]


def _is_no_answer(frame: FromChild) -> bool:
    """Say whether a frame is none for the one session."""
    return isinstance(frame, Failed) or getattr(frame, "session", NUMBER) != NUMBER


def _batches(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += weigh(record.body)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
