"""Recordings from the control socket: a piece of one is let, and the ledger has it, before its reader is told where it is.

The daemon opens none: whoever has the identity opens what they were let see, in a process of their own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import trio

from proxyd.control.client import Code, ControlError
from proxyd.control.listing import VIEWS_SHOWN, One, elsewhere_of, find_row, views_of
from proxyd.control.noting import note
from proxyd.control.permissions import Permission
from proxyd.control.seeing import Read, admit, refuse_unreadable
from proxyd.governance.rules import NEEDS

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.recorder.catalog import SessionRow


async def read(services: Services, caller: Caller, wanted: Read) -> dict[str, Any]:
    """Let who holds the identity of recordings open a piece of one, once the ledger has it.

    `until`: when their leave to see it ends by itself, or None; `elsewhere`: what the store alone has is read with.
    """
    found = await trio.to_thread.run_sync(services.catalog.session, wanted.session)
    leave = await admit(services, caller, found.id, wanted.kind)
    refuse_unreadable(caller, found, wanted.kind)
    await _refuse_elsewhere(services, found)
    row = await find_row(services, found.id)
    seen = functools.partial(views_of, services.ledger, found.id, VIEWS_SHOWN)
    views = await trio.to_thread.run_sync(seen) if wanted.views else []
    path, files = await services.archive.find(found)
    kind, span = wanted.kind.value, wanted.span(row)
    await note(services, caller, "view", session=found.id, kind=kind, **span, **leave.by)
    needs = NEEDS[wanted.kind]
    ticket = services.tickets.give(found, caller, needs, files, leave) if files else None
    opened = {"session": row, "path": str(path), "elsewhere": ticket}
    return opened | {"views": views, "until": leave.allowed.until}


async def _refuse_elsewhere(services: Services, found: SessionRow) -> None:
    """Return when this node can read a recording. Raises ControlError that names the one which alone has it yet."""
    if node := await elsewhere_of(services, found):
        there = f"session {found.id} is on node {node}, and its recording is not here yet"
        raise ControlError(Code.NOT_FOUND, f"{there}: try again once the store has it, or on that node")


async def verify(services: Services, caller: Caller, one: One) -> dict[str, Any]:
    """Let a caller read a recording's files without opening them: who verifies sees nothing."""
    found = await trio.to_thread.run_sync(services.catalog.session, one.session)
    refuse_unreadable(caller, found, None)
    await _refuse_elsewhere(services, found)
    path, files = await services.archive.find(found)
    await note(services, caller, "fetch", session=found.id, kind="verify", seconds=0)
    ticket = services.tickets.give(found, caller, Permission.LOG, files) if files else None
    return {"session": await find_row(services, found.id), "path": str(path), "elsewhere": ticket}
