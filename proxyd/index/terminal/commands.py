"""The command log and the typed lines of a session's terminals: what is written comes off their screens.

Rule 1: nothing is written that the screen did not show: what is typed while the echo is off, a password, is nowhere in it.
        Of such a line there is a TYPED without text. A line that no line editor reads is written only if it reads as it
        was typed, or stands behind a prompt that looks like a shell's.
Rule 2: a line is read off the screen when the shell has accepted it, so a line of history, a completed name and a
        correction are what the shell made of them. Readline, zle and fish say when (bracketed paste), others by OSC 133;
        where nobody says, it is the first new line behind an Enter.
Rule 3: a command ends when the shell says so (OSC 133;D, with its exit status), else where the next prompt comes. A program
        that prompts by itself, a database's client, runs on while its own lines begin and end.
Rule 4: what comes out depends on the bytes and their times, not on where they were cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from proxyd.index.terminal.marks import Mark, Marks, What
from proxyd.index.terminal.reading import (
    Prompts,
    Reading,
    ending_with,
    goes_on,
    prompt_of,
    prompts,
    read,
    row_of,
)
from proxyd.index.terminal.screen import ScreenModel
from proxyd.index.terminal.terminals import Fed
from proxyd.index.terminal.typing import Entered, Prompt, Typing
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item

LONGEST: Final = 1 << 16  # characters of one command: a screen full, a dozen times
LOOKS: Final = 256  # at a line that was entered, new line by new line, until the editor says that it took it
MASKS: Final = "*\u2022\u25cf"  # what is shown in place of a password
CHANNELS: Final = 64  # terminals at once; a session of more is a program's, and nobody types in it


class _By(IntEnum):
    """Who says where a command ends; what ends at a lower one ends all above it."""

    SHELL = 0  # OSC 133
    EDITOR = 1
    PROMPT = 2


@dataclass(slots=True)
class _Command:
    line: str
    at_us: int
    by: _By
    prompt: Prompt
    ended_us: int | None = None
    exit: int | None = None


class Commands:
    """The commands and typed lines of one session."""

    def __init__(self) -> None:
        self._terminals: dict[int, _Terminal] = {}
        self._programs: dict[int, _Command] = {}  # run without a shell: `ssh host command`

    def feed(self, record: Record, screen: ScreenModel | None) -> list[Item]:
        """Take a record that is no output; `screen` is its channel's, None where it has none yet."""
        match record.kind:
            case Kind.REQUEST if "refused" not in record.body:
                return self._asked(record)
            case Kind.INPUT if record.channel in self._terminals:
                self._terminals[record.channel].typed(record.at_us, record.body, screen)
            case Kind.EXIT if record.channel in self._programs:
                self._programs[record.channel].exit = record.body.get("status")
            case Kind.CHANNEL if record.body.get("event") == "close":
                return self._close(record.channel, record.at_us)
        return []

    def pieces(self, fed: Fed, at_us: int, items: list[Item]) -> Iterator[bytes]:
        """Yield what is to be fed to a screen, piece by piece, and add to `items` what is derived in between."""
        terminal = self._terminals.get(fed.channel)
        if terminal is None:
            yield fed.data
        else:
            yield from terminal.shown(at_us, fed.data, fed.screen, items)

    def end(self, at_us: int) -> list[Item]:
        """Give what is left at the end of the session."""
        return [
            item for channel in {*self._terminals, *self._programs} for item in self._close(channel, at_us)
        ]

    def _asked(self, record: Record) -> list[Item]:
        name, channel = record.body.get("name"), record.channel
        if name == "pty-req" and channel not in self._terminals and len(self._terminals) < CHANNELS:
            self._terminals[channel] = _Terminal(channel)
        elif name == "exec" and channel not in self._programs and len(self._programs) < CHANNELS:
            line = _text(record.body.get("command", ""))[:LONGEST]
            self._programs[channel] = _Command(line, record.at_us, _By.SHELL, Prompt("", 0))
        return []

    def _close(self, channel: int, at_us: int) -> list[Item]:
        terminal, program = self._terminals.pop(channel, None), self._programs.pop(channel, None)
        items = terminal.end(at_us) if terminal else []
        if program:
            program.ended_us = at_us
            items += _items_of(program, channel)
        return items


class _Terminal:
    """One terminal, and what is run in it."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._typing, self._marks, self._known = Typing(), Marks(), Prompts()
        self._editing = False
        self._spoke_us = 0  # when it last showed anything
        self._prompt: Prompt | None = None  # of the line editor, as the shell said, or at the first key
        self._before: Prompt | None = (
            None  # what stood in the row when the editor began, where it was typed ahead
        )
        self._ahead = False  # a line was typed that whatever ran then may have left to the shell
        self._captured: Reading | None = None  # before the last new line behind an Enter
        self._left = -1  # the row of a line the editor has ended and not left
        self._looks = 0
        self._open: list[_Command] = []
        self._ended: _Command | None = None  # it may go on behind a secondary prompt

    # ------------------------------------------------------------------ what is typed

    def typed(self, at_us: int, data: bytes, screen: ScreenModel | None) -> None:
        """Take what was typed; `screen` is None while nothing was shown."""
        if screen is not None and screen.alternate:
            self._typing.forget()
            return

        def look() -> Prompt | None:
            return self._look(screen) if screen is not None else None

        self._typing.typed(at_us, data, editing=self._editing, spoke_us=self._spoke_us, look=look)
        self._looks = LOOKS

    def _look(self, screen: ScreenModel) -> Prompt | None:
        """Give the prompt at the first key of a line; of an editor's lines, which may be several, the first is kept."""
        prompt = prompt_of(screen)
        if self._editing and self._prompt is None and prompt.left:
            self._prompt = prompt
        if self._editing or prompts(prompt):
            self._known.learn(self._prompt or prompt)
        return prompt

    # ------------------------------------------------------------------ what is shown

    def shown(self, at_us: int, data: bytes, screen: ScreenModel, items: list[Item]) -> Iterator[bytes]:
        """Yield output up to each mark, and look at what the screen shows there."""
        at = 0
        while mark := self._marks.find(data, at, newlines=self._typing.waiting and self._looks > 0):
            edge = mark.begin if mark.what is What.NEWLINE else mark.end
            if edge > at:
                yield data[at:edge]
            items += self._marked_by(mark, at_us, screen)
            if mark.end > edge:
                yield data[edge : mark.end]
            at = mark.end
        if at < len(data):
            yield data[at:]
        self._spoke_us = at_us

    def _marked_by(self, mark: Mark, at_us: int, screen: ScreenModel) -> list[Item]:
        match mark.what:
            case What.NEWLINE:
                return self._new_line(at_us, screen)
            case What.EDITED if self._editing:
                return self._accepted(at_us, screen, _By.EDITOR)
            case What.RUNNING:
                if self._editing:
                    return self._accepted(at_us, screen, _By.SHELL)
                if self._open and self._open[-1].by is _By.EDITOR:
                    self._open[-1].by = _By.SHELL
            case What.DONE:
                return self._done(at_us, mark.exit)
            case What.PROMPT:
                return self._close(_By.SHELL, at_us)
            case What.EDITING | What.INPUT:
                return self._begin(at_us, screen, ends=mark.what is What.INPUT)
        return []

    def _begin(self, at_us: int, screen: ScreenModel, *, ends: bool) -> list[Item]:
        """Begin to read a line: at its prompt's end, if the mark `ends` one."""
        items = []
        if self._editing and not ends and self._typing.waiting:
            items += self._unmarked(at_us, screen)
        if not ends or not self._editing:
            items += self._close(_By.EDITOR, at_us)
            self._prompt = self._before = self._captured = None
        self._editing = True
        if ends:
            self._prompt = prompt_of(screen)
            self._known.learn(self._prompt)
        elif self._typing.waiting:
            self._before = prompt_of(screen)
        return items

    def _new_line(self, at_us: int, screen: ScreenModel) -> list[Item]:
        """Look at the line an Enter may have ended, before the cursor leaves it."""
        self._looks -= 1
        left, self._left = self._left, -1
        if screen.alternate:
            self._typing.forget()
        elif self._editing:
            self._captured = self._read(screen)
        elif left != screen.at[1]:
            return self._cooked(at_us, screen)
        return []

    # ------------------------------------------------------------------ lines an editor read

    def _read(self, screen: ScreenModel) -> Reading | None:
        """Read the line off the screen, by whatever tells its prompt."""
        known, typed = self._known.at(row_of(screen)), ending_with(screen, self._typing.texts())
        candidates = (self._prompt, known, typed, self._before, Prompt("", 0))
        readings = (read(screen, prompt) for prompt in candidates if prompt is not None)
        return next((reading for reading in readings if reading is not None), None)

    def _accepted(self, at_us: int, screen: ScreenModel, by: _By) -> list[Item]:
        """Take the line the editor has ended."""
        if not (self._typing.waiting or self._ahead):
            self._editing = False  # nobody has entered anything
            return []
        left = self._captured if screen.at[0] == 0 else None
        reading = left or self._read(screen)
        self._left = -1 if left else screen.at[1]
        self._editing, self._captured = False, None
        if reading is None or screen.alternate:
            return self._passed(self._typing.forget())
        text = reading.text.strip()
        entry, passed = self._typing.answered(text, at_us)
        items = self._passed(passed)
        ahead, self._ahead = self._ahead, False
        given_up = entry.given_up or text.endswith("^C") if entry else not ahead
        if given_up:
            return items + self._given_up(reading)
        began_us = next((one.at_us for one in passed if one.text and text.startswith(one.text)), None)
        began_us = began_us or (entry.at_us if entry else at_us)
        items += self._typed_line(began_us, text) if text else []
        return items + self._ran(reading, at_us, by)

    def _unmarked(self, at_us: int, screen: ScreenModel) -> list[Item]:
        """Take the line an editor has ended without saying so: fish's `read`, an empty line."""
        reading = self._captured or self._read(screen)
        text = reading.text.strip() if reading else ""
        entry, passed = self._typing.answered(text, at_us)
        items = self._passed(passed)
        if entry is None or entry.given_up or not entry.keys:
            return items
        return items + self._typed_line(entry.at_us, text if entry.sure and entry.text == text else "")

    def _given_up(self, reading: Reading) -> list[Item]:
        if self._ended and self._continues(reading, self._ended):
            self._ended = None  # nothing of it has run
        return []

    # ------------------------------------------------------------------ lines nobody marks

    def _cooked(self, at_us: int, screen: ScreenModel) -> list[Item]:
        """Take the line before a new line: seen, if it reads as it was typed (rule 1)."""
        entry = self._typing.cooked
        if entry is None:
            return []
        reading = self._cooked_reading(entry, screen)
        text = reading.text.strip() if reading else ""
        items = self._passed(self._typing.take(entry))
        self._ahead = self._ahead or entry.keys
        if reading and text.strip(MASKS) and prompts(reading.prompt):
            items += self._typed_line(entry.at_us, text) + self._close(_By.PROMPT, entry.spoke_us)
            return items + self._ran(reading, at_us, _By.PROMPT)
        seen = entry.sure and text == entry.text
        return items + (self._typed_line(entry.at_us, text if seen else "") if entry.keys else [])

    def _cooked_reading(self, entry: Entered, screen: ScreenModel) -> Reading | None:
        prompt = entry.prompt
        if prompt is None:
            prompt = self._known.at(row_of(screen)) or Prompt("", 0)
        return read(screen, prompt)

    def _passed(self, entries: list[Entered]) -> list[Item]:
        """Tell of lines that were never seen; what a line editor swallowed was."""
        return [
            item
            for entry in entries
            if entry.keys and not entry.editing
            for item in self._typed_line(entry.at_us, "")
        ]

    # ------------------------------------------------------------------ commands

    def _ran(self, reading: Reading, at_us: int, by: _By) -> list[Item]:
        """Take a command that runs now, or more of the one before."""
        items = self._close(by, at_us)
        before, self._ended = self._ended, None
        if before and self._continues(reading, before):
            before.line = f"{before.line}\n{reading.text}"[:LONGEST]
            before.ended_us = before.exit = None
            self._open.append(before)
            return items
        items += _items_of(before, self._channel)
        if line := reading.text.strip()[:LONGEST]:
            self._open.append(_Command(line, at_us, by, reading.prompt))
        return items

    def _continues(self, reading: Reading, before: _Command) -> bool:
        """Tell more of a command: behind a secondary prompt, in the row below it."""
        if not goes_on(reading.prompt, before.prompt):
            return False
        last = before.line.rpartition("\n")[2].rstrip()
        return last in reading.above or (bool(reading.above) and last.endswith(reading.above))

    def _close(self, by: _By, at_us: int) -> list[Item]:
        """End the commands whose end shows here."""
        items = []
        while self._open and self._open[-1].by >= by:
            items += _items_of(self._ended, self._channel)
            self._ended = self._open.pop()
            self._ended.ended_us = at_us
        return items

    def _done(self, at_us: int, status: int | None) -> list[Item]:
        shells = [command for command in self._open if command.by <= _By.EDITOR]
        if shells:
            shells[-1].exit = status
        return self._close(shells[-1].by if shells else _By.EDITOR, at_us)

    def _typed_line(self, at_us: int, text: str) -> list[Item]:
        return [Item(Derived.TYPED, at_us, [False, text[:LONGEST].strip(), self._channel])]

    def end(self, at_us: int) -> list[Item]:
        """Give what is left when the terminal closes."""
        items = self._passed(self._typing.forget())
        items += self._close(_By.SHELL, at_us)
        items += _items_of(self._ended, self._channel)
        self._ended = None
        return items


def _items_of(command: _Command | None, channel: int) -> list[Item]:
    if command is None:
        return []
    body = {"line": command.line, "ended_us": command.ended_us, "exit": command.exit, "channel": channel}
    return [
        Item(Derived.COMMAND, command.at_us, body),
        Item(Derived.TEXT, command.at_us, ["command", command.line]),
    ]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
