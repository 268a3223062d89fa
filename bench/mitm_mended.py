"""Runs in PyRDP's own environment: pyrdp-mitm 2.1.0, with its two faults mended that end every session at xrdp.

`python pyrdp_mitm.py ARGUMENTS`, those of pyrdp-mitm itself. It knows nothing of proxyd, and imports nothing of it.

1. It writes a conference's answer with a length that is Windows' own, whatever stands in it; xrdp's is another.
2. It ends for a capability set that it does not know, as xrdp's of kind 6.
"""

from __future__ import annotations

import struct
import sys
from io import BytesIO
from typing import Any

from pyrdp.bin import mitm  # type: ignore[import-not-found]
from pyrdp.core import per  # type: ignore[import-not-found]
from pyrdp.enum import CapabilityType  # type: ignore[import-not-found]
from pyrdp.parser import GCCParser, SlowPathParser  # type: ignore[import-not-found]

WINDOWS_LENGTH = 0x2A
HEAD = 14  # of a conference's request before its data
SET_HEADER = struct.Struct("<HH")  # capabilitySetType, lengthCapability: MS-RDPBCGR 2.2.1.13.1.1.1


def write(self: Any, pdu: Any) -> bytes:
    """Write a GCC message with the length it has."""
    stream = BytesIO()
    stream.write(per.writeChoice(0))
    stream.write(per.writeObjectIdentifier(GCCParser.T124_02_98_OID))
    stream.write(per.writeLength(len(pdu.payload) + HEAD if pdu.header == 0 else WINDOWS_LENGTH))
    stream.write(per.writeChoice(pdu.header))
    self.writers[pdu.header](stream, pdu)
    return stream.getvalue()


def known(raw: bytes, count: int) -> tuple[bytes, int]:
    """Leave out the capability sets that PyRDP has no name for."""
    kept, at = [], 0
    for _ in range(count):
        kind, size = SET_HEADER.unpack_from(raw, at)
        if kind in set(CapabilityType):
            kept.append(raw[at : at + size])
        at += size
    return b"".join(kept), len(kept)


def main() -> None:
    """Mend both, and be pyrdp-mitm."""
    parse = SlowPathParser.parseCapabilitySets
    SlowPathParser.parseCapabilitySets = lambda self, raw, count: parse(self, *known(raw, count))
    GCCParser.write = write
    mitm.main()


if __name__ == "__main__":
    sys.argv[0] = "pyrdp-mitm"
    main()
