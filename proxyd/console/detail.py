"""The page of one session, and its logs (mission M5, M10, M11); of its exports what there is and how far (M13)."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from proxyd.cli_log import Entry
from proxyd.console import commenting
from proxyd.console.listing import shown
from proxyd.console.recordings import log_of
from proxyd.console.videos import listed
from proxyd.console.visit import Visit
from proxyd.recorder.replay import Recording

LOG_ROWS: Final = 500  # of one page
KINDS: Final = {
    "commands": ("command", "typed"),
    "statements": ("statement",),
    "transfers": ("transfer", "clipboard"),
    "findings": ("finding",),
    "events": (
        "request",
        "channel",
        "exit",
        "control",
        "refused",
        "notice",
        "omitted",
        "lost",
        "end",
        "desktop",
    ),
}


async def show(visit: Visit) -> Response:
    """Show everything known of a session."""
    answer = await visit.call("show", session=visit.session)
    session = shown(answer["session"])
    exports = await visit.call("exports", session=session["id"])
    return visit.page(
        "session.html",
        session=session,
        exports=[listed(one) for one in exports["exports"]],
        may_export=exports["ask"],
        comments=await commenting.seen(visit),
        found=answer["found"],
        views=list(reversed(answer["views"])),
        block=answer["block"],
        hold=answer["hold"],
        auditors=answer["auditors"],
        elsewhere=answer["elsewhere"],
        approval=visit.site.review.approval,
    )


async def logs(visit: Visit) -> Response:
    """Show what happened in an ended session, of one kind or all."""
    kind, after = visit.request.query_params.get("kind", ""), visit.request.query_params.get("after", "0")
    begin = int(after) if after.isdecimal() and len(after) < 8 else 0
    session, lines, missing = await visit.site.recordings.read(visit, "log", _read)
    chosen = [line for line in lines if not kind or line.kind in KINDS.get(kind, ())]
    counts = {name: sum(line.kind in group for line in lines) for name, group in KINDS.items()}
    return visit.page(
        "logs.html",
        session=shown(session),
        lines=chosen[begin : begin + LOG_ROWS],
        counts=counts,
        total=len(lines),
        kind=kind if kind in KINDS else "",
        begin=begin,
        more=begin + LOG_ROWS if len(chosen) > begin + LOG_ROWS else 0,
        missing=missing,
    )


def _read(recording: Recording, answer: dict[str, Any]) -> tuple[dict[str, Any], list[Entry], str]:
    lines, missing = log_of(recording, answer)
    return answer["session"], lines, missing
