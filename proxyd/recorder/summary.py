"""What the list of sessions says of a recording beside its size: its findings, and which channels were opened in it.

Rule 1: it is bounded, whatever a session does; what is beyond the bounds is in the recording.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from proxyd.recorder.record import Kind

MAX_FINDINGS: Final = 1000  # some 200 bytes each
MAX_CHANNELS: Final = 32  # types of them; SSH has a dozen, the RDP ones that pass are listed
COUNTED: Final = frozenset({Kind.FINDING, Kind.CHANNEL})


class Finding(NamedTuple):
    """One finding (mission M11), `at_us` microseconds after the session began; `text` is a sentence of ours."""

    at_us: int
    code: str
    severity: str
    text: str


class Summary:
    """What was found in a session, and opened, so far; `count`: FINDING records, also those beyond the bound."""

    __slots__ = ("channels", "count", "findings")

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.count = 0
        self.channels: Counter[str] = Counter()

    def take(self, kind: Kind, at_us: int, body: Any) -> None:
        """Learn from a record of a kind in COUNTED, whatever its body is."""
        body = body if isinstance(body, Mapping) else {}
        if kind is Kind.FINDING:
            self.count += 1
            if self.count <= MAX_FINDINGS:
                told = (str(body.get(name, "")) for name in ("code", "severity", "text"))
                self.findings.append(Finding(at_us, *told))
        elif body.get("event") == "open":
            name = str(body.get("type", ""))
            if name in self.channels or len(self.channels) < MAX_CHANNELS:
                self.channels[name] += 1
