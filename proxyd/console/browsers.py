"""Where a user is signed in, and signing out there: oneself (ASVS 5.0, 7.5.2), and others as the daemon lets (7.4.5)."""

from __future__ import annotations

from starlette.responses import Response

from proxyd import log
from proxyd.console.visit import Visit

_log = log.get("console")


async def show(visit: Visit) -> Response:
    """List the browsers, the newest first."""
    signins = visit.site.signins
    rows = [
        {
            "number": number,
            "source": one.source,
            "agent": one.agent,
            "began": signins.age(one.began),
            "seen": signins.age(one.seen),
            "this": one is visit.who,
        }
        for number, one in reversed(signins.of(visit.who.user).items())
    ]
    return visit.page("sign-ins.html", rows=rows)


async def end(visit: Visit) -> Response:
    """Sign out one, or all but this one."""
    signins, who = visit.site.signins, visit.who
    number = visit.form.text("number")
    own = [name for name, one in signins.of(who.user).items() if one is who]
    count = signins.end_others(who) if not number else number not in own and signins.end_of(who.user, number)
    _log.info("signed out elsewhere", user=who.user, source=who.source, count=int(count))
    return visit.to("/sign-ins", f"{int(count)} {'browser is' if count == 1 else 'browsers are'} signed out.")


async def show_all(visit: Visit) -> Response:
    """List who is signed in, as the daemon knows it."""
    rows = (await visit.call("sign-ins"))["sign_ins"]
    own = {number for number, one in visit.site.signins.of(visit.who.user).items() if one is visit.who}
    return visit.page("signed-in.html", rows=rows, own=own)


async def end_any(visit: Visit) -> Response:
    """Sign out one browser of somebody, or all of theirs."""
    user, number = visit.form.text("user"), visit.form.text("number")
    count = (await visit.call("sign-out", user=user, number=number))["ended"]
    return visit.to("/signed-in", f"{count} {'browser' if count == 1 else 'browsers'} of {user} signed out.")
