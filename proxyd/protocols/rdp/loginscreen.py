"""What stands on the screen before a session: who are you, what is your code, where do you want to go.

Rule 1: no socket, clock, loop or log, and nothing is drawn here: keys and clicks in, an answer out; `view` says what is
        to be seen.
Rule 2: what is typed for a secret is in no view, no repr and no error. A view knows how many characters it has; the
        answer takes it away from here.
Rule 3: whatever is typed and clicked in whatever order, the screen stays one that can be answered or left.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from proxyd.protocols.rdp.events import Event, Mouse, Pointer
from proxyd.protocols.rdp.keyboard import US_ENGLISH, Key, Keyboard, Stroke

MAX_TYPED: Final = 256  # characters of a field: more than names and passphrases have
SHOWN_ROWS: Final = 6  # of a list, at a time
WHEEL_ROWS: Final = 3  # by which a notch of the wheel moves it


class Step(enum.Enum):
    """What is asked."""

    LOGIN = "Log in"
    CODE = "One-time code"
    TARGET = "Choose a desktop"
    WAIT = "One moment"
    NOTICE = "Not connected"


class Part(enum.Enum):
    """What can be clicked or have the focus."""

    USER = "User"
    PASSWORD = "Password"  # noqa: S105 - a label
    CODE = "Code of your authenticator app"
    SEARCH = "Search"
    GO = "go"
    CANCEL = "Cancel"


class Row(NamedTuple):
    """A line of the list."""

    name: str
    detail: str = ""


Spot = Part | int
"""Where a click is: on a part, or on a row of the list, by its number."""


class Credentials(NamedTuple):
    """A user's name, with what else they wrote there, and password."""

    user: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(...)"


class Code(NamedTuple):
    """A one-time code."""

    digits: str

    def __repr__(self) -> str:
        return "Code(...)"


class Chosen(NamedTuple):
    """A row of the list, by its number."""

    row: int


@dataclass(frozen=True)
class Left:
    """The user wants to go; or has read what there was to say."""


Answer = Credentials | Code | Chosen | Left


class Line(NamedTuple):
    """A field as it is seen; of a secret `text` is empty and `length` tells how many dots stand there."""

    part: Part
    text: str
    length: int
    caret: int
    secret: bool


class View(NamedTuple):
    """All that is to be seen."""

    step: Step
    lines: tuple[Line, ...]
    rows: tuple[Row, ...]  # of the list, those that are shown
    first: int  # the number of the first of them
    found: int  # how many there are in all
    selected: int  # of `rows`
    go: str  # what the button says, "" without one
    cancel: str
    focus: Part
    message: str
    caps: bool


@dataclass
class _Typed:
    """What is in a field, and where its caret stands."""

    secret: bool = False
    text: list[str] = field(default_factory=list, repr=False)
    caret: int = 0

    def put(self, text: str) -> None:
        for character in text[: MAX_TYPED - len(self.text)]:
            self.text.insert(self.caret, character)
            self.caret += 1

    def move(self, key: Key) -> None:
        moves = {Key.LEFT: self.caret - 1, Key.RIGHT: self.caret + 1, Key.HOME: 0, Key.END: len(self.text)}
        self.caret = max(0, min(len(self.text), moves.get(key, self.caret)))

    def erase(self, key: Key) -> None:
        at = self.caret - 1 if key is Key.BACKSPACE else self.caret
        if 0 <= at < len(self.text):
            del self.text[at]
            self.caret = at

    def set(self, text: str) -> None:
        self.text[:] = text[:MAX_TYPED]
        self.caret = len(self.text)

    def taken(self) -> str:
        """Give what is there and forget it."""
        text = "".join(self.text)
        self.text.clear()
        self.caret = 0
        return text


_FIELDS: Final = {
    Step.LOGIN: (Part.USER, Part.PASSWORD),
    Step.CODE: (Part.CODE,),
    Step.TARGET: (Part.SEARCH,),
    Step.WAIT: (),
    Step.NOTICE: (),
}
_GO: Final = {Step.LOGIN: "Log in", Step.CODE: "Log in", Step.TARGET: "Connect"}
_STEPS_OF: Final = {Key.UP: -1, Key.DOWN: 1, Key.PAGE_UP: -SHOWN_ROWS, Key.PAGE_DOWN: SHOWN_ROWS}
_CARET: Final = frozenset({Key.LEFT, Key.RIGHT, Key.HOME, Key.END})


class LoginScreen:
    """The screen of one client."""

    def __init__(self, user: str = "", layout: int = US_ENGLISH) -> None:
        """`user`: what stands in the name's field at first; `layout`: of the keyboard, as the client says it."""
        self._keyboard = Keyboard(layout)
        self._step = Step.WAIT
        self._message = ""
        self._typed = {
            Part.USER: _Typed(),
            Part.PASSWORD: _Typed(secret=True),
            Part.CODE: _Typed(),
            Part.SEARCH: _Typed(),
        }
        self._typed[Part.USER].set(user)
        self._focus = Part.CANCEL
        self._all: tuple[Row, ...] = ()
        self._found: list[int] = []  # rows that match the search
        self._selected = 0  # of those
        self._clicked: Spot | None = None

    @property
    def user(self) -> str:
        """What stands in the name's field."""
        return "".join(self._typed[Part.USER].text).strip()

    # ------------------------------------------------------------------ what is asked

    def ask_login(self, message: str = "") -> None:
        """Ask who the user is; what stands in the name's field stays."""
        self._show(Step.LOGIN, message)
        self._focus = Part.PASSWORD if self._typed[Part.USER].text else Part.USER

    def ask_code(self, message: str = "") -> None:
        """Ask for a one-time code."""
        self._show(Step.CODE, message)
        self._focus = Part.CODE

    def ask_target(self, rows: Sequence[Row]) -> None:
        """Ask which of these it is to be; there is at least one."""
        self._all = tuple(rows)
        self._show(Step.TARGET, "")
        self._focus = Part.SEARCH
        self._search()

    def wait(self, message: str) -> None:
        """Ask nothing; say what is done meanwhile."""
        self._show(Step.WAIT, message)
        self._focus = Part.CANCEL

    def tell(self, message: str) -> None:
        """Say something that ends the connection; whatever acts is the answer `Left`."""
        self._show(Step.NOTICE, message)
        self._focus = Part.CANCEL

    def _show(self, step: Step, message: str) -> None:
        self._step, self._message = step, message
        self._clicked = None
        for part in (Part.PASSWORD, Part.CODE):
            self._typed[part].taken()

    # ------------------------------------------------------------------ what the user does

    @property
    def keyboard(self) -> str:
        """The name of the keyboard's layout."""
        return self._keyboard.name

    def feed(self, event: Event, at: Callable[[int, int], Spot | None]) -> Answer | None:
        """Take an event; gives the answer it completes. `at` says what is at a place of the screen."""
        match event:
            case Mouse(flags, x, y) if flags & Pointer.BUTTON1:
                return self.click(at(x, y)) if flags & Pointer.DOWN else self.release(at(x, y))
            case Mouse(flags) if flags & Pointer.WHEEL and self._step is Step.TARGET:
                self.scroll(WHEEL_ROWS if flags & Pointer.WHEEL_NEGATIVE else -WHEEL_ROWS)
            case _:
                for stroke in self._keyboard.feed(event):
                    if (answer := self.press(stroke)) is not None:
                        return answer
        return None

    def press(self, stroke: Stroke) -> Answer | None:
        """Take a key or text; gives the answer it completes."""
        self._clicked = None
        if self._step is Step.WAIT:
            return None
        if not isinstance(stroke, Key):
            return self._write(stroke)
        match stroke:
            case Key.ESCAPE:
                return Left()
            case Key.ENTER:
                return self._enter()
            case Key.TAB | Key.BACK_TAB:
                order = self._order()
                at = order.index(self._focus) + (1 if stroke is Key.TAB else -1)
                self._focus = order[at % len(order)]
            case Key.BACKSPACE | Key.DELETE if self._focus in self._typed:
                self._typed[self._focus].erase(stroke)
                self._search()
            case Key.UP | Key.DOWN | Key.PAGE_UP | Key.PAGE_DOWN if self._step is Step.TARGET:
                self.scroll(_STEPS_OF[stroke])
            case Key.UP | Key.DOWN:
                return self.press(Key.BACK_TAB if stroke is Key.UP else Key.TAB)
            case _ if stroke in _CARET and self._focus in self._typed:
                self._typed[self._focus].move(stroke)
        return None

    def _order(self) -> list[Part]:
        go = [Part.GO] if self._step in _GO else []
        return [*_FIELDS[self._step], *go, Part.CANCEL]

    def _write(self, text: str) -> Answer | None:
        if self._step is Step.TARGET:
            self._focus = Part.SEARCH  # whoever types in a list looks for something
        if self._focus in self._typed:
            self._typed[self._focus].put(text)
            self._message = ""
            self._search()
        elif text == " ":  # presses the button that has the focus
            return Left() if self._focus is Part.CANCEL else self._go()
        return None

    def scroll(self, rows: int) -> None:
        """Move the list's selection."""
        self._selected = max(0, min(len(self._found) - 1, self._selected + rows))

    def _search(self) -> None:
        wanted = "".join(self._typed[Part.SEARCH].text).casefold().split()
        self._found = [
            number
            for number, row in enumerate(self._all)
            if all(word in f"{row.name} {row.detail}".casefold() for word in wanted)
        ]
        self._selected = 0

    def click(self, spot: Spot | None) -> Answer | None:
        """Take a press of the mouse's button; a second one on the same row answers."""
        before, self._clicked = self._clicked, spot
        if isinstance(spot, Part):
            if spot in self._typed and spot in self._order():
                self._focus = spot
            return None
        if spot is None or self._step is not Step.TARGET or spot >= len(self._found):
            return None
        self._selected = spot
        return self._enter() if before == spot else None

    def release(self, spot: Spot | None) -> Answer | None:
        """Take the release of the mouse's button: a button acts that was pressed there as well."""
        if spot is not self._clicked or not isinstance(spot, Part) or spot not in self._order():
            return None
        self._clicked = None
        if spot is Part.GO:
            return self._go()
        return Left() if spot is Part.CANCEL and self._step is not Step.WAIT else None

    # ------------------------------------------------------------------ answers

    def _enter(self) -> Answer | None:
        if self._focus is Part.CANCEL:
            return Left()
        if self._focus is Part.USER and self._typed[Part.USER].text and not self._typed[Part.PASSWORD].text:
            self._focus = Part.PASSWORD
            return None
        return self._go()

    def _go(self) -> Answer | None:
        if self._step is Step.TARGET:
            return Chosen(self._found[self._selected]) if self._found else None
        for part, missing in (
            (Part.USER, "Type your user name."),
            (Part.PASSWORD, "Type your password."),
            (Part.CODE, "Type the code."),
        ):
            if part in _FIELDS[self._step] and not self._typed[part].text:
                self._message, self._focus = self._message or missing, part
                return None
        if self._step is Step.CODE:
            return Code(self._typed[Part.CODE].taken())
        return Credentials(self.user, self._typed[Part.PASSWORD].taken())

    # ------------------------------------------------------------------ what is seen

    @property
    def view(self) -> View:
        """Give what is to be seen now (rule 2)."""
        first = min(max(0, self._selected - SHOWN_ROWS // 2), max(0, len(self._found) - SHOWN_ROWS))
        shown = self._found[first : first + SHOWN_ROWS] if self._step is Step.TARGET else []
        return View(
            step=self._step,
            lines=tuple(self._line(part) for part in _FIELDS[self._step]),
            rows=tuple(self._all[number] for number in shown),
            first=first,
            found=len(self._found),
            selected=self._selected - first,
            go=_GO.get(self._step, ""),
            cancel={Step.NOTICE: "Close", Step.WAIT: ""}.get(self._step, "Cancel"),
            focus=self._focus,
            message=self._message,
            caps=self._keyboard.caps and any(self._typed[part].secret for part in _FIELDS[self._step]),
        )

    def _line(self, part: Part) -> Line:
        typed = self._typed[part]
        text = "" if typed.secret else "".join(typed.text)
        return Line(part, text, len(typed.text), typed.caret, typed.secret)
