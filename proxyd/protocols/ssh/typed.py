"""What somebody types in a terminal, line by line, for the command policy: a model of line editing, and the wait.

Rule 1: only the Enter waits: what is typed before it has reached the target, and is shown, as ever. A line that a rule
        forbids gets ^C instead of its Enter, so that the shell throws it away.
Rule 2: nothing overtakes: what comes while a line is judged waits behind it, and is thrown away if the gate shuts.
Rule 3: a paste is judged line by line as it comes, and whole at the Enter that ends it: a shell may take it either way.
Rule 4: this is a rail, not a cage: a completed name, a line recalled from history and a script's inside are not seen.
        Such a line is `unsure`, which a `force` rule does not let pass.

Nothing of this runs where no rule applies.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple

MAX_LINE: Final = 64 << 10  # bytes of one line; a longer one is `unsure`
MAX_SEQUENCE: Final = 32  # bytes of an escape sequence; longer is no key

CANCEL: Final = b"\x03"
CONTINUES: Final = 0x80  # bytes 0x80 to 0xBF continue a UTF-8 character
LEADS: Final = 0xC0

_PLAIN = re.compile(rb"[\x20-\x7e\x80-\xff]+")
_ENTERS: Final = b"\r\n\x0f"  # ^O is readline's "accept this line, and show the next"
_END_OF_INPUT = 0x04
_ESCAPE = 0x1B
_QUOTE = 0x16
_PASTE_BEGINS, _PASTE_ENDS = b"[200~", b"[201~"
_MOVES = {
    b"[C": 1, b"OC": 1, b"[D": -1, b"OD": -1, b"[H": -MAX_LINE, b"OH": -MAX_LINE, b"[1~": -MAX_LINE, b"[F": MAX_LINE,
    b"OF": MAX_LINE, b"[4~": MAX_LINE,
}  # fmt: skip
_HARMLESS = frozenset(b"\x00\x07\x0c\x11\x13")  # the bell, ^L, flow control: they change no line


class Piece(NamedTuple):
    """Bytes to forward; with `line`, they are what runs it."""

    data: bytes
    line: str | None = None
    unsure: bool = False


class Editor:
    """The line as it stands, by what was typed since the last Enter."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._cursor = 0
        self._unsure = False
        self._sequence: bytearray | None = None  # of an escape sequence that has begun
        self._quoted = False
        self._pasting = False
        self._pasted = bytearray()  # lines of a paste that has not been run, if the shell waits for it to end

    def feed(self, data: bytes) -> list[Piece]:
        """Take what was typed, and cut it where a line is run."""
        pieces: list[Piece] = []
        start = at = 0
        while at < len(data):
            plain = _PLAIN.match(data, at) if self._sequence is None and not self._quoted else None
            if plain is not None:
                self._insert(plain[0])
                at = plain.end()
                continue
            byte = data[at]
            at += 1
            if self._runs(byte):
                if at - 1 > start:
                    pieces.append(Piece(data[start : at - 1]))
                pieces.append(self._run(data[at - 1 : at]))
                start = at
            else:
                self._key(byte)
        if start < len(data):
            pieces.append(Piece(data[start:]))
        return pieces

    def clear(self) -> None:
        """Forget the line."""
        self._line.clear()
        self._pasted.clear()
        self._cursor = 0
        self._unsure = False

    # ------------------------------------------------------------------ what runs a line

    def _runs(self, byte: int) -> bool:
        if self._sequence is not None or self._quoted:
            return False
        return byte in _ENTERS or (byte == _END_OF_INPUT and (bool(self._line) or self._unsure))

    def _run(self, key: bytes) -> Piece:
        """Give the line and begin the next; ^D may run it, or only delete a character, so the line stays."""
        text = bytes(self._line)
        if key[0] == _END_OF_INPUT:
            del self._line[self._cursor : self._after()]
            return Piece(key, _text(text), self._unsure)
        if self._pasting:
            self._pasted += text + b"\n"
            self._line.clear()
            self._cursor = 0
            return Piece(key, _text(text), self._unsure)
        piece = Piece(key, _text(bytes(self._pasted) + text), self._unsure)
        self.clear()
        return piece

    # ------------------------------------------------------------------ what edits it

    def _insert(self, typed: bytes) -> None:
        if len(self._line) + len(self._pasted) + len(typed) > MAX_LINE:
            self._unsure = True
            return
        self._line[self._cursor : self._cursor] = typed
        self._cursor += len(typed)

    def _key(self, byte: int) -> None:
        if self._sequence is not None:
            self._in_sequence(byte)
            return
        if self._quoted:
            self._quoted = False
            self._insert(bytes((byte,)))
            return
        match byte:
            case 0x08 | 0x7F:  # backspace
                self._cut(self._before(), self._cursor)
            case 0x15:  # ^U
                self._cut(0, self._cursor)
            case 0x17:  # ^W
                kept = bytes(self._line[: self._cursor]).rstrip(b" ")
                self._cut(kept.rfind(b" ") + 1, self._cursor)
            case 0x0B:  # ^K
                del self._line[self._cursor :]
            case 0x01:  # ^A
                self._cursor = 0
            case 0x05:  # ^E
                self._cursor = len(self._line)
            case 0x02:  # ^B
                self._cursor = self._before()
            case 0x06:  # ^F
                self._cursor = self._after()
            case 0x03:  # ^C
                self.clear()
            case _ if byte == _ESCAPE:
                self._sequence = bytearray()
            case _ if byte == _QUOTE:
                self._quoted = True
            case _ if byte not in _HARMLESS and byte != _END_OF_INPUT:
                self._unsure = True  # completion, history, yank, undo: the shell knows, we do not

    def _cut(self, start: int, end: int) -> None:
        del self._line[start:end]
        self._cursor = start

    def _before(self) -> int:
        """Give where the character before the cursor begins."""
        at = self._cursor - 1
        while at > 0 and CONTINUES <= self._line[at] < LEADS:
            at -= 1
        return max(at, 0)

    def _after(self) -> int:
        """Give where the character under the cursor ends."""
        at = self._cursor + 1
        while at < len(self._line) and CONTINUES <= self._line[at] < LEADS:
            at += 1
        return min(at, len(self._line))

    def _in_sequence(self, byte: int) -> None:
        """Take the next byte of an escape sequence (ECMA-48, 5.4), and act when it is whole."""
        sequence = self._sequence
        assert sequence is not None  # noqa: S101 - the caller looked
        sequence.append(byte)
        begun = sequence[0] in b"[O"
        ended = len(sequence) > 1 and 0x40 <= byte <= 0x7E
        if begun and not ended and len(sequence) < MAX_SEQUENCE:
            return
        self._sequence = None
        self._act(bytes(sequence))

    def _act(self, sequence: bytes) -> None:
        if sequence in _MOVES:
            steps = _MOVES[sequence]
            if abs(steps) > 1:
                self._cursor = 0 if steps < 0 else len(self._line)
            else:
                self._cursor = self._after() if steps > 0 else self._before()
        elif sequence == b"[3~":  # Delete
            del self._line[self._cursor : self._after()]
        elif sequence == _PASTE_BEGINS:
            self._pasting = True
        elif sequence == _PASTE_ENDS:
            self._pasting = False
        else:
            self._unsure = True


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace").strip()


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
