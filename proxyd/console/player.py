"""The player (mission M6, M12): a page, the survey of a recording, and its pieces.

Rule 1: each piece is asked for by itself, and the daemon decides each time; the ledger has the seconds of each.
Rule 2: surveys are kept for a few recordings that have ended; who may see them is not kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

import msgpack
from starlette.responses import JSONResponse, Response

from proxyd.cli_decoder import Drawn, draw
from proxyd.cli_derive import draw_from
from proxyd.cli_desktop import is_desktop
from proxyd.console.governing import may_view
from proxyd.console.listing import shown
from proxyd.console.survey import Survey, piece, survey
from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError
from proxyd.errors import FormatError
from proxyd.recorder.queries import PROTOCOLS
from proxyd.recorder.replay import Recording

KEPT: Final = 16  # surveys: at most some megabytes each
MICRO: Final = 1_000_000


class Surveys:
    """Surveys of recordings that have ended, by session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Survey] = OrderedDict()

    def of(self, recording: Recording, answer: dict[str, Any]) -> Survey:
        """Give one; reads the recording whole when it is not kept. Raises FormatError."""
        session = answer["session"]["id"]
        with self._lock:
            if session in self._kept:
                self._kept.move_to_end(session)
                return self._kept[session]
        found = survey(recording, answer)
        with self._lock:
            self._kept[session] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def span(self, session: str, number: int) -> tuple[float, float | None]:
        """Say from which second to which a piece goes; all of it, where there is no survey yet."""
        with self._lock:
            found = self._kept.get(session)
        if found is None or number >= len(found.cuts):
            return 0.0, None
        end_us = found.cuts[number + 1].at_us if number + 1 < len(found.cuts) else found.duration_us
        return found.cuts[number].at_us / MICRO, max(end_us, found.cuts[number].at_us) / MICRO


async def show(visit: Visit) -> Response:
    """Show the page the player is in."""
    session = shown((await visit.call("show", session=visit.session))["session"])
    if session["is_live"]:
        return visit.to(f"/sessions/{visit.session}/live", "This session is live.")
    if not await may_view(visit):
        return visit.to(f"/sessions/{visit.session}/request")
    protocol = session["protocol"]
    kind = "desktop" if is_desktop(session) else "queries" if protocol in PROTOCOLS else "terminal"
    return visit.stage("player.html", session=session, kind=kind, download=visit.site.review.download)


async def overview(visit: Visit) -> Response:
    """Give the timeline, the log, and where the pieces begin."""
    surveys = visit.site.surveys

    def work(recording: Recording, answer: dict[str, Any]) -> dict[str, Any]:
        return surveys.of(recording, answer).document()

    # The player takes leave to replay; the log beside it is a view of its own.
    await visit.call("read", session=visit.session, kind="replay", first=0.0, last=0.0)
    return JSONResponse(await visit.site.recordings.read(visit, "log", work))


async def part(visit: Visit) -> Response:
    """Give a piece of a terminal's recording."""
    number, surveys = visit.number("number"), visit.site.surveys

    def work(recording: Recording, answer: dict[str, Any]) -> bytes:
        cuts = surveys.of(recording, answer).cuts
        if number >= len(cuts):
            raise ControlError(Code.NOT_FOUND, "the recording is not that long")
        packed: bytes = msgpack.packb(piece(recording, cuts, number))
        return packed

    first, last = surveys.span(visit.session, number)
    packed = await visit.site.recordings.read(visit, "replay", work, first=first, last=last)
    return Response(packed, media_type="application/msgpack")


async def picture(visit: Visit) -> Response:
    """Give what a desktop showed at a moment, as PNG."""
    at_us = visit.number("at_us")

    def work(recording: Recording, answer: dict[str, Any]) -> Drawn:
        if not is_desktop(answer["session"]):
            raise ControlError(Code.USAGE, "this session has no desktop")
        return _drawn(recording, at_us)

    at = at_us / MICRO
    drawn = await visit.site.recordings.read(visit, "replay", work, first=at, last=at)
    if not drawn.width:
        return Response(status_code=204)  # nothing was painted by then
    return Response(drawn.png, media_type="image/png")


def _drawn(recording: Recording, at_us: int) -> Drawn:
    """Draw a desktop from the nearest keyframe, or from the beginning where there is none. Raises Undecoded."""
    try:
        keyframe = recording.sidecar().keyframe(at_us)
    except FormatError:
        keyframe = None
    if keyframe is None or not keyframe.saved:
        return draw(record for record in recording.records() if record.at_us <= at_us)
    behind = (
        one for one in recording.records(keyframe.at_us) if one.seq > keyframe.seq and one.at_us <= at_us
    )
    return draw_from(keyframe, behind)
