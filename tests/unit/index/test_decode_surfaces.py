"""Surface commands become the picture: RemoteFX by libfreerdp, pixels as they are, and what can't be is counted."""

from __future__ import annotations

import pytest

from proxyd import decoders
from proxyd.errors import FormatError
from proxyd.index.rdp import surfaces
from proxyd.index.rdp.canvas import Area
from proxyd.index.rdp.screen import Screen
from proxyd.protocols.rdp.fastpath import Fragment, UpdateCode
from proxyd.protocols.rdp.updates import (
    SurfaceBits,
    SurfaceCommand,
    build_surface_bits,
    parse_surface_commands,
)
from proxyd.protocols.rdp.wire import WireError, u16, u32
from tests.unit.index.tape import bottom_up, demand_active, fast, session, slow, tile

pytestmark = pytest.mark.mission("M16")
need_library = pytest.mark.skipif(decoders.freerdp() is None, reason="libfreerdp is not installed")

REMOTEFX = 3  # as FreeRDP's clients number it
SIDE = 64
TILE = bytes.fromhex(  # 64x64 of one colour (blue 0x20, green 0xC0, red 0xE0), as FreeRDP 2.11 encodes it
    "c0cc0c000000caacccca0001c3cc0d00000001ff0040002822c1cc0a00000001010001c2cc0c000000010040004000c4cc0e0000"
    "000100000000000100c6cc1700000001000101000000000040004000c1ca0100c7cc4e0000000100c2ca00005144014001003300"
    "00006666778898c3ca33000000000000000000000a000d00090000001f11ffffffc8f80000001f13ffffffffffb1f0000000001f"
    "11fff91f0000c5cc080000000100"
)
MARK = u16(SurfaceCommand.FRAME_MARKER) + u16(0) + u32(1)


def surface(left: int, top: int, data: bytes = TILE, *, codec: int = REMOTEFX, side: int = SIDE) -> bytes:
    return build_surface_bits(SurfaceBits(left, top, left + side, top + side, 32, codec, side, side, data))


def drawn(screen: Screen, *updates: bytes) -> list[Area]:
    return [area for data in updates for area in screen.feed(fast(data, UpdateCode.SURFACE_COMMANDS))]


@pytest.fixture
def screen() -> Screen:
    made = Screen()
    made.feed(session(100, 80))
    made.feed(demand_active(100, 80))
    return made


def test_commands_are_read_and_every_end_of_them_is_noticed() -> None:
    both = surface(1, 2) + MARK + surface(3, 4, b"abc", codec=0)
    found = parse_surface_commands(both)
    assert [(one.left, one.top, one.codec, len(one.data)) for one in found] == [
        (1, 2, 3, len(TILE)),
        (3, 4, 0, 3),
    ]
    dated = bytearray(surface(0, 0, b"abc"))
    dated[11] = 1  # TSBITMAP_EX flags: a header with times comes before the data
    dated[22:22] = bytes(24)
    assert parse_surface_commands(bytes(dated))[0].data == b"abc"
    whole = {len(surface(1, 2)), len(surface(1, 2) + MARK), 0}
    for end in set(range(len(both))) - whole:
        with pytest.raises(WireError):
            parse_surface_commands(both[:end])
    with pytest.raises(WireError):
        parse_surface_commands(u16(2) + bytes(40))


@need_library
def test_a_tile_of_remotefx_is_drawn_where_it_belongs_and_no_further(screen: Screen) -> None:
    assert drawn(screen, MARK + surface(8, 4) + MARK) == [Area(8, 4, SIDE, SIDE)]
    picture = screen.picture()
    assert picture is not None
    inside = {picture.rgb[at : at + 3] for at in range((4 * 100 + 8) * 3, (4 * 100 + 72) * 3, 3)}
    ((red, green, blue),) = inside
    assert max(abs(red - 0xE0), abs(green - 0xC0), abs(blue - 0x20)) <= 4  # it is no lossless codec
    assert picture.rgb[: 4 * 300] == bytes(4 * 300)
    assert drawn(screen, surface(64, 48)) == [Area(64, 48, 36, 32)]
    assert screen.faults == 0


@need_library
def test_pixels_without_a_codec_are_drawn_as_they_are(screen: Screen) -> None:
    pixels = bytes(range(64))
    assert drawn(screen, surface(3, 5, bottom_up(pixels, 16), codec=0, side=4)) == [Area(3, 5, 4, 4)]
    assert screen.part(Area(3, 5, 1, 1)) == bytes((2, 1, 0))
    assert screen.faults == 0


@need_library
@pytest.mark.parametrize(
    "hostile",
    [
        surface(0, 0, TILE[:8]),
        surface(0, 0, b"abc" * 9),
        surface(0, 0, TILE[:-20]),
        surface(200, 0),
        surface(0, 0, side=0),
        surface(0, 0, b"abc", codec=0),
        surface(0, 0, codec=0, side=8000),
        surface(0, 0)[:-1],
        b"\x09\0",
    ],
)
def test_what_can_not_be_is_counted_and_what_follows_is_drawn(screen: Screen, hostile: bytes) -> None:
    assert drawn(screen, hostile) == []
    assert screen.faults == 1
    assert drawn(screen, surface(0, 0)) == [Area(0, 0, SIDE, SIDE)]


@need_library
def test_an_update_paints_no_more_than_two_desktops(screen: Screen) -> None:
    areas = drawn(screen, surface(0, 0) * 10)
    assert len(areas) == 100 * 80 * 2 // SIDE**2
    assert screen.faults == 1


@need_library
def test_a_tape_with_surface_commands_is_read_from_its_beginning_only(screen: Screen) -> None:
    assert screen.saved() is not None
    screen.feed(fast(surface(0, 0)[:50], UpdateCode.SURFACE_COMMANDS, Fragment.FIRST))
    assert screen.saved() is None
    screen.feed(fast(surface(0, 0)[50:], UpdateCode.SURFACE_COMMANDS, Fragment.LAST))
    assert screen.saved() is None
    screen.feed(demand_active(64, 64))
    assert drawn(screen, surface(0, 0)) == [Area(0, 0, SIDE, SIDE)]
    assert screen.feed(slow([tile(0, 0, 4, 1, bytes(16))])) == [Area(0, 0, 4, 1)]
    assert screen.faults == 0


def test_without_a_library_what_is_missing_is_said(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: int) -> None:
        raise FormatError("install it")

    monkeypatch.setattr("proxyd.index.rdp.screen.Surfaces", lacking)
    assert drawn(screen, surface(0, 0)) == []
    assert (screen.missing, screen.faults) == ("install it", 1)
    monkeypatch.setattr("proxyd.index.rdp.screen.Surfaces", surfaces.Surfaces)


def test_before_there_is_a_desktop_nothing_is_drawn() -> None:
    screen = Screen()
    assert drawn(screen, surface(0, 0)) == []
    assert screen.faults > 0
