"""Where campaigns against the graphics pipeline begin: what servers paint by it, MS-RDPEGFX's own examples, its words."""

from __future__ import annotations

from typing import Final

from proxyd.protocols.rdp.graphics import Command
from proxyd.protocols.rdp.updates import SurfaceBits, build_surface_bits
from proxyd.protocols.rdp.wire import u16, u32
from tests.fuzz.program import Op, does, says, says_much
from tests.unit.index.test_decode_gfx import CLEAR, FOX
from tests.unit.index.test_decode_surfaces import TILE

WIRE, PROGRESSIVE, ANY, SURFACE, RESET, SEGMENTS, CHANNEL, SURFACE_COMMAND = (
    shape << 4 for shape in range(8)
)
UNCOMPRESSED, REMOTEFX, CLEARCODEC, PLANAR, AVC420, ALPHA, AVC444_V2 = 0, 1, 2, 4, 5, 6, 9
ALL: Final = bytes((1, 0, 0, 64, 48))  # of the surface there is at first
H264: Final = bytes.fromhex(  # 64x48 of one colour, as x264 encodes it
    "000000016742c00adc47a1000003000100000300328f1227800000000168ce0fc8000000016588843a118a000200f1c00040f638"
    "00081649c9c9d75d75d75d75e0"
)
PROGRESSIVE_TILE: Final = bytes.fromhex(  # 64x64 of one colour, as FreeRDP 3 encodes it
    "c0cc0c000000caaccacc0001c3cc0a00000000400000c1cc0c000000000000000100c4cc55000000400100010000010036000000"
    "00000000400040006666778898c5cc3600000000000000000000000a000d000900000000001f11ffffffc8f80000001f13ffffff"
    "ffffb1f0000000001f11fff91f0000c2cc06000000"
)

DICTIONARY: Final = (
    b"\xe0\x04", b"\xe1", b"\x04", b"\x24", b"\xc0\xcc", b"\xc1\xcc", b"\xc2\xcc", b"\xc3\xcc", b"\xc4\xcc", b"\xc5\xcc", b"\xc6\xcc",
    b"\xc7\xcc", b"\xc1\xca", b"\xc2\xca", b"\xc3\xca", b"\x51\x44", b"\0\0\0\1\x67", b"\0\0\0\1\x68", b"\0\0\0\1\x65", b"LA",
    b"\x01\0\0\0", b"\x40\0\x40\0", b"\xff\xff\xff\xff", b"\1\0", b"\2\0", b"\x10", b"\x20", b"\x30", b"\6\0", b"\4\0",
)  # fmt: skip


def _wire(codec: int, data: bytes, where: bytes = ALL) -> bytes:
    return says(False, WIRE | codec, where + data)


def _command(data: bytes, *fragments: int) -> bytes:
    """Surface commands in so many fragments, or in one."""
    size = -(-len(data) // max(1, len(fragments)))
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(
        says(False, SURFACE_COMMAND | 12, bytes((kind,)) + part)
        for kind, part in zip(fragments or (0,), parts, strict=True)
    )


def _does(command: Command, body: bytes) -> bytes:
    return says(False, ANY | command & 0x0F, bytes((command & 0x10,)) + body)


def seeds() -> list[bytes]:
    """Give what the corpus begins with."""
    area = u16(0) + u16(0) + u16(4) + u16(4)
    frame = _does(Command.STARTFRAME, bytes(8)), _does(Command.ENDFRAME, bytes(4))
    fill = _does(
        Command.SOLIDFILL, u16(1) + b"\1\2\3\0" + u16(2) + area + u16(8) + u16(8) + u16(32) + u16(32)
    )
    copy = _does(
        Command.SURFACETOSURFACE, u16(1) + u16(1) + area + u16(2) + u16(20) + u16(10) + u16(30) + u16(5)
    )
    keep = _does(Command.SURFACETOCACHE, u16(1) + bytes(8) + u16(5) + area)
    bring = _does(Command.CACHETOSURFACE, u16(5) + u16(1) + u16(1) + u16(30) + u16(31))
    evict = _does(Command.EVICTCACHEENTRY, u16(5))
    sizes = b"".join(
        says(False, RESET | size, b"") + says(False, SURFACE | size << 1 | 1, b"") + fill for size in range(8)
    )
    large = says(False, SURFACE | 1 << 1 | 1, b"")  # 128x128, the second
    clear = large + b"".join(
        _wire(CLEARCODEC, data, bytes((2, 0, 0, *size))) for size, data in CLEAR.items() if len(data) < 200
    )
    row = b"\x17\x7f"  # of eight pixels: one as it is and a run of seven, MS-RDPEGDI 2.2.2.5.1.2
    planar = _wire(PLANAR, b"\x20" + bytes(range(97)), bytes((1, 0, 0, 8, 4))) + _wire(
        PLANAR, b"\x30" + row * 12, bytes((1, 8, 0, 8, 4))
    )
    raw = says_much(False, WIRE | UNCOMPRESSED, ALL, bytes(range(64)), 12)
    part = u32(1) + u16(0) + u16(0) + u16(64) + u16(48) + b"\x16\x64" + H264
    avc = _wire(AVC420, part) + _wire(AVC444_V2, u32(1 << 30) + part) + _wire(AVC444_V2, u32(2 << 30) + part)
    progressive = large + says(False, PROGRESSIVE, b"\2" + PROGRESSIVE_TILE)
    bits = build_surface_bits(SurfaceBits(0, 0, 64, 64, 32, 3, 64, 64, TILE))
    marked = u16(4) + bytes(6)
    commands = says(False, SURFACE_COMMAND | 3, ALL[1:] + TILE) + says_much(
        False, SURFACE_COMMAND, ALL[1:], b"\5", 12
    )
    halves = _command(bits, 2, 1) + _command(bits, 2, 3, 1) + _command(marked + bits + marked)
    compressed = says(False, SEGMENTS, FOX) + says(False, SEGMENTS | 1, b"\x24" + FOX[-20:]) + fill
    channel = (
        says(False, CHANNEL, b"\x40\7")
        + says(False, CHANNEL, b"\x10\7Microsoft::Windows::RDS::Graphics\0")
        + fill
    )
    gone = (
        _does(Command.DELETESURFACE, u16(1))
        + _does(Command.MAPSURFACETOSCALEDOUTPUT, u16(1) + u16(0) + bytes(16))
        + fill
    )
    drawn = frame[0] + fill + copy + keep + bring + evict + bring + frame[1]
    programs = [drawn, sizes, clear, planar, raw, avc, progressive, _wire(REMOTEFX, TILE) + fill, commands, halves, compressed,
                channel, gone, drawn + does(Op.TARGET_AGAIN, 20) + clear + commands + drawn]  # fmt: skip
    return [bytes((settings,)) + one for one in programs for settings in (1, 0)]
