"""A session's records become the picture its target painted, on both paths, and nothing a target sends raises."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.index.tape import (
    COMPRESSED,
    bottom_up,
    deflated,
    demand_active,
    fast,
    from_target,
    keys,
    planar,
    planes,
    record,
    session,
    share_data,
    slow,
    tile,
)

from proxyd.errors import FormatError
from proxyd.index.area import Area
from proxyd.index.rdp import held
from proxyd.index.rdp.canvas import Picture
from proxyd.index.rdp.held import pixels
from proxyd.index.rdp.screen import Screen, screen
from proxyd.protocols.rdp.events import Mouse, Pointer
from proxyd.protocols.rdp.fastpath import Fragment, UpdateCode
from proxyd.protocols.rdp.share import DataKind
from proxyd.protocols.rdp.updates import build_bitmaps
from proxyd.recorder.record import Kind, Record

pytestmark = pytest.mark.mission("M16")

WIDTH, HEIGHT = 16, 8
DEFLATED, AT_FRONT = 0x21, 0x40


def noise(width: int, height: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(width * height * 4)


def rgb(pixels: bytes) -> bytes:
    by_name = planes(pixels)
    return bytes(value for pixel in zip(*(by_name[name] for name in "rgb"), strict=True) for value in pixel)


def shown(*records: Record) -> Picture:
    return screen(records, 10**9)


def cut(picture: Picture, area: Area) -> bytes:
    rows = range(area.top, area.top + area.height)
    starts = [(row * picture.width + area.left) * 3 for row in rows]
    return b"".join(picture.rgb[start : start + area.width * 3] for start in starts)


def raw_tile(left: int, top: int, width: int, height: int, pixels: bytes) -> bytes:
    return build_bitmaps([tile(left, top, width, height, bottom_up(pixels, width * 4))])


def test_a_session_begins_black() -> None:
    assert shown(session(WIDTH, HEIGHT)) == Picture(WIDTH, HEIGHT, bytes(WIDTH * HEIGHT * 3))


def test_there_is_no_picture_before_there_is_a_desktop() -> None:
    with pytest.raises(FormatError):
        screen([session(at_us=5)], 4)


@pytest.mark.parametrize("path", ["slow", "fast"])
@pytest.mark.parametrize("alpha", [True, False])
def test_tiles_stand_where_they_were_painted(path: str, alpha: bool) -> None:
    one, two = noise(4, 2), noise(WIDTH, 3, seed=2)
    bitmaps = [
        tile(3, 1, 4, 2, planar(one, 4, alpha=alpha, runs=True), flags=COMPRESSED),
        tile(0, 5, WIDTH, 3, planar(two, WIDTH, alpha=alpha, runs=True), flags=COMPRESSED),
    ]
    painted = slow(bitmaps) if path == "slow" else fast(build_bitmaps(bitmaps))
    picture = shown(session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT), painted)
    assert cut(picture, Area(3, 1, 4, 2)) == rgb(one)
    assert cut(picture, Area(0, 5, WIDTH, 3)) == rgb(two)
    assert not any(cut(picture, Area(0, 0, WIDTH, 1)) + cut(picture, Area(7, 0, WIDTH - 7, 5)))


def test_several_messages_in_one_frame_are_all_read() -> None:
    one, two = noise(2, 2), noise(2, 2, seed=2)
    payload = b"".join(
        share_data(DataKind.UPDATE, raw_tile(at, 0, 2, 2, pixels)) for at, pixels in ((0, one), (2, two))
    )
    picture = shown(session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT), from_target(payload))
    assert cut(picture, Area(0, 0, 2, 2)) == rgb(one)
    assert cut(picture, Area(2, 0, 2, 2)) == rgb(two)


def test_several_frames_in_one_record_are_all_read() -> None:
    one, two = noise(2, 2), noise(2, 2, seed=2)
    frames = fast(raw_tile(0, 0, 2, 2, one)).body + fast(raw_tile(2, 0, 2, 2, two)).body
    picture = shown(session(WIDTH, HEIGHT), record(Kind.PDU, frames))
    assert cut(picture, Area(0, 0, 4, 2)) == cut(
        shown(session(WIDTH, HEIGHT), fast(raw_tile(0, 0, 2, 2, one)), fast(raw_tile(2, 0, 2, 2, two))),
        Area(0, 0, 4, 2),
    )
    assert cut(picture, Area(2, 0, 2, 2)) == rgb(two)


def test_fragments_are_inflated_each_and_then_put_together() -> None:
    pixels = noise(8, 4)
    data = raw_tile(1, 1, 8, 4, pixels)
    parts = [data[:50], data[50:90], data[90:]]
    kinds = (Fragment.FIRST, Fragment.NEXT, Fragment.LAST)
    frames = [
        fast(
            deflated(part), fragment=kind, compression=DEFLATED | (AT_FRONT if kind is Fragment.FIRST else 0)
        )
        for part, kind in zip(parts, kinds, strict=True)
    ]
    reader = Screen()
    assert [reader.feed(one) for one in (session(WIDTH, HEIGHT), *frames)][1:] == [[], [], [Area(1, 1, 8, 4)]]
    picture = reader.picture()
    assert picture is not None
    assert cut(picture, Area(1, 1, 8, 4)) == rgb(pixels)
    assert reader.faults == 0


def test_both_paths_and_messages_nobody_looks_at_share_one_history() -> None:
    pixels = noise(2, 2)
    body = raw_tile(0, 0, 2, 2, pixels)
    bits = f"11111{len(body):06b}00000"  # a match of three bytes from its beginning: offset, length, padding
    again = int(bits, 2).to_bytes(2, "big")
    unseen = from_target(share_data(DataKind.SAVE_SESSION_INFO, deflated(body), DEFLATED | AT_FRONT))
    rest = deflated(body[3:])
    beginning = fast(again, fragment=Fragment.FIRST, compression=DEFLATED)
    end = fast(rest, fragment=Fragment.LAST, compression=DEFLATED)
    reader = Screen()
    for one in (session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT), unseen, beginning, end):
        reader.feed(one)
    picture = reader.picture()
    assert picture is not None
    assert reader.faults == 0
    assert cut(picture, Area(0, 0, 2, 2)) == rgb(pixels)


def test_a_lost_history_is_counted_and_found_again() -> None:
    pixels = noise(2, 2)
    body = raw_tile(0, 0, 2, 2, pixels)
    reader = Screen()
    for data, flags in ((b"\xff", DEFLATED), (deflated(body), DEFLATED)):
        reader.feed(session(WIDTH, HEIGHT))
        reader.feed(fast(data, compression=flags))
    assert reader.faults == 2
    assert reader.feed(fast(deflated(body), compression=DEFLATED | 0x80)) == [Area(0, 0, 2, 2)]
    assert reader.faults == 2


def test_an_update_that_lost_a_fragment_does_not_take_the_next_ones_with_it() -> None:
    data = raw_tile(0, 0, 2, 2, noise(2, 2))
    reader = Screen()
    reader.feed(session(WIDTH, HEIGHT))
    reader.feed(fast(data[:20], fragment=Fragment.FIRST))
    reader.feed(fast(data))
    assert reader.faults == 1
    assert reader.feed(fast(data)) == [Area(0, 0, 2, 2)]


def test_a_new_size_begins_black_and_the_same_size_keeps_the_picture() -> None:
    pixels = noise(2, 2)
    records = [
        session(WIDTH, HEIGHT),
        demand_active(WIDTH, HEIGHT, at_us=1),
        slow([tile(0, 0, 2, 2, bottom_up(pixels, 8))], at_us=2),
        demand_active(WIDTH, HEIGHT, at_us=3),
        demand_active(WIDTH + 4, HEIGHT - 2, at_us=4),
        slow([tile(WIDTH + 2, HEIGHT - 4, 2, 2, bottom_up(pixels, 8))], at_us=5),
    ]
    assert not any(screen(records, 1).rgb)
    assert cut(screen(records, 3), Area(0, 0, 2, 2)) == rgb(pixels)
    assert screen(records, 4) == Picture(WIDTH + 4, HEIGHT - 2, bytes((WIDTH + 4) * (HEIGHT - 2) * 3))
    assert cut(screen(records, 5), Area(WIDTH + 2, HEIGHT - 4, 2, 2)) == rgb(pixels)


def test_tiles_over_the_edge_are_cut() -> None:
    pixels = noise(4, 4)
    reader = Screen()
    reader.feed(session(WIDTH, HEIGHT))
    assert reader.feed(slow_of(WIDTH - 2, HEIGHT - 1, 4, 4, pixels)) == []  # before the first Demand Active
    reader.feed(demand_active(WIDTH, HEIGHT))
    assert reader.feed(slow_of(WIDTH - 2, HEIGHT - 1, 4, 4, pixels)) == [Area(WIDTH - 2, HEIGHT - 1, 2, 1)]
    assert reader.feed(slow_of(WIDTH, 0, 4, 4, pixels)) == []
    assert reader.feed(slow_of(0, HEIGHT, 4, 4, pixels)) == []
    picture = reader.picture()
    assert picture is not None
    assert cut(picture, Area(WIDTH - 2, HEIGHT - 1, 2, 1)) == rgb(pixels[:8])


def slow_of(left: int, top: int, width: int, height: int, pixels: bytes) -> Record:
    return slow([tile(left, top, width, height, bottom_up(pixels, width * 4))])


def test_padding_of_a_tile_is_not_shown() -> None:
    pixels = noise(4, 2)
    padded = tile(0, 0, 4, 2, bottom_up(pixels, 16))._replace(right=2)
    picture = shown(session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT), slow([padded]))
    assert cut(picture, Area(0, 0, 3, 1)) == rgb(pixels[:12])
    assert not any(cut(picture, Area(3, 0, 1, 2)))


def test_what_cannot_be_read_is_counted_and_the_rest_is_painted() -> None:
    pixels = noise(2, 2)
    good = tile(0, 0, 2, 2, bottom_up(pixels, 8))
    bad = [good._replace(depth=24), good._replace(width=WIDTH + 65), good._replace(data=b"", height=2)]
    reader = Screen()
    reader.feed(session(WIDTH, HEIGHT))
    reader.feed(demand_active(WIDTH, HEIGHT))
    assert reader.feed(slow([*bad, good])) == [Area(0, 0, 2, 2)]
    assert reader.faults == len(bad)


def test_an_update_that_paints_more_than_two_desktops_is_cut_off() -> None:
    whole = tile(
        0, 0, WIDTH, HEIGHT, b"\xf0" + (WIDTH * HEIGHT).to_bytes(2, "little"), depth=16, flags=COMPRESSED
    )
    reader = Screen()
    reader.feed(session(WIDTH, HEIGHT))
    reader.feed(demand_active(WIDTH, HEIGHT))
    assert len(reader.feed(slow([whole] * 50))) == 2
    assert reader.faults == 1


def test_licences_before_the_desktop_are_no_faults() -> None:
    reader = Screen()
    reader.feed(session(WIDTH, HEIGHT))
    reader.feed(from_target(bytes.fromhex("80000000ff031000070000000200000004000000")))
    reader.feed(demand_active(WIDTH, HEIGHT))
    assert reader.faults == 0
    assert reader.feed(slow_of(0, 0, 2, 2, noise(2, 2))) == [Area(0, 0, 2, 2)]


def test_other_channels_and_other_kinds_of_records_paint_nothing() -> None:
    reader = Screen()
    data = share_data(DataKind.UPDATE, raw_tile(0, 0, 2, 2, noise(2, 2)))
    records = [
        session(WIDTH, HEIGHT),
        demand_active(WIDTH, HEIGHT),
        from_target(data, channel=1006),
        record(Kind.META, {"name": "rdp"}),
        record(Kind.REQUEST, {"name": "resize"}),
        record(Kind.NOTICE, "x"),
        fast(bytes(4), UpdateCode.SYNCHRONIZE),
        from_target(share_data(DataKind.UPDATE, bytes((3, 0, 0, 0)))),
    ]
    assert [reader.feed(one) for one in records][1:] == [[]] * 7
    assert reader.faults == 0


@pytest.mark.parametrize("code", [UpdateCode.ORDERS, UpdateCode.SURFACE_COMMANDS, 7, 15])
def test_ways_to_paint_that_were_not_negotiated_are_faults(code: int) -> None:
    reader = Screen()
    reader.feed(session(WIDTH, HEIGHT))
    reader.feed(fast(bytes(8), code))
    assert reader.faults == 1


def test_the_pointer_follows_the_user_and_the_target() -> None:
    reader = Screen()
    reader.feed(session(WIDTH, HEIGHT))
    reader.feed(keys(Mouse(Pointer.MOVE, 3, 4)))
    assert (reader.pointer.x, reader.pointer.y) == (3, 4)
    reader.feed(fast(bytes((7, 0, 5, 0)), UpdateCode.POINTER_POSITION))
    assert (reader.pointer.x, reader.pointer.y) == (7, 5)
    reader.feed(keys(Mouse(Pointer.MOVE, 1, 1), kind=Kind.REFUSED))
    assert (reader.pointer.x, reader.pointer.y) == (7, 5)
    reader.feed(keys(Mouse(Pointer.MOVE, 2, 2), path="slow"))
    assert (reader.pointer.x, reader.pointer.y) == (2, 2)


FRAMES = [
    demand_active(WIDTH, HEIGHT).body,
    slow_of(1, 1, 4, 2, noise(4, 2)).body,
    slow([tile(0, 0, 4, 2, planar(noise(4, 2), 4, alpha=False, runs=True), flags=COMPRESSED)]).body,
    fast(raw_tile(2, 2, 2, 2, noise(2, 2))).body,
    fast(deflated(raw_tile(2, 2, 2, 2, noise(2, 2))), compression=DEFLATED).body,
    fast(bytes(40), UpdateCode.POINTER).body,
    fast(bytes(4), UpdateCode.POINTER_CACHED).body,
]


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(FRAMES)), max_size=8), st.randoms())
def test_nothing_a_target_sends_raises(bodies: list[bytes], chance: random.Random) -> None:
    reader = Screen()
    reader.feed(session(WIDTH, HEIGHT))
    for body in bodies:
        changed = bytearray(body)
        for _ in range(chance.randrange(3)):
            if changed:
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        for area in reader.feed(record(Kind.PDU, bytes(changed))):
            assert min(area) >= 0
    picture = reader.picture()
    assert picture is not None
    assert len(picture.rgb) == picture.width * picture.height * 3


@pytest.mark.parametrize("left_after", range(1, 6))
def test_a_screen_left_and_gone_on_with_shows_the_same(left_after: int) -> None:
    first = [tile(0, 0, 8, 4, noise(8, 4, 1)), tile(8, 4, 8, 4, noise(8, 4, 2))]
    packed = deflated(build_bitmaps([tile(3, 2, 4, 4, noise(4, 4, 3))]))
    behind = deflated(build_bitmaps([tile(1, 1, 5, 3, noise(5, 3, 4))]))
    told = [
        session(WIDTH, HEIGHT),
        demand_active(WIDTH, HEIGHT),
        slow(first),
        from_target(share_data(DataKind.UPDATE, packed, DEFLATED | AT_FRONT)),
        slow([tile(0, 0, 2, 2, noise(2, 2, 5))]),
        fast(behind, compression=DEFLATED),
    ]
    straight = Screen()
    for record_ in told[:left_after]:
        straight.feed(record_)
    picture, saved = straight.picture(), straight.saved()
    assert picture is not None
    assert saved is not None
    other = Screen.resumed(picture, saved)
    for record_ in told[left_after:]:
        assert other.feed(record_) == straight.feed(record_)
    assert other.picture() == straight.picture()
    assert (other.faults, straight.faults) == (0, 0)
    area = Area(3, 1, 7, 5)
    whole = straight.picture()
    assert whole is not None
    assert straight.part(area) == cut(whole, area)


def test_a_screen_is_not_left_inside_an_update() -> None:
    update = build_bitmaps([tile(0, 0, 4, 4, noise(4, 4))])
    told = Screen()
    assert told.saved() is None
    for record_ in (session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT)):
        told.feed(record_)
    told.feed(fast(update[:20], fragment=Fragment.FIRST))
    assert told.saved() is None
    told.feed(fast(update[20:], fragment=Fragment.LAST))
    assert told.saved() is not None


PLACES = [
    (0, 0, 8, 4),
    (4, 2, 8, 4),
    (8, 4, 8, 4),
    (0, 0, 16, 8),
    (12, 6, 8, 4),
]  # the last goes over the edge


@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.integers(0, 9), st.booleans()), max_size=30),
    st.booleans(),
)
def test_what_is_held_back_shows_as_if_it_had_been_painted_at_once(
    told: list[tuple[tuple[int, int, int, int], int, bool]], full: bool
) -> None:
    straight, lazy = Screen(), Screen(lazily=True)
    with pytest.MonkeyPatch.context() as patched:
        if full:
            patched.setattr(held, "MOST_BYTES", 1000)
        for screen in (straight, lazy):
            for one in (session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT)):
                screen.feed(one)
        for (left, top, width, height), seed, look in told:
            data = noise(width, height, seed)
            update = slow(
                [tile(left, top, width, height, data[: len(data) // (1 + (seed == 9))])]
            )  # 9: cut short
            areas = straight.feed(update)
            assert set(areas) <= set(lazy.feed(update))
            if look:
                assert lazy.picture() == straight.picture()
    assert lazy.picture() == straight.picture()
    assert lazy.faults <= straight.faults


def test_what_is_covered_is_not_decoded_and_what_cannot_be_read_covers_nothing() -> None:
    lazy = Screen(lazily=True)
    for one in (session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT)):
        lazy.feed(one)
    below, above = noise(8, 4, 1), noise(8, 4, 2)
    decoded = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(held, "pixels", lambda one: decoded.append(bytes(one.data)) or pixels(one))
        for data in (below, below, above, b"cut"):
            lazy.feed(slow([tile(0, 0, 8, 4, data)]))
        assert decoded == []
        shown = lazy.part(Area(0, 0, 8, 4))
    assert decoded == [b"cut", above]
    assert lazy.faults == 1
    straight = Screen()
    for one in (session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT), slow([tile(0, 0, 8, 4, above)])):
        straight.feed(one)
    assert shown == straight.part(Area(0, 0, 8, 4))
