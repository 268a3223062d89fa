"""A person at work for hours, played in minutes: real programs on a real terminal, on a clock of the session's own.

Rule 1: every byte is what bash, vim, less, top, git, grep and the others really wrote for the keys really typed.
Rule 2: only waiting is invented: gaps between keys, reading, thinking, and the seconds between two screens of top. What a
        program took to answer is added as it was measured.
Rule 3: the same seed types the same.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

from proxyd.recorder.record import Kind
from tests.peers import Terminal

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 120, 40
PROMPT = b"\x1b]0;"  # the title Debian's bash sets with every prompt
RC = r"PS1='\[\e]0;\u@\h: \w\a\]\[\e[01;32m\]\u@\h\[\e[00m\]:\[\e[01;34m\]\w\[\e[00m\]\$ '; alias ls='ls --color=always'"
KEY_S, KEY_SPREAD = (
    0.16,
    0.5,
)  # between two keys: median and log-normal spread, about 75 words a minute with pauses
THINK_S, THINK_SPREAD = 9.0, 1.0  # before a command
READ_S, READ_SPREAD = 6.0, 0.7  # a screen of text
TOP_S = 3.0  # top's own default
LOG_S = 0.7  # between two lines of a log that somebody follows
ECHO_S, QUIET_S = (
    0.05,
    0.004,
)  # a key without an echo, as Escape in vim, is no reason to wait; silence ends an answer
SCREEN_S = 1.0  # the next screen of a program that shows them by itself
PROMPT_S = 60.0
COMMITS = 120
WORDS = [
    "session",
    "target",
    "gate",
    "segment",
    "tape",
    "viewer",
    "chain",
    "seal",
    "index",
    "ledger",
    "catalog",
    "policy",
    "account",
    "channel",
    "window",
    "packet",
    "terminal",
    "resize",
    "request",
    "signal",
    "exit",
    "stream",
    "relay",
    "frame",
    "block",
    "record",
    "reader",
    "writer",
    "key",
    "nonce",
    "clock",
    "time",
    "order",
    "listen",
    "accept",
    "refuse",
    "close",
    "open",
    "drop",
    "hold",
    "wait",
    "retry",
    "read",
    "write",
    "sync",
    "flush",
    "count",
    "limit",
    "rate",
    "size",
    "length",
    "offset",
]


class Event(NamedTuple):
    """Something that crossed the terminal, `at_us` microseconds into the session."""

    at_us: int
    kind: Kind
    data: bytes


class Person:
    """Works until the session is `seconds` long; `events` is all that crossed the terminal."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.draw = Random(seed)
        self.events: list[Event] = []
        self.now_us = 0
        self.directory = directory
        _furnish(directory, self.draw)
        (directory / "rc").write_text(RC + "\n")
        argv = ["bash", "--rcfile", str(directory / "rc"), "-i"]
        env = {
            "HOME": str(directory),
            "PAGER": "less",
            "LESS": "R",
            "EDITOR": "vim",
            "HISTFILE": "",
            "LC_ALL": "C.UTF-8",
        }
        self.terminal = Terminal(
            ["env", "-C", str(directory / "work"), *argv], rows=ROWS, columns=COLUMNS, env=env
        )

    def work(self, seconds: float) -> list[Event]:
        """Do one thing after another."""
        deeds = [
            self.look,
            self.look,
            self.look,
            self.page,
            self.history,
            self.search,
            self.edit,
            self.top,
            self.follow,
        ]
        with self.terminal:
            self._until_prompt(time.monotonic())
            while self.now_us < seconds * 1e6:
                self._pause(THINK_S, THINK_SPREAD)
                self.draw.choice(deeds)()
        return self.events

    # what people do

    def look(self) -> None:
        """A short command."""
        some = [
            "ls -la",
            "ls -R proxyd",
            "ps aux",
            "df -h",
            "cat README.md",
            "git status",
            "git --no-pager diff HEAD~1",
            "id",
        ]
        more = [
            "ls -la /etc",
            "ls -R /etc | head -300",
            "cat /etc/services | head -120",
            "du -a . | tail -60",
            "env | sort",
        ]
        self._command(self.draw.choice([*some, *more]))

    def page(self) -> None:
        """Read a file with less."""
        self._command(f"less {self.draw.choice(self._files())}", ends=False)
        for _ in range(self.draw.randint(2, 8)):
            self._pause(READ_S, READ_SPREAD)
            self._key(self.draw.choice([b" ", b" ", b" ", b"b", b"/self\r", b"n", b"j"]))
        self._leave(b"q")

    def history(self) -> None:
        """Read the log of the repository."""
        self._command(
            self.draw.choice(["git log", "git log --stat", "git log -p --color=always | less -R"]), ends=False
        )
        for _ in range(self.draw.randint(2, 6)):
            self._pause(READ_S, READ_SPREAD)
            self._key(b" ")
        self._leave(b"q")

    def search(self) -> None:
        """Grep through the sources."""
        self._command(
            f"grep -rn --color=always {self.draw.choice(WORDS)} proxyd | head -{self.draw.choice([40, 200])}"
        )

    def edit(self) -> None:
        """Change a file with vim."""
        self._command(f"vim {self.draw.choice(self._files())}", ends=False)
        for _ in range(self.draw.randint(2, 5)):
            self._pause(READ_S, READ_SPREAD)
            keys = b"jjjjj" if self.draw.random() < 0.5 else b"\x04"  # down a little, or half a screen
            for key in keys:
                self._key(bytes([key]))
            self._typed(
                b"o" + " ".join(self.draw.choices(WORDS, k=self.draw.randint(4, 14))).encode() + b"\x1b"
            )
        self._typed(b":w\r")
        self._leave(b":q!\r")

    def top(self) -> None:
        """Watch top for a while: its screens come fast here, and TOP_S apart on the session's clock."""
        screens = self.draw.randint(5, 25)
        self._command("top -d 0.15", ends=False)
        for _ in range(screens):
            self._screen(TOP_S)
        self._leave(b"q")

    def follow(self) -> None:
        """Follow a log."""
        lines = self.draw.randint(10, 60)
        script = f'for i in $(seq {lines}); do sed -n "$((RANDOM % 400))p" ../log; sleep 0.01; done'
        self._command(
            f"bash ../follow {lines}" if (self.directory / "follow").exists() else script, ends=False
        )
        for _ in range(lines - 1):
            self._screen(LOG_S)
        self._until_prompt(time.monotonic())

    # keys and screens

    def _files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.directory / "work")) for path in self.directory.glob("work/proxyd/*.py")
        )

    def _pause(self, median: float, spread: float) -> None:
        self.now_us += int(min(180.0, median * self.draw.lognormvariate(0, spread)) * 1e6)

    def _command(self, line: str, *, ends: bool = True) -> None:
        self._typed(line.encode())
        pressed = self._press(b"\r")
        if ends:
            self._until_prompt(pressed)
        else:
            self._until_quiet(pressed)

    def _typed(self, keys: bytes) -> None:
        for key in keys:
            self._key(bytes([key]))

    def _key(self, keys: bytes) -> None:
        self._pause(KEY_S, KEY_SPREAD)
        self._until_quiet(self._press(keys))

    def _press(self, keys: bytes) -> float:
        self.events.append(Event(self.now_us, Kind.INPUT, keys))
        self.terminal.type(keys)
        return time.monotonic()

    def _leave(self, keys: bytes) -> None:
        """Press what ends a program, and wait for the shell."""
        self._typed(keys[:-1])
        self._pause(KEY_S, KEY_SPREAD)
        self._until_prompt(self._press(keys[-1:]))

    def _shown(self, data: bytes, since: float, zero_us: int) -> None:
        if data:
            self.now_us = zero_us + int((time.monotonic() - since) * 1e6)
            self.events.append(Event(self.now_us, Kind.OUTPUT, data))

    def _until_quiet(self, since: float) -> None:
        zero_us, wait = self.now_us, ECHO_S
        while data := self.terminal.read(wait):
            self._shown(data, since, zero_us)
            wait = QUIET_S

    def _until_prompt(self, since: float) -> None:
        zero_us, prompts = self.now_us, 0
        while not prompts:
            data = self.terminal.read(PROMPT_S)
            if not data:
                raise RuntimeError(f"no prompt came; the terminal shows {bytes(self.terminal.seen[-300:])!r}")
            self._shown(data, since, zero_us)
            prompts += PROMPT in data
        self._until_quiet(since)

    def _screen(self, seconds: float) -> None:
        """Take what is shown next, and let it be `seconds` after what was shown before."""
        data = self.terminal.read(SCREEN_S)
        self.now_us += int(seconds * 1e6)
        if data:
            self.events.append(Event(self.now_us, Kind.OUTPUT, data))


def _furnish(directory: Path, draw: Random) -> None:
    """A home with a repository of the proxy's own sources, and a log."""
    work = directory / "work"
    shutil.copytree(ROOT / "proxyd", work / "proxyd", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", work)
    git = ["git", "-C", str(work), "-c", "user.name=A Person", "-c", "user.email=person@example.org"]
    subprocess.run([*git, "init", "-q"], check=True, capture_output=True)
    files = sorted(work.glob("proxyd/**/*.py"))
    for _ in range(COMMITS // 10):
        for path in draw.sample(files, 3):
            lines = path.read_text().splitlines(keepends=True)
            lines.insert(draw.randrange(len(lines)), f"# {' '.join(draw.choices(WORDS, k=8))}\n")
            path.write_text("".join(lines))
        subject = " ".join(draw.choices(WORDS, k=5)).capitalize()
        body = "\n".join(" ".join(draw.choices(WORDS, k=10)) for _ in range(draw.randint(0, 4)))
        subprocess.run([*git, "add", "."], check=True, capture_output=True)
        subprocess.run([*git, "commit", "-q", "-m", subject, "-m", body], check=True, capture_output=True)
    rows = [
        f"{stamp / 1e3:.3f} {draw.choice(['info', 'info', 'warning'])} {draw.choice(WORDS)} {draw.choice(WORDS)} "
        f"session={draw.getrandbits(128):032x} bytes={draw.randrange(1 << 20)} ms={draw.random() * 100:.2f}"
        for stamp in range(1_700_000_000_000, 1_700_000_400_000, 1000)
    ]
    (directory / "log").write_text("\n".join(rows) + "\n")
    (directory / "follow").write_text(
        'for i in $(seq "$1"); do sed -n "$((RANDOM % 400 + 1))p" ../log; sleep 0.01; done\n'
    )
