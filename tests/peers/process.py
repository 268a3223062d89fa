"""Starting, waiting for and ending processes, and the ports they listen on.

Rule 1: a process started here is the leader of its own group and gets SIGKILL when the test run dies.
Rule 2: a wait is for a condition under a deadline; the deadline's error says what was awaited.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

T = TypeVar("T")

POLL_S = 0.01  # how often a condition is looked at: well under every bound the tests state
PORTS = (10_000, 32_000)  # below Linux's ephemeral range, so an outgoing connection never takes one
STOP_S = 10.0  # what a process gets to end by itself before it is killed
PARENT_DIES = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "--",
)  # util-linux: the kernel kills it when the test run dies

_drawn: set[int] = set()
_draw = random.Random(os.getpid() ^ time.time_ns())  # two workers start at different places of the range


def free_port() -> int:
    """Give a loopback TCP port nobody listens on; never the same twice in one process."""
    while True:
        port = _draw.randrange(*PORTS)
        if port in _drawn:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _drawn.add(port)
        return port


def eventually(what: str, condition: Callable[[], T], *, within_s: float = 30.0) -> T:
    """Wait until `condition()` is true and return what it gave; AssertionError after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)


class Process:
    """A program in a process group of its own, its output in files."""

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
    ) -> None:
        self.log = log
        with log.open("ab") as sink:
            self.popen = subprocess.Popen(
                [*PARENT_DIES, *argv],
                stdin=stdin,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process's (and its group's) id."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def text(self) -> str:
        """Everything it has written to its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, within_s: float = STOP_S) -> int:
        """Wait for its end and return its exit status; AssertionError when it stays."""
        try:
            return self.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s:g} s: {self.popen.args!r}") from None

    def kill(self) -> None:
        """SIGKILL the whole group and reap the leader."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(STOP_S)
        self._close()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask the leader to end, kill what is left of the group, return the leader's exit status."""
        if self.running:
            self.popen.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_S)
        self.kill()
        return self.popen.returncode

    def _close(self) -> None:
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def rss_bytes(pid: int) -> int:
    """Resident set of one process, in bytes."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system CPU time of one process and its reaped children, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    """How many file descriptors a process holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def open_sockets(pid: int) -> int:
    """How many sockets a process holds; other descriptors (catalog, segments, threads) come and go on their own."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(entry).startswith("socket:")
    return count
