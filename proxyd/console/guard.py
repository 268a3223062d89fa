"""The door of the console: what every request must be, and what every answer carries (ASVS 5.0, chapter 3).

Rule 1: a request names this console as its host; one that changes something, or opens a socket, comes from a page of its
        own. Another site's page gets nothing, not even a picture, but may link here. What servers tell us (`told_at`) comes
        from no page at all.
Rule 2: every answer says that nothing foreign runs in it, frames it or guesses its type, and that nobody keeps it.
Rule 3: it knows no user, no page and no session; it works on ASGI's messages and never reads a body.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxyd import metrics

HTTPS_PORT: Final = "443"
METHODS: Final = frozenset({"GET", "HEAD", "POST"})
SAFE: Final = frozenset({"GET", "HEAD"})
CLOSE_POLICY: Final = 1008  # RFC 6455 7.4.1
POLICY: Final[Mapping[str, str]] = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}
HEADERS: Final[Mapping[str, str]] = {
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for what does not know frame-ancestors
    "referrer-policy": "same-origin",  # no-referrer would make the Origin of our own forms "null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}


def policy(nonce: str = "") -> str:
    """Give the Content-Security-Policy; `nonce`: of the style sheets a terminal makes for itself."""
    named = dict(POLICY)
    if nonce:
        named["style-src"] += f" 'nonce-{nonce}'"
    return "; ".join(f"{name} {value}" for name, value in named.items())


def origins(hosts: Iterable[str]) -> frozenset[str]:
    """Give what browsers may call the console: each "host:port", and "host" alone where the port is HTTPS's own."""
    names = set()
    for host in hosts:
        name, _, port = host.rpartition(":")
        names.add(host.lower())
        if port == HTTPS_PORT:
            names.add(name.lower())
    return frozenset(names)


class Guard:
    """The outermost middleware; `hosts`: what the console is called, `told_at`: paths other servers post to."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], told_at: frozenset[str] = frozenset()) -> None:
        self._app, self._hosts, self._told_at = app, hosts, told_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["type"] == "websocket":
            await self._socket(headers, scope, receive, send)
            return
        refusal = self._refusal(scope["method"], scope["path"], headers)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    given.setdefault(name, value)
                given.setdefault("content-security-policy", policy())
            await send(message)

        await (refusal or self._app)(scope, receive, send_guarded)

    async def _socket(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a socket of another site before it is accepted: the browser sees a failed handshake."""
        if self._is_own(headers) and headers.get("origin", "") == origin_of(headers):
            await self._app(scope, receive, send)
            return
        metrics.CONSOLE_REFUSED.labels(reason="origin").inc()
        await receive()
        await send({"type": "websocket.close", "code": CLOSE_POLICY})

    def _refusal(self, method: str, path: str, headers: Headers) -> ASGIApp | None:
        if not self._is_own(headers):
            return _refused("host", "This console has another name.", 421)
        if method not in METHODS:
            return _refused("method", "There is no such method here.", 405)
        if "transfer-encoding" in headers and "content-length" in headers:
            # RFC 9112 6.1: what two servers may cut differently; nothing behind it on this connection is read
            return _refused("framing", "This request does not say where it ends.", 400)
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        if method in SAFE:
            foreign = site in ("cross-site", "same-site") and mode != "navigate"
        elif path in self._told_at:
            foreign = "origin" in headers or bool(site)  # a browser says one of them with every form
        else:
            origin = headers.get("origin")
            foreign = origin != origin_of(headers) if origin is not None else site != "same-origin"
        return _refused("origin", "This came from another site's page.", 403) if foreign else None

    def _is_own(self, headers: Headers) -> bool:
        return headers.get("host", "").lower() in self._hosts


def _refused(reason: str, text: str, status: int) -> ASGIApp:
    metrics.CONSOLE_REFUSED.labels(reason=reason).inc()
    return PlainTextResponse(text, status, {"connection": "close"})


def origin_of(headers: Headers) -> str:
    """Give the origin of our own pages, as the browser that asks calls us; the guard has seen that it may."""
    return f"https://{headers.get('host', '').lower()}"
