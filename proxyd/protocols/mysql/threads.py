"""Connection numbers: what we told a client in the greeting, and what its target counts.

Rule 1: a KILL that names a number of ours is sent with the target's: that is how every client cancels a statement.
Rule 2: only numbers of the same user's sessions on the same target are translated; others mean nothing to the target.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.protocols.mysql.wire import HEADER, Command, Whole, packet, uint32_at

if TYPE_CHECKING:
    from proxyd.session import Session

FIRST: Final = 1 << 30  # no target counts that far, and drivers that keep it in a signed int still can
COUNT: Final = 1 << 30
LONGEST_KILL: Final = 64  # bytes; what clients send has some twenty

_KILL: Final = re.compile(
    rb"(\s*kill\s+(?:hard\s+|soft\s+)?(?:connection\s+|query\s+)?)(\d{10})(\s*;?\s*)", re.IGNORECASE
)


class _Live(NamedTuple):
    user: str
    target: str
    theirs: int


class Threads:
    """The connections that live, by our number."""

    def __init__(self) -> None:
        self._last = 0
        self._live: dict[int, _Live] = {}

    def new(self) -> int:
        """Give a connection its number."""
        self._last = (self._last + 1) % COUNT
        return FIRST + self._last

    def began(self, ours: int, session: Session, theirs: int) -> None:
        """Remember what the target calls a connection."""
        self._live[ours] = _Live(session.user, session.target, theirs)

    def ended(self, ours: int) -> None:
        """Forget a connection."""
        self._live.pop(ours, None)

    def translated(self, item: Whole, session: Session) -> Whole:
        """Give a command as the target must get it (rule 1)."""
        if item.code == Command.PROCESS_KILL and len(item.payload) >= 5:
            theirs = self._theirs(int(uint32_at(item.payload, 1)[0]), session)
            return (
                item if theirs is None else _rewritten(item, item.payload[:1] + theirs.to_bytes(4, "little"))
            )
        if len(item.payload) > LONGEST_KILL or (match := _KILL.fullmatch(item.payload, 1)) is None:
            return item
        theirs = self._theirs(int(match[2]), session)
        if theirs is None:
            return item
        return _rewritten(item, item.payload[:1] + match[1] + b"%d" % theirs + match[3])

    def _theirs(self, ours: int, session: Session) -> int | None:
        found = self._live.get(ours)
        if found is None or (found.user, found.target) != (session.user, session.target):
            return None
        return found.theirs


def _rewritten(item: Whole, payload: bytes) -> Whole:
    return Whole(item.code, payload, packet(item.raw[HEADER - 1], payload), item.sequence)
