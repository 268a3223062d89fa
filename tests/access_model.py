"""Who may see and do what, as the mission has it (M2, M3, M6, M8, M9, M13): a plain model that tests hold beside the program.

It shares no code with `proxyd.governance`. Words are the model's own; `tests.access_table` says which address and which
command of the program takes which of them. Times are seconds since 1970 and always given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

DAY = 86_400.0
SLACK = 60.0  # a window may have begun so long ago
LONGEST = 30 * DAY
WAITING = 100  # requests of one person
SAID = 1000  # comments on one session

EVERY = frozenset({"live", "replay", "log", "search", "export", "download"})  # the ways to see a session
MANY = EVERY | {
    "list", "status", "auditors", "decide", "ask", "block", "blocks", "message", "drop", "hold", "review", "purge", "issue",
    "reload", "signins",
}  # fmt: skip
MAY: dict[str, frozenset[str]] = {
    "PAM Administrator": MANY,
    "System Administrator": MANY,
    "PAM Auditor": EVERY | {"list", "status", "ask", "block", "blocks", "message", "hold", "review"},
    "PAM Operator": frozenset({"list", "status", "ask", "block", "blocks", "message", "drop", "log"}),
    "Night watch": frozenset({"list", "live", "ask"}),
    "ops": frozenset(),
    "Console": frozenset({"act"}),
}
NIGHT_WATCH = ["sessions.list", "sessions.watch", "requests.ask"]  # the one role that is not built in
USERS: dict[str, tuple[str, ...]] = {
    "alice": ("PAM Administrator",), "carl": ("PAM Administrator", "ops"), "dora": ("System Administrator",), "ann": ("PAM Auditor",),
    "bob": ("PAM Auditor", "Night watch"), "oli": ("PAM Operator",), "nina": ("Night watch",), "eve": ("ops",), "zoe": (),
}  # fmt: skip
PEOPLE = tuple(USERS)
SIGHTS = tuple(sorted(EVERY - {"live"}))
STARTS = (-3600.0, -61.0, -60.0, 0.0, 30.0, 600.0)
LASTS = (-5.0, 0.0, 1.0, 60.0, 1200.0, LONGEST, 31 * DAY)


@dataclass
class Asked:
    """A request, as the model has it."""

    id: str
    session: str
    person: str
    starts: float
    ends: float
    needed: int
    approved: set[str] = field(default_factory=set)
    over: str = ""

    def status(self, now: float) -> str:
        if self.over:
            return self.over
        if now >= self.ends:
            return "expired"
        return "approved" if len(self.approved) >= self.needed else "pending"

    def opens(self, person: str, session: str, now: float) -> bool:
        return (
            (self.person, self.session) == (person, session)
            and self.starts <= now
            and self.status(now) == "approved"
        )

    def decided(self, person: str, verdict: str) -> None:
        """Take in a verdict that was let."""
        if verdict == "approve":
            assert person != self.person, "somebody has approved their own request"
            self.approved.add(person)
        else:
            self.over = {"deny": "denied", "revoke": "revoked"}[verdict]


@dataclass
class Model:
    """People, sessions with their users, auditors, requests and what is configured. "" is nobody, "root" no user of the proxy."""

    users: dict[str, str] = field(default_factory=dict)  # of each session
    live: set[str] = field(default_factory=set)
    auditors: dict[str, set[str]] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)  # comments, by session
    reviewed: dict[str, str] = field(default_factory=dict)  # by whom
    approval: bool = False
    approval_live: bool = True
    approvers: int = 1
    download: bool = True

    def configure(
        self, *, approval: bool = False, live: bool = True, approvers: int = 1, download: bool = True
    ) -> None:
        """Take in what `[review]` says now."""
        self.approval, self.approval_live, self.approvers, self.download = approval, live, approvers, download

    def may(self, who: str, what: str) -> bool:
        """Tell whether a role of theirs lets them; "own" is of every user."""
        if what == "own":
            return self.person(who) in USERS
        roles = ("System Administrator", "Console") if who.startswith("root") else USERS.get(who, ())
        return any(what in MAY[role] for role in roles)

    @staticmethod
    def person(who: str) -> str:
        """Say which user somebody is; an administrator may be none, or alice."""
        return {"root": "", "root=alice": "alice", "stranger": ""}.get(who, who)

    # ------------------------------------------------------------------ seeing

    def may_see(self, who: str, session: str, sight: str, now: float) -> bool:
        """Tell whether they may see a session in this way: a live one live or as it grows, an ended one otherwise."""
        live = session in self.live
        if live and not (sight == "live" or (sight == "replay" and self.may(who, "live"))):
            return False
        return (live or sight != "live") and self._opens(who, session, sight, now)

    def may_find(self, who: str, session: str, now: float) -> bool:
        """Tell whether a search of theirs looks into a session, whether it lives or not."""
        return self._opens(who, session, "search", now)

    def _opens(self, who: str, session: str, sight: str, now: float) -> bool:
        person = self.person(who)
        if not self.may(who, sight) or (sight in ("export", "download") and not self.download):
            return False
        if self.auditors.get(session) and person not in self.auditors[session]:
            return False
        if not self.approval or (sight == "live" and not self.approval_live):
            return True
        return bool(self.opening(who, session, now))

    def opening(self, who: str, session: str, now: float) -> set[str]:
        """Name the requests by which they may see a session now."""
        person = self.person(who)
        return {one.id for one in self.requests if person and one.opens(person, session, now)}

    # ------------------------------------------------------------------ asking and deciding

    def may_ask(self, who: str, start: float, end: float, now: float) -> bool:
        """Tell whether they may ask for this window."""
        person = self.person(who)
        waiting = sum(one.person == person and one.status(now) == "pending" for one in self.requests)
        good = start >= now - SLACK and end > max(start, now) and end - start <= LONGEST
        could_see = any(self.may(who, sight) for sight in EVERY)
        return (
            self.may(who, "ask")
            and could_see
            and bool(person)
            and self.approval
            and good
            and waiting < WAITING
        )

    def may_decide(self, who: str, one: Asked, verdict: str, now: float) -> bool:
        """Tell whether this verdict of theirs counts."""
        person, status = self.person(who), one.status(now)
        if not person or status not in (("pending", "approved") if verdict == "revoke" else ("pending",)):
            return False
        if person == one.person:
            return verdict == "revoke" and self.may(who, "ask")
        # Taking back is open to whoever may ask; whether the request is another's to decide on comes behind that.
        asks = verdict != "revoke" or self.may(who, "ask")
        return asks and self.may(who, "decide") and not (verdict == "approve" and person in one.approved)

    def may_list_requests(self, who: str) -> bool:
        """Tell whether they get a list of requests at all: who does not decide has to be somebody."""
        return self.may(who, "ask") and (bool(self.person(who)) or self.may(who, "decide"))

    def may_read_request(self, who: str, name: str) -> bool:
        """Tell whether a request may be in their list."""
        return self.may(who, "decide") or any(
            (one.id, one.person) == (name, self.person(who)) for one in self.requests
        )

    # ------------------------------------------------------------------ reviewing

    def may_know(self, who: str, session: str, now: float) -> bool:
        """Tell whether they may read what was said of a session: whoever may see it as it is, live or replayed."""
        return self.may_see(who, session, "live" if session in self.live else "replay", now)

    def may_say(self, who: str, session: str, now: float) -> bool:
        """Tell whether they may comment on a session."""
        room = self.said[session] < SAID
        return (
            self.may(who, "review") and bool(self.person(who)) and room and self.may_know(who, session, now)
        )

    def may_mark(self, who: str, session: str, now: float, *, done: bool) -> bool:
        """Tell whether they may mark a session of somebody else's as reviewed, or take the mark back."""
        by = self.reviewed.get(session)
        fits = by != self.person(who) if done else by is not None
        own = self.users[session] == self.person(who)
        return fits and not own and session not in self.live and self.may_say(who, session, now)

    # ------------------------------------------------------------------ doing

    def may_act(self, who: str, what: str, session: str) -> bool:
        """Tell whether they may block, drop or message the user of a session; nobody blocks themselves."""
        own = what == "block" and bool(self.person(who)) and self.person(who) == self.users[session]
        return self.may(who, what) and session in self.live and not own

    def seen(self, who: str, session: str, sights: Iterable[str], now: float) -> list[str]:
        """Say what of these sights, asked for one after the other, they get: the first they may not ends it."""
        got: list[str] = []
        for sight in sights:
            if not self.may_see(who, session, sight, now):
                break
            got.append(sight)
        return got
