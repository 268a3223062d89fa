"""Who sees a session: its auditors (mission M8), and requests to view it (M9); the rules are the daemon's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from proxyd.console.listing import seconds_of, shown
from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError

SENT: Final = "Your request was sent. Once it is approved you can view the session in the time you named."
FIELDS: Final = ("justification", "reason", "code", "starts", "ends")


async def ask_auditors(visit: Visit) -> Response:
    """Show who may audit a session."""
    answer = await visit.call("show", session=visit.session)
    return await _auditors(visit, answer["session"], answer["auditors"])


async def auditors(visit: Visit) -> Response:
    """Set who may audit a session, or show the form with room for one more."""
    people = visit.form.all("auditor")
    if visit.form.text("add"):
        row = (await visit.call("show", session=visit.session))["session"]
        return await _auditors(visit, row, [*people, ""])
    done = await visit.call("set-auditors", session=visit.session, people=people)
    names, powerless = ", ".join(done["auditors"]), ", ".join(done["powerless"])
    notice = (
        f"Only {names} may audit this session."
        if names
        else "Whoever has the permission may audit this session."
    )
    if powerless:
        notice += f" No role of theirs lets them see anything yet: {powerless}."
    return visit.to(f"/sessions/{visit.session}", notice)


async def _auditors(visit: Visit, row: dict[str, Any], people: list[str]) -> Response:
    users = [user["name"] for user in (await visit.call("users"))["users"]]
    return visit.page("auditors.html", session=shown(row), people=people, users=users)


async def ask_request(visit: Visit) -> Response:
    """Show the justification screen."""
    return await _justification(visit, dict.fromkeys(FIELDS, ""))


async def request(visit: Visit) -> Response:
    """Ask to view a session."""
    given = {name: visit.form.text(name) for name in FIELDS}
    starts, ends = seconds_of(given["starts"]), seconds_of(given["ends"])
    if ends is None:
        return await _justification(visit, given, "Say when access ends.")
    window = {"ends_at": ends} | ({"starts_at": starts} if starts is not None else {})
    words = {name: given[name] for name in ("justification", "reason", "code")}
    try:
        await visit.call("request", session=visit.session, **words, **window)
    except ControlError as error:
        if error.code not in (Code.REFUSED, Code.USAGE):
            raise
        return await _justification(visit, given, f"{str(error)[:1].upper()}{str(error)[1:]}.")
    return visit.to(
        "/requests",
        "Your request was sent. Once it is approved you can view the session in the time you named.",
    )


async def requests(visit: Visit) -> Response:
    """List requests: one's own; of those who decide, everybody's."""
    found = (await visit.call("requests"))["requests"]
    return visit.page("requests.html", rows=found)


async def decide(visit: Visit) -> Response:
    """Approve, deny or revoke one."""
    verdict = visit.request.path_params["verdict"]
    if verdict not in ("approve", "deny", "revoke"):
        raise ControlError(Code.NOT_FOUND, "there is no such decision")
    name, comment = visit.request.path_params["request"], visit.form.text("comment")
    done = (await visit.call(verdict, request=name, comment=comment))["request"]
    return visit.to("/requests", f"The request of {done['person']} is {done['status']}.")


async def may_view(visit: Visit) -> bool:
    """Tell whether it makes sense to open a recording: where approval is on, whether a request of theirs has it now.

    This spares people an error; whether they may see anything, the daemon says at each piece.
    """
    if not visit.site.review.approval:
        return True
    now = time.time()
    found = (await visit.call("requests", session=visit.session, user=visit.who.user))["requests"]
    return any(
        one["person"] == visit.who.user
        and one["status"] == "approved"
        and one["starts_at"] <= now < one["ends_at"]
        for one in found
    )


async def _justification(visit: Visit, given: Mapping[str, str], wrong: str = "") -> Response:
    row = (await visit.call("show", session=visit.session))["session"]
    review = visit.site.review
    return visit.page(
        "request.html", 400 if wrong else 200, session=shown(row), given=given, wrong=wrong, review=review
    )
