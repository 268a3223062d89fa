"""The graphics pipeline and surface commands, fuzzed: messages, compression, surfaces, cache and codecs as a tape has them.

Rule 1: nothing raises: what cannot be read is counted.
Rule 2: what was painted lies within the desktop, and a picture is as large as it says.
Rule 3: surfaces, cache and what waits for the rest of a message stay below their bounds.
Rule 4: compressed messages go to FreeRDP's library as they are; the streams of its codecs do not, for some end the process
        (2.11: RemoteFX), which is the library's own and why it has one to itself (test_rdp_graphics_decode). It is handed
        one of each codec that is known to be good, for whatever picture was asked for.

Desktops are small here (MOST_PIXELS): the bounds of the product are multiples of them, and a large one is slow, not wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from proxyd.index.rdp import bitmap, gfx, gfx_codecs
from proxyd.index.rdp.gfx import CACHE_BYTES, MAX_SURFACES
from proxyd.index.rdp.gfx_codecs import Codec
from proxyd.index.rdp.screen import Screen
from proxyd.protocols.rdp import channels, fastpath
from proxyd.protocols.rdp.fastpath import MAX_UPDATE, Fragment, Update, UpdateCode
from proxyd.protocols.rdp.graphics import Command, build
from proxyd.protocols.rdp.updates import SurfaceBits, build_surface_bits
from proxyd.protocols.rdp.wire import u16, u32
from proxyd.recorder.record import Kind, Record
from tests.fuzz import program
from tests.fuzz.atheris_rdp_decode import META, MOST, STEP_US, in_frames, unheard
from tests.fuzz.program import Input
from tests.fuzz.seeds_rdp_graphics import H264, PROGRESSIVE_TILE
from tests.fuzz.session_rdp import NAMES, chunked
from tests.unit.index.test_decode_gfx import CLEAR
from tests.unit.index.test_decode_surfaces import TILE

MOST_PIXELS: Final = 1 << 17  # of a desktop or a surface: 512x256
MOST_FRAMES: Final = 128  # of one program: a message, which each may end, may paint thirty-two desktops
CHANNEL: Final = 7  # of the pipeline, as a target numbers it
DYNAMIC: Final = 1 + NAMES.index("drdynvc")
STREAMS: Final = {
    "rfx_process_message": TILE,
    "clear_decompress": CLEAR[7, 15],
    "planar_decompress": b"\x30" + b"\x17\x7f" * 12,  # 8 by 4
    "avc420_decompress": H264,
}
CODECS: Final = tuple(Codec)
SIZES: Final = ((64, 48), (128, 128), (512, 256), (1, 1), (17, 33), (0, 10), (256, 512), (8192, 16))


def framed(by_client: bool, kind: int, body: bytes) -> bytes:
    """What a target says by the pipeline or by surface commands: the high bits of `kind` say which, the low ones what."""
    code = kind & 0x0F
    match kind >> 4 & 7:
        case 0:
            return message(_wired(CODECS[code % len(CODECS)], body))
        case 1:
            return message(build(Command.WIRETOSURFACE_2, u16(body[0] if body else 0) + u16(Codec.CAPROGRESSIVE)
                                 + u32(code) + b"\x20" + u32(len(body[1:])) + body[1:]))  # fmt: skip
        case 2:
            return message(build(code | (body[0] & 0x10 if body else 0), body[1:]))
        case 3:
            return message(_surface(1 + (code & 1), *SIZES[code >> 1 & 7], body))
        case 4:
            return message(
                build(Command.RESETGRAPHICS, u32(SIZES[code & 7][0]) + u32(SIZES[code & 7][1]) + bytes(332))
            )
        case 5:
            return _said(b"\xe0" + body if code & 1 else body)
        case 6:
            return chunked(True, DYNAMIC, body)
    return _commanded(code, body)


def _wired(codec: int, body: bytes) -> bytes:
    """A picture for a place on a surface."""
    number, left, top, width, height, *_ = (*body[:5], 0, 0, 0, 0, 0)
    where = u16(left) + u16(top) + u16(left + width) + u16(top + height)
    data = body[5:]
    return build(Command.WIRETOSURFACE_1, u16(number) + u16(codec) + b"\x20" + where + u32(len(data)) + data)


def _surface(number: int, width: int, height: int, body: bytes) -> bytes:
    """A surface that is made, and shown somewhere."""
    left, top, *_ = (*body[:2], 0, 0)
    made = build(Command.CREATESURFACE, u16(number) + u16(width) + u16(height) + b"\x20")
    return made + build(Command.MAPSURFACETOOUTPUT, u16(number) + u16(0) + u32(left) + u32(top))


def _commanded(code: int, body: bytes) -> bytes:
    """Surface commands: a bitmap at a place, or bytes as they are; whole or a fragment."""
    fragment = Fragment.SINGLE
    if code & 8:
        fragment, body = Fragment(body[0] & 3 if body else 0), body[1:]
    left, top, width, height, *_ = (*body[:4], 0, 0, 0, 0)
    bits = SurfaceBits(left, top, left + width, top + height, 32, code & 3, width, height, body[4:])
    data = body if code & 4 else build_surface_bits(bits)
    return fastpath.build_output([Update(UpdateCode.SURFACE_COMMANDS, fragment, 0, data[:MOST])])


def message(*pdus: bytes) -> bytes:
    """Messages of the pipeline that are not compressed."""
    return _said(b"\xe0\x04" + b"".join(pdus))


def _said(data: bytes) -> bytes:
    return b"".join(chunked(True, DYNAMIC, part) for part in channels.build_dynamic_data(CHANNEL, data))


def records(source: Input) -> Iterator[Record]:
    """Give the recording of a session: its channel is open, then comes what a program says."""
    settings = source.byte()
    yield Record(1, 0, Kind.REQUEST, 0, {**META, "graphics": "gfx"})
    opening = bytes((0x10, CHANNEL)) + channels.GRAPHICS.encode() + b"\0"
    yield Record(2, 0, Kind.PDU, 0, chunked(True, DYNAMIC, opening))
    if settings & 1:
        first = message(
            build(Command.RESETGRAPHICS, u32(64) + u32(48) + bytes(332)), _surface(1, 64, 48, b"")
        )
        yield Record(3, 0, Kind.PDU, 0, first)
    steps = (step for step in program.steps(source, framed) if step.op in program.BY_TARGET)
    said = (frame for step in steps for piece in step.pieces for frame in in_frames(piece))
    for number, frame in enumerate(islice(said, MOST_FRAMES), 4):
        yield Record(number, number * STEP_US, Kind.PDU, 0, frame)


def session(source: Input) -> None:
    """Draw a recording."""
    screen = Screen()
    for record in records(source):
        for area in screen.feed(record):
            canvas = screen._canvas
            assert canvas is not None
            assert 0 <= area.left <= area.left + area.width <= canvas.width
            assert 0 <= area.top <= area.top + area.height <= canvas.height
        assert screen._outputs._fragments.held <= MAX_UPDATE
        if (pipeline := screen._pipeline) is not None:
            assert len(pipeline._surfaces) <= MAX_SURFACES
            assert pipeline._cached == sum(len(one.pixels) for one in pipeline._cache.values()) <= CACHE_BYTES
    picture = screen.picture()
    assert picture is None or len(picture.rgb) == picture.width * picture.height * 3
    assert not screen.missing
    assert screen.faults >= 0


def play(data: bytes) -> None:
    """Run one input; AssertionError, or whatever else comes out, is a finding."""
    with unheard():
        session(Input(data))


def quiet() -> None:
    """Make desktops small, and stand between the library and what it can't bear (rule 4)."""
    os.environ["RUST_BACKTRACE"] = "0"
    bitmap.MAX_PIXELS = gfx.MAX_PIXELS = MOST_PIXELS  # type: ignore[misc]
    gfx_codecs._Library = Spared  # type: ignore[misc]


class Spared(gfx_codecs._Library):
    """FreeRDP's library, whose codecs are handed good streams."""

    def __init__(self) -> None:
        super().__init__()
        self.progressive = _given(self.progressive, PROGRESSIVE_TILE)
        for name, stream in STREAMS.items():
            self._functions[name] = _given(self._functions[name], stream)
        both = self._functions["avc444_decompress"]
        self._functions["avc444_decompress"] = lambda *given: both(
            *given[:4], H264, len(H264), *given[6:8], H264, len(H264), *given[10:]
        )


def _given(function: Callable[..., Any], stream: bytes) -> Callable[..., Any]:
    """Put a stream in the place of the one that is to be decoded: the second argument, and its length the third."""

    def decode(context: Any, data: bytes, size: int, *rest: Any) -> Any:
        assert size == len(data)
        return function(context, stream, len(stream), *rest)

    return decode
