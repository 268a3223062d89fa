"""A recording surveyed once for the player: its timeline, its log, and where it can be cut into pieces.

Rule 1: a piece is some 60 seconds or CUT_BYTES of output, whichever is less: a browser asks for what it shows, and the
        daemon's ledger says which seconds that were.
Rule 2: pieces put together are the recording: each begins with the filter and the choice of channel as the one before
        left them, so that a sequence cut between two is whole again.
Rule 3: lists are bounded, and say that they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, NamedTuple

from proxyd import cli_desktop
from proxyd.cli_log import Entry, entries
from proxyd.cli_view import Scene
from proxyd.recorder.queries import Query
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.replay import Recording
from proxyd.terminal import Harmless

CUT_BYTES: Final = 256 << 10
CUT_US: Final = 60_000_000
BINS: Final = 600  # of the timeline: as many as a wide screen has room for
LOG_LIMIT: Final = 5000  # entries beside the picture; the page of the log has all of them
TEXT_LIMIT: Final = 400  # characters of one
_SHOWN: Final = frozenset({Kind.OUTPUT, Kind.ERROR_OUTPUT, Kind.PDU})
_TYPED: Final = frozenset({Kind.INPUT, Kind.INPUT_PDU, Kind.REFUSED})


class Cut(NamedTuple):
    """Where a piece begins: with which choice of channel, and what the filter holds."""

    at_us: int
    seq: int
    scene: Scene
    filter: Harmless


@dataclass(slots=True)
class Survey:
    """What the player needs to know of a whole recording. `heat`: output, input and findings of each bin."""

    duration_us: int
    protocol: str
    cuts: list[Cut] = field(default_factory=list)
    heat: list[tuple[int, int, int]] = field(default_factory=list)
    log: list[tuple[int, str, str]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    missing: str = ""

    def document(self) -> dict[str, Any]:
        """Give it as the browser gets it."""
        return {
            "duration_us": self.duration_us,
            "protocol": self.protocol,
            "pieces": [cut.at_us for cut in self.cuts],
            "heat": self.heat,
            "log": self.log[:LOG_LIMIT],
            "more": max(len(self.log) - LOG_LIMIT, 0),
            "queries": self.queries[:LOG_LIMIT],
        }


class _Heat:
    """Counts what passed in each bin."""

    def __init__(self, duration_us: int) -> None:
        self._width = max(duration_us // BINS + 1, 1)
        self.bins = [[0, 0, 0] for _ in range(BINS)]

    def take(self, record: Record) -> None:
        """Count a record."""
        column = 0 if record.kind in _SHOWN else 1 if record.kind in _TYPED else 2
        if column == 2 and record.kind is not Kind.FINDING:
            if record.kind is Kind.STATEMENT:
                column = 1 if record.body.get("event") != "result" else 0
            else:
                return
        amount = len(record.body) if isinstance(record.body, bytes) else 1
        self.bins[min(record.at_us // self._width, BINS - 1)][column] += amount


def survey(recording: Recording, answer: Mapping[str, Any]) -> Survey:
    """Read a recording whole, once. Raises FormatError."""
    protocol = answer["session"]["protocol"]
    found = Survey(recording.duration_us, protocol)
    heat = _Heat(recording.duration_us)
    if cli_desktop.is_desktop(answer["session"]):
        for record in recording.records():
            heat.take(record)
        log = cli_desktop.log_of(recording)
        lines, found.missing = list(log.entries), log.error
    else:
        lines = list(entries(_passing(recording.records(), heat, found.cuts)))
        found.missing = recording.damage or ""
    found.heat = [(out, typed, findings) for out, typed, findings in heat.bins]
    for line in sorted(lines, key=attrgetter("at_us")):
        found.log.append((line.at_us, line.kind, _told(line)))
        if line.query:
            found.queries.append(query_of(line.query))
    return found


def piece(recording: Recording, cuts: list[Cut], number: int) -> dict[str, Any]:
    """Give a piece as the browser gets it: the size at its beginning, and what comes when. Raises FormatError."""
    cut = cuts[number]
    end_seq = cuts[number + 1].seq if number + 1 < len(cuts) else None
    scene, harmless = copy.deepcopy(cut.scene), copy.deepcopy(cut.filter)
    began, size = scene.size, scene.size
    events: list[tuple[int, str, Any]] = []
    for record in recording.records(cut.at_us):
        if record.seq < cut.seq:
            continue
        if end_seq is not None and record.seq >= end_seq:
            break
        shown = harmless.feed(scene.take(record))
        if scene.size != size:
            size = scene.size
            events.append((record.at_us, "size", size))
        if shown:
            events.append((record.at_us, "out", shown))
    return {"size": began, "events": events}


def _passing(records: Iterable[Record], heat: _Heat, cuts: list[Cut]) -> Iterator[Record]:
    """Pass records on; count them, and note where they can be cut."""
    scene, harmless, amount = Scene(), Harmless(), 0
    for record in records:
        if not cuts or amount >= CUT_BYTES or record.at_us - cuts[-1].at_us >= CUT_US:
            cuts.append(Cut(record.at_us, record.seq, copy.deepcopy(scene), copy.deepcopy(harmless)))
            amount = 0
        amount += len(harmless.feed(scene.take(record)))
        heat.take(record)
        yield record


def _told(line: Entry) -> str:
    return line.text if len(line.text) <= TEXT_LIMIT else f"{line.text[:TEXT_LIMIT]}…"


def query_of(query: Query) -> dict[str, Any]:
    """Give a statement as the browser shows it."""
    result = query.result
    return {
        "n": query.n,
        "at_us": query.at_us,
        "text": query.shown,
        "status": query.status,
        "outcome": query.outcome,
        "rows": result.rows if result else None,
        "us": result.us if result else None,
    }
