"""Somebody who works in a shell: what they type, line by line, and the command that each line makes of it.

Who types waits for the prompt before the next line, as people do, by the screen of a terminal of their own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from proxyd.index.terminal.screen import ScreenModel
from tests.peers.terminal import STEP_S, Terminal

BASH, ZSH, FISH = "bash", "zsh", "fish"
SHELLS = {BASH: ("bash", "--norc", "-i"), ZSH: ("zsh", "-i"), FISH: ("fish",)}
COLUMNS, ROWS = 80, 24
PROMPT = r"\S*(bash-[\d.]+|@.*|me .*)[#$%]"
EDITING = b"\x1b[?2004h"  # what all three say when they begin to read a line
FILES = ("notes-alpha.txt", "notes-beta.txt", "quarterly report.txt", "übersicht.txt")

UP, DOWN, LEFT, RIGHT, DELETE = "\x1b[A", "\x1b[B", "\x1b[D", "\x1b[C", "\x1b[3~"
BACK, HOME, END, KILL_BEFORE, KILL_AFTER, KILL_WORD, YANK, SEARCH = "\x7f\x01\x05\x15\x0b\x17\x19\x12"
TAB, ENTER = "\t", "\r"


class Step(NamedTuple):
    """Keys, and what is waited for behind them: so many prompts, `said`, and what then stands left of the cursor."""

    keys: str
    prompts: int = 1
    row: str = PROMPT
    said: str = ""


class Line(NamedTuple):
    """What is typed, and the commands that run of it."""

    steps: tuple[Step, ...]
    commands: tuple[str, ...]


def line(keys: str, command: str) -> Line:
    """Make a line that is typed at once and ends with Enter."""
    return Line((Step(keys + ENTER),), (command,))


def paste(text: str) -> str:
    """Give a bracketed paste."""
    return f"\x1b[200~{text}\x1b[201~"


def plain(number: int) -> Iterator[Line]:
    """Lines that are typed as they are, and corrected."""
    word = f"w{number}"
    yield line(f"echo {word}", f"echo {word}")
    yield line(f"ecko{BACK * 2}ho {word}x{BACK}", f"echo {word}")
    yield line(f"cho {word}{HOME}e{END} end", f"echo {word} end")
    yield line(f"echo one two {word}{LEFT * (len(word) + 4)}X{RIGHT}Y", f"echo one XtYwo {word}")
    yield line(f"echo {word} gone{KILL_WORD}kept", f"echo {word} kept")
    yield line(f"rubbish {word}{KILL_BEFORE}echo {word}", f"echo {word}")
    yield line(f"echo {word} tail{LEFT * 5}{KILL_AFTER}", f"echo {word}")
    yield line(f"echo a{DELETE}b{word}{HOME}{RIGHT * 5}{DELETE}", f"echo b{word}")
    yield line(f"echo {word} back{KILL_WORD}{YANK}{YANK}", f"echo {word} backback")


def wide(number: int) -> Iterator[Line]:
    """Lines of letters that take two cells, or none of ASCII, and lines longer than a row."""
    word = f"w{number}"
    yield line(f"echo 日本語 {word}", f"echo 日本語 {word}")
    yield line(f"echo größe {word} 漢字{BACK}", f"echo größe {word} 漢")
    yield line(f"echo {word} 日本{LEFT}x", f"echo {word} 日x本")
    yield line(f"echo {word} " + "abcdefghi " * 9 + "end", f"echo {word} " + "abcdefghi " * 9 + "end")
    yield line(
        f"echo {word} " + "漢字" * 25 + "z" * number + "漢" * 8,
        f"echo {word} " + "漢字" * 25 + "z" * number + "漢" * 8,
    )
    yield line(f"cho {word} {'long' * 30}{HOME}e", f"echo {word} {'long' * 30}")
    yield line(f"echo {word} {'y' * 79} end{BACK * 4}", f"echo {word} {'y' * 79}")


def history(number: int) -> Iterator[Line]:
    """Lines of history: the one before, the one before that, changed, and searched for."""
    word = f"h{number}"
    yield line(f"echo first {word}", f"echo first {word}")
    yield line(f"echo second {word}", f"echo second {word}")
    yield line(UP * 2, f"echo first {word}")
    yield line(UP, f"echo first {word}")
    yield line(f"{UP} more", f"echo first {word} more")
    yield line(f"{UP}{DOWN}echo new {word}", f"echo new {word}")
    yield line(f"{UP}{HOME}true; ", f"true; echo new {word}")


def searched(number: int, shell: str) -> Line:
    """Make a line that is searched for in history; fish shows what it finds, and the first Enter only takes it."""
    found = f"echo second h{number}"
    if shell == FISH:
        taken = Step(ENTER, 0, rf"{PROMPT} {found}")
        return Line(
            (Step(f"{SEARCH}second h{number}", 0, f".*search: second h{number}"), taken, Step(ENTER)),
            (found,),
        )
    return line(f"{SEARCH}second h{number}", found)


def completed(number: int, shell: str) -> Iterator[Line]:
    """Lines with names the shell completes; bash shows what there is to choose from."""
    yield line(f"cat notes-al{TAB}", "cat notes-alpha.txt")
    yield line(f"echo t{number} notes-b{TAB}x", f"echo t{number} notes-beta.txt x")
    yield line(f"cat quart{TAB}", r"cat quarterly\ report.txt")
    yield line(f"cat übe{TAB}", "cat übersicht.txt")
    if shell == BASH:
        yield line(f"cat n{TAB}{TAB}{TAB}al{TAB}", "cat notes-alpha.txt")


def pasted(number: int) -> Iterator[Line]:
    """Lines that are pasted: one, one of two rows, and one with more typed behind it."""
    yield line(paste(f"echo pasted {number}"), f"echo pasted {number}")
    yield line(
        paste(f"echo upper {number}\necho lower {number}"), f"echo upper {number}\necho lower {number}"
    )
    yield line(paste(f"echo {number} ") + "typed", f"echo {number} typed")


def compound(number: int, shell: str) -> Iterator[Line]:
    """Commands of several lines, and lines that are given up, or typed ahead."""
    loop = ("for i in a {}", "echo $i", "end") if shell == FISH else ("for i in a {}; do", "echo $i", "done")
    texts = [loop, ("echo {} \\", "rest")]
    if shell != FISH:
        texts.append(("cat <<E", "here {}", "", "E"))
    for text in texts:
        rows = [row.format(number) for row in text]
        more = Step("", 0, r"\s*") if shell == FISH else Step("", 1, ".*>")
        steps = [more._replace(keys=row + ENTER) for row in rows[:-1]]
        yield Line((*steps, Step(rows[-1] + ENTER)), ("\n".join(rows),))
    never = Step(f"echo never {number}", 0, rf"{PROMPT} echo never {number}")
    yield Line((never, Step(KILL_BEFORE, 0)), ())
    yield line(f"echo after {number}", f"echo after {number}")
    yield Line((Step(f"sleep 0.2\recho ahead {number}\r", 2),), ("sleep 0.2", f"echo ahead {number}"))


def script(shell: str, rounds: int) -> list[Line]:
    """Give the lines of a shell: about 33 a round."""
    lines: list[Line] = []
    for number in range(rounds):
        lines += [*plain(number), *wide(number), *history(number), searched(number, shell)]
        lines += [*completed(number, shell), *pasted(number), *compound(number, shell)]
    return lines


# What asks for a password, what it asks, and what it says before it asks again.
_READ: Final = {
    BASH: "read -r -s -p 'Secret: ' P; echo",
    ZSH: "read -r -s 'P?Secret: '; echo",
    FISH: "read -s -P 'Secret: ' P",
}
_ASKING: Final = (
    ("{read}", "Secret:", ""),
    ("python3 -c 'import getpass; getpass.getpass()'", "Password:", ""),
    ("{ssh}", ".*:", ""),
    ("mysql -h 127.0.0.1 -P 1 -p", "Enter password:", ""),
    ("{nobody}su root -c true", "Password:", ""),
    ("{nobody}sudo -k true", ".*password for.*:", "Sorry, try again"),
)
_QUICK: Final = 4  # of them; the others wait some seconds before they say that a password was wrong


class Secret(NamedTuple):
    """A password, and how it is typed where it is asked for."""

    password: str
    line: Line


def secrets(shell: str, ssh: str, count: int, *, quick: bool = False) -> Iterator[Secret]:
    """Yield passwords of a shell; `ssh` is a command that asks for one, and says "Enter passphrase"."""
    nobody = "runuser -u nobody -- " if os.getuid() == 0 else ""  # root is asked by nobody
    for number in range(count):
        password = f"Sesame{number}{shell}Canary"
        command, prompt, again = _ASKING[number % (_QUICK if quick else len(_ASKING))]
        command = command.format(read=_READ[shell], ssh=ssh, nobody=nobody)
        asks = Step(command + ENTER, 0, prompt, "Enter passphrase" if command == ssh else "")
        steps = [asks, Step(password + ENTER)]
        if again:
            steps[1:1] = [Step(password + ENTER, 0, prompt, again)] * 2
        yield Secret(password, Line(tuple(steps), (command,)))


def furnish(home: Path) -> None:
    """Put into a home what the shells of these scripts find there."""
    home.mkdir(exist_ok=True)
    for name in FILES:
        (home / name).write_text("text\n")
    (home / ".zshrc").write_text("PROMPT='me %~ %# '\nRPROMPT='[%~]'\nsetopt INTERACTIVE_COMMENTS\n")


class Worker:
    """Somebody at a terminal, who reads what it shows."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self._screen = ScreenModel(COLUMNS, ROWS)
        self._fed = 0

    def do(self, line: Line) -> None:
        """Type a line, step by step, and wait for what follows it."""
        for step in line.steps:
            before = len(self.terminal.seen)
            self.terminal.type(step.keys)
            self.wait(step, before)

    def wait(self, step: Step, since: int = 0) -> None:
        """Wait for what follows a step, in what was shown `since`."""
        deadline = time.monotonic() + STEP_S
        while not self._follows(step, since):
            more = self.terminal.read(max(0.0, deadline - time.monotonic()))
            assert more, f"{step} is not followed; the terminal shows {self._screen.text()}"

    def _follows(self, step: Step, since: int) -> bool:
        seen = bytes(self.terminal.seen)
        self._screen.feed(seen[self._fed :])
        self._fed = len(seen)
        told = seen.count(EDITING, since) >= step.prompts and seen.find(step.said.encode(), since) >= 0
        return told and re.fullmatch(step.row, self._left()) is not None

    def _left(self) -> str:
        column, row = self._screen.at
        return self._screen.between((0, row), (column - 1, row))[0].rstrip() if column else ""
