"""Recordings whose local copy has gone, read through the daemon from the store, range by range.

Rule 1: a range is read with a ticket; a ticket is given where a recording is opened, which is in the ledger by then.
Rule 2: who reads, whether they still may, and whether the recording is still there, is asked for every range.
Rule 3: what is read is what the recording's files hold, encrypted; the daemon has no key to it, and keeps none of it.
Rule 4: few ranges are read at once and nobody waits long: a store that hangs holds up who reads from it, and nobody else.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
import trio

from proxyd.control.client import Code, ControlError

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller, Permission
    from proxyd.control.seeing import Pass
    from proxyd.recorder.catalog import SessionRow

RANGE_BYTES: Final = 1 << 20  # of one answer
TICKETS: Final = 256  # at once: the least used goes, and its reader opens the recording again
IDLE_S: Final = 3600.0  # a ticket nobody uses for so long is gone: an auditor's lunch
READERS: Final = 4  # threads; a store that hangs takes these and no other


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some bytes of one file of a recording that was opened."""

    ticket: Annotated[str, msgspec.Meta(min_length=32, max_length=32)]
    file: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    start: Annotated[int, msgspec.Meta(ge=0)]
    length: Annotated[int, msgspec.Meta(ge=1, le=RANGE_BYTES)]


class _Ticket(NamedTuple):
    row: SessionRow
    reader: tuple[int, str, str]
    permission: Permission
    files: Mapping[str, int]
    used: float
    leave: Pass | None


class Tickets:
    """Who may read which recording's files from the store."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._given: OrderedDict[str, _Ticket] = OrderedDict()
        self.readers = trio.CapacityLimiter(READERS)

    def give(
        self,
        row: SessionRow,
        caller: Caller,
        permission: Permission,
        files: Mapping[str, int],
        leave: Pass | None = None,
    ) -> dict[str, Any]:
        """Let a caller read a recording's files, to see what is in them as far as `leave` goes.

        Gives what is answered of it.
        """
        name = secrets.token_hex(16)
        self._given[name] = _Ticket(row, _reader(caller), permission, files, self._clock(), leave)
        while len(self._given) > TICKETS:
            self._given.popitem(last=False)
        return {"ticket": name, "files": dict(files)}

    async def check(self, caller: Caller, wanted: Range) -> SessionRow:
        """Give the session a range is of. Raises ControlError, Forbidden for who may not read it (any more)."""
        ticket = self._given.get(wanted.ticket)
        if ticket is None or ticket.reader != _reader(caller) or self._clock() - ticket.used > IDLE_S:
            raise ControlError(
                Code.NOT_FOUND, "this recording was opened too long ago, or not by you: open it again"
            )
        caller.require(ticket.permission)
        if ticket.leave is not None:
            await ticket.leave.check()
        if wanted.start + wanted.length > ticket.files.get(wanted.file, 0):
            raise ControlError(Code.USAGE, "no such range in this recording")
        self._given[wanted.ticket] = ticket._replace(used=self._clock())
        self._given.move_to_end(wanted.ticket)
        return ticket.row


def _reader(caller: Caller) -> tuple[int, str, str]:
    """Say who reads: the operator, and for whom they act."""
    return caller.uid, caller.name, caller.via


async def fetch(services: Services, caller: Caller, wanted: Range) -> dict[str, Any]:
    """Give a range of a recording's file from the store."""
    archive = services.archive
    row = await services.tickets.check(caller, wanted)
    now = await trio.to_thread.run_sync(services.catalog.session, row.id)
    if now.purged_at is not None or archive.uploads is None:
        raise ControlError(Code.NOT_FOUND, f"the recording of session {row.id} has been purged")
    data = await trio.to_thread.run_sync(
        archive.uploads.stored.read,
        row,
        wanted.file,
        wanted.start,
        wanted.length,
        limiter=services.tickets.readers,
        abandon_on_cancel=True,
    )
    return {"data": data}
