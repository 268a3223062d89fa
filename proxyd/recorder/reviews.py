"""Auditors of sessions and requests to view them, kept in the catalog's database; beside them what is said of sessions.

Rule 1: what a method answered is on disk.
Rule 2: a verdict is judged in the transaction that keeps it: of two at once the second sees the first.
Rule 3: every method may be called from any thread, and waits for storage: call it through `trio.to_thread`.
Rule 4: `version` changes with everything this process writes, so that who has looked knows when to look again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from typing import Final, NamedTuple

import sqlalchemy as sa

from proxyd.governance.requests import Decision, Request, RequestRefused, Status, Verdict
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.comments import Comments
from proxyd.recorder.schema import AUDITORS, DECISIONS, REQUESTS

ID_BYTES: Final = 8
LIST_LIMIT: Final = 10_000  # requests a list looks at: years of them, and some megabytes
MAX_PENDING: Final = (
    100  # of one person: nobody reads more, and a script must not fill the list of who decides
)


class NoRequest(RequestRefused):
    """No request has that id, or more than one begins like that."""


class Standing(NamedTuple):
    """What decides who sees a session."""

    auditors: frozenset[str]
    requests: Sequence[Request]


class Reviews:
    """Who may see which sessions, beyond what roles say."""

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._database = catalog.database
        self._clock = clock
        self.version = 0
        self.comments = Comments(catalog, clock=clock)

    def now(self) -> float:
        """Give the time by which windows are judged, in seconds since 1970."""
        return self._clock()

    # ------------------------------------------------------------------ auditors

    def set_auditors(self, session: str, people: Collection[str], by: str) -> str:
        """Let these people, and nobody else, audit a session; none: whoever has the permission.

        Gives the session's whole id. Raises NotFound.
        """
        row = self._catalog.session(session)
        rows = [{"session": row.id, "person": one, "author": by, "at": self.now()} for one in sorted(people)]
        with self._database.write() as connection:
            connection.execute(AUDITORS.delete().where(AUDITORS.c.session == row.id))
            if rows:
                connection.execute(AUDITORS.insert(), rows)
        self.version += 1
        return row.id

    def auditors(self, session: str) -> list[str]:
        """List the auditors of the session with this whole id."""
        query = sa.select(AUDITORS.c.person).where(AUDITORS.c.session == session).order_by(AUDITORS.c.person)
        with self._database.read() as connection:
            return list(connection.scalars(query))

    # ------------------------------------------------------------------ what decides

    def standing(self, session: str, person: str) -> Standing:
        """Give what decides whether a person sees the session with this whole id, as of one moment."""
        auditors = sa.select(AUDITORS.c.person).where(AUDITORS.c.session == session)
        mine = (REQUESTS.c.session == session, REQUESTS.c.person == person)
        with self._database.read() as connection:
            return Standing(frozenset(connection.scalars(auditors)), _requests(connection, *mine))

    def standings(self, person: str) -> Callable[[str], Standing]:
        """Give what gives the same for any session, as of one moment: for who looks into many."""
        auditors: dict[str, set[str]] = {}
        requests: dict[str, list[Request]] = {}
        with self._database.read() as connection:
            for session, one in connection.execute(sa.select(AUDITORS.c.session, AUDITORS.c.person)):
                auditors.setdefault(session, set()).add(one)
            for request in _requests(
                connection, REQUESTS.c.person == person, REQUESTS.c.ends_at > self.now()
            ):
                requests.setdefault(request.session, []).append(request)
        return lambda session: Standing(frozenset(auditors.get(session, ())), requests.get(session, ()))

    # ------------------------------------------------------------------ requests

    def ask(self, request: Request) -> Request:
        """Keep a new request, under an id it gets here. Raises NotFound, RequestRefused for the hundredth that waits."""
        session = self._catalog.session(request.session).id
        kept = replace(request, id=secrets.token_hex(ID_BYTES), session=session, decisions=())
        values = asdict(kept)
        del values["decisions"]
        mine = (REQUESTS.c.person == kept.person, REQUESTS.c.ends_at > kept.asked_at)
        with self._database.write() as connection:
            waiting = [
                one for one in _requests(connection, *mine) if one.status(kept.asked_at) is Status.PENDING
            ]
            if len(waiting) >= MAX_PENDING:
                raise RequestRefused(
                    f"{len(waiting)} requests of yours wait already: revoke those you need no more"
                )
            connection.execute(REQUESTS.insert().values(values))
        self.version += 1
        return kept

    def decide(
        self,
        request: str,
        person: str,
        verdict: Verdict,
        *,
        may_decide: bool,
        comment: str = "",
        via: str = "",
    ) -> Request:
        """Keep a verdict on the request with this id, or the only one whose id begins so, and give what it is then.

        Raises NoRequest, and RequestRefused for a verdict that does not count.
        """
        with self._database.write() as connection:
            name = _one(connection, request).id
            _lock(connection, name)
            found = _one(connection, name)
            decision = Decision(person, verdict, self.now(), comment, via)
            found.refuse(person, verdict, decision.at, may_decide=may_decide)
            values = asdict(decision) | {
                "request": name,
                "verdict": verdict.value,
            }  # drivers keep enums by their names
            connection.execute(DECISIONS.insert().values(values))
        self.version += 1
        return replace(found, decisions=(*found.decisions, decision))

    def request(self, name: str) -> Request:
        """Give the request with this id, or the only one whose id begins so. Raises NoRequest."""
        with self._database.read() as connection:
            return _one(connection, name)

    def requests(
        self, *, session: str = "", person: str = "", status: Status | None = None, limit: int = LIST_LIMIT
    ) -> list[Request]:
        """List requests, newest first: of a session (its whole id), of a person, that are now what `status` says."""
        now = self.now()
        conditions = [REQUESTS.c.session == session] * bool(session) + [REQUESTS.c.person == person] * bool(
            person
        )
        if status in (Status.PENDING, Status.APPROVED):
            conditions.append(REQUESTS.c.ends_at > now)
        with self._database.read() as connection:
            found = _requests(connection, *conditions)
        return [one for one in found if status is None or one.status(now) is status][:limit]


def _requests(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Request]:
    """Read requests with their decisions, newest first."""
    query = (
        sa.select(REQUESTS)
        .where(*conditions)
        .order_by(REQUESTS.c.asked_at.desc(), REQUESTS.c.id)
        .limit(LIST_LIMIT)
    )
    rows = list(connection.execute(query).mappings())
    decided: dict[str, list[Decision]] = {}
    of = DECISIONS.c.request.in_(sa.select(REQUESTS.c.id).where(*conditions))
    for row in connection.execute(sa.select(DECISIONS).where(of).order_by(DECISIONS.c.at)).mappings():
        values = {name: row[name] for name in ("person", "at", "comment", "via")}
        decided.setdefault(row["request"], []).append(Decision(verdict=Verdict(row["verdict"]), **values))
    return [Request(**row, decisions=tuple(decided.get(row["id"], ()))) for row in rows]


def _one(connection: sa.Connection, name: str) -> Request:
    found = _requests(connection, REQUESTS.c.id.startswith(name, autoescape=True)) if name else []
    exact = [one for one in found if one.id == name]
    if not found:
        raise NoRequest(f"no request {name}: see proxyctl requests")
    if len(found) > 1 and not exact:
        raise NoRequest(f"{name} is the beginning of more than one request: see proxyctl requests")
    return (exact or found)[0]


def _lock(connection: sa.Connection, request: str) -> None:
    """Let nobody else decide on this request meanwhile (rule 2): SQLite's writers wait for each other anyway."""
    connection.execute(sa.select(REQUESTS.c.id).where(REQUESTS.c.id == request).with_for_update())
