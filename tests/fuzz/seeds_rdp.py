"""The examples of MS-RDPBCGR section 4 and of its neighbours, as bytes: what unit tests read and fuzzing begins with."""

from __future__ import annotations

from typing import Final


def _hex(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


# MS-RDPBCGR 4.1.1 and 4.1.2
CONNECTION_REQUEST: Final = (
    _hex("0300002c27e00000000000") + b"Cookie: mstshash=eltons\r\n" + _hex("0100080000000000")
)
CONNECTION_CONFIRM: Final = _hex("030000130ed000001234000200080000000000")

# 4.1.3, block by block; the last 18 bytes of the core are of Windows 8.1 and newer
CORE: Final = (
    _hex("040008000005000401ca03aa09040000ce0e0000")
    + "ELTONS-DEV2".encode("utf-16-le").ljust(32, b"\0")
    + _hex("04000000000000000c000000")
    + bytes(64)
    + _hex("01ca01000000000018000700") + _hex("0100")
    + "69712-783-0357974-42714".encode("utf-16-le").ljust(64, b"\0")
    + _hex("000000000000")
)  # fmt: skip
CORE_NEW: Final = CORE + _hex("88130000b80b00005a00c80000008c000000")
CLUSTER: Final = _hex("0d00000000000000")
SECURITY: Final = _hex("1b00000000000000")
NET: Final = (
    _hex("03000000")
    + b"rdpdr\0\0\0" + _hex("00008080")
    + b"cliprdr\0" + _hex("0000a0c0")
    + b"rdpsnd\0\0" + _hex("000000c0")
)  # fmt: skip
CLIENT_BLOCKS: Final = (
    _hex("01c0d800")
    + CORE
    + _hex("04c00c00")
    + CLUSTER
    + _hex("02c00c00")
    + SECURITY
    + _hex("03c02c00")
    + NET
)
CREATE_REQUEST: Final = (
    _hex("000500147c0001812a") + _hex("0008001000 01c000") + b"Duca" + _hex("811c") + CLIENT_BLOCKS
)
CONNECT_INITIAL: Final = _hex("030001a002f080") + _hex(
    "7f65820194 040101 040101 0101ff"
    "3019020122020102020100020101020100020101 0202ffff020102"
    "3019020101020101020101020101020100020101 02020420020102"
    "301c 0202ffff 0202fc17 0202ffff 020101 020100 020101 0202ffff 020102"
    "04820133"
) + CREATE_REQUEST  # fmt: skip

# 4.1.4, as a server says it that encrypts by itself
SERVER_BLOCKS: Final = (
    _hex("010c0c000400080000000000")
    + _hex("030c1000eb030300ec03ed03ee030000")
    + _hex("020cec00020000000200000020000000b8000000")
    + bytes(0xEC - 20)
)
CREATE_RESPONSE: Final = _hex("000500147c00012a14760a01010001c0004d63446e8108") + SERVER_BLOCKS
CONNECT_RESPONSE: Final = _hex("0300015102f080") + _hex(
    "7f66820145 0a0100 020100 301a 020122 020103 020100 020101 020100 020101 020300fff8 020102 0482011f"
) + CREATE_RESPONSE  # fmt: skip

# 4.1.5 to 4.1.8
ERECT_DOMAIN: Final = _hex("0300000c02f0800401000100")
ATTACH_USER: Final = _hex("0300000802f08028")
ATTACHED: Final = _hex("0300000b02f0802e000006")
JOIN: Final = _hex("0300000c02f08038000603ef")
JOINED: Final = _hex("0300000f02f0803e00000603ef03ef")

# 4.1.10 as TLS leaves it, and the same in ANSI
_ZONE: Final = (
    _hex("e0010000") + "Pacific Standard Time".encode("utf-16-le").ljust(64, b"\0")
    + _hex("00000a0000000500020000000000000000000000")
    + "Pacific Daylight Time".encode("utf-16-le").ljust(64, b"\0")
    + _hex("0000040000000100020000000000000 0c4ffffff")
)  # fmt: skip
DIRECTORY: Final = r"C:\depots\w2k3_1\termsrv\newclient\lib\win32\obj\i386\mstscax.dll"
CLIENT_INFO: Final = (
    _hex("40000000") + _hex("09040904b3430000") + _hex("0a000c00000000000000")
    + "NTDEV\0".encode("utf-16-le") + "eltons\0".encode("utf-16-le") + bytes(6)
    + _hex("02001e00") + "157.59.242.156\0".encode("utf-16-le")
    + _hex("8400") + (DIRECTORY + "\0").encode("utf-16-le")
    + _ZONE + _hex("0000000001000000")
)  # fmt: skip
CLIENT_INFO_ANSI: Final = (
    _hex("40000000") + _hex("09040904a3430000") + _hex("05000600000000000000")
    + b"NTDEV\0eltons\0\0\0\0" + _hex("02000f00") + b"157.59.242.156\0" + _hex("4200") + DIRECTORY.encode() + b"\0"
    + _ZONE + _hex("0000000001000000")
)  # fmt: skip
LICENSE_VALID: Final = _hex("80000000ff031000070000000200000004000000")


# 4.1.12 and 4.1.13: share control PDUs as they stand in MCS data under TLS
_DEMANDED: Final = (
    "09000800 ea03dce2",
    "01001800 0100030000020000000 01d04000000000000 0101",
    "14000c00 02000000 40060000",
    "16002800 00000000 70f613f3 01000000 01000000 18000000 9cf613f3 61a68280 00000000 005091bf",
    "0e000800 00010000",
    "02001c00 1800 0100 0100 0100 0005 0004 0000 0100 0100 00 00 0100 0000",
    "03005800" + "00" * 16 + "00000000 0100 1400 0000 0100 0000 2200"
    "01010101 01000001 01010101 00000001 01010101 01010100 01010101 00000000"
    "0000 0000 00000000 40420f00 0000 0000 0000 0000",
    "0a000800 06000000",
    "12000800 01000000",
    "08000a00 0100 1900 1900",
    (
        "0d005800 3500 0000 a1060000 00000000 0cf613f3 935a37f3 009030e1 341c38f3 40f613f3 04000000 4c54dce2 0850dce2"
        "01000000 0850dce2 00000000 38f613f3 2e0538f3 0850dce2 2cf613f3 00000000 08000a00 01000000"
    ),
    "17000800 00000000",
    "18000b00 00000000000000",
)  # fmt: skip
_CONFIRMED: Final = (
    "01001800 0100 0300 0002 0000 0000 1d04 0000 0000 0000 0000",
    "02001c00 1800 0100 0100 0100 0005 0004 0000 0100 0100 00 00 0100 0000",
    "03005800" + "00" * 16 + "00000000 0100 1400 0000 0100 0000 2a00"
    "01010101 01000001 01010001 00000001 01010101 01010100 01010100 00000000"
    "0000 0000 00000000 00840300 0000 0000 0000 0000",
    "13002800 0300 00 03 78000000 78000000 fb090080" + "00" * 20,
    "0a000800 06000000",
    "07000c00 0000000000000000",
    "05000c00 0000000002000200",
    "08000a00 0100 1400 1500",
    "09000800 00000000",
    "0d005800 1500 0000 09040000 04000000 00000000 0c000000" + "00" * 64,
    "0c000800 01000000",
    "0e000800 01000000",
    "10003400 fe000400 fe000400 fe000800 fe000800 fe001000 fe002000 fe004000 fe008000 fe000001 40000008 00010001 03000000",
    "0f000800 01000000",
    "11000c00 01000000 001e6400",
    "14000c00 01000000 40060000",
    "15000c00 02000000 000a0001",
    "16002800" + "00" * 36,
)  # fmt: skip


def _sets(sets: tuple[str, ...]) -> bytes:
    return b"".join(_hex(one) for one in sets)


DEMAND_ACTIVE: Final = (
    _hex("6f011100ea03 ea030100 0400 5901") + b"RDP\0" + _hex("0d000000") + _sets(_DEMANDED) + bytes(4)
)
CONFIRM_ACTIVE: Final = (
    _hex("f0011300ef03 ea030100 ea03 0600 da01") + b"MSTSC\0" + _hex("12000000") + _sets(_CONFIRMED)
)

# 4.1.14 to 4.1.22
SYNCHRONIZE: Final = _hex("16001700ef03 ea030100 00 01 0800 1f 00 0000 0100 ea03")
COOPERATE: Final = _hex("1a001700ef03 ea030100 00 01 0c00 14 00 0000 0400 0000 00000000")
GRANTED: Final = _hex("1a001700ea03 ea030100 00 02 0c00 14 00 0000 0200 ef03 ea030000")
FONT_LIST: Final = _hex("1a001700ef03 ea030100 00 01 0c00 27 00 0000 0000 0000 0300 3200")
FONT_MAP: Final = _hex("1a001700ea03 ea030100 00 02 0c00 28 00 0000 0000 0000 0300 0400")

# MS-RDPECLIP 4.1 and 4.3: capabilities, a list of formats by their long names, a request, an answer
CLIP_CAPABILITIES: Final = _hex("07000000 10000000 01000000 0100 0c00 02000000 0e000000")
CLIP_FORMATS: Final = _hex("02000000 24000000") + _hex("04c00000") + "Native\0".encode("utf-16-le") + _hex(
    "03000000 0000 08000000 0000 11000000 0000"
)  # fmt: skip
CLIP_REQUEST: Final = _hex("04000000 04000000 0d000000")
CLIP_TEXT: Final = _hex("05000100 18000000") + "hello world\0".encode("utf-16-le")

# MS-RDPEDYC 4: capabilities, create and its answer, close; data in two pieces
DYNAMIC_CAPABILITIES: Final = _hex("50000200 33331111 3d0aa704")
DYNAMIC_CREATE: Final = _hex("1003") + b"testdvc\0"
DYNAMIC_CREATED: Final = _hex("1003 00000000")
DYNAMIC_CLOSE: Final = _hex("4003")

# MS-RDPEA: what xrdp offers (PCM, PCM, Opus), a wave of 16 bytes in two messages, one of the newer kind
_PCM: Final = "0100 0200 44ac0000 10b10200 0400 1000 0000", "0100 0200 22560000 88580100 0400 1000 0000"
SOUND_FORMATS: Final = _hex(
    "0700 4a00 00000000 00000000 00000000 0000 0300 ff 0600 00"
) + b"".join(map(_hex, (*_PCM, "6900 0200 44ac0000 10b10200 0400 1000 0000")))  # fmt: skip
SOUND_WAVE: Final = _hex("0200 1800 0203 0100 07 000000") + b"abcd", bytes(4) + b"efghijklmnop"
SOUND_WAVE2: Final = _hex("0d00 1000 0203 0100 07 000000 2a000000") + b"wave"
