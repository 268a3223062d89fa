"""The decoder of recorded desktops, fuzzed: what a hostile target had put on a tape is a picture, keys and sound, or faults.

Rule 1: nothing raises: what cannot be read is counted.
Rule 2: what was painted lies within the desktop, and a picture is as large as it says.
Rule 3: what is kept between records is bounded; the decoder's own words (Rust's panics) are thrown away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from proxyd.index.rdp.audio import Audio
from proxyd.index.rdp.keys import Keys
from proxyd.index.rdp.screen import Screen
from proxyd.index.rdp.typed import lines
from proxyd.protocols.rdp import events, fastpath, mcs, share, updates, wire
from proxyd.protocols.rdp.crossing import FIRST_CHANNEL
from proxyd.protocols.rdp.fastpath import MAX_UPDATE, Update, UpdateCode
from proxyd.protocols.rdp.share import DataKind, ShareData
from proxyd.protocols.rdp.static import SOUND, USER
from proxyd.protocols.rdp.updates import Bitmap, BitmapFlag
from proxyd.protocols.rdp.wire import WireError
from proxyd.recorder.record import Kind, Record
from tests.fuzz import program, seeds_rdp
from tests.fuzz.program import Input, Op
from tests.fuzz.session_rdp import NAMES, chunked

STEP_US: Final = 10_000
MOST_SAID: Final = (
    1 << 16
)  # bytes of a client in one program: 32,000 keys at 10 us; more of the same finds nothing else
MOST_KEYS: Final = 5_000  # presses of one program that are read: more make it slow, and teach nothing
SHARE: Final = 0x000103EA
LOOKED_AT: Final = (
    1 << 19
)  # pixels of a desktop that is drawn at the end: a larger one costs much, and teaches nothing
MOST: Final = 0x6000  # bytes of one update
SIZES: Final = ((64, 48), (800, 600), (1024, 768), (1, 1), (8192, 8192), (0, 10), (1920, 1080), (8192, 16))
META: Final = {"name": "rdp", "width": 64, "height": 48, "depth": 32, "io": mcs.GLOBAL_CHANNEL,
               "channels": {str(FIRST_CHANNEL + at): name for at, name in enumerate(NAMES)}}  # fmt: skip
LAYOUTS: Final = (0x409, 0x407, 0x40C, 0x807, 0x411, 0xFFFF)
_SIZE_AT: Final = 12  # of desktopWidth in a bitmap capability set, MS-RDPBCGR 2.2.7.1.2


def framed(by_client: bool, kind: int, body: bytes) -> bytes:
    """The frames of one record: the high bits of `kind` say what stands in it."""
    if by_client:
        return _of_client(kind, body)
    code, rest = kind & 0x0F, body[:MOST]
    match kind >> 4 & 7:
        case 0:
            return fastpath.build_output([Update(code, 0, 0, rest)])
        case 1:
            head = rest[0] if rest else 0
            return fastpath.build_output([Update(code, head & 3, head >> 2 << 2, rest[1:])])
        case 2:
            return _slow(DataKind.UPDATE if code & 1 else DataKind.POINTER, rest, bool(code & 2))
        case 3:
            return fastpath.build_output([Update(UpdateCode.BITMAP, 0, 0, _tile(rest, bool(code & 1)))])
        case 4:
            return _slow(DataKind.UPDATE, _tile(rest, bool(code & 1)), False)
        case 5:
            return _desktop(*SIZES[code & 7])
        case 6:
            return chunked(True, 1 + code % len(NAMES), rest)  # in the client's numbers, as the tape is
    return rest


def _of_client(kind: int, body: bytes) -> bytes:
    match kind & 3:
        case 0:
            return (
                bytes((4 * (1 + (kind >> 2 & 3)),))
                + wire.u16_big(len(body[:MOST]) + 3 | 0x8000)
                + body[:MOST]
            )
        case 1:
            data = ShareData(SHARE, USER, DataKind.INPUT, body[:MOST])
            return mcs.build_data(
                mcs.Data(USER, mcs.GLOBAL_CHANNEL, share.build_share_data(data)), to_server=True
            )
        case 2:
            return chunked(True, 1 + NAMES.index(SOUND), body)
    return fastpath.build_input(
        [
            events.Scancode(one & 0x7F, released=bool(one & 0x80), extended=bool(kind & 4))
            for one in body[:100] or b"\x1e"
        ]
    )


def _slow(kind: DataKind, body: bytes, deflated: bool) -> bytes:
    payload = bytearray(share.build_share_data(ShareData(SHARE, mcs.SERVER_USER, kind, body)))
    if deflated:
        payload[15] = 0x21 if len(body) % 2 else 0x61  # compressedType, 2.2.8.1.1.1.2
    return mcs.build_data(mcs.Data(mcs.SERVER_USER, mcs.GLOBAL_CHANNEL, bytes(payload)), to_server=False)


def _tile(body: bytes, deep: bool) -> bytes:
    """One bitmap: its place and size in steps of four, then its data."""
    left, top, width, height, flags = (*body[:5], 0, 0, 0, 0, 0)[:5]
    left, top, width, height = left * 4, top * 4, (width + 1) * 4, height + 1
    kept = BitmapFlag.COMPRESSION | BitmapFlag.NO_COMPRESSION_HDR if flags & 1 else 0
    bitmap = Bitmap(
        left, top, left + width - 1, top + height - 1, width, height, 32 if deep else 16, kept, body[5:]
    )
    return updates.build_bitmaps([bitmap])


def _desktop(width: int, height: int) -> bytes:
    """A Demand Active of that size."""
    payload = bytearray(seeds_rdp.DEMAND_ACTIVE)
    at = payload.index(bytes.fromhex("02001c00")) + _SIZE_AT
    payload[at : at + 4] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return mcs.build_data(mcs.Data(mcs.SERVER_USER, mcs.GLOBAL_CHANNEL, bytes(payload)), to_server=False)


def records(source: Input) -> Iterator[Record]:
    """Give the recording of a session: how it was negotiated, then what a program says."""
    settings = source.byte()
    meta = {**META, "layout": LAYOUTS[settings % len(LAYOUTS)]}
    yield Record(1, 0, Kind.REQUEST, 0, meta)
    if settings & 0x80:
        yield Record(2, 0, Kind.PDU, 0, _desktop(64, 48))
    shut, said = False, 0
    for number, step in enumerate(program.steps(source, framed), 3):
        if step.op in (Op.SHUT, Op.OPEN):
            shut = step.op is Op.SHUT
        by_client = step.op in program.BY_CLIENT
        kind = (Kind.REFUSED if shut else Kind.INPUT_PDU) if by_client else Kind.PDU
        for piece in step.pieces:
            for body in in_frames(piece):
                said += len(body) if by_client else 0
                if said > MOST_SAID:
                    return
                yield Record(number, number * STEP_US, kind, 0, body)


def in_frames(piece: bytes) -> list[bytes]:
    """Cut what was said at once into frames, as the tape has them; what is no frame is a record as it is."""
    framer = wire.Framer()
    try:
        found = framer.feed(piece)
    except WireError:
        return [piece]
    return [*found, framer.release()] if framer.held else found


def session(source: Input) -> None:
    """Play a recording to all that read one."""
    screen, keys, audio = Screen(), Keys(), Audio()
    typed = []
    for record in records(source):
        for area in screen.feed(record):
            canvas = screen._canvas
            assert canvas is not None
            assert 0 <= area.left <= area.left + area.width <= canvas.width
            assert 0 <= area.top <= area.top + area.height <= canvas.height
        if len(typed) < MOST_KEYS:
            typed += keys.feed(record)
        for heard in audio.feed(record):
            assert heard.duration_us >= 0
        assert screen._outputs._fragments.held <= MAX_UPDATE
    for line in lines(typed):
        assert "\n" not in line.text, "a line goes on behind its end"
    canvas = screen._canvas
    if canvas is not None and canvas.width * canvas.height <= LOOKED_AT:
        picture = screen.picture()
        assert picture is not None
        assert len(picture.rgb) == picture.width * picture.height * 3
    shape = screen.pointer.shape
    assert shape is None or len(shape.rgba) == shape.width * shape.height * 4
    assert min(screen.faults, keys.faults, audio.faults) >= 0


@contextmanager
def unheard() -> Iterator[None]:
    """Throw away what is written to standard error: Rust says there that it panicked, a million times."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def play(data: bytes) -> None:
    """Run one input; AssertionError, or whatever else comes out, is a finding."""
    with unheard():
        session(Input(data))


def quiet() -> None:
    """Let Rust look up no names for its panics, which takes a hundred times as long; the product's child has no environment."""
    os.environ["RUST_BACKTRACE"] = "0"
