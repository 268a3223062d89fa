"""Signing in to the console, and out.

Rule 1: a password, and a one-time code unless the configuration says otherwise: what proxyd's own logins ask (access).
Rule 2: every refusal reads the same, and a name that does not exist costs the same time.
Rule 3: addresses that fail are held off as those of the other logins are (admission).
Rule 4: a sign-in has a token never used before; the one this browser had ends with it.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from proxyd import log
from proxyd.admission import Refused
from proxyd.characters import printable
from proxyd.console.forms import Form, read_form
from proxyd.console.signin import TOKEN_BYTES
from proxyd.console.visit import COOKIE, Visit, local_path

if TYPE_CHECKING:
    from proxyd.console.app import Site

FORM_COOKIE: Final = "__Host-proxyd-form"  # the other half of the form's token while nobody is signed in
NAME_SHOWN: Final = 64
WRONG: Final = "That did not sign you in. Check name, password and code; a code is good once."
STALE: Final = "This page had been open for long, or cookies are off. Try again."

_log = log.get("console")


async def ask(request: Request) -> Response:
    """Show the form."""
    site: Site = request.app.state.site
    if site.signins.find(request.cookies.get(COOKIE, "")) is not None:
        return RedirectResponse(local_path(request.query_params.get("next", "/")), 303)
    return _form(request, local_path(request.query_params.get("next", "/")))


async def enter(request: Request) -> Response:
    """Sign in with what was typed (Rule 1, Rule 2). Raises BadForm."""
    site: Site = request.app.state.site
    form = await read_form(request)
    wanted = local_path(form.secret("next"))
    held = request.cookies.get(FORM_COOKIE, "")
    if not held or not hmac.compare_digest(held.encode(), form.secret("form_token").encode()):
        return _form(request, wanted, STALE, 403)
    source = request.client.host if request.client else ""
    try:
        ticket = site.admission.arrive(source)
    except Refused as refusal:
        _log.warning("sign-in refused", source=source, why=refusal.reason)
        return _form(request, wanted, str(refusal), 429)
    try:
        name = form.secret("name")
        if why := await _refusal(site, form, name, source):
            ticket.failed("authfail")
            _log.warning("sign-in refused", user=printable(name[:NAME_SHOWN]), source=source, why=why)
            return _form(request, wanted, WRONG, 403)
    finally:
        ticket.close()
    site.signins.end(request.cookies.get(COOKIE, ""))
    token = site.signins.begin(name, source)
    _log.info("signed in", user=name, source=source)
    answer = RedirectResponse(wanted, 303)
    _set(answer, COOKIE, token)
    answer.delete_cookie(FORM_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


async def leave(visit: Visit) -> Response:
    """Sign this browser out."""
    visit.site.signins.end(visit.request.cookies.get(COOKIE, ""))
    _log.info("signed out", user=visit.who.user, source=visit.who.source)
    answer = RedirectResponse("/sign-in", 303, {"clear-site-data": '"storage"'})
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


async def _refusal(site: Site, form: Form, name: str, source: str) -> str:
    """Say for the log why these do not sign anybody in; empty when they do."""
    access, code = site.access, form.secret("code").strip()
    done = frozenset[str]()
    if await access.verify_password(name, form.secret("password")):
        done |= {"password"}
    if not done:
        return "password"
    if code and await access.verify_totp(name, code):
        done |= {"totp"}
    if code and "totp" not in done:
        return "one-time code"
    if site.settings.second_factor and "totp" not in done:
        return "no one-time code"
    if access.missing(name, done) != frozenset():
        return "needs more factors"
    return "" if access.welcomes(name, source) else "address"


def _form(request: Request, wanted: str, wrong: str = "", status: int = 200) -> Response:
    site: Site = request.app.state.site
    token = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(TOKEN_BYTES)
    page = site.pages.render(
        "sign-in.html", form_token=token, wanted=wanted, wrong=wrong, code=site.settings.second_factor
    )
    answer = HTMLResponse(page, status)
    _set(answer, FORM_COOKIE, token)
    return answer


def _set(answer: Response, name: str, value: str) -> None:
    # Lax, not Strict: a link in a mail leads here too; what changes anything needs a form's token besides.
    answer.set_cookie(name, value, path="/", secure=True, httponly=True, samesite="lax")
