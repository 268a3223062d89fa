"""SFTP's packets (filexfer-02, 3): their types, what answers what, and a stream cut into them.

Rule 1: a body is never collected, and of a packet only the bytes its kind needs; both limits are checked before any is kept.

Packet: uint32 length, byte type, uint32 id, fields.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from proxyd.digest import Body
from proxyd.protocols.ssh.wire import Reader, WireError

PACKET_LIMIT = 4 * 1024 * 1024 + 64 * 1024
"""Bytes of a packet that is passed through: asyncssh moves up to 4 MiB at once, OpenSSH 256 KiB."""

KEPT_LIMIT = 256 * 1024
"""Bytes of a packet that must be read whole: OpenSSH's limit for any."""

HANDLE_LIMIT = 256
"""Bytes of a handle (filexfer-02, 6.2)."""


class Packet(IntEnum):
    """Packet types (filexfer-02, 3; 21 to 23: filexfer-13)."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    LINK = 21
    BLOCK = 22
    UNBLOCK = 23
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


_WHOLE: Final = -1
_ID: Final = 9  # length, type, id: all that is needed of a packet nobody is told of

ANSWERS: Final[dict[int, tuple[int, ...]]] = {  # besides STATUS, which may answer anything
    Packet.OPEN: (Packet.HANDLE,),
    Packet.CLOSE: (),
    Packet.READ: (Packet.DATA,),
    Packet.WRITE: (),
    Packet.LSTAT: (Packet.ATTRS,),
    Packet.FSTAT: (Packet.ATTRS,),
    Packet.SETSTAT: (),
    Packet.FSETSTAT: (),
    Packet.OPENDIR: (Packet.HANDLE,),
    Packet.READDIR: (Packet.NAME,),
    Packet.REMOVE: (),
    Packet.MKDIR: (),
    Packet.RMDIR: (),
    Packet.REALPATH: (Packet.NAME,),
    Packet.STAT: (Packet.ATTRS,),
    Packet.RENAME: (),
    Packet.READLINK: (Packet.NAME,),
    Packet.SYMLINK: (),
    Packet.LINK: (),
    Packet.BLOCK: (),
    Packet.UNBLOCK: (),
    Packet.EXTENDED: (Packet.EXTENDED_REPLY, Packet.NAME, Packet.ATTRS),
}
_QUIET = frozenset(kind for kind, answers in ANSWERS.items() if {Packet.NAME, Packet.ATTRS} & set(answers))
_QUIET = _QUIET - {Packet.EXTENDED} | {Packet.OPENDIR, Packet.BLOCK, Packet.UNBLOCK}

# How many bytes of a packet are needed: 13 reach the length of a handle, of a data block, or a status code.
FROM_CLIENT = {int(kind): _ID if kind in _QUIET else _WHOLE for kind in ANSWERS} | {int(Packet.WRITE): 13}
FROM_TARGET = {
    int(Packet.STATUS): 13,
    int(Packet.HANDLE): _WHOLE,
    int(Packet.DATA): 13,
    int(Packet.NAME): _ID,
    int(Packet.ATTRS): _ID,
    int(Packet.EXTENDED_REPLY): _ID,
}

_HEAD = struct.Struct(">IB")
HEAD_ID = struct.Struct(">II")  # id, and the uint32 after it
PLACE = struct.Struct(">QI")  # WRITE: offset, length of the data; READ: offset, length wanted

_RESULTS = (
    "ok", "eof", "no such file", "permission denied", "failure", "bad message", "no connection", "connection lost",
    "operation unsupported", "invalid handle", "no such path", "file already exists", "write protected", "no media",
    "no space on filesystem", "quota exceeded", "unknown principal", "lock conflict", "directory not empty",
    "not a directory", "invalid filename", "link loop", "cannot delete", "invalid parameter", "file is a directory",
)  # fmt: skip

QUIET_EXTENSIONS: Final = frozenset(  # that only look
    {
        b"statvfs@openssh.com",
        b"fstatvfs@openssh.com",
        b"fsync@openssh.com",
        b"limits@openssh.com",
        b"expand-path@openssh.com",
        b"home-directory",
        b"users-groups-by-id@openssh.com",
        b"vendor-id",
        b"version-select",
        b"check-file",
        b"check-file-name",
        b"check-file-handle",
        b"space-available",
    }
)


def result(code: int) -> str:
    """Say a status code (filexfer-02, 7; filexfer-13, 9.1) in words."""
    return _RESULTS[code] if code < len(_RESULTS) else f"status {code}"


def attributes(reader: Reader, version: int) -> tuple[str, int | None]:
    """Say ATTRS (filexfer-02, 5) in words, and the size it sets."""
    if version > 3:
        return "", None
    flags = reader.uint32()
    said = []
    size = reader.uint64() if flags & 1 else None
    if size is not None:
        said.append(f"size {size}")
    if flags & 2:
        said.append(f"owner {reader.uint32()}:{reader.uint32()}")
    if flags & 4:
        said.append(f"mode {reader.uint32() & 0o7777:04o}")
    if flags & 8:
        reader.take(4)  # the time of the last access
        said.append(f"modified {reader.uint32()}")
    return ", ".join(said), size


class Packets:
    """One direction, cut into packets; a body goes to `sink` in slices as it comes."""

    def __init__(self, first: int, kinds: dict[int, int], act: Callable[[int, bytes], None]) -> None:
        self._kinds = {first: _ID}
        self._later = kinds
        self._first = first
        self._act = act
        # The head of a packet that came in part; its first _came bytes in earlier calls.
        self._held = bytearray()
        self._came = 0
        self._wanted = 0
        self._skip = 0
        self._body = 0
        self._sink: Body | None = None

    def body(self, size: int, sink: Body | None) -> None:
        """Have the next `size` bytes after this head go to `sink`."""
        if size > self._skip:
            raise WireError("a body longer than its packet")
        self._skip -= size
        self._body, self._sink = size, sink
        if not size and sink is not None:
            sink.end()

    def held(self) -> bytes:
        """Give what came in earlier calls of the packet under way."""
        return bytes(self._held[: self._came])

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises WireError."""
        at, end = 0, len(data)
        while at < end:
            if self._body:
                taken = min(self._body, end - at)
                self._body -= taken
                self._pass(data, at, taken)
                at += taken
            elif self._skip:
                taken = min(self._skip, end - at)
                self._skip -= taken
                at += taken
            elif self._held:
                at = self._gather(data, at, end)
            else:
                need, whole = self._need(data, at, end - at)
                if need > end - at:
                    self._held += data[at:end]
                    self._wanted = need
                    at = end
                else:
                    self._begin(data[at : at + need], whole)
                    at += need
        self._came = len(self._held)

    def _pass(self, data: bytes, at: int, size: int) -> None:
        sink = self._sink
        if sink is None:
            return
        if size == len(data):
            sink.piece(data)
        elif size * 2 < len(data):  # a small slice must not keep the whole payload alive
            sink.piece(data[at : at + size])
        else:
            sink.piece(memoryview(data)[at : at + size])
        if not self._body:
            sink.end()
            self._sink = None

    def _gather(self, data: bytes, at: int, end: int) -> int:
        taken = min(self._wanted - len(self._held), end - at)
        self._held += data[at : at + taken]
        if len(self._held) == self._wanted:
            need, whole = self._need(self._held, 0, self._wanted)
            if need == self._wanted:
                head = bytes(self._held)
                self._held.clear()
                self._came = 0
                self._begin(head, whole)
            self._wanted = need
        return at + taken

    def _need(self, data: bytes | bytearray, at: int, have: int) -> tuple[int, int]:
        """Give how much of the packet must be there to act on it, and the size of all of it."""
        if have < _HEAD.size:
            return _HEAD.size, 0
        length, kind = _HEAD.unpack_from(data, at)
        need = self._kinds.get(kind)
        if need is None:
            raise WireError("a packet type that has no place here")
        whole = length + 4
        if not _ID <= whole <= (KEPT_LIMIT if need == _WHOLE else PACKET_LIMIT):
            raise WireError("a packet of impossible size")
        if need == _WHOLE:
            return whole, whole
        if need > whole:
            raise WireError("a packet too short for its type")
        if kind == Packet.WRITE and have >= need:
            handle = int.from_bytes(data[at + 9 : at + 13], "big")
            need += handle + PLACE.size
            if handle > HANDLE_LIMIT or need > whole:
                raise WireError("a write without a handle and a place")
        return need, whole

    def _begin(self, head: bytes, whole: int) -> None:
        if self._first:
            self._kinds, self._first = self._later, 0
        self._skip = whole - len(head)
        self._act(head[4], head)
