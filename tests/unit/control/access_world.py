"""Who may see what, twice: the daemon's commands, and `tests.access_model` beside them; they have to agree on every attempt."""

from __future__ import annotations

import contextlib
import itertools
import os
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
from tests.access_model import DAY, NIGHT_WATCH, PEOPLE, USERS, Asked, Model

CALLERS = (*PEOPLE, "root", "root=alice", "stranger")  # root: an administrator who is no user, or is alice


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
        played.config.control.roles = [Role(name="Night watch", permissions=NIGHT_WATCH)]
        played.config.users = {name: User(name=name, roles=list(roles)) for name, roles in USERS.items()}
        self.begin()

    def begin(self) -> None:
        """Begin anew with sessions nobody has asked about, at a time when all older requests are over."""
        self.now += 60 * DAY
        for session in list(self.played.sessions.values()):
            self.played.end(session)
        self.sessions: dict[str, Any] = {}
        self.model = Model()
        for user in ("zoe", "alice", "eve", "bob"):
            number = next(World._names)
            session = self.played.begin(id=f"{number:032x}", user=user, target=f"t{number}")
            self.sessions[session.id] = session
            self.model.users[session.id] = user
            self.model.live.add(session.id)
        for session in list(self.sessions.values())[2:]:
            self.ended(session.id)
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

    # ------------------------------------------------------------------ attempts

    def read(self, who: str, session: str, sight: str, first: float = 0.0, seconds: float = 1.0) -> None:
        """Try to open a piece of a recording."""
        before, allowed = len(self.kept), self.model.may_see(who, session, sight, self.now)
        answer = self.attempt(who, "read", session=session, kind=sight, first=first, last=first + seconds)
        assert (answer is not None) is allowed, (who, session, sight)
        self._kept(who, session, sight, before, allowed)
        if allowed:
            view = self.kept[-1]
            assert (view["first"], view["last"]) == (round(first, 3), round(first + seconds, 3))

    def watch(self, who: str, session: str) -> None:
        """Try to watch."""
        before, allowed = len(self.kept), self.model.may_see(who, session, "live", self.now)
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
        answer = self.attempt(
            who, "search", text="x"
        )  # there is no index: allowed, it says so by its refusal
        assert answer is None
        assert self.sifted(who) == [one for one in self.ids if self.model.may_find(who, one, self.now)], who

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
        assert (done is not None) is self.model.may(who, "auditors"), who
        if done is not None:
            self.model.auditors[session] = set(people)

    def ask(self, who: str, session: str, start: float, lasts: float) -> None:
        """Try to ask for a window that starts so many seconds from now."""
        window = {"starts_at": self.now + start, "ends_at": self.now + start + lasts}
        allowed = self.model.may_ask(who, window["starts_at"], window["ends_at"], self.now)
        done = self.attempt(who, "request", session=session, justification="why", **window)
        assert (done is not None) is allowed, (who, start, lasts)
        if done is not None:
            about = (done["request"]["id"], session, self.model.person(who), *window.values())
            self.model.requests.append(Asked(*about, self.model.approvers))

    def decide(self, who: str, number: int, verdict: str) -> None:
        """Try to decide on a request, also on one's own."""
        if not self.model.requests:
            return
        one = self.model.requests[number % len(self.model.requests)]
        allowed = self.model.may_decide(who, one, verdict, self.now)
        done = self.attempt(who, verdict, request=one.id)
        assert (done is not None) is allowed, (who, one, verdict)
        if done is None:
            return
        one.decided(self.model.person(who), verdict)
        assert done["request"]["status"] == one.status(self.now)

    def listed(self, who: str, session: str) -> None:
        """Ask for the list of a session's requests: one's own, or everybody's for who decides."""
        done = self.attempt(who, "requests", session=session)
        assert (done is not None) is self.model.may_list_requests(who), who
        for row in done["requests"] if done else ():
            assert self.model.may_read_request(who, row["id"])
            for one in self.model.requests:
                assert one.id != row["id"] or one.status(self.now) == row["status"]

    def block(self, who: str, session: str) -> None:
        """Try to block, and to release; neither lets anybody see more."""
        allowed = self.model.may_act(who, "block", session)
        assert (self.attempt(who, "block", session=session) is not None) is allowed, (who, session)
        if allowed:
            assert self.played.catalog.blocked(self.sessions[session].user, self.sessions[session].target)
            assert self.attempt(who, "unblock", whom=session) is not None

    # ------------------------------------------------------------------ what happens meanwhile

    def set_review(self, **fields: Any) -> None:
        self.played.config.review = Review(**fields)
        self.model.configure(**fields)

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def ended(self, session: str) -> None:
        if session in self.model.live:
            self.model.live.discard(session)
            self.sessions[session].tape.add(Kind.END, {"reason": "closed"})
            self.played.end(self.sessions[session])
