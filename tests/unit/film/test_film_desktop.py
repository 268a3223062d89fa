"""Pictures of a film: when there is one, what changed in it, where the pointer is; and the film put together of them."""

from __future__ import annotations

import errno
import io
import itertools
from fractions import Fraction
from typing import Any

import pytest
from unit.index.tape import demand_active, fast, keys, record, session, slow, tile

from proxyd.export.desktop import ARROW, Desktop
from proxyd.export.film import FORMS, KEY_US, MAX_SIZE, STILL_US, Chapter, Film, film_size
from proxyd.export.shot import SETTLE_US, STEP_US, Shot
from proxyd.index.area import Area
from proxyd.protocols.rdp import updates
from proxyd.protocols.rdp.events import Mouse
from proxyd.protocols.rdp.fastpath import UpdateCode
from proxyd.protocols.rdp.updates import build_bitmaps
from proxyd.recorder.record import Kind, Record

av = pytest.importorskip("av", reason="what makes films is not installed")
pytestmark = pytest.mark.mission("M6", "M16")

WIDTH, HEIGHT = 64, 48
RED, BLUE, GREY = b"\x00\x00\xff\x00", b"\xff\x00\x00\x00", b"\x80\x80\x80\x00"


def painted(at_us: int, colour: bytes, left: int = 0, top: int = 0, side: int = 8) -> Record:
    return fast(build_bitmaps([tile(left, top, side, side, colour * side * side)]))._replace(at_us=at_us)


def moved(at_us: int, x: int, y: int) -> Record:
    return keys(Mouse(0x0800, x, y), at_us=at_us)


class Seen:
    """A shot, with its pixels as they were when it was given."""

    def __init__(self, shot: Shot) -> None:
        self.shot = shot
        self.at_us = shot.at_us
        self.pixels = bytes(shot.pixels)

    def pixel(self, x: int, y: int) -> bytes:
        at = (y * self.shot.width + x) * 4
        return self.pixels[at : at + 4]


def shots(records: list[Record], end_us: int | None = None) -> list[Seen]:
    desktop = Desktop()
    seen = [Seen(shot) for one in records for shot in desktop.feed(one)]
    return seen + ([] if end_us is None else [Seen(shot) for shot in desktop.end(end_us)])


def test_a_picture_has_all_that_came_by_its_time_and_nothing_later() -> None:
    first, second, last = shots(
        [session(WIDTH, HEIGHT), painted(50_000, RED), painted(50_000 + SETTLE_US - 1, BLUE, left=8),
         painted(50_000 + SETTLE_US + 1, GREY, left=16)], 500_000)[1:]  # fmt: skip
    assert first.at_us == 50_000 + SETTLE_US
    assert [first.pixel(x, 0) for x in (0, 8, 16)] == [RED, BLUE, bytes(4)]
    assert first.shot.dirty == [Area(0, 0, 8, 8), Area(8, 0, 8, 8)]
    assert second.at_us == first.at_us + STEP_US
    assert second.pixel(16, 0) == GREY
    assert last.at_us == 500_000 - STEP_US


def test_at_most_25_pictures_a_second_and_none_where_nothing_changed() -> None:
    busy = [
        session(WIDTH, HEIGHT),
        *(painted(at, bytes((at % 251, 0, 0, 0))) for at in range(0, 1_000_000, 1000)),
    ]
    seen = shots(busy, 9_000_000)
    assert 24 <= len(seen) - 1 <= 26
    gaps = [after.at_us - before.at_us for before, after in itertools.pairwise(seen)]
    assert min(gaps) >= STEP_US
    assert seen[-2].pixel(0, 0) == seen[-1].pixel(0, 0) == bytes((999_000 % 251, 0, 0, 0))
    assert shots([record(Kind.END, {})], 1_000_000) == []


def test_the_pointer_is_the_clients_arrow_the_targets_shape_or_nothing() -> None:
    hidden = fast(b"", code=UpdateCode.POINTER_NULL)._replace(at_us=500_000)
    arrow, gone = shots([session(WIDTH, HEIGHT), moved(200_000, 30, 20), hidden, painted(900_000, RED)])[1:]
    assert arrow.shot.pointer is not None
    assert arrow.shot.pointer[:2] == (30, 20)
    assert arrow.shot.pointer.shape is ARROW
    assert arrow.shot.dirty == []
    assert gone.shot.pointer is None
    assert updates.SYSTEM_NULL == 0


# ---------------------------------------------------------------- the film


class Written(io.BytesIO):
    """A file in memory."""


def film_of(records: list[Record], end_us: int, form: str = "mp4", size: tuple[int, int] = (WIDTH, HEIGHT),
            chapters: tuple[Chapter, ...] = ()) -> Any:  # fmt: skip
    file, desktop = Written(), Desktop()
    film = Film(file, FORMS[form], size, sound=False, captions=False)
    for one in records:
        for shot in desktop.feed(one):
            film.picture(shot)
        film.advance(one.at_us)
    for shot in desktop.end(end_us):
        film.picture(shot)
    film.end(end_us, list(chapters))
    return av.open(io.BytesIO(file.getvalue()))


class Full(Written):
    """A file that has no room."""

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > 2000:
            raise OSError(errno.ENOSPC, "no room")
        return super().write(data)


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_what_writing_raises_is_raised_at_the_end_at_last(form: str) -> None:
    film, desktop = Film(Full(), FORMS[form], (WIDTH, HEIGHT), sound=False, captions=False), Desktop()
    changes = [painted(number * 100_000, (RED, BLUE)[number % 2]) for number in range(1, 60)]
    with pytest.raises(OSError, match="no room"):
        for one in [session(WIDTH, HEIGHT), *changes]:
            for shot in desktop.feed(one):
                film.picture(shot)
        film.end(6_000_000, [])


def colours(film: Any, *places: tuple[int, int]) -> list[tuple[float, list[tuple[int, ...]]]]:
    found = []
    for frame in film.decode(video=0):
        image = frame.to_image()
        found.append((round(frame.time, 3), [image.getpixel(place) for place in places]))
    return found


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(left - right) < 30 for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_a_film_shows_each_change_at_its_time(form: str) -> None:
    records = [
        session(WIDTH, HEIGHT),
        painted(1_000_000, RED, 16, 16, 16),
        painted(2_000_000, BLUE, 16, 16, 16),
    ]
    shown = colours(film_of(records, 3_000_000, form), (24, 24))
    assert [at for at, _ in shown] == [0.0, 1.01, 2.01, 2.96]
    expected = [(0, 0, 0), (255, 0, 0), (0, 0, 255), (0, 0, 255)]
    assert all(alike(colour, wanted) for (_, (colour,)), wanted in zip(shown, expected, strict=True)), shown


def test_a_smaller_desktop_stands_in_the_middle_and_leaves_nothing_behind() -> None:
    records = [session(WIDTH, HEIGHT), painted(500_000, RED, 0, 0, 48), demand_active(32, 16, at_us=1_000_000),
               slow([tile(0, 0, 16, 16, BLUE * 256)], at_us=1_000_000)]  # fmt: skip
    shown = colours(film_of(records, 2_000_000), (4, 4), (20, 24))
    assert all(map(alike, shown[1][1], [(255, 0, 0), (255, 0, 0)]))
    assert all(map(alike, shown[-1][1], [(0, 0, 0), (0, 0, 255)]))


def test_the_pointer_leaves_no_trail() -> None:
    grey = painted(100_000, GREY, 0, 0, 48)
    records = [
        session(WIDTH, HEIGHT),
        grey,
        moved(500_000, 8, 8),
        moved(1_000_000, 30, 8),
        moved(1_500_000, 63, 47),
    ]
    shown = colours(film_of(records, 2_000_000), (10, 14), (32, 14))
    assert not alike(shown[2][1][0], (128, 128, 128))
    assert all(alike(colour, (128, 128, 128)) for colour in shown[-1][1])


def test_a_still_film_has_pictures_to_go_to_and_key_pictures_are_apart() -> None:
    end_us = 100_000_000
    changes = [painted(at, bytes((at // 1_000_000, 0, 0, 0))) for at in range(500_000, 60_000_000, 2_000_000)]
    with film_of([session(WIDTH, HEIGHT), *changes], end_us) as film:
        packets = [packet for packet in film.demux(video=0) if packet.pts is not None]
    times = [float(packet.pts * packet.time_base) for packet in packets]
    assert max(after - before for before, after in itertools.pairwise(times)) <= STILL_US / 1e6 + 0.001
    found = [at for at, packet in zip(times, packets, strict=True) if packet.is_keyframe]
    assert len(found) == 2 + 1
    assert found[1] - found[0] >= KEY_US / 1e6
    assert times[-1] == pytest.approx((end_us - STEP_US) / 1e6, abs=0.001)


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_what_happened_is_a_chapter(form: str) -> None:
    happened = (
        Chapter(1_000_000, "finding (high): certificate changed"),
        Chapter(2_500_000, "dropped by röot"),
    )
    with film_of([session(WIDTH, HEIGHT), painted(1, RED)], 4_000_000, form, chapters=happened) as film:
        chapters = film.chapters()
    assert [one["metadata"]["title"] for one in chapters] == ["beginning", *(one.title for one in happened)]
    assert [float(one["start"] * one["time_base"]) for one in chapters] == [0.0, 1.0, 2.5]
    assert [float(one["end"] * one["time_base"]) for one in chapters] == [1.0, 2.5, 4.0]


def test_films_have_even_sides_and_fit_what_players_show() -> None:
    assert film_size(1366, 768) == (1366, 768)
    assert film_size(801, 601) == (802, 602)
    assert film_size(1, 1) == (2, 2)
    assert film_size(7680, 2160) == (MAX_SIZE[0], 1080)
    assert film_size(7680, 2160, half=True) == (MAX_SIZE[0] // 2, 540)
    assert film_size(1366, 766, half=True) == (684, 384)
    assert film_size(1, 1, half=True) == (2, 2)
    with film_of([session(801, 601), painted(1, RED)], 1_000_000, size=(801, 601)) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (802, 602)
        assert film.streams.video[0].time_base <= Fraction(1, 1000)
