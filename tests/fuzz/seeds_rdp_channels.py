"""Where campaigns against RDP's virtual channels begin: messages of real peers and of the specifications, and their words."""

from __future__ import annotations

from typing import Final

from proxyd.protocols.rdp.channels import DISPLAY_CONTROL, GRAPHICS
from tests.fuzz import captured_rdp as captured
from tests.fuzz import seeds_rdp as spec
from tests.fuzz.program import Op, does, says, says_much
from tests.fuzz.session_rdp import NAMES

RDPDR, RDPSND, CLIPRDR, DRDYNVC, OTHER = range(len(NAMES))
WHOLE, ALONE, SMALL, INSIDE = (shape << 4 for shape in range(4))

DICTIONARY: Final = (
    b"\2\0\0\0", b"\2\0\1\0", b"\3\0\1\0", b"\4\0\0\0", b"\5\0\1\0", b"\7\0\0\0", b"\x08\0\0\0", b"\x09\0\1\0", b"\x0d\0\0\0", b"\x0d\0",
    b"F\0i\0l\0e\0G\0r\0o\0u\0p\0D\0", b"\xc0\3", b"rDnI", b"rDCC", b"rDNC", b"rDPS", b"rDAD", b"rDRI", b"rDCI", b"PRCR",
    b"\0\0\0\0\3\0\0\0", b"\xff\xff\xff\xff", b"\1\0\2\0\x44\xac\0\0", b"\x69\0", b"\x10", b"\x20", b"\x30", b"\x40", b"\x50\0\3\0",
    *(one.encode() + b"\0" for one in (DISPLAY_CONTROL, GRAPHICS, "AUDIO_PLAYBACK_DVC", "URBDRC")),
)  # fmt: skip

_CLIENT: Final = (
    (RDPSND, captured.XFREERDP_SOUND_FORMATS), (CLIPRDR, captured.XFREERDP_CLIP_FORMATS), (CLIPRDR, captured.RDESKTOP_CLIP_FORMATS),
    (CLIPRDR, spec.CLIP_TEXT), (CLIPRDR, spec.CLIP_REQUEST), (DRDYNVC, spec.DYNAMIC_CREATED), (DRDYNVC, spec.DYNAMIC_CAPABILITIES),
    (RDPDR, b"rDCI\1\0\0\0\1\0\0\0\0\0\0\0\x09\0\0\0\1"), (CLIPRDR, b"\x09\0\1\0\x08\0\0\0\7\0\0\0body"),
    (RDPDR, b"rDNC\1\0\x0c\0\1\0\0\0"), (RDPDR, b"rDAD\1\0\0\0\x08\0\0\0\1\0\0\0HOME\0\0\0\0\0\0\0\0"),
)  # fmt: skip
_TARGET: Final = (
    (RDPSND, captured.XRDP_SOUND_FORMATS), (RDPSND, captured.SHADOW_SOUND_FORMATS), (RDPSND, spec.SOUND_WAVE[0]),
    (RDPSND, spec.SOUND_WAVE[1]), (RDPSND, spec.SOUND_WAVE2), (CLIPRDR, captured.XRDP_CLIP_CAPABILITIES), (CLIPRDR, spec.CLIP_FORMATS),
    (DRDYNVC, captured.XRDP_DYNAMIC_CREATE), (DRDYNVC, captured.XRDP_DYNAMIC_CAPABILITIES), (DRDYNVC, spec.DYNAMIC_CREATE),
    (RDPDR, b"rDRI" + b"\1\0\0\0\0\0\0\0\1\0\0\0" + bytes(36) + b"\6\0\0\0a\0b\0\0\0"),
    (RDPDR, b"rDRI" + b"\1\0\0\0\x09\0\0\0\2\0\0\0\4\0\0\0\0\0\0\0\4\0\0\0" + bytes(28) + b"body"),
    (CLIPRDR, b"\x08\0\0\0\x18\0\0\0\7\0\0\0\0\0\0\0\2\0\0\0" + bytes(8) + b"\x40\0\0\0"),
    (RDPDR, b"rDnI\1\0\x0c\0\1\0\0\0"), (RDPDR, b"rDRI" + b"\1\0\0\0" + bytes(48)),
)  # fmt: skip


def seeds() -> list[bytes]:
    """Give what the corpus begins with."""
    up = [
        b"".join(says(True, shape | channel, body[:220]) for channel, body in _CLIENT)
        for shape in (WHOLE, SMALL)
    ]
    down = [
        b"".join(says(False, shape | channel, body[:220]) for channel, body in _TARGET)
        for shape in (WHOLE, SMALL)
    ]
    wave = says(False, RDPSND, spec.SOUND_WAVE[0]) + says(False, RDPSND, spec.SOUND_WAVE[1])
    bulk = says_much(True, CLIPRDR, spec.CLIP_TEXT[:8], b"ab", 60) + says_much(
        False, RDPSND, spec.SOUND_WAVE2[:16], b"\0\1", 30
    )
    programs = [
        up[0] + down[0],
        down[1] + does(Op.CHUNKS, 7) + up[1],
        up[0] + does(Op.SHUT) + up[1] + does(Op.OPEN) + up[0],
        wave * 3,
        bulk + does(Op.SHUT) + bulk,
        says(True, ALONE | CLIPRDR, b"\x20\0\0abc") + says(True, ALONE | CLIPRDR | 1 << 6, b"\x20\0\0abc", canary=True)
        + does(Op.SHUT) + says(True, ALONE | CLIPRDR | 2 << 6, b"\x20\0\0abc", canary=True),
        says(False, INSIDE | DRDYNVC, b"\3" + bytes(210)) + says(True, INSIDE | DRDYNVC, b"\3" + bytes(210)),
    ]  # fmt: skip
    # MS-RDPEGFX 2.2.2.18: what a client offers, with versions 8, 8.1 and 10
    caps = b"".join(
        version.to_bytes(4, "little") + b"\4\0\0\0\2\0\0\0" for version in (0x80004, 0x80105, 0xA0002)
    )
    offer = b"\x12\0\0\0" + (len(caps) + 10).to_bytes(4, "little") + b"\3\0" + caps
    opened = says(False, DRDYNVC, b"\x10\3" + GRAPHICS.encode() + b"\0") + says(
        True, DRDYNVC, spec.DYNAMIC_CREATED
    )
    graphics = (
        opened
        + says(True, DRDYNVC, b"\x30\3" + offer)
        + does(Op.SHUT)
        + says(True, DRDYNVC, b"\x30\3" + offer[:20])
    )
    return [
        *(bytes((mode,)) + graphics for mode in range(6)),
        *(b"\0" + one for one in programs),
        *(b"\6\x40" + body for _, body in (*_CLIENT, *_TARGET)),
        *(b"\7\x20" + bytes((which, len(body))) + body for which in range(3) for _, body in (*_CLIENT, *_TARGET) if len(body) < 224),
    ]  # fmt: skip
