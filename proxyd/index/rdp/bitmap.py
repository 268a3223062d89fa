"""One rectangle of a bitmap update, MS-RDPBCGR 2.2.9.1.1.3.1.2.2 (TS_BITMAP_DATA), as pixels.

Rule 1: whatever the target sent is pixels or a WireError, a panic of the decoder included.
Rule 2: pixels are B, G, R and a byte of no meaning, the top row first; there are exactly width times height of them.
Rule 3: a rectangle is as large as a desktop may be at most, and refused before anything is allocated for it.

The decoder is aardwolf 0.2.16, `aardwolf._rle` (Rust), one function for all:
`bitmap_decompress(data, width, height, bits, is_compressed) -> bytearray` of width * height * 4, the top row first:
- 32 bits compressed: RDP 6.0 planar (MS-RDPEGDI 2.2.2.5.1) as B, G, R, A. Only runs with an alpha plane, format header
  0x10: any other raises ValueError, so an alpha plane is put in here where the target left it out, and planes without runs
  are put together here. Colour loss and subsampling are unknown to it; the policy offers neither.
- 32 bits not compressed: gives back what it got, with the bottom row first. Not used.
- 16 bits compressed: interleaved RLE (2.2.9.1.1.3.1.2.4) as R, G, B, 255, colours spread evenly: (5 bits * 527 + 23) >> 6,
  (6 bits * 259 + 33) >> 6. A stream that ends early leaves black.
- 16 bits not compressed: the same; it panics where data are short, so their length is compared first.
- 8, 15 and 24 bits: TypeError. The policy asks for 32 or 16.
A stream that ends early or holds too many pixels raises ValueError; runs beyond the last row panic, which arrives as
`pyo3_runtime.PanicException`, a BaseException of no importable name, after Rust has said so on standard error.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from aardwolf._rle import bitmap_decompress

from proxyd.protocols.rdp.wire import WireError

MAX_SIDE: Final = 8192  # of a desktop, MS-RDPBCGR 2.2.1.3.2
MAX_PIXELS: Final = 3840 * 2160 * 4  # four 4K monitors: 127 MiB as pixels
PIXEL: Final = 4  # bytes of ours

# Format header of a planar bitmap, MS-RDPEGDI 2.2.2.5.1.
_COLOUR_LOSS: Final = 0x07  # CLL
_SUBSAMPLING: Final = 0x08  # CS
_RUNS: Final = 0x10  # RLE
_NO_ALPHA: Final = 0x20  # NA
_LONGEST_RUN: Final = (
    47  # 2.2.2.5.1.2: a control byte ending in 1 or 2 is a run of 16 or 32 and its high bits
)
_LEAST_RUN: Final = 3
_FIVE: Final = bytes((level >> 3) << 3 | level >> 5 for level in range(256))
_SIX: Final = bytes((level >> 2) << 2 | level >> 6 for level in range(256))
"""Levels as clients show them: the upper bits once more behind the five or six that came, as rdesktop does; FreeRDP shows
green up to four levels lighter."""
_PANIC: Final = "pyo3_runtime"


def pixels(width: int, height: int, bits: int, data: bytes, *, compressed: bool) -> bytes | bytearray:
    """Decode a rectangle; raises WireError."""
    check_size(width, height)
    if bits == 32:
        if compressed:
            return _planar(width, height, data)
        return _flipped(_packed(width * PIXEL, height, data), width * PIXEL)
    if bits == 16:
        if not compressed:
            data = _packed(width * 2, height, data)
        decoded = _decode(width, height, bits, data, compressed=compressed)
        red, green, blue = decoded[0::PIXEL], decoded[1::PIXEL], decoded[2::PIXEL]
        decoded[0::PIXEL], decoded[2::PIXEL] = blue.translate(_FIVE), red.translate(_FIVE)
        decoded[1::PIXEL] = green.translate(_SIX)
        return decoded
    raise WireError("a bitmap has a depth that was not asked for")


def check_size(width: int, height: int) -> None:
    """Refuse what no desktop is; raises WireError."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise WireError("a picture has an impossible size")


def _planar(width: int, height: int, data: bytes) -> bytes | bytearray:
    """Decode RDP6_BITMAP_STREAM, MS-RDPEGDI 2.2.2.5.1."""
    header = data[0] if data else 0
    if header & (_COLOUR_LOSS | _SUBSAMPLING):
        raise WireError("a bitmap has lost colours, which was not offered")
    if not header & _RUNS:
        return _raw_planes(width, height, data[1:], alpha=not header & _NO_ALPHA)
    if header & _NO_ALPHA:
        data = b"".join((bytes((_RUNS,)), _blank_plane(width, height), data[1:]))
    return _decode(width, height, 32, data, compressed=True)


def _raw_planes(width: int, height: int, data: bytes, *, alpha: bool) -> bytes:
    """Put the planes together that came without runs: alpha, red, green, blue, the bottom row first."""
    size = width * height
    start = size if alpha else 0
    if len(data) < start + 3 * size:
        raise WireError("a bitmap is cut short")
    out = bytearray(size * PIXEL)
    for place in (2, 1, 0):
        out[place::PIXEL] = data[start : start + size]
        start += size
    return _flipped(out, width * PIXEL)


@lru_cache(maxsize=64)  # of the sizes of tiles and strips a target cuts its screen into
def _blank_plane(width: int, height: int) -> bytes:
    """Write a plane of nothing, MS-RDPEGDI 2.2.2.5.1.2: runs that go on from the zero a row begins with."""
    row = bytearray()
    left = width
    while left:
        run = min(left, _LONGEST_RUN)
        if run >= 32:
            row.append((run - 32) << 4 | 2)
        elif run >= 16:
            row.append((run - 16) << 4 | 1)
        elif run >= _LEAST_RUN:
            row.append(run)
        else:
            row += bytes((run << 4,)) + bytes(run)
        left -= run
    return bytes(row) * height


def _packed(row: int, height: int, data: bytes) -> bytes:
    """Give rows of so many bytes without what pads them to four (2.2.9.1.1.3.1.2.2); raises WireError."""
    padded = (row + 3) & ~3
    if len(data) < padded * height:
        padded = row  # some servers do not pad
    if len(data) < padded * height:
        raise WireError("a bitmap is cut short")
    if padded == row:
        return data[: row * height]
    return b"".join(data[at : at + row] for at in range(0, padded * height, padded))


def _flipped(data: bytes | bytearray, row: int) -> bytes:
    """Turn the rows around: on the wire the bottom one comes first."""
    return b"".join(data[at : at + row] for at in range(len(data) - row, -1, -row))


def _decode(width: int, height: int, bits: int, data: bytes, *, compressed: bool) -> bytearray:
    """Let aardwolf decode it; raises WireError (rule 1)."""
    try:
        decoded: bytearray = bitmap_decompress(data, width, height, bits, int(compressed))
    except ValueError:
        raise WireError("a bitmap can't be read") from None
    except BaseException as error:
        if type(error).__module__ != _PANIC:
            raise
        raise WireError("a bitmap can't be read") from None
    return decoded
