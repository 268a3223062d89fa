"""SSH messages as the tape tells them: channel requests, channel opens, global requests, file transfers' names.

Sans-IO: bytes in, values out. Everything here parses what a stranger sent: it raises WireError and nothing else.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

MAX_STRING = 256 * 1024
"""No string of a request is longer than one packet."""

_SECRET_NAME = re.compile(rb"PASS|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)


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

    def rest(self) -> bytes:
        """Give what is left."""
        return self.take(len(self._data) - self._at)


def string(value: bytes) -> bytes:
    """Pack a string (RFC 4251, 5)."""
    return struct.pack(">I", len(value)) + value


def uint32(value: int) -> bytes:
    """Pack a uint32."""
    return struct.pack(">I", value)


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


def describe_request(name: str, body: bytes) -> dict[str, Any]:
    """Give the fields of a channel request (RFC 4254, 6) that belong on the tape; raises WireError.

    The cookie of `x11-req` and the values of variables whose name says secret are left out.
    """
    reader = Reader(body)
    match name:
        case "pty-req":
            pty = pty_request(body)
            return {"term": pty.term, "columns": pty.columns, "rows": pty.rows}
        case "exec":
            return {"command": reader.string()}
        case "subsystem":
            return {"subsystem": reader.text()}
        case "env":
            variable = reader.string()
            hidden = _SECRET_NAME.search(variable) is not None
            value = "(not recorded)" if hidden else reader.text()
            return {"variable": variable.decode("utf-8", "backslashreplace"), "value": value}
        case "signal":
            return {"signal": reader.text()}
        case "break":
            return {"milliseconds": reader.uint32()}
        case "exit-status":
            return {"status": reader.uint32()}
        case "exit-signal":
            return {"signal": reader.text(), "core_dumped": reader.boolean(), "message": reader.text()}
        case "window-change":
            columns, rows = window_change(body)
            return {"columns": columns, "rows": rows}
        case _:
            return {}


def describe_open(kind: str, body: bytes) -> dict[str, Any]:
    """Give the fields of a channel open (RFC 4254, 7.2; OpenSSH PROTOCOL, 2.4) for the tape; raises WireError."""
    reader = Reader(body)
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
