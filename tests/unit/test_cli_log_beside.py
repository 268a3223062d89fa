"""How the log of a session shows what crossed beside a desktop's screen."""

from __future__ import annotations

from typing import Any

import pytest

from proxyd.events import Transfer
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.telling import told_by

pytestmark = pytest.mark.mission("M5", "M16")

PASTED = {"direction": "to target", "format": "text", "size": 12, "text": "geheim", "sha256": "ab" * 32}


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        (Kind.CLIPBOARD, PASTED, f"to target, text, 12 B, sha256 {'ab' * 32}: geheim"),
        (
            Kind.CLIPBOARD,
            PASTED | {"cut": True},
            f"to target, text, 12 B, sha256 {'ab' * 32}: geheim (goes on)",
        ),
        (
            Kind.CLIPBOARD,
            PASTED | {"sha256": None, "result": "incomplete"},
            "to target, text, 12 B, incomplete: geheim",
        ),
        (
            Kind.CLIPBOARD,
            {"direction": "to client", "format": "files", "size": 0, "text": "", "result": "denied"},
            "to client, files, denied",
        ),
        (Kind.CHANNEL, {"event": "refused", "type": "drive", "path": "C"}, "refused drive C"),
        (Kind.CHANNEL, {"event": "refused", "type": "rail"}, "refused rail"),
        (
            Kind.TRANSFER,
            Transfer("drive", "rename", r"\\tsclient\C\a", to=r"\\tsclient\C\b").as_map(),
            r"rename  \\tsclient\C\a  to \\tsclient\C\b  ok",
        ),
    ],
)
def test_what_crossed_beside_the_screen(kind: Kind, body: Any, shown: str) -> None:
    told = told_by(Record(1, 0, kind, 0, body))
    assert told is not None
    assert told[1] == shown
