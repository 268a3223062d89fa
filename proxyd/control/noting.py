"""What the ledger keeps of commands: one way to write it, so that every entry names who asked, and who acted for them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller


async def note(services: Services, caller: Caller, entry: str, /, **fields: Any) -> None:
    """Append an entry of this kind, and wait until it is on disk. Raises LedgerError."""
    append = functools.partial(services.ledger.append, entry, **fields, **caller.signature)
    await trio.to_thread.run_sync(append)
