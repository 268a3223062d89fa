"""What terminals showed at a moment, asked of processes that emulate them and stay: a jump waits for none to start.

Rule 1: what emulates a recording's bytes runs apart (cli_derive); nothing is believed but an answer of the right shape, and
        what brings a browser's terminal to a screen goes through the filter its output goes through.
Rule 2: MOST processes; each is asked by one at a time, and forgets what it read when that one has its answer.
Rule 3: a moment is read from the nearest keyframe of the index; without one, or where that can't be gone on from, from the
        recording's beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from proxyd.cli_decoder import Undecoded
from proxyd.cli_derive import TERMINAL, Decoder
from proxyd.errors import FormatError
from proxyd.recorder.replay import Recording
from proxyd.recorder.sidecar import Keyframe
from proxyd.terminal import Harmless

MOST: Final = 2  # processes, some 40 MB each: one jumps while another draws pictures
Answer = TypeVar("Answer")


class Still(NamedTuple):
    """A screen: columns and rows (0: nothing was shown yet), and what brings an empty terminal to it."""

    size: tuple[int, int]
    data: bytes


class Emulators:
    """The processes of one console."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(MOST)
        self._lock = threading.Lock()
        self._idle: list[Decoder] = []

    def warm(self) -> None:
        """Have one ready, soon: somebody opened a player."""
        with self._lock:
            ready = bool(self._idle)
        if not ready:
            threading.Thread(target=self._start, daemon=True).start()

    def screen(self, recording: Recording, at_us: int) -> Still:
        """Give what a terminal showed at a moment. Raises Undecoded, FormatError."""
        found = self._at(recording, at_us, Decoder.redrawn)
        return Still((found.columns, found.rows), Harmless().feed(found.data))

    def picture(self, recording: Recording, at_us: int, width: int, height: int) -> bytes:
        """Give that as PNG of so many pixels at most; none where nothing was shown. Raises Undecoded, FormatError."""
        return self._at(recording, at_us, lambda decoder: decoder.painted(width, height))

    def end(self) -> None:
        """End those that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.end()

    def _at(self, recording: Recording, at_us: int, work: Callable[[Decoder], Answer]) -> Answer:
        """Take one to a moment and ask it there (rule 3)."""

        def going(keyframe: Keyframe | None) -> Callable[[Decoder], Answer]:
            def ask(decoder: Decoder) -> Answer:
                decoder.go(recording, keyframe, at_us)
                return work(decoder)

            return ask

        keyframe = keyframe_of(recording, at_us)
        with suppress(Undecoded):
            return self._asked(going(keyframe))
        return self._asked(going(None))  # also where one that waited had ended

    def _asked(self, work: Callable[[Decoder], Answer]) -> Answer:
        with self._places:
            with self._lock:
                decoder = self._idle.pop() if self._idle else None
            decoder = decoder or Decoder(TERMINAL).begun()
            try:
                answer = work(decoder)
                decoder.forget()
            except BaseException:
                decoder.end()
                raise
            with self._lock:
                self._idle.append(decoder)
        return answer

    def _start(self) -> None:
        with suppress(Undecoded, OSError):  # whoever asks then is told
            self._asked(lambda _: None)


def keyframe_of(recording: Recording, at_us: int) -> Keyframe | None:
    """Give the last keyframe before a moment that can be gone on from; None without one, or without an index."""
    try:
        keyframe = recording.sidecar().keyframe(at_us)
    except FormatError:
        return None
    return keyframe if keyframe is not None and keyframe.saved else None
