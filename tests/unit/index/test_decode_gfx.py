"""The graphics pipeline decoded by the system's libfreerdp: commands, bounds, and the examples of MS-RDPEGFX 4."""

from __future__ import annotations

import pytest

from proxyd import decoders
from proxyd.errors import FormatError
from proxyd.index.rdp import gfx, gfx_codecs
from proxyd.index.rdp.canvas import Picture
from proxyd.index.rdp.gfx import CACHE_SLOTS, MAX_SURFACES, WORK, Painted, Pipeline
from proxyd.index.rdp.gfx_codecs import Codec, Codecs
from proxyd.index.rdp.screen import Screen
from proxyd.protocols.rdp import channels
from proxyd.protocols.rdp.capabilities import Desktop
from proxyd.protocols.rdp.graphics import Command, build
from proxyd.protocols.rdp.wire import WireError, u16, u32
from tests.unit.index.tape import DYNAMIC, demand_active, from_target, session

pytestmark = [
    pytest.mark.mission("M16"),
    pytest.mark.skipif(decoders.freerdp() is None, reason="libfreerdp is not installed"),
]

WIDE, HIGH = 64, 32
RED, BLUE = b"\0\0\xff\0", b"\xff\0\0\0"
FOX = bytes.fromhex(  # ZGFX, MS-RDPEGFX 4: three segments, the last compressed
    "e103002b000000110000000454686520717569636b2062726f776e200e00000004666f78206a756d7073206f766510000000"
    "2439080e91f8d8613d1e440643799c02"
)
CLEAR = {  # ClearCodec, MS-RDPEGFX 4.1: examples 2 to 4, with the sizes of their pictures
    (78, 17): bytes.fromhex(
        "000d000000000000000082000000000000004e00110075000000020effffff000000dbffff003a90ffb66666b6ffb6660090"
        "dbff00003adb903a3a90db660000ffffb66464641104114c114c114c114c114c004713000101040001000047160011020047"
        "2900110100490a00010004000100004a0a00090001000047050001011c000100114c114c114c00470d4d004d"
    ),
    (64, 24): bytes.fromhex(
        "00df0e0000008b00000000000000fefefeff8005ffffff40fefefe4000003f0003000b00fefefec5d0c6d0c7d068d469d46a"
        "d46bd46cd46dd41ad41ad4a6d06ed46fd470d471d472d473d474d421d422d423d424d425d4d9d0dad0dbd0c5d0c5d0dcd0c2"
        "d021d422d423d424d425d4c9d0cad05ad42bd128d12cd175d427d428d429d42ad41ad41ad41ad4b7d0b8d0b9d0bad0bbd0bc"
        "d0bdd0bed0bfd0c0d0c1d0c2d0c3d0c4d0"
    ),
    (7, 15): bytes.fromhex(
        "010b78000000000046000000000000000000060000000e00000000000fffffffffffffffffffb6ffffffffffffffffffb666"
        "ffffffffffffffb666db903affffb6ffffffffffffffffff46914791489149914a911b91"
    ),
}


def plain(*pdus: bytes) -> bytes:
    return b"\xe0\x04" + b"".join(pdus)


def create(number: int, width: int = WIDE, height: int = HIGH) -> bytes:
    return build(Command.CREATESURFACE, u16(number) + u16(width) + u16(height) + b"\x20")


def mapped(number: int, left: int = 0, top: int = 0) -> bytes:
    return build(Command.MAPSURFACETOOUTPUT, u16(number) + u16(0) + u32(left) + u32(top))


def rectangle(left: int, top: int, right: int, bottom: int) -> bytes:
    return u16(left) + u16(top) + u16(right) + u16(bottom)


def fill(number: int, pixel: bytes, *where: bytes) -> bytes:
    return build(Command.SOLIDFILL, u16(number) + pixel + u16(len(where)) + b"".join(where))


def wire(number: int, codec: int, where: bytes, data: bytes) -> bytes:
    return build(Command.WIRETOSURFACE_1, u16(number) + u16(codec) + b"\x20" + where + u32(len(data)) + data)


RESET = build(Command.RESETGRAPHICS, u32(WIDE) + u32(HIGH) + bytes(332))
START, END = build(Command.STARTFRAME, bytes(8)), build(Command.ENDFRAME, bytes(4))
ALL = rectangle(0, 0, WIDE, HIGH)


@pytest.fixture
def pipeline() -> Pipeline:
    made = Pipeline()
    assert list(made.feed(plain(RESET, create(1), mapped(1)))) == [Desktop(WIDE, HIGH, 32)]
    return made


def painted(pipeline: Pipeline, *pdus: bytes) -> Painted:
    """The one rectangle that shows; nothing was wrong."""
    (found,) = pipeline.feed(plain(START, *pdus, END))
    assert pipeline.faults == 0
    assert isinstance(found, Painted)
    return found


def test_the_specifications_compressed_text_is_read() -> None:
    codecs = Codecs()
    assert codecs.decompress(FOX) == b"The quick brown fox jumps over the lazy dog"
    assert codecs.decompress(plain(b"abc")) == b"abc"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xe0",
        b"\xe2\x04abc",
        b"\xe1\x01\x00" + u32(1 << 31) + u32(4) + b"\x04abc",  # says more than a segment can hold
        b"\xe1\xff\xff" + u32(1 << 20) + u32(4) + b"\x04abc",
        b"\xe1\x01\x00" + u32(3) + u32(0xFFFFFFFF) + b"\x04abc",
    ],
)
def test_compressed_data_that_can_not_be_is_refused_and_so_is_all_that_builds_on_it(message: bytes) -> None:
    codecs = Codecs()
    with pytest.raises(WireError):
        codecs.decompress(message)
    with pytest.raises(WireError):
        codecs.decompress(plain(b"abc"))


def test_fills_and_copies_and_the_cache(pipeline: Pipeline) -> None:
    assert painted(pipeline, fill(1, RED, rectangle(0, 0, 4, 2))) == (0, 0, 4, 2, RED * 8)
    copy = build(
        Command.SURFACETOSURFACE, u16(1) + u16(1) + rectangle(3, 0, 5, 1) + u16(1) + u16(20) + u16(10)
    )
    assert painted(pipeline, copy) == (20, 10, 2, 1, RED + bytes(4))
    keep = build(Command.SURFACETOCACHE, u16(1) + bytes(8) + u16(5) + rectangle(20, 10, 22, 11))
    bring = build(Command.CACHETOSURFACE, u16(5) + u16(1) + u16(1) + u16(30) + u16(31))
    assert list(pipeline.feed(plain(keep))) == []
    painted(pipeline, fill(1, BLUE, ALL))
    assert painted(pipeline, bring) == (30, 31, 2, 1, RED + bytes(4))


def test_a_frame_shows_when_it_ends(pipeline: Pipeline) -> None:
    assert list(pipeline.feed(plain(START, fill(1, RED, ALL)))) == []
    assert list(pipeline.feed(plain(fill(1, BLUE, rectangle(0, 0, 1, 1))))) == []
    shown = list(pipeline.feed(plain(END)))
    assert [one[:4] for one in shown] == [(0, 0, WIDE, HIGH), (0, 0, 1, 1)]
    assert list(pipeline.feed(plain(fill(1, RED, rectangle(5, 5, 6, 6))))) == [(5, 5, 1, 1, RED)]


def test_a_surface_shows_where_it_is_mapped_and_only_its_own_size(pipeline: Pipeline) -> None:
    small = plain(create(2, 10, 6), mapped(2, 40, 20), fill(2, RED, rectangle(0, 0, 16, 16)))
    assert [one[:4] for one in pipeline.feed(small)] == [(40, 20, 10, 6)]
    assert list(pipeline.feed(plain(create(3, 8, 8), fill(3, RED, rectangle(0, 0, 8, 8))))) == []
    assert pipeline.faults == 0


def test_pixels_as_they_are(pipeline: Pipeline) -> None:
    data = bytes(range(96))
    assert painted(pipeline, wire(1, Codec.UNCOMPRESSED, rectangle(8, 4, 14, 8), data)) == (8, 4, 6, 4, data)


def test_planar(pipeline: Pipeline) -> None:
    planes = b"\x20" + b"\xff" * 8 + bytes(8) + b"\x80" * 8  # no alpha, no runs: red, green, blue
    shown = painted(pipeline, wire(1, Codec.PLANAR, rectangle(4, 2, 8, 4), planes))
    assert shown[:4] == (4, 2, 4, 2)
    assert {shown.pixels[at : at + 3] for at in range(0, 32, 4)} == {b"\x80\0\xff"}


def test_clearcodec(pipeline: Pipeline) -> None:
    runs = b"\0\0\xff\x05" + b"\xff\0\0\x03"  # a residual layer, 2.2.4.1.1.1: five pixels red, three blue
    stream = b"\0\0" + u32(len(runs)) + u32(0) + u32(0) + runs
    shown = painted(pipeline, wire(1, Codec.CLEARCODEC, rectangle(0, 0, 4, 2), stream))
    pixels = [shown.pixels[at : at + 3] for at in range(0, 32, 4)]
    assert pixels == [b"\0\0\xff"] * 5 + [b"\xff\0\0"] * 3


@pytest.mark.parametrize(("size", "colours"), list(zip(CLEAR, (14, 3, 6), strict=True)))
def test_clearcodecs_examples(pipeline: Pipeline, size: tuple[int, int], colours: int) -> None:
    list(pipeline.feed(plain(create(4, *size), mapped(4))))
    shown = painted(pipeline, wire(4, Codec.CLEARCODEC, rectangle(0, 0, *size), CLEAR[size]))
    found = {shown.pixels[at : at + 3] for at in range(0, len(shown.pixels), 4)}
    assert b"\xff\xff\xff" in found or b"\xfe\xfe\xfe" in found
    assert len(found) == colours


@pytest.mark.parametrize(
    "pdu",
    [
        fill(9, RED, ALL),
        fill(1, RED, rectangle(4, 4, 4, 8)),
        fill(1, RED, rectangle(WIDE, 0, WIDE + 1, 1)),
        wire(1, Codec.UNCOMPRESSED, rectangle(0, 0, WIDE + 1, 1), bytes(4 * (WIDE + 1))),
        wire(1, Codec.UNCOMPRESSED, ALL, bytes(4)),
        wire(1, Codec.UNCOMPRESSED, rectangle(5, 5, 5, 5), b""),
        wire(1, Codec.PLANAR, ALL, b""),
        wire(1, Codec.CLEARCODEC, ALL, b"\0"),
        wire(1, Codec.CAVIDEO, ALL, b"\xc0\xcc\x0c\0\0\0\xca\xac"),
        wire(1, Codec.AVC420, ALL, u32(0xFFFFFFFF)),
        wire(1, Codec.AVC420, ALL, u32(1) + rectangle(0, 0, WIDE + 16, 4) + bytes(2)),
        wire(1, Codec.AVC444, ALL, u32(0x3FFFFFFF)),
        wire(1, Codec.AVC444, ALL, u32(0xC0000000) + u32(0)),
        wire(1, 0x77, ALL, b""),
        build(Command.WIRETOSURFACE_2, u16(1) + u16(Codec.CAPROGRESSIVE) + u32(0) + b"\x20" + u32(9) + b"\0"),
        build(Command.SURFACETOSURFACE, u16(1) + u16(1) + ALL + u16(1) + u16(1) + u16(0)),
        build(Command.SURFACETOCACHE, u16(1) + bytes(8) + u16(5) + rectangle(4, 4, 2, 2)),
        build(Command.CACHETOSURFACE, u16(99) + u16(1) + u16(0)),
        build(Command.RESETGRAPHICS, u32(100_000) + u32(1)),
        build(Command.CREATESURFACE, u16(7) + u16(0) + u16(9) + b"\x20"),
        build(Command.CREATESURFACE, u16(7) + u16(9000) + u16(9) + b"\x20"),
        build(Command.MAPSURFACETOSCALEDOUTPUT, u16(1) + u16(0) + u32(0) * 2 + u32(128) + u32(64)),
        build(Command.MAPSURFACETOWINDOW, bytes(18)),
        build(0x99, b""),
        b"\x04\0\0\0\x07\0\0\0",
    ],
)  # fmt: skip
def test_what_can_not_be_is_a_fault_and_paints_nothing(pipeline: Pipeline, pdu: bytes) -> None:
    assert list(pipeline.feed(plain(pdu))) == []
    assert pipeline.faults == 1


def test_a_message_paints_only_so_much(pipeline: Pipeline) -> None:
    list(pipeline.feed(plain(fill(1, RED, *[ALL] * WORK))))
    assert pipeline.faults == 0
    list(pipeline.feed(plain(fill(1, RED, *[ALL] * (WORK + 1)))))
    assert pipeline.faults == 1


def test_surfaces_and_the_cache_are_bounded(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    list(pipeline.feed(plain(*(create(number, 1, 1) for number in range(1, MAX_SURFACES + 3)))))
    assert len(pipeline._surfaces) == MAX_SURFACES
    assert pipeline.faults == 2
    monkeypatch.setattr(gfx, "MAX_PIXELS", 16 * 16 * 128)
    list(pipeline.feed(plain(build(Command.DELETESURFACE, u16(5)), create(5, 17, 1))))
    assert pipeline.faults == 3
    keep = [
        build(Command.SURFACETOCACHE, u16(1) + bytes(8) + u16(slot) + rectangle(0, 0, 1, 1))
        for slot in range(CACHE_SLOTS + 1)
    ]
    monkeypatch.setattr(gfx, "WORK", 100_000)
    for at in range(0, len(keep), 2000):  # a segment has less than 64 KiB
        list(pipeline.feed(plain(*keep[at : at + 2000])))
    assert len(pipeline._cache) == CACHE_SLOTS
    assert pipeline.faults == 4
    monkeypatch.setattr(gfx, "CACHE_BYTES", 4 * CACHE_SLOTS)
    evict = build(Command.EVICTCACHEENTRY, u16(0))
    list(pipeline.feed(plain(evict, keep[0], keep[1])))
    assert pipeline._cached == 4 * CACHE_SLOTS


def dynamic(message: bytes) -> list[object]:
    chunks = channels.build_chunks(message)
    return [from_target(chunk, channel=DYNAMIC) for chunk in chunks]


def shown_by(screen: Screen, *messages: bytes) -> Picture:
    screen.feed(session(16, 8))
    screen.feed(demand_active(16, 8))
    for record in dynamic(b"\x10\x07" + channels.GRAPHICS.encode() + b"\0"):
        screen.feed(record)  # type: ignore[arg-type]
    for message in messages:
        for part in channels.build_dynamic_data(7, message):
            for record in dynamic(part):
                screen.feed(record)  # type: ignore[arg-type]
    picture = screen.picture()
    assert picture is not None
    return picture


def test_a_screen_shows_what_comes_by_the_pipeline_and_follows_its_size() -> None:
    screen = Screen()
    pixels = bytes(range(256)) * 32
    picture = shown_by(screen, plain(RESET, create(1), mapped(1), wire(1, 0, ALL, pixels)))
    assert picture[:2] == (WIDE, HIGH)
    assert picture.rgb[:3] == bytes((2, 1, 0))
    assert picture.rgb[-3:] == bytes((254, 253, 252))
    assert screen.faults == 0
    assert screen.saved() is None
    assert screen.missing == ""


def test_without_the_library_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gfx_codecs, "freerdp", lambda: None)
    screen = Screen()
    shown_by(screen, plain(RESET))
    assert "FreeRDP's library" in screen.missing
    assert decoders.PACKAGES in screen.missing
    assert screen.faults == 1


def test_a_file_that_is_no_library_is_said_to_be_none(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "libfreerdp3.so.3"  # type: ignore[operator]
    path.write_bytes(b"no library")
    monkeypatch.setattr(gfx_codecs, "freerdp", lambda: path)
    with pytest.raises(FormatError, match="can't be used"):
        Codecs()


def test_the_newer_library_goes_first_and_a_named_place_before_the_systems(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in decoders.NAMES:
        (tmp_path / name).write_bytes(b"")  # type: ignore[operator]
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    monkeypatch.setattr(decoders, "freerdp", decoders.freerdp.__wrapped__)  # which remembers nothing
    assert decoders.freerdp() == tmp_path / "libfreerdp3.so.3"  # type: ignore[operator]
    assert decoders.usable("noavc") == "noavc"
    monkeypatch.setattr(decoders, "freerdp", lambda: None)
    assert decoders.usable("gfx") == "bitmap"
