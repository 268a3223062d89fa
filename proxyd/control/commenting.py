"""What may be asked about what reviewers say of sessions: comments, some pinned to a moment, and marks of review.

Rule 1: what was said may tell what a session held, so those see it, and say something, who may see the session then and
        there: live while it lives, its recording afterwards.
Rule 2: each is in the ledger with who said it, the moment and the words.
Rule 3: comments and marks are users': an operator whose entry names none could be anybody.
Rule 4: that a session has been reviewed, by whom and when is for everybody who may list sessions.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note
from proxyd.control.seeing import admit
from proxyd.governance.comments import Comment, Mark
from proxyd.governance.rules import Sight
from proxyd.recorder.catalog import LIVE

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.recorder.catalog import SessionRow

TEXT_LIMIT = 2000  # characters: a page, as of a justification

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Text = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session, by its id or the beginning of it."""

    session: _Id


class Say(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A comment, on the second `at` of a session; none: on all of it."""

    session: _Id
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LIMIT)]
    at: _Seconds | None = None


class Review(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session that has been reviewed, or is to be again (`done` false), and what is to be said of that."""

    session: _Id
    text: _Text = ""
    done: bool = True


async def comments(services: Services, caller: Caller, wanted: List) -> dict[str, Any]:
    """List what was said of a session, the oldest first."""
    row = await _seen(services, caller, wanted.session)
    found = await trio.to_thread.run_sync(services.reviews.comments.of, row.id)
    return {"session": row.id, "comments": [shown(one) for one in found]}


async def comment(services: Services, caller: Caller, wanted: Say) -> dict[str, Any]:
    """Say something of a session, or of a moment of it."""
    at_us = None if wanted.at is None else round(wanted.at * 1e6)
    fresh = Comment("", wanted.session, _person(caller), 0.0, wanted.text.strip(), at_us, via=caller.via)
    return await _say(services, caller, fresh)


async def review(services: Services, caller: Caller, wanted: Review) -> dict[str, Any]:
    """Mark a session that has ended as reviewed, or take the mark back."""
    mark = Mark.REVIEWED if wanted.done else Mark.REOPENED
    fresh = Comment("", wanted.session, _person(caller), 0.0, wanted.text.strip(), mark=mark, via=caller.via)
    return await _say(services, caller, fresh)


async def _say(services: Services, caller: Caller, fresh: Comment) -> dict[str, Any]:
    row = await _seen(services, caller, fresh.session)
    if row.state == LIVE and fresh.mark:
        raise ControlError(Code.REFUSED, f"session {row.id} is still live: it is reviewed after its end")
    if row.purged_at is not None and fresh.mark:
        raise ControlError(
            Code.REFUSED, f"the recording of session {row.id} was purged: there is nothing to review"
        )
    kept = await trio.to_thread.run_sync(services.reviews.comments.say, fresh)
    about = {"comment": kept.id, "at_us": kept.at_us, "text": kept.text}
    await note(services, caller, kept.mark.value or "comment", session=row.id, **about)
    return {"comment": shown(kept)}


async def _seen(services: Services, caller: Caller, session: str) -> SessionRow:
    """Give the row of a session the caller may see now (rule 1). Raises Forbidden, ControlError."""
    row = await trio.to_thread.run_sync(services.catalog.session, session)
    await admit(services, caller, row.id, Sight.LIVE if row.state == LIVE else Sight.REPLAY)
    return row


def shown(one: Comment) -> dict[str, Any]:
    """Give a comment as the control socket says it."""
    return dataclasses.asdict(one) | {"mark": one.mark.value}


def _person(caller: Caller) -> str:
    """Say which user of the proxy speaks (rule 3). Raises ControlError."""
    if not caller.user:
        text = (
            f"sessions are reviewed by users of the proxy: {caller.name}'s entry of [[control.operators]] says not which "
            "user they are"
        )
        raise ControlError(Code.DENIED, text)
    return caller.user
