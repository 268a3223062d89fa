"""Who watches a desktop live: each gets the full picture first, then what changes, as fast as they take it.

Rule 1: nobody waits for a viewer: one that takes less than comes loses what waits for it and gets a whole picture anew.
Rule 2: a viewer's first picture shows at least all that was on the tape when they came.
Rule 3: a whole picture is asked for when somebody waits for one, and only once for all who do.
"""

from __future__ import annotations

from typing import Final

import trio

from proxyd.errors import ProxydError
from proxyd.indexing.frames import Shown

WAITING_BYTES: Final = (
    4 << 20
)  # of changes kept for a viewer: a second or two of a full-screen video at 1080p
FIRST_S: Final = (
    60.0  # for the first picture: an indexer that begins anew reads an hour of office work in less
)


class NoPicture(ProxydError):
    """Nobody can show this session's desktop now."""


class Looker:
    """One viewer's place; made by Desk.look."""

    def __init__(self, desk: Desk, goal: int) -> None:
        self.goal = goal
        self.lost = 0  # times it was too slow
        self._desk = desk
        self._waiting: list[Shown] = []
        self._bytes = 0
        self._stale = True
        self._hungry = False
        self._bell = trio.Event()

    @property
    def wants_whole(self) -> bool:
        """Say whether it waits for a whole picture."""
        return self._hungry and self._stale

    async def take(self) -> list[Shown]:
        """Wait for what there is to show, in order; [] when nothing comes any more. Raises NoPicture."""
        self._hungry = True
        try:
            while not self._waiting:
                if self._desk.error:
                    raise NoPicture(self._desk.error)
                if self._desk.over:
                    return []
                self._desk.serve()
                self._bell = trio.Event()
                await self._bell.wait()
        finally:
            self._hungry = False
        shown, self._waiting, self._bytes = self._waiting, [], 0
        return shown

    def give(self, shown: Shown) -> None:
        """Take what the screen shows now (rule 1)."""
        if shown.whole:
            if self._stale and shown.seq < self.goal:
                return
            self._waiting, self._bytes, self._stale = [shown], shown.size, False
        elif self._stale:
            return
        elif self._bytes + shown.size > WAITING_BYTES:
            self._waiting, self._bytes, self._stale = [], 0, True
            self.lost += 1
            return
        else:
            self._waiting.append(shown)
            self._bytes += shown.size
        self.ring()

    def ring(self) -> None:
        """Have it look again."""
        self._bell.set()

    def forget(self) -> None:
        """Throw away what it has: another process reads the session, and nothing builds on it."""
        self._waiting, self._bytes, self._stale = [], 0, True


class Desk:
    """All who watch one session; `ask` asks the indexer to show it, or no more."""

    def __init__(self) -> None:
        self.lookers: set[Looker] = set()
        self.over = False
        self.error = ""
        self.fed_seq = 0
        self._asked = False

    def show(self, *, on: bool) -> bool:
        """Ask the indexer for pictures, a whole one first; False when there is none to ask. Subclasses do it."""
        raise NotImplementedError

    def look(self, goal: int) -> Looker:
        """Begin to watch; the first picture shows at least record `goal` (rule 2)."""
        looker = Looker(self, goal)
        self.lookers.add(looker)
        return looker

    def leave(self, looker: Looker) -> None:
        """Watch no more."""
        self.lookers.discard(looker)
        if not self.lookers:
            self._asked = False
            self.show(on=False)

    def serve(self) -> None:
        """Ask for a whole picture if somebody waits for one, and it would be new enough (rules 2 and 3)."""
        if not self._asked and any(one.wants_whole and one.goal <= self.fed_seq for one in self.lookers):
            self._asked = self.show(on=True)

    def shown(self, shown: Shown) -> None:
        """Pass on what the screen shows."""
        if shown.whole:
            self._asked = False
        for looker in self.lookers:
            looker.give(shown)
        self.serve()

    def restart(self) -> None:
        """Begin anew: another process reads the session from its beginning."""
        self._asked = False
        self.fed_seq = 0
        for looker in self.lookers:
            looker.forget()

    def end(self, error: str = "") -> None:
        """Nothing more comes."""
        self.over, self.error = True, error
        for looker in self.lookers:
            looker.ring()
