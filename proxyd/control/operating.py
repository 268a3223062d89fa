"""What operators do to live sessions and their users: block and release, message, drop.

Rule 1: nobody blocks, or unblocks, themselves.
Rule 2: each deed is in the ledger with who asked for it and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from proxyd.control.client import Code, ControlError
from proxyd.control.listing import find_row
from proxyd.control.noting import note
from proxyd.control.watching import live

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller

TEXT_LIMIT = 500  # characters of a reason or message: a sentence or three, and the tape keeps it for ever

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Text = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)]


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


def _refuse_oneself(caller: Caller, user: str, deed: str) -> None:
    if caller.user and caller.user == user:
        text = f"nobody {deed} themselves: this session's user {user} is you; ask another operator"
        raise ControlError(Code.DENIED, text)


async def block(services: Services, caller: Caller, action: Action) -> dict[str, Any]:
    """Stop what the user of a session types, and keep them from starting another to its target."""
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


async def unblock(services: Services, caller: Caller, release: Release) -> dict[str, Any]:
    """Open the gate of one session, or of all of USER@TARGET, and take the user off the list.

    While another session of theirs to that target is held, the user stays on the list.
    """
    user, at, target = release.whom.rpartition("@")
    one = "" if at else release.whom
    if one:
        row = await find_row(services, one)
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


async def drop(services: Services, caller: Caller, action: Action) -> dict[str, Any]:
    """End a session; its user is told."""
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


async def message(services: Services, caller: Caller, sent: Message) -> dict[str, Any]:
    """Tell the user of a session something."""
    session = live(services, sent.session)
    text = session.message(caller.name, sent.text)
    about = {"user": session.user, "target": session.target}
    await note(services, caller, "message", session=session.id, **about, text=text)
    return {"session": session.id, **about, "text": text}
