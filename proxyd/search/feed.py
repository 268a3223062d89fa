"""What is derived of sessions on its way to the search index: gathered for a moment, then written together.

Rule 1: who feeds waits while more than WAITING characters wait to be written: memory does not grow. No session waits for it.
Rule 2: a text is found FLUSH_S after it was derived, and a moment more.
Rule 3: what can't be written is logged and counted, and its sessions are not called whole: `proxyd index --search` mends it.
Rule 4: a session has at most MOST characters here; what goes on behind them is in its recording only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final

import trio

from proxyd import log, metrics
from proxyd.search import SOURCES
from proxyd.search.texts import Text, Texts
from proxyd.search.words import About, SearchError, SearchIndex

if TYPE_CHECKING:
    from proxyd.recorder.sidecar import Item

FLUSH_S: Final = 1.0
WAITING: Final = 4 << 20  # characters: what an index writes in a second
MOST: Final = 256 << 20  # characters of one session: more than a terminal shows in a day of work
LOOK_S: Final = 3600.0  # between two looks whether the file is to be made smaller
TRACES_S: Final = 12 * 3600.0  # that long traces of what was purged may be in the file

_log = log.get("search")


class Place:
    """One session's place in the feed; made by Feed.begin."""

    def __init__(self, feed: Feed, about: About, whole: Callable[[], None]) -> None:
        self.about, self.whole = about, whole
        self.begun = self.ended = self.failed = False
        self.waiting: list[Text] = []
        self._feed = feed
        self._texts = Texts()
        self._room = MOST

    async def add(self, items: Iterable[Item]) -> None:
        """Take what was derived next; waits while too much waits to be written (rule 1)."""
        texts = [text for text in self._texts.of(items) if text.source in self._feed.sources]
        for text in texts:
            self._room -= len(text.text)
            if self._room < 0:
                self.failed = True  # it is not whole
                return
            self.waiting.append(text)
        await self._feed.weigh(sum(len(text.text) for text in texts))

    def end(self, *, whole: bool) -> None:
        """Say that nothing more comes; `whole`: it was all of the session."""
        self.ended = True
        self.failed = self.failed or not whole
        self._feed.ring()


class Feed:
    """All that is on its way to one index."""

    def __init__(self, index: SearchIndex, sources: Collection[str] = SOURCES) -> None:
        self.index, self.sources = index, frozenset(sources)
        self._places: list[Place] = []
        self._weight = 0
        self._bell, self._room = trio.Event(), trio.Event()

    def begin(self, about: About, whole: Callable[[], None] = lambda: None) -> Place:
        """Take a session from its beginning; what the index had of it is replaced.

        `whole` is called, in a worker thread, once the index has all of it.
        """
        place = Place(self, about, whole)
        self._places = [*(one for one in self._places if one.about.id != about.id), place]
        self._bell.set()
        return place

    def ring(self) -> None:
        """Have it look at what there is."""
        self._bell.set()

    async def weigh(self, characters: int) -> None:
        """Note that so much more waits; waits itself while it is too much."""
        self._weight += characters
        if characters:
            self._bell.set()
        while self._weight > WAITING:
            await self._room.wait()

    async def run(self) -> None:
        """Write until cancelled; what waits then is still written."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tidy)
            try:
                while True:
                    await self._bell.wait()
                    with trio.move_on_after(FLUSH_S):
                        await self._heavy()
                    self._bell = trio.Event()
                    await self.flush()
            finally:
                with trio.CancelScope(shield=True):
                    await self.flush()

    async def _heavy(self) -> None:
        """Wait until so much waits that it is better written now."""
        while self._weight <= WAITING // 2:
            self._bell = trio.Event()
            await self._bell.wait()

    async def flush(self) -> None:
        """Write what there is."""
        batch = [(place, place.waiting, place.ended) for place in self._places]
        self._weight = 0
        self._places = [place for place, _, ended in batch if not ended]
        for place, _, _ in batch:
            place.waiting = []
        self._room.set()
        self._room = trio.Event()
        try:
            await trio.to_thread.run_sync(self._write, batch)
        except SearchError as error:
            for place, _, _ in batch:
                place.failed = True
            metrics.SEARCH_FAILURES.inc()
            _log.error("texts are missing from the search index", why=str(error), sessions=len(batch))

    def _write(self, batch: list[tuple[Place, list[Text], bool]]) -> None:
        for place, _, _ in batch:
            if not place.begun:
                place.begun = True
                self.index.begin(place.about)
        texts = {place.about.id: texts for place, texts, _ in batch if texts}
        if texts:
            self.index.write(texts)
            metrics.SEARCH_TEXTS.inc(sum(map(len, texts.values())))
        for place, _, ended in batch:
            if ended and not place.failed:
                self.index.finish(place.about.id)
                place.whole()

    async def _tidy(self) -> None:
        """Take the traces of what was purged out of the file in time."""
        while True:
            await trio.sleep(LOOK_S)
            try:
                await self._compact()
            except SearchError as error:
                metrics.SEARCH_FAILURES.inc()
                _log.error("traces of what was purged are left in the search index", why=str(error))

    async def _compact(self) -> None:
        since = await trio.to_thread.run_sync(self.index.traces_since)
        if since is None or time.time() - since < TRACES_S:
            return
        done, first = False, True
        while not done:  # between two steps others write, and this may be cancelled
            done = await trio.to_thread.run_sync(self.index.compact_step, first)
            first = False
        _log.info("the search index was made smaller")
