"""Videos of sessions, and whatever else is made of them for download (mission M13): asked for, followed, taken.

Rule 1: who may have one made, see the list and take a file is the daemon's word; it is asked again for each piece of a file,
        and has in its ledger which bytes were taken before the first is read.
Rule 2: only files the daemon itself has chosen the place of are read here: where others put theirs is their own affair, and
        this process may read more than they.
"""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
from starlette.responses import Response

from proxyd.cli_film import ENCODER
from proxyd.console.download import Download, Span, span_of
from proxyd.console.listing import shown
from proxyd.console.makers import Makers
from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError
from proxyd.recorder.exported import manifest_of, verify_export
from proxyd.recorder.forms import FILMS, forms_of
from proxyd.recorder.ledger import LedgerReader
from proxyd.recorder.verify import Report

JOB_ID: Final = re.compile(r"[0-9a-f]{1,32}")
ROWS: Final = 1000  # of the list: what the daemon gives at once
FORMS: Final[Mapping[str, str]] = {
    "webm": "Video, WebM: small, plays in browsers",
    "mp4": "Video, MP4 (H.264): larger, plays everywhere",
    "asciicast": "Terminal, asciicast 3: plays in terminals, text can be copied",
    "asciicast2": "Terminal, asciicast 2: for older players",
    "pyrdp": "Replay for PyRDP's player",
    "jsonl": "Every record, as lines of JSON",
    "csv": "Statements as a table, CSV",
}
TYPES: Final[Mapping[str, str]] = {
    "webm": "video/webm",
    "mp4": "video/mp4",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
}  # of others: bytes
SUFFIXES: Final[Mapping[str, str]] = {"asciicast": "cast", "asciicast2": "cast"}
PAUSES: Final = (1, 2, 5, 10, 30)  # seconds a pause may be cut to
SPEEDS: Final = (2, 4, 8, 16)
HALF: Final = "half"  # of the sizes a form may name
STATES: Final = ("queued", "running", "done", "failed", "cancelled", "lost", "removed")
SORTS: Final[Mapping[str, str]] = {
    "queued_at": "Asked",
    "state": "State",
    "form": "Format",
    "size": "Size",
    "duration_us": "Time",
    "person": "For",
}
BUSY: Final = frozenset({"queued", "running"})
SURE_PERCENT: Final = 3  # before, how long the rest takes is a guess
VERIFIERS: Final = 1  # threads that read whole files


@dataclass(frozen=True, slots=True)
class Videos:
    """What the pages about exports need of this process. `ledger`: where manifests are looked up."""

    makers: Makers
    ledger: Path


_verifiers = trio.CapacityLimiter(VERIFIERS)


# ---------------------------------------------------------------------------- asking for one


async def ask_video(visit: Visit) -> Response:
    """Ask what is to be made of a session."""
    row = (await visit.call("show", session=visit.session))["session"]
    films = importlib.util.find_spec(ENCODER) is not None
    forms = {name: FORMS[name] for name in forms_of(row["protocol"]) if films or name not in FILMS}
    terminals = sum((row["channels"] or {}).values()) if row["protocol"] == "ssh" else 0
    return visit.page(
        "video.html",
        session=shown(row),
        forms=dict(sorted(forms.items(), key=lambda one: one[0] not in FILMS)),
        films=films,
        pauses=PAUSES,
        speeds=SPEEDS,
        has_keys=row["protocol"] in ("ssh", "rdp"),
        has_channels=terminals > 1,
    )


async def video(visit: Visit) -> Response:
    """Have it made."""
    form, given = visit.form.text("form"), visit.form
    settings: dict[str, Any] = {"keys": True} if given.text("keys") else {}
    if channel := given.text("channel"):
        settings["channel"] = _number(channel, "The channel")
    if (pause := given.text("pause")) and form in FILMS:
        settings["pause_s"] = float(_number(pause, "The longest pause"))
    if (speed := given.text("speed")) and form in FILMS:
        settings["speed"] = _number(speed, "The speed")
    if given.text("size") == HALF and form in FILMS:
        settings["half"] = True
    done = await visit.call("export-ask", session=visit.session, form=form, settings=settings)
    visit.site.videos.makers.wake()
    mail = " You get a mail when it is ready." if done["mail"] else ""
    return visit.to(
        f"/exports/{done['export']['id']}", f"It is being generated; you may leave this page.{mail}"
    )


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ControlError(Code.USAGE, f"{what} is a number")
    return int(text)


# ---------------------------------------------------------------------------- the list, and one of it


async def exports(visit: Visit) -> Response:
    """List exports: one's own; of who may, everybody's."""
    query = visit.request.query_params
    given = {name: query.get(name, "").strip() for name in ("state", "form", "person", "sort", "up")}
    answer = await visit.call("exports", limit=ROWS)
    every = [listed(one) for one in answer["exports"]]
    rows = [one for one in every if _wanted(one, given)]
    sort = given["sort"] if given["sort"] in SORTS else "queued_at"
    rows.sort(key=lambda one: one[sort], reverse=not given["up"])
    kept = [one for one in every if one["is_there"]]
    return visit.page(
        "exports.html",
        rows=rows,
        given=given | {"sort": sort},
        states=STATES,
        forms=FORMS,
        sorts=SORTS,
        others=answer["others"],
        there=len(kept),
        size=sum(one["size"] for one in kept),
        busy=any(one["busy"] for one in every),
    )


async def export(visit: Visit, report: Report | None = None) -> Response:
    """Show one."""
    row = listed(await _one(visit))
    session = shown((await visit.call("show", session=row["session"]))["session"])
    return visit.page("export.html", one=row, session=session, forms=FORMS, busy=row["busy"], report=report)


async def cancel(visit: Visit) -> Response:
    """End one that waits or is at work."""
    row = await visit.call("export-cancel", job=_job(visit))
    return visit.to(f"/exports/{row['id']}", "It was cancelled; nothing of the file is left.")


async def verify(visit: Visit) -> Response:
    """Say whether the file is what was signed for."""
    row = await _one(visit)
    file, ledger = _file_of(row), LedgerReader(visit.site.videos.ledger)

    def work() -> Report:
        return verify_export(file, manifest_of(file), ledger.public_keys(), ledger=ledger)

    return await export(
        visit, await trio.to_thread.run_sync(work, limiter=_verifiers, abandon_on_cancel=True)
    )


def listed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give an export with what a page says of it besides; `left_s`: how long it takes yet, about, or None."""
    state = "removed" if row["removed_at"] is not None else row["state"]
    is_there, percent = state == "done", row["percent"]
    left_s = None
    if state == "running" and row["started_at"] and percent >= SURE_PERCENT:
        left_s = (time.time() - row["started_at"]) * (100 - percent) / percent
    return dict(row) | {
        "state": state,
        "is_there": is_there,
        "busy": state in BUSY,
        "seconds": row["duration_us"] / 1e6,
        "left_s": left_s,
        "with_keys": row["settings"].get("keys", False),
        "channel": row["settings"].get("channel"),
        "pause_s": row["settings"].get("pause_s"),
        "speed": row["settings"].get("speed", 1),
        "half": row["settings"].get("half", False),
        "takes": is_there and row["mine"] and row["unattended"] and row["here"],
    }


def _wanted(row: Mapping[str, Any], given: Mapping[str, str]) -> bool:
    exact = all(given[name] in ("", row[name]) for name in ("state", "form"))
    return exact and given["person"].casefold() in row["person"].casefold()


# ---------------------------------------------------------------------------- taking one


async def take(visit: Visit) -> Response:
    """Give the file of an export, or the part of it that is asked for."""
    row = await _one(visit)
    if not row["mine"]:  # who sees the list does not see what is in it
        await visit.call("export-fetch", job=row["id"])
    headers = visit.request.headers
    size, tag = row["size"], f'"{row["sha256"]}"'
    span = span_of(headers.get("range", ""), size, whole=headers.get("if-range", tag) != tag)
    if span is None:
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    if visit.request.method == "HEAD":
        file = _file_of(row)
        return Download(file, Span(0, size), size, _headers(row, tag), None)
    told = await visit.call("export-fetch", job=row["id"], first=span.first, end=span.end)
    file = _file_of(told)

    async def allowed(start: int, length: int) -> None:
        await visit.call("export-piece", ticket=told["ticket"], file="file", start=start, length=length)

    return Download(file, span, size, _headers(row, tag), allowed)


async def manifest(visit: Visit) -> Response:
    """Give the manifest of an export, as it was signed."""
    row = await _one(visit)
    if not row["mine"]:
        await visit.call("export-fetch", job=row["id"])
    path = manifest_of(_file_of(row))
    try:
        text = await trio.Path(path).read_bytes()
    except OSError:
        raise ControlError(Code.NOT_FOUND, "its manifest is not there any more") from None
    named = {"content-disposition": f'attachment; filename="{_name(row)}.manifest.json"'}
    return Response(text, headers=named, media_type="application/json")


def _headers(row: Mapping[str, Any], tag: str) -> dict[str, str]:
    return {
        "content-type": TYPES.get(row["form"], "application/octet-stream"),
        "content-disposition": f'attachment; filename="{_name(row)}"',
        "etag": tag,
    }


def _name(row: Mapping[str, Any]) -> str:
    """Name a file for its session and day: ids and digits, which no header can be broken with."""
    day = time.strftime("%Y-%m-%d", time.gmtime(row["ended_at"] or 0))
    return f"session-{row['session'][:8]}-{day}.{SUFFIXES.get(row['form'], row['form'])}"


def _file_of(row: Mapping[str, Any]) -> Path:
    """Give the file of an export that is ours to give out (rule 2). Raises ControlError."""
    if row["state"] != "done" or row["removed_at"] is not None:
        raise ControlError(Code.NOT_FOUND, "its file is not there")
    if not row["here"]:
        raise ControlError(
            Code.NOT_FOUND, f"its file is on node {row['node']}: download it in that node's console"
        )
    if not row["unattended"]:
        raise ControlError(Code.REFUSED, "who made it put the file elsewhere; see: proxyctl exports fetch")
    return Path(row["path"])


def _job(visit: Visit) -> str:
    name = str(visit.request.path_params["export"])
    if not JOB_ID.fullmatch(name):
        raise ControlError(Code.NOT_FOUND, "there is no such export")
    return name


async def _one(visit: Visit) -> dict[str, Any]:
    """Give the export the address names. Raises ControlError, also for whom it is not for."""
    found: dict[str, Any] = (await visit.call("exports", job=_job(visit)))["exports"][0]
    return found
