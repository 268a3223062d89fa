"""The player (mission M6, M12): a page, the survey of a recording, its pieces, and what was shown at any moment.

Rule 1: each piece and each moment is asked for by itself; the daemon decides each time, and the ledger has their seconds.
Rule 2: surveys are kept for a few recordings that have ended, and small pictures; who may see them is not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgpack
from starlette.responses import JSONResponse, Response

from proxyd.cli_decoder import draw
from proxyd.cli_derive import DESKTOP, TERMINAL, draw_from, small_png_of
from proxyd.cli_desktop import is_desktop
from proxyd.cli_output import ID_SHOWN, position
from proxyd.console.emulators import keyframe_of
from proxyd.console.governing import may_view
from proxyd.console.kept import Kept
from proxyd.console.listing import shown
from proxyd.console.survey import Survey, survey
from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError
from proxyd.cuts import piece
from proxyd.recorder.queries import PROTOCOLS
from proxyd.recorder.replay import Recording

SURVEYS: Final = 16  # kept: at most some megabytes each
MICRO: Final = 1_000_000
THUMB: Final = (320, 200)  # pixels of a small picture, at most
LARGEST: Final = (3840, 2160)  # of one to keep
SCREENS: Final = {TERMINAL: "terminal", DESKTOP: "desktop"}

Result = TypeVar("Result")


class Surveys:
    """Surveys of recordings that have ended, by session."""

    def __init__(self) -> None:
        self._kept = Kept[str, Survey](SURVEYS)

    def of(self, recording: Recording, answer: dict[str, Any], *, anew: bool = False) -> Survey:
        """Give one; `anew`: made again if the one that is kept is not all there could be. Raises FormatError."""
        session = answer["session"]["id"]
        if _is_live(answer):  # what is kept would be short for good
            return survey(recording, answer)
        if anew and (found := self._kept.get(session)) is not None and found.note:
            self._kept.drop(session)
        return self._kept.of(session, lambda: survey(recording, answer))

    def span(self, session: str, number: int) -> tuple[float, float | None]:
        """Say from which second to which a piece goes; all of it, where there is no survey yet."""
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
    if protocol == TERMINAL:
        visit.site.emulators.warm()
    kind = "desktop" if is_desktop(session) else "queries" if protocol in PROTOCOLS else "terminal"
    return visit.stage("player.html", session=session, kind=kind, download=visit.site.review.download)


async def overview(visit: Visit) -> Response:
    """Give the timeline, the log, and where the pieces begin."""
    surveys = visit.site.surveys

    def work(recording: Recording, answer: dict[str, Any]) -> dict[str, Any]:
        return surveys.of(recording, answer, anew=True).document()

    # The player takes leave to replay; the log beside it is a view of its own.
    await visit.call("read", session=visit.session, kind="replay", first=0.0, last=0.0)
    return JSONResponse(await visit.site.recordings.read(visit, "log", work))


async def part(visit: Visit) -> Response:
    """Give a piece of a terminal's recording."""
    number, surveys = visit.number("number"), visit.site.surveys

    def work(recording: Recording, answer: dict[str, Any]) -> dict[str, Any]:
        cuts = surveys.of(recording, answer).cuts
        if number >= len(cuts):
            raise ControlError(Code.NOT_FOUND, "the recording is not that long")
        cut, end_seq = cuts[number], cuts[number + 1].seq if number + 1 < len(cuts) else None
        return piece(recording.records(cut.at_us), cut, end_seq)

    first, last = surveys.span(visit.session, number)
    return _packed(await visit.site.recordings.read(visit, "replay", work, first=first, last=last))


async def screen(visit: Visit) -> Response:
    """Give what brings an empty terminal to what a terminal showed at a moment."""
    at_us, emulators = visit.number("at_us"), visit.site.emulators

    def work(recording: Recording, answer: dict[str, Any]) -> dict[str, Any]:
        _refuse_others(answer, TERMINAL)
        return emulators.screen(recording, at_us)._asdict()

    return _packed(await _moment(visit, at_us, work))


async def picture(visit: Visit) -> Response:
    """Give what a desktop showed at a moment, as PNG."""
    at_us = visit.number("at_us")

    def work(recording: Recording, answer: dict[str, Any]) -> bytes:
        _refuse_others(answer, DESKTOP)
        return _drawn(recording, at_us)

    return _png(await _moment(visit, at_us, work))


async def still(visit: Visit) -> Response:
    """Give a picture of a moment as a file to keep."""
    at_us, emulators = visit.number("at_us"), visit.site.emulators

    def work(recording: Recording, answer: dict[str, Any]) -> bytes:
        _refuse_others(answer, TERMINAL, DESKTOP)
        if is_desktop(answer["session"]):
            return _drawn(recording, at_us)
        return emulators.picture(recording, at_us, *LARGEST)

    answer = _png(await _moment(visit, at_us, work))
    name = f"{visit.session[:ID_SHOWN]}-{position(at_us).replace(':', '.')}.png"
    answer.headers["content-disposition"] = f'attachment; filename="{name}"'
    return answer


async def thumb(visit: Visit) -> Response:
    """Give a small picture of a moment."""
    at_us, site = visit.number("at_us"), visit.site

    def work(recording: Recording, answer: dict[str, Any]) -> bytes:
        _refuse_others(answer, TERMINAL, DESKTOP)
        if _is_live(answer):
            return made(recording, answer)
        return site.thumbs.of((answer["session"]["id"], at_us), lambda: made(recording, answer))

    def made(recording: Recording, answer: dict[str, Any]) -> bytes:
        if not is_desktop(answer["session"]):
            return site.emulators.picture(recording, at_us, *THUMB)
        keyframe = recording.sidecar().keyframe(at_us)
        return small_png_of(keyframe.width, keyframe.height, keyframe.picture(), THUMB) if keyframe else b""

    return _png(await _moment(visit, at_us, work))


async def _moment(visit: Visit, at_us: int, work: Callable[[Recording, dict[str, Any]], Result]) -> Result:
    at = at_us / MICRO
    return await visit.site.recordings.read(visit, "replay", work, first=at, last=at)


def _is_live(answer: dict[str, Any]) -> bool:
    return bool(answer["session"]["state"] == "live")


def _refuse_others(answer: dict[str, Any], *protocols: str) -> None:
    """Raise ControlError for a session of another kind."""
    if answer["session"]["protocol"] not in protocols:
        raise ControlError(
            Code.USAGE, f"this session has no {' or '.join(map(SCREENS.__getitem__, protocols))}"
        )


def _packed(body: dict[str, Any]) -> Response:
    return Response(msgpack.packb(body), media_type="application/msgpack")


def _png(data: bytes) -> Response:
    """Answer with a picture; without one: nothing was shown by then."""
    return Response(data, media_type="image/png") if data else Response(status_code=204)


def _drawn(recording: Recording, at_us: int) -> bytes:
    """Draw a desktop from the nearest keyframe, or from the beginning where there is none. Raises Undecoded."""
    keyframe = keyframe_of(recording, at_us)
    if keyframe is None:
        drawn = draw(record for record in recording.records() if record.at_us <= at_us)
    else:
        behind = (
            one for one in recording.records(keyframe.at_us) if one.seq > keyframe.seq and one.at_us <= at_us
        )
        drawn = draw_from(keyframe, behind)
    return drawn.png if drawn.width else b""
