"""People at work on a remote desktop: the same keys, windows, text and moving pictures each time, on a real xrdp.

Rule 1: a piece of work ends when the client's screen shows the mark that was painted behind it on the target's.
Rule 2: work is as fast as it is seen, where rates are measured; paced as a person's, where bytes of an hour are.
Rule 3: the same seed, the same pixels.
Rule 4: nobody acts within a millisecond of what he sees. xorgxrdp keeps its pictures 40 ms apart, except for a change within
        the millisecond of the last picture, which it sends after 4 ms: who is that fast wins a lottery, not time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from bench.xdisplay import COLOURS, MARK, Display
from tests.peers.endpoint import HOST
from tests.peers.process import Process, eventually
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.x11 import IN_TERMINAL, TITLE
from tests.peers.rdp.xrdp import Xrdp

SIZE = (1920, 1080)
SEEN_S = 60.0  # a mark is seen within, on a machine that does other things too
REACT_S = 0.002  # rule 4
APART_S = 0.06  # behind a picture the next one is sent at once
SEED = 8
WORD = 8  # letters of one step of office work
LINES = 4000  # of text that scrolls by
COLUMNS = 150
FILM = (640, 360)
FILM_FPS = 25
FILM_LOOP = 50  # pictures, then again from the first
LETTER_S = 0.2  # between two letters of a person: 60 words a minute
MOVE_EVERY, MOVES = 40, 12  # letters; a window is moved after so many, in so many steps
MOVE_S = 1 / 30
SCROLL_LINES_S = 20.0  # of a log that somebody follows
CONTROL_L = 0xFFE3  # its keysym
PACED = """
import sys, time
lines, rate, seconds = open(sys.argv[1]).read().splitlines(), float(sys.argv[2]), float(sys.argv[3])
began, shown = time.monotonic(), 0
while not rate and shown < len(lines) or rate and shown < rate * seconds:
    if rate:
        time.sleep(max(0.0, began + shown / rate - time.monotonic()))
    print(lines[shown % len(lines)], flush=bool(rate))
    shown += 1
"""


class Desktop:
    """One client on the target's desktop: `with Desktop(target, client) as desktop`."""

    def __init__(self, target: Xrdp, client: FreeRdp) -> None:
        self.target, self.client = target, client
        self._draw = Random(SEED)
        self._turn = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.client)
            there = self.target.screen
            self.there = stack.enter_context(Display(there))
            self.here = stack.enter_context(Display(self.client.screen))
            self._corner = self.there.window(SIZE[0] - MARK, 0, MARK, MARK)
            stack.callback(self.there.destroy, self._corner)
            self.terminal = int(there.windows(f"^{TITLE}$")[0])
            self.client.screen.click(*IN_TERMINAL)
            for _ in range(2):  # the first may be a part of how the desktop begins
                self.seen()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def seen(self) -> float:
        """Paint a mark and wait until the client shows it (rule 1); gives when it did."""
        self._turn += 1
        colour = COLOURS[self._turn % len(COLOURS)]
        self.mark(colour)
        if not self.client.connected:
            raise RuntimeError(f"the client has left: {self.client.said[-500:]}")
        return self.here.until(SIZE[0] - MARK // 2, MARK // 2, colour, SEEN_S)

    def mark(self, colour: int) -> None:
        """Paint the mark on the target."""
        self.there.fill(self._corner, colour)

    # ------------------------------------------------------------------ as fast as it is seen

    def key_s(self, count: int) -> list[float]:
        """Seconds from a key pressed at the client to the target's X server, each by itself."""
        here, there = self.here.code(CONTROL_L), self.there.code(CONTROL_L)
        found = []
        for _ in range(count):
            began = time.perf_counter()
            self.here.key(here, down=True)
            found.append(self.there.until_key(there, down=True, within_s=SEEN_S) - began)
            self.here.key(here, down=False)
            self.there.until_key(there, down=False, within_s=SEEN_S)
        return found

    def picture_s(self, count: int) -> list[float]:
        """Seconds from a mark painted on the target until the client shows it, each by itself."""
        found = []
        for _ in range(count):
            time.sleep(APART_S)
            began = time.perf_counter()
            self.seen()
            found.append(time.perf_counter() - began)
        return found

    def office_s(self, steps: int) -> float:
        """Seconds of typing words and moving a window, each seen before the next."""
        began = time.perf_counter()
        for step in range(steps):
            for _ in range(WORD):
                self.letter()
            self.seen()
            time.sleep(REACT_S)
            self.there.move(self.terminal, 20 + step % 2 * 200, 20 + step % 3 * 100)
            self.seen()
            time.sleep(REACT_S)
        return time.perf_counter() - began

    def scroll_s(self, directory: Path, runs: int) -> float:
        """Seconds until LINES of text have gone by and the end is seen, so many times."""
        began = time.perf_counter()
        for _ in range(runs):
            self._scrolled(directory, 0.0, 0.0)
            self.seen()
        return time.perf_counter() - began

    def film_s(self, pictures: int) -> float:
        """Seconds of so many pictures as fast as the X server takes them, each FILM_FPS of them seen."""
        began = time.perf_counter()
        for number, _ in enumerate(self._film(pictures)):
            if number % FILM_FPS == FILM_FPS - 1:
                self.seen()
        return time.perf_counter() - began

    # ------------------------------------------------------------------ as people do it

    def office(self, seconds: float) -> None:
        """Type, and now and then move the window."""
        end, letters = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            self.letter()
            letters += 1
            time.sleep(LETTER_S)
            if letters % MOVE_EVERY == 0:
                for step in range(MOVES):
                    self.there.move(self.terminal, 20 + 10 * step, 20 + 5 * step)
                    time.sleep(MOVE_S)
        self.seen()

    def scroll(self, seconds: float, directory: Path) -> None:
        """Follow a log."""
        self._scrolled(directory, SCROLL_LINES_S, seconds)
        self.seen()

    def film(self, seconds: float) -> None:
        """Watch a film in a window."""
        began = time.monotonic()
        for number, _ in enumerate(self._film(int(seconds * FILM_FPS))):
            time.sleep(max(0.0, began + number / FILM_FPS - time.monotonic()))
        self.seen()

    # ------------------------------------------------------------------ pieces

    def letter(self) -> None:
        """Press a letter's key at the client."""
        code = self.here.code(ord(self._draw.choice("etaoinshrdlu ")))
        self.here.key(code, down=True)
        self.here.key(code, down=False)

    def _scrolled(self, directory: Path, rate: float, seconds: float) -> None:
        text, program = directory / "text", directory / "paced.py"
        if not text.exists():
            draw = Random(SEED)
            words = ["session", "target", "gate", "segment", "tape", "viewer", "index", "ledger", "0x%06x"]
            lines = (
                " ".join(draw.choices(words, k=24)).replace("0x%06x", f"{draw.getrandbits(24):06x}")[:COLUMNS]
                for _ in range(LINES)
            )
            text.write_text("\n".join(lines))
            program.write_text(PACED)
        argv = [
            "xterm",
            "-geometry",
            f"{COLUMNS}x60+300+200",
            "-fn",
            "fixed",
            "-e",
            sys.executable,
            program,
            text,
            str(rate),
            str(seconds),
        ]
        with Process(
            [str(word) for word in argv], log=directory / "xterm.log", env=self.target.screen.env
        ) as process:
            eventually("the text has gone by", lambda: not process.running, within_s=seconds + SEEN_S)

    def _film(self, pictures: int) -> Iterator[int]:
        """Paint a window that pans over a landscape of noise and light, as video does to a codec without motion."""
        width, height = FILM
        draw = Random(SEED)
        noise = draw.randbytes(width * 4)
        rows = [
            bytes((noise[at] >> 3) + (at * 3 // 16 + row) % 200 for at in range(width * 4))
            for row in range(height + FILM_LOOP)
        ]
        window = self.there.window(600, 400, width, height)
        try:
            for number in range(pictures):
                at = number % FILM_LOOP
                shift = at * 8
                frame = b"".join(row[shift:] + row[:shift] for row in rows[at : at + height])
                self.there.put(window, frame, width, height)
                yield number
        finally:
            self.there.destroy(window)


def received(port: int) -> int:
    """Bytes that clients of a port have received on connections that stand, by the kernel's count."""
    argv = ["ss", "-tinHO", "state", "established", "dst", f"{HOST}:{port}"]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
    return sum(int(word.partition(":")[2]) for word in told.split() if word.startswith("bytes_received:"))
