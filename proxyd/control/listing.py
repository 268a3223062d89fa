"""What there is, for whoever may list it: the daemon's state, sessions that live and have ended, who saw them, and users.

Rule 1: answers hold text and numbers only, no password hash and no way to a recording: that one leads through `read`.
Rule 2: of a live session counts what the session itself says: a best-effort catalog may have missed its start.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import trio

from proxyd import __version__
from proxyd.control import keeping
from proxyd.recorder.catalog import LIVE, Block, NotFound, SessionFilter, SessionRow

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.recorder.ledger import Ledger
    from proxyd.session import Session

LIST_LIMIT = 100  # sessions a list shows unasked: a screenful or two
LIST_MAXIMUM = 10_000  # about 5 MB of answer
VIEWS_SHOWN = 300  # with a session, the newest: a player asks for a piece a minute, so a session much looked at has many
VIEWS_MAXIMUM = 100_000  # about 20 MB of answer
TEXT_LIMIT = 500  # characters of a glob

_Text = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command without arguments."""


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which sessions: `user` and `target` are globs, `since` and `until` seconds since 1970.

    `reviewed`: those that are; false: those that have ended and wait for it.
    """

    user: _Text = ""
    target: _Text = ""
    protocol: _Text = ""
    state: Literal["", "live", "ended", "recovered", "failed"] = ""
    reviewed: bool | None = None
    since: float | None = None
    until: float | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIST_MAXIMUM)] = LIST_LIMIT


class One(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One session, by its id or the beginning of it."""

    session: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


async def status(services: Services, caller: Caller, _: Nothing) -> dict[str, Any]:
    """Say how the daemon is, and who asks."""
    config, live = services.config, services.registry.list()
    disk = await trio.to_thread.run_sync(_disk, config.recording.directory)
    blocks = await trio.to_thread.run_sync(services.catalog.blocks)
    protocols = sorted({session.protocol for session in live})
    return {
        "node": config.node,
        "version": __version__,
        "pid": os.getpid(),
        "config": str(config.path),
        "started_at": services.started_at,
        "uptime_seconds": time.time() - services.started_at,
        "sessions": {
            "live": len(live),
            "blocked": sum(session.gate.closed for session in live),
            "viewers": sum(session.viewers for session in live),
            "by_protocol": {name: sum(one.protocol == name for one in live) for name in protocols},
        },
        "blocked_users": len(blocks),
        "index": services.indexer.status(),
        "recording": {
            "directory": str(config.recording.directory),
            "open": len(services.recorder.live),
            "reserve_bytes": config.recording.reserve_bytes,
            **disk,
        },
        "caller": {
            "name": caller.name,
            "uid": caller.uid,
            "user": caller.user,
            "via": caller.via,
            "roles": list(caller.roles),
            "permissions": sorted(caller.permissions),
        },
    }


def _disk(directory: Path) -> dict[str, int]:
    try:
        return {"free_bytes": shutil.disk_usage(directory).free}
    except OSError:  # no directory yet, or unreachable: the status of all the rest still counts
        return {}


async def sessions(services: Services, _caller: Caller, wanted: Filter) -> dict[str, Any]:
    """List sessions, newest first. `elsewhere`: the node where one lives; "": it is here, or has ended."""
    rows = await trio.to_thread.run_sync(
        services.catalog.sessions, SessionFilter(**msgspec.structs.asdict(wanted))
    )
    live = {session.id: session for session in services.registry.list()}
    shown = {row.id: _row(row) for row in rows}
    # A best-effort catalog may have missed the start of a session that is nevertheless alive.
    missed = {
        one.id: dict(EMPTY_ROW) for one in live.values() if one.id not in shown and _wanted(one, wanted)
    }
    shown |= {name: row | {"state": LIVE} for name, row in missed.items()}
    for name in shown.keys() & live.keys():
        if shown[name]["state"] == LIVE:
            shown[name] |= live_row(live[name])
    for row in shown.values():
        is_away = row["state"] == LIVE and row.get("node", services.config.node) != services.config.node
        row["elsewhere"] = row["node"] if is_away else ""
    newest = sorted(shown.values(), key=lambda row: (-row["started_at"], row["id"]))
    return {"sessions": newest[: wanted.limit]}


def _wanted(session: Session, wanted: Filter) -> bool:
    return (
        wanted.state in ("", LIVE)
        and wanted.reviewed is None
        and wanted.protocol in ("", session.protocol)
        and fnmatchcase(session.user, wanted.user or "*")
        and fnmatchcase(session.target, wanted.target or "*")
        and (wanted.until is None or session.started_at <= wanted.until)
    )


def _row(row: SessionRow) -> dict[str, Any]:
    """Give a row of the catalog without what only recording tools need."""
    answer = dataclasses.asdict(row)
    answer["channels"] = dict(row.channels or {})
    del answer["path"]  # rule 1
    return answer | {"blocked": False, "viewers": 0}


EMPTY_ROW: dict[str, Any] = {
    "ended_at": None,
    "reason": "",
    "by": "",
    "error": "",
    "findings": 0,
    "channels": {},
    "purged_at": None,
    "purged_why": "",
    "stored_at": None,
    "reviewed_at": None,
    "reviewed_by": "",
}  # what only the catalog knows, for a session it missed


def live_row(session: Session) -> dict[str, Any]:
    """Give what the session itself knows better than the catalog."""
    tape = session.tape
    return {
        "id": session.id,
        "protocol": session.protocol,
        "user": session.user,
        "user_ip": session.user_ip,
        "how": session.how,
        "target": session.target,
        "host": session.host,
        "login": session.login,
        "started_at": session.started_at,
        "ended_at": None,
        "state": LIVE,
        "size": tape.bytes_written,
        "input_bytes": tape.input_bytes,
        "output_bytes": tape.output_bytes,
        "findings": len(session.findings),
        "blocked": session.gate.closed,
        "viewers": session.viewers,
    }


async def show(services: Services, _caller: Caller, one: One) -> dict[str, Any]:
    """Tell all there is of one session, but for what is in its recording.

    `elsewhere`: the node where it lives, or which alone has its recording; "": it is here.
    """
    row = await find_row(services, one.session)
    elsewhere = ""
    if row.get("node", services.config.node) != services.config.node:
        elsewhere = await elsewhere_of(
            services, await trio.to_thread.run_sync(services.catalog.session, row["id"])
        )
    views = await trio.to_thread.run_sync(views_of, services.ledger, row["id"], VIEWS_SHOWN)
    block = await trio.to_thread.run_sync(services.catalog.blocked, row["user"], row["target"])
    hold = await trio.to_thread.run_sync(services.archive.holds.of, row["id"])
    auditors = await trio.to_thread.run_sync(services.reviews.auditors, row["id"])
    return {
        "session": row,
        "found": await _found(services, row["id"]),
        "views": views,
        "block": _block_of(block) if block else None,
        "hold": keeping.shown(hold) if hold else None,
        "auditors": auditors,
        "elsewhere": elsewhere,
    }


async def elsewhere_of(services: Services, row: SessionRow) -> str:
    """Name the node where a session lives, or which alone has its recording yet; "": this one, or the store has it."""
    if row.node == services.config.node or row.purged_at is not None:
        return ""
    if row.state != LIVE:
        path, files = await services.archive.find(row)
        is_here: bool = bool(files) or await trio.to_thread.run_sync(path.exists)
        if is_here:
            return ""
    return row.node


async def _found(services: Services, session: str) -> list[dict[str, Any]]:
    """Give a session's findings; of an ended one with their moments, and none where only the recording has them."""
    live = next((one for one in services.registry.list() if one.id == session), None)
    if live is not None:
        return [dict(found) for found in live.findings]
    return [one._asdict() for one in await trio.to_thread.run_sync(services.catalog.findings, session)]


async def find_row(services: Services, prefix: str) -> dict[str, Any]:
    """Give the one session whose id is, or begins with, `prefix`. Raises NotFound."""
    live = [session for session in services.registry.list() if session.id.startswith(prefix)]
    try:
        found = await trio.to_thread.run_sync(services.catalog.session, prefix)
    except NotFound:
        if len(live) != 1:
            raise
        return EMPTY_ROW | live_row(live[0])  # best effort: the catalog missed its start
    session = next((one for one in live if one.id == found.id), None)
    return _row(found) | (live_row(session) if session and found.state == LIVE else {})


def views_of(ledger: Ledger, session_id: str, limit: int) -> list[dict[str, Any]]:
    """Give the newest views of a session, in order."""
    told = ("who", "via", "address", "kind", "first", "last", "seconds", "request")
    return [
        {"at": entry.at} | {name: entry.fields.get(name) for name in told}
        for entry in ledger.viewers(session_id, limit)
    ]


async def seen_by(services: Services, _caller: Caller, one: One) -> dict[str, Any]:
    """List who saw a session."""
    row = await find_row(services, one.session)
    views = await trio.to_thread.run_sync(views_of, services.ledger, row["id"], VIEWS_MAXIMUM)
    return {"session": row, "views": views}


async def blocked(services: Services, _caller: Caller, _: Nothing) -> dict[str, Any]:
    """List who may not start sessions to what."""
    blocks = await trio.to_thread.run_sync(services.catalog.blocks)
    return {"blocked": [_block_of(block) for block in blocks]}


def _block_of(block: Block) -> dict[str, Any]:
    return {
        "user": block.user,
        "target": block.target,
        "by": block.author,
        "at": block.at,
        "reason": block.reason,
    }


async def users(services: Services, _caller: Caller, _: Nothing) -> dict[str, Any]:
    """List who may log in and how; what proves it stays here (rule 1)."""
    return {
        "users": [
            {
                "name": name,
                "roles": list(user.roles),
                "password": user.password is not None,
                "keys": len(user.keys),
                "totp": user.totp is not None,
                "passkeys": len(services.enrolled.of(name).passkeys),
                "scram": user.scram is not None,
                "mysql_native": user.mysql_native is not None,
                "mariadb_ed25519": user.mariadb_ed25519 is not None,
                "factors": list(user.factors),
                "source": list(user.source),
            }
            for name, user in sorted(services.config.users.items())
        ]
    }
