"""One film: pictures, sound, what was typed and chapters in a WebM or MP4 file, written as they come.

Rule 1: times are the session's: a picture stands from its own time on until the next one; the film is as long as the
        session was.
Rule 2: of a picture only what changed is put together anew. One smaller than the film stands in its middle, black around.
Rule 3: memory does not grow with the session: pictures are encoded without looking ahead.
Rule 4: a thread encodes and writes, one thing after the other; what comes next is painted meanwhile, AHEAD pictures at most.

Measured with FFmpeg 8, 1080p, office work, two cores: SVT-AV1 preset 9 in its real-time mode 83 pictures a second, preset
10 without it 53 to 80 and no smaller, above preset 10 it smears. Preset 8 takes 15 to 45 % longer than 9 and makes files a
sixth smaller; 9 leaves blocks of dark grey black where a terminal has painted, which 8 never did in 700 pictures. x264
`veryfast` 61, `ultrafast` 102 but files twice to three times as large, one thread no slower than slices in several, for
less work; all of them at 44 dB and above to what was shown, which is the colours' resolution.

Terminals, 1280x720: VP9 in its real-time mode for screens takes 6.4 to 8 ms of a processor for a picture, SVT-AV1's preset
8 15 to 23, for files a tenth smaller. VP9 is at most 2 of 255 off in any square of 8x8 pixels, preset 8 is 5; with flat
areas of low contrast, drawn at random, 5.5 and 5.2, preset 9 up to 42, as those above it are, and preset 8 without its tools
for screens (11 ms) 14. So films of terminals are VP9, which what plays AV1 plays too.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, cast

import av
from av import AudioFrame, AudioResampler, VideoFrame
from av.audio.stream import AudioStream
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from proxyd.export import soundtrack
from proxyd.export.captions import Captions
from proxyd.export.shot import PIXEL, RATE, STEP_US, Caption, Shot, Sprite
from proxyd.export.soundtrack import HOLD_US, HZ, Soundtrack
from proxyd.index.area import Area
from proxyd.index.sound import Sound

MAX_SIZE: Final = (3840, 2160)  # larger desktops are scaled down to it: few players show more
STILL_US: Final = (
    5_000_000  # a picture at least so often, though nothing changed: players look for one where they are sent
)
KEY_US: Final = 30_000_000  # a key picture at the first change that long after the last one...
KEY_PICTURES: Final = 300  # ...or after so many: players decode all of them to show a moment
AHEAD: Final = 3  # pictures that wait to be encoded
BEGINNING: Final = "beginning"  # title of what comes before the first chapter
WRITTEN_BYTES: Final = 1 << 18  # at once: each costs a message
_MS: Final = Fraction(1, 1000)
_BT709: Final = 1  # colour primaries, transfer and matrix of ITU-T H.273, by its numbers
_LIMITED: Final = 1
_SRGB: Final = 13  # its transfer: IEC 61966-2-1


class Form(NamedTuple):
    """A kind of file, with the encoders for it and their options."""

    container: str
    video: str
    video_options: dict[str, str]
    audio: str
    audio_bits: int
    captions: str


FORMS: Final = {  # of desktops
    "webm": Form("webm", "libsvtav1", {"preset": "8", "crf": "30", "g": "-1", "svtav1-params": "rtc=1:pred-struct=1:scm=1"},
                 "libopus", 96_000, "webvtt"),
    "mp4": Form("mp4", "libx264", {"preset": "veryfast", "crf": "20", "tune": "zerolatency", "g": "99999", "threads": "1"},
                "aac", 128_000, "mov_text"),
}  # fmt: skip
FORMS_OF_TERMINALS: Final = FORMS | {
    "webm": Form("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "7", "tune-content": "screen", "crf": "28",
                                        "b": "0", "lag-in-frames": "0", "g": "99999", "threads": "1"},
                 "libopus", 96_000, "webvtt"),
}  # fmt: skip


class File(Protocol):
    """Where a film is written to: back and forth, for its index is known at its end."""

    def write(self, data: bytes, /) -> int:
        """Write at the place where it is."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go elsewhere."""

    def tell(self) -> int:
        """Say where it is."""


class Chapter(NamedTuple):
    """Something that happened."""

    at_us: int
    title: str


def film_size(width: int, height: int, *, half: bool = False) -> tuple[int, int]:
    """Give the size of the film of a desktop: even, as encoders halve it, and not above MAX_SIZE; `half`: of that half."""
    scale = min(1.0, MAX_SIZE[0] / width, MAX_SIZE[1] / height) / (2 if half else 1)
    return _even(round(width * scale)), _even(round(height * scale))


def _even(side: int) -> int:
    return max(2, side + side % 2)


class Film:
    """A film being made. `size` is of the largest desktop that comes; times never go back. `half`: it has half of that."""

    def __init__(
        self,
        file: File,
        form: Form,
        size: tuple[int, int],
        *,
        sound: bool,
        captions: bool,
        half: bool = False,
    ) -> None:
        self.width, self.height = film_size(*size, half=half)
        self._form = form
        self._container = av.open(file, "w", format=form.container, buffer_size=WRITTEN_BYTES)
        self._video = self._add_video()
        self._audio = self._add_audio() if sound else None
        self._captions = Captions(self._container, form.captions) if captions else None
        self._container.start_encoding()
        self._soundtrack = Soundtrack()
        self._convert: AudioResampler | None = None
        self._samples = 0
        self._left = b""
        self._easel = _Easel(size)
        self._last_us = self._key_us = -STEP_US
        self._since_key = 0
        self._encoder = _Encoder()

    @property
    def faults(self) -> int:
        """How many sounds could not be put in."""
        return self._soundtrack.faults

    def _add_video(self) -> VideoStream:
        stream = cast("VideoStream", self._container.add_stream(self._form.video, rate=RATE,
                                                                options=self._form.video_options))  # fmt: skip
        stream.width, stream.height = self.width, self.height
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = _MS
        context.color_primaries, context.color_trc = _BT709, _SRGB
        context.colorspace, context.color_range = _BT709, _LIMITED
        return stream

    def _add_audio(self) -> AudioStream:
        stream = cast("AudioStream", self._container.add_stream(self._form.audio, rate=HZ))
        stream.layout = "stereo"
        stream.bit_rate = self._form.audio_bits
        return stream

    def picture(self, shot: Shot) -> None:
        """Add a picture; one at the same time as the last, or before it, is left for the next."""
        self._still(shot.at_us)
        self._easel.draw(shot)
        at_us = shot.at_us if self._last_us >= 0 else 0  # a film shows something from its beginning on
        if at_us - self._last_us >= STEP_US // 2:
            self._encode(at_us, changed=True)

    def sound(self, piece: Sound) -> None:
        """Add a piece of sound."""
        self._soundtrack.feed(piece)

    def caption(self, caption: Caption) -> None:
        """Add what was typed."""
        if self._captions is not None:
            self._encoder.give(partial(self._captions.add, caption))

    def advance(self, at_us: int) -> None:
        """Say how far the session is: what comes is no earlier."""
        self._play(at_us - HOLD_US)
        if self._captions is not None:
            self._encoder.give(partial(self._captions.until, at_us))

    def end(self, at_us: int, chapters: list[Chapter]) -> None:
        """Write what is left; the session ends at this time."""
        self._still(at_us)
        if at_us - self._last_us > STEP_US:
            self._encode(max(at_us - STEP_US, self._last_us + STEP_US // 2), changed=False)
        if self._audio is not None:
            self._play(at_us, last=True)
        self._encoder.end()
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._container.mux(self._audio.encode(None))
        if self._captions is not None:
            self._captions.end(at_us)
        if chapters:
            self._container.set_chapters(_chapters(chapters, at_us))
        self._container.close()

    def leave(self) -> None:
        """Wait for what is being written; nobody wants this film."""
        self._encoder.end()

    def _still(self, until_us: int) -> None:
        while self._last_us >= 0 and until_us - self._last_us > STILL_US:
            self._encode(self._last_us + STILL_US, changed=False)

    def _encode(self, at_us: int, *, changed: bool) -> None:
        frame = self._easel.frame(self._video.width, self._video.height)
        frame.pts, frame.time_base = at_us // 1000, _MS
        frame.duration = STEP_US // 1000
        self._since_key += 1
        if (changed and at_us - self._key_us >= KEY_US) or self._since_key >= KEY_PICTURES:
            frame.pict_type = PictureType.I
            self._key_us, self._since_key = at_us, 0
        self._last_us = at_us
        self._encoder.picture(lambda: self._container.mux(self._video.encode(frame)))

    def _play(self, until_us: int, *, last: bool = False) -> None:
        if self._audio is None:
            return
        size = self._audio.codec_context.frame_size
        samples = self._left + self._soundtrack.take(until_us)
        whole = (
            len(samples) if last else len(samples) // (size * soundtrack.BYTES) * (size * soundtrack.BYTES)
        )
        self._left = samples[whole:]
        for frame in soundtrack.frames(samples[:whole], size):
            self._encoder.give(partial(self._encode_sound, frame, self._audio))

    def _encode_sound(self, frame: AudioFrame, stream: AudioStream) -> None:
        if self._convert is None:
            self._convert = AudioResampler(format=stream.codec_context.format, layout="stereo", rate=HZ)
        for ready in self._convert.resample(frame):
            ready.pts, ready.time_base = self._samples, Fraction(1, HZ)
            self._samples += ready.samples
            self._container.mux(stream.encode(ready))


class _Encoder(threading.Thread):
    """Does what it is given, in that order (rule 4); what that raises is raised by who gives the next thing, or ends it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._given: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._error: Exception | None = None
        self.start()

    def give(self, work: Callable[[], None]) -> None:
        """Have it done behind all that was given before; raises what those raised."""
        if self._error is not None:
            raise self._error
        self._given.put(work)

    def picture(self, encode: Callable[[], None]) -> None:
        """Have a picture encoded; waits while AHEAD of them wait. Raises what was raised before."""
        self._room.acquire()

        def encoded() -> None:
            try:
                encode()
            finally:
                self._room.release()

        self.give(encoded)

    def end(self) -> None:
        """Wait until all is done; raises what it raised."""
        self._given.put(None)
        self.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        """Do it."""
        while (work := self._given.get()) is not None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised where the next thing is given
                self._error = self._error or error


class _Easel:
    """The picture of the film as it is now, put together from what changed."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._width, self._height = size
        self._frame = VideoFrame(self._width, self._height, "bgr0")
        plane = self._frame.planes[0]
        plane.update(bytes(plane.buffer_size))
        self._shown = (0, 0)
        self._pointer: Sprite | None = None
        self._reformatter = VideoReformatter()

    def frame(self, width: int, height: int) -> VideoFrame:
        """Give it as encoders take it."""
        return self._reformatter.reformat(
            self._frame, width, height, format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED
        )

    def draw(self, shot: Shot) -> None:
        """Draw what changed: areas, and the pointer where it was and where it is."""
        dirty = shot.dirty
        if self._shown != (shot.width, shot.height):
            self._shown = (shot.width, shot.height)
            plane = self._frame.planes[0]
            plane.update(bytes(plane.buffer_size))
            dirty, self._pointer = [Area(0, 0, shot.width, shot.height)], None
        if self._pointer is not None:
            dirty = [*dirty, _covered(self._pointer, shot)]
        for area in dirty:
            self._copy(shot, area)
        self._pointer = shot.pointer
        if shot.pointer is not None:
            self._blend(shot, shot.pointer)

    def _plane(self) -> memoryview:
        return memoryview(self._frame.planes[0]).cast("B")

    def _place(self, shot: Shot, left: int, top: int) -> int:
        """Say where a pixel of the shot is in the film's plane."""
        across, down = (self._width - shot.width) // 2, (self._height - shot.height) // 2
        return (top + down) * self._frame.planes[0].line_size + (left + across) * PIXEL

    def _copy(self, shot: Shot, area: Area) -> None:
        plane = self._plane()
        stride, line = shot.width * PIXEL, self._frame.planes[0].line_size
        size = min(area.width, shot.width - area.left) * PIXEL
        height = min(area.height, shot.height - area.top)
        if size <= 0:
            return
        source = area.top * stride + area.left * PIXEL
        target = self._place(shot, area.left, area.top)
        if size == stride == line:
            plane[target : target + size * height] = shot.pixels[source : source + size * height]
            return
        for _ in range(height):
            plane[target : target + size] = shot.pixels[source : source + size]
            source += stride
            target += line

    def _blend(self, shot: Shot, sprite: Sprite) -> None:
        plane = self._plane()
        area, shape = _covered(sprite, shot), sprite.shape
        for y in range(area.top, area.top + area.height):
            source = ((y - sprite.top) * shape.width + area.left - sprite.left) * PIXEL
            target = self._place(shot, area.left, y)
            for _ in range(area.width):
                red, green, blue, alpha = shape.rgba[source : source + PIXEL]
                if alpha:
                    below = plane[target : target + 3]
                    plane[target : target + 3] = bytes(
                        (new * alpha + old * (0xFF - alpha)) // 0xFF
                        for new, old in zip((blue, green, red), below, strict=True)
                    )
                source += PIXEL
                target += PIXEL


def _covered(sprite: Sprite, shot: Shot) -> Area:
    """Say what of a desktop a pointer covers; nothing of it is outside."""
    left, top = max(0, sprite.left), max(0, sprite.top)
    right = min(shot.width, sprite.left + sprite.shape.width)
    bottom = min(shot.height, sprite.top + sprite.shape.height)
    return Area(left, top, max(0, right - left), max(0, bottom - top))


def _chapters(chapters: list[Chapter], end_us: int) -> list[Any]:
    chapters = [Chapter(0, BEGINNING), *chapters]  # MP4 has its first one begin there whatever is said
    ends = [*(chapter.at_us for chapter in chapters[1:]), end_us]
    return [
        {"id": number, "start": chapter.at_us // 1000, "end": max(until_us, chapter.at_us) // 1000,
         "time_base": _MS, "metadata": {"title": chapter.title}}
        for number, (chapter, until_us) in enumerate(zip(chapters, ends, strict=True), 1)
    ]  # fmt: skip
