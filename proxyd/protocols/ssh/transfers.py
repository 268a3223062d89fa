"""Which command of a session moves files, and the watch that tells what it moves.

Rule 1: only a command line that is nothing but the server's end of scp, sftp or rsync gets a watch; one that adds shell
        syntax to it, or names a program of the user's own, is recorded whole and raises a finding.
Rule 2: a stream that turns out not to be what its command says raises a finding, once, and is recorded from there on.
Rule 3: what the target's own scp, sftp-server or rsync really is, nobody can see from here: rule 2 is what is left.

A watch gets what is forwarded, in order, and gives its events to `emit` on the loop's thread, some of them later: a hash
is made beside the loop (`digest.py`). `close` says when the last one is out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from proxyd import host
from proxyd.digest import Deliver
from proxyd.events import Emit, Event, Finding, Transfer, shown
from proxyd.protocols.ssh.scp import ScpWatch, scp_command
from proxyd.protocols.ssh.sftp import SftpWatch
from proxyd.protocols.ssh.watch import StreamWatch
from proxyd.protocols.ssh.wire import WireError

__all__ = [
    "SNIFF_BYTES",
    "Classified",
    "Deliver",
    "Emit",
    "Event",
    "Finding",
    "Kind",
    "RsyncWatch",
    "Transfer",
    "Watch",
    "classify",
    "sniff",
    "watch_for",
]

Kind = Literal["exec", "subsystem"]

SNIFF_BYTES = 8
"""Bytes `sniff` needs to be sure: the longest mark is a banner's "SSH-1.99"."""

COMMAND_LIMIT = 32 * 1024
"""Bytes of a command that is split into words, 15 ms of work; a longer one is recorded whole."""

ARGUMENTS_LIMIT = 64 * 1024
"""Bytes of arguments rsync's client may send before its protocol (`--secluded-args`)."""

RSYNC_VERSIONS = range(20, 100)
"""Protocol versions of rsync that can be: 20 is the oldest it speaks, 32 is today's."""


class Watch(Protocol):
    """Beside the relay of one channel; see `StreamWatch`."""

    broken: bool
    omitted_input: int
    omitted_output: int
    held_input: bytes
    held_output: bytes

    def from_client(self, data: bytes) -> None:
        """Take what is being forwarded to the target."""

    def from_target(self, data: bytes) -> None:
        """Take what is being forwarded to the client, standard error excepted."""

    def close(self, status: int | None = None, settled: Callable[[], None] | None = None) -> None:
        """End the stream; `settled` is called once its last event is out."""


class Classified(NamedTuple):
    """What a command is: a watch for a file transfer, or a finding when it only looks like one, or neither."""

    watch: Watch | None = None
    finding: Finding | None = None


def watch_for(kind: Kind, command: bytes, emit: Emit, deliver: Deliver | None = None) -> Watch | None:
    """Give the watch for an exec or a subsystem, None when it moves no files; a finding goes to `emit`."""
    classified = classify(kind, command, emit, deliver)
    if classified.finding is not None:
        emit(classified.finding)
    return classified.watch


def classify(kind: Kind, command: bytes, emit: Emit, deliver: Deliver | None = None) -> Classified:
    """Tell what an exec or a subsystem is; nothing is emitted here.

    `deliver` calls back on the loop's thread, from any thread: the host loop's own way when it is not given.
    """
    deliver = host.loop().call_soon_threadsafe if deliver is None else deliver
    if kind == "subsystem":
        return Classified(SftpWatch(emit, deliver) if command == b"sftp" else None)
    if _CLAIMS.match(_SUDO.sub(b"", command, count=1)) is None or len(command) > COMMAND_LIMIT:
        return Classified()
    if _PLAIN.fullmatch(command) is None:
        return Classified(None, _PRETENDS)
    words = _unwrapped(_words(command))
    if not words:
        return Classified()
    folder, _, program = words[0].rpartition(b"/")
    watch = _watch(program, words[1:], emit, deliver)
    if watch is not None and not _of_the_system(folder + b"/" if b"/" in words[0] else b""):
        return Classified(None, _OWN_PROGRAM)
    return Classified(watch)


def sniff(first_bytes: bytes) -> str | None:
    """Tell by its first SNIFF_BYTES what runs inside a forward: "ssh", "tls", "rdp" or None.

    RFC 4253, 4.2; RFC 8446, 5.1 (handshake record, ClientHello); RFC 1006 and X.224 (connection request or confirm).
    """
    if first_bytes.startswith((b"SSH-2.0", b"SSH-1.")):
        return "ssh"
    if first_bytes[:2] == b"\x16\x03" and first_bytes[2:3] <= b"\x04" and first_bytes[5:6] == b"\x01":
        return "tls"
    if first_bytes[:2] == b"\x03\x00" and first_bytes[5:6] in (b"\xe0", b"\xd0"):
        return "rdp"
    return None


# ---------------------------------------------------------------------- command lines

_PRETENDS: Final = Finding(
    "pretends-transfer",
    "high",
    "A command looks like a file transfer, but asks the shell for more; it is recorded whole.",
)
_OWN_PROGRAM: Final = Finding(
    "pretends-transfer",
    "medium",
    "A file transfer by a program outside the system's directories is recorded whole.",
)

# What a POSIX shell takes as words only: no list, pipe, redirection, subshell, command or arithmetic substitution, no
# newline even when quoted. `$NAME`, `~` and patterns stay: scp's users rely on them, and they run nothing.
_NAME = rb"\$(?:[A-Za-z_]\w*+|\{[A-Za-z_]\w*+\})"
_PLAIN = re.compile(
    rb"""(?>[^\\'"`$;&|<>()\n\r\0]
        |\\[^\n\r\0]
        |'[^'\n\r\0]*+'
        |"(?>[^"\\`$\n\r\0]|\\[^\n\r\0]|%(name)s)*+"
        |%(name)s)*+"""
    % {b"name": _NAME},
    re.VERBOSE,
)
_SUDO = re.compile(rb"\s*+(?:/usr/bin/)?sudo\s++(?:-u\s++\S++\s++|-\S++\s++)*+")
_CLAIMS = re.compile(
    rb"""\s*+(?:[^\s;&|<>()`$'"]*/)?(?:
        scp(?:\s[^;&|]*)?\s-[rpdvqBC1246]*[tf][rpdvqtfBC1246]*(?:\s|\Z)
        |rsync(?:\s[^;&|]*)?\s--server(?![\w-])
        |sftp-server(?![\w.-]))""",
    re.VERBOSE,
)
_SYSTEM = (b"/bin/", b"/sbin/", b"/usr/", b"/opt/")
_SUDO_ALONE = frozenset({b"-n", b"-E", b"-H", b"-nE", b"-nH"})


def _words(command: bytes) -> list[bytes]:
    """Split as a POSIX shell does; every byte survives, whatever its encoding. A quote left open gives no words."""
    try:
        return [word.encode("latin-1") for word in shlex.split(command.decode("latin-1"))]
    except ValueError:
        return []


def _unwrapped(words: list[bytes]) -> list[bytes]:
    """Leave out a `sudo` in front, as rsync's and WinSCP's users put it; -S would read a password from the stream."""
    if not words or words[0] not in (b"sudo", b"/usr/bin/sudo"):
        return words
    rest = words[1:]
    while rest and rest[0].startswith(b"-"):
        if rest[0] == b"-u":
            rest = rest[2:]
        elif rest[0] in _SUDO_ALONE:
            rest = rest[1:]
        else:
            return rest[1:] if rest[0] == b"--" else words
    return rest


def _of_the_system(folder: bytes) -> bool:
    """Tell whether a program there is the system's, not one the user has put in place."""
    return not folder or (folder.startswith(_SYSTEM) and b"/../" not in folder)


def _watch(program: bytes, arguments: list[bytes], emit: Emit, deliver: Deliver) -> StreamWatch | None:
    if program == b"scp":
        scp = scp_command(arguments)
        return ScpWatch(scp, emit, deliver) if scp is not None else None
    if program == b"rsync":
        rsync = rsync_command(arguments)
        return RsyncWatch(rsync, emit, deliver) if rsync is not None else None
    return SftpWatch(emit, deliver) if program == b"sftp-server" else None


# ---------------------------------------------------------------------- rsync

_VALUED: Final = (
    frozenset(  # options rsync's client sends with their value as the next word (options.c, server_options)
        (
            b"--backup-dir",
            b"--compare-dest",
            b"--copy-dest",
            b"--files-from",
            b"--link-dest",
            b"--max-delete",
            b"--partial-dir",
            b"--temp-dir",
        )
    )
)


@dataclass(frozen=True, slots=True)
class RsyncCommand:
    """What `rsync --server` was asked for; `secluded`: its arguments come on the stream, before the protocol."""

    sender: bool
    paths: tuple[bytes, ...]
    secluded: bool = False


def rsync_command(arguments: list[bytes]) -> RsyncCommand | None:
    """Parse the arguments rsync's client gives its server; None when they are not that, or start a daemon."""
    if arguments[:1] != [b"--server"] or b"--daemon" in arguments:
        return None
    words = iter(arguments[1:])
    sender = secluded = False
    for word in words:
        if not word.startswith(b"-"):
            return RsyncCommand(sender, tuple(words), secluded)  # this one is the dot that ends the options
        sender = sender or word == b"--sender"
        secluded = secluded or word in (b"--secluded-args", b"--protect-args")
        secluded = secluded or (not word.startswith(b"--") and b"s" in word.partition(b"e")[0])
        if word in _VALUED:
            next(words, b"")
    return RsyncCommand(sender, (), secluded)


class RsyncWatch(StreamWatch):
    """Counts one rsync both ways: a Transfer at the end, `size` the bytes in the direction of the files.

    `result` is "ok" when the exit status says so. Only the greeting is checked: 4 bytes, the protocol version, from
    each side, after the client's secluded arguments.
    """

    code = "rsync"

    def __init__(self, command: RsyncCommand, emit: Emit, deliver: Deliver) -> None:
        super().__init__(emit, deliver)
        self._command = command
        self._paths = command.paths
        self._arguments: bytearray | None = bytearray() if command.secluded else None
        self._greetings = {"client": b"", "target": b""}
        self._input = 0
        self._output = 0

    def _client(self, data: bytes) -> None:
        self._input += len(data)
        if self._arguments is not None:
            data = self._secluded(self._arguments, data)
        if len(self._greetings["client"]) < 4:
            self._greet("client", data)

    def _target(self, data: bytes) -> None:
        self._output += len(data)
        if len(self._greetings["target"]) < 4:
            self._greet("target", data)

    def _held(self) -> tuple[bytes, bytes]:
        return bytes(self._arguments or b"") or self._greetings["client"], self._greetings["target"]

    def _secluded(self, arguments: bytearray, data: bytes) -> bytes:
        """Collect the arguments, each ended by a zero, an empty one last; give what follows them."""
        before = len(arguments)
        arguments += data[: ARGUMENTS_LIMIT + 2 - before]
        end = arguments.find(b"\0\0", max(0, before - 1))
        if end < 0:
            if len(arguments) > ARGUMENTS_LIMIT:
                del arguments[before:]
                raise WireError("arguments that do not end")
            return b""
        words = bytes(arguments[:end]).split(b"\0")
        command = rsync_command([b"--server", *words[1:]])
        if command is None:
            del arguments[before:]
            raise WireError("arguments that ask for something else")
        self._paths = command.paths
        self._arguments = None
        return data[end + 2 - before :]

    def _greet(self, side: str, data: bytes) -> None:
        greeting = self._greetings[side] + data[: 4 - len(self._greetings[side])]
        if len(greeting) == 4 and int.from_bytes(greeting, "little") not in RSYNC_VERSIONS:
            raise WireError("a greeting that names no protocol version")
        self._greetings[side] = greeting

    def _unfinished(self) -> None:
        if self._status is None or self.broken:
            result = "incomplete"
        else:
            result = "ok" if self._status == 0 else f"exit status {self._status}"
        self.emit(
            Transfer(
                "rsync",
                "rsync",
                shown(b", ".join(self._paths)),
                size=self._output if self._command.sender else self._input,
                result=result,
                detail="get" if self._command.sender else "put",
                why="not parsed",
            )
        )
