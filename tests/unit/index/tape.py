"""Records of an RDP session as its engine writes them, and encoders of what targets send in them."""

from __future__ import annotations

from collections.abc import Iterable

from proxyd.protocols.rdp import fastpath, mcs, share
from proxyd.protocols.rdp.capabilities import Active, Set, SetKind, build_demand_active, our_demand_active
from proxyd.protocols.rdp.events import Event, Scancode, build_input
from proxyd.protocols.rdp.fastpath import Fragment, Update, UpdateCode
from proxyd.protocols.rdp.share import DataKind, ShareData
from proxyd.protocols.rdp.updates import Bitmap, BitmapFlag, build_bitmaps
from proxyd.recorder.record import Kind, Record

IO, USER, SERVER, SHARE = 1003, 1007, 1002, 0x000103EA
SOUND, DYNAMIC = 1004, 1005
COMPRESSED = BitmapFlag.COMPRESSION | BitmapFlag.NO_COMPRESSION_HDR
US, GERMAN, FRENCH = 0x0409, 0x0407, 0x040C


def record(kind: Kind, body: object, at_us: int = 0) -> Record:
    return Record(1, at_us, kind, 0, body)


def session(width: int = 16, height: int = 8, layout: int = US, at_us: int = 0) -> Record:
    body = {
        "name": "rdp",
        "width": width,
        "height": height,
        "depth": 32,
        "layout": layout,
        "channels": {str(SOUND): "rdpsnd", str(DYNAMIC): "drdynvc"},
        "io": IO,
        "user": USER,
        "graphics": "bitmap",
    }
    return record(Kind.REQUEST, body, at_us)


def from_target(payload: bytes, channel: int = IO, at_us: int = 0) -> Record:
    return record(Kind.PDU, mcs.build_data(mcs.Data(SERVER, channel, payload), to_server=False), at_us)


def from_client(payload: bytes, channel: int = IO, at_us: int = 0, kind: Kind = Kind.INPUT_PDU) -> Record:
    return record(kind, mcs.build_data(mcs.Data(USER, channel, payload), to_server=True), at_us)


def share_data(kind: DataKind, body: bytes, compression: int = 0) -> bytes:
    payload = bytearray(share.build_share_data(ShareData(SHARE, SERVER, kind, body)))
    payload[15] = compression  # compressedType
    return bytes(payload)


def demand_active(width: int, height: int, at_us: int = 0) -> Record:
    active: Active = our_demand_active(width, height)
    assert any(isinstance(one, Set) and one.kind == SetKind.BITMAP for one in active.sets)
    return from_target(share.build_control(build_demand_active(active)), at_us=at_us)


def slow(bitmaps: Iterable[Bitmap], at_us: int = 0) -> Record:
    return from_target(share_data(DataKind.UPDATE, build_bitmaps(bitmaps)), at_us=at_us)


def fast(
    data: bytes, code: int = UpdateCode.BITMAP, fragment: int = Fragment.SINGLE, compression: int = 0
) -> Record:
    return record(Kind.PDU, fastpath.build_output([Update(code, fragment, compression, data)]))


def keys(*events: Event, kind: Kind = Kind.INPUT_PDU, at_us: int = 0, path: str = "fast") -> Record:
    if path == "fast":
        return record(kind, fastpath.build_input(events), at_us)
    return from_client(share_data(DataKind.INPUT, build_input(events)), at_us=at_us, kind=kind)


def press(*codes: int) -> list[Event]:
    """Press these keys one after the other and let them go in reverse; 0xE0 and 0xE1 above a code are its prefix."""
    downs = [Scancode(code & 0xFF, extended=code >> 8 == 0xE0, extended1=code >> 8 == 0xE1) for code in codes]
    return [*downs, *(down._replace(released=True) for down in reversed(downs))]


def tile(
    left: int, top: int, width: int, height: int, data: bytes, *, depth: int = 32, flags: int = 0
) -> Bitmap:
    return Bitmap(left, top, left + width - 1, top + height - 1, width, height, depth, flags, data)


def bottom_up(pixels: bytes, row: int) -> bytes:
    return b"".join(pixels[at : at + row] for at in range(len(pixels) - row, -1, -row))


def planes(pixels: bytes) -> dict[str, bytes]:
    return {name: pixels[at::4] for at, name in enumerate("bgra")}


def planar(pixels: bytes, width: int, *, alpha: bool, runs: bool) -> bytes:
    """Encode B, G, R, A rows from the top as RDP6_BITMAP_STREAM, MS-RDPEGDI 2.2.2.5.1."""
    flipped = planes(bottom_up(pixels, width * 4))
    head = (0x10 if runs else 0) | (0 if alpha else 0x20)
    body = b"".join(
        _runs(flipped[name], width) if runs else flipped[name] for name in ("argb" if alpha else "rgb")
    )
    return bytes((head,)) + body + (b"" if runs else b"\0")


def _runs(plane: bytes, width: int) -> bytes:
    """2.2.2.5.1.2: the first row as it is, the others as signed differences to the row before."""
    out = bytearray()
    before = bytes(width)
    for at in range(0, len(plane), width):
        row = plane[at : at + width]
        if at:
            deltas = ((value - old + 128) % 256 - 128 for value, old in zip(row, before, strict=True))
            values = bytes((2 * delta if delta >= 0 else -2 * delta - 1) & 0xFF for delta in deltas)
        else:
            values = row
        out += _segments(values)
        before = row
    return bytes(out)


def _segments(values: bytes) -> bytes:
    """Cut a row into segments of raw values, each followed by a run of its last one where there is one."""
    out = bytearray()
    at = 0
    while at < len(values):
        raw = at + 1
        while raw < len(values) and raw - at < 15 and values[raw] != values[raw - 1]:
            raw += 1
        run = raw
        while run < len(values) and run - raw < 15 and values[run] == values[raw - 1]:
            run += 1
        length = run - raw if run - raw >= 3 else 0
        out += bytes(((raw - at) << 4 | length,)) + values[at:raw]
        at = raw + length
    return bytes(out)


def deflated(data: bytes) -> bytes:
    """Write MPPC without any match, MS-RDPBCGR 3.1.8.4.2.2.1: literals of eight or nine bits."""
    bits = "".join(f"{value:08b}" if value < 0x80 else f"10{value & 0x7F:07b}" for value in data)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
