"""A line that was entered, as the screen shows it: what stands behind its prompt, however it came there.

Rule 1: what is given stood on the screen; keys only say where it may begin.
Rule 2: the row it begins in is the nearest one, from the cursor up, that begins like its prompt: screens scroll, are cleared
        and drawn anew while a line is typed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple
from unicodedata import east_asian_width

from proxyd.index.terminal.screen import ScreenModel
from proxyd.index.terminal.typing import Prompt

ROWS_UP: Final = 100  # a line longer than this is read from where it still can be seen
KNOWN: Final = 8  # prompts that are remembered

# What zsh calls what it is in the middle of (Src/prompt.c), bash's and fish's PS2, mysql's and Python's.
_ZSH: Final = (
    "for|while|repeat|select|until|if|then|else|elif|math|cond|cmdor|cmdand|pipe|errpipe|foreach|case|function|subsh|"
    "cursh|array|quote|dquote|bquote|cmdsubst|mathsubst|elif-then|heredoc|heredocd|brace|braceparam|always"
)
_SECONDARY: Final = re.compile(rf"(?:(?:{_ZSH}) ?)*>|\s*(?:->|'>|\">|`>|/\*>)|\.\.\.")
_PSQL: Final = re.compile(r"(.*)([-*'\"^$(!])([#>])")
_PROMPTS: Final = re.compile(
    ".*[$#%>\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}\u279c\xbb]\\s*", re.DOTALL
)


class Reading(NamedTuple):
    """A line: its prompt, its text (several lines where it has them), and what stands in the row above it."""

    prompt: Prompt
    text: str
    above: str


def prompt_of(screen: ScreenModel) -> Prompt:
    """Give what stands around the cursor."""
    column, row = screen.at
    last = screen.size[0] - 1
    left = screen.between((0, row), (column - 1, row))[0] if column else ""
    return Prompt(left.rstrip(), column, screen.between((column, row), (last, row))[0].strip())


def prompts(prompt: Prompt) -> bool:
    """Tell a shell's prompt, or that of a program which prompts like one, from a question."""
    return _PROMPTS.fullmatch(prompt.left) is not None


def goes_on(prompt: Prompt, first: Prompt) -> bool:
    """Tell a prompt that asks for more of the same command; `first` is the one the command began at."""
    left = prompt.left.rstrip()
    if left == first.left.rstrip():
        return False
    if _SECONDARY.fullmatch(left):
        return True
    psql = _PSQL.fullmatch(left)
    return psql is not None and first.left.rstrip() == f"{psql[1]}={psql[3]}"


class Prompts:
    """The prompts a terminal has shown lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], Prompt] = OrderedDict()

    def learn(self, prompt: Prompt) -> None:
        """Remember a prompt."""
        if prompt.left:
            self._known[prompt.left, prompt.column] = prompt
            self._known.move_to_end((prompt.left, prompt.column))
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)

    def at(self, row: str) -> Prompt | None:
        """Give the longest known prompt that a row begins with."""
        found = [prompt for prompt in self._known.values() if row.startswith(prompt.left)]
        return max(found, key=lambda prompt: len(prompt.left), default=None)


def read(screen: ScreenModel, prompt: Prompt) -> Reading | None:
    """Read the line that began at a prompt, from its row to the cursor's; None where that is not to be seen."""
    last = screen.size[0] - 1
    bottom = screen.at[1]
    for row in range(bottom, max(bottom - ROWS_UP, 0) - 1, -1):
        left = screen.between((0, row), (prompt.column - 1, row))[0].rstrip() if prompt.column else ""
        if left == prompt.left and prompt.column <= last:
            return _reading(screen, prompt, row, bottom)
    return None


def _reading(screen: ScreenModel, prompt: Prompt, row: int, bottom: int) -> Reading:
    lines = _lines(screen, prompt.column, row, bottom)
    if prompt.right and lines[0].endswith(prompt.right):
        lines[0] = lines[0][: -len(prompt.right)].rstrip()
    above = screen.between((0, row - 1), (screen.size[0] - 1, row - 1))[0].rstrip() if row else ""
    return Reading(prompt, "\n".join(_unindented(lines, prompt.column)).rstrip(), above)


def _lines(screen: ScreenModel, column: int, row: int, bottom: int) -> list[str]:
    """Give the lines from a place to the end of a row, and to that of the rows the last is wrapped into."""
    rows = screen.size[1]
    lines = _row(screen, row, column)
    for at in range(row + 1, rows):
        (text,) = _row(screen, at)
        begin = column if at == row + 1 else 0
        joined = _joined(screen, at, begin, lines[-1], text) if text else None
        if at > bottom and joined is None:
            break
        if joined is None:
            lines.append(text)
        else:
            lines[-1] = joined
    return lines


def _row(screen: ScreenModel, row: int, first: int = 0) -> list[str]:
    return screen.between((first, row), (screen.size[0] - 1, row))[:1]


def _joined(screen: ScreenModel, row: int, begin: int, before: str, text: str) -> str | None:
    """Give a row and the one before it, which begins at `begin`, as one line; None where they are two.

    They are one where the terminal wrapped, or an editor that does so itself (fish) left no room for the next character.
    """
    last = screen.size[0] - 1
    both = screen.between((begin, row - 1), (last, row))
    full = bool(_cell(screen, last, row - 1))
    if not full and east_asian_width(text[0]) in "WF" and _cell(screen, last - 1, row - 1):
        return before + text  # a character of two cells did not fit into the last one
    if len(both) > 1:
        return before + text if full else None
    blanks = len(both[0]) - len(text) - len(both[0].removesuffix(text).rstrip())
    return before + " " * blanks + text


def _cell(screen: ScreenModel, column: int, row: int) -> str:
    return screen.between((column, row), (column, row))[0].strip()


def _unindented(lines: list[str], column: int) -> list[str]:
    """Take away what an editor that indents (fish) has put before the rows below a prompt."""
    first, *rest = (line.rstrip() for line in lines)
    if column and rest and all(line.startswith(" " * column) for line in rest if line):
        rest = [line.lstrip() for line in rest]
    return [first, *rest]


def row_of(screen: ScreenModel) -> str:
    """Give the cursor's row."""
    _, row = screen.at
    return screen.between((0, row), (screen.size[0] - 1, row))[0].rstrip()


def ending_with(screen: ScreenModel, texts: Iterable[str]) -> Prompt | None:
    """Give the prompt that stands before one of `texts` at the end of the cursor's row; None where none does."""
    row = row_of(screen)
    for text in texts:
        if row.endswith(text) and row.isascii():  # then characters are columns
            return Prompt(row[: -len(text)].rstrip(), len(row) - len(text))
    return None
