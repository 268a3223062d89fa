"""Watching and replaying a session in the terminal; what a session without a screen shows is cli_queries' part.

Rule 1: what is shown is one channel: the one asked for, else the one proxyd.recorder.stage chooses.
Rule 2: into a pipe go the raw bytes of that channel and nothing else.
Rule 3: a view is rebuilt from the session's own output: joining late, seeking back and repainting are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from proxyd.cli_output import clean, position
from proxyd.control.client import Client, ControlError, Stream
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.stage import Stage
from proxyd.terminal import Picture, Screen

NOTE_SECONDS = 4.0  # a note in the last row: long enough to read a line
TICK_SECONDS = 1.0  # how soon a changed window size shows in the title
SEEK_US = 5_000_000  # one press of an arrow
FASTEST, SLOWEST = 64.0, 1 / 16
FOLLOW_SECONDS = 0.25  # between two looks at a recording that still grows: blocks come four times a second

WATCH_HELP = "q leave   b block   u unblock   d drop   r repaint"
REPLAY_HELP = "space pause   . next   left/right 5 s   up/down speed   r repaint   q leave"


class Scene:
    """What of a session's records is to be shown, and how large its terminal is."""

    def __init__(self, channel: int | None = None) -> None:
        self._stage = Stage(channel)
        self.blocked_by = ""
        self.end: dict[str, Any] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of what is shown; (0, 0) while nobody said."""
        return self._stage.size(self._stage.shown)

    def take(self, record: Record) -> bytes:
        """Learn from a record, and give what it shows as a terminal must get it."""
        body = record.body
        if record.kind is Kind.CONTROL and body.get("action") in ("block", "unblock"):
            self.blocked_by = str(body.get("by")) if body["action"] == "block" else ""
        elif record.kind is Kind.END:
            self.end = body
        return self._stage.shows(record)

    def raw(self, record: Record) -> bytes:
        """Learn from a record, and give what it shows byte for byte."""
        shown = self.take(record)
        return record.body if shown and isinstance(record.body, bytes) else b""


@dataclass(slots=True)
class Note:
    """A line over the screen, for a while; `answer` waits for y."""

    until: float
    answer: Callable[[], str] | None = None


class View:
    """A picture on the operator's screen, with notes over it."""

    def __init__(self, screen: Screen, about: str, channel: int | None) -> None:
        self.screen = screen
        self.scene = Scene(channel)
        self._channel = channel
        self._about = about
        self._picture = Picture()
        self._note: Note | None = None

    def take(self, record: Record, *, paint: bool = True) -> None:
        """Show a record; or only take it into the picture, to be painted later."""
        shown = self._picture.feed(self.scene.take(record))
        if paint and shown:
            self.screen.write(shown)

    def rewind(self) -> None:
        """Forget the picture, to build it from the beginning."""
        self.scene = Scene(self._channel)
        self._picture = Picture()

    def paint(self) -> None:
        """Paint the whole picture."""
        self._note = None
        self.screen.write(self._picture.painted())

    def note(self, text: str, answer: Callable[[], str] | None = None) -> None:
        """Say a line over the screen; with `answer`, until a key says yes to it or not."""
        self.screen.note(clean(text))
        self._note = Note(float("inf") if answer else time.monotonic() + NOTE_SECONDS, answer)

    def asked(self, key: str) -> bool:
        """Let an open question have the key; False when there is none."""
        if self._note is None or self._note.answer is None:
            return False
        answer = self._note.answer
        self.paint()
        if key in "yY":
            self.note(answer())
        return True

    def tick(self, status: str) -> None:
        """Take away an old note; keep the title true: who, what, and a hint when the window is too small."""
        if self._note is not None and time.monotonic() > self._note.until:
            self.paint()
        columns, rows = self.scene.size
        mine = self.screen.size()
        small = columns > mine[0] or rows > mine[1]
        hint = (
            f" - its terminal is {columns}x{rows}, this one {mine[0]}x{mine[1]}: enlarge it" if small else ""
        )
        self.screen.title(clean(f"{self._about} - {status}{hint}"))


MakeView = Callable[[Screen, Mapping[str, Any], str], View]  # of a session, and what its title says


class Watching:
    """One operator's view of a live session."""

    def __init__(self, client: Client, session: str, view_of: MakeView) -> None:
        self._client = client
        self._session = session
        self._view_of = view_of
        self._history = 0
        self._painted = False

    def show(self, stream: Stream, screen: Screen) -> dict[str, Any] | None:
        """Show the session until it ends or the operator leaves; its END, or None."""
        view: View | None = None
        while not stream.ended:
            keys, readable = screen.keys(TICK_SECONDS, stream.fileno())
            for frame in stream.receive() if readable else ():
                if "meta" in frame:
                    view = self._view_of(screen, frame["session"], _about(frame["session"]))
                    self._history = frame["history"]
                elif view is not None:
                    self._take(frame.get("records", ()), view)
            if view is None:
                continue
            if not all(self._obey(key, view) for key in keys):
                return None
            state = f"blocked by {view.scene.blocked_by}" if view.scene.blocked_by else "live"
            view.tick(f"{state} - ? for keys")
        return view.scene.end if view else None

    def _take(self, records: Sequence[Record], view: View) -> None:
        """Build the picture of what was before we came, paint it once, and go on live."""
        for record in records:
            view.take(record, paint=self._painted)
            if not self._painted and record.seq >= self._history:
                self._painted = True
                view.paint()

    def _obey(self, key: str, view: View) -> bool:
        """Do what a key says; False to leave."""
        if view.asked(key):
            return True
        match key:
            case "q" | "\x03" | "\x04":
                return False
            case "b":
                view.note(self._do("block", "session blocked: the user's input goes nowhere"))
            case "u":
                view.note(self._do("unblock", "session released"))
            case "d":
                view.note("Drop this session? y/n", lambda: self._do("drop", "session dropped"))
            case "r" | "\x0c":
                view.paint()
            case "?" | "h":
                view.note(WATCH_HELP)
        return True

    def _do(self, command: str, done: str) -> str:
        whom = "whom" if command == "unblock" else "session"
        try:
            self._client.call(command, **{whom: self._session})
        except ControlError as error:
            return str(error)
        return done


class Plain(Protocol):
    """What draws a session for a pipe, record by record."""

    end: dict[str, Any] | None

    def raw(self, record: Record) -> bytes:
        """Learn from a record, and give what it shows."""


def watch_plainly(
    stream: Stream, scene_of: Callable[[Mapping[str, Any]], Plain], output: BinaryIO
) -> dict[str, Any] | None:
    """Write what a session shows as it comes, until it ends; its END. `scene_of` gives what draws a session."""
    scene: Plain = Scene()
    for frame in stream:
        if "meta" in frame:
            scene = scene_of(frame["session"])
        output.writelines(scene.raw(record) for record in frame.get("records", ()))
        output.flush()
    return scene.end


@dataclass(frozen=True, slots=True)
class Pace:
    """How to replay: `speed` 2 is twice as fast; pauses longer than `skip_idle_us` are cut to it."""

    speed: float = 1.0
    skip_idle_us: int | None = None
    start_us: int = 0


class Player:
    """Replays records on a screen, in time, under the operator's keys."""

    def __init__(
        self,
        read: Callable[[], Iterator[Record]],
        view: View,
        pace: Pace,
        duration_us: int,
        more: Callable[[int, int], Iterator[Record]] | None = None,
    ) -> None:
        """`read` gives all records anew; `more`, for a recording that still grows, those after a seq and its time."""
        self._read, self._more = read, more
        self._view = view
        self._speed, self._skip_idle_us = pace.speed, pace.skip_idle_us
        self._duration_us = duration_us
        self._records: Iterator[Record] = iter(())
        self._next: Record | None = None
        self._seq = self._at_us = 0
        self._now_us = 0.0
        self._paused = False
        self._seek(pace.start_us)

    def play(self) -> bool:
        """Play to the end; False when the operator left before."""
        while True:
            record = self._next
            over = record is None and (self._more is None or self._view.scene.end is not None)
            if over and not self._paused:
                return True
            wait = self._wait_for(record)
            if wait == 0 and record is not None and not self._paused:
                self._show(record)
            began = time.monotonic()
            keys, _ = self._view.screen.keys(wait)
            if not self._paused:
                self._now_us += (time.monotonic() - began) * 1e6 * self._speed
            for key in keys:
                if not self._obey(key):
                    return False
            if wait:
                self._view.tick(self._status())
            if record is None:
                self._look_for_more()

    def _wait_for(self, record: Record | None) -> float:
        """Say how many seconds to wait for a key before the next record is due, at most a tick."""
        if self._paused:
            return TICK_SECONDS
        if record is None:
            return FOLLOW_SECONDS
        if self._skip_idle_us is not None:
            self._now_us = max(self._now_us, record.at_us - self._skip_idle_us)
        missing_us = record.at_us - self._now_us
        if missing_us < 1:  # the tape's own resolution; a clock may be too coarse to pass less
            return 0
        return min(missing_us / 1e6 / self._speed, TICK_SECONDS)

    def _show(self, record: Record) -> None:
        self._view.take(record)
        self._now_us = max(self._now_us, record.at_us)
        self._duration_us = max(self._duration_us, record.at_us)
        self._advance()

    def _advance(self) -> None:
        if self._next is not None:
            self._seq, self._at_us = self._next.seq, self._next.at_us
        self._next = next(self._records, None)

    def _look_for_more(self) -> None:
        if self._next is None and self._more is not None:
            self._records = self._more(self._seq, self._at_us)
            self._next = next(self._records, None)

    def _seek(self, to_us: float) -> None:
        """Build the picture as it was at a time, from the beginning when that is behind us."""
        to_us = min(max(to_us, 0), self._duration_us)
        if to_us < self._now_us or self._next is None:
            self._view.rewind()
            self._records, self._seq, self._at_us = self._read(), 0, 0
            self._next = next(self._records, None)
        while self._next is not None and self._next.at_us < to_us:
            self._view.take(self._next, paint=False)
            self._advance()
        self._now_us = to_us
        self._view.paint()
        self._view.tick(self._status())

    def _obey(self, key: str) -> bool:
        match key:
            case "q" | "\x03" | "\x04":
                return False
            case " ":
                self._paused = not self._paused
            case "." if self._next is not None:
                self._paused = True
                self._show(self._next)
            case "left" | "right":
                self._seek(self._now_us + (SEEK_US if key == "right" else -SEEK_US))
            case "up" | "+" | "=":
                self._speed = min(self._speed * 2, FASTEST)
            case "down" | "-":
                self._speed = max(self._speed / 2, SLOWEST)
            case "r" | "\x0c":
                self._view.paint()
            case "?" | "h":
                self._view.note(REPLAY_HELP)
        self._view.tick(self._status())
        return True

    def _status(self) -> str:
        at, whole = (position(int(us)).partition(".")[0] for us in (self._now_us, self._duration_us))
        state = " paused" if self._paused else ""
        return f"{at} of {whole}, {self._speed:g}x{state} - ? for keys"


def replay_plainly(records: Iterator[Record], scene: Plain, output: BinaryIO) -> None:
    """Write what a recording shows, without its pauses."""
    output.writelines(scene.raw(record) for record in records)
    output.flush()


def _about(session: dict[str, Any]) -> str:
    return f"{session['user']} on {session['login']}@{session['target']}"
