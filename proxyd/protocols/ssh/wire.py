"""SSH messages as the tape tells them: channel requests, channel opens, global requests, file transfers' names.

Sans-IO: bytes in, values out. Everything here parses what a stranger sent: it raises WireError and nothing else.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from proxyd import characters

_COOKIE = re.compile(rb"[0-9A-Fa-f]{0,64}")
"""The cookie of `x11-req` is hex, 32 digits of it; anything else is somebody's message, and no secret of the display."""

_NO_MODES = (b"", b"\0")
_RESERVED = (b"", b"\0\0\0\0", bytes(8))  # of streamlocal opens: an empty string, and a zero


MAX_SAID = 200
"""Characters of what a peer says that are passed on to people."""


class WireError(ValueError):
    """The message is not what its name says."""


class Reader:
    """Read SSH data types (RFC 4251, 5) from a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """Give the next `count` bytes; raises WireError when there are fewer."""
        end = self._at + count
        if end > len(self._data):
            raise WireError("message ends early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def uint32(self) -> int:
        """Read a uint32."""
        return int.from_bytes(self.take(4), "big")

    def uint64(self) -> int:
        """Read a uint64."""
        return int.from_bytes(self.take(8), "big")

    def boolean(self) -> bool:
        """Read a boolean."""
        return self.take(1) != b"\0"

    def string(self) -> bytes:
        """Read a string."""
        return self.take(self.uint32())

    def text(self) -> str:
        """Read a string as text; what is not UTF-8 is shown escaped."""
        return self.string().decode("utf-8", "backslashreplace")

    def left(self) -> int:
        """Count what is left."""
        return len(self._data) - self._at

    def rest(self) -> bytes:
        """Give what is left."""
        return self.take(self.left())


def string(value: bytes) -> bytes:
    """Pack a string (RFC 4251, 5)."""
    return struct.pack(">I", len(value)) + value


def uint32(value: int) -> bytes:
    """Pack a uint32."""
    return struct.pack(">I", value)


def printable(text: str) -> str:
    """Give what a peer says fit for a terminal and a log: one line, no escapes, bounded."""
    return characters.printable(text[:MAX_SAID], instead=" ")


@dataclass(frozen=True, slots=True)
class PtyRequest:
    """A `pty-req` (RFC 4254, 6.2): TERM, and the size in characters."""

    term: str
    columns: int
    rows: int


def pty_request(body: bytes) -> PtyRequest:
    """Parse the body of a `pty-req`; raises WireError."""
    reader = Reader(body)
    return PtyRequest(reader.text(), reader.uint32(), reader.uint32())


def window_change(body: bytes) -> tuple[int, int]:
    """Parse the body of a `window-change` (RFC 4254, 6.7) to columns and rows; raises WireError."""
    reader = Reader(body)
    return reader.uint32(), reader.uint32()


class KexInit:
    """The lists of an SSH_MSG_KEXINIT that matter here (RFC 4253, 7.1); raises WireError."""

    def __init__(self, payload: bytes) -> None:
        reader = Reader(payload)
        reader.take(1 + 16)  # message number, cookie
        lists = [reader.string().split(b",") for _ in range(10)]
        self.guess_follows = reader.boolean()
        self.kex, self.host_keys, self.ciphers, self.macs = lists[0], lists[1], lists[2], lists[4]
        self.names = frozenset(name for one in lists[:6] for name in one)  # of algorithms but compression


def describe_request(name: str, body: bytes) -> dict[str, Any]:
    """Give the fields of a channel request (RFC 4254, 6) that belong on the tape; raises WireError.

    What no field names is in `rest`: nothing passes unseen, but the cookie of `x11-req`, the key to a display.
    """
    reader = Reader(body)
    fields = _request_fields(name, reader)
    if rest := reader.rest():
        fields["rest"] = rest
    return fields


def _request_fields(name: str, reader: Reader) -> dict[str, Any]:
    match name:
        case "pty-req":
            fields = {"term": reader.text(), "columns": reader.uint32(), "rows": reader.uint32()}
            reader.take(8)  # the size in pixels
            modes = reader.string()
            return fields if modes in _NO_MODES else {**fields, "modes": modes}
        case "exec":
            return {"command": reader.string()}
        case "subsystem":
            return {"subsystem": reader.text()}
        case "env":
            return {"variable": reader.text(), "value": reader.text()}
        case "signal":
            return {"signal": reader.text()}
        case "break":
            return {"milliseconds": reader.uint32()}
        case "exit-status":
            return {"status": reader.uint32()}
        case "exit-signal":
            fields = {"signal": reader.text(), "core_dumped": reader.boolean(), "message": reader.text()}
            if reader.left():
                reader.string()  # the language
            return fields
        case "window-change":
            fields = {"columns": reader.uint32(), "rows": reader.uint32()}
            reader.take(8)  # the size in pixels
            return fields
        case "x11-req":
            reader.boolean()
            return _display(reader.string(), reader.string(), reader.uint32())
        case _:
            return {}


def _display(protocol: bytes, cookie: bytes, screen: int) -> dict[str, Any]:
    fields: dict[str, Any] = {} if protocol == b"MIT-MAGIC-COOKIE-1" else {"protocol": protocol}
    if _COOKIE.fullmatch(cookie) is None:
        fields["cookie"] = cookie
    return {**fields, "screen": screen} if screen else fields


def describe_open(kind: str, body: bytes) -> dict[str, Any]:
    """Give the fields of a channel open (RFC 4254, 6.3 and 7.2; OpenSSH PROTOCOL, 2.4) for the tape.

    What no field names is in `rest`. Raises WireError.
    """
    reader = Reader(body)
    fields = _open_fields(kind, reader)
    rest = reader.rest()
    if rest and not ("path" in fields and rest in _RESERVED):
        fields["rest"] = rest
    return fields


def _open_fields(kind: str, reader: Reader) -> dict[str, Any]:
    match kind:
        case "direct-tcpip" | "forwarded-tcpip":
            return {
                "host": reader.text(),
                "port": reader.uint32(),
                "origin": reader.text(),
                "origin_port": reader.uint32(),
            }
        case "direct-streamlocal@openssh.com" | "forwarded-streamlocal@openssh.com":
            return {"path": reader.text()}
        case "x11":
            return {"origin": reader.text(), "origin_port": reader.uint32()}
        case _:
            return {}


def describe_global(name: str, body: bytes) -> dict[str, Any]:
    """Give the fields of a global request for a forward (RFC 4254, 7.1; OpenSSH PROTOCOL, 2.4); raises WireError."""
    reader = Reader(body)
    match name:
        case "tcpip-forward" | "cancel-tcpip-forward":
            return {"host": reader.text(), "port": reader.uint32()}
        case "streamlocal-forward@openssh.com" | "cancel-streamlocal-forward@openssh.com":
            return {"path": reader.text()}
        case _:
            return {}
