"""What may be asked about who sees a session: its auditors (mission M8), and requests to view it (mission M9).

Rule 1: what is asked, decided or changed is in the ledger with who, why and for when.
Rule 2: requests and auditors are users of the proxy: an operator whose entry names none is nobody in particular, and could
        be anybody, so they neither ask nor decide.
Rule 3: whoever may not decide sees their own requests, and no others.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note
from proxyd.control.permissions import Permission, acting_roles
from proxyd.governance.notices import Event, Notice
from proxyd.governance.permissions import allowed
from proxyd.governance.requests import Decision, Request, Status, Verdict, check
from proxyd.governance.rules import NEEDS

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.recorder.catalog import SessionRow

TEXT_LIMIT = 2000  # characters of a justification: a page
WORD_LIMIT = 200  # of a reason, or a code of a ticket system
LIST_LIMIT = 100  # requests a list shows unasked
LIST_MAXIMUM = 10_000
AUDITORS_LIMIT = 100  # of one session: a department

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Auditors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session, by its id or the beginning of it."""

    session: _Id


class SetAuditors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The users who may audit a session, and nobody else; none: whoever has the permission."""

    session: _Id
    people: Annotated[list[_Name], msgspec.Meta(max_length=AUDITORS_LIMIT)]


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to see a session from `starts_at` to `ends_at` (seconds since 1970); no start: now."""

    session: _Id
    justification: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LIMIT)]
    ends_at: float
    starts_at: float | None = None
    reason: Annotated[str, msgspec.Meta(max_length=WORD_LIMIT)] = ""
    code: Annotated[str, msgspec.Meta(max_length=WORD_LIMIT)] = ""


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests: for a session, of a user, that are now what `status` says; empty: all."""

    session: Annotated[str, msgspec.Meta(max_length=128)] = ""
    user: Annotated[str, msgspec.Meta(max_length=256)] = ""
    status: Status | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIST_MAXIMUM)] = LIST_LIMIT


class Decide(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request, by its id or the beginning of it, and why it is decided so."""

    request: _Id
    comment: Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)] = ""


async def auditors(services: Services, _caller: Caller, one: Auditors) -> dict[str, Any]:
    """List a session's auditors."""
    row = await trio.to_thread.run_sync(services.catalog.session, one.session)
    return {"session": row.id, "auditors": await trio.to_thread.run_sync(services.reviews.auditors, row.id)}


async def set_auditors(services: Services, caller: Caller, wanted: SetAuditors) -> dict[str, Any]:
    """Set a session's auditors; `powerless` are those whose roles let them see nothing."""
    people = sorted(set(wanted.people))
    for name in people:
        if name not in services.config.users:
            raise ControlError(Code.NOT_FOUND, f"no user {name}: see proxyctl users list")
    before = await auditors(services, caller, Auditors(wanted.session))
    session = before["session"]
    await note(services, caller, "auditors", session=session, auditors=people, before=before["auditors"])
    await trio.to_thread.run_sync(services.reviews.set_auditors, session, people, caller.name)
    needed = frozenset(NEEDS.values())
    powerless = [name for name in people if not needed & allowed(*acting_roles(services.config, name))]
    return {"session": session, "auditors": people, "powerless": powerless}


async def ask(services: Services, caller: Caller, wanted: Ask) -> dict[str, Any]:
    """Ask to see a session."""
    person = _person(caller)
    if not services.config.review.approval:
        text = "nothing to ask for: review.approval is off, sessions are seen by whoever has the permission"
        raise ControlError(Code.REFUSED, text)
    if not frozenset(NEEDS.values()) & caller.permissions:
        caller.require(Permission.REPLAY)
    row = await trio.to_thread.run_sync(services.catalog.session, wanted.session)
    now = services.reviews.now()
    fresh = Request(
        id="",
        session=row.id,
        person=person,
        reason=wanted.reason,
        justification=wanted.justification,
        code=wanted.code,
        starts_at=now if wanted.starts_at is None else wanted.starts_at,
        ends_at=wanted.ends_at,
        asked_at=now,
        needed=services.config.review.approvers,
        via=caller.via,
    )
    check(fresh, services.config.review)
    kept = await trio.to_thread.run_sync(services.reviews.ask, fresh)
    told = {"reason": kept.reason, "justification": kept.justification, "code": kept.code}
    window = {"starts_at": kept.starts_at, "ends_at": kept.ends_at}
    await note(services, caller, "request", session=row.id, request=kept.id, **told, **window)
    _tell_deciders(services, kept, row)
    return {"request": shown(kept, now)}


def _tell_deciders(services: Services, request: Request, row: SessionRow) -> None:
    notifier = services.notifier
    details = {
        "justification": request.justification,
        "reason": request.reason,
        "code": request.code,
        "access": f"{_moment(request.starts_at)} to {_moment(request.ends_at)}",
        "decide": f"proxyctl approve {request.id[:8]}, or deny",
    }
    title = f"{request.person} asks to see the session of {row.user} on {row.login}@{row.target}"
    event = Event.REQUEST_WAITS
    people = notifier.deciders(request.person)
    notifier.tell(Notice(event, request.asked_at, row.id, title, people, details), again=request.id)


def _tell_asker(services: Services, request: Request, decision: Decision, status: Status) -> None:
    if status is Status.PENDING or decision.person == request.person:
        return
    details = {"by": decision.person, "comment": decision.comment,
               "access": f"{_moment(request.starts_at)} to {_moment(request.ends_at)}"}  # fmt: skip
    title = f"your request to see session {request.session[:8]} is {status}"
    notice = Notice(Event.REQUEST_DECIDED, decision.at, request.session, title, (request.person,), details)
    services.notifier.tell(notice, again=f"{request.id} {status}")


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


async def requests(services: Services, caller: Caller, wanted: Filter) -> dict[str, Any]:
    """List requests, newest first: of an approver everybody's, else the caller's own (rule 3)."""
    person = wanted.user if Permission.DECIDE in caller.permissions else _person(caller)
    session = wanted.session
    if session:
        session = (await trio.to_thread.run_sync(services.catalog.session, session)).id
    reviews = services.reviews
    found = await trio.to_thread.run_sync(
        lambda: reviews.requests(session=session, person=person, status=wanted.status, limit=wanted.limit)
    )
    return {"requests": [shown(one, reviews.now()) for one in found]}


async def approve(services: Services, caller: Caller, wanted: Decide) -> dict[str, Any]:
    """Approve a request of somebody else's."""
    return await _decide(services, caller, wanted, Verdict.APPROVE)


async def deny(services: Services, caller: Caller, wanted: Decide) -> dict[str, Any]:
    """Deny a request of somebody else's."""
    return await _decide(services, caller, wanted, Verdict.DENY)


async def revoke(services: Services, caller: Caller, wanted: Decide) -> dict[str, Any]:
    """Take back what was approved, or one's own request."""
    return await _decide(services, caller, wanted, Verdict.REVOKE)


async def _decide(services: Services, caller: Caller, wanted: Decide, verdict: Verdict) -> dict[str, Any]:
    person = _person(caller)
    may_decide = Permission.DECIDE in caller.permissions
    reviews = services.reviews
    kept = await trio.to_thread.run_sync(
        lambda: reviews.decide(
            wanted.request, person, verdict, may_decide=may_decide, comment=wanted.comment, via=caller.via
        )
    )
    now = reviews.now()
    about = {"request": kept.id, "verdict": verdict.value, "user": kept.person, "comment": wanted.comment}
    await note(services, caller, "decision", session=kept.session, status=kept.status(now).value, **about)
    _tell_asker(services, kept, kept.decisions[-1], kept.status(now))
    return {"request": shown(kept, now)}


def shown(request: Request, now: float) -> dict[str, Any]:
    """Give a request as the control socket says it."""
    told = dataclasses.asdict(request)
    told["decisions"] = [dict(one) | {"verdict": str(one["verdict"])} for one in told["decisions"]]
    return told | {"status": request.status(now).value}


def _person(caller: Caller) -> str:
    """Say which user of the proxy asks (rule 2). Raises ControlError."""
    if not caller.user:
        text = (
            f"requests are made and decided by users of the proxy: {caller.name}'s entry of [[control.operators]] says "
            "not which user they are"
        )
        raise ControlError(Code.DENIED, text)
    return caller.user
