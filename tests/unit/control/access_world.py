"""Who may see what, twice: the daemon's commands, and a plain model of the rules beside them; they have to agree on every attempt.

The model is written from the mission's sentences (M2, M3, M6, M8, M9, M13) and shares no code with `proxyd.governance`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass, field
from typing import Any

import trio

from proxyd.config import Operator, Review, Role, User
from proxyd.control.permissions import acting_for, identify
from proxyd.control.seeing import sieve
from proxyd.control.server import command_of, request_of
from proxyd.errors import ProxydError
from proxyd.governance.rules import Sight
from proxyd.recorder.record import Kind
from proxyd.recorder.reviews import Reviews

EVERY = frozenset({"live", "replay", "log", "search", "export", "download"})
MANY = {"auditors", "decide", "ask", "block"} | EVERY
MAY = {
    "PAM Administrator": MANY,
    "System Administrator": MANY,
    "PAM Auditor": {"ask", "block"} | EVERY,
    "PAM Operator": {"ask", "block", "log"},
    "Night watch": {"live", "ask"},
    "ops": set(),
}
USERS = {
    "alice": ("PAM Administrator",), "carl": ("PAM Administrator", "ops"), "dora": ("System Administrator",), "ann": ("PAM Auditor",),
    "bob": ("PAM Auditor", "Night watch"), "oli": ("PAM Operator",), "nina": ("Night watch",), "eve": ("ops",), "zoe": (),
}  # fmt: skip
PEOPLE = tuple(USERS)
CALLERS = (*PEOPLE, "root", "root=alice", "stranger")  # root: an administrator who is no user, or is alice
SIGHTS = tuple(sorted(EVERY - {"live"}))
DAY = 86_400.0


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


class World:
    """A daemon's command layer and the model; each method is one attempt, and says whether it was let through."""

    _names = itertools.count(1)

    def __init__(self, played: Any) -> None:
        self.played = played
        self.now = 1_800_000_000.0
        self.attempts = self.let = self.views = 0
        self.kept: list[dict[str, Any]] = []
        played.reviews = Reviews(played.catalog, clock=lambda: self.now)
        append = played.ledger.append

        def noted(kind: str, /, **fields: Any) -> Any:
            if kind == "view":
                self.kept.append(fields)
            return append(kind, **fields)

        played.ledger.append = noted
        played.config.control.roles = [
            Role(name="Night watch", permissions=["sessions.list", "sessions.watch", "requests.ask"])
        ]
        played.config.users = {name: User(name=name, roles=list(roles)) for name, roles in USERS.items()}
        self.begin()

    def begin(self) -> None:
        """Begin anew with sessions nobody has asked about, at a time when all older requests are over."""
        self.now += 60 * DAY
        for session in list(self.played.sessions.values()):
            self.played.end(session)
        self.sessions: dict[str, Any] = {}
        self.live: set[str] = set()
        for user in ("zoe", "alice", "eve", "bob"):
            number = next(World._names)
            session = self.played.begin(id=f"{number:032x}", user=user, target=f"t{number}")
            self.sessions[session.id] = session
            self.live.add(session.id)
        for session in list(self.sessions.values())[2:]:
            self.ended(session.id)
        self.auditors: dict[str, set[str]] = {}
        self.requests: list[Asked] = []
        self.set_review()

    @property
    def ids(self) -> list[str]:
        return list(self.sessions)

    # ------------------------------------------------------------------ the daemon's side

    def attempt(self, who: str, command: str, /, **arguments: Any) -> dict[str, Any] | None:
        """Ask as the control socket does; None when it was refused."""
        self.attempts += 1
        message: dict[str, Any] = {"id": 1, "command": command, "arguments": arguments}
        if who in PEOPLE:
            message |= {"as": who, "address": "192.0.2.9"}
        try:
            answer: dict[str, Any] = trio.run(self._answer, who, message)
        except ProxydError:
            return None
        self.let += 1
        return answer

    async def _answer(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        control = self.played.config.control
        control.operators = [Operator(name="web", uid=os.getuid(), roles=["Console"])]
        if who.startswith("root"):
            user = who.partition("=")[2]
            control.operators = [
                Operator(name="root", uid=os.getuid(), roles=["System Administrator"], user=user)
            ]
        if who == "stranger":
            control.operators = []
        caller = identify(self.played.config, os.getuid(), frozenset())
        request = request_of(message)
        if request.acting_for:
            caller = acting_for(self.played.config, caller, request.acting_for, request.address)
        command, arguments = command_of(request, caller)
        if command.answer is not None:
            return await command.answer(self.played, caller, arguments)
        assert command.stream is not None
        frames: list[dict[str, Any]] = []

        async def send(frame: dict[str, Any]) -> None:
            frames.append(frame)
            if len(frames) == 2:  # META and what there was: the viewer goes
                raise trio.BrokenResourceError

        with contextlib.suppress(trio.BrokenResourceError):
            await command.stream(self.played, caller, arguments, send)
        return {"frames": frames}

    # ------------------------------------------------------------------ the model's side

    def roles(self, who: str) -> set[str]:
        if who.startswith("root"):
            return MAY["System Administrator"]
        return set().union(*(MAY[role] for role in USERS.get(who, ())))

    @staticmethod
    def person(who: str) -> str:
        return {"root": "", "root=alice": "alice", "stranger": ""}.get(who, who)

    def may_see(self, who: str, session: str, sight: str) -> bool:
        person, review = self.person(who), self.played.config.review
        if sight not in self.roles(who) or (session in self.live and sight not in ("live", "replay")):
            return False
        if session not in self.live and sight == "live":
            return False
        if session in self.live and sight == "replay" and "live" not in self.roles(who):
            return False
        if sight in ("export", "download") and not review.download:
            return False
        if self.auditors.get(session) and person not in self.auditors[session]:
            return False
        if review.approval and (review.live or sight != "live"):
            return bool(person) and any(one.opens(person, session, self.now) for one in self.requests)
        return True

    # ------------------------------------------------------------------ attempts

    def read(self, who: str, session: str, sight: str, first: float = 0.0, seconds: float = 1.0) -> None:
        """Try to open a piece of a recording."""
        before, allowed = len(self.kept), self.may_see(who, session, sight)
        answer = self.attempt(who, "read", session=session, kind=sight, first=first, last=first + seconds)
        assert (answer is not None) is allowed, (who, session, sight)
        self._kept(who, session, sight, before, allowed)
        if allowed:
            view = self.kept[-1]
            assert (view["first"], view["last"]) == (round(first, 3), round(first + seconds, 3))

    def watch(self, who: str, session: str) -> None:
        """Try to watch."""
        before, allowed = len(self.kept), self.may_see(who, session, "live")
        answer = self.attempt(who, "watch", session=session)
        assert (answer is not None and len(answer["frames"]) == 2) is allowed, (who, session)
        self._kept(who, session, "live", before, allowed)
        tape = self.sessions[session].tape.rows
        assert (tape[-1][4] == {"action": "leave", "by": who.partition("=")[0], "reason": ""}) or not allowed
        assert self.sessions[session].viewers == 0

    def _kept(self, who: str, session: str, sight: str, before: int, allowed: bool) -> None:
        new = self.kept[before:]
        assert len(new) == allowed, (who, session, sight)
        self.views += allowed
        for view in new:
            assert (view["who"], view["session"], view["kind"]) == (who.partition("=")[0], session, sight)
            assert view.get("via") == ("web" if who in PEOPLE else None)

    def search(self, who: str) -> None:
        """Try what a search would look into; it has to be what could be read."""
        allowed = "search" in self.roles(who)
        answer = self.attempt(
            who, "search", text="x"
        )  # there is no index: allowed, it says so by its refusal
        assert answer is None
        seen = self.sifted(who)
        wanted = [] if not allowed else [one for one in self.ids if self._may_find(who, one)]
        assert seen == wanted, who

    def _may_find(self, who: str, session: str) -> bool:
        living = self.live
        self.live = set()  # a search goes into sessions that live, too
        try:
            return self.may_see(who, session, "search")
        finally:
            self.live = living

    def sifted(self, who: str) -> list[str]:
        async def sift() -> list[str]:
            control = self.played.config.control
            control.operators = [Operator(name="web", uid=os.getuid(), roles=["Console"])]
            if who.startswith("root"):
                user = who.partition("=")[2]
                control.operators = [
                    Operator(name="root", uid=os.getuid(), roles=["System Administrator"], user=user)
                ]
            caller = identify(self.played.config, os.getuid(), frozenset())
            if who in PEOPLE:
                caller = acting_for(self.played.config, caller, who, "")
            return list(filter(await sieve(self.played, caller, Sight.SEARCH), self.ids))

        try:
            return trio.run(sift) if who != "stranger" else []
        except ProxydError:
            return []

    def audit(self, who: str, session: str, people: frozenset[str]) -> None:
        """Try to set a session's auditors."""
        done = self.attempt(who, "set-auditors", session=session, people=sorted(people))
        assert (done is not None) is ("auditors" in self.roles(who)), who
        if done is not None:
            self.auditors[session] = set(people)

    def ask(self, who: str, session: str, start: float, lasts: float) -> None:
        """Try to ask for a window that starts so many seconds from now."""
        review, person = self.played.config.review, self.person(who)
        waiting = sum(one.person == person and one.status(self.now) == "pending" for one in self.requests)
        good = start >= -60 and lasts > 0 and start + lasts > 0 and lasts <= 30 * DAY and waiting < 100
        allowed = (
            "ask" in self.roles(who)
            and bool(self.roles(who) & EVERY)
            and bool(person)
            and review.approval
            and good
        )
        window = {"starts_at": self.now + start, "ends_at": self.now + start + lasts}
        done = self.attempt(who, "request", session=session, justification="why", **window)
        assert (done is not None) is allowed, (who, start, lasts)
        if done is not None:
            name = done["request"]["id"]
            self.requests.append(
                Asked(name, session, person, window["starts_at"], window["ends_at"], review.approvers)
            )

    def decide(self, who: str, number: int, verdict: str) -> None:
        """Try to decide on a request, also on one's own."""
        if not self.requests:
            return
        one, person = self.requests[number % len(self.requests)], self.person(who)
        status, own = one.status(self.now), person == one.person
        allowed = bool(person) and status in (
            ("pending", "approved") if verdict == "revoke" else ("pending",)
        )
        if own:
            allowed = allowed and verdict == "revoke" and "ask" in self.roles(who)
        else:
            allowed = (
                allowed
                and "decide" in self.roles(who)
                and not (verdict == "approve" and person in one.approved)
            )
        done = self.attempt(who, verdict, request=one.id)
        assert (done is not None) is allowed, (who, one, verdict)
        if done is None:
            return
        if verdict == "approve":
            assert person != one.person
            one.approved.add(person)
        else:
            one.over = {"deny": "denied", "revoke": "revoked"}[verdict]
        assert done["request"]["status"] == one.status(self.now)

    def listed(self, who: str, session: str) -> None:
        """Ask for the list of a session's requests: one's own, or everybody's for who decides."""
        done, person = self.attempt(who, "requests", session=session), self.person(who)
        may = self.roles(who)
        assert (done is not None) is ("ask" in may and (bool(person) or "decide" in may)), who
        for row in done["requests"] if done else ():
            assert "decide" in may or row["person"] == person
            for one in self.requests:
                assert one.id != row["id"] or one.status(self.now) == row["status"]

    def block(self, who: str, session: str) -> None:
        """Try to block, and to release; neither lets anybody see more."""
        own = bool(self.person(who)) and self.person(who) == self.sessions[session].user
        allowed = "block" in self.roles(who) and session in self.live and not own
        assert (self.attempt(who, "block", session=session) is not None) is allowed, (who, session)
        if allowed:
            assert self.played.catalog.blocked(self.sessions[session].user, self.sessions[session].target)
            assert self.attempt(who, "unblock", whom=session) is not None

    # ------------------------------------------------------------------ what happens meanwhile

    def set_review(self, **fields: Any) -> None:
        self.played.config.review = Review(**fields)

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def ended(self, session: str) -> None:
        if session in self.live:
            self.live.discard(session)
            self.sessions[session].tape.add(Kind.END, {"reason": "closed"})
            self.played.end(self.sessions[session])
