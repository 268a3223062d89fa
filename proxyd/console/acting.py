"""What is done to a session from its page: drop, block, message, hold; each asked by a form, done by the daemon."""

from __future__ import annotations

from starlette.responses import Response

from proxyd.console.listing import shown
from proxyd.console.visit import Visit


async def ask_drop(visit: Visit) -> Response:
    """Ask whether the session is to be dropped."""
    return visit.page(
        "drop.html", session=shown((await visit.call("show", session=visit.session))["session"]), done=False
    )


async def drop(visit: Visit) -> Response:
    """Drop it, and say so."""
    row = (await visit.call("show", session=visit.session))["session"]
    await visit.call("drop", session=visit.session, reason=visit.form.text("reason"))
    return visit.page("drop.html", session=shown(row), done=True)


async def block(visit: Visit) -> Response:
    """Stop what the user types."""
    done = await visit.call("block", session=visit.session, reason=visit.form.text("reason"))
    return _back(visit, f"{done['user']} is blocked on {done['target']}: what they type is refused.")


async def unblock(visit: Visit) -> Response:
    """Let them go on."""
    done = await visit.call("unblock", whom=visit.session)
    return _back(visit, f"{done['user']} may go on at {done['target']}.")


async def message(visit: Visit) -> Response:
    """Tell the user something."""
    done = await visit.call("message", session=visit.session, text=visit.form.text("text"))
    return _back(visit, f"{done['user']} was told.")


async def ask_hold(visit: Visit) -> Response:
    """Ask why the recording is to be kept."""
    answer = await visit.call("show", session=visit.session)
    return visit.page("hold.html", session=shown(answer["session"]), hold=answer["hold"])


async def hold(visit: Visit) -> Response:
    """Keep it."""
    await visit.call("hold", session=visit.session, reason=visit.form.text("reason"))
    return visit.to(f"/sessions/{visit.session}", "The recording is kept: no purge takes it.")


async def release(visit: Visit) -> Response:
    """Let it go when its time comes."""
    await visit.call("release", session=visit.session, reason=visit.form.text("reason"))
    return visit.to(f"/sessions/{visit.session}", "The recording is held no longer.")


def _back(visit: Visit, notice: str) -> Response:
    """Go back to where the form was: the live view, or the session's page."""
    live = visit.form.text("from") == "live"
    return visit.to(f"/sessions/{visit.session}{'/live' if live else ''}", notice)
