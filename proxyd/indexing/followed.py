"""One session as it is indexed: its tape is read to a child, what comes back goes to its sidecar and to who watches.

Rule 1: the session never waits for any of this: its tape is read as a viewer reads it, from memory or from the file.
Rule 2: of what the child derived nothing is kept but in the sidecar, and the words of its texts in the search index where
        there is one; when the child dies all is read anew.
Rule 3: records that end the child, or that it can't read, TRIES times at the same place are given up: `proxyd index`
        says so again. What others did to the child does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from proxyd.errors import FormatError
from proxyd.indexing.child import Child
from proxyd.indexing.frames import Begin, Failed, Fed, Feed, Finish, Look
from proxyd.indexing.looking import Desk
from proxyd.recorder.hub import Played
from proxyd.recorder.sidecar import Item, Writer
from proxyd.search.feed import Feed as SearchFeed
from proxyd.search.feed import Place
from proxyd.search.words import About

PACE_S: Final = 0.25  # between two batches while nobody watches: large ones cost less
TRIES: Final = 3
WHY_SHOWN: Final = 40  # characters of what a child says of itself


class Unreadable(FormatError):
    """The child could not read the session's records."""


class Followed(Desk):
    """A session; `number` is what the child knows it by. `reserve` says whether storage has room for a sidecar.

    `whole` is called, in a worker thread, when index and search have all of it.
    """

    def __init__(
        self,
        number: int,
        tape: Played,
        reserve: Callable[[], None],
        whole: Callable[[], None],
        search: SearchFeed | None = None,
    ) -> None:
        super().__init__()
        self.number, self.tape = number, tape
        self.ended_at: float | None = None  # trio's time, once nothing more comes on the tape
        self.done = trio.Event()
        self.faults = self.size = self.restarts = 0
        self.awaiting = False  # the child's answer
        self.asked = 0  # when: the child answers in order
        self._reserve, self._whole, self._search = reserve, whole, search
        self._texts: Place | None = None  # where its texts go, while it is read
        self._child: Child | None = None
        self._answer: Fed | Failed | None = None
        self._answered = trio.Event()
        self._bell = trio.Event()
        self._strikes: dict[int, int] = {}
        self._goal, self._goal_at = 0, 0.0

    # ------------------------------------------------------------------ its life in one child

    async def follow(self, child: Child) -> None:
        """Read the tape to a child, to its end. Raises OSError, FormatError, and Unreadable when given up (rule 3)."""
        self.restart()
        self._child = child
        writer = await trio.to_thread.run_sync(
            Writer, self.tape.reel.folder, self.tape.id, self.tape.reel.dek
        )
        self._texts = None
        if self._search is not None:
            self._texts = self._search.begin(about_of(self.tape), self._whole)
        finished = False
        try:
            child.post(Begin(self.number, str(self.tape.meta.get("protocol", ""))))
            with self.tape.watch_packed(counted=False) as batches:
                async for packed in batches:
                    await self._keep(writer, await self._asked_for(Feed(self.number, packed)))
                    await self._pause()
            await self._keep(writer, await self._asked_for(Finish(self.number)))
            await trio.to_thread.run_sync(writer.finish)
            self.size = writer.size
            finished = True
            if self._texts is None:
                await trio.to_thread.run_sync(self._whole)
        finally:
            self._child = None
            self.awaiting = False
            if self._texts is not None:
                self._texts.end(whole=finished)
            if not finished:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(writer.abandon)

    async def _asked_for(self, frame: Feed | Finish) -> Fed:
        """Send it and wait for the answer; raises Unreadable."""
        assert self._child is not None  # noqa: S101 - only called from follow
        self._answer, self._answered = None, trio.Event()
        self.awaiting = True
        self.asked = time.monotonic_ns()
        self._child.post(frame)
        await self._answered.wait()
        self.awaiting = False
        return self._read()

    def _read(self) -> Fed:
        """Give what the child answered; raises Unreadable."""
        if isinstance(self._answer, Failed):
            why = self._answer.why[:WHY_SHOWN]
            raise Unreadable(f"the records behind number {self.fed_seq} can't be read ({why!r})")
        assert self._answer is not None  # noqa: S101 - it was waited for
        return self._answer

    async def _keep(self, writer: Writer, fed: Fed) -> None:
        self.fed_seq, self.faults = max(self.fed_seq, fed.seq), fed.faults
        self.serve()
        if fed.items:
            items = [Item(*item) for item in fed.items]
            await trio.to_thread.run_sync(self._write, writer, items)
            if self._texts is not None:
                await self._texts.add(items)

    def _write(self, writer: Writer, items: list[Item]) -> None:
        self._reserve()
        writer.add(items)

    async def _pause(self) -> None:
        """Let some records come together, unless somebody watches or the session has ended."""
        if self.lookers or self.ended_at is not None or self.fed_seq < self.tape.written:
            return
        self._bell = trio.Event()
        with trio.move_on_after(PACE_S):
            await self._bell.wait()

    def answered(self, answer: Fed | Failed) -> None:
        """Take the child's answer; what nobody asked for says nothing."""
        if self.awaiting:
            self._answer = answer
            self._answered.set()

    # ------------------------------------------------------------------ what happens to it

    def forget(self) -> None:
        """Let its key go: it is given up."""
        self._whole()

    def hurry(self) -> None:
        """Read on now."""
        self._bell.set()

    def strike(self) -> bool:
        """Note that the child failed on what comes next; True when that was once too often (rule 3)."""
        count = self._strikes[self.fed_seq] = self._strikes.get(self.fed_seq, 0) + 1
        return count >= TRIES

    def show(self, *, on: bool) -> bool:
        """Ask the child for pictures, or for none."""
        if self._child is None:
            return False
        self._child.post(Look(self.number, on))
        if on:
            self.hurry()
        return True

    def serve(self) -> None:
        """Ask for what somebody waits for, and be quick about it."""
        super().serve()
        if self.lookers:
            self.hurry()

    def lag(self) -> float:
        """Give the seconds since all that was on the tape had been read."""
        now = time.monotonic()
        if self.fed_seq >= self._goal:
            self._goal, self._goal_at = self.tape.seq, now
        return now - self._goal_at if self.fed_seq < self._goal else 0.0


def about_of(tape: Played) -> About:
    """Say of a tape's session what searches ask."""
    protocol, user, target, login = (
        str(tape.meta.get(name, "")) for name in ("protocol", "user", "target", "login")
    )
    return About(tape.id, protocol, user, target, login, tape.started_ns / 1e9)
