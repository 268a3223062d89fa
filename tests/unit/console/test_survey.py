"""A recording cut into pieces is the recording: whatever the cuts, the pieces show what the whole shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd import cuts as cutting
from proxyd.cli_view import Scene
from proxyd.console import survey as surveying
from proxyd.console.player import Surveys
from proxyd.console.survey import BINS, UNINDEXED, Survey, survey
from proxyd.cuts import BEGINNING, Cut, Cuts, cut_of, piece
from proxyd.errors import FormatError
from proxyd.index.terminal.derived import Session
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item
from proxyd.terminal import Harmless

SSH = {"session": {"protocol": "ssh"}}


def recording(records: list[Record], items: list[Item] | None = None) -> Any:
    """A recording, with an index of these items, or none."""

    def sidecar() -> Any:
        if items is None:
            raise FormatError("there is none")
        return SimpleNamespace(items=lambda *, keyframes: iter(items))

    made = SimpleNamespace(damage=None, duration_us=records[-1].at_us, sidecar=sidecar)
    made.records = lambda start_us=0: (one for one in records if one.at_us >= start_us)
    return made


def indexed(records: list[Record]) -> list[Item]:
    """What the index of these records has."""
    session = Session()
    items = [item for record in records for item in session.feed(record)[0]] + session.finish()
    return [Item(*msgpack.unpackb(msgpack.packb(item), strict_map_key=False)) for item in items]


def cuts_of(records: list[Record]) -> Iterator[Cut]:
    """The cuts of records, as an index has them."""
    yield BEGINNING
    cuts = Cuts()
    for record in records:
        if cut := cuts.feed(record):
            yield cut_of(Item(*msgpack.unpackb(msgpack.packb(cut.item()))))


def of(bodies: list[tuple[int, Kind, int, Any]]) -> list[Record]:
    records, at_us = [], 0
    for seq, (delta, kind, channel, body) in enumerate(bodies, 1):
        at_us += delta
        records.append(Record(seq, at_us, kind, channel, body))
    return records


PTY = (0, Kind.REQUEST, 1, {"name": "pty-req", "columns": 80, "rows": 24})
OUTPUT = st.tuples(
    st.integers(0, 50_000_000),
    st.just(Kind.OUTPUT),
    st.sampled_from([1, 1, 1, 2]),
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [
                b"\x1b[31",
                b"mred\x1b[0m",
                b"\x1b]0;tit",
                b"le\x07",
                b"\x1b[?1049h",
                b"\xc2",
                b"\x9b1m",
                b"plain",
            ]
        ),
    ),
)
RESIZE = st.tuples(
    st.integers(0, 1000),
    st.just(Kind.RESIZE),
    st.just(1),
    st.tuples(st.integers(1, 300), st.integers(1, 100)).map(list),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(OUTPUT, OUTPUT, OUTPUT, RESIZE), min_size=1, max_size=60))
def test_pieces_together_are_the_whole(bodies):
    records = of([PTY, *bodies])
    scene, harmless, whole, sizes = Scene(), Harmless(), b"", []
    for record in records:
        whole += harmless.feed(scene.take(record))
        if not sizes or sizes[-1] != scene.size:
            sizes.append(scene.size)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cutting, "CUT_BYTES", 40)
        cuts = list(cuts_of(records))
    ends = [*(cut.seq for cut in cuts[1:]), None]
    pieces = [
        piece((one for one in records if one.at_us >= cut.at_us), cut, end)
        for cut, end in zip(cuts, ends, strict=True)
    ]
    assert b"".join(data for one in pieces for _, kind, data in one["events"] if kind == "out") == whole
    seen = [pieces[0]["size"], *(size for one in pieces for _, kind, size in one["events"] if kind == "size")]
    assert [size for at, size in enumerate(seen) if at == 0 or size != seen[at - 1]] == sizes or seen[
        1:
    ] == sizes
    for before, after in itertools.pairwise(pieces):
        last = [size for _, kind, size in before["events"] if kind == "size"]
        assert after["size"] == (last[-1] if last else before["size"])
    times = [at for one in pieces for at, _, _ in one["events"]]
    assert times == sorted(times)


def test_a_letter_that_is_cut_is_whole_behind_the_cut(monkeypatch):
    monkeypatch.setattr(cutting, "CUT_BYTES", 1)
    letter = "\N{PILE OF POO}".encode()
    for cut in range(1, len(letter)):
        bodies = [(1, Kind.OUTPUT, 1, data) for data in (b"a" + letter[:cut], letter[cut:])]
        *_, last = cuts_of(of([PTY, *bodies]))
        assert last.rest == letter[:cut]
    *_, last = cuts_of(of([PTY, (1, Kind.OUTPUT, 1, b"\x1b]0;" + letter[:2]), (1, Kind.OUTPUT, 1, b"x\x07")]))
    assert last.rest == b"", "what is in a title is shown nowhere"


def test_another_terminal_begins_with_an_empty_screen():
    other = (0, Kind.REQUEST, 2, {"name": "pty-req", "columns": 100, "rows": 30})
    close = (1, Kind.CHANNEL, 1, {"event": "close"})
    records = of([PTY, (1, Kind.OUTPUT, 1, b"one"), close, other, (1, Kind.OUTPUT, 2, b"two")])
    assert piece(records, BEGINNING, None)["events"] == [
        (0, "size", (80, 24)),
        (1, "out", b"one"),
        (2, "new", None),
        (2, "size", (100, 30)),
        (3, "out", b"two"),
    ]


LONG = [
    PTY,
    (1_000_000, Kind.INPUT, 1, b"ls\r"),
    (1_000_000, Kind.OUTPUT, 1, b"12345"),
    (500_000_000, Kind.FINDING, 0, {"code": "x", "severity": "high", "text": "odd"}),
    (200_000_000, Kind.OUTPUT, 1, b"678"),
    (1, Kind.END, 0, {"reason": "closed", "by": "", "error": ""}),
]


@pytest.mark.parametrize("with_index", [True, False])
def test_the_timeline_counts_everything_once(with_index):
    records = of(LONG)
    made = recording(records, indexed(records) if with_index else None)
    if with_index:
        made.records = None  # nothing of the recording is read
    found = survey(made, SSH)
    assert len(found.heat) == BINS
    assert [sum(column) for column in zip(*found.heat, strict=True)] == [8, 3, 1]
    assert [number for number, (*_, findings) in enumerate(found.heat) if findings] == [429]
    assert ("finding", "high: odd") in [(kind, text) for _, kind, text in found.log]
    assert [at for at, _, _ in found.log] == sorted(at for at, _, _ in found.log)
    document = found.document()
    assert document["pieces"] == [0, 502_000_000, 702_000_000]
    assert document["note"] == ("" if with_index else UNINDEXED)


def test_lists_are_bounded_and_say_so(monkeypatch):
    monkeypatch.setattr(surveying, "LOG_LIMIT", 3)
    finding = {"code": "x", "severity": "low", "text": "y" * 10_000}
    records = of([(1, Kind.FINDING, 0, finding)] * 10)
    document = survey(recording(records, indexed(records)), SSH).document()
    assert (len(document["log"]), document["more"]) == (3, 7)
    assert max(len(text) for _, _, text in document["log"]) < 500


@pytest.mark.parametrize(
    "item",
    [
        Item(Derived.HEAT, 0, [1, 2]),
        Item(Derived.LOG, 0, ["x"]),
        Item(Derived.TYPED, 0, "x"),
        Item(Derived.CUT, 0, [0, BEGINNING.stage, BEGINNING.filter, b""]),
        Item(Derived.CUT, 0, [1, "stage", BEGINNING.filter, b""]),
        Item(Derived.CUT, 0, [1, BEGINNING.stage, [b"x" * 5000, 0], b""]),
        Item(Derived.CUT, 0, [1, BEGINNING.stage, [b"", 7], b""]),
        Item(Derived.CUT, 0, [1, BEGINNING.stage, BEGINNING.filter, b"12345"]),
    ],
)
def test_an_index_that_is_none_is_not_believed(item):
    with pytest.raises(FormatError):
        Survey(1_000_000, "ssh").take(item)


def test_what_a_live_session_had_so_far_is_not_kept() -> None:
    surveys, early = Surveys(), of([PTY, (1_000, Kind.OUTPUT, 1, b"early")])
    late = [*early, Record(9, 5_000_000, Kind.OUTPUT, 1, b"late")]
    live, ended = (
        {"session": {"id": "one", "protocol": "ssh", "state": state}} for state in ("live", "closed")
    )
    assert surveys.of(recording(early), live).duration_us == 1_000
    assert surveys.of(recording(late), ended).duration_us == 5_000_000
    assert surveys.of(recording(early), ended).duration_us == 5_000_000  # that one is
