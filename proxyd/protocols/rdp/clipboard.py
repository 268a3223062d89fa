"""The clipboard ("cliprdr"): which formats are offered, what is asked for, text and lists of files.

Rule 1: whatever a peer sends is a value or a WireError.
Rule 2: only what is pasted crosses the wire; the names of formats say nothing of what they hold.
Rule 3: a message that is refused is answered in its sender's place, or the side that asked waits for ever.

MS-RDPECLIP 2.2.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import Reader, WireError, text, u16, u32

CHANNEL: Final = "cliprdr"  # MS-RDPECLIP 2.1
_HEADER: Final = Struct("<HHI")  # CLIPRDR_HEADER, 2.2.1
HEADER: Final = _HEADER.size
CF_TEXT: Final = 1  # MS-RDPECLIP 1.3.1.2: the system's own formats
CF_OEMTEXT: Final = 7
CF_UNICODETEXT: Final = 13
CF_HDROP: Final = 15
CF_LOCALE: Final = 16
FILE_LIST: Final = "FileGroupDescriptorW"  # 1.3.1.2: the name under which a list of files is offered
TEXT_FORMATS: Final = frozenset({CF_TEXT, CF_OEMTEXT, CF_UNICODETEXT, CF_LOCALE})
TEXT_NAMES: Final = (
    "html format", "rich text format", "rich text format without objects", "rtf as text", "csv", "xml spreadsheet",
    "unicode text", "text", "utf8_string", "string", "text/html", "text/plain", "text/plain;charset=utf-8", "_moz_htmlinfo",
)  # fmt: skip
"""Names of formats that hold text, in small letters: Windows does not tell capitals from these."""
FILE_NAMES: Final = (
    "filegroupdescriptorw", "filegroupdescriptor", "filecontents", "filename", "filenamew", "filenamemap", "filenamemapw",
    "shell idlist array", "shell object offsets", "preferred dropeffect", "performed dropeffect", "paste succeeded",
    "text/uri-list", "x-special/gnome-copied-files", "x-special/mate-copied-files",
)  # fmt: skip
"""Names of formats by which files are copied: their list, their contents, and where they are."""
STANDARD_NAMES: Final = {
    1: "text", 2: "bitmap", 3: "metafile", 4: "SYLK", 5: "DIF", 6: "TIFF", 7: "OEM text", 8: "DIB", 9: "palette",
    11: "RIFF", 12: "wave", 13: "text", 14: "enhanced metafile", 15: "files", 16: "locale", 17: "DIB",
}  # fmt: skip
SHORT_CHARACTERS: Final = 15  # of a name in a short list, with the NUL behind them
_SHORT_NAME: Final = 32  # 2.2.3.1.1.1: bytes of a short format name
_SHORT_ENTRY: Final = 4 + _SHORT_NAME
MAX_FORMATS: Final = 1024
MAX_NAME: Final = 1024  # bytes; Windows allows 256 characters
MAX_FILES: Final = 4096  # descriptors read of a list of files
_FILE: Final = Struct("<I32xI16x8xII520s")  # CLIPRDR_FILEDESCRIPTOR, 2.2.5.2.3.1
_SIZE_KNOWN: Final = 0x40  # FD_FILESIZE
_DIRECTORY: Final = 0x10  # FILE_ATTRIBUTE_DIRECTORY
_GENERAL: Final = 1  # CB_CAPSTYPE_GENERAL, 2.2.2.1.1
_GENERAL_SIZE: Final = 12


class ClipType(enum.IntEnum):
    """msgType, 2.2.1."""

    MONITOR_READY = 0x0001
    FORMAT_LIST = 0x0002
    FORMAT_LIST_RESPONSE = 0x0003
    FORMAT_DATA_REQUEST = 0x0004
    FORMAT_DATA_RESPONSE = 0x0005
    TEMP_DIRECTORY = 0x0006
    CLIP_CAPS = 0x0007
    FILECONTENTS_REQUEST = 0x0008
    FILECONTENTS_RESPONSE = 0x0009
    LOCK_CLIPDATA = 0x000A
    UNLOCK_CLIPDATA = 0x000B


class ClipFlag(enum.IntFlag):
    """msgFlags, 2.2.1."""

    RESPONSE_OK = 0x0001
    RESPONSE_FAIL = 0x0002
    ASCII_NAMES = 0x0004


class ClipCapability(enum.IntFlag):
    """generalFlags, 2.2.2.1.1.1."""

    USE_LONG_FORMAT_NAMES = 0x0002
    STREAM_FILECLIP_ENABLED = 0x0004
    FILECLIP_NO_FILE_PATHS = 0x0008
    CAN_LOCK_CLIPDATA = 0x0010
    HUGE_FILE_SUPPORT_ENABLED = 0x0020


class Clip(NamedTuple):
    """A clipboard message; `size` is what its header says, `body` what is here of it."""

    kind: int
    flags: int
    size: int
    body: bytes

    @property
    def failed(self) -> bool:
        """Whether this answer refuses."""
        return bool(self.flags & ClipFlag.RESPONSE_FAIL)


class FileDescriptor(NamedTuple):
    """CLIPRDR_FILEDESCRIPTOR, 2.2.5.2.3.1; `size` in bytes, None when it is not said."""

    name: str
    size: int | None
    directory: bool


class FileRequest(NamedTuple):
    """CLIPRDR_FILECONTENTS_REQUEST, 2.2.5.3."""

    stream: int
    place: int  # lindex: of the file in the list
    wants_size: bool
    position: int
    requested: int
    lock: int | None = None  # clipDataId: whose list of files is meant


class Holds(enum.Enum):
    """What a format holds, as far as a policy tells them apart."""

    TEXT = "text"
    FILES = "files"
    OTHER = "other"


class Format(NamedTuple):
    """One entry of a Format List PDU, 2.2.3.1."""

    number: int
    name: str

    @property
    def holds(self) -> Holds:
        """What it holds, by its number or its name, whichever says more."""
        name = self.name.casefold()
        if self.number == CF_HDROP or _is_one_of(name, FILE_NAMES):
            return Holds.FILES
        if self.number in TEXT_FORMATS or _is_one_of(name, TEXT_NAMES):
            return Holds.TEXT
        return Holds.OTHER

    @property
    def shown(self) -> str:
        """How the log names it."""
        return self.name or STANDARD_NAMES.get(self.number, f"format {self.number}")


def _is_one_of(name: str, known: tuple[str, ...]) -> bool:
    """Find a name, also one that a short list has cut."""
    return name in known or (len(name) >= SHORT_CHARACTERS and any(whole.startswith(name) for whole in known))


def parse_clip(message: bytes) -> Clip:
    """Read a clipboard message, or its beginning; raises WireError."""
    if len(message) < HEADER:
        raise WireError("a clipboard message is cut short")
    kind, flags, size = _HEADER.unpack_from(message)
    return Clip(kind, flags, size, message[HEADER : HEADER + size])


def build_clip(kind: ClipType, flags: int = 0, body: bytes = b"") -> bytes:
    """Write a clipboard message."""
    return _HEADER.pack(kind, flags, len(body)) + body


def refusal(clip: Clip) -> bytes | None:
    """Give the answer to a message that does not reach the other side; None when nobody waits for one."""
    match clip.kind:
        case ClipType.FORMAT_LIST:
            return build_clip(ClipType.FORMAT_LIST_RESPONSE, ClipFlag.RESPONSE_OK)
        case ClipType.FORMAT_DATA_REQUEST:
            return build_clip(ClipType.FORMAT_DATA_RESPONSE, ClipFlag.RESPONSE_FAIL)
        case ClipType.FILECONTENTS_REQUEST:
            return build_clip(ClipType.FILECONTENTS_RESPONSE, ClipFlag.RESPONSE_FAIL, clip.body[:4])
    return None


def parse_capabilities(clip: Clip) -> ClipCapability:
    """Read a Clipboard Capabilities PDU, 2.2.2.1; raises WireError."""
    reader = Reader(clip.body, what="a clipboard's capabilities")
    count = reader.u16()
    reader.u16()  # pad
    flags = ClipCapability(0)
    for _ in range(count):
        kind, size = reader.u16(), reader.u16()
        body = reader.part(size - 4, reader.what)
        if kind == _GENERAL:
            body.u32()  # version
            flags = ClipCapability(body.u32())
    return flags


def build_capabilities(flags: int) -> bytes:
    """Write a Clipboard Capabilities PDU, 2.2.2.1, of version 2."""
    body = u16(1) + u16(0) + u16(_GENERAL) + u16(_GENERAL_SIZE) + u32(2) + u32(flags)
    return build_clip(ClipType.CLIP_CAPS, 0, body)


def parse_format_list(clip: Clip, *, long_names: bool) -> list[Format]:
    """Read a Format List PDU, 2.2.3.1, at most MAX_FORMATS of it; raises WireError.

    `long_names`: both sides said USE_LONG_FORMAT_NAMES. xrdp writes them to clients that say nothing at all (rdesktop) too:
    a list that is not one of short names is read as one of long ones.
    """
    reader = Reader(clip.body, what="a list of clipboard formats")
    long_names = long_names or bool(reader.left % _SHORT_ENTRY)
    ascii_names = bool(clip.flags & ClipFlag.ASCII_NAMES)
    found: list[Format] = []
    while reader.left and len(found) < MAX_FORMATS:
        number = reader.u32()
        name = _long_name(reader) if long_names else _short_name(reader.take(_SHORT_NAME), ascii_names)
        found.append(Format(number, name))
    return found


def build_format_list(formats: Iterable[Format], *, long_names: bool) -> bytes:
    """Write a Format List PDU, 2.2.3.1."""
    body = bytearray()
    for number, name in formats:
        encoded = name.encode("utf-16-le", "replace")
        if long_names:
            body += u32(number) + encoded + b"\0\0"
        else:
            body += u32(number) + encoded[: _SHORT_NAME - 2].ljust(_SHORT_NAME, b"\0")
    return build_clip(ClipType.FORMAT_LIST, 0, bytes(body))


def _short_name(data: bytes, ascii_names: bool) -> str:  # noqa: FBT001 - private, and named where it is called
    return data.split(b"\0", 1)[0].decode("latin-1") if ascii_names else text(data)


def _long_name(reader: Reader) -> str:
    start = reader.at
    end = reader.data.find(b"\0\0", start, start + MAX_NAME)
    while end >= 0 and (end - start) & 1:  # a zero high byte, and the low byte of what follows
        end = reader.data.find(b"\0\0", end + 1, start + MAX_NAME)
    if end < 0 or end + 2 > reader.end:
        raise WireError("a clipboard format's name does not end")
    reader.skip(end + 2 - start)
    return text(reader.data[start:end])


def parse_data_request(clip: Clip) -> int:
    """Read a Format Data Request PDU, 2.2.5.1: which format is wanted; raises WireError."""
    return Reader(clip.body, what="a clipboard request").u32()


def parse_lock(clip: Clip) -> int:
    """Read a Lock or Unlock Clipboard Data PDU, 2.2.4.1 and 2.2.4.2: which list of files is meant; raises WireError."""
    return Reader(clip.body, what="a clipboard lock").u32()


def plain_text(what: Format, body: bytes) -> str:
    """Decode what a format of text holds, or its beginning: never raises."""
    if what.number == CF_UNICODETEXT or what.name.casefold() in ("unicode text", "text/html", "text/plain"):
        return text(body)
    if what.number == CF_LOCALE:
        return ""
    return body.split(b"\0", 1)[0].decode("utf-8", "replace")


def unicode_text(body: bytes) -> str:
    """Decode CF_UNICODETEXT of a Format Data Response PDU, 2.2.5.2."""
    return text(body)


def parse_file_list(body: bytes, *, beginning: bool = False) -> list[FileDescriptor]:
    """Read a packed file list of a Format Data Response PDU, 2.2.5.2.3, at most MAX_FILES; raises WireError.

    `beginning`: the rest is not here.
    """
    reader = Reader(body, what="a list of files")
    count = reader.u32()
    if beginning:
        count = min(count, reader.left // _FILE.size)
    if count * _FILE.size > reader.left:
        raise WireError("a list of files is cut short")
    files = reader.take(min(count, MAX_FILES) * _FILE.size)
    return [
        FileDescriptor(
            text(name), high << 32 | low if flags & _SIZE_KNOWN else None, bool(attributes & _DIRECTORY)
        )
        for flags, attributes, high, low, name in _FILE.iter_unpack(files)
    ]


def parse_file_request(clip: Clip) -> FileRequest:
    """Read a File Contents Request PDU, 2.2.5.3; raises WireError."""
    reader = Reader(clip.body, what="a request for a file")
    stream, index, flags, low, high, requested = (reader.u32() for _ in range(6))
    lock = reader.u32() if reader.left else None
    return FileRequest(stream, index, bool(flags & 1), high << 32 | low, requested, lock)
