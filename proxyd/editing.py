"""A line as somebody types it: a model of line editing, of the keys alone.

Rule 1: it is cut where a line is run, or given up; pieces joined are what was typed, wherever it was cut before.
Rule 2: what only the shell knows (a completed name, a line of history, what is yanked) makes a line `unsure`.
Rule 3: memory is bounded: a line of more than MAX_LINE is unsure, and is what came first.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_LINE: Final = 64 << 10  # bytes of one line; a longer one is `unsure`
MAX_SEQUENCE: Final = 32  # bytes of an escape sequence; longer is no key

CONTINUES: Final = 0x80  # bytes 0x80 to 0xBF continue a UTF-8 character
LEADS: Final = 0xC0

_PLAIN = re.compile(rb"[\x20-\x7e\x80-\xff]+")
_ENTERS: Final = b"\r\n\x0f"  # ^O is readline's "accept this line, and show the next"
_END_OF_INPUT = 0x04
_ESCAPE = 0x1B
_GIVE_UP = 0x03
_QUOTE = 0x16
_PASTE_BEGINS, _PASTE_ENDS = b"[200~", b"[201~"
_MOVES = {
    b"[C": 1, b"OC": 1, b"[D": -1, b"OD": -1, b"[H": -MAX_LINE, b"OH": -MAX_LINE, b"[1~": -MAX_LINE, b"[F": MAX_LINE,
    b"OF": MAX_LINE, b"[4~": MAX_LINE,
}  # fmt: skip
_HARMLESS = frozenset(b"\x00\x07\x0c\x11\x13")  # the bell, ^L, flow control: they change no line


class Piece(NamedTuple):
    """Bytes as they were typed; with `line`, they are what runs it. `pasted`: inside of a paste, which goes on.

    `given_up`: they are a ^C.
    """

    data: bytes
    line: str | None = None
    unsure: bool = False
    pasted: bool = False
    given_up: bool = False


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
            runs = self._runs(byte)
            if runs or (byte == _GIVE_UP and self._sequence is None and not self._quoted):
                if at - 1 > start:
                    pieces.append(Piece(data[start : at - 1]))
                pieces.append(self._run(data[at - 1 : at]) if runs else self._given_up())
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
            return Piece(key, _text(text), self._unsure, pasted=True)
        piece = Piece(key, _text(bytes(self._pasted) + text), self._unsure)
        self.clear()
        return piece

    def _given_up(self) -> Piece:
        self.clear()
        return Piece(bytes((_GIVE_UP,)), given_up=True)

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
