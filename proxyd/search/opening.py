"""The search index as the configuration names it: opened by the daemon and by `proxyd index`, removed when unwanted."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import trio

from proxyd import vault
from proxyd.search.words import SearchError, SearchIndex


class Settings(Protocol):
    """What of the configuration counts here."""

    @property
    def key(self) -> str | None:
        """Where the key is."""

    @property
    def index(self) -> Path:
        """Where the file is."""


async def open_index(settings: Settings) -> SearchIndex:
    """Open it, made if it is not there; raises VaultError, SearchError."""
    if settings.key is None:
        raise SearchError("the search index needs a key: search.key of the configuration")
    key = await vault.fetch(settings.key)
    return await trio.to_thread.run_sync(SearchIndex, settings.index, key.data)


def remove_index(path: Path) -> bool:
    """Remove an index and what belongs to it; False when there was none. Raises OSError."""
    found = [file for suffix in ("", "-wal", "-shm") if (file := path.with_name(path.name + suffix)).exists()]
    for file in found:
        file.unlink()
    return bool(found)
