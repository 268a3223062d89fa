"""What the watches tell: one event for each file operation, and findings for what an auditor should look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

TEXT_KEPT = 4096
"""Bytes of a path that go to an event: PATH_MAX of Linux."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One file operation: `path` at the target, `size` in bytes that passed, `result` "ok" or what was answered.

    `to`: the second path (rename: the new name; symlink, link: what the new name at `path` points to; copy: where to).
    `name`: what an SCP sender calls the file. `why`: why there is no hash. `expected`: the size announced, in bytes.
    """

    protocol: str
    operation: str
    path: str
    size: int = 0
    sha256: str | None = None
    result: str = "ok"
    to: str = ""
    name: str = ""
    detail: str = ""
    why: str = ""
    expected: int | None = None
    truncated: bool = False
    appended: bool = False

    def as_map(self) -> dict[str, Any]:
        """Give the body of the TRANSFER record; fields that say nothing are left out, `sha256` never."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        always = ("protocol", "operation", "path", "size", "sha256", "result")
        return {key: value for key, value in told.items() if key in always or value not in ("", None, False)}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something an auditor should look at; `text` holds no byte of the wire."""

    code: str
    severity: str
    text: str

    def as_map(self) -> dict[str, Any]:
        """Give the body of the FINDING record."""
        return {"code": self.code, "severity": self.severity, "text": self.text}


Event = Transfer | Finding
Emit = Callable[[Event], None]


def shown(text: bytes) -> str:
    """Give a path or a message for an event: at most TEXT_KEPT bytes, what is not UTF-8 escaped."""
    cut = text[:TEXT_KEPT].decode("utf-8", "backslashreplace")
    return cut if len(text) <= TEXT_KEPT else cut + "…"
