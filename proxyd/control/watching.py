"""Live views from the control socket: of records, and of what a desktop shows.

Rule 1: a live view is on the tape from its first moment, and in the ledger when it ends; a single picture is in the
        ledger before it is given out.
Rule 2: a viewer of a desktop gets the full picture first, then what changes; one that is slow gets a full picture again
        in place of what they missed. Nobody waits for them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from proxyd.control.client import Code, ControlError
from proxyd.control.listing import EMPTY_ROW, live_row
from proxyd.control.noting import note
from proxyd.control.seeing import Pass, admit
from proxyd.governance.rules import Sight
from proxyd.indexing.looking import FIRST_S
from proxyd.recorder.record import Kind

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.indexing.frames import Shown
    from proxyd.session import Session

DESKTOP = "rdp"
LEAVE_SECONDS = 10.0  # for the ledger entry of a view that ended; the disk may be slow, the viewer has gone
STATE_SECONDS = 1.0  # how late a viewer of a desktop learns that nothing changes but the gate
PICTURE_SECONDS = 20.0  # for one picture; less than a command may take, so that the reason is said

Send = Callable[[dict[str, Any]], Awaitable[None]]


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A live session, from the record after `after`."""

    session: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    after: Annotated[int, msgspec.Meta(ge=0)] = 0


class Desktop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The live session of a desktop."""

    session: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


def live(services: Services, prefix: str) -> Session:
    """Find the one live session whose id is, or begins with, `prefix`; raises ControlError."""
    matching = [session for session in services.registry.list() if session.id.startswith(prefix)]
    exact = [session for session in matching if session.id == prefix]
    if not matching:
        raise ControlError(Code.NOT_FOUND, f"no live session {prefix}: see proxyctl sessions --state live")
    if len(matching) > 1 and not exact:
        names = ", ".join(sorted(session.id for session in matching))
        raise ControlError(Code.NOT_FOUND, f"{prefix} is the beginning of more than one session: {names}")
    return (exact or matching)[0]


@asynccontextmanager
async def watched(services: Services, caller: Caller, session: Session) -> AsyncIterator[Pass]:
    """Be a viewer of a live session, where that is allowed, and have it written down (rule 1)."""
    leave = await admit(services, caller, session.id, Sight.LIVE)
    began = time.time()
    session.tape.add(Kind.CONTROL, {"action": "watch", "by": caller.name, "reason": ""})
    session.viewers += 1
    try:
        yield leave
    finally:
        session.viewers -= 1
        session.tape.add(Kind.CONTROL, {"action": "leave", "by": caller.name, "reason": ""})
        with trio.move_on_after(LEAVE_SECONDS, shield=True):
            ended = time.time()
            span = {
                "first": began - session.started_at,
                "last": ended - session.started_at,
                "seconds": ended - began,
            }
            told = {name: round(max(0.0, seconds), 3) for name, seconds in span.items()}
            await note(services, caller, "view", session=session.id, kind="live", **told, **leave.by)


async def watch(services: Services, caller: Caller, view: View, send: Send) -> None:
    """Send META, then every record after `view.after` until the session ends or the viewer leaves.

    `history` in the first frame is the last record there was before: what follows it is live.
    """
    session = live(services, view.session)
    tape, history = session.tape, session.tape.seq

    async def show() -> None:
        await send({"meta": dict(tape.meta), "session": EMPTY_ROW | live_row(session), "history": history})
        with tape.watch_packed(view.after) as batches:
            async for packed in batches:
                await leave.check()
                await send({"records": packed})

    async with watched(services, caller, session) as leave:
        await leave.during(show)


def _desktop(services: Services, prefix: str) -> Session:
    session = live(services, prefix)
    if session.protocol != DESKTOP:
        text = f"this {session.protocol} session has no desktop: proxyctl watch {session.id}"
        raise ControlError(Code.USAGE, text)
    return session


async def picture(services: Services, caller: Caller, one: Desktop) -> dict[str, Any]:
    """Give what a live desktop shows now; raises ControlError, NoPicture."""
    session = _desktop(services, one.session)
    leave = await admit(services, caller, session.id, Sight.PICTURE)
    followed, looker = services.indexer.look(session.id)
    try:
        at = round(time.time() - session.started_at, 3)
        seen = {"first": at, "last": at, "seconds": 0}
        await note(services, caller, "view", session=session.id, kind="picture", **seen, **leave.by)
        with trio.move_on_after(PICTURE_SECONDS):
            for shown in await looker.take():
                return {"session": session.id, "started_at": session.started_at} | shown.told()
            raise ControlError(
                Code.NOT_FOUND, f"session {session.id} has ended: proxyctl screenshot draws it"
            )
    finally:
        followed.leave(looker)
    raise ControlError(Code.TIMEOUT, f"no picture within {PICTURE_SECONDS:g} s: the indexer is behind")


async def look(services: Services, caller: Caller, one: Desktop, send: Send) -> None:
    """Send what a live desktop shows until the session ends or the viewer leaves (rule 2).

    Frames: {meta, session}, then {shown: [...], blocked: bool}, each a whole picture or patches of the one before, at
    least one every STATE_SECONDS. Raises ControlError, NoPicture.
    """
    session = _desktop(services, one.session)
    about = EMPTY_ROW | live_row(session)
    followed, looker = services.indexer.look(session.id)
    try:
        async with watched(services, caller, session) as leave:

            async def show() -> None:
                await send({"meta": dict(session.tape.meta), "session": about})
                deadline = trio.current_time() + FIRST_S
                over = begun = False
                while not over:
                    shown: list[Shown] = []
                    with trio.move_on_after(STATE_SECONDS):
                        shown = await looker.take()
                        over, begun = not shown, True
                    if not begun and trio.current_time() > deadline:
                        text = f"no picture within {FIRST_S:g} s: the indexer is behind"
                        raise ControlError(Code.TIMEOUT, text)
                    await leave.check()
                    told = [change.told() for change in shown]
                    await send({"shown": told, "blocked": session.gate.closed})

            await leave.during(show)
    finally:
        followed.leave(looker)
