"""Searching what was typed and shown, from the control socket.

Rule 1: hits come of sessions the caller may see only; of the others nothing shows, not even how many there are.
Rule 2: a search is in the ledger before it is answered: who, what for, and in which sessions something was found.
Rule 3: the daemon has no text to show: a hit is a session, a moment and a source. Who wants to read what stands there asks
        for each session's recording with `read`, under the rules of every other view.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from proxyd import metrics
from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note
from proxyd.control.seeing import sieve
from proxyd.governance.rules import Sight
from proxyd.search import SOURCES
from proxyd.search.query import LONGEST, QueryError, parse
from proxyd.search.words import Hit, SearchIndex, Wanted

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller

LIMIT = 50  # hits unasked: a screenful or two
LIMIT_MAXIMUM = 1000
EACH = 5  # hits of one session unasked: enough to see what it is about
NAME_LIMIT = 128

_Name = Annotated[str, msgspec.Meta(max_length=NAME_LIMIT)]


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked for, and where; see proxyd.search.words.Wanted. `sources` empty: in all."""

    text: Annotated[str, msgspec.Meta(max_length=LONGEST)]
    sources: Annotated[list[_Name], msgspec.Meta(max_length=len(SOURCES))] = []
    user: _Name = ""
    target: _Name = ""
    protocol: _Name = ""
    since: float | None = None
    until: float | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAXIMUM)] = LIMIT
    each: Annotated[int, msgspec.Meta(ge=0, le=LIMIT_MAXIMUM)] = EACH


async def search(services: Services, caller: Caller, asked: Search) -> dict[str, Any]:
    """Find where words were typed and shown. Raises ControlError, SearchError."""
    index, wanted = _index(services), _wanted(asked)
    try:
        query = parse(asked.text)
    except QueryError as error:
        raise ControlError(Code.USAGE, str(error)) from None
    began = time.perf_counter()
    may_see = await sieve(services, caller, Sight.SEARCH)
    found = await trio.to_thread.run_sync(index.search, query, wanted, lambda session: may_see(session.id))
    seconds = time.perf_counter() - began
    metrics.SEARCH_SECONDS.observe(seconds)
    live = {session.id for session in services.registry.list()}
    sessions = sorted({hit.session.id for hit in found.hits})
    await note(services, caller, "search", text=asked.text, sources=list(wanted.sources), sessions=sessions)
    return {
        "hits": [_told(hit, live=hit.session.id in live) for hit in found.hits],
        "more": found.more,
        "seconds": round(seconds, 6),
    }


def _index(services: Services) -> SearchIndex:
    if services.search is None:
        text = (
            f"this daemon keeps no search index: set search.enabled and search.key in {services.config.path}"
        )
        raise ControlError(Code.REFUSED, f"{text}, and start it anew")
    return services.search.index


def _wanted(asked: Search) -> Wanted:
    for source in asked.sources:
        if source not in SOURCES:
            raise ControlError(Code.USAGE, f"no source {source}: there are {', '.join(SOURCES)}")
    return Wanted(
        asked.sources or SOURCES, asked.user, asked.target, asked.protocol, asked.since, asked.until,
        asked.limit, asked.each,
    )  # fmt: skip


def _told(hit: Hit, *, live: bool) -> dict[str, Any]:
    about = hit.session
    return {
        "session": about.id,
        "protocol": about.protocol,
        "user": about.user,
        "target": about.target,
        "login": about.login,
        "started_at": about.started_at,
        "live": live,
        "at": hit.at,
        "at_us": hit.at_us,
        "source": hit.source,
        "number": hit.number,
    }
