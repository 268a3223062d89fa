"""What somebody types in a terminal, line by line, for the command policy: the wait of an Enter for its verdict.

Rule 1: only the Enter waits: what is typed before it has reached the target, and is shown, as ever. A line that a rule
        forbids gets ^C instead of its Enter, so that the shell throws it away.
Rule 2: nothing overtakes: what comes while a line is judged waits behind it, and is thrown away if the gate shuts.
Rule 3: a paste is judged line by line as it comes, and whole at the Enter that ends it: a shell may take it either way.
Rule 4: this is a rail, not a cage: a completed name, a line recalled from history and a script's inside are not seen.
        Such a line is `unsure`, which a `force` rule does not let pass.

Nothing of this runs where no rule applies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from proxyd.editing import Editor, Piece

CANCEL: Final = b"\x03"


class Typist:
    """Somebody at a terminal: passes on what is typed, and has each line judged before its Enter."""

    def __init__(
        self,
        forward: Callable[[bytes], None],
        refuse: Callable[[bytes], None],
        judge: Callable[[str, bool], Awaitable[str]],
        start: Callable[[Coroutine[Any, Any, None]], None],
        pause: Callable[[bool], None],
    ) -> None:
        """`judge` gives the sentence a line is refused with, or nothing; `start` runs an awaitable on the loop.

        `refuse` takes what is thrown away; `pause` stops, or resumes, reading from the client.
        """
        self._editor = Editor()
        self._forward, self._refuse, self._judge, self._start, self._pause = (
            forward, refuse, judge, start, pause
        )  # fmt: skip
        self._waiting: deque[Piece] = deque()
        self._judging = False
        self.then: Callable[[], None] | None = None  # what to do when nothing waits any more

    @property
    def busy(self) -> bool:
        """Whether something waits."""
        return self._judging

    def typed(self, data: bytes) -> None:
        """Take what was typed."""
        self._waiting.extend(self._editor.feed(data))
        if self._judging:
            self._pause(True)
        else:
            self._go_on()

    def throw_away(self) -> int:
        """Throw away what waits (rule 2); give how many bytes."""
        thrown = b"".join(piece.data for piece in self._waiting)
        self._waiting.clear()
        self._editor.clear()
        if thrown:
            self._refuse(thrown)
        return len(thrown)

    def _go_on(self) -> None:
        """Forward up to the next line that is to be judged."""
        while self._waiting:
            piece = self._waiting[0]
            if piece.line or piece.unsure:  # an empty line asks nobody
                self._judging = True
                self._start(self._wait(piece))
                return
            self._waiting.popleft()
            self._forward(piece.data)

    async def _wait(self, piece: Piece) -> None:
        try:
            refused = await self._judge(piece.line or "", piece.unsure)
        finally:
            self._judging = False
        if self._waiting and self._waiting[0] is piece:  # else it was thrown away meanwhile
            self._waiting.popleft()
            if refused:
                self._refuse(piece.data)
            self._forward(CANCEL if refused else piece.data)
        self._go_on()
        if not self._judging:
            self._pause(False)
            if (then := self.then) is not None:
                self.then = None
                then()
