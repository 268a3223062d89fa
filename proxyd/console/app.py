"""The console as an ASGI application: its table of addresses, and what every error becomes.

Rule 1: everything but signing in, and the files pages are made with, is for signed-in people (visit.signed_in).
Rule 2: what a person may do is the daemon's word, never this table's.
Rule 3: an error is a page that says what happened; a fault of ours says no more than that it is one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp

from proxyd import log, metrics
from proxyd.access import Access
from proxyd.admission import Admission
from proxyd.config import Console, Review
from proxyd.console import (
    acting,
    browsers,
    commenting,
    detail,
    entry,
    finding,
    governing,
    listing,
    live,
    motion,
    own,
    player,
    videos,
)
from proxyd.console.assets import Assets
from proxyd.console.daemon import Daemon
from proxyd.console.emulators import Emulators
from proxyd.console.forms import BadForm
from proxyd.console.guard import Guard, origins
from proxyd.console.kept import Kept
from proxyd.console.motion import Stages
from proxyd.console.pages import Pages
from proxyd.console.player import Surveys
from proxyd.console.provider import Provider
from proxyd.console.recordings import Recordings
from proxyd.console.server import Door
from proxyd.console.signin import SignIns
from proxyd.console.videos import Videos
from proxyd.console.visit import COOKIE, Handler, signed_in
from proxyd.control.client import Code, ControlError
from proxyd.errors import ProxydError

STATUS: Final = {
    Code.USAGE: 400,
    Code.FORMAT: 400,
    Code.DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.REFUSED: 409,
    Code.BUSY: 503,
    Code.UNREACHABLE: 503,
    Code.TIMEOUT: 504,
    Code.INTERNAL: 502,
}
BACK_CHANNEL: Final = "/sign-in/provider/logout"
THUMBS: Final = 512  # small pictures that are kept, some kilobytes each
TITLES: Final = {
    400: "That did not work",
    403: "You may not do this",
    404: "Not found",
    409: "Not now",
    429: "Too many requests",
    503: "The daemon can't be reached",
}

_log = log.get("console")


@dataclass(slots=True)
class Site:
    """What the console's handlers use; a reload replaces `review` and `access`. `live` counts live views."""

    settings: Console
    review: Review
    access: Access
    admission: Admission
    daemon: Daemon
    signins: SignIns
    assets: Assets
    pages: Pages
    recordings: Recordings
    videos: Videos
    provider: Provider | None = None
    door: Door | None = None  # once it is there
    surveys: Surveys = field(default_factory=Surveys)
    stages: Stages = field(default_factory=Stages)
    emulators: Emulators = field(default_factory=Emulators)
    thumbs: Kept[tuple[str, int], bytes] = field(default_factory=lambda: Kept(THUMBS))
    live: int = 0


def guarded(site: Site, hosts: Collection[str]) -> ASGIApp:
    """Make the application behind its door; `hosts`: each "host:port" it is called by.

    The door is around all of it: what starlette answers for a fault carries the browsers' orders too.
    """
    told_at = frozenset({BACK_CHANNEL}) if site.provider is not None else frozenset()
    return Guard(application(site), origins(hosts), told_at)


def application(site: Site) -> Starlette:
    """Make the application itself."""
    app = Starlette(
        routes=[
            Route("/sign-in", entry.ask, methods=["GET"]),
            Route("/sign-in", entry.enter, methods=["POST"]),
            Route("/sign-in/key", entry.enter_by_key, methods=["POST"]),
            Route("/sign-in/provider", entry.go, methods=["POST"]),
            Route(BACK_CHANNEL, entry.signed_out_there, methods=["POST"]),
            Route("/sign-in/provider/back", entry.back, methods=["GET"]),
            Route("/static/{name}", site.assets.serve, methods=["GET"]),
            WebSocketRoute("/sessions/{session}/live/stream", live.stream),
            *(_route(path, handler, method) for method, path, handler in TABLE),
        ],
        exception_handlers={
            ControlError: _control_error,
            ProxydError: _refused,
            BadForm: _bad_form,
            HTTPException: _http_error,
            Exception: _fault,
        },
    )
    app.state.site = site
    return app


_ONE: Final = "/sessions/{session}"
TABLE: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("POST", "/sign-out", entry.leave),
    ("GET", "/sign-ins", browsers.show),
    ("POST", "/sign-ins", browsers.end),
    ("GET", "/signed-in", browsers.show_all),
    ("POST", "/signed-in", browsers.end_any),
    ("GET", "/", listing.sessions),
    ("GET", "/search", finding.search),
    ("GET", "/requests", governing.requests),
    ("POST", "/requests/{request}/{verdict}", governing.decide),
    ("GET", "/exports", videos.exports),
    ("GET", "/exports/{export}", videos.export),
    ("GET", "/exports/{export}/file", videos.take),
    ("GET", "/exports/{export}/manifest", videos.manifest),
    ("GET", "/exports/{export}/verify", videos.verify),
    ("POST", "/exports/{export}/cancel", videos.cancel),
    ("GET", "/blocked", listing.blocked),
    ("POST", "/blocked/release", listing.release),
    ("GET", "/access", own.show),
    ("GET", "/access/certificates/{protocol}", own.certificate),
    ("GET", "/access/desktop.rdp", own.desktop_file),
    ("POST", "/access/desktop", own.desktop),
    ("POST", "/access/keys", own.key_add),
    ("POST", "/access/keys/remove", own.key_remove),
    ("POST", "/access/device", own.device),
    ("POST", "/access/device/confirm", own.device_confirm),
    ("POST", "/access/passkeys", own.passkey),
    ("POST", "/access/passkeys/confirm", own.passkey_confirm),
    ("POST", "/access/passkeys/challenge", own.passkey_challenge),
    ("POST", "/access/passkeys/remove", own.passkey_remove),
    ("POST", "/access/recovery", own.recovery),
    ("GET", _ONE, detail.show),
    ("GET", f"{_ONE}/logs", detail.logs),
    ("GET", f"{_ONE}/live", live.show),
    ("GET", f"{_ONE}/play", player.show),
    ("GET", f"{_ONE}/recording", player.overview),
    ("GET", f"{_ONE}/recording/pieces/{{number}}", player.part),
    ("GET", f"{_ONE}/recording/screens/{{at_us}}", player.screen),
    ("GET", f"{_ONE}/recording/pictures/{{at_us}}", player.picture),
    ("GET", f"{_ONE}/recording/motion/{{first_us}}/{{last_us}}/{{step_us}}", motion.stretch),
    ("GET", f"{_ONE}/recording/thumbs/{{at_us}}", player.thumb),
    ("GET", f"{_ONE}/recording/stills/{{at_us}}", player.still),
    ("GET", f"{_ONE}/video", videos.ask_video),
    ("POST", f"{_ONE}/video", videos.video),
    ("GET", f"{_ONE}/drop", acting.ask_drop),
    ("POST", f"{_ONE}/drop", acting.drop),
    ("POST", f"{_ONE}/block", acting.block),
    ("POST", f"{_ONE}/unblock", acting.unblock),
    ("POST", f"{_ONE}/message", acting.message),
    ("GET", f"{_ONE}/auditors", governing.ask_auditors),
    ("POST", f"{_ONE}/auditors", governing.auditors),
    ("GET", f"{_ONE}/request", governing.ask_request),
    ("POST", f"{_ONE}/request", governing.request),
    ("GET", f"{_ONE}/comments", commenting.comments),
    ("POST", f"{_ONE}/comments", commenting.comment),
    ("POST", f"{_ONE}/review", commenting.review),
    ("GET", f"{_ONE}/hold", acting.ask_hold),
    ("POST", f"{_ONE}/hold", acting.hold),
    ("POST", f"{_ONE}/release", acting.release),
)


def _route(path: str, handler: Handler, method: str) -> BaseRoute:
    return Route(path, signed_in(handler), methods=[method])


def _error(request: Request, status: int, text: str, ask: str = "") -> Response:
    site: Site = request.app.state.site
    who = site.signins.find(request.cookies.get(COOKIE, ""))
    page = site.pages.render(
        "error.html",
        who=who,
        notice="",
        path="",
        title=TITLES.get(status, "That did not work"),
        text=text,
        ask=ask,
    )
    return HTMLResponse(page, status)


async def _control_error(request: Request, error: Exception) -> Response:
    status = STATUS.get(error.code, 502) if isinstance(error, ControlError) else 502
    site: Site = request.app.state.site
    session = request.path_params.get("session", "")
    ask = f"/sessions/{session}/request" if status == 403 and session and site.review.approval else ""
    return _error(request, status, _sentence(str(error)), ask)


async def _refused(request: Request, error: Exception) -> Response:
    _log.warning("a recording can't be shown", path=request.url.path, why=str(error))
    return _error(request, 502, _sentence(str(error)))


async def _bad_form(request: Request, error: Exception) -> Response:
    return _error(request, error.status if isinstance(error, BadForm) else 400, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(
        request, status, "There is nothing at this address." if status == 404 else "That can't be done here."
    )


async def _fault(request: Request, error: Exception) -> Response:
    metrics.CONSOLE_FAULTS.inc()
    _log.error("fault in the console", path=request.url.path, error=type(error).__name__, exc_info=error)
    return _error(request, 500, "The console met a fault of its own; its log says which.")


def _sentence(text: str) -> str:
    for hint in ("; see: proxyctl", ": see proxyctl", ": ask for it with proxyctl", "; now: proxyctl"):
        text = text.partition(hint)[0]  # a page has links for that
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
