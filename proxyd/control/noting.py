"""What the ledger keeps of commands: one way to write it, so that every entry names who asked, and who acted for them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.recorder.ledger import Entry


async def note(services: Services, caller: Caller, entry: str, /, **fields: Any) -> Entry:
    """Append an entry of this kind, and wait until it is on disk; gives it. Raises LedgerError."""
    append = functools.partial(services.ledger.append, entry, **fields, **caller.signature)
    return await trio.to_thread.run_sync(append)
