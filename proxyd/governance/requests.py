"""Requests to view a session: who asks, why, for when; who decides, and what becomes of them.

Rule 1: nobody decides on a request of their own; they may only withdraw it.
Rule 2: as many people have to approve as were needed when it was asked, each once; one who denies decides alone.
Rule 3: what a request is, follows from its decisions and the time: nothing else says it, so nothing can disagree.
Rule 4: once it is denied, revoked or expired it stays so; who still wants to see asks anew.
Rule 5: times are seconds since 1970.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from proxyd.errors import Denied

DAY_S = 86_400.0
SLACK_S = 60.0  # a start this long ago is now: clocks differ, and people fill in forms


class RequestRefused(Denied):
    """A request can't be made, or decided, like that; the text says why."""


class Status(StrEnum):
    """What a request is; `TRANSITIONS` says what may follow."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Verdict(StrEnum):
    """What someone decided."""

    APPROVE = "approve"
    DENY = "deny"
    REVOKE = "revoke"


TRANSITIONS: Mapping[Status, frozenset[Verdict]] = {
    Status.PENDING: frozenset({Verdict.APPROVE, Verdict.DENY, Verdict.REVOKE}),
    Status.APPROVED: frozenset({Verdict.REVOKE}),
    Status.DENIED: frozenset(),
    Status.EXPIRED: frozenset(),
    Status.REVOKED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """One person's verdict. `via`: the operator that acted for them."""

    person: str
    verdict: Verdict
    at: float
    comment: str = ""
    via: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A person asks to see a session from `starts_at` to `ends_at` (mission M9); `needed` others have to approve."""

    id: str
    session: str
    person: str
    reason: str
    justification: str
    code: str
    starts_at: float
    ends_at: float
    asked_at: float
    needed: int = 1
    via: str = ""
    decisions: Sequence[Decision] = field(default=())

    def status(self, now: float) -> Status:
        """Say what it is at `now` (rule 3)."""
        verdicts = [one.verdict for one in self.decisions]
        if Verdict.REVOKE in verdicts:
            return Status.REVOKED
        if Verdict.DENY in verdicts:
            return Status.DENIED
        if now >= self.ends_at:
            return Status.EXPIRED
        approving = {one.person for one in self.decisions} - {self.person}
        return Status.APPROVED if len(approving) >= self.needed else Status.PENDING

    def covers(self, now: float) -> bool:
        """Tell whether it lets its person see its session at `now`."""
        return self.starts_at <= now and self.status(now) is Status.APPROVED

    def refuse(self, person: str, verdict: Verdict, now: float, *, may_decide: bool) -> None:
        """Return if this verdict of theirs counts now. Raises RequestRefused (rules 1, 2 and 4)."""
        own = person == self.person
        if own and verdict is not Verdict.REVOKE:
            raise RequestRefused(f"nobody decides on their own request: request {self.id} is yours")
        if not own and not may_decide:
            raise RequestRefused(f"request {self.id} is {self.person}'s, and you may not decide on it")
        status = self.status(now)
        if verdict not in TRANSITIONS[status]:
            raise RequestRefused(f"request {self.id} is {status} already")
        if verdict is Verdict.APPROVE and any(one.person == person for one in self.decisions):
            raise RequestRefused(f"you have approved request {self.id}: somebody else has to, too")


class Form(Protocol):
    """What the configuration asks of a request."""

    @property
    def reasons(self) -> Sequence[str]:
        """The reasons there are; none: any text is one."""

    @property
    def code(self) -> str:
        """The pattern of governance codes; "": one may be given."""

    @property
    def longest_days(self) -> float:
        """How long a window may be."""


def check(request: Request, form: Form) -> None:
    """Return if a request is filled in as the configuration wants. Raises RequestRefused."""
    if not request.justification.strip():
        raise RequestRefused("a request needs a justification")
    if form.reasons and request.reason not in form.reasons:
        raise RequestRefused(f"the reason is one of: {', '.join(form.reasons)}")
    if form.code and not re.fullmatch(form.code, request.code):
        raise RequestRefused(f"a request needs a governance code of the form {form.code}")
    if not request.starts_at >= request.asked_at - SLACK_S:  # said so, NaN is no time either
        raise RequestRefused("access can't start in the past")
    if not request.ends_at > max(request.starts_at, request.asked_at):
        raise RequestRefused("access has to end after it starts, and later than now")
    if request.ends_at - request.starts_at > form.longest_days * DAY_S:
        raise RequestRefused(f"access is given for {form.longest_days:g} days at most")
