"""The operator's terminal while it shows a session's screen: harmless output, keys, and a way back.

Rule 1: what a session printed may paint, and nothing else: no answer is asked of the viewer's terminal, no
        clipboard, title, mouse or keyboard mode is touched. Only sequences listed here pass.
Rule 2: the terminal is as it was, whatever ends the view: modes, cursor, alternate screen, title.
Rule 3: a key is a key only when no terminal sent it as part of an answer.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Self

KEPT_BYTES = 1 << 20  # of output, to paint the screen anew: a full repaint of a large screen is some 100 KiB
ESC = 0x1B
ANSWER_BYTES = (
    256  # of an unfinished sequence from a keyboard: Alt and a bracket must not swallow keys for long
)
HELD_BYTES = 4096  # of an unfinished sequence; no terminal knows a longer one outside of strings
READ_BYTES = 1024

# A sequence may hold controls, which a terminal obeys or drops in its middle. Every quantifier is possessive, so
# that nothing a session prints costs more than its length.
_CONTROL = rb"[\x00-\x17\x19\x1c-\x1f\x7f]"
_TOKEN = re.compile(
    rb"\x1b%(c)s*+(?:"
    rb"\[(?P<csi>(?:[0-?]|%(c)s)*+(?:[ -/]|%(c)s)*+)(?P<final>[@-~])"
    rb"|\[(?:[ -?]|%(c)s)*+[@-~]"  # intermediates before parameters: terminals ignore it as a whole
    rb"|(?P<string>[\]PX^_])"
    rb"|(?P<between>(?:[ -/]|%(c)s)*+)(?P<plain>[0-OQ-WYZ\\`-~])"
    rb"|(?:\[(?:[ -?]|%(c)s)*+|(?:[ -/]|%(c)s)*+)(?=[\x18\x1a\x1b\x80-\xff])"  # broken off
    rb")|\x05|\xc2(?:[\x80-\x9f]|(?=[^\x80-\xbf]))"  # C1 in UTF-8; its half alone would wait for the other
    % {b"c": _CONTROL}
)
_CONTROLS = re.compile(_CONTROL)
_UNSEEN = (None, b"\x00\x05\x7f")  # of these, ENQ asks for an answer and the others do nothing
_CSI = re.compile(rb"(?P<prefix>[<=>?]?)(?P<numbers>[0-9;:]*)(?P<between>[ -/]*)")
# By prefix or intermediate (ECMA-48 5.4; xterm's ctlseqs): cursor, erase, insert, scroll, colours, margins; the
# selective erases; cursor shape; soft reset. h and l pass mode by mode.
_FINALS = {b"": b"@ABCDEFGHIJKLMPSTXZ`abdefmrsu", b"?": b"JK", b" ": b"q", b"!": b"p"}
_SCROLLBACK = b"3"  # of J: the viewer's own scrollback is not the session's to erase
_MODES = {
    b"": frozenset({b"4"}),  # insert; not 2, which locks the keyboard
    # Reverse video, origin, wrap, blink, cursor, margins, alternate screens, synchronised output; not 132
    # columns, not the mouse, not keys.
    b"?": frozenset(b"5 6 7 12 25 69 47 1047 1048 1049 2026".split()),
}
_PLAIN = b"78DEM"  # save, restore, index, next line, reverse index
_BETWEEN = b"()*+#"  # character sets; line attributes
_IN_STRING = re.compile(rb"[\x18\x1a\x1b]")
_IN_OSC = re.compile(rb"[\x07\x18\x1a\x1b]")
_STRINGS = (None, _IN_STRING, _IN_OSC)

# The main screen first, as it has a cursor and margins of its own; then a soft reset, colours, margins, no
# reverse video, no origin mode, wrap and cursor on, the usual cursor shape, ASCII.
RESTORE = (
    b"\x1b[?2026l\x1b[?1049l\x1b[?1047l\x1b[!p\x1b[0m\x1b[?69l\x1b[r"
    b"\x1b[?5l\x1b[?6l\x1b[?7h\x1b[?25h\x1b[0 q\x1b(B\x0f"
)
CLEAR = b"\x1b[0m\x1b[2J\x1b[H"
_SAVE_TITLE, _RESTORE_TITLE = b"\x1b[22;2t", b"\x1b[23;2t"


class Harmless:
    """Passes what paints and drops the rest of a session's output; sans-IO, cut anywhere."""

    def __init__(self) -> None:
        self._held = b""
        self._string: re.Pattern[bytes] | None = None  # inside a string: what ends it

    @property
    def between(self) -> bool:
        """Whether it is between two sequences: nothing of what came before matters to what comes."""
        return not self._held and self._string is None

    def saved(self) -> list[Any]:
        """Give what `resumed` needs."""
        return [self._held, _STRINGS.index(self._string)]

    @classmethod
    def resumed(cls, saved: Any) -> Self:
        """Make one that goes on where another stood. Raises ValueError, TypeError, IndexError for what is no such thing."""
        made = cls()
        held, string = saved
        if not isinstance(held, bytes) or len(held) > HELD_BYTES or string < 0:
            raise ValueError
        made._held, made._string = held, _STRINGS[string]
        return made

    @staticmethod
    def stays(data: bytes) -> bool:
        """Say at a glance that one between two sequences is so behind this output too; False: perhaps."""
        if data.endswith(b"\xc2"):
            return False
        token = _TOKEN.match(data, at) if (at := data.rfind(b"\x1b")) >= 0 else None
        return at < 0 or (token is not None and not token["string"])

    def feed(self, data: bytes) -> bytes:
        """Take output as it came and give what may be written to a terminal."""
        data, self._held = self._held + data, b""
        out = bytearray()
        at = 0
        while at < len(data):
            if self._string is not None:
                at = self._skip_string(data, at)
                continue
            token = _TOKEN.search(data, at)
            tail = data.find(b"\x1b", at, token.start() if token else len(data))
            if tail < 0 and token is None and data.endswith(b"\xc2"):
                tail = len(data) - 1
            if tail >= 0:
                out += data[at:tail]
                if len(data) - tail <= HELD_BYTES:
                    self._held = data[tail:]  # unfinished: its end comes with the next output
                break
            if token is None:
                out += data[at:]
                break
            out += data[at : token.start()]
            out += self._pass(token)
            at = token.end()
        return bytes(out)

    def _skip_string(self, data: bytes, at: int) -> int:
        assert self._string is not None  # noqa: S101  for the type checker
        end = self._string.search(data, at)
        if end is None:
            return len(data)
        if end[0] == b"\x1b" and end.end() == len(data):
            self._held = b"\x1b"  # ESC \ ends it, ESC and anything else begins something new
            self._string = None
            return len(data)
        self._string = None
        return (
            end.end() + 1
            if data[end.start() : end.end() + 1] == b"\x1b\\"
            else end.start() + (end[0] != b"\x1b")
        )

    def _pass(self, token: re.Match[bytes]) -> bytes:
        """Give the harmless part of one sequence; controls inside it come out before it, as a terminal does."""
        if token[0][0] != ESC:
            return b""
        inside = b"".join(_CONTROLS.findall(token[0][1:])).translate(*_UNSEEN)
        if token["final"]:
            return inside + _pass_csi(_CONTROLS.sub(b"", token["csi"]), token["final"])
        if token["string"]:
            self._string = _IN_OSC if token["string"] == b"]" else _IN_STRING
        elif plain := token["plain"]:
            between = _CONTROLS.sub(b"", token["between"])
            if plain == b"c" and not between:
                return inside + RESTORE + CLEAR  # a full reset, as far as it is the session's
            if between[:1] in _BETWEEN if between else plain in _PLAIN:
                return inside + b"\x1b" + between + plain
        return inside


def _pass_csi(body: bytes, final: bytes) -> bytes:
    parts = _CSI.fullmatch(body)
    if parts is None or (final == b"J" and _SCROLLBACK in parts["numbers"]):
        return b""
    marks = parts["prefix"] + parts["between"]
    if final in b"hl":
        allowed = _MODES.get(marks, frozenset())
        modes = [mode for mode in parts["numbers"].split(b";") if mode in allowed]
        return b"\x1b[" + marks + b";".join(modes) + final if modes else b""
    return b"\x1b[" + body + final if final in _FINALS.get(marks, b"") else b""


class Picture:
    """What the session's screen shows now: its latest output, kept to paint it again."""

    def __init__(self) -> None:
        self._filter = Harmless()
        self._kept = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Take output, and give what of it may be written to a terminal."""
        shown = self._filter.feed(data)
        self._kept += shown
        if len(self._kept) > 2 * KEPT_BYTES:
            dropped = bytes(self._kept[:-KEPT_BYTES])
            alternate = dropped.rfind(b"\x1b[?1049h") > dropped.rfind(b"\x1b[?1049l")
            start = self._kept.find(b"\n", len(dropped)) + 1 or len(dropped)
            self._kept[:start] = b"\x1b[?1049h" if alternate else b""
        return shown

    def painted(self) -> bytes:
        """Give bytes that bring a terminal in any state to this picture."""
        return RESTORE + CLEAR + bytes(self._kept)


_KEY = re.compile(
    rb"\x1b\[(?P<csi>[0-?]*[ -/]*[@-~])|\x1bO(?P<ss3>.)|\x1b[\]P^_X].*?(?:\x07|\x1b\\)"
    rb"|(?P<key>[^\x1b])|\x1b(?=[^\[O\]P^_X])",
    re.DOTALL,
)
_ARROWS = {b"A": "up", b"B": "down", b"C": "right", b"D": "left"}


class Keys:
    """Reads keys from what a keyboard, or a terminal, sends; sans-IO."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[str]:
        """Give the keys in `data`: one-character strings, and the arrows' names. Other sequences are no keys."""
        data, self._held = self._held + data, b""
        keys, at = [], 0
        while match := _KEY.match(data, at):
            at = match.end()
            if match["key"]:
                keys.append(match["key"].decode("latin-1"))
            elif arrow := _ARROWS.get(match["csi"] or match["ss3"] or b""):
                keys.append(arrow)
        rest = data[at:]
        self._held = rest if len(rest) <= ANSWER_BYTES else b""
        return keys


class Screen:
    """The operator's terminal during a view; `keyboard` None when keys can't come from it."""

    def __init__(self, output: BinaryIO, keyboard: int | None) -> None:
        self.keyboard = keyboard
        self._output = output
        self._keys = Keys()
        self._title = ""

    def size(self) -> tuple[int, int]:
        """Give columns and rows as they are now."""
        columns, rows = os.get_terminal_size(self._output.fileno())
        return columns, rows

    def write(self, data: bytes) -> None:
        """Write and flush; waits for a terminal that is stopped."""
        self._output.write(data)
        self._output.flush()

    def title(self, text: str) -> None:
        """Say `text` in the window's title: the only place the session's screen leaves free."""
        if text != self._title:
            self._title = text
            self.write(b"\x1b]2;" + text.encode() + b"\x07")

    def note(self, text: str) -> None:
        """Say `text` in the last row, over the session's screen, until it is painted anew."""
        columns, rows = self.size()
        line = f" {text} "[:columns]
        self.write(f"\x1b7\x1b[{rows};1H\x1b[0;7m{line}\x1b[0m\x1b[K\x1b8".encode())

    def keys(self, seconds: float | None, *others: int) -> tuple[list[str], bool]:
        """Wait so long for keys or for one of `others` to be readable; give the keys, and whether others are."""
        watched = [*others] if self.keyboard is None else [self.keyboard, *others]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self.keyboard not in ready:
            return [], bool(ready)
        data = os.read(self.keyboard, READ_BYTES)
        return (self._keys.feed(data) if data else ["q"]), len(ready) > 1


@contextmanager
def showing() -> Iterator[Screen | None]:
    """Take the terminal for a view, and give it back however the view ends; None when stdout is none."""
    output = sys.stdout.buffer
    if not output.isatty():
        yield None
        return
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = termios.tcgetattr(keyboard) if keyboard is not None else None
    screen = Screen(output, keyboard)
    handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        if keyboard is not None:
            tty.setraw(keyboard)
        rows = screen.size()[1]
        screen.write(_SAVE_TITLE + b"\r\n" * rows + CLEAR)  # what was there goes to the scrollback
        yield screen
    finally:
        _, rows = screen.size()
        screen.write(RESTORE + f"\x1b[{rows};1H\r\n".encode() + _RESTORE_TITLE)
        if keyboard is not None and before is not None:
            termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
