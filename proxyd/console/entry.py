"""Signing in to the console, and out.

Rule 1: a password, and a one-time code or a security key unless the configuration says otherwise: the password is checked
        here, so that a flood of guesses costs the daemon nothing, and all else there, where all is known that was used.
Rule 2: every refusal reads the same, and a name that does not exist costs the same time. Who has shown the password of
        somebody with security keys, and no code, is asked for one of them.
Rule 3: addresses that fail are held off as those of the other logins are (admission).
Rule 4: a sign-in has a token never used before; the one this browser had ends with it.
Rule 5: where a provider signs in (console.oidc), its word stands for a user's own factors; a second factor it has to show,
        the user has to be one of ours, at an address of theirs. Only a form of ours begins it; the provider ends it too,
        from its server to ours (OpenID Connect Back-Channel Logout 1.0).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from proxyd import log, metrics
from proxyd.admission import Refused
from proxyd.characters import printable
from proxyd.console.forms import BadForm, Form, read_form
from proxyd.console.guard import origin_of
from proxyd.console.idtoken import Identity
from proxyd.console.provider import Stale, Unreachable
from proxyd.console.signin import TOKEN_BYTES
from proxyd.console.visit import COOKIE, Visit, local_path
from proxyd.errors import Denied
from proxyd.passkeys import WANTED

if TYPE_CHECKING:
    from proxyd.console.app import Site

FORM_COOKIE: Final = "__Host-proxyd-form"  # the other half of the form's token while nobody is signed in
NAME_SHOWN: Final = 64
CODE_LENGTH: Final = 32  # a recovery code has 19
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
    if not _is_ours(request, form):
        return _form(request, wanted, STALE, 403)
    if site.provider is not None and not site.provider.settings.password:
        return _form(request, wanted, "Nobody signs in by name and password here.", 403)
    return await _tried(request, wanted, partial(_asked, request, form), by="password")


async def enter_by_key(request: Request) -> Response:
    """Sign in whose security key has answered, behind their password. Raises BadForm."""
    form = await read_form(request)
    wanted = local_path(form.secret("next"))
    if not _is_ours(request, form):
        return _form(request, wanted, STALE, 403)
    return await _tried(request, wanted, partial(_answered, request, form), by="security key")


async def leave(visit: Visit) -> Response:
    """Sign this browser out; then, where a provider signed it in, there too."""
    site = visit.site
    site.signins.end(visit.request.cookies.get(COOKIE, ""))
    _log.info("signed out", user=visit.who.user, source=visit.who.source)
    away = await site.provider.farewell(visit.who.proof) if site.provider is not None else ""
    answer = _away(site, away, "Signing out") if away else RedirectResponse("/sign-in", 303)
    answer.headers["clear-site-data"] = '"storage"'
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


async def go(request: Request) -> Response:
    """Send the browser to the provider. Raises BadForm."""
    site: Site = request.app.state.site
    form = await read_form(request)
    wanted, held = local_path(form.secret("next")), request.cookies.get(FORM_COOKIE, "")
    if site.provider is None:
        raise BadForm(404, "No provider signs in here.")
    if not _is_ours(request, form):
        return _form(request, wanted, STALE, 403)
    try:
        site.admission.arrive(_source(request)).close()
        address = await site.provider.begin(held, wanted)
    except Refused as refusal:
        return _form(request, wanted, str(refusal), 429)
    except Unreachable as error:
        _log.error("the provider of sign-ins", why=str(error))
        return _form(request, wanted, str(error), 502)
    return _away(site, address, "Signing in")


async def back(request: Request) -> Response:
    """Sign in who comes back from the provider with its word (Rule 5)."""
    site: Site = request.app.state.site
    given, source = dict(request.query_params), _source(request)
    if site.provider is None:
        raise BadForm(404, "No provider signs in here.")
    try:
        ticket = site.admission.arrive(source)
    except Refused as refusal:
        return _form(request, "/", str(refusal), 429)
    wanted = "/"
    try:
        attempt = site.provider.take(request.cookies.get(FORM_COOKIE, ""), given.get("state", ""))
        wanted = attempt.wanted
        identity, proof = await site.provider.finish(attempt, given)
        name = _known(site, identity, source)
    except (Denied, Stale, Unreachable) as error:
        if isinstance(error, Denied):
            ticket.failed("authfail")
        _log.warning("sign-in refused", source=source, by="provider", why=str(error))
        return _form(request, wanted, str(error), 502 if isinstance(error, Unreachable) else 403)
    finally:
        ticket.close()
    return _welcomed(request, name, wanted, proof, by="provider", identity=identity)


async def signed_out_there(request: Request) -> Response:
    """End the sign-ins of whoever has signed out at the provider, as that tells us. Raises BadForm."""
    site: Site = request.app.state.site
    if site.provider is None:
        raise BadForm(404, "No provider signs in here.")
    source = _source(request)
    try:
        ticket = site.admission.arrive(source)
    except Refused as refusal:
        return PlainTextResponse(str(refusal), 429)
    try:
        said = await site.provider.heard((await read_form(request)).secret("logout_token"))
    except (Denied, Unreachable) as error:
        if isinstance(error, Denied):
            ticket.failed("authfail")
        _log.warning("a logout of the provider was refused", source=source, why=str(error))
        return PlainTextResponse(str(error), 400 if isinstance(error, Denied) else 503)
    finally:
        ticket.close()
    count = site.signins.end_from(said.subject, said.session)
    _log.info("signed out at the provider", source=source, count=count)
    return Response(status_code=200)


def _known(site: Site, identity: Identity, source: str) -> str:
    """Give the user a provider means. Raises Denied, with a sentence for them."""
    provider = site.provider
    assert provider is not None  # noqa: S101  who calls has asked it
    wants = provider.settings
    said = identity.text(wants.claim)
    if wants.claim == "email" and identity.claims.get("email_verified") is not True:
        raise Denied("The provider has not verified your address.")
    strong = identity.text("acr") in wants.acr or not identity.texts("amr").isdisjoint(wants.amr)
    if site.settings.second_factor and not strong:
        raise Denied("A second factor is needed: sign out at the provider, and sign in there with one.")
    name = site.access.identified(said) if said else ""
    if not name:
        shown = printable(said[:NAME_SHOWN])
        raise Denied(
            f"{shown} is no user of this proxy; ask its administrator."
            if shown
            else f"The provider does not say who you are here: its {wants.claim} is missing."
        )
    if not site.access.welcomes(name, source):
        raise Denied("You may not sign in from your address.")
    return name


def _welcomed(
    request: Request,
    name: str,
    wanted: str,
    proof: str = "",
    *,
    by: str = "password",
    identity: Identity | None = None,
) -> Response:
    """Sign a user in (Rule 4), and send their browser on."""
    site: Site = request.app.state.site
    source = _source(request)
    site.signins.end(request.cookies.get(COOKIE, ""))
    agent = printable(request.headers.get("user-agent", ""))
    there = (identity.subject, identity.text("sid")) if identity is not None else ("", "")
    token = site.signins.begin(name, source, proof, agent, there)
    _log.info("signed in", user=name, source=source, by=by)
    answer = RedirectResponse(wanted, 303)
    _set(answer, COOKIE, token)
    answer.delete_cookie(FORM_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _away(site: Site, address: str, title: str) -> Response:
    """Give a page that sends the browser to the provider: a form's redirect to elsewhere our policy forbids."""
    provider = site.provider
    name = provider.settings.name if provider is not None else ""
    return HTMLResponse(site.pages.render("away.html", address=address, title=title, provider=name))


def _source(request: Request) -> str:
    return request.client.host if request.client else ""


def _is_ours(request: Request, form: Form) -> bool:
    """Tell whether a form is one this browser was given."""
    held = request.cookies.get(FORM_COOKIE, "")
    return bool(held) and hmac.compare_digest(held.encode(), form.secret("form_token").encode())


def _browser(request: Request) -> str:
    """Give what the daemon knows a browser by that nobody has signed in with yet."""
    return hashlib.sha256(request.cookies.get(FORM_COOKIE, "").encode()).hexdigest()


async def _tried(
    request: Request, wanted: str, ask: Callable[[], Awaitable[dict[str, Any]]], *, by: str
) -> Response:
    """Sign in whom `ask` lets in: it says `user`, and by `why`, for the log, what they lack (Rule 2, Rule 3)."""
    site: Site = request.app.state.site
    source = _source(request)
    try:
        ticket = site.admission.arrive(source)
    except Refused as refusal:
        _log.warning("sign-in refused", source=source, why=refusal.reason)
        return _form(request, wanted, str(refusal), 429)
    try:
        said = await ask()
        if said["why"] == WANTED:
            return _key_form(request, wanted, said["options"])
        if why := said["why"]:
            ticket.failed("authfail")
            _log.warning("sign-in refused", user=printable(said["user"][:NAME_SHOWN]), source=source, why=why)
            return _form(request, wanted, WRONG, 403)
    finally:
        ticket.close()
    return _welcomed(request, said["user"], wanted, by=by)


async def _asked(request: Request, form: Form) -> dict[str, Any]:
    """Have a password looked at, and what else was typed. Raises ControlError."""
    site: Site = request.app.state.site
    name = form.secret("name")
    if not await site.access.verify_password(name, form.secret("password")):
        return {"user": name, "why": "password"}
    given = {"user": name, "code": form.secret("code").strip()[:CODE_LENGTH], "address": _source(request)}
    here = {"browser": _browser(request), "origin": origin_of(request.headers)}
    return await site.daemon.call("", "", "sign-in", **given, **here) | {"user": name}


async def _answered(request: Request, form: Form) -> dict[str, Any]:
    """Have a security key's answer looked at. Raises ControlError."""
    site: Site = request.app.state.site
    given = {"browser": _browser(request), "answer": form.secret("answer"), "address": _source(request)}
    return await site.daemon.call("", "", "sign-in-by-key", **given)


def _key_form(request: Request, wanted: str, options: dict[str, Any]) -> Response:
    """Ask for a security key; the token of the form stays what it was."""
    site: Site = request.app.state.site
    token = request.cookies[FORM_COOKIE]
    asked = json.dumps(options)
    return HTMLResponse(site.pages.render("sign-in-key.html", form_token=token, wanted=wanted, options=asked))


def _form(request: Request, wanted: str, wrong: str = "", status: int = 200) -> Response:
    if wrong:
        metrics.CONSOLE_REFUSED.labels(reason="sign-in").inc()
    site: Site = request.app.state.site
    token = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(TOKEN_BYTES)
    page = site.pages.render(
        "sign-in.html",
        form_token=token,
        wanted=wanted,
        wrong=wrong,
        code=site.settings.second_factor,
        provider=site.provider.settings if site.provider is not None else None,
    )
    answer = HTMLResponse(page, status)
    _set(answer, FORM_COOKIE, token)
    return answer


def _set(answer: Response, name: str, value: str) -> None:
    # Lax, not Strict: a link in a mail leads here too; what changes anything needs a form's token besides.
    answer.set_cookie(name, value, path="/", secure=True, httponly=True, samesite="lax")
