"""What may be asked about keeping recordings: holds, and what is purged when (mission M7).

Rule 1: a hold, its release and every purge are in the ledger with who asked for it and why.
Rule 2: `fsck` tells where catalog, disk and store disagree, and changes nothing.
Rule 3: what an operator names is purged only where no hold is; a dry run says what would go and touches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note
from proxyd.recorder.retention import Doomed

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.control.watching import Send
    from proxyd.recorder.holds import Hold

TEXT_LIMIT = 500  # characters of a reason: a sentence or three, and the ledger keeps it for ever
NAMED_LIMIT = 1000  # sessions one purge may name

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Keep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session that is to be held, and why."""

    session: _Id
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LIMIT)]


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session that is held no longer."""

    session: _Id
    reason: Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)] = ""


class Purge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes: the sessions that are named, with a reason; none: what the policies say."""

    sessions: Annotated[list[_Id], msgspec.Meta(max_length=NAMED_LIMIT)] = []
    reason: Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)] = ""
    dry_run: bool = False


async def hold(services: Services, caller: Caller, keep: Keep) -> dict[str, Any]:
    """Keep a session's recording from being purged."""
    entry = await trio.to_thread.run_sync(services.archive.hold, keep.session, caller.name, keep.reason)
    await note(services, caller, "hold", session=entry.session, reason=keep.reason)
    return shown(entry)


async def release(services: Services, caller: Caller, wanted: Release) -> dict[str, Any]:
    """Let a session's recording go when its time comes."""
    entry = await trio.to_thread.run_sync(services.archive.release, wanted.session, caller.name)
    await note(services, caller, "release", session=entry.session, reason=wanted.reason)
    return shown(entry)


async def holds(services: Services, _caller: Caller, _: msgspec.Struct) -> dict[str, Any]:
    """List what is held."""
    return {"holds": [shown(entry) for entry in await trio.to_thread.run_sync(services.archive.holds.holds)]}


def shown(entry: Hold) -> dict[str, Any]:
    """Give a hold as the control socket says it."""
    return {"session": entry.session, "by": entry.author, "at": entry.at, "reason": entry.reason}


async def purge(services: Services, caller: Caller, wanted: Purge, send: Send) -> None:
    """Send how many are to go, then each that went, or was kept after all because it is held."""
    doomed = await _named(services, wanted) if wanted.sessions else await services.archive.due()
    await send({"due": len(doomed), "bytes": sum(one.size for one in doomed), "dry_run": wanted.dry_run})
    for one in doomed:
        done = wanted.dry_run or await services.archive.purge(one, caller.signed)
        await send({"recording": one._asdict() | {"purged": done and not wanted.dry_run, "kept": not done}})


async def fsck(services: Services, _caller: Caller, _: msgspec.Struct, send: Send) -> None:
    """Send each thing that catalog, disk and store do not agree about."""
    for problem in await services.archive.check():
        await send({"problem": problem._asdict()})


async def _named(services: Services, wanted: Purge) -> list[Doomed]:
    """Find the recordings that are named. Raises ControlError for one that may not go, and nothing is purged."""
    if not wanted.reason:
        raise ControlError(
            Code.USAGE, "recordings that are named are purged for a reason: say it with --reason"
        )
    found = []
    for name in wanted.sessions:
        row = await trio.to_thread.run_sync(services.catalog.session, name)
        kept = await trio.to_thread.run_sync(services.archive.holds.kept, row.id)
        if not kept:
            raise ControlError(
                Code.REFUSED, f"session {row.id} has no recording that could be purged: it is live or gone"
            )
        if kept[0].held:
            raise ControlError(
                Code.REFUSED, f"session {row.id} is held: see proxyctl holds; nothing was purged"
            )
        found.append(Doomed(row.id, row.target, kept[0].ended_at, kept[0].size, wanted.reason))
    return found
