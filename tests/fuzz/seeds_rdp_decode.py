"""Where campaigns against the decoder of desktops begin: what targets paint, what users type, and the protocol's words."""

from __future__ import annotations

from typing import Final

from tests.fuzz import captured_rdp as captured
from tests.fuzz import seeds_rdp as spec
from tests.fuzz.program import Op, does, says, says_much, sends

FAST, FRAGMENT, SLOW, TILE, SLOW_TILE, DESKTOP, CHANNEL, RAW = (shape << 4 for shape in range(8))
BITMAP, SOUND_PLACE = 1, 1

DICTIONARY: Final = (
    b"\x10", b"\x30", b"\x20", b"\0\0", b"\1\0\1\0", b"\x10\0", b"\x20\0", b"\1\0", b"\1\4", b"\xf0\xff\xff", b"\xf1\xff\xff",
    b"\xf2\xff\xff", b"\xf3\xff\xff", b"\xf4\xff\xff", b"\xf6\xff\xff", b"\xf7\xff\xff", b"\xf8\xff\xff", b"\xf9", b"\xfa", b"\xfd", b"\xfe",
    b"\x0f\x02", b"\xff", b"\x21", b"\x61", b"\xa1", b"\xe1", b"\6\0\0\0", b"\7\0\0\0", b"\x08\0\0\0", b"\x20\0\0\0\0\0\0\0\x20\0\x20\0",
)  # fmt: skip


def _tile(deep: int, *, packed: bool, data: bytes) -> bytes:
    return says(False, TILE | deep, bytes((2, 2, 1, 7, packed)) + data[:200])


def seeds() -> list[bytes]:
    """Give what the corpus begins with."""
    row = b"\x17\x7f"  # of eight pixels: one as it is and a run of seven, MS-RDPEGDI 2.2.2.5.1.2
    planar = b"\x10" + row * 8 * 4
    runs = b"\x1f\x1f\x02"  # MS-RDPBCGR 2.2.9.1.1.3.1.2.4: 64 pixels of background
    raw = _tile(0, packed=False, data=bytes(range(128))) + _tile(1, packed=True, data=b"\x20" + bytes(192))
    paint = _tile(1, packed=True, data=planar) + _tile(0, packed=True, data=runs) + raw
    pointer = says(False, FAST | 0xB, bytes.fromhex("20000000000000000400040008004000") + bytes(72))
    sizes = b"".join(
        says(False, DESKTOP | size, b"") + _tile(1, packed=True, data=planar) for size in range(8)
    )
    typed = says(True, 3, b"\x2a\x1e\x9e\xaa\x1c\x9c\x38\x10\x90\xb8") + says(
        True, 0, b"\x80\x61\0\x81\x61\0"
    )
    sound = says(True, 2, captured.XFREERDP_SOUND_FORMATS) + says(
        False, CHANNEL | SOUND_PLACE, spec.SOUND_WAVE[0]
    )
    sound += says(False, CHANNEL | SOUND_PLACE, spec.SOUND_WAVE[1]) + says(
        False, CHANNEL | SOUND_PLACE, spec.SOUND_WAVE2
    )
    slow = says(False, SLOW_TILE | 1, bytes((0, 0, 1, 7, 1)) + planar) + says(
        False, SLOW | 2, b"\6\0\0\0\0\0"
    )
    many = says_much(False, TILE | 1, b"\0\0\xff\xff\0", b"\x55", 20) + says_much(
        False, FAST | BITMAP, b"\1\0\xff\0", bytes(18), 20
    )
    fragments = b"".join(
        says(False, FRAGMENT | BITMAP, bytes((kind,)) + b"\1\0\1\0" + bytes(80)) for kind in (2, 3, 1, 0x84)
    )
    shown = sends(False, captured.SHADOW_POINTER) + sends(False, captured.SHADOW_CACHED_POINTER)
    programs = [paint, pointer, sizes, typed + does(Op.SHUT) + typed, sound, slow, many, fragments, shown, paint + pointer + slow + sound]  # fmt: skip
    return [bytes((settings,)) + one for one in programs for settings in (0x80, 0, 0x81, 0x82)]
