"""What may be asked at the control socket: one table, name -> permission, arguments, answer.

Rule 1: what is not in COMMANDS can't be asked; what is, is checked for its permission before its arguments are used.
Rule 2: arguments are typed; unknown ones are refused, so that a misspelt filter never lists everything.
Rule 3: whoever sees a recording or a live screen is in the ledger before they see a recording, and when they
        leave a live one; a live view is on the tape from its first moment.
Rule 4: nobody blocks, or unblocks, themselves.
Rule 5: answers hold text and numbers only: never a password hash, and no secret but one that was just made for its owner.
        Times are seconds since 1970.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import msgspec
import trio

from proxyd import __version__
from proxyd.control import commenting, exporting, fetching, keeping, owning, reviewing, vouching
from proxyd.control.client import Code, ControlError
from proxyd.control.issue import RdpFile, RdpRevoke, issue, revoke
from proxyd.control.noting import note
from proxyd.control.permissions import Caller, Permission
from proxyd.control.searching import Search, search
from proxyd.control.seeing import Read, admit, refuse_unreadable
from proxyd.control.watching import Desktop, Send, live, look, picture, watched
from proxyd.governance.rules import NEEDS, Sight
from proxyd.recorder.catalog import LIVE, Block, Catalog, NotFound, SessionFilter, SessionRow
from proxyd.recorder.ledger import Ledger

if TYPE_CHECKING:
    from proxyd.access import Access
    from proxyd.archive import Archive
    from proxyd.config import Config
    from proxyd.enrolled import Enrolled
    from proxyd.exports import Exports
    from proxyd.fronts import Front
    from proxyd.indexing.pool import Indexer
    from proxyd.notifications import Notifier
    from proxyd.recorder.recorder import Recorder
    from proxyd.recorder.reviews import Reviews
    from proxyd.search.feed import Feed
    from proxyd.session import Registry, Session
    from proxyd.tokens import Tokens

LIST_LIMIT = 100  # sessions a list shows unasked: a screenful or two
LIST_MAXIMUM = 10_000  # about 5 MB of answer
VIEWS_SHOWN = 300  # with a session, the newest: a player asks for a piece a minute, so a session much looked at has many
VIEWS_MAXIMUM = 100_000  # about 20 MB of answer
TEXT_LIMIT = 500  # characters of a reason or message: a sentence or three, and the tape keeps it for ever


class Services(Protocol):
    """What the daemon gives to the control socket."""

    @property
    def config(self) -> Config:
        """The configuration in force; replaced whole by a reload."""

    @property
    def registry(self) -> Registry:
        """The live sessions."""

    @property
    def recorder(self) -> Recorder:
        """The recorder, with its live tapes."""

    @property
    def catalog(self) -> Catalog:
        """Sessions and blocks."""

    @property
    def ledger(self) -> Ledger:
        """What was done, for good."""

    @property
    def archive(self) -> Archive:
        """What is kept, held and purged."""

    @property
    def exports(self) -> Exports:
        """What is exported now."""

    @property
    def notifier(self) -> Notifier:
        """Who has people told."""

    @property
    def reviews(self) -> Reviews:
        """Auditors of sessions, and requests to view them."""

    @property
    def indexer(self) -> Indexer:
        """What decodes live sessions."""

    @property
    def search(self) -> Feed | None:
        """What keeps the search index; None: there is none."""

    @property
    def access(self) -> Access:
        """Who may reach what; replaced whole by a reload."""

    @property
    def tokens(self) -> Tokens:
        """The session tokens."""

    @property
    def enrolled(self) -> Enrolled:
        """What users set up themselves to log in with."""

    @property
    def pending(self) -> owning.Pending:
        """What they are setting up."""

    @property
    def fronts(self) -> Mapping[str, Front]:
        """The open listeners, as clients see them."""

    @property
    def tickets(self) -> fetching.Tickets:
        """Who may read which recording in the store."""

    started_at: float

    def settle(self) -> None:
        """Have what users set up count from now on."""

    async def reload(self) -> str:
        """Read the configuration again; give a sentence about it. Raises ConfigError, and changed nothing."""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command without arguments."""


_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Text = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)]


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

    session: _Id


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A live session, from the record after `after`."""

    session: _Id
    after: Annotated[int, msgspec.Meta(ge=0)] = 0


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something done to a live session, and why."""

    session: _Id
    reason: _Text = ""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the user of a live session is to read."""

    session: _Id
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LIMIT)]


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is released: a session, or USER@TARGET."""

    whom: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LIMIT)]


async def _status(services: Services, caller: Caller, _: Nothing) -> dict[str, Any]:
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


async def _sessions(services: Services, _caller: Caller, wanted: Filter) -> dict[str, Any]:
    rows = await trio.to_thread.run_sync(
        services.catalog.sessions, SessionFilter(**msgspec.structs.asdict(wanted))
    )
    live = {session.id: session for session in services.registry.list()}
    shown = {row.id: _row(row) for row in rows}
    # A best-effort catalog may have missed the start of a session that is nevertheless alive.
    missed = {
        one.id: dict(_EMPTY_ROW) for one in live.values() if one.id not in shown and _wanted(one, wanted)
    }
    shown |= {name: row | {"state": LIVE} for name, row in missed.items()}
    for name in shown.keys() & live.keys():
        if shown[name]["state"] == LIVE:
            shown[name] |= _live_row(live[name])
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
    del answer["path"]  # Rule 3: the way to a recording leads through `read`
    return answer | {"blocked": False, "viewers": 0}


_EMPTY_ROW: dict[str, Any] = {
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


def _live_row(session: Session) -> dict[str, Any]:
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


async def _show(services: Services, _caller: Caller, one: One) -> dict[str, Any]:
    row = await _find_row(services, one.session)
    views = await trio.to_thread.run_sync(_views, services.ledger, row["id"], VIEWS_SHOWN)
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
    }


async def _found(services: Services, session: str) -> list[dict[str, Any]]:
    """Give a session's findings; of an ended one with their moments, and none where only the recording has them."""
    live = next((one for one in services.registry.list() if one.id == session), None)
    if live is not None:
        return [dict(found) for found in live.findings]
    return [one._asdict() for one in await trio.to_thread.run_sync(services.catalog.findings, session)]


async def _find_row(services: Services, prefix: str) -> dict[str, Any]:
    live = [session for session in services.registry.list() if session.id.startswith(prefix)]
    try:
        found = await trio.to_thread.run_sync(services.catalog.session, prefix)
    except NotFound:
        if len(live) != 1:
            raise
        return _EMPTY_ROW | _live_row(live[0])  # best effort: the catalog missed its start
    session = next((one for one in live if one.id == found.id), None)
    return _row(found) | (_live_row(session) if session and found.state == LIVE else {})


def _views(ledger: Ledger, session_id: str, limit: int) -> list[dict[str, Any]]:
    """Give the newest views of a session, in order."""
    told = ("who", "via", "address", "kind", "first", "last", "seconds", "request")
    return [
        {"at": entry.at} | {name: entry.fields.get(name) for name in told}
        for entry in ledger.viewers(session_id, limit)
    ]


async def _seen_by(services: Services, _caller: Caller, one: One) -> dict[str, Any]:
    """List who saw a session."""
    row = await _find_row(services, one.session)
    views = await trio.to_thread.run_sync(_views, services.ledger, row["id"], VIEWS_MAXIMUM)
    return {"session": row, "views": views}


def _refuse_oneself(caller: Caller, user: str, deed: str) -> None:
    if caller.user and caller.user == user:
        text = f"nobody {deed} themselves: this session's user {user} is you; ask another operator"
        raise ControlError(Code.DENIED, text)


async def _block(services: Services, caller: Caller, action: Action) -> dict[str, Any]:
    session = live(services, action.session)
    user, target, by = session.user, session.target, caller.name
    _refuse_oneself(caller, user, "blocks")
    done: Mapping[str, Any] = {}
    # The gate first: whatever waits here lets typed input pass. It may be shut already while the list could
    # not be written; then only the list is missing.
    blocked = services.catalog.blocked
    if not session.gate.closed or await trio.to_thread.run_sync(blocked, user, target) is not None:
        done = await session.block(by, action.reason)
    entry = await trio.to_thread.run_sync(services.catalog.block, user, target, by, action.reason)
    await note(services, caller, "block", session=session.id, user=user, target=target, reason=action.reason)
    return {"session": session.id, "user": user, "target": target, "at": entry.at, **done}


async def _unblock(services: Services, caller: Caller, release: Release) -> dict[str, Any]:
    """Open the gate of one session, or of all of USER@TARGET, and take the user off the list.

    While another session of theirs to that target is held, the user stays on the list.
    """
    user, at, target = release.whom.rpartition("@")
    one = "" if at else release.whom
    if one:
        row = await _find_row(services, one)
        one, user, target = row["id"], row["user"], row["target"]
    _refuse_oneself(caller, user, "unblocks")
    pair = [
        it for it in services.registry.list() if (it.user, it.target) == (user, target) and it.gate.closed
    ]
    freed = [session for session in pair if one in ("", session.id)]
    held = [session.id for session in pair if session not in freed]
    listed = not held and await trio.to_thread.run_sync(services.catalog.unblock, user, target, caller.name)
    if not listed and not freed:
        raise ControlError(Code.NOT_FOUND, f"{user} is not blocked from {target}: see proxyctl blocked")
    for session in freed:
        await session.unblock(caller.name)
    await note(services, caller, "unblock", session=one, user=user, target=target)
    return {"user": user, "target": target, "sessions": [session.id for session in freed], "held": held}


async def _blocked(services: Services, _caller: Caller, _: Nothing) -> dict[str, Any]:
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


async def _drop(services: Services, caller: Caller, action: Action) -> dict[str, Any]:
    session = live(services, action.session)
    await session.drop(caller.name, action.reason)
    await note(
        services,
        caller,
        "drop",
        session=session.id,
        user=session.user,
        target=session.target,
        reason=action.reason,
    )
    return {"session": session.id, "user": session.user, "target": session.target}


async def _message(services: Services, caller: Caller, message: Message) -> dict[str, Any]:
    session = live(services, message.session)
    text = session.message(caller.name, message.text)
    about = {"user": session.user, "target": session.target}
    await note(services, caller, "message", session=session.id, **about, text=text)
    return {"session": session.id, **about, "text": text}


async def _verify(services: Services, caller: Caller, one: One) -> dict[str, Any]:
    """Let a caller read a recording's files without opening them: who verifies sees nothing."""
    found = await trio.to_thread.run_sync(services.catalog.session, one.session)
    refuse_unreadable(caller, found, None)
    path, files = await services.archive.find(found)
    await note(services, caller, "fetch", session=found.id, kind="verify", seconds=0)
    ticket = services.tickets.give(found, caller, Permission.LOG, files) if files else None
    return {"session": await _find_row(services, found.id), "path": str(path), "elsewhere": ticket}


async def _read(services: Services, caller: Caller, wanted: Read) -> dict[str, Any]:
    """Let who holds the identity of recordings open a piece of one, once the ledger has it.

    `until`: when their leave to see it ends by itself, or None; `elsewhere`: what the store alone has is read with.
    """
    found = await trio.to_thread.run_sync(services.catalog.session, wanted.session)
    leave = await admit(services, caller, found.id, wanted.kind)
    refuse_unreadable(caller, found, wanted.kind)
    row = await _find_row(services, found.id)
    seen = functools.partial(_views, services.ledger, found.id, VIEWS_SHOWN)
    views = await trio.to_thread.run_sync(seen) if wanted.views else []
    path, files = await services.archive.find(found)
    kind, span = wanted.kind.value, wanted.span(row)
    await note(services, caller, "view", session=found.id, kind=kind, **span, **leave.by)
    needs = NEEDS[wanted.kind]
    ticket = services.tickets.give(found, caller, needs, files, leave) if files else None
    opened = {"session": row, "path": str(path), "elsewhere": ticket}
    return opened | {"views": views, "until": leave.allowed.until}


async def _export_job(services: Services, caller: Caller, wanted: exporting.Begin, send: Send) -> None:
    """Hold the job of an export; see `exporting.begin`."""
    await exporting.begin(services, caller, wanted, send, _opens(services, caller))


async def _export_resume(services: Services, caller: Caller, wanted: exporting.Resume, send: Send) -> None:
    """Hold a job that lost its maker, or has none yet; see `exporting.resume`."""
    await exporting.resume(services, caller, wanted, send, _opens(services, caller))


def _opens(services: Services, caller: Caller) -> exporting.Opens:
    async def opens(session: str) -> dict[str, Any]:
        return await _read(services, caller, Read(session, Sight.EXPORT, views=True))

    return opens


async def _reload(services: Services, caller: Caller, _: Nothing) -> dict[str, Any]:
    message = await services.reload()
    await note(services, caller, "reload")
    return {"message": message}


async def _users(services: Services, _caller: Caller, _: Nothing) -> dict[str, Any]:
    """List who may log in and how; what proves it stays here (Rule 5)."""
    return {
        "users": [
            {
                "name": name,
                "roles": list(user.roles),
                "password": user.password is not None,
                "keys": len(user.keys),
                "totp": user.totp is not None,
                "scram": user.scram is not None,
                "mysql_native": user.mysql_native is not None,
                "mariadb_ed25519": user.mariadb_ed25519 is not None,
                "factors": list(user.factors),
                "source": list(user.source),
            }
            for name, user in sorted(services.config.users.items())
        ]
    }


async def _watch(services: Services, caller: Caller, view: View, send: Send) -> None:
    """Send META, then every record after `view.after` until the session ends or the viewer leaves.

    `history` in the first frame is the last record there was before: what follows it is live.
    """
    session = live(services, view.session)
    tape, history = session.tape, session.tape.seq

    async def show() -> None:
        await send({"meta": dict(tape.meta), "session": _EMPTY_ROW | _live_row(session), "history": history})
        with tape.watch_packed(view.after) as batches:
            async for packed in batches:
                await leave.check()
                await send({"records": packed})

    async with watched(services, caller, session) as leave:
        await leave.during(show)


async def _look(services: Services, caller: Caller, one: Desktop, send: Send) -> None:
    """Send what a live desktop shows; see `look`."""
    about = _EMPTY_ROW | _live_row(live(services, one.session))
    await look(services, caller, one, send, about)


Answer = Callable[[Services, Caller, Any], Awaitable[dict[str, Any]]]
Streaming = Callable[[Services, Caller, Any, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table; `stream` instead of `answer` for a command that runs until someone leaves."""

    permission: Permission
    arguments: type[msgspec.Struct]
    answer: Answer | None = None
    stream: Streaming | None = None


_P = Permission
COMMANDS: Mapping[str, Command] = {
    "status": Command(_P.STATUS, Nothing, _status),
    "sessions": Command(_P.LIST, Filter, _sessions),
    "show": Command(_P.LIST, One, _show),
    "watch": Command(_P.WATCH, View, stream=_watch),
    "look": Command(_P.WATCH, Desktop, stream=_look),
    "picture": Command(_P.WATCH, Desktop, picture),
    "block": Command(_P.BLOCK, Action, _block),
    "unblock": Command(_P.BLOCK, Release, _unblock),
    "blocked": Command(_P.BLOCKS, Nothing, _blocked),
    "message": Command(_P.MESSAGE, Message, _message),
    "drop": Command(_P.DROP, Action, _drop),
    "verify": Command(_P.LOG, One, _verify),
    "fetch": Command(_P.LIST, fetching.Range, fetching.fetch),
    "export-job": Command(_P.EXPORT, exporting.Begin, stream=_export_job),
    "export-resume": Command(_P.EXPORT, exporting.Resume, stream=_export_resume),
    "export-ask": Command(_P.EXPORT, exporting.Wanted, exporting.ask),
    "export-waiting": Command(_P.ACT, Nothing, exporting.waiting),
    "export-told": Command(_P.EXPORT, exporting.Told, exporting.told),
    "export-sign": Command(_P.EXPORT, exporting.Sign, exporting.sign),
    "export-end": Command(_P.EXPORT, exporting.End, exporting.end),
    "export-cancel": Command(_P.EXPORT, exporting.One, exporting.cancel),
    "export-fetch": Command(_P.EXPORT, exporting.Piece, exporting.fetch),
    "export-piece": Command(_P.EXPORT, fetching.Range, exporting.piece),
    "exports": Command(_P.LIST, exporting.Filter, exporting.exports),
    "search": Command(_P.SEARCH, Search, search),
    "read": Command(_P.LIST, Read, _read),
    "views": Command(_P.LIST, One, _seen_by),
    "auditors": Command(_P.LIST, reviewing.Auditors, reviewing.auditors),
    "set-auditors": Command(_P.AUDITORS, reviewing.SetAuditors, reviewing.set_auditors),
    "comments": Command(_P.LIST, commenting.List, commenting.comments),
    "comment": Command(_P.REVIEW, commenting.Say, commenting.comment),
    "review": Command(_P.REVIEW, commenting.Review, commenting.review),
    "request": Command(_P.ASK, reviewing.Ask, reviewing.ask),
    "requests": Command(_P.ASK, reviewing.Filter, reviewing.requests),
    "approve": Command(_P.DECIDE, reviewing.Decide, reviewing.approve),
    "deny": Command(_P.DECIDE, reviewing.Decide, reviewing.deny),
    "revoke": Command(_P.ASK, reviewing.Decide, reviewing.revoke),
    "hold": Command(_P.HOLD, keeping.Keep, keeping.hold),
    "release": Command(_P.HOLD, keeping.Release, keeping.release),
    "holds": Command(_P.LIST, Nothing, keeping.holds),
    "purge": Command(_P.PURGE, keeping.Purge, stream=keeping.purge),
    "rdp-file": Command(_P.ISSUE, RdpFile, issue),
    "rdp-revoke": Command(_P.ISSUE, RdpRevoke, revoke),
    "sign-in": Command(_P.ACT, vouching.SignIn, vouching.sign_in),
    "recovery-code": Command(_P.ISSUE, vouching.Person, vouching.recovery_code),
    "unenrol": Command(_P.ISSUE, vouching.Person, vouching.unenrol),
    "access": Command(_P.OWN, Nothing, owning.access),
    "own-key-add": Command(_P.OWN, owning.KeyAdd, owning.key_add),
    "own-key-remove": Command(_P.OWN, owning.KeyRemove, owning.key_remove),
    "own-totp": Command(_P.OWN, owning.Again, owning.totp_begin),
    "own-totp-confirm": Command(_P.OWN, owning.Confirm, owning.totp_confirm),
    "own-recovery": Command(_P.OWN, owning.Again, owning.recovery),
    "own-desktop": Command(_P.OWN, owning.Desktop, owning.desktop),
    "fsck": Command(_P.STATUS, Nothing, stream=keeping.fsck),
    "reload": Command(_P.RELOAD, Nothing, _reload),
    "users": Command(_P.STATUS, Nothing, _users),
}
