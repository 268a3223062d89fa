"""What both canary drivers share: how canaries may cross on a target, and what a driver knows of what it sent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Style:
    """What a target's levels promise to hide, beyond rows; its `settings` say so."""

    name: str
    settings: dict[str, object] = field(default_factory=dict)
    bind: bool = False  # canaries may be bound as parameters
    literal: bool = False  # canaries may stand in the text
    quote: bool = False  # messages of errors may quote them


MASKED: dict[str, object] = {"mask_errors": True}
STYLES = (
    Style("open"),
    Style("masked", MASKED, quote=True),
    Style("types", {"parameters": "types", **MASKED}, bind=True, quote=True),
    Style("hashes", {"parameters": "hash", **MASKED}, bind=True, quote=True),
    Style("unbound", {"parameters": "off", **MASKED}, bind=True, quote=True),
    Style("literals", {"statements": "literals-masked", "parameters": "off"}, bind=True, literal=True, quote=True),
    Style("shapes", {"statements": "fingerprint", "parameters": "hash"}, bind=True, literal=True, quote=True),
    Style("silent", {"statements": "off", "parameters": "types"}, bind=True, literal=True, quote=True),
)  # fmt: skip


@dataclass
class Sent:
    """A statement as its driver knows it: what the recording must say of it."""

    how: str
    text: str
    rows: int | None = None
    code: str = ""
    message: str = ""
    outcome: str = ""


@dataclass
class Log:
    """What a driver sent, in order, and by which ways canaries came to it."""

    sent: list[Sent] = field(default_factory=list)
    ways: Counter[str] = field(default_factory=Counter)

    def saw(self, way: str, *data: bytes | bytearray | memoryview | str | None) -> None:
        """Count the canaries in what came by a way; words are counted, they are in nearly all."""
        for one in data:
            if one:
                raw = one.encode() if isinstance(one, str) else bytes(one)
                self.ways[way] += raw.count(b"cny")
