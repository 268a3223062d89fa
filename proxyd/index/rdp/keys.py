"""What a user typed: the key presses of a session with the text each of them gave.

Rule 1: a press is read with the modifiers, locks and layout that were in force on the target when it came.
Rule 2: what met a closed gate is there too, marked: the target never saw it, so its own keyboard did not change by it.
Rule 3: what cannot be read is counted in `Keys.faults` and skipped; the presses behind it are read.

Input events: MS-RDPBCGR 2.2.8.1.2.2 (fast-path) and 2.2.8.1.1.3.1.1 (slow-path). Layouts: `layouts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from proxyd.index.rdp import frames
from proxyd.index.rdp.layouts import ALT_GR, EXTENDED, EXTENDED1, US_ENGLISH, Given, Held, Layout, layout
from proxyd.protocols.rdp.events import Event, Scancode, Sync, Toggle, Unicode
from proxyd.recorder.record import Kind, Record

# Scancodes of set 1, as Windows has them.
_CONTROL: Final = 0x1D
_LEFT_SHIFT: Final = 0x2A
_RIGHT_SHIFT: Final = 0x36
_ALT: Final = 0x38
_CAPS_LOCK: Final = 0x3A
_NUM_LOCK: Final = 0x45
_RIGHT_ALT: Final = EXTENDED | _ALT
_WINDOWS: Final = (EXTENDED | 0x5B, EXTENDED | 0x5C)
_PAUSE: Final = EXTENDED1 | _CONTROL  # its second half is the scancode of Num Lock
_MODIFIERS: Final = {
    _LEFT_SHIFT: Held.SHIFT,
    _RIGHT_SHIFT: Held.SHIFT,
    EXTENDED | _LEFT_SHIFT: Held.NOTHING,  # the shifts keyboards make up around keys of the cursor
    EXTENDED | _RIGHT_SHIFT: Held.NOTHING,
    _CONTROL: Held.CONTROL,
    EXTENDED | _CONTROL: Held.CONTROL,
    _ALT: Held.ALT,
    _RIGHT_ALT: Held.ALT,
    **dict.fromkeys(_WINDOWS, Held.NOTHING),
}
_LOCKS: Final = {_CAPS_LOCK: Held.CAPS, _NUM_LOCK: Held.NUM}
_HIGH_SURROGATES: Final = range(0xD800, 0xDC00)
_LOW_SURROGATES: Final = range(0xDC00, 0xE000)


class Keystroke(NamedTuple):
    """One press, or repeat, of a key that is no modifier and no lock.

    `scancode` has EXTENDED or EXTENDED1 added for a prefix, and is 0 for a character sent as such. `name` is the key with
    its modifiers ("Ctrl+C"), `text` what it typed: a dead key types nothing, and the key after it both.
    """

    at_us: int
    scancode: int
    name: str
    text: str
    refused: bool = False


class Keyboard:
    """One keyboard as the target sees it: what is held, which locks are on, which accent waits."""

    def __init__(self, table: Layout) -> None:
        self.table = table
        self._down: set[int] = set()
        self._locks = Held.NOTHING
        self._accent = ""
        self._high = 0  # the first half of a character beyond 16 bits
        self._pausing = False

    def synchronize(self, event: Sync) -> None:
        """Take the locks as the client says they are, 2.2.8.1.2.2.5: every key is up then."""
        self._down.clear()
        self._locks = Held.NOTHING
        for toggle, lock in ((Toggle.CAPS_LOCK, Held.CAPS), (Toggle.NUM_LOCK, Held.NUM)):
            if toggle in event.toggles:
                self._locks |= lock

    def scancode(self, event: Scancode) -> tuple[str, str] | None:
        """Take a key going down or up; gives name and text of a press."""
        code = full_code(event)
        if code == _PAUSE:
            self._pausing = True
            return None if event.released else ("Pause", "")
        if self._pausing:
            self._pausing = False
            if code == _NUM_LOCK:
                return None
        if event.released:
            self._down.discard(code)
            return None
        if code in _LOCKS:
            if code not in self._down:  # not again while it repeats
                self._locks ^= _LOCKS[code]
            self._down.add(code)
            return None
        self._down.add(code)
        if code in _MODIFIERS:
            if _MODIFIERS[code] == Held.SHIFT and self.table.shift_ends_caps:
                self._locks &= ~Held.CAPS
            return None
        return self._press(code)

    def unicode(self, event: Unicode) -> tuple[str, str] | None:
        """Take a character sent as UTF-16, 2.2.8.1.2.2.2; gives name and text of a press."""
        if event.released:
            return None
        high, self._high = self._high, 0
        if event.code in _HIGH_SURROGATES:
            self._high = event.code
            return None
        if event.code in _LOW_SURROGATES:
            if not high:
                return None
            text = chr(0x10000 + ((high - _HIGH_SURROGATES.start) << 10) + event.code - _LOW_SURROGATES.start)
        else:
            text = chr(event.code).replace("\r", "\n")
        return text, text

    def _press(self, code: int) -> tuple[str, str]:
        held = self._held()
        name = self._named(code, held)
        if self._down & set(_WINDOWS):
            return name, ""
        given, text = self.table.press(code, held)
        if given is Given.NOTHING:
            return name, ""
        accent, self._accent = self._accent, ""
        if given is Given.ACCENT and not accent:
            self._accent = text
            return name, ""
        return name, self.table.compose(accent, text) if accent else text

    def _held(self) -> Held:
        held = self._locks
        for code in self._down & _MODIFIERS.keys():  # a client may say that it holds hundreds of others
            held |= _MODIFIERS[code]
        if self.table.alt_gr and _RIGHT_ALT in self._down:
            held |= ALT_GR
        return held

    def _named(self, code: int, held: Held) -> str:
        parts = [("Win", bool(self._down & set(_WINDOWS)))]
        if self.table.alt_gr and _RIGHT_ALT in self._down:
            parts.append(("AltGr", True))
        else:
            parts += [("Ctrl", Held.CONTROL in held), ("Alt", Held.ALT in held)]
        parts.append(("Shift", Held.SHIFT in held))
        return "+".join([*(name for name, is_held in parts if is_held), self.table.name(code)])


class Keys:
    """Reads the records of one session in their order."""

    def __init__(self) -> None:
        table = layout(US_ENGLISH)
        # What the target saw, and what the user pressed: the same until a gate closes.
        self._target, self._user = Keyboard(table), Keyboard(table)
        self._inputs = frames.Inputs()

    @property
    def faults(self) -> int:
        """How many frames could not be read."""
        return self._inputs.faults

    @property
    def layout(self) -> Layout:
        """The layout the client said it has."""
        return self._target.table

    def feed(self, record: Record) -> list[Keystroke]:
        """Take the next record and give the presses in it."""
        if frames.is_session(record):
            self._inputs.io = record.body["io"]
            self._target.table = self._user.table = layout(record.body["layout"])
        if record.kind not in {Kind.INPUT_PDU, Kind.REFUSED}:
            return []
        refused = record.kind is Kind.REFUSED
        pressed: list[Keystroke] = []
        for event in self._inputs.feed(record.body):
            if (given := self._take(event, refused=refused)) is not None:
                code = full_code(event) if isinstance(event, Scancode) else 0
                pressed.append(Keystroke(record.at_us, code, *given, refused))
        return pressed

    def _take(self, event: Event, *, refused: bool) -> tuple[str, str] | None:
        """Let the keyboards take an event (rule 2); gives what the one that counts makes of it."""
        user = _took(self._user, event)
        return user if refused else _took(self._target, event)


def _took(board: Keyboard, event: Event) -> tuple[str, str] | None:
    match event:
        case Scancode():
            return board.scancode(event)
        case Unicode():
            return board.unicode(event)
        case Sync():
            board.synchronize(event)
    return None


def full_code(event: Scancode) -> int:
    """Give a scancode with its prefix."""
    return event.code | (EXTENDED1 if event.extended1 else EXTENDED if event.extended else 0)


def keystrokes(records: Iterable[Record]) -> Iterator[Keystroke]:
    """Yield the presses in a session's records, in order."""
    keys = Keys()
    for record in records:
        yield from keys.feed(record)
