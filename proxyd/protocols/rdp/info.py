"""Client Info and licensing: what a client says of its user once the channels stand, and how licensing is got over.

Rule 1: a password is in no repr and in no error.
Rule 2: of a text field counts what stands before its first NUL, as every server reads it.
Rule 3: what we send to a target is Unicode and holds no cookie by which its client could come back without us.

MS-RDPBCGR 2.2.1.11 (Client Info), 2.2.8.1.1.2.1 (basic security header), 2.2.1.12 (licensing error), MS-RDPELE.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import Reader, WireError, text, u16, u32

_SECURITY: Final = Struct("<HH")  # flags, flagsHi
SECURITY_HEADER: Final = _SECURITY.size


class Security(enum.IntFlag):
    """Flags of the basic security header, 2.2.8.1.1.2.1: under TLS only these phases have one."""

    EXCHANGE_PKT = 0x0001
    TRANSPORT_REQ = 0x0002
    TRANSPORT_RSP = 0x0004
    ENCRYPT = 0x0008
    RESET_SEQNO = 0x0010
    IGNORE_SEQNO = 0x0020
    INFO_PKT = 0x0040
    LICENSE_PKT = 0x0080
    LICENSE_ENCRYPT = 0x0200
    REDIRECTION_PKT = 0x0400
    SECURE_CHECKSUM = 0x0800
    AUTODETECT_REQ = 0x1000
    AUTODETECT_RSP = 0x2000
    HEARTBEAT = 0x4000
    FLAGSHI_VALID = 0x8000


def security(payload: bytes) -> Security:
    """Read the flags of a basic security header; raises WireError."""
    if len(payload) < SECURITY_HEADER:
        raise WireError("a security header is cut short")
    return Security(_SECURITY.unpack_from(payload)[0])


# ---------------------------------------------------------------------------------------------- Client Info

_INFO: Final = Struct("<IIHHHHH")  # 2.2.1.11.1.1: codePage, flags, five sizes
_COMPRESSION_SHIFT: Final = 9
PACKET_COMPR_TYPE_64K: Final = (
    1  # 2.2.1.11.1.1 CompressionTypeMask: MPPC-64K, what recordings can be inflated from
)
_TIME_ZONE: Final = 172  # TS_TIME_ZONE_INFORMATION, 2.2.1.11.1.1.1.1
_WIDE: Final = 2  # bytes of a character, and of the NUL behind a field


class InfoFlag(enum.IntFlag):
    """Flags of TS_INFO_PACKET, 2.2.1.11.1.1."""

    MOUSE = 0x00000001
    DISABLECTRLALTDEL = 0x00000002
    AUTOLOGON = 0x00000008
    UNICODE = 0x00000010
    MAXIMIZESHELL = 0x00000020
    LOGONNOTIFY = 0x00000040
    COMPRESSION = 0x00000080
    ENABLEWINDOWSKEY = 0x00000100
    COMPRESSION_TYPE = 0x00001E00  # four bits
    REMOTECONSOLEAUDIO = 0x00002000
    FORCE_ENCRYPTED_CS_PDU = 0x00004000
    RAIL = 0x00008000
    LOGONERRORS = 0x00010000
    MOUSE_HAS_WHEEL = 0x00020000
    PASSWORD_IS_SC_PIN = 0x00040000
    NOAUDIOPLAYBACK = 0x00080000
    USING_SAVED_CREDS = 0x00100000
    AUDIOCAPTURE = 0x00200000
    VIDEO_DISABLE = 0x00400000
    RESERVED1 = 0x00800000
    RESERVED2 = 0x01000000
    HIDEF_RAIL_SUPPORTED = 0x02000000


@dataclass(frozen=True)
class ClientInfo:
    """TS_INFO_PACKET, 2.2.1.11.1.1."""

    code_page: int
    flags: InfoFlag
    domain: str
    user: str
    password: str = field(repr=False)
    shell: str
    directory: str
    extra: bytes = field(repr=False)  # TS_EXTENDED_INFO_PACKET, 2.2.1.11.1.1.1, as it came

    @property
    def compression(self) -> int | None:
        """The best bulk compression the client knows, None for none."""
        if not self.flags & InfoFlag.COMPRESSION:
            return None
        return (self.flags & InfoFlag.COMPRESSION_TYPE) >> _COMPRESSION_SHIFT


def parse_client_info(payload: bytes) -> ClientInfo:
    """Read the payload of a Client Info PDU, with its security header; raises WireError."""
    if not security(payload) & Security.INFO_PKT:
        raise WireError("sent something else than client information")
    reader = Reader(payload, SECURITY_HEADER, what="client information")
    code_page, number, *sizes = _INFO.unpack(reader.take(_INFO.size))
    flags = InfoFlag(number)
    wide = bool(flags & InfoFlag.UNICODE)
    values = []
    for size in sizes:
        data = reader.take(size)
        reader.skip(_WIDE if wide else 1)  # its NUL, which the size does not count
        values.append(text(data) if wide else data.split(b"\0", 1)[0].decode("latin-1"))
    domain, user, password, shell, directory = values
    return ClientInfo(code_page, flags, domain, user, password, shell, directory, reader.rest())


def build_client_info(info: ClientInfo) -> bytes:
    """Write the payload of a Client Info PDU, in Unicode, with its security header; raises WireError."""
    encoded = [
        value.encode("utf-16-le", "replace")
        for value in (info.domain, info.user, info.password, info.shell, info.directory)
    ]
    if max(map(len, encoded)) > 0xFFFF:
        raise WireError("a field of client information is too long")
    head = _INFO.pack(info.code_page, info.flags | InfoFlag.UNICODE, *map(len, encoded))
    return _SECURITY.pack(Security.INFO_PKT, 0) + head + b"".join(v + b"\0\0" for v in encoded) + info.extra


def cap_compression(info: ClientInfo, best: int = PACKET_COMPR_TYPE_64K) -> ClientInfo:
    """Give the information of a client that knows no better bulk compression than `best`."""
    if info.compression is None or info.compression <= best:
        return info
    flags = info.flags & ~int(InfoFlag.COMPRESSION_TYPE) | best << _COMPRESSION_SHIFT
    return replace(info, flags=InfoFlag(flags))


def log_on_as(info: ClientInfo, domain: str, user: str, password: str) -> ClientInfo:
    """Give the information with which the target logs this account on at once; raises WireError."""
    flags = info.flags & ~int(InfoFlag.PASSWORD_IS_SC_PIN | InfoFlag.USING_SAVED_CREDS) | InfoFlag.AUTOLOGON
    wide = info if info.flags & InfoFlag.UNICODE else replace(info, extra=_widened(info.extra))
    return replace(
        wide,
        flags=flags | InfoFlag.UNICODE,
        domain=domain,
        user=user,
        password=password,
        extra=without_reconnect_cookie(wide.extra),
    )


def without_reconnect_cookie(extra: bytes) -> bytes:
    """Give a TS_EXTENDED_INFO_PACKET without its auto-reconnect cookie, 2.2.1.11.1.1.1; raises WireError."""
    reader = Reader(extra, what="client information")
    if not _skip_addresses(reader) or reader.left <= _TIME_ZONE + 8:  # clientSessionId and performanceFlags
        return extra
    at = reader.skip(_TIME_ZONE + 8) + _TIME_ZONE + 8
    reader.skip(reader.u16())
    return extra[:at] + u16(0) + reader.rest()


def _skip_addresses(reader: Reader) -> bool:
    """Pass over clientAddress and clientDir; False when the packet is not there at all."""
    if not reader.left:
        return False
    reader.u16()  # clientAddressFamily
    for _ in range(2):
        reader.skip(reader.u16())
    return True


def _widened(extra: bytes) -> bytes:
    """Give the extended information of an ANSI client in Unicode: its address and its directory."""
    reader = Reader(extra, what="client information")
    if not reader.left:
        return extra
    family = reader.u16()
    values = [reader.take(reader.u16()).decode("latin-1").encode("utf-16-le") for _ in range(2)]
    if max(map(len, values)) > 0xFFFF:
        raise WireError("a field of client information is too long")
    return u16(family) + b"".join(u16(len(value)) + value for value in values) + reader.rest()


# ---------------------------------------------------------------------------------------------- licensing

_PREAMBLE: Final = Struct("<BBH")  # 2.2.1.12.1.1: bMsgType, flags, wMsgSize
_VERSION_3: Final = 0x03  # PREAMBLE_VERSION_3_0
_ERROR_BLOB: Final = 4  # BB_ERROR_BLOB
_ERROR_SIZE: Final = 16  # of a message with an error and an empty blob


class License(enum.IntEnum):
    """Kinds of licensing messages, 2.2.1.12.1.1."""

    REQUEST = 0x01
    PLATFORM_CHALLENGE = 0x02
    NEW_LICENSE = 0x03
    UPGRADE_LICENSE = 0x04
    LICENSE_INFO = 0x12
    NEW_LICENSE_REQUEST = 0x13
    PLATFORM_CHALLENGE_RESPONSE = 0x15
    ERROR_ALERT = 0xFF


class LicenseError(enum.IntEnum):
    """dwErrorCode of a licensing error message, 2.2.1.12.1.3, as far as we say them."""

    ERR_NO_LICENSE = 0x02
    STATUS_VALID_CLIENT = 0x07


ST_NO_TRANSITION: Final = 2  # dwStateTransition, 2.2.1.12.1.3


class LicenseMessage(NamedTuple):
    """A licensing message; `error` and `transition` of an ERROR_ALERT only."""

    kind: int
    error: int = 0
    transition: int = 0

    @property
    def granted(self) -> bool:
        """Whether this ends licensing: there is no more of it, the session may begin."""
        return self.kind in {License.NEW_LICENSE, License.UPGRADE_LICENSE} or (
            self.kind == License.ERROR_ALERT and self.error == LicenseError.STATUS_VALID_CLIENT
        )


def parse_license(payload: bytes) -> LicenseMessage:
    """Read the payload of a licensing PDU, with its security header; raises WireError."""
    if not security(payload) & Security.LICENSE_PKT:
        raise WireError("sent something else than a licensing message")
    reader = Reader(payload, SECURITY_HEADER, what="a licensing message")
    kind, _, _ = _PREAMBLE.unpack(reader.take(_PREAMBLE.size))
    if kind != License.ERROR_ALERT:
        return LicenseMessage(kind)
    return LicenseMessage(kind, reader.u32(), reader.u32())


def build_license_error(error: LicenseError) -> bytes:
    """Write the payload of a licensing error message, 2.2.1.12.1.3.

    STATUS_VALID_CLIENT tells a client that licensing is over; ERR_NO_LICENSE tells a server that its client has none,
    which a server that needs none is content with.
    """
    preamble = _PREAMBLE.pack(License.ERROR_ALERT, _VERSION_3, _ERROR_SIZE)
    body = u32(error) + u32(ST_NO_TRANSITION) + u16(_ERROR_BLOB) + u16(0)
    return _SECURITY.pack(Security.LICENSE_PKT, 0) + preamble + body
