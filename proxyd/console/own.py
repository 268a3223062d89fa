"""My access: what a person may reach and how, and what they log in with; the daemon decides, and has them prove it again.

Rule 1: a secret is on the page that answers a form, once; nothing here keeps it, and no address leads back to it.
Rule 2: what can be downloaded without a form holds no secret.
"""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

import segno
from markupsafe import Markup
from starlette.responses import JSONResponse, Response

from proxyd import rdp_file
from proxyd.console.guard import origin_of
from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError
from proxyd.passkeys import Nameless, place_of

TOLD: Final = {Code.DENIED: 403, Code.REFUSED: 409, Code.USAGE: 400, Code.NOT_FOUND: 404}
QR_SCALE: Final = 5  # pixels of a module: read by a phone from half a metre
RDP_TYPE: Final = "application/x-rdp"
PEM_TYPE: Final = "application/x-pem-file"

Then = Callable[[dict[str, Any]], Awaitable[Response]]


async def show(visit: Visit) -> Response:
    """Show what they may reach, and what they log in with."""
    return await _page(visit)


async def instead(visit: Visit) -> Response:
    """Show it to who asked for the list of sessions, and may not see it."""
    visit.who.notice = "You may not list sessions. This is what is your own."
    return await _page(visit, status=403)


async def certificate(visit: Visit) -> Response:
    """Give the certificate a front shows, as the commands on the page expect it."""
    found = (await visit.call("access"))["fronts"].get(visit.request.path_params["protocol"], {})
    if not found.get("file"):
        raise ControlError(Code.NOT_FOUND, "there is no such certificate")
    return _file(found["certificate"].encode(), found["file"], PEM_TYPE)


async def key_add(visit: Visit) -> Response:
    """Add an SSH key."""

    async def done(answer: dict[str, Any]) -> Response:
        return visit.to("/access", f"The key {answer['fingerprint']} was added.")

    return await _change(visit, "own-key-add", done, line=visit.form.text("line"))


async def key_remove(visit: Visit) -> Response:
    """Remove one."""

    async def done(answer: dict[str, Any]) -> Response:
        return visit.to("/access", f"The key {answer['fingerprint']} was removed.")

    return await _change(visit, "own-key-remove", done, fingerprint=visit.form.text("fingerprint"))


async def device(visit: Visit) -> Response:
    """Begin to set up an authenticator: show its secret as a QR code, and as text."""

    async def done(answer: dict[str, Any]) -> Response:
        secret = answer["secret"]
        groups = " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
        return visit.page("device.html", qr=_qr(answer["uri"]), secret=groups, wrong="")

    return await _change(visit, "own-totp", done)


async def device_confirm(visit: Visit) -> Response:
    """Take the authenticator whose code this is; show the recovery codes."""
    try:
        answer = await visit.call("own-totp-confirm", code=visit.form.text("code"))
    except ControlError as error:
        if error.code is not Code.DENIED:
            return await _told(visit, error)
        return visit.page("device.html", 403, qr="", secret="", wrong=_sentence(error))
    return visit.page("codes.html", codes=answer["codes"], said="Your new authenticator counts from now on.")


async def passkey(visit: Visit) -> Response:
    """Begin to add a security key: have the browser make one."""

    async def done(answer: dict[str, Any]) -> Response:
        return visit.page("passkey.html", options=json.dumps(answer["options"]))

    name, origin = visit.form.text("name"), origin_of(visit.request.headers)
    return await _change(visit, "own-passkey", done, name=name, origin=origin)


async def passkey_confirm(visit: Visit) -> Response:
    """Take the key; show recovery codes where it is the first second factor."""
    try:
        answer = await visit.call("own-passkey-confirm", answer=visit.form.secret("answer"))
    except ControlError as error:
        return await _told(visit, error)
    said = f"The security key {answer['name']} counts from now on."
    if answer["codes"]:
        return visit.page("codes.html", codes=answer["codes"], said=said)
    return visit.to("/access", said)


async def passkey_challenge(visit: Visit) -> Response:
    """Give a script what a key is to sign, in place of a code."""
    answer = await visit.call("own-passkey-challenge", origin=origin_of(visit.request.headers))
    return JSONResponse(answer["options"])


async def passkey_remove(visit: Visit) -> Response:
    """Remove one."""

    async def done(answer: dict[str, Any]) -> Response:
        return visit.to("/access", f"The security key {answer['name']} was removed.")

    return await _change(visit, "own-passkey-remove", done, fingerprint=visit.form.text("fingerprint"))


async def recovery(visit: Visit) -> Response:
    """Make new recovery codes."""

    async def done(answer: dict[str, Any]) -> Response:
        return visit.page("codes.html", codes=answer["codes"], said="")

    return await _change(visit, "own-recovery", done)


async def desktop(visit: Visit) -> Response:
    """Make a token for a desktop: shown once, or in a file that opens it."""

    async def done(answer: dict[str, Any]) -> Response:
        name = f"{answer['target']}.rdp"
        if visit.form.text("way") == "file":
            return _file(
                rdp_file.render(answer["address"], answer["username"], answer["token"]), name, RDP_TYPE
            )
        return visit.page("token.html", answer=answer)

    return await _change(
        visit, "own-desktop", done, target=visit.form.text("target"), login=visit.form.text("login")
    )


async def desktop_file(visit: Visit) -> Response:
    """Give the file that opens a desktop and asks for the token, or the password (Rule 2)."""
    asked = visit.request.query_params
    answer = await visit.call("access")
    for row in answer["targets"]:
        if (row["protocol"], row["target"], row["login"]) == ("rdp", asked.get("target"), asked.get("login")):
            front = answer["fronts"]["rdp"]
            host = f"[{front['host']}]" if ":" in front["host"] else front["host"]
            file = rdp_file.render(f"{host}:{front['port']}", row["username"])
            return _file(file, f"{row['target']}.rdp", RDP_TYPE)
    raise ControlError(Code.NOT_FOUND, "there is no such desktop")


async def _page(visit: Visit, wrong: str = "", status: int = 200) -> Response:
    try:
        named = bool(place_of(origin_of(visit.request.headers)))
    except Nameless:
        named = False
    return visit.page("access.html", status, own=await visit.call("access"), named=named, wrong=wrong)


async def _change(visit: Visit, command: str, then: Then, **arguments: str) -> Response:
    """Ask for a change with what proves the person again; what the daemon refuses is said on the page."""
    typed = {"password": visit.form.secret("password"), "code": visit.form.text("code")}
    again = typed | {"passkey": visit.form.secret("passkey")}
    try:
        answer = await visit.call(command, **again, **arguments)
    except ControlError as error:
        return await _told(visit, error)
    return await then(answer)


async def _told(visit: Visit, error: ControlError) -> Response:
    if error.code not in TOLD:
        raise error
    return await _page(visit, _sentence(error), TOLD[error.code])


def _sentence(error: ControlError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _qr(text: str) -> Markup:
    """Draw a QR code as SVG, to stand in the page: an address of it would be the secret's."""
    drawn = io.BytesIO()
    segno.make(text, error="m", micro=False).save(
        drawn,
        kind="svg",
        scale=QR_SCALE,
        light="#fff",
        xmldecl=False,
        svgns=False,
        svgclass=None,
        lineclass=None,
    )
    return Markup(drawn.getvalue().decode())  # noqa: S704 - digits of our own; the text is squares in it


def _file(data: bytes, name: str, kind: str) -> Response:
    """Give a file to keep; RFC 6266 4.3 has names beyond ASCII."""
    return Response(
        data,
        headers={"content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"},
        media_type=kind,
    )
