"""What reviewers say of a session: comments, pinned to a moment or not, and marks of review; the rules are the daemon's."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from proxyd.cli_output import place_us
from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError

SHOWN = ("id", "person", "at", "at_us", "text", "mark")


async def comments(visit: Visit) -> Response:
    """Give the player what was said."""
    return JSONResponse([{name: one[name] for name in SHOWN} for one in await _said(visit)])


async def comment(visit: Visit) -> Response:
    """Say something; the player gets the comments there are then, a form of a page that page."""
    moment = visit.form.text("moment")
    if moment and (at_us := place_us(moment)) is None:
        raise ControlError(Code.USAGE, f"{moment} is no moment: write it as 1:23, or as seconds")
    pinned = {"at": at_us / 1e6} if moment and at_us is not None else {}
    await visit.call("comment", session=visit.session, text=visit.form.text("text"), **pinned)
    if visit.form.text("from") == "player":
        return await comments(visit)
    return visit.to(f"/sessions/{visit.session}", "Your comment was kept.")


async def review(visit: Visit) -> Response:
    """Mark a session as reviewed, or take the mark back."""
    done = not visit.form.text("undo")
    await visit.call("review", session=visit.session, text=visit.form.text("text"), done=done)
    notice = "The session is marked as reviewed." if done else "The session waits for review again."
    return visit.to(f"/sessions/{visit.session}", notice)


async def seen(visit: Visit) -> list[dict[str, Any]] | None:
    """Give what was said, the oldest first; None for who may not see the session."""
    try:
        return await _said(visit)
    except ControlError as error:
        if error.code is not Code.DENIED:
            raise
        return None


async def _said(visit: Visit) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await visit.call("comments", session=visit.session))["comments"]
    return found
