"""Desktops in motion (mission M6, M12): what one showed at a moment, what changed from there on, and what was heard.

Rule 1: each stretch is asked for by itself, and the daemon decides each time; the ledger has its seconds.
Rule 2: what a stretch holds depends on the recording and its times alone: a decoder that stands where it begins saves work,
        and nothing more.
Rule 3: a stretch is cut where it becomes too large, and says where. Decoders are processes of their own: a few wait for who
        looks at a recording to ask again, and end when nobody did for IDLE_S.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgpack
import msgspec
from starlette.responses import Response

from proxyd.cli_decoder import FAILED, Undecoded
from proxyd.cli_derive import Decoder
from proxyd.cli_desktop import is_desktop
from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError
from proxyd.errors import FormatError
from proxyd.indexing.frames import HEARD, VIEW, Shown
from proxyd.recorder.record import Record
from proxyd.recorder.replay import Recording
from proxyd.recorder.sidecar import Item, Keyframe

STAGES: Final = 4  # decoders that wait: some 100 MB each
IDLE_S: Final = 60.0
LONGEST_US: Final = 120_000_000  # of a stretch
LEAST_STEP_US: Final = 20_000  # between two pictures: what came meanwhile is in the next
STRETCH_BYTES: Final = 4 << 20  # a second of a full-screen video at 1080p
MICRO: Final = 1_000_000


async def stretch(visit: Visit) -> Response:
    """Give what changed from one moment to another, both the same for a picture of it; and the sound in between."""
    first, last = visit.number("first_us"), visit.number("last_us")
    step = max(visit.number("step_us"), LEAST_STEP_US)
    if not first <= last <= first + LONGEST_US:
        raise ControlError(
            Code.USAGE, f"a stretch is {LONGEST_US // MICRO} s at most, and ends behind its beginning"
        )
    stages, user = visit.site.stages, visit.who.user

    def work(recording: Recording, answer: dict[str, Any]) -> bytes:
        if not is_desktop(answer["session"]):
            raise ControlError(Code.USAGE, "this session has no desktop")
        with stages.of(user, recording) as stage:
            packed: bytes = msgpack.packb(stage.stretch(first, last, step))
        return packed

    packed = await visit.site.recordings.read(visit, "replay", work, first=first / MICRO, last=last / MICRO)
    return Response(packed, media_type="application/msgpack")


class Heard(NamedTuple):
    """A piece of PCM that is heard from `at_us` on, as proxyd.index.sound has them."""

    at_us: Annotated[int, msgspec.Meta(ge=0)]
    rate: Annotated[int, msgspec.Meta(ge=1, le=192_000)]
    channels: Annotated[int, msgspec.Meta(ge=1, le=8)]
    bits: Literal[8, 16, 24, 32]
    samples: bytes

    @property
    def end_us(self) -> int:
        """When it is over."""
        return self.at_us + len(self.samples) * 8 * MICRO // (self.rate * self.channels * self.bits)


class Stage:
    """A decoder that stands at a moment of a recording; one thread at a time."""

    def __init__(self, recording: Recording) -> None:
        """Start it; raises Undecoded."""
        self.used = time.monotonic()
        self._recording = recording
        self._records: Iterator[Record] = iter(())
        self._next: Record | None = None
        self._at_us = -1  # nowhere yet
        self._pointer = (0, 0, False)
        self._stack = ExitStack()
        self._decoder = self._stack.enter_context(Decoder(VIEW))

    def close(self) -> None:
        """End it; idempotent."""
        self._stack.close()

    def stretch(self, first_us: int, last_us: int, step_us: int) -> dict[str, Any]:
        """Give pictures and sounds of a stretch; the first picture is a whole one where it does not go on from the last.

        Raises Undecoded, FormatError; then it is of no use any more.
        """
        pictures: list[Shown] = []
        heard: list[Heard] = []
        if self._at_us != first_us or first_us == last_us:
            heard += self._seek(first_us)
            pictures.append(self._decoder.picture())
            self._pointer = pictures[-1].pointer
        size = 0
        while self._next is not None and self._next.at_us <= last_us and size < STRETCH_BYTES:
            heard += (sounds := self._feed(min(self._next.at_us + step_us, last_us)))
            shown = self._decoder.glance()
            size += shown.size + sum(len(one.samples) for one in sounds)
            if shown.patches or shown.pointer != self._pointer:
                pictures.append(shown)
                self._pointer = shown.pointer
        if size < STRETCH_BYTES:
            self._at_us = last_us
        return {
            "until": self._at_us,
            "pictures": [shown.told() for shown in pictures],
            "sounds": heard,
        }

    def _seek(self, at_us: int) -> list[Heard]:
        """Go to a moment; gives the sound that is still to be heard there."""
        keyframe = self._keyframe(at_us)
        begin_us, seq = (keyframe.at_us, keyframe.seq) if keyframe else (0, 0)
        if not begin_us <= self._at_us <= at_us:
            self._decoder.begin(keyframe)
            self._records = (record for record in self._recording.records(begin_us) if record.seq > seq)
            self._next = next(self._records, None)
        return [one for one in self._feed(at_us) if one.end_us > at_us]

    def _keyframe(self, at_us: int) -> Keyframe | None:
        """Give the last keyframe a decoder can go on from; None: it begins with the session."""
        try:
            keyframe = self._recording.sidecar().keyframe(at_us)
        except FormatError:
            return None
        return keyframe if keyframe is not None and keyframe.saved else None

    def _feed(self, until_us: int) -> list[Heard]:
        found = [item for items in self._decoder.fed(self._due(until_us)) for item in items]
        self._at_us = until_us
        return [_heard(item) for item in found if item.kind == HEARD]

    def _due(self, until_us: int) -> Iterator[Record]:
        while self._next is not None and self._next.at_us <= until_us:
            yield self._next
            self._next = next(self._records, None)


def _heard(item: Item) -> Heard:
    """Believe a decoder's sound; raises Undecoded."""
    try:
        return msgspec.convert([item.at_us, *item.body], Heard, builtin_types=(bytes,))
    except (TypeError, msgspec.ValidationError):
        raise Undecoded(FAILED) from None


class Stages:
    """The decoders of all who look at recordings of desktops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[tuple[str, str], Stage] = OrderedDict()
        self._timer: threading.Timer | None = None

    @contextmanager
    def of(self, user: str, recording: Recording) -> Iterator[Stage]:
        """Have one for somebody and a recording: the one they had before, where it waits. Raises Undecoded."""
        key = (user, recording.path.name)
        with self._lock:
            stage = self._waiting.pop(key, None)
        stage = stage or Stage(recording)
        try:
            yield stage
        except BaseException:
            stage.close()
            raise
        self._keep(key, stage)

    def _keep(self, key: tuple[str, str], stage: Stage) -> None:
        stage.used = time.monotonic()
        with self._lock:
            over = [self._waiting.pop(key)] if key in self._waiting else []
            self._waiting[key] = stage
            while len(self._waiting) > STAGES:
                over.append(self._waiting.popitem(last=False)[1])
            self._watch()
        for one in over:
            one.close()

    def _watch(self) -> None:
        """Have the next sweep come; `_lock` is held."""
        if self._timer is None and self._waiting:
            self._timer = threading.Timer(IDLE_S, self._sweep)
            self._timer.daemon = True
            self._timer.start()

    def _sweep(self) -> None:
        idle_since = time.monotonic() - IDLE_S
        with self._lock:
            self._timer = None
            over = [key for key, stage in self._waiting.items() if stage.used <= idle_since]
            stages = [self._waiting.pop(key) for key in over]
            self._watch()
        for one in stages:
            one.close()
