"""Puts the texts of recordings into the search index from their sidecars: for who holds the identity. Never the daemon."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from proxyd.search.opening import Settings, open_index
from proxyd.search.texts import Text, Texts
from proxyd.search.words import WHOLE, About, SearchIndex

if TYPE_CHECKING:
    from proxyd.recorder.replay import Recording

BATCH: Final = 2000  # texts in one transaction: a moment, so that a daemon at work need not wait


class Filling:
    """A search index that recordings are put into; `anew`: also those it has whole."""

    def __init__(self, index: SearchIndex, sources: Collection[str], *, anew: bool) -> None:
        self._index, self._sources = index, sources
        self._done = {name for name, state in index.states().items() if state == WHOLE and not anew}

    def fill(self, recording: Recording, *, anew: bool = False) -> int | None:
        """Put a recording's texts in, in place of what is there of it; gives how many, None when it had them.

        Raises SearchError, FormatError.
        """
        session = recording.path.name
        if session in self._done and not anew:
            return None
        if not self._index.begin(about_of(recording)):
            return 0  # it was purged
        texts, count = self._texts(recording), 0
        while batch := list(islice(texts, BATCH)):
            self._index.write({session: batch})
            count += len(batch)
        self._index.finish(session)
        return count

    def _texts(self, recording: Recording) -> Iterator[Text]:
        texts = Texts()
        for item in recording.sidecar().items():
            yield from (text for text in texts.of([item]) if text.source in self._sources)


def about_of(recording: Recording) -> About:
    """Say of a recording's session what searches ask."""
    names = ("protocol", "user", "target", "login")
    protocol, user, target, login = (str(recording.meta.get(name, "")) for name in names)
    return About(recording.path.name, protocol, user, target, login, recording.started_at)


@contextmanager
def filling(settings: Settings, sources: Collection[str], *, anew: bool) -> Iterator[Filling]:
    """Open the search index that the configuration names. Raises VaultError, SearchError."""
    with trio.run(open_index, settings) as index:
        yield Filling(index, sources, anew=anew)
