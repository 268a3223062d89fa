"""One request of a signed-in person: who it is, what they ask, and the page they get."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from proxyd import metrics
from proxyd.console.forms import BadForm, Form, read_form
from proxyd.console.guard import policy
from proxyd.console.signin import SignIn
from proxyd.control.client import Code, ControlError

if TYPE_CHECKING:
    from proxyd.console.app import Site

COOKIE: Final = "__Host-proxyd"  # the prefix: Secure, this host only, path "/" (RFC 6265bis 4.1.3)
REFRESH: Final = "x-proxyd-refresh"  # a page asks by itself, and nobody need be there
SESSION_ID: Final = re.compile(r"[0-9A-Za-z_.-]{1,128}")
DIGITS: Final = 15  # of a number in an address: 31 years in microseconds
LOCAL: Final = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of `who`; `form` is empty where none was posted."""

    site: Site
    request: Request
    who: SignIn
    form: Form

    @property
    def session(self) -> str:
        """The session the address names; raises ControlError where that can be none."""
        return session_of(self.request.path_params)

    def number(self, name: str) -> int:
        """Give a number of the address; raises ControlError where that is none."""
        text = self.request.path_params[name]
        if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS):
            raise ControlError(Code.NOT_FOUND, "there is no such piece")
        return int(text)

    async def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Ask the daemon for this person. Raises ControlError."""
        return await self.site.daemon.call(self.who.user, self.who.source, name, **arguments)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """Give a page of the console."""
        notice, self.who.notice = self.who.notice, ""
        text = self.site.pages.render(
            template, who=self.who, notice=notice, path=self.request.url.path, **values
        )
        return HTMLResponse(text, status)

    def stage(self, template: str, **values: Any) -> Response:
        """Give a page with a terminal in it, which makes style sheets for itself."""
        nonce = secrets.token_urlsafe(16)
        answer = self.page(template, nonce=nonce, **values)
        answer.headers["content-security-policy"] = policy(nonce)
        return answer

    def to(self, path: str, notice: str = "") -> Response:
        """Send the browser on to a page, which tells `notice`."""
        self.who.notice = notice
        return RedirectResponse(path, 303)


def session_of(named: dict[str, Any]) -> str:
    """Give the session an address names; raises ControlError where that can be none."""
    session = str(named["session"])
    if not SESSION_ID.fullmatch(session):
        raise ControlError(Code.NOT_FOUND, "there is no such session")
    return session


Handler = Callable[[Visit], Awaitable[Response]]


def signed_in(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Make a handler for signed-in people only; of a POST the form is theirs, or it is refused."""

    async def answer(request: Request) -> Response:
        site: Site = request.app.state.site
        counts = REFRESH not in request.headers
        who = site.signins.find(request.cookies.get(COOKIE, ""), counts=counts)
        if who is None:
            return _to_sign_in(request)
        if not site.signins.take(who):
            metrics.CONSOLE_REFUSED.labels(reason="requests").inc()
            return Response(
                "Too many requests; wait a moment.", 429, {"retry-after": "2"}, media_type="text/plain"
            )
        form = Form([])
        if request.method == "POST":
            form = await read_form(request)
            if not who.holds(form.secret("form_token")):
                metrics.CONSOLE_REFUSED.labels(reason="form").inc()
                raise BadForm(403, "This form is out of date: go back, load the page again, and repeat it.")
        return await handler(Visit(site, request, who, form))

    return answer


def _to_sign_in(request: Request) -> Response:
    if request.method == "POST" or request.headers.get("sec-fetch-mode", "navigate") != "navigate":
        return Response("You are signed out; sign in again.", 401, media_type="text/plain")
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/sign-in?next={quote(wanted, safe='')}", 303)


def local_path(text: str) -> str:
    """Give a path of this console to go on to; the list of sessions for anything else."""
    return text if LOCAL.fullmatch(text) else "/"
