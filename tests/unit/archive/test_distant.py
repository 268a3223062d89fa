"""A recording that is elsewhere reads as one that is here, and only what is needed of it is fetched."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from proxyd.recorder import source as sources
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording
from proxyd.recorder.segment import scan
from proxyd.recorder.source import PAGE, Elsewhere, FetchError, Folder
from proxyd.recorder.verify import verify

OUTPUTS = [(50_000 * i + 7, Kind.OUTPUT, 1, os.urandom(600)) for i in range(1, 7200)]  # 6 minutes, 4.3 MB


class Shelf:
    """The files of a directory as a store gives them; counts what is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, int, int]] = []
        self.short = 0

    def fetch(self, file: str, start: int, length: int) -> bytes:
        self.asked.append((file, start, length))
        with (self.path / file).open("rb") as opened:
            opened.seek(start)
            return opened.read(length - self.short)

    def source(self) -> Elsewhere:
        return Elsewhere(self.path, Folder(self.path).sizes(), self.fetch)


def bodies(recording: Recording, start_us: int = 0) -> list:
    found = recording.records(start_us)
    return [(r.at_us, r.kind, r.channel, r.body) for r in found if r.kind is not Kind.META]


@pytest.fixture
def path(press) -> Path:
    parts = [OUTPUTS[at : at + 900] for at in range(0, len(OUTPUTS), 900)]
    return press.segments(*parts, per_frame=5, sealed=True)


def test_what_is_elsewhere_reads_like_what_is_here(press, path: Path) -> None:
    near, far = Recording.open(path, press.identity), Recording.open(Shelf(path).source(), press.identity)
    assert bodies(far) == bodies(near) == OUTPUTS
    assert (far.meta, far.started_at, far.duration_us) == (near.meta, near.started_at, near.duration_us)
    assert (far.damage, far.path.name) == (None, "c0ffee")


def test_a_seek_fetches_what_it_shows_and_no_more(press, path: Path) -> None:
    draw = random.Random(5)
    for start_us in [draw.randrange(OUTPUTS[-1][0]) for _ in range(20)]:
        source = Shelf(path).source()
        records = Recording.open(source, press.identity).records(start_us)
        first = next(records)
        records.close()
        assert first.body == next(o[3] for o in OUTPUTS if o[0] >= start_us)
        assert source.fetched < 6 * PAGE
    assert bodies(Recording.open(path, press.identity), 200_000_000) == [
        o for o in OUTPUTS if o[0] >= 200_000_000
    ]


def test_little_is_kept_and_what_was_just_read_is_not_fetched_again(
    press, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CACHE_PAGES", 6)
    shelf = Shelf(path)
    source = shelf.source()
    recording = Recording.open(source, press.identity)
    assert len(bodies(recording)) == len(OUTPUTS)
    assert len(source._pages) <= 6
    assert PAGE < max(length for _, _, length in shelf.asked) <= sources.AHEAD * PAGE
    before = len(shelf.asked)
    assert bodies(recording, OUTPUTS[-1][0]) == OUTPUTS[-1:]
    assert len(shelf.asked) == before


def test_a_store_that_gives_less_than_it_was_asked_is_no_recording(press, path: Path) -> None:
    shelf = Shelf(path)
    shelf.short = 1
    with pytest.raises(FetchError, match="instead of"):
        Recording.open(shelf.source(), press.identity)


def test_cut_anywhere_it_reads_as_far_as_it_would_here(press) -> None:
    path = press.segments(OUTPUTS[:40], per_frame=4)
    file = path / "000000.pxr"
    whole = file.read_bytes()
    first = min(frame.end for frame in scan(whole).frames)
    draw = random.Random(3)
    for cut in draw.sample(range(first, len(whole)), 40):
        file.write_bytes(whole[:cut])
        near = Recording.open(path, press.identity)
        far = Recording.open(Shelf(path).source(), press.identity)
        assert bodies(far) == bodies(near)
        assert far.damage == near.damage


def test_an_index_that_lies_costs_a_reading_from_the_beginning(press, path: Path) -> None:
    """Every byte of the last segment's INDEX wrong, one at a time in turn: what is shown stays true."""
    file = path / "000007.pxr"
    whole = file.read_bytes()
    frame = scan(whole).frames[-2]
    wanted = [o for o in OUTPUTS if o[0] >= 350_000_000]
    for at in range(frame.offset, frame.end, 17):
        altered = bytearray(whole)
        altered[at] ^= 0x41
        file.write_bytes(altered)
        recording = Recording.open(path, press.identity)
        found = bodies(recording, 350_000_000)
        assert found == wanted
        assert recording.damage is not None


def test_what_is_elsewhere_is_verified_like_what_is_here(press, path: Path) -> None:
    keys = [press.signer.public]
    shelf = Shelf(path)
    assert verify(shelf.source(), keys).ok
    data = bytearray((path / "000001.pxr").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "000001.pxr").write_bytes(data)
    near, far = verify(path, keys), verify(shelf.source(), keys)
    assert far.problems == near.problems
    assert not far.ok
