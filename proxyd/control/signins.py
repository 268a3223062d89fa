"""Who is signed in to the consoles, as these say; and the end of a sign-in, by operators.

Rule 1: a sign-in is a console's own: here is what it said of each, for as long as its stream is open; it takes them along.
Rule 2: who ends one is in the ledger first, with whose it was and from where. It has ended when its console says so; an
        answer that does not come in time is an error.
Rule 3: all of it is bounded, and none of it signs anybody in.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import trio

from proxyd import log
from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.control.watching import Send

MOST: Final = 2000  # of one console; as it bounds them itself
CONSOLES: Final = 8  # of one daemon: one, and its successor at an update
CONFIRM_S: Final = 5.0  # a console does it at once, or is gone

_Number = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

_log = log.get("console")


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sign-in; times in seconds since 1970. `number` tells it from others of the console, and is no secret."""

    number: _Number
    user: _Name
    address: Annotated[str, msgspec.Meta(max_length=64)]
    agent: Annotated[str, msgspec.Meta(max_length=200)]
    began_at: float
    seen_at: float


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All sign-ins of a console, by the name its stream was given."""

    console: Annotated[str, msgspec.Meta(max_length=64)]
    rows: Annotated[list[Row], msgspec.Meta(max_length=MOST)]


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user, and which of their sign-ins; no number: all."""

    user: _Name
    number: Annotated[str, msgspec.Meta(max_length=32)] = ""


class _Console:
    """What one console said, and is asked for."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(16)
        self.rows: tuple[Row, ...] = ()
        self.asked: set[str] = set()
        self.wanted = trio.Event()  # set when `asked` has grown
        self.told = trio.Event()  # set when `rows` were said anew, or the console has gone


class Consoles:
    """The consoles of one daemon."""

    def __init__(self) -> None:
        self._open: dict[str, _Console] = {}

    @contextmanager
    def joined(self) -> Iterator[_Console]:
        """Give a console a place while it is there. Raises ControlError where there are too many."""
        if len(self._open) >= CONSOLES:
            raise ControlError(Code.BUSY, f"{CONSOLES} consoles are open here already")
        console = _Console()
        self._open[console.name] = console
        try:
            yield console
        finally:
            del self._open[console.name]
            console.rows = ()
            console.told.set()

    def tell(self, name: str, rows: list[Row]) -> None:
        """Take what a console says in place of what it said. Raises ControlError where it is not joined."""
        console = self._open.get(name)
        if console is None:
            raise ControlError(Code.NOT_FOUND, "there is no such console: its stream comes first")
        console.rows = tuple(rows)
        console.asked &= {row.number for row in rows}
        console.told.set()
        console.told = trio.Event()

    def rows(self) -> list[Row]:
        """Give all sign-ins, the newest first."""
        found = [row for console in self._open.values() for row in console.rows]
        return sorted(found, key=lambda row: row.began_at, reverse=True)

    async def end(self, numbers: frozenset[str]) -> None:
        """Have consoles end these, and wait until they have. Raises ControlError after CONFIRM_S."""
        with trio.move_on_after(CONFIRM_S):
            async with trio.open_nursery() as nursery:
                for console in list(self._open.values()):
                    nursery.start_soon(self._ended, console, numbers)
            return
        raise ControlError(Code.TIMEOUT, f"the console has not confirmed it within {CONFIRM_S:g} s")

    @staticmethod
    async def _ended(console: _Console, numbers: frozenset[str]) -> None:
        while here := numbers & {row.number for row in console.rows}:
            console.asked |= here
            console.wanted.set()
            await console.told.wait()


async def join(services: Services, _caller: Caller, _: object, send: Send) -> None:
    """Tell a console its name, then which sign-ins to end, for as long as it listens."""
    with services.consoles.joined() as console:
        await send({"console": console.name})
        while True:
            await console.wanted.wait()
            console.wanted = trio.Event()
            await send({"sign_out": sorted(console.asked)})


async def tell(services: Services, _caller: Caller, told: Told) -> dict[str, Any]:
    """Take a console's list."""
    services.consoles.tell(told.console, told.rows)
    return {}


async def sign_ins(services: Services, _caller: Caller, _: object) -> dict[str, Any]:
    """List who is signed in."""
    return {"sign_ins": [msgspec.structs.asdict(row) for row in services.consoles.rows()]}


async def sign_out(services: Services, caller: Caller, wanted: End) -> dict[str, Any]:
    """End one sign-in of a user, or all; their live views close with it."""
    found = [
        row
        for row in services.consoles.rows()
        if row.user == wanted.user and wanted.number in ("", row.number)
    ]
    if not found:
        text = f"{wanted.user} is not signed in" + (" by that number" if wanted.number else "")
        raise ControlError(Code.NOT_FOUND, f"{text}: see proxyctl users signed-in")
    addresses = sorted({row.address for row in found})
    await note(services, caller, "sign-out", user=wanted.user, count=len(found), addresses=addresses)
    _log.warning("signed out by an operator", user=wanted.user, count=len(found), by=caller.signed)
    await services.consoles.end(frozenset(row.number for row in found))
    return {"user": wanted.user, "ended": len(found)}
