"""Seeing a session: the one way to the rules, for whatever shows, opens, searches or copies one.

Rule 1: nothing of a session is shown, and no recording opened, before `admit` has let its caller; of what goes on, each
        piece is let again, and a view ends when it may go on no longer, also one in which nothing happens.
Rule 2: a piece of a recording is in the ledger, with its seconds, before its reader is told that they may.
Rule 3: the daemon has no key. Whoever holds the identity of recordings - a console, a vault, an operator's own proxyctl -
        is trusted to ask here first, for each piece; what they open without asking no ledger can have.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from proxyd.control.client import Code, ControlError
from proxyd.control.permissions import Caller, Permission, renewed
from proxyd.errors import ProxydError
from proxyd.governance.rules import AT_ONCE, NEEDS, Allowed, Forbidden, Sight, Viewer, decide
from proxyd.recorder.catalog import LIVE

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.recorder.catalog import SessionRow
    from proxyd.recorder.reviews import Standing

STALE_SECONDS = 5.0  # how late a view hears what another node wrote; what this one wrote counts at once
GUARD_SECONDS = 0.5  # how late a silent view ends

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Pass:
    """Leave for one caller to see one session in one way; `check` before each piece of it."""

    def __init__(self, services: Services, caller: Caller, session: str, sight: Sight) -> None:
        self._services = services
        self._config = services.config
        self._caller = caller
        self._session = session
        self._sight = sight
        self._version = -1
        self._decided = 0.0
        self._allowed = Allowed()

    @property
    def allowed(self) -> Allowed:
        """What was decided last."""
        return self._allowed

    @property
    def by(self) -> dict[str, str]:
        """Give what the ledger says of the leave: the request that gave it, if one had to."""
        return {"request": self._allowed.request} if self._allowed.request else {}

    async def check(self) -> None:
        """Return if the caller may see the next piece. Raises Forbidden, ControlError."""
        services, until = self._services, self._allowed.until
        same = self._version == services.reviews.version and self._config is services.config
        fresh = trio.current_time() - self._decided < STALE_SECONDS
        if not (same and fresh) or (until is not None and services.reviews.now() >= until):
            await self._decide()

    async def during(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this work and end it when the caller may see no more. Raises what it raised, or why they may not."""
        failure: Exception | None = None

        async def guard() -> None:
            nonlocal failure
            try:
                while True:
                    await trio.sleep(GUARD_SECONDS)
                    await self.check()
            except ProxydError as error:
                failure = error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard)
            try:
                await work()
            except (ProxydError, trio.BrokenResourceError, trio.TooSlowError) as error:
                failure = error  # raised outside, where no nursery wraps it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _decide(self) -> None:
        services, config = self._services, self._services.config
        if config is not self._config:
            self._caller = await trio.to_thread.run_sync(renewed, config, self._caller)
            self._config = config
        version, caller = services.reviews.version, self._caller
        caller.require(NEEDS[self._sight])
        standing = await trio.to_thread.run_sync(services.reviews.standing, self._session, caller.user)
        self._allowed = _decided(services, caller, self._sight, standing)
        self._version, self._decided = version, trio.current_time()


def _decided(services: Services, caller: Caller, sight: Sight, standing: Standing) -> Allowed:
    return decide(
        Viewer(caller.name, caller.user, caller.permissions),
        sight,
        auditors=standing.auditors,
        requests=standing.requests,
        policy=services.config.review,
        now=services.reviews.now(),
    )


async def admit(services: Services, caller: Caller, session: str, sight: Sight) -> Pass:
    """Let a caller see the session with this whole id. Raises Forbidden, ControlError, CatalogError."""
    leave = Pass(services, caller, session, sight)
    await leave.check()
    return leave


async def sieve(services: Services, caller: Caller, sight: Sight) -> Callable[[str], bool]:
    """Give what tells of any session, by its whole id, whether a caller may see it now: for what looks into many at once.

    Raises ControlError when they lack the permission for any.
    """
    caller.require(NEEDS[sight])
    standing_of = await trio.to_thread.run_sync(services.reviews.standings, caller.user)

    def may_see(session: str) -> bool:
        try:
            _decided(services, caller, sight, standing_of(session))
        except Forbidden:
            return False
        return True

    return may_see


class Read(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a recording, and what it is for: from second `first` of the session to `last`; none: to its end."""

    session: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    kind: Sight
    first: _Seconds = 0.0
    last: _Seconds | None = None
    views: bool = False  # with who saw the session before: finding that takes time

    def span(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Give the piece in seconds of the session that `row` is. Raises ControlError when it ends before it begins."""
        lasted = max(0.0, (row["ended_at"] or time.time()) - row["started_at"])
        last = lasted if self.last is None else self.last
        if last < self.first:
            raise ControlError(Code.USAGE, "a piece of a session ends after it begins")
        return {"first": round(self.first, 3), "last": round(last, 3), "seconds": round(last - self.first, 3)}


def refuse_unreadable(caller: Caller, found: SessionRow, sight: Sight | None) -> None:
    """Raise ControlError for a recording that can't be read, or not yet; `sight` None: to verify it."""
    if sight in AT_ONCE:
        raise ControlError(Code.USAGE, f"{sight} is no way to read a recording: see watch and look")
    if found.state == LIVE and sight is Sight.REPLAY:
        caller.require(Permission.WATCH)  # a recording that still grows is a live view
    elif found.state == LIVE:
        now = f"screenshot {found.id} -o x.png" if found.protocol == "rdp" else f"watch {found.id}"
        text = f"session {found.id} is still live, its {sight or 'verification'} comes with its end; now: proxyctl {now}"
        raise ControlError(Code.REFUSED, text)
    if found.purged_at is not None:
        gone = time.strftime("%Y-%m-%d", time.gmtime(found.purged_at))
        text = f"the recording of session {found.id} was purged on {gone}: {found.purged_why}"
        raise ControlError(Code.NOT_FOUND, text)
    if not found.path:
        raise ControlError(Code.NOT_FOUND, f"session {found.id} has no recording on this node")
