"""SCP beside the relay: the rcp protocol of `scp -t` and `scp -f`, told as one event per file and directory made.

Rule 1: the sender's stream is lines (C file, D directory, E its end, T times) and bodies of announced size, each ended
        by a status; the receiver's is statuses: a zero byte, or 1 or 2 and a line of text.
Rule 2: what the receiver's status answers is known by counting, so a refused file's body is never taken for lines.
        A sender that did not wait for the answer, and was refused, is no longer understood: the watch breaks.
Rule 3: nothing is kept of a body; lines, depth and unanswered statuses are bounded.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from proxyd.digest import Body, Deliver
from proxyd.events import Emit, Transfer, shown
from proxyd.protocols.ssh.watch import StreamWatch
from proxyd.protocols.ssh.wire import WireError

LINE_LIMIT = 8192
"""Bytes of a line or a status text: OpenSSH reads 2 KiB, and names may come escaped."""

DEPTH_LIMIT = 2048
"""Directories inside each other: PATH_MAX has room for as many."""

PATH_LIMIT = 64 * 1024
"""Bytes of the names of those directories together."""

UNANSWERED_LIMIT = 1024
"""Statuses a sender may run ahead of; OpenSSH waits for each, some libraries wait for none of a file's three."""

UNASKED_LIMIT = 64
"""Error texts beyond what was asked for: OpenSSH's receiver sends two for one file when its times can't be set."""

_ENTRY = re.compile(rb"([CD])[0-7]{4} ([0-9]{1,18}) ([^\n]+)", re.DOTALL)
_TIMES = re.compile(rb"T-?[0-9]{1,20} [0-9]{1,6} -?[0-9]{1,20} [0-9]{1,6}")
_FLAGS = frozenset(b"rpdvqtfBC1246")
_GLOB = re.compile(rb"[*?\[{]")
_HERE = frozenset({b"", b".", b"..", b"~"})


@dataclass(frozen=True, slots=True)
class ScpCommand:
    """What `scp -t` or `scp -f` was asked for; `sink`: the target receives."""

    sink: bool
    paths: tuple[bytes, ...]
    recursive: bool = False
    directory: bool = False


def scp_command(arguments: list[bytes]) -> ScpCommand | None:
    """Parse the arguments of OpenSSH's own `scp` at the server's end; None when they are not that."""
    flags = b""
    paths = list(arguments)
    while paths and paths[0].startswith(b"-") and paths[0] != b"-":
        flag = paths.pop(0)
        if flag == b"--":
            break
        flags += flag[1:]
    if not set(flags) <= _FLAGS or (b"t" in flags) == (b"f" in flags) or not paths:
        return None
    sink = b"t" in flags
    if sink and len(paths) != 1:
        return None
    return ScpCommand(sink, tuple(paths), b"r" in flags, b"d" in flags)


@dataclass(slots=True)
class _File:
    """A file under way; `told` lacks only the body's size and hash."""

    path: bytes
    name: bytes
    size: int
    body: Body
    begun: bool = False  # a byte after its line has passed
    trouble: str = ""


class _Asked(NamedTuple):
    """What a status will answer."""

    what: str  # "ready", "times", "file", "body", "directory", "end"
    file: _File | None = None
    directory: tuple[bytes, bytes] = (b"", b"")  # path and name
    depth: int = 0


class ScpWatch(StreamWatch):
    """Tells the files of one scp stream."""

    code = "scp"

    def __init__(self, command: ScpCommand, emit: Emit, deliver: Deliver) -> None:
        super().__init__(emit, deliver)
        self._command = command
        self._operation = "put" if command.sink else "get"
        self._asked: deque[_Asked] = deque([_Asked("ready")])
        self._unasked = 0
        self._line = bytearray()  # of the sender, in part; the first _line_came bytes came in earlier calls
        self._line_came = 0
        self._text = bytearray()  # of the receiver, in part
        self._text_came = 0
        self._left = 0
        self._file: _File | None = None
        self._directories: list[bytes] = []
        self._path_bytes = 0

    def _client(self, data: bytes) -> None:
        if self._command.sink:
            self._sent(data)
        else:
            self._answered(data)

    def _target(self, data: bytes) -> None:
        if self._command.sink:
            self._answered(data)
        else:
            self._sent(data)

    def _held(self) -> tuple[bytes, bytes]:
        held = bytes(self._line[: self._line_came]), bytes(self._text[: self._text_came])
        return held if self._command.sink else held[::-1]

    # the sender

    def _sent(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end:
            file = self._file
            if file is not None:
                file.begun = True
            if file is not None and self._left:
                taken = min(self._left, end - at)
                self._left -= taken
                if taken == end:
                    file.body.piece(data)
                elif taken * 2 < end:  # a small slice must not keep the whole payload alive
                    file.body.piece(data[at : at + taken])
                else:
                    file.body.piece(memoryview(data)[at : at + taken])
                at += taken
            elif file is not None and not self._line and data[at] == 0:
                self._body_sent(file, "")
                at += 1
            else:
                at = self._take_line(data, at, end)
        self._line_came = len(self._line)

    def _take_line(self, data: bytes, at: int, end: int) -> int:
        stop = data.find(b"\n", at, end)
        upto = end if stop < 0 else stop
        self._line += data[at : min(upto, at + LINE_LIMIT + 1)]
        if len(self._line) > LINE_LIMIT:
            raise WireError("a line that does not end")
        self._check_first(self._line)
        if stop < 0:
            return end
        line = bytes(self._line)
        self._line.clear()
        self._line_came = 0
        self._sent_line(line)
        return stop + 1

    def _check_first(self, line: bytearray) -> None:
        """Break at the first wrong byte, not at the end of a line that may never come."""
        wanted = b"\1\2" if self._file is not None else b"CDET\1\2"
        if line[:1] not in wanted:
            raise WireError("a line of no known kind")

    def _sent_line(self, line: bytes) -> None:
        if line[:1] in b"\1\2":
            self._trouble(line)
        elif line == b"E":
            if not self._directories:
                raise WireError("the end of a directory that was not begun")
            self._path_bytes -= len(self._directories.pop())
            self._ask(_Asked("end"))
        elif line[:1] == b"T":
            if _TIMES.fullmatch(line) is None:
                raise WireError("times that are none")
            self._ask(_Asked("times"))
        else:
            self._entry(line)

    def _trouble(self, line: bytes) -> None:
        """Take a sender's error: after a body it is that body's, otherwise a file's that could not be read."""
        text = _said(line[1:])
        if self._file is not None:
            self._body_sent(self._file, text)
            return
        path = self._command.paths[0] if len(self._command.paths) == 1 else b""
        self.emit(Transfer("scp", self._operation, shown(path), result=text))

    def _entry(self, line: bytes) -> None:
        match = _ENTRY.fullmatch(line)
        if match is None:
            raise WireError("a file or directory that is not described")
        kind, size, name = match.groups()
        path, whole_name = self._place(name)
        if kind == b"C":
            self._file = _File(path, whole_name, int(size), Body(self._deliver, self._room))
            self._left = int(size)
            self._ask(_Asked("file", self._file))
            return
        if not self._command.recursive:
            raise WireError("a directory that was not asked for")
        self._directories.append(name)
        self._path_bytes += len(name)
        if len(self._directories) > DEPTH_LIMIT or self._path_bytes > PATH_LIMIT:
            raise WireError("directories too deep")
        self._ask(_Asked("directory", None, (path, whole_name), len(self._directories)))

    def _place(self, name: bytes) -> tuple[bytes, bytes]:
        """Give where the entry is at the target, as far as it shows, and its name as sent.

        A sink's path may be a directory or the new name itself, which only the target knows: without a hint it is
        given as asked for, beside the name.
        """
        names = [*self._directories, name]
        first, inner = names[0], names[1:]
        base = self._base(first)
        return b"/".join([base, *inner]), b"/".join(names)

    def _base(self, name: bytes) -> bytes:
        paths = self._command.paths
        if not self._command.sink:
            for path in paths:
                if path.rstrip(b"/").rpartition(b"/")[2] == name:
                    return path.rstrip(b"/") or path
            return paths[0] if len(paths) == 1 and not _GLOB.search(paths[0]) else self._globbed(name)
        path = paths[0]
        last = path.rpartition(b"/")[2]
        into = (self._command.directory or last in _HERE) and last != name
        return path.rstrip(b"/") + b"/" + name if into else path

    def _globbed(self, name: bytes) -> bytes:
        """Place a name a pattern stood for: beside the pattern, where there is only one."""
        if len(self._command.paths) > 1:
            return name
        folder, slash, _ = self._command.paths[0].rpartition(b"/")
        return folder + slash + name

    def _body_sent(self, file: _File, trouble: str) -> None:
        file.trouble = trouble
        self._file = None
        self._ask(_Asked("body", file))

    def _ask(self, asked: _Asked) -> None:
        if len(self._asked) >= UNANSWERED_LIMIT:
            raise WireError("too much that nobody answers")
        self._asked.append(asked)

    # the receiver

    def _answered(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end:
            if not self._text and data[at] == 0:
                self._take_status("")
                at += 1
                continue
            if not self._text and data[at] > 2:
                raise WireError("a status of no known kind")
            stop = data.find(b"\n", at, end)
            upto = end if stop < 0 else stop
            self._text += data[at : min(upto, at + LINE_LIMIT + 1)]
            if len(self._text) > LINE_LIMIT:
                raise WireError("a status text that does not end")
            if stop < 0:
                break
            text = _said(bytes(self._text[1:]))
            self._text.clear()
            self._text_came = 0
            at = stop + 1
            self._take_status(text)
        self._text_came = len(self._text)

    def _take_status(self, trouble: str) -> None:
        if not self._asked:
            self._unasked += 1
            if not trouble or self._unasked > UNASKED_LIMIT:
                raise WireError("a status nobody asked for")
            return
        asked = self._asked.popleft()
        if asked.what == "file" and asked.file is not None and trouble:
            self._refused(asked.file, trouble)
        elif asked.what == "body" and asked.file is not None:
            self._done(asked.file, asked.file.trouble or trouble or "ok")
        elif asked.what == "directory":
            self._directory(asked, trouble)

    def _refused(self, file: _File, trouble: str) -> None:
        file.body.lose("refused")
        self._done(file, trouble)
        if file is not self._file or file.begun:
            self._file = None
            raise WireError("bytes of a file that was refused")
        self._file, self._left = None, 0

    def _directory(self, asked: _Asked, trouble: str) -> None:
        path, name = asked.directory
        if self._command.sink:
            self.emit(Transfer("scp", "mkdir", shown(path), name=shown(name), result=trouble or "ok"))
        if not trouble:
            return
        if len(self._directories) != asked.depth or self._asked or self._file is not None or self._line:
            raise WireError("entries of a directory that was refused")
        self._path_bytes -= len(self._directories.pop())

    def _done(self, file: _File, said: str) -> None:
        complete = file.body.size == file.size
        if not complete:
            file.body.lose("incomplete" if said == "incomplete" else "not sent")
        told = Transfer("scp", self._operation, shown(file.path), name=shown(file.name), result=said)
        if not complete:
            told = Transfer(
                told.protocol, told.operation, told.path, name=told.name, result=said, expected=file.size
            )
        self._tell(told, file.body)

    def _unfinished(self) -> None:
        asked, self._asked = list(self._asked), deque()
        waiting = {id(item.file): item.file for item in asked if item.file is not None}
        if self._file is not None:
            waiting.setdefault(id(self._file), self._file)
            self._file = None
        for item in asked:
            if item.what == "directory" and self._command.sink:
                path, name = item.directory
                self.emit(Transfer("scp", "mkdir", shown(path), name=shown(name), result="incomplete"))
        for file in waiting.values():
            self._done(file, "incomplete")


def _said(text: bytes) -> str:
    return shown(text.strip()) or "failed"
