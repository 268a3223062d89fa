"""A person at a terminal: a program on a pty of its own, what it shows, what is typed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.peers.process import PARENT_DIES

STEP_S = 60.0  # what one answer may take on the busiest machine
CHUNK = 1 << 16


class Terminal:
    """Run `argv` on a new terminal of `rows` x `columns`; `seen` is everything shown so far."""

    def __init__(
        self,
        argv: Sequence[str | bytes | os.PathLike[str]],
        *,
        rows: int = 24,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.master, slave = pty.openpty()
        self.seen = bytearray()
        self._at = 0
        self._ended = False
        self.resize(rows, columns, tell=False)
        try:
            self.popen = subprocess.Popen(
                ["setsid", "-c", *PARENT_DIES, *argv],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**os.environ, "TERM": "xterm-256color", **(env or {})},
            )
        finally:
            os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        """Change the window; the program gets SIGWINCH from the kernel."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            with contextlib.suppress(ProcessLookupError):
                self.popen.send_signal(signal.SIGWINCH)

    def type(self, text: bytes | str) -> None:
        """Press keys."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            _, writable, _ = select.select([], [self.master], [], STEP_S)
            assert writable, "the terminal takes no keys"
            data = data[os.write(self.master, data[:4096]) :]

    def read(self, within_s: float) -> bytes:
        """Take what is shown next; empty after `within_s` seconds or at the end."""
        if self._ended or not select.select([self.master], [], [], within_s)[0]:
            return b""
        try:
            data = os.read(self.master, CHUNK)
        except OSError:  # EIO: the last holder of the other side is gone
            data = b""
        if not data:
            self._ended = True
        self.seen += data
        return data

    def expect(self, pattern: bytes | str, *, within_s: float = STEP_S) -> re.Match[bytes]:
        """Wait until `pattern` (a regular expression) is shown after the last match."""
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        deadline = time.monotonic() + within_s
        while True:
            found = wanted.search(self.seen, self._at)
            if found:
                self._at = found.end()
                return found
            left = deadline - time.monotonic()
            if left <= 0 or (self._ended and not self.read(0)):
                raise AssertionError(
                    f"{wanted.pattern!r} is not shown; the terminal shows {bytes(self.seen[-2000:])!r}"
                )
            self.read(left)

    def wait(self, within_s: float = STEP_S) -> int:
        """Read to the end and return the exit status."""
        deadline = time.monotonic() + within_s
        while not self._ended and time.monotonic() < deadline:
            self.read(deadline - time.monotonic())
        try:
            return self.popen.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running; the terminal shows {bytes(self.seen[-2000:])!r}") from None

    def close(self) -> None:
        """Hang up."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(10)
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
