"""What the player needs to know of a whole recording: its timeline, its log, and where it can be cut into pieces.

Rule 1: it comes from the index, so that the page of a long session opens as soon as one of a short session. Where there is
        none it is derived now, which reads the recording once, whole; the page says so.
Rule 2: sessions of databases have no index to speak of: their statements are their recording, which is read.
Rule 3: lists are bounded, and say that they are; what comes from an index is believed nothing but its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

from proxyd.characters import UNSEEN
from proxyd.cli_decoder import Undecoded
from proxyd.cli_derive import DESKTOP, TERMINAL, Decoder
from proxyd.cli_log import entries
from proxyd.cuts import BEGINNING, Cut, Cuts, cut_of
from proxyd.errors import FormatError
from proxyd.recorder.queries import Query
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.replay import Recording
from proxyd.recorder.sidecar import Derived, Item

BINS: Final = 600  # of the timeline: as many as a wide screen has room for
SECOND_US: Final = 1_000_000  # what an index counts together
LOG_LIMIT: Final = 5000  # entries beside the picture; the page of the log has all of them
LOG_HELD: Final = 10 * LOG_LIMIT  # before they are in order
TEXT_LIMIT: Final = 400  # characters of one
UNINDEXED: Final = (
    "There is no index of this session yet, so its whole recording was read, and each jump reads it again."
)
UNREADABLE: Final = "What was typed is not shown: the recording can't be decoded here."
_SHOWN: Final = frozenset({Kind.OUTPUT, Kind.ERROR_OUTPUT, Kind.PDU})
_TYPED: Final = frozenset({Kind.INPUT, Kind.INPUT_PDU, Kind.REFUSED})

Line = tuple[int, str, str]


@dataclass(slots=True)
class Survey:
    """What is known of a recording. `heat`: output, input and findings of each bin. `note`: what is to be said of it."""

    duration_us: int
    protocol: str
    cuts: list[Cut] = field(default_factory=lambda: [BEGINNING])
    heat: list[list[int]] = field(default_factory=list)
    log: list[Line] = field(default_factory=list)
    lines: int = 0
    queries: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        self.heat = [[0, 0, 0] for _ in range(min(BINS, self.duration_us // SECOND_US + 1))]

    def document(self) -> dict[str, Any]:
        """Give it as the browser gets it."""
        return {
            "duration_us": self.duration_us,
            "protocol": self.protocol,
            "pieces": [cut.at_us for cut in self.cuts] if self.protocol == TERMINAL else [],
            "heat": self.heat,
            "log": self.log[:LOG_LIMIT],
            "more": max(self.lines - LOG_LIMIT, 0),
            "queries": self.queries[:LOG_LIMIT],
            "note": self.note,
        }

    def count(self, at_us: int, counted: Iterable[int]) -> None:
        """Count output, input and findings of a moment."""
        width = self.duration_us // len(self.heat) + 1
        heat = self.heat[min(at_us // width, len(self.heat) - 1)]
        for column, amount in enumerate(counted):
            heat[column] += amount

    def tell(self, at_us: int, kind: str, text: str) -> None:
        """Note a line of the log."""
        self.lines += 1
        if len(self.log) < LOG_HELD:
            shown = text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"
            self.log.append((at_us, kind, shown))

    def take(self, item: Item) -> None:
        """Take what was derived. Raises FormatError."""
        match item.kind, item.body:
            case Derived.HEAT, [int(typed), int(output), int(findings)]:
                self.count(item.at_us, (output, typed, findings))
            case Derived.CUT, _:
                self._cut(cut_of(item))
            case Derived.LOG, [int(), str(kind), str(text)]:
                self.tell(item.at_us, kind, text)
            case Derived.TYPED, [bool(refused), str(text), *_]:
                self.tell(item.at_us, "refused" if refused else "typed", text or UNSEEN)
            case ((Derived.HEAT | Derived.LOG | Derived.TYPED), _):
                raise FormatError("the index has what can't be read")

    def _cut(self, cut: Cut) -> None:
        if cut.seq <= self.cuts[-1].seq or cut.at_us < self.cuts[-1].at_us:
            raise FormatError("the index has pieces that are not in order")
        self.cuts.append(cut)


def survey(recording: Recording, answer: Mapping[str, Any]) -> Survey:
    """Survey a recording: from its index, else from all of it. Raises FormatError."""
    protocol = answer["session"]["protocol"]
    if protocol not in (TERMINAL, DESKTOP):
        return _in_order(_read(recording, protocol))
    try:
        found = _taken(recording, protocol, recording.sidecar().items(keyframes=False))
    except FormatError:
        found = _made(recording, protocol)
    return _in_order(found)


def _made(recording: Recording, protocol: str) -> Survey:
    """Survey a recording that has no index (rule 1)."""
    try:
        found = _taken(recording, protocol, _derived(recording, protocol))
    except Undecoded:
        found = _read(recording, protocol)
        found.note = UNREADABLE
    else:
        found.note = UNINDEXED
    return found


def _derived(recording: Recording, protocol: str) -> Iterator[Item]:
    with Decoder(protocol) as decoder:
        for items in decoder.fed(recording.records()):
            yield from items
        yield from decoder.finish()


def _taken(recording: Recording, protocol: str, items: Iterable[Item]) -> Survey:
    found = Survey(recording.duration_us, protocol)
    for item in items:
        found.take(item)
    return found


def _read(recording: Recording, protocol: str) -> Survey:
    """Survey what records tell by themselves."""
    found, cuts = Survey(recording.duration_us, protocol), Cuts()

    def passing() -> Iterator[Record]:
        for record in recording.records():
            found.count(record.at_us, _counted(record))
            if protocol == TERMINAL and (cut := cuts.feed(record)):
                found.cuts.append(cut)
            yield record

    for line in entries(passing()):
        found.tell(line.at_us, line.kind, line.text)
        if line.query and len(found.queries) < LOG_LIMIT:
            found.queries.append(query_of(line.query))
    return found


def _in_order(found: Survey) -> Survey:
    found.log.sort(key=itemgetter(0))
    found.queries.sort(key=itemgetter("at_us"))
    del found.log[LOG_LIMIT:]
    return found


def _counted(record: Record) -> tuple[int, int, int]:
    """Give what a record counts: output, input, findings."""
    amount = len(record.body) if isinstance(record.body, bytes) else 1
    if record.kind is Kind.STATEMENT:
        return (amount, 0, 0) if record.body.get("event") == "result" else (0, amount, 0)
    return (
        amount if record.kind in _SHOWN else 0,
        amount if record.kind in _TYPED else 0,
        1 if record.kind is Kind.FINDING else 0,
    )


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
