"""SFTP beside the relay: packets of both directions become one event per file and per change (filexfer-02, OpenSSH).

Rule 1: nothing is kept of a body, and of a packet only what its event needs; what may wait is bounded by count and size.
Rule 2: a request is told with the target's answer to it. An id in use twice, an answer nobody asked for or of the wrong
        type is not SFTP: with those, a client could have one operation's answer told as another's.
Rule 3: a client may guess a handle and write before it has been told it; that body is counted, but has no hash.
Rule 4: over a limit an operation is told at once, as "unanswered", never left out.

Version 3; 4 to 6 differ here only in OPEN's flags and in LINK.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from proxyd.digest import Body, Deliver
from proxyd.events import Emit, Transfer, shown
from proxyd.protocols.ssh.sftp_packets import (
    ANSWERS,
    FROM_CLIENT,
    FROM_TARGET,
    HANDLE_LIMIT,
    HEAD_ID,
    PLACE,
    QUIET_EXTENSIONS,
    Packet,
    Packets,
    attributes,
    result,
)
from proxyd.protocols.ssh.watch import StreamWatch
from proxyd.protocols.ssh.wire import Reader, WireError

PENDING = 16384
"""Requests that may wait for their answer: paramiko asks for a whole file at once, this is 512 MiB of it."""

TOLD_PENDING = 256
"""Of those, the ones that hold paths (8 KiB each at most); asyncssh runs 128 side by side."""

OPEN_FILES = 1024
"""Files open at once in one stream: the usual limit of open descriptors of the server."""

_WRITE, _APPEND, _TRUNCATE = 2, 4, 16  # filexfer-02, 6.3
_V5_WRITES = 0x2 | 0x4  # ACE4_WRITE_DATA, ACE4_APPEND_DATA (filexfer-13, 8.1.1.2)
_V5_APPEND = 0x8 | 0x10
_V5_TRUNCATES = (1, 4)  # CREATE_TRUNCATE, TRUNCATE_EXISTING

_EOF = 1  # status code: the file has no more
_UNKNOWN = "(unknown)"


@dataclass(slots=True)
class File:
    """A file between OPEN and CLOSE."""

    told: Transfer
    writes: bool
    guessed: bool = False  # used before the target has named it
    failed: str = ""
    resized: int | None = None
    got: Body | None = None
    put: Body | None = None
    moved: int = 0  # blocks the target has taken or given


class Request(NamedTuple):
    """A request that waits for its answer; `told` is the event it makes, but for the result."""

    kind: int
    file: File | None = None
    offset: int = 0
    told: Transfer | None = None


class SftpWatch(StreamWatch):
    """Tells the files and changes of one SFTP stream; `lookups` counts what is only looked at."""

    code = "sftp"

    def __init__(self, emit: Emit, deliver: Deliver) -> None:
        super().__init__(emit, deliver)
        self.lookups = 0
        self._version = 3
        self._from_client = Packets(Packet.INIT, FROM_CLIENT, self._request)
        self._from_target = Packets(Packet.VERSION, FROM_TARGET, self._answer)
        self._pending: dict[int, Request] = {}
        self._told_pending = 0
        self._untracked = 0
        self._files: dict[bytes, File] = {}
        self._stray: File | None = None  # what passed for handles beyond OPEN_FILES that nobody was told
        self._overflow: Body | None = None  # whose reads were not tracked

    def _client(self, data: bytes) -> None:
        self._from_client.feed(data)

    def _target(self, data: bytes) -> None:
        self._from_target.feed(data)

    def _held(self) -> tuple[bytes, bytes]:
        return self._from_client.held(), self._from_target.held()

    # client -> target

    def _request(self, kind: int, head: bytes) -> None:
        if kind == Packet.WRITE:
            self._write(head)
        elif kind == Packet.READ:
            self._read(head)
        elif kind != Packet.INIT:
            reader = Reader(head)
            reader.take(5)
            request_id = reader.uint32()
            self._track(request_id, self._describe(kind, reader))

    def _describe(self, kind: int, reader: Reader) -> Request:
        match kind:
            case Packet.OPEN:
                return self._open(reader)
            case Packet.CLOSE:
                file = self._files.pop(reader.string(), None)
                return Request(kind, file)
            case Packet.SETSTAT:
                return _told(kind, "setstat", reader.string(), detail=attributes(reader, self._version)[0])
            case Packet.FSETSTAT:
                return self._fsetstat(kind, reader)
            case Packet.REMOVE | Packet.MKDIR | Packet.RMDIR:
                return _told(kind, Packet(kind).name.lower(), reader.string())
            case Packet.RENAME:
                return _told(kind, "rename", reader.string(), reader.string())
            case Packet.SYMLINK:  # OpenSSH, and all who follow it, send what it points to first
                to = reader.string()
                return _told(kind, "symlink", reader.string(), to)
            case Packet.LINK:
                path, to = reader.string(), reader.string()
                return _told(kind, "symlink" if reader.boolean() else "link", path, to)
            case Packet.EXTENDED:
                return self._extended(reader)
            case _:
                self.lookups += 1
                return Request(kind)

    def _open(self, reader: Reader) -> Request:
        path, access = shown(reader.string()), reader.uint32()
        if self._version >= 5:
            flags = reader.uint32()
            writes, appended = bool(access & _V5_WRITES), bool(flags & _V5_APPEND)
            truncated = flags & 7 in _V5_TRUNCATES
        else:
            writes, appended = bool(access & (_WRITE | _APPEND)), bool(access & _APPEND)
            truncated = bool(access & _TRUNCATE)
        told = Transfer("sftp", "put" if writes else "get", path, truncated=truncated, appended=appended)
        return Request(Packet.OPEN, File(told, writes), 0, told)

    def _fsetstat(self, kind: int, reader: Reader) -> Request:
        file = self._files.get(reader.string())
        detail, size = attributes(reader, self._version)
        if file is not None and size is not None:
            file.resized = size
        path = file.told.path if file is not None else _UNKNOWN
        return Request(kind, told=Transfer("sftp", "setstat", path, detail=detail))

    def _extended(self, reader: Reader) -> Request:
        name = reader.string()
        match name:
            case b"posix-rename@openssh.com":
                return _told(Packet.EXTENDED, "rename", reader.string(), reader.string())
            case b"hardlink@openssh.com":
                to = reader.string()
                return _told(Packet.EXTENDED, "link", reader.string(), to)
            case b"lsetstat@openssh.com":
                return _told(
                    Packet.EXTENDED, "setstat", reader.string(), detail=attributes(reader, self._version)[0]
                )
            case b"copy-data":
                return self._copy_data(reader)
            case b"copy-file":
                return _told(Packet.EXTENDED, "copy", reader.string(), reader.string())
            case _ if name in QUIET_EXTENSIONS:
                self.lookups += 1
                return Request(Packet.EXTENDED)
            case _:
                return Request(
                    Packet.EXTENDED, told=Transfer("sftp", "extended", "", detail=shown(name[:HANDLE_LIMIT]))
                )

    def _copy_data(self, reader: Reader) -> Request:
        """Tell a copy made at the target (draft-ietf-secsh-filexfer-extensions-00, 7): no byte of it passes here."""
        source, offset, size = self._files.get(reader.string()), reader.uint64(), reader.uint64()
        target = self._files.get(reader.string())
        if target is not None:
            self._body(target, put=True).lose("copied at the target")
        paths = [file.told.path if file is not None else _UNKNOWN for file in (source, target)]
        detail = f"{size or 'all'} bytes from offset {offset}"
        return Request(Packet.EXTENDED, told=Transfer("sftp", "copy", paths[0], to=paths[1], detail=detail))

    def _write(self, head: bytes) -> None:
        request_id, handle_size = HEAD_ID.unpack_from(head, 5)
        file = self._file(head[13 : 13 + handle_size], writes=True)
        offset, size = PLACE.unpack_from(head, 13 + handle_size)
        body = self._body(file, put=True)
        if file.told.appended:
            body.lose("appended")
        body.begin(offset)
        self._track(request_id, Request(Packet.WRITE, file))
        self._from_client.body(size, body)

    def _read(self, head: bytes) -> None:
        if len(head) < 25:
            raise WireError("a read without a handle and a place")
        request_id, handle_size = HEAD_ID.unpack_from(head, 5)
        if handle_size > HANDLE_LIMIT or len(head) < 25 + handle_size:
            raise WireError("a read without a handle and a place")
        file = self._file(head[13 : 13 + handle_size], writes=False)
        offset, _ = PLACE.unpack_from(head, 13 + handle_size)
        if file.got is None:
            self._body(file, put=False)
        self._track(request_id, Request(Packet.READ, file, offset))

    def _file(self, handle: bytes, *, writes: bool) -> File:
        file = self._files.get(handle)
        if file is None and len(self._files) >= OPEN_FILES:
            file = self._stray
        if file is None:
            file = File(Transfer("sftp", "put" if writes else "get", _UNKNOWN), writes, guessed=True)
            if len(self._files) < OPEN_FILES:
                self._files[handle] = file
            else:
                self._stray = file
        return file

    def _body(self, file: File, *, put: bool) -> Body:
        body = file.put if put else file.got
        if body is None:
            body = Body(self._deliver, self._room)
            if put:
                file.put = body
            else:
                file.got = body
        return body

    def _track(self, request_id: int, request: Request) -> None:
        if request_id in self._pending:
            raise WireError("a request id that is still in use")
        told = request.told is not None or (request.kind == Packet.CLOSE and request.file is not None)
        if len(self._pending) >= PENDING or (told and self._told_pending >= TOLD_PENDING):
            self._untracked += 1
            if request.kind == Packet.READ and request.file is not None:
                self._overflow = self._body(request.file, put=False)
                self._overflow.lose("too many requests in flight")
            else:
                self._finish(request, "unanswered")
            return
        self._told_pending += told
        self._pending[request_id] = request

    # target -> client

    def _answer(self, kind: int, head: bytes) -> None:
        request_id, value = HEAD_ID.unpack_from(head, 5) if len(head) >= 13 else (_id(head), 0)
        if kind == Packet.VERSION:
            self._version = request_id
            return
        request = self._pending.pop(request_id, None)
        if request is None:
            if not self._untracked:
                raise WireError("an answer to no request")
            self._untracked -= 1
            if kind == Packet.DATA:
                self._from_target.body(value, self._overflow)
            return
        if request.told is not None or (request.kind == Packet.CLOSE and request.file is not None):
            self._told_pending -= 1
        if kind == Packet.STATUS:
            self._finish(request, result(value), code=value)
        elif kind == Packet.DATA and request.kind == Packet.READ and request.file is not None:
            self._data(request.file, request.offset, value)
        elif kind == Packet.HANDLE and request.kind == Packet.OPEN and request.file is not None:
            self._opened(request.file, head)
        elif kind not in ANSWERS[request.kind]:
            raise WireError("an answer of the wrong type")
        elif request.told is not None:
            self._finish(request, "ok")

    def _data(self, file: File, offset: int, size: int) -> None:
        body = self._body(file, put=False)
        body.begin(offset)
        file.moved += 1
        self._from_target.body(size, body)

    def _opened(self, file: File, head: bytes) -> None:
        reader = Reader(head)
        reader.take(9)
        handle = reader.string()
        early = self._files.pop(handle, None)
        if early is not None and early.guessed:
            for body in (early.put, early.got):
                if body is not None:
                    body.lose("used before its opening was answered")
            file.put, file.got, file.failed = early.put, early.got, early.failed
        elif early is not None:
            self._closed(early, "incomplete")
        if len(handle) > HANDLE_LIMIT or len(self._files) >= OPEN_FILES:
            self.emit(replace(file.told, result="unanswered", why="too many files open"))
        else:
            self._files[handle] = file

    def _finish(self, request: Request, said: str, code: int = -1) -> None:
        """Tell what came of a request; `code` is its status, or -1 when there was no answer."""
        file = request.file
        if request.kind == Packet.WRITE and file is not None:
            file.moved += code == 0
            file.failed = file.failed or ("" if code == 0 else said)
        elif request.kind == Packet.READ and file is not None:
            file.failed = file.failed or ("" if code in (0, _EOF) else said)
        elif request.kind == Packet.CLOSE and file is not None:
            self._closed(file, said)
        elif request.told is not None:
            self.emit(replace(request.told, result=said))

    def _closed(self, file: File, said: str) -> None:
        put, got = file.put, file.got
        if file.guessed and not file.moved:  # the target refused a handle it never gave
            for body in (put, got):
                if body is not None:
                    body.lose("refused")
            return
        operation = file.told.operation
        if put is not None and got is not None:
            operation = "get+put" if got.size else operation
            put.size += got.size
            for body in (put, got):
                body.lose("read and written")
        elif got is not None:
            operation = "get"
        body = put or got or self._untouched(file)
        if file.resized is not None and file.resized != body.size:
            body.lose(f"size set to {file.resized}")
        if file.guessed:
            body.lose("handle not known")
        if said not in ("ok", "unanswered"):
            body.lose("not closed")
        self._tell(
            replace(file.told, operation=operation, result=file.failed or said if said == "ok" else said),
            body,
        )

    def _untouched(self, file: File) -> Body:
        body = Body(self._deliver, self._room)
        if not (file.writes and file.told.truncated):
            body.lose("not written" if file.writes else "not read")
        return body

    def _unfinished(self) -> None:
        pending, self._pending = list(self._pending.values()), {}
        for request in pending:
            self._finish(request, "incomplete")
        files, self._files = list(self._files.values()), {}
        for file in files if self._stray is None else [*files, self._stray]:
            self._closed(file, "incomplete")


def _id(head: bytes) -> int:
    return int.from_bytes(head[5:9], "big")


def _told(kind: int, operation: str, path: bytes, to: bytes = b"", detail: str = "") -> Request:
    return Request(kind, None, 0, Transfer("sftp", operation, shown(path), to=shown(to), detail=detail))
