"""A recording cut into pieces is the recording: whatever the cuts, the pieces show what the whole shows."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.cli_view import Scene
from proxyd.console import survey as surveying
from proxyd.console.survey import BINS, piece, survey
from proxyd.recorder.record import Kind, Record
from proxyd.terminal import Harmless

SSH = {"session": {"protocol": "ssh"}}


def recording(records: list[Record]) -> Any:
    made = SimpleNamespace(damage=None, duration_us=records[-1].at_us)
    made.records = lambda start_us=0: (one for one in records if one.at_us >= start_us)
    return made


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


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(OUTPUT, OUTPUT, OUTPUT, RESIZE), min_size=1, max_size=60))
def test_pieces_together_are_the_whole(bodies):
    records = of([PTY, *bodies])
    scene, harmless, whole, sizes = Scene(), Harmless(), b"", []
    for record in records:
        whole += harmless.feed(scene.take(record))
        if not sizes or sizes[-1] != scene.size:
            sizes.append(scene.size)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(surveying, "CUT_BYTES", 40)
        made = recording(records)
        found = survey(made, SSH)
        pieces = [piece(made, found.cuts, number) for number in range(len(found.cuts))]
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


def test_the_timeline_counts_everything_once():
    records = of(
        [
            PTY,
            (1_000_000, Kind.INPUT, 1, b"ls\r"),
            (1_000_000, Kind.OUTPUT, 1, b"12345"),
            (500_000_000, Kind.FINDING, 0, {"code": "x", "severity": "high", "text": "odd"}),
            (1, Kind.OUTPUT, 1, b"678"),
            (1, Kind.END, 0, {"reason": "closed", "by": "", "error": ""}),
        ]
    )
    found = survey(recording(records), SSH)
    assert len(found.heat) == BINS
    assert [sum(column) for column in zip(*found.heat, strict=True)] == [8, 3, 1]
    assert [number for number, (*_, findings) in enumerate(found.heat) if findings] == [BINS - 1]
    assert ("finding", "high: odd") in [(kind, text) for _, kind, text in found.log]
    assert found.document()["pieces"] == [0, 502_000_000]


def test_lists_are_bounded_and_say_so(monkeypatch):
    monkeypatch.setattr(surveying, "LOG_LIMIT", 3)
    finding = {"code": "x", "severity": "low", "text": "y" * 10_000}
    records = of([(1, Kind.FINDING, 0, finding)] * 10)
    document = survey(recording(records), SSH).document()
    assert (len(document["log"]), document["more"]) == (3, 7)
    assert max(len(text) for _, _, text in document["log"]) < 500
