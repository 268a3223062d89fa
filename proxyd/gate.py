"""The gate, which decides whether client input may reach the target now.

Rule 1: the data plane asks `gate.closed`, a plain attribute, before every client message; no await, no lock:
        everything runs on one thread, so what was forwarded before `shut` was forwarded whole.
Rule 2: input that meets a closed gate is recorded as refused and thrown away, never delivered late.
Rule 3: output is not the gate's business; it keeps flowing.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxyd.errors import Denied

REVOKED = "Session interaction revoked"
RESTORED = "Session interaction restored"


@dataclass(frozen=True, slots=True)
class Settled:
    """What `Conduit.settle` found: bytes of client input by what became of them.

    `settled` is False when the target did not confirm in time that it has everything sent before.
    """

    passed_bytes: int
    discarded_bytes: int
    settled: bool


class Gate:
    """Open until an operator or a rule shuts it."""

    __slots__ = ("by", "closed", "reason", "refused_bytes", "refused_requests")

    def __init__(self) -> None:
        self.closed = False
        self.by = ""
        self.reason = ""
        self.refused_bytes = 0
        self.refused_requests = 0

    def shut(self, by: str, reason: str) -> None:
        """Let no client input pass from now on; raises Denied when it is shut already."""
        if self.closed:
            raise Denied(f"The session is blocked already, by {self.by}.")
        self.closed, self.by, self.reason = True, by, reason

    def open(self) -> None:
        """Let client input pass again; raises Denied when it is not shut."""
        if not self.closed:
            raise Denied("The session is not blocked.")
        self.closed, self.by, self.reason = False, "", ""
