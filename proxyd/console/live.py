"""Live views in the browser: what a session shows now, over a WebSocket.

Rule 1: the daemon decides whether this person may watch, and writes that they do; leaving the page ends it there too.
Rule 2: a terminal's output passes the filter `proxyctl watch` has: what is left may paint and nothing else.
Rule 3: a viewer who comes late gets the picture as it is, not all that ever was; one who is slow is not waited for.
Rule 4: a browser has nothing to say on this socket: what it sends ends it. Actions are forms, with their own checks.
Rule 5: it ends with the sign-in: at once where somebody ends that, within CHECK_SECONDS where time does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgpack
import trio
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from proxyd import log
from proxyd.cli_view import Scene
from proxyd.console.daemon import Stream
from proxyd.console.listing import shown
from proxyd.console.signin import LIVE_OF_ONE, SignIn
from proxyd.console.survey import query_of
from proxyd.console.visit import COOKIE, Visit, session_of
from proxyd.control.client import ControlError, unpack_records
from proxyd.recorder.queries import PROTOCOLS, Queries
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.telling import told_by
from proxyd.terminal import Picture

if TYPE_CHECKING:
    from proxyd.console.app import Site

LIVE_OF_ALL: Final = 40  # the control socket takes 64 connections, and lists and actions need some
CHECK_SECONDS: Final = 5.0
DESKTOP: Final = "rdp"
CLOSE_REFUSED, CLOSE_OVER, CLOSE_CROWD = (
    4403,
    4401,
    4429,
)  # RFC 6455 7.4.2: private use; HTTP's numbers for it
REASON_BYTES: Final = 120  # RFC 6455 5.5: a control frame holds 125
_LOGGED: Final = frozenset({Kind.CHANNEL, Kind.REQUEST})  # too much of it for a feed beside a screen

_log = log.get("console")


async def show(visit: Visit) -> Response:
    """Show the page a live view is in; of an ended session, its own page."""
    answer = await visit.call("show", session=visit.session)
    session = shown(answer["session"])
    if not session["is_live"]:
        return visit.to(f"/sessions/{visit.session}", "This session has ended; its recording is here.")
    kind = (
        "desktop"
        if session["protocol"] == DESKTOP
        else "queries"
        if session["protocol"] in PROTOCOLS
        else "terminal"
    )
    return visit.stage("live.html", session=session, block=answer["block"], kind=kind)


async def stream(socket: WebSocket) -> None:
    """Send a live session to a browser until either ends."""
    site: Site = socket.app.state.site
    who = site.signins.find(socket.cookies.get(COOKIE, ""))
    if who is None:
        await socket.close(CLOSE_OVER)
        return
    await socket.accept()
    if who.live >= LIVE_OF_ONE or site.live >= LIVE_OF_ALL:
        await socket.close(CLOSE_CROWD, "Too many live views are open.")
        return
    who.live, site.live = who.live + 1, site.live + 1
    try:
        code, reason = await _watch(site, socket, who)
        await socket.close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))
    except (WebSocketDisconnect, RuntimeError):
        pass  # the browser has gone: starlette says either
    finally:
        who.live, site.live = who.live - 1, site.live - 1


async def _watch(site: Site, socket: WebSocket, who: SignIn) -> tuple[int, str]:
    """Give how the view ended: a close code and a sentence."""
    ended = (1000, "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_heard, socket, nursery.cancel_scope)
        nursery.start_soon(_until_over, site, who, nursery.cancel_scope)
        try:
            session = session_of(socket.path_params)
            row = (await site.daemon.call(who.user, who.source, "show", session=session))["session"]
            name = "look" if row["protocol"] == DESKTOP else "watch"
            async with site.daemon.stream(who.user, who.source, name, session=session) as frames:
                await (_desktop if name == "look" else _records)(socket, frames, row)
        except ControlError as error:
            ended = (CLOSE_REFUSED, str(error))
        nursery.cancel_scope.cancel()
    if who.over or not site.signins.good(who):
        return CLOSE_OVER, "You are signed out."
    return ended


async def _until_heard(socket: WebSocket, scope: trio.CancelScope) -> None:
    """Cancel when the browser leaves, or says anything (rule 4)."""
    await socket.receive()
    scope.cancel()


async def _until_over(site: Site, who: SignIn, scope: trio.CancelScope) -> None:
    while site.signins.good(who):
        with trio.move_on_after(CHECK_SECONDS):
            await site.signins.changed.wait()
    scope.cancel()


async def _desktop(socket: WebSocket, stream: Stream, row: Mapping[str, Any]) -> None:
    """Pass on what a desktop shows; the pixels stay compressed."""
    await _say(socket, about=_about(row))
    blocked = None
    while "end" not in (frame := await stream.receive()):
        if "shown" not in frame:
            await _say(socket, watching=frame["session"]["viewers"])
            continue
        if frame["blocked"] is not blocked:
            blocked = frame["blocked"]
            await _say(socket, blocked="an operator" if blocked else "")
        if frame["shown"]:
            await _say(socket, shown=frame["shown"])
    await _say(socket, end="The session has ended.")


async def _records(socket: WebSocket, stream: Stream, row: Mapping[str, Any]) -> None:
    """Show a session of records: a terminal, or a database session's statements."""
    await _say(socket, about=_about(row))
    view = _Statements() if row["protocol"] in PROTOCOLS else _Terminal()
    history = 0
    while "end" not in (frame := await stream.receive()):
        history = frame.get("history", history)
        packed = frame.get("records")
        for record in unpack_records(packed) if isinstance(packed, bytes) else ():
            view.take(record)
        if view.seq >= history:
            for message in view.said():
                await _say(socket, **message)
    await _say(socket, end="The session has ended.")


class _Watched:
    """What every view of records says: who watches, whether input is blocked, what happened."""

    def __init__(self) -> None:
        self.seq = 0
        self._began = False
        self._viewers: list[str] = []
        self._blocked = ""
        self._said: list[dict[str, Any]] = []

    def take(self, record: Record) -> None:
        """Learn from a record."""
        self.seq = record.seq
        if record.kind is Kind.CONTROL:
            self._controlled(record.body)
        if record.kind not in _LOGGED and (told := told_by(record)):
            self._said.append({"event": [record.at_us, *told]})

    def said(self) -> Iterator[dict[str, Any]]:
        """Give what is to be sent now; the first time, how things stand."""
        if not self._began:
            self._began = True
            del self._said[:-100]  # of what happened before anybody looked, a screenful
            self._said += [{"viewers": self._viewers}, {"blocked": self._blocked}]
        said, self._said = self._said, []
        yield from said

    def _controlled(self, body: Mapping[str, Any]) -> None:
        action, by = body.get("action"), str(body.get("by", ""))
        if action == "watch":
            self._viewers.append(by)
        elif action == "leave" and by in self._viewers:
            self._viewers.remove(by)
        elif action in ("block", "unblock"):
            self._blocked = by if action == "block" else ""
            self._said.append({"blocked": self._blocked})
        if action in ("watch", "leave"):
            self._said.append({"viewers": list(self._viewers)})


class _Terminal(_Watched):
    """A terminal's screen."""

    def __init__(self) -> None:
        super().__init__()
        self._scene, self._picture = Scene(), Picture()
        self._fresh, self._at_us, self._size = bytearray(), 0, (0, 0)

    def take(self, record: Record) -> None:
        """Learn from a record."""
        super().take(record)
        painted = self._picture.feed(self._scene.take(record))
        self._at_us = record.at_us
        if self._began:
            if self._scene.size != self._size:
                self._flush()
            self._fresh += painted

    def said(self) -> Iterator[dict[str, Any]]:
        """Give what is to be sent now."""
        if not self._began:
            self._size = self._scene.size
            self._said += [{"size": self._size}, {"out": [self._at_us, self._picture.painted()]}]
            # What follows is the difference; the picture from here on is the browser's.
        else:
            self._flush()
        yield from super().said()

    def _flush(self) -> None:
        if self._fresh:
            self._said.append({"out": [self._at_us, bytes(self._fresh)]})
            self._fresh.clear()
        if self._scene.size != self._size:
            self._size = self._scene.size
            self._said.append({"size": self._size})


class _Statements(_Watched):
    """A database session's statements and what became of them."""

    def __init__(self) -> None:
        super().__init__()
        self._queries = Queries()

    def take(self, record: Record) -> None:
        """Learn from a record."""
        super().take(record)
        if query := self._queries.take(record):
            self._said.append({"query": query_of(query)})


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "user", "target", "login", "protocol", "started_at")}


async def _say(socket: WebSocket, **message: Any) -> None:
    await socket.send_bytes(msgpack.packb(message))
