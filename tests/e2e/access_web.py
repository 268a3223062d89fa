"""Attempts to see and do what one may not, by the console's addresses and by the control socket; the model has a word on each.

Rule 1: what the model says just before an attempt and just after it has to be what came of it; where a window began or ended
        in between, either.
Rule 2: what an attempt got to see is in the ledger when it is answered, and nothing else is: who, by whom, from where, of
        which session, in which way, by which request.
Rule 3: a live view that is left open is closed by the console once the model says so, and not before.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from proxyd.control.client import ControlError
from proxyd.recorder.ledger import Entry
from tests.access_model import PEOPLE, Asked
from tests.access_table import ADDRESSES, COMMANDS, FILLED, NOBODY, Address
from tests.e2e.access_lab import ADDRESS, EXPORTER, NEEDLE, REFUSALS, SHORT, AccessLab
from tests.peers import eventually
from tests.peers.browser import SWITCHED, Socket
from tests.peers.daemon import TARGET
from tests.peers.endpoint import HOST

STRANGERS = ("nobody", "forger", "leaver")  # no cookie, a made-up one, one that was signed out
CALLERS = (*PEOPLE, *STRANGERS)
REFUSED = (400, 403, 404, 409)
SIGNED_OUT = (303, 401)
CLOSED_REFUSED, CLOSED_OVER = 4403, 4401
CLOSED_S = 30.0  # a silent view hears of it within a second; a busy machine takes its time
OPEN = 3  # live views left open at a time
REMARK = "remarkable"  # every comment
FORGED = 0.05  # of the forms
ABOUT = {"about"}  # what is said of a live session before anything of it is shown
REQUEST = re.compile(r'action="/requests/([0-9a-f]+)/')
FOUND = re.compile(r'href="/sessions/([0-9a-f]+)/(?:play|live)')


class View(NamedTuple):
    """A live view that was left open."""

    who: str
    session: str
    socket: Socket


class Expected(NamedTuple):
    """What the model says of an address: what they see there, whether they may ask for it, whether they may know the session."""

    sees: list[str]
    fine: bool
    knows: bool


class Attempts:
    """Each method is one attempt of `who`, and fails where program and model do not agree."""

    def __init__(self, lab: AccessLab, chance: random.Random) -> None:
        self.lab, self.model, self.chance = lab, lab.model, chance
        self.browsers = {name: lab.stranger(name) for name in STRANGERS}
        self.browsers |= {name: lab.browser(name) for name in PEOPLE}
        self.browsers["forger"].cookies = {"__Host-proxyd": "A" * 43}
        self.open: list[View] = []
        self.count: Counter[str] = Counter()  # attempts, by how they were made and what became of them
        self.sights: Counter[str] = Counter()
        self.leaving: Counter[tuple[str, str, str]] = Counter()  # live views the ledger will have
        self.left: Counter[tuple[str, str, str]] = Counter()
        self.deeds: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.take_in()
        self.told.clear()
        self.left.clear()

    # ------------------------------------------------------------------ how an attempt is judged

    def judged(self, what: object, may: Callable[[float], bool], attempt: Callable[[], bool]) -> bool:
        """Make an attempt and hold it against the model (rule 1); say whether it was let."""
        before = may(time.time())
        done = attempt()
        assert done in (before, may(time.time())), (what, "was let" if done else "was refused")
        self.count["let" if done else "refused"] += 1
        return done

    def take_in(self) -> list[Entry]:
        """Read on in the ledger; give the views but those of live ones, which are written when they are left."""
        views = []
        for entry in self.lab.entries():
            fields = entry.fields
            self.told[entry.kind] += 1
            if entry.kind == "view" and fields["kind"] == "live":
                self.left[fields["who"], fields["session"], fields.get("address", "")] += 1
                assert fields["seconds"] >= 0
            elif entry.kind == "view":
                views.append(entry)
        return views

    def checked(self, who: str, session: str, address: str, views: list[Entry], began: float) -> None:
        """Hold what the ledger says of views against whose they were (rule 2)."""
        for entry in views:
            fields = entry.fields
            assert (fields["session"], fields["who"]) == (session, self._name(who)), fields
            assert (fields.get("via", ""), fields.get("address", "")) == self._by(who, address), fields
            assert 0 <= fields.get("first", 0) <= fields.get("last", 0), (
                fields
            )  # of a file the bytes are told
            self._by_request(who, session, fields.get("request", ""), (began, entry.at))
            self.sights[fields["kind"]] += 1

    def _by_request(self, who: str, session: str, request: str, times: tuple[float, float]) -> None:
        if not self.model.approval:
            assert request == ""
            return
        opened = [self.model.opening(who, session, at) for at in times]
        assert any(request in found for found in opened), (who, session, request)

    def _name(self, who: str) -> str:
        return self.lab.operator if who == "root" else who

    def _by(self, who: str, address: str) -> tuple[str, str]:
        return ("", "") if who == "root" else (self.lab.operator, address)

    # ------------------------------------------------------------------ signing in and out

    def sign_out(self, who: str) -> None:
        """Sign out, keep the old cookie as somebody's who found it, and sign in anew."""
        old = dict(self.browsers[who].cookies)
        assert self.browsers[who].post("/sign-out", {}).status == 303
        self.browsers["leaver"].cookies = old
        for view in [one for one in self.open if one.who == who]:
            self._ends(view, CLOSED_OVER)
        self.lab.sign_in(who)

    # ------------------------------------------------------------------ addresses

    def get(self, who: str, path: str, session: str) -> None:
        """Ask for an address that only shows."""
        address, began = ADDRESSES["GET", path], time.time()
        filled, before = self._filled(path, session), self._expected(who, session, address)
        answer = self.browsers[who].get(filled)
        views, after = self.take_in(), self._expected(who, session, address)
        got = [entry.fields["kind"] for entry in views]
        assert got in (before.sees, after.sees), (who, filled, got, answer.status)
        self.checked(who, session, HOST, views, began)
        fine = [got == list(address.sees) and one.fine for one in (before, after)]
        wanted = [
            address.fine if one else SIGNED_OUT if who in STRANGERS else (*REFUSED, *address.away)
            for one in fine
        ]
        assert any(answer.status in one for one in wanted), (who, filled, answer.status)
        assert REMARK.encode() not in answer.body or before.knows or after.knows, (who, filled)
        for name in REQUEST.findall(answer.text) if path == "/requests" else ():
            assert self.model.may_read_request(who, name), (who, name)
        self.count["let" if any(fine) else "refused"] += 1

    def _expected(self, who: str, session: str, address: Address) -> Expected:
        now = time.time()
        knows = self.model.may_know(who, session, now)
        fine = (address.needs == NOBODY or self.model.may(who, address.needs)) and (
            knows or not address.known
        )
        return Expected(self.model.seen(who, session, address.sees, now), fine, knows)

    def _filled(self, path: str, session: str) -> str:
        filled = path.replace("{session}", session)
        for name, values in FILLED.items():
            filled = filled.replace(f"{{{name}}}", self.chance.choice(values))
        return filled

    def search(self, who: str) -> None:
        """Search for what every ended terminal has shown; only what they may see is found."""
        before = self._findable(who)
        door = self.door(who)
        if door == "web":
            answer = self.browsers[who].get(f"/search?text={NEEDLE}")
            found = set(FOUND.findall(answer.text)) if answer.status == 200 else None
        else:
            told = self.lab.told(who, "search", text=NEEDLE)
            found = {hit["session"] for hit in told["hits"]} if told else None
        assert found in (before, self._findable(who)), (who, door, found)
        assert not self.take_in()
        self.deeds["search"] += found is not None
        self.count["refused" if found is None else "let"] += 1

    def _findable(self, who: str) -> set[str] | None:
        now = time.time()
        if not self.model.may(who, "search"):
            return None
        return {one for one in self.lab.found if self.model.may_find(who, one, now)}

    # ------------------------------------------------------------------ the control socket

    def read(self, who: str, session: str, sight: str, first: float, seconds: float) -> None:
        """Ask for a piece of a recording, as whoever holds the identity does."""
        began, span = time.time(), {"first": first, "last": first + seconds}
        done = self.judged(
            (who, session, sight),
            lambda now: self.model.may_see(who, session, sight, now),
            lambda: self.lab.told(who, "read", session=session, kind=sight, **span) is not None,
        )
        views = self.take_in()
        seen = [(one.fields["kind"], one.fields["first"], one.fields["last"]) for one in views]
        assert seen == [(sight, first, first + seconds)] * done, (who, session, sight, seen)
        self.checked(who, session, ADDRESS, views, began)

    def command(self, who: str, name: str, session: str) -> None:
        """Ask any command; who lacks its permission is refused, and who has it sees no more for it."""
        asking = COMMANDS[name]
        if self.model.may(who, asking.needs) and not asking.harmless:
            return
        knows = lambda: self.model.may_know(who, session, time.time())  # noqa: E731
        may = lambda: self.model.may(who, asking.needs) and (not asking.known or knows())  # noqa: E731
        request = self.model.requests[-1].id if self.model.requests else "0"
        arguments = {key: self._said(value, session, request) for key, value in asking.arguments.items()}
        before = may()
        try:
            self.lab.client(who).call(name, **arguments)
        except ControlError as error:
            let = False
            assert error.code in (REFUSALS if before else ("denied",)), (who, name, error)
        else:
            let = True
            assert before or may(), (who, name)
        assert not self.take_in(), (who, name)
        self.count["let" if let else "refused"] += 1

    @staticmethod
    def _said(value: Any, session: str, request: str) -> Any:
        if isinstance(value, list):
            return [Attempts._said(one, session, request) for one in value]
        return value.format(session=session, request=request) if isinstance(value, str) else value

    def download(self, who: str) -> None:
        """Take the file of an export, which is for the person alone who had it made, while they may see the session."""
        began, web = time.time(), self.door(who) == "web"
        path = f"/exports/{self.lab.export}/file"
        done = self.judged(
            (who, path),
            lambda now: who == EXPORTER and self.model.may_see(who, SHORT, "download", now),
            lambda: (
                self._taken(who, path)
                if web
                else self.lab.told(who, "export-fetch", job=self.lab.export) is not None
            ),
        )
        views = self.take_in()
        assert [one.fields["kind"] for one in views] == ["download"] * done, (who, views)
        self.checked(who, SHORT, HOST if web else ADDRESS, views, began)

    def _taken(self, who: str, path: str) -> bool:
        answer = self.browsers[who].get(path)
        assert answer.status in (200, *(SIGNED_OUT if who in STRANGERS else REFUSED)), (who, answer.status)
        assert answer.status == 200 or NEEDLE.encode() not in answer.body
        return answer.status == 200

    # ------------------------------------------------------------------ live

    def watch(self, who: str, session: str) -> None:
        """Open a live view; leave it, or leave it open."""
        may = lambda now: self.model.may_see(who, session, "live", now)  # noqa: E731
        if self.door(who) == "socket":
            if self.judged((who, session, "watch"), may, lambda: self._watched(who, session)):
                self.leaving[self._name(who), session, "" if who == "root" else ADDRESS] += 1
            return
        socket = self.browsers[who].socket(f"/sessions/{session}/live/stream")
        shown = self.judged((who, session, "live"), may, lambda: self._shows(who, socket))
        if not shown:
            socket.close()
            return
        self.leaving[who, session, HOST] += 1
        self.open.append(View(who, session, socket))
        if len(self.open) > OPEN:
            self._goes_on(oldest := self.open.pop(0))
            oldest.socket.close()

    def _watched(self, who: str, session: str) -> bool:
        try:
            with self.lab.client(who).stream("watch", session=session) as frames:
                return "meta" in next(iter(frames))
        except ControlError as error:
            assert error.code in ("denied", "not_found"), (who, session, error)
            return False

    def _shows(self, who: str, socket: Socket) -> bool:
        """Tell whether anything of the session came."""
        if socket.status != SWITCHED:
            assert (who in STRANGERS, socket.status) == (True, 403), (who, socket.status)
            return False
        while (message := socket.receive()) is not None:
            if set(message) - ABOUT:
                return True
        assert socket.code == CLOSED_REFUSED, (who, socket.code, socket.reason)
        return False

    def settle(self) -> None:
        """Have every open view ended that may go on no longer (rule 3)."""
        for view in list(self.open):
            if view.session not in self.model.live:
                self._ends(view, 1000, CLOSED_REFUSED)
            elif not self.model.may_see(view.who, view.session, "live", time.time()):
                self._ends(view, CLOSED_REFUSED)
                self.count["views cut short"] += 1

    def _goes_on(self, view: View) -> None:
        with suppress(TimeoutError):
            view.socket.closing(within_s=0.01)
        assert not view.socket.code or not self.model.may_see(view.who, view.session, "live", time.time()), (
            view
        )

    def _ends(self, view: View, *codes: int) -> None:
        code = view.socket.closing(within_s=CLOSED_S)
        assert code in codes, (view, code, view.socket.reason)
        view.socket.close()
        self.open.remove(view)

    # ------------------------------------------------------------------ forms, and what they ask of the socket

    def door(self, who: str) -> str:
        """Choose how they ask: who is nobody has the console alone, who is no user the socket."""
        if who == "root":
            return "socket"
        return "web" if who in STRANGERS else self.chance.choice(("web", "web", "socket"))

    def post(self, who: str, path: str, fields: dict[str, Any]) -> bool:
        """Send a form; tell whether it was done."""
        answer = self.browsers[who].post(path, fields)
        assert answer.status in (*REFUSED, *SIGNED_OUT, 200), (who, path, answer.status, answer.text)
        if who in STRANGERS:
            assert answer.status == 401, (who, path, answer.status)
        return answer.status in (200, 303)

    def forge(self, who: str, path: str, fields: dict[str, Any]) -> None:
        """Send a form as another site's page would, or with another's token; nothing may come of it."""
        browser, other = self.browsers[who], self.browsers[self.chance.choice(PEOPLE)]
        token = other.form_token if other is not browser else ""
        origin = self.chance.choice(("https://evil.example", "null", self.lab.console.origin))
        answer = browser.post(path, {**fields, "form_token": token}, origin=origin)
        assert answer.status in (401, 403), (who, path, answer.status)
        self.count["forged"] += 1

    def act(
        self, who: str, kind: str, may: Callable[[float], bool], path: str, fields: dict[str, Any],
        command: str, arguments: dict[str, Any],
    ) -> bool:  # fmt: skip
        """Do something, by a form or at the socket, and count what the ledger is to have of it."""
        if self.chance.random() < FORGED and who != "root":
            self.forge(who, path, fields)
        web = self.door(who) == "web"
        done = self.judged(
            (who, path, fields),
            may,
            lambda: (
                self.post(who, path, fields) if web else self.lab.told(who, command, **arguments) is not None
            ),
        )
        assert not self.take_in()
        self.deeds[kind] += done
        return done

    def audit(self, who: str, session: str, people: list[str]) -> None:
        """Set a session's auditors."""
        may = lambda _: self.model.may(who, "auditors")  # noqa: E731
        path, asked = f"/sessions/{session}/auditors", {"session": session, "people": people}
        if self.act(who, "auditors", may, path, {"auditor": people}, "set-auditors", asked):
            self.model.auditors[session] = set(people)

    def ask(self, who: str, session: str, start: float, lasts: float) -> None:
        """Ask for a window; forms know whole seconds."""
        starts = float(int(time.time() + start))
        window = {"starts_at": starts, "ends_at": float(int(starts + lasts))}
        words = {"justification": "why", "reason": "audit", "code": ""}
        form = words | {"starts": _written(window["starts_at"]), "ends": _written(window["ends_at"])}
        may = lambda now: self.model.may_ask(who, window["starts_at"], window["ends_at"], now)  # noqa: E731
        path, asked = f"/sessions/{session}/request", {"session": session} | words | window
        if self.act(who, "request", may, path, form, "request", asked):
            newest = self.lab.client("root").call("requests", session=session, user=who, limit=1)
            (row,) = newest["requests"]
            assert (row["person"], row["starts_at"], row["ends_at"]) == (who, *window.values())
            self.model.requests.append(Asked(row["id"], session, who, *window.values(), self.model.approvers))

    def decide(self, who: str, one: Asked, verdict: str) -> None:
        """Approve, deny or revoke a request, also one's own."""
        may = lambda now: self.model.may_decide(who, one, verdict, now)  # noqa: E731
        path = f"/requests/{one.id}/{verdict}"
        if self.act(who, "decision", may, path, {"comment": "so"}, verdict, {"request": one.id}):
            one.decided(self.model.person(who), verdict)

    def block(self, who: str, session: str) -> None:
        """Block and release, by the session or by the list of the blocked."""
        may = lambda _: self.model.may_act(who, "block", session)  # noqa: E731
        user, path = self.model.users[session], f"/sessions/{session}"
        asked = {"session": session, "reason": "why"}
        if not self.act(who, "block", may, f"{path}/block", {"reason": "why"}, "block", asked):
            return
        forms = ((f"{path}/unblock", {}), ("/blocked/release", {"user": user, "target": TARGET}))
        released = {"whom": f"{user}@{TARGET}"}
        assert self.act(who, "unblock", lambda _: True, *self.chance.choice(forms), "unblock", released)

    def message(self, who: str, session: str) -> None:
        """Tell the user of a session something."""
        may = lambda _: self.model.may_act(who, "message", session)  # noqa: E731
        asked = {"session": session, "text": "hello"}
        self.act(who, "message", may, f"/sessions/{session}/message", {"text": "hello"}, "message", asked)

    def hold(self, who: str, session: str) -> None:
        """Keep a recording, and let it go again."""
        may = lambda _: self.model.may(who, "hold")  # noqa: E731
        path, asked = f"/sessions/{session}", {"session": session, "reason": "why"}
        if self.act(who, "hold", may, f"{path}/hold", {"reason": "why"}, "hold", asked):
            assert self.act(
                who, "release", may, f"{path}/release", {"reason": ""}, "release", {"session": session}
            )

    def say(self, who: str, session: str) -> None:
        """Comment on a session, which its page shows to those who may see it; or mark it as reviewed."""
        path, asked = f"/sessions/{session}", {"session": session, "text": REMARK}
        if self.chance.random() < 0.5:
            may = lambda now: self.model.may_say(who, session, now)  # noqa: E731
            done = self.act(who, "comment", may, f"{path}/comments", {"text": REMARK}, "comment", asked)
        else:
            again = session in self.model.reviewed
            may = lambda now: self.model.may_mark(who, session, now, done=not again)  # noqa: E731
            form = {"text": REMARK} | ({"undo": "1"} if again else {})
            kind = "reopened" if again else "reviewed"
            done = self.act(who, kind, may, f"{path}/review", form, "review", asked | {"done": not again})
            if done:
                self.model.reviewed.pop(session, None)
                self.model.reviewed |= {} if again else {session: who}
        self.model.said[session] += done

    def drop(self, who: str, session: str) -> None:
        """Drop a session; another takes its place."""
        may = lambda _: self.model.may_act(who, "drop", session)  # noqa: E731
        asked = {"session": session, "reason": "why"}
        if self.act(who, "drop", may, f"/sessions/{session}/drop", {"reason": "why"}, "drop", asked):
            self.lab.end(session)

    def start_over(self, **review: Any) -> None:
        """Configure anew; what waits is revoked, or the hundred that may wait fill up."""
        for one in self.model.requests:
            if one.status(time.time()) in ("pending", "approved") and self.lab.told(
                "alice", "revoke", request=one.id
            ):
                one.decided("alice", "revoke")
                self.deeds["decision"] += 1
        self.settle()
        self.model.requests.clear()
        self.lab.review(**review)
        self.settle()

    # ------------------------------------------------------------------ all in all

    def evidence(self) -> None:
        """Close what is open, and compare the whole of it with the ledger."""
        for view in self.open:
            self._goes_on(view)
        self.close()
        eventually("every live view is in the ledger", self._all_left, within_s=CLOSED_S)
        assert self.left == self.leaving
        for kind, count in self.deeds.items():
            assert self.told[kind] == count, (kind, count, self.told)
        assert self.told["view"] == sum(self.sights.values()) + sum(self.leaving.values())
        assert self.lab.ledger.verify().ok
        assert not any(row["viewers"] for row in self.lab.proxyd.live())

    def close(self) -> None:
        """Leave every live view."""
        for view in self.open:
            view.socket.close()
        self.open.clear()

    def _all_left(self) -> bool:
        assert not self.take_in()
        return self.left == self.leaving


def drawn() -> list[str]:
    """The addresses anybody asks for as they stand."""
    return [path for (method, path), one in ADDRESSES.items() if method == "GET" and one.drawn]


def _written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")
