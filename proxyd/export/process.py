"""A process of its own that makes a file of a recording: `python -P -m proxyd.export.process TASK`.

It takes the records of one session on standard input, as `proxyd.index.given` reads them. On standard output it gives
msgpack maps: {"at", "data"}, bytes of the file and where they go; {"at_us"} now and then, how far it is; and as the last
{"done": {...}}, or {"again": [width, height]}: pictures grew beyond the first, begin anew with that size.

Rule 1: what it may use is bounded before the first record is read: memory, time, and no file it could write; formats that
        are written back and forth are so by whoever started it.
Rule 2: it has no session, no key and nothing of the environment; whoever started it believes nothing but its answers.
"""

from __future__ import annotations

import io
import os
import resource
import sys
import time
from collections.abc import Iterable
from typing import IO, Any, Final

import msgpack
import msgspec

from proxyd.export.film import FORMS, FORMS_OF_TERMINALS, Chapter, Film, film_size
from proxyd.export.shot import Shot, Source
from proxyd.export.task import Made, Task
from proxyd.index.given import records
from proxyd.recorder.export import marker
from proxyd.recorder.forms import DESKTOP, FILMS
from proxyd.recorder.record import Record

MEMORY_BYTES: Final = (
    6 << 30
)  # of address space: the encoders take 2.5 GB of it for 4K, most of it never touched
CPU_S: Final = 600  # at least, and...
CPU_PER_S: Final = 8  # ...for each second of the session, as 4K at full rate takes
NICE: Final = 10
TELL_S: Final = 0.2  # between two words of how far it is
MAX_CHAPTERS: Final = 1000


class Answers:
    """What is said on standard output; also the file that is made, as FFmpeg writes it."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._next = 0.0
        self._at = 0

    def reached(self, at_us: int) -> None:
        """Say how far the work is, not more often than anybody looks."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TELL_S
            self.say({"at_us": at_us})

    def say(self, answer: dict[str, Any]) -> None:
        """Say something at once."""
        self._out.write(msgpack.packb(answer))
        self._out.flush()

    def write(self, data: bytes) -> int:
        """Write a part of the file."""
        self.say({"at": self._at, "data": bytes(data)})
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on elsewhere in the file; its end is not known here."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        """Say where the next part goes."""
        return self._at


class Clock:
    """Gives records the times they have in a film.

    Those of the session, but that no pause is longer than `longest_us`, and that what is left goes by `speed` times as fast.
    """

    def __init__(self, longest_us: int | None, speed: int = 1) -> None:
        self._longest_us, self._speed = longest_us, speed
        self._last_us = self._cut_us = 0

    def timed(self, record: Record) -> Record:
        """Give the next record at its time in the film."""
        if self._longest_us is not None:
            self._cut_us += max(0, record.at_us - self._last_us - self._longest_us)
            self._last_us = max(self._last_us, record.at_us)
        elif self._speed == 1:
            return record
        return record._replace(at_us=max(0, record.at_us - self._cut_us) // self._speed)


class Reel:
    """A film of one session's records, and what becomes known while they are read."""

    def __init__(self, answers: Answers, task: Task) -> None:
        self._answers, self._task = answers, task
        self._source = source_of(task)
        self._film: Film | None = None
        self._size = (max(task.width, self._source.least[0]), max(task.height, self._source.least[1]))
        self._grown = False
        self._pictures = 0
        self._chapters: list[Chapter] = []
        self._clock = Clock(task.pause_us, task.speed)
        self._lasts_us = 0

    def run(self, given: Iterable[Record]) -> dict[str, Any]:
        """Make it; gives the last answer."""
        at_us = 0
        for one in given:
            record = self._clock.timed(one)
            at_us = record.at_us
            self._take(record)
            self._answers.reached(one.at_us)
        self._lasts_us = at_us
        for shot in self._source.end(at_us):
            self._picture(shot)
        if self._grown:
            if self._film is not None:
                self._film.leave()
            return {"again": list(self._size)}
        if self._film is not None:
            for caption in self._source.typed_last():
                self._film.caption(caption)
            self._film.end(at_us, self._chapters)
        return {"done": msgspec.to_builtins(self._done())}

    def _done(self) -> Made:
        faults = self._source.faults + (self._film.faults if self._film else 0)
        width, height = film_size(*self._size, half=self._task.half) if self._film else (0, 0)
        return Made(self._pictures, width, height, self._heard, faults, lasts_us=self._lasts_us)

    @property
    def _heard(self) -> bool:
        """Whether the film has sound: faster than it was, speech is noise."""
        return self._source.sound and self._task.speed == 1

    def _take(self, record: Record) -> None:
        if (mark := marker(record)) and len(self._chapters) < MAX_CHAPTERS:
            self._chapters.append(Chapter(record.at_us, mark))
        source = self._source
        for shot in source.feed(record):
            self._picture(shot)
        heard, typed = source.heard(record) if self._task.speed == 1 else [], list(source.typed(record))
        film = self._film
        if film is None or self._grown:
            return
        for piece in heard:
            film.sound(piece)
        for caption in typed:
            film.caption(caption)
        film.advance(record.at_us)

    def _picture(self, shot: Shot) -> None:
        width, height = self._size
        if self._grown or (self._film is not None and (shot.width > width or shot.height > height)):
            self._grown = True  # this film is lost; how large the next one must be is worth knowing
            self._size = (max(width, shot.width), max(height, shot.height))
            return
        if self._film is None:
            self._size = (max(width, shot.width), max(height, shot.height))
            forms = FORMS if self._task.protocol == DESKTOP else FORMS_OF_TERMINALS
            self._film = Film(self._answers, forms[self._task.form], self._size, sound=self._heard,
                              captions=self._task.keys, half=self._task.half)  # fmt: skip
        self._pictures += 1
        self._film.picture(shot)


def source_of(task: Task) -> Source:
    """Give what shows the session; loads what reads its kind, and nothing else."""
    if task.protocol == DESKTOP:
        from proxyd.export.desktop import Desktop  # noqa: PLC0415 - needs the decoder of desktops

        return Desktop()
    from proxyd.export.terminal import Terminal  # noqa: PLC0415 - needs the emulator of terminals

    return Terminal(task.channel, keys=task.keys)


def replay(answers: Answers, task: Task, given: Iterable[Record]) -> dict[str, Any]:
    """Make a PyRDP replay; gives the last answer."""
    from proxyd.export.pyrdp import Replay  # noqa: PLC0415 - needs the decoder of desktops

    written = Replay(task.started_ms)
    for record in given:
        if data := b"".join(written.feed(record)):
            answers.write(data)
        answers.reached(record.at_us)
    return {
        "done": msgspec.to_builtins(Made(0, 0, 0, sound=False, faults=written.faults, blind=written.blind))
    }


def confine(task: Task) -> None:
    """Bound what this process may use (rule 1)."""
    processor_s = CPU_S + CPU_PER_S * task.duration_us // 1_000_000
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: processor_s,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,  # it would hold what was on the screen
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    os.nice(NICE)


def main() -> None:
    """Make what the command line asks for."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    confine(task)
    answers = Answers(sys.stdout.buffer)
    given = records(sys.stdin.buffer)
    answers.say(Reel(answers, task).run(given) if task.form in FILMS else replay(answers, task, given))


if __name__ == "__main__":
    main()
