"""Where campaigns against RDP's wire begin: sessions of real peers as programs of `program`, their logins, its words."""

from __future__ import annotations

from typing import Final

from proxyd.protocols.rdp.credssp import Request
from tests.fuzz import captured_rdp as captured
from tests.fuzz import seeds_rdp as spec
from tests.fuzz.program import Op, does, says, says_much, sends
from tests.fuzz.session_rdp import on_channel

IO, RAW, CHUNKS, SHARE_DATA, CONTROL, FAST, MCS, LICENSE = (
    0,
    0 << 3,
    1 << 3,
    2 << 3,
    3 << 3,
    4 << 3,
    6 << 3,
    7 << 3,
)
RDPDR, RDPSND, CLIPRDR, DRDYNVC, OTHER = 1, 2, 3, 4, 5  # places of channels

DICTIONARY: Final = (
    b"\3\0\0\7\2\xf0\x80", b"\2\xf0\x80", b"\x68\0\1\3\xeb\x70", b"\x64\0\1\3\xeb\x70", b"\x7f\x65", b"\x7f\x66", b"Duca", b"McDn",
    b"\xff\xff\xff\xff", b"\xff\x7f", b"\0\x80", b"\x40\0\0\0", b"\x80\0\0\0", b"\x17\0\xea\3", b"\x11\0", b"\x13\0", b"\x16\0",
    b"\1\0\0\0\3\0\0\0", b"NTLMSSP\0\1\0\0\0", b"NTLMSSP\0\2\0\0\0", b"NTLMSSP\0\3\0\0\0", b"\x30\x82\1\0", b"\xa0\3\2\1\6",
    b"\x1c\0\0\0", b"\x23", b"\x26", b"\x2f", b"\x28", b"Cookie: mstshash=", b"\r\n", b"RDP\0", b"MSTSC\0", b"rdpdr\0\0\0", b"cliprdr\0",
)  # fmt: skip


def _shares() -> list[bytes]:
    client = (spec.SYNCHRONIZE, spec.COOPERATE, spec.FONT_LIST, captured.RDESKTOP_INPUT)
    return [says(True, IO | RAW, one) for one in client] + [says(False, IO | RAW, one) for one in (spec.GRANTED, spec.FONT_MAP)]  # fmt: skip


def _long(by_client: bool, payload: bytes) -> bytes:
    """Say a payload on the I/O channel that is longer than a body can be."""
    return sends(by_client, on_channel(by_client, IO, payload))


def _programs() -> list[bytes]:
    key = says(True, FAST, b"\4\0\x1e") + says(True, FAST, b"\4\1\x1e")
    bitmap = says(False, FAST, b"\0\1\x16\0" + b"\1\0\1\0" + bytes(18))
    active = _long(False, spec.DEMAND_ACTIVE) + _long(True, spec.CONFIRM_ACTIVE) + b"".join(_shares())
    clip = says(True, CHUNKS | CLIPRDR, spec.CLIP_TEXT) + says(False, CHUNKS | CLIPRDR, spec.CLIP_FORMATS)
    dynamic = says(False, CHUNKS | DRDYNVC, spec.DYNAMIC_CREATE) + says(
        True, CHUNKS | DRDYNVC, spec.DYNAMIC_CREATED
    )
    licensed = says(False, LICENSE, spec.LICENSE_VALID[4:])
    return [
        licensed + active + key + bitmap,
        key + does(Op.SHUT) + key + clip + dynamic + does(Op.OPEN) + key,
        does(Op.CHUNKS, 3) + active + bitmap + clip + dynamic,
        bitmap + does(Op.NOTIFY) + bitmap + does(Op.PART),
        says_much(True, CHUNKS | CLIPRDR, spec.CLIP_TEXT, b"ab", 20) + does(Op.SHUT) + clip,
        sends(True, captured.XFREERDP_KEY) + sends(True, captured.XFREERDP_MOUSE),
        sends(False, captured.SHADOW_POINTER) + sends(False, captured.SHADOW_CACHED_POINTER),
        says(True, SHARE_DATA, b"\x23\0\0\0\0") + says(True, SHARE_DATA, b"\x2b" + bytes(24)),
        says(False, SHARE_DATA, b"\x26\3\0\0\0" + bytes(40)) + says(False, CONTROL, b"\x0a" + bytes(60)),
        says(True, MCS, b"\x21\x80") + says(False, MCS, b"\x21\x80"),
        says(True, CHUNKS | OTHER, b"", canary=True) + does(Op.SHUT) + says(True, CHUNKS | OTHER, b"", canary=True),
    ]  # fmt: skip


def _logins() -> list[bytes]:
    client = spec.CONNECT_INITIAL + spec.ERECT_DOMAIN + spec.ATTACH_USER + spec.JOIN
    token = b"NTLMSSP\0\1\0\0\0" + bytes(24)
    targets = spec.ATTACHED + spec.JOINED
    return [
        b"\0\0" + client,
        b"\0\0" + captured.XFREERDP_CONNECT_INITIAL + spec.ATTACH_USER,
        b"\1\0" + Request(token=token).build(),
        b"\2\0\0" + captured.XRDP_CONNECT_RESPONSE + targets,
        b"\2\0\0" + captured.SHADOW_CONNECT_RESPONSE + targets,
        b"\2\1\0" + Request(token=b"NTLMSSP\0\2\0\0\0" + bytes(40)).build(),
        b"\3\1\1" + bytes((len(token),)) + token,
        b"\3\0\1" + bytes((len(token),)) + token,
        b"\4" + spec.CONNECTION_REQUEST,
        b"\4" + spec.CONNECTION_CONFIRM,
    ]


def seeds() -> list[bytes]:
    """Give what the corpus begins with."""
    examples = [
        value for module in (spec, captured) for name, value in vars(module).items() if name.isupper() and isinstance(value, bytes)
    ]  # fmt: skip
    return [
        *(bytes((mode,)) + one for one in _programs() for mode in (0, 1)),
        *(b"\5" + one for one in examples),
        *(b"\6" + one for one in _logins()),
    ]
