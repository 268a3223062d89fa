"""The lists: remote sessions with their filters, and blocked users."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from proxyd.console import own
from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError

ROWS: Final = 100  # of one page; older ones follow by their time
STATES: Final = ("live", "ended", "recovered", "failed")
REVIEWED: Final = {"yes": True, "no": False}
FILTERS: Final = ("user", "target", "protocol", "state", "reviewed", "since", "until")
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?")


async def sessions(visit: Visit) -> Response:
    """Show the sessions a filter wants, newest first."""
    given = {name: visit.request.query_params.get(name, "").strip() for name in FILTERS}
    before = _number(visit.request.query_params.get("before", ""))
    wanted: dict[str, Any] = {name: given[name] for name in ("user", "target", "protocol") if given[name]}
    wanted |= {"user": _glob(given["user"]), "target": _glob(given["target"]), "limit": ROWS + 1}
    if given["state"] in STATES:
        wanted["state"] = given["state"]
    if given["reviewed"] in REVIEWED:
        wanted["reviewed"] = REVIEWED[given["reviewed"]]
    since, until = seconds_of(given["since"]), before if before is not None else seconds_of(given["until"])
    wanted |= {name: at for name, at in (("since", since), ("until", until)) if at is not None}
    try:
        found = (await visit.call("sessions", **wanted))["sessions"]
    except ControlError as error:
        if error.code is not Code.DENIED:
            raise
        return await own.instead(visit)
    rows = [shown(row) for row in found[:ROWS]]
    older = ""
    if len(found) > ROWS:
        kept = {name: value for name, value in given.items() if value}
        older = "/?" + urlencode(kept | {"before": found[ROWS]["started_at"]})
    return visit.page(
        "sessions.html", rows=rows, given=given, older=older, states=STATES, counts=_counts(rows)
    )


async def blocked(visit: Visit) -> Response:
    """Show who may not start sessions to what."""
    return visit.page("blocked.html", rows=(await visit.call("blocked"))["blocked"])


async def release(visit: Visit) -> Response:
    """Take a user off that list."""
    user, target = visit.form.text("user"), visit.form.text("target")
    await visit.call("unblock", whom=f"{user}@{target}")
    return visit.to("/blocked", f"{user} may use {target} again.")


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give a session's row with what a page says of it besides."""
    ended = row["ended_at"] or time.time()
    return dict(row) | {
        "seconds": ended - row["started_at"],
        "is_live": row["state"] == "live",
        "label": "blocked" if row["blocked"] else row["state"],
        "ended_by": f"{row['reason']} by {row['by']}" if row.get("by") else row.get("reason", ""),
    }


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    live = [row for row in rows if row["is_live"]]
    return {
        "live": len(live),
        "blocked": sum(bool(row["blocked"]) for row in live),
        "watched": sum(row["viewers"] > 0 for row in live),
    }


def _glob(text: str) -> str:
    """Find a text anywhere, unless a glob was typed."""
    return text if not text or any(mark in text for mark in "*?") else f"*{text}*"


def seconds_of(text: str) -> float | None:
    """Read what <input type=datetime-local> gives, in UTC; None for anything else."""
    if not _WHEN.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,12}(?:\.\d{1,9})?", text) else None
