"""Devices of the client that the target uses ("rdpdr"): drives, printers, ports, smart cards.

Rule 1: whatever a peer sends is a value or a WireError.
Rule 2: of a message that carries content the head is read alone; its content is not needed here.

MS-RDPEFS 2.2; the printers' own messages are MS-RDPEPC 2.2.2.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import Reader, WireError, text, u32

CHANNEL: Final = "rdpdr"  # MS-RDPEFS 2.1
_HEADER: Final = Struct("<HH")  # RDPDR_HEADER, 2.2.1.1
HEADER: Final = _HEADER.size
_ENTRY: Final = Struct("<II8sI")  # DEVICE_ANNOUNCE, 2.2.1.3
_REQUEST: Final = Struct("<IIIII")  # DR_DEVICE_IOREQUEST, 2.2.1.4
REQUEST: Final = HEADER + _REQUEST.size
_COMPLETION: Final = Struct("<III")  # DR_DEVICE_IOCOMPLETION, 2.2.1.5
COMPLETION: Final = HEADER + _COMPLETION.size
COMPLETION_CONTENT: Final = COMPLETION + 4  # of a read: behind the length of what was read, 2.2.1.5.3
WRITE_CONTENT: Final = REQUEST + 32  # of a write: behind length, offset and padding, 2.2.1.4.4
MAX_DEVICES: Final = 256  # in a list; Windows has 26 letters, some printers and ports
MAX_PATH: Final = 64 * 1024  # bytes: what Windows allows of a path


class Component(enum.IntEnum):
    """Component of RDPDR_HEADER."""

    CORE = 0x4472
    PRINTER = 0x5052


class Packet(enum.IntEnum):
    """PacketId of RDPDR_HEADER."""

    SERVER_ANNOUNCE = 0x496E
    CLIENTID_CONFIRM = 0x4343
    CLIENT_NAME = 0x434E
    DEVICELIST_ANNOUNCE = 0x4441
    DEVICE_REPLY = 0x6472
    DEVICE_IOREQUEST = 0x4952
    DEVICE_IOCOMPLETION = 0x4943
    SERVER_CAPABILITY = 0x5350
    CLIENT_CAPABILITY = 0x4350
    DEVICELIST_REMOVE = 0x444D
    USER_LOGGEDON = 0x554C


class DeviceType(enum.IntEnum):
    """DeviceType of DEVICE_ANNOUNCE."""

    SERIAL = 0x01
    PARALLEL = 0x02
    PRINT = 0x04
    FILESYSTEM = 0x08
    SMARTCARD = 0x20


class Major(enum.IntEnum):
    """MajorFunction of a request, 2.2.1.4."""

    CREATE = 0x00
    CLOSE = 0x02
    READ = 0x03
    WRITE = 0x04
    QUERY_INFORMATION = 0x05
    SET_INFORMATION = 0x06
    QUERY_VOLUME_INFORMATION = 0x0A
    SET_VOLUME_INFORMATION = 0x0B
    DIRECTORY_CONTROL = 0x0C
    DEVICE_CONTROL = 0x0E
    LOCK_CONTROL = 0x11


class Status(enum.IntEnum):
    """NTSTATUS codes that are said or looked for here, MS-ERREF 2.3.1."""

    SUCCESS = 0x00000000
    NO_SUCH_DEVICE = 0xC000000E
    ACCESS_DENIED = 0xC0000022
    TOO_MANY_OPENED_FILES = 0xC000011F


class Information(enum.IntEnum):
    """FsInformationClass of a request that changes a file, MS-FSCC 2.4."""

    RENAME = 10
    DISPOSITION = 13


DELETE_ON_CLOSE: Final = 0x00001000  # CreateOptions, MS-SMB2 2.2.13
DIRECTORY_FILE: Final = 0x00000001
FILE_CREATED: Final = 2  # Information of a create's answer, MS-SMB2 2.2.14
_TAILS: Final = {
    Major.CREATE: 5,  # FileId, Information
    Major.CLOSE: 5,  # padding
    Major.WRITE: 5,  # length, padding
    Major.DIRECTORY_CONTROL: 5,
    Major.LOCK_CONTROL: 5,
}
_TAIL: Final = 4  # a length of nothing
"""Bytes of zeros behind the status of an answer that brings nothing, 2.2.1.5 and 2.2.3.4."""


class Device(NamedTuple):
    """DEVICE_ANNOUNCE, 2.2.1.3; `dos_name` as it came, `data` is the type's own."""

    kind: int
    number: int
    dos_name: bytes
    data: bytes

    @property
    def name(self) -> str:
        """Its name as it may be shown: the one a drive is shared by is in its data when it is a long one."""
        short = self.dos_name.split(b"\0", 1)[0].decode("latin-1")
        if self.kind != DeviceType.FILESYSTEM or not self.data:
            return short
        wide = self.data[1:2] == b"\0"
        return (text(self.data) if wide else self.data.split(b"\0", 1)[0].decode("utf-8", "replace")) or short


class Request(NamedTuple):
    """DR_DEVICE_IOREQUEST, 2.2.1.4."""

    device: int
    file: int
    completion: int
    major: int
    minor: int


class Completion(NamedTuple):
    """DR_DEVICE_IOCOMPLETION, 2.2.1.5."""

    device: int
    completion: int
    status: int


class Create(NamedTuple):
    """DR_CREATE_REQ, 2.2.1.4.1."""

    options: int
    path: str


class Reach(NamedTuple):
    """Which part of a file a read or a write is for, 2.2.1.4.3 and 2.2.1.4.4."""

    length: int
    offset: int


def parse_header(message: bytes) -> tuple[int, int]:
    """Read RDPDR_HEADER: component and packet; raises WireError."""
    if len(message) < HEADER:
        raise WireError("a device message is cut short")
    component, packet = _HEADER.unpack_from(message)
    return component, packet


def parse_announce(message: bytes) -> list[Device]:
    """Read a Client Device List Announce, 2.2.2.9; raises WireError."""
    reader = Reader(message, HEADER, what="a list of devices")
    count = reader.u32()
    if count > MAX_DEVICES:
        raise WireError("a list of devices is too long")
    found = []
    for _ in range(count):
        kind, number, name, size = _ENTRY.unpack(reader.take(_ENTRY.size))
        found.append(Device(kind, number, name, reader.take(size)))
    return found


def build_announce(found: Iterable[Device]) -> bytes:
    """Write a Client Device List Announce, 2.2.2.9."""
    entries = [_ENTRY.pack(one.kind, one.number, one.dos_name, len(one.data)) + one.data for one in found]
    head = _HEADER.pack(Component.CORE, Packet.DEVICELIST_ANNOUNCE)
    return head + u32(len(entries)) + b"".join(entries)


def parse_remove(message: bytes) -> list[int]:
    """Read a Client Drive Device List Remove, 2.2.3.2; raises WireError."""
    reader = Reader(message, HEADER, what="a list of removed devices")
    count = reader.u32()
    if count * 4 > reader.left:
        raise WireError("a list of removed devices is cut short")
    return [reader.u32() for _ in range(count)]


def build_reply(device: int, status: Status) -> bytes:
    """Write a Server Device Announce Response, 2.2.2.1: what became of a device."""
    return _HEADER.pack(Component.CORE, Packet.DEVICE_REPLY) + u32(device) + u32(status)


def parse_request(message: bytes) -> Request:
    """Read the head of a Device I/O Request, 2.2.1.4; raises WireError."""
    if len(message) < REQUEST:
        raise WireError("a request to a device is cut short")
    return Request._make(_REQUEST.unpack_from(message, HEADER))


def parse_create(message: bytes) -> Create:
    """Read a Create Request, 2.2.1.4.1; raises WireError."""
    reader = Reader(message, REQUEST, what="a request to open a file")
    reader.skip(24)  # access, allocation size, attributes, sharing, disposition
    options, size = reader.u32(), reader.u32()
    if size > MAX_PATH:
        raise WireError("a path is too long")
    return Create(options, text(reader.take(size)))


def parse_reach(message: bytes) -> Reach:
    """Read what a Read or Write Request is for, 2.2.1.4.3 and 2.2.1.4.4; raises WireError."""
    reader = Reader(message, REQUEST, what="a request to a file")
    length, low, high = reader.u32(), reader.u32(), reader.u32()
    return Reach(length, high << 32 | low)


def parse_information(message: bytes) -> tuple[int, str]:
    """Read a Set Information Request, 2.2.3.3.9: its class, and the new path of a renaming; raises WireError."""
    reader = Reader(message, REQUEST, what="a request to change a file")
    kind, size = reader.u32(), reader.u32()
    reader.skip(24)  # padding
    if kind != Information.RENAME:
        return kind, ""
    buffer = reader.part(min(size, reader.left), reader.what)
    buffer.skip(2)  # ReplaceIfExists, RootDirectory
    return kind, text(buffer.take(min(buffer.u32(), MAX_PATH)))


def parse_completion(message: bytes) -> Completion:
    """Read the head of a Device I/O Response, 2.2.1.5; raises WireError."""
    if len(message) < COMPLETION:
        raise WireError("a device's answer is cut short")
    return Completion._make(_COMPLETION.unpack_from(message, HEADER))


def parse_created(message: bytes) -> tuple[int, int]:
    """Read a Create Response, 2.2.1.5.1: the file's number, and what was done; raises WireError."""
    reader = Reader(message, COMPLETION, what="a device's answer")
    return reader.u32(), reader.u8() if reader.left else 0


def parse_read(message: bytes) -> int:
    """Read the head of a Read Response, 2.2.1.5.3: how much was read; raises WireError."""
    return Reader(message, COMPLETION, what="a device's answer").u32()


def build_failure(request: Request, status: Status) -> bytes:
    """Write the answer of a device to a request that it does not do, 2.2.1.5."""
    head = _HEADER.pack(Component.CORE, Packet.DEVICE_IOCOMPLETION)
    tail = bytes(_TAILS.get(Major(request.major), _TAIL) if request.major in set(Major) else _TAIL)
    return head + _COMPLETION.pack(request.device, request.completion, status) + tail
