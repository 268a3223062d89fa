"""The process of `proxyd index`: `python -m proxyd.index.main`; the daemon feeds it records of several sessions.

Rule 1: it gives up everything but its standard input and output before it reads the first byte (sandbox).
Rule 2: it has no session, no key and nothing of the environment; frames of proxyd.indexing.frames come in and go out.
Rule 3: what the records of one session raise ends that session here; the others go on.
Rule 4: a live picture goes out at most every LIVE_S, and holds what changed since the one before, once.
Rule 5: the decoders of a protocol are loaded when its first session begins, so a process has only what it needs.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast

import msgpack

from proxyd import decoders
from proxyd.index import sandbox
from proxyd.index.area import Area
from proxyd.indexing.frames import (
    VIEW,
    Begin,
    DaemonFrames,
    Failed,
    Fed,
    Feed,
    Finish,
    Forget,
    FromChild,
    Glance,
    Hello,
    Look,
    Paint,
    Painted,
    Patch,
    Ping,
    Pong,
    Print,
    Printed,
    Redraw,
    Redrawn,
    Shown,
    ToChild,
    pack,
)
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Item, packed

if TYPE_CHECKING:
    from proxyd.index.rdp.screen import Screen
    from proxyd.index.terminal.terminals import Terminals

# By protocol: the module whose Session reads its records.
SESSIONS: Final = {
    "rdp": "proxyd.index.rdp.derived",
    "ssh": "proxyd.index.terminal.derived",
    "postgres": "proxyd.index.statements.derived",
    "mysql": "proxyd.index.statements.derived",
    VIEW: "proxyd.index.rdp.viewed",
}
LIVE_S: Final = 0.04  # 25 pictures a second
TILE: Final = 64  # pixels: what changed is told in squares of this, joined to rows
_READ_BYTES: Final = 1 << 16
_UNKNOWN: Final = (-1, -1)


class Session(Protocol):
    """What reads the records of one session: `Session(keyframe)` of the modules in SESSIONS."""

    seq: int
    at_us: int

    @property
    def faults(self) -> int:
        """How much could not be read."""

    def feed(self, record: Record) -> tuple[list[Item], list[Area]]:
        """Take the next record; gives what was derived, and what it painted on a desktop."""

    def finish(self) -> list[Item]:
        """Give what is derived at the end."""


class Shows(Session, Protocol):
    """A session of a desktop."""

    screen: Screen


class Prints(Session, Protocol):
    """A session of terminals."""

    terminals: Terminals


class _Watched:
    """A session that somebody watches: what changed since they were told."""

    def __init__(self) -> None:
        self.size = _UNKNOWN  # as they know it; another one makes the next picture a whole one
        self.tiles: set[tuple[int, int]] = set()
        self.pointer = (0, 0, True)
        self.due = 0.0

    def painted(self, areas: Iterable[Area]) -> None:
        """Note what was painted."""
        for area in areas:
            rows = range(area.top // TILE, (area.top + area.height - 1) // TILE + 1)
            columns = range(area.left // TILE, (area.left + area.width - 1) // TILE + 1)
            self.tiles.update((row, column) for row in rows for column in columns)

    def areas(self, width: int, height: int) -> list[Area]:
        """Give what changed as rectangles of that desktop: neighbours in a row joined, then equal rows."""
        found: list[Area] = []
        for row, column in sorted(self.tiles):
            left, top = column * TILE, row * TILE
            if left >= width or top >= height:
                continue
            area = Area(left, top, min(TILE, width - left), min(TILE, height - top))
            last = found[-1] if found else None
            if last and last.top == top and last.left + last.width == left:
                found[-1] = last._replace(width=last.width + area.width)
            else:
                found.append(area)
        return _stacked(found)


def _stacked(rows: list[Area]) -> list[Area]:
    """Join rectangles of the same columns that stand on each other."""
    open_: dict[tuple[int, int], Area] = {}
    done: list[Area] = []
    for area in rows:
        above = open_.get((area.left, area.width))
        if above and above.top + above.height == area.top:
            open_[area.left, area.width] = above._replace(height=above.height + area.height)
            continue
        if above:
            done.append(above)
        open_[area.left, area.width] = area
    return [*done, *open_.values()]


class Indexer:
    """All sessions of this process."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}
        self._watched: dict[int, _Watched] = {}
        self._glanced: dict[int, _Watched] = {}

    @property
    def wait_s(self) -> float | None:
        """How long nothing is to be told; None: until something comes."""
        due = [one.due for number, one in self._watched.items() if self._news(number)]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def take(self, frame: ToChild) -> list[FromChild]:
        """Do what a frame asks, and give the answers."""
        match frame:
            case Begin(session, protocol, keyframe):
                self._forget(session)
                with suppress(Exception):  # rule 3: what it is fed then is answered by Failed
                    self._sessions[session] = import_module(SESSIONS[protocol]).Session(keyframe)
            case Feed(session, records):
                return [self._guarded(session, partial(self._feed, session, records))]
            case Finish(session):
                return [self._guarded(session, partial(self._finish, session))]
            case Forget(session):
                self._forget(session)
            case Look(session, on):
                self._watched.pop(session, None)
                if on and session in self._sessions:
                    self._watched[session] = _Watched()
                    return [self._guarded(session, partial(self._show, session, time.monotonic()))]
            case Glance(session, whole):
                return [self._guarded(session, partial(self._glance, session, whole=whole))]
            case Print(session, channel):
                return [self._guarded(session, partial(self._print, session, channel))]
            case Redraw(session):
                return [self._guarded(session, partial(self._redraw, session))]
            case Paint(session, width, height):
                return [self._guarded(session, partial(self._paint, session, width, height))]
            case Ping(number):
                return [Pong(number)]
        return []

    def _guarded(self, number: int, work: Callable[[], FromChild]) -> FromChild:
        try:
            answer = work()
        except Exception as error:  # noqa: BLE001 - rule 3: whatever a decoder raises
            self._forget(number)
            return Failed(number, type(error).__name__)
        return answer

    def _feed(self, number: int, batch: bytes) -> FromChild:
        session = self._sessions[number]
        watching = [one[number] for one in (self._watched, self._glanced) if number in one]
        items: list[Item] = []
        for seq, at_us, kind, channel, body in msgpack.unpackb(batch, strict_map_key=False):
            found, painted = session.feed(Record(seq, at_us, Kind(kind), channel, body))
            items += found
            for watched in watching:
                watched.painted(painted)
        return Fed(number, session.seq, session.at_us, session.faults, [tuple(item) for item in items])

    def _finish(self, number: int) -> FromChild:
        session = self._sessions[number]
        items = session.finish()
        return Fed(number, session.seq, session.at_us, session.faults, [tuple(item) for item in items])

    def _print(self, number: int, channel: int | None) -> FromChild:
        session = cast("Prints", self._sessions[number])
        terminals = session.terminals
        screen = terminals.screen(channel)
        shown = terminals.shown if channel is None else channel
        page = screen.page() if screen else None
        return Printed(number, session.seq, session.at_us, shown, sorted(terminals.screens), page)

    def _redraw(self, number: int) -> FromChild:
        from proxyd.index.terminal.redraw import redrawn  # noqa: PLC0415 - rule 5

        screen = cast("Prints", self._sessions[number]).terminals.screen()
        return Redrawn(number, *screen.size, redrawn(screen)) if screen else Redrawn(number, 0, 0, b"")

    def _paint(self, number: int, width: int, height: int) -> FromChild:
        from proxyd.index.terminal.painting import picture  # noqa: PLC0415 - rule 5

        screen = cast("Prints", self._sessions[number]).terminals.screen()
        if screen is None:
            return Painted(number, 0, 0, b"")
        image = picture(screen.page(), width, height)
        return Painted(number, *image.size, packed(image.tobytes()))

    def _forget(self, number: int) -> None:
        self._sessions.pop(number, None)
        self._watched.pop(number, None)
        self._glanced.pop(number, None)

    # ------------------------------------------------------------------ who watches

    def _news(self, number: int) -> bool:
        watched, session = self._watched[number], cast("Shows | None", self._sessions.get(number))
        if session is None or session.screen.size == (0, 0):
            return False
        return (
            watched.size != session.screen.size or bool(watched.tiles) or watched.pointer != _pointer(session)
        )

    def pictures(self) -> list[FromChild]:
        """Give what watchers are to see now (rule 4)."""
        now = time.monotonic()
        due = [number for number, one in self._watched.items() if one.due <= now and self._news(number)]
        return [self._guarded(number, partial(self._show, number, now)) for number in due]

    def _show(self, number: int, now: float) -> FromChild:
        watched = self._watched[number]
        watched.due = now + LIVE_S
        return self._shown(number, watched)

    def _glance(self, number: int, *, whole: bool) -> FromChild:
        if whole or number not in self._glanced:
            self._glanced[number] = _Watched()
        return self._shown(number, self._glanced[number])

    def _shown(self, number: int, watched: _Watched) -> FromChild:
        session = cast("Shows", self._sessions[number])
        width, height = session.screen.size
        whole = watched.size != (width, height)
        areas = [Area(0, 0, width, height)] if whole and width else watched.areas(width, height)
        patches = [Patch(*area, packed(session.screen.part(area))) for area in areas]
        watched.pointer = _pointer(session)
        shown = Shown(number, session.seq, session.at_us, width, height, whole, patches, watched.pointer)
        watched.size = (width, height)
        watched.tiles.clear()
        return shown


def _pointer(session: Shows) -> tuple[int, int, bool]:
    pointer = session.screen.pointer
    return pointer.x, pointer.y, pointer.visible


def main() -> None:
    """Serve until standard input ends."""
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    decoders.freerdp()  # found while there is an environment that may say where
    isolated, filtered = sandbox.enter()
    _write(sink, [Hello(isolated, filtered)])
    frames, indexer = DaemonFrames(), Indexer()
    while True:
        ready, _, _ = select.select([source], [], [], indexer.wait_s)
        if ready:
            data = os.read(source, _READ_BYTES)
            if not data:
                return
            for frame in frames.feed(data):
                sandbox.allow_frame()
                _write(sink, indexer.take(frame))
        _write(sink, indexer.pictures())


def _write(sink: int, frames: Iterable[FromChild]) -> None:
    for frame in frames:
        rest = memoryview(pack(frame))
        while rest:
            rest = rest[os.write(sink, rest) :]


if __name__ == "__main__":
    main()
