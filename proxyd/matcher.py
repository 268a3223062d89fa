"""Read commands and statements for the policy in worker processes: regexes and a SQL parser, each with a deadline.

Rule 1: neither a regex that backtracks for ever nor a slow parse holds up the daemon: Python's `re` keeps the
        interpreter's lock, so a thread is not enough. A worker that misses its deadline is killed, and kills itself
        should the daemon be gone by then.
Rule 2: a worker holds nothing: it is told patterns and text each time, and has no environment but the interpreter's.
Rule 3: what forbids is searched for anywhere, also in the text without comments; what permits must describe the whole
        of every statement. In SQL the case of letters does not count.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import IO, Any, Final, NamedTuple

import msgpack

from proxyd import kinds
from proxyd.errors import ProxydError

DEADLINE_S: Final = (
    2.0  # for one text; 64 KiB of SQL parse in less on a busy machine, an honest regex in a thousandth
)
START_S: Final = 20.0  # for a worker to import the parser, on a machine that is starting everything else too
END_S: Final = 1.0
WORKERS: Final = 2  # a second one keeps a slow text of one session from holding up all others
MEMORY_BYTES: Final = 1 << 30  # of address space: the parser needs 200 MB for 64 KiB of the worst
RECURSION: Final = 4000  # parentheses in parentheses; deeper is "unparsable"
READ_BYTES: Final = 1 << 16

_KEPT_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_SIZE = struct.Struct(">I")
_READY: Final = b"ready"


class TooSlow(ProxydError):
    """No answer within the deadline, or the worker broke: whoever asked must assume the worst."""


class Pattern(NamedTuple):
    """A regex, and whether it permits (rule 3)."""

    text: str
    permits: bool


class Question(NamedTuple):
    """What to find out about a text; `dialect` empty: a shell command. `cut`: its middle is missing."""

    text: str
    dialect: str
    patterns: tuple[Pattern, ...]
    kinds: bool
    cut: bool


class Reading(NamedTuple):
    """Which of the patterns match, and the kinds of each statement."""

    found: tuple[bool, ...]
    kinds: tuple[frozenset[str], ...]


def read(question: Question) -> Reading:
    """Answer here and now, however long it takes."""
    text, dialect, patterns, with_kinds, cut = question
    if not dialect:
        return Reading(tuple(_finds(pattern, [text], [text.strip()], 0) for pattern in patterns), ())
    whole = kinds.statements(text, dialect) if patterns else []
    forbidden = [text, " ; ".join(whole)]
    found = tuple(
        _finds(pattern, forbidden, [] if cut else whole, re.IGNORECASE | re.DOTALL) for pattern in patterns
    )
    if not with_kinds:
        return Reading(found, ())
    return Reading(found, (kinds.by_word(text),) if cut else tuple(kinds.kinds(text, dialect)))


def _finds(pattern: Pattern, forbidden: list[str], permitted: list[str], flags: int) -> bool:
    regex = re.compile(pattern.text, flags)
    if pattern.permits:
        return bool(permitted) and all(regex.fullmatch(one) for one in permitted)
    return any(regex.search(one) for one in forbidden)


# ---------------------------------------------------------------------- the worker's side


def main() -> None:
    """Answer questions on standard input until it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.setrecursionlimit(RECURSION)
    _send(sys.stdout.buffer, _READY)
    while (asked := _take(sys.stdin.buffer)) is not None:
        text, dialect, patterns, with_kinds, cut = asked
        question = Question(text, dialect, tuple(Pattern(*pattern) for pattern in patterns), with_kinds, cut)
        signal.setitimer(
            signal.ITIMER_REAL, 2 * DEADLINE_S
        )  # by default SIGALRM kills, whatever the regex is at
        found = read(question)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(sys.stdout.buffer, (found.found, [sorted(one) for one in found.kinds]))


def _send(stream: IO[bytes], message: Any) -> None:
    packed: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
    stream.write(_SIZE.pack(len(packed)) + packed)
    stream.flush()


def _take(stream: IO[bytes]) -> Any:
    """Give the next message; None at the end of the stream."""
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        return None
    return _unpacked(stream.read(_SIZE.unpack(head)[0]))


def _unpacked(packed: bytes) -> Any:
    return msgpack.unpackb(packed, unicode_errors="surrogatepass")


# ---------------------------------------------------------------------- the daemon's side


class _Worker:
    """A worker process; used by one thread at a time."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proxyd.matcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback could quote the statement
            env=environment,
        )
        self._received = b""
        self.ready = False

    def ask(self, question: Question) -> Reading:
        """Give the answer; raises TooSlow, after which this worker is gone."""
        try:
            if not self.ready:
                self.ready = self._answer(time.monotonic() + START_S) == _READY
            assert self._process.stdin is not None  # noqa: S101 - it is a pipe
            _send(self._process.stdin, question)  # an idle worker reads, so this does not wait
            found, read_kinds = self._answer(time.monotonic() + DEADLINE_S)
        except (TooSlow, OSError):
            self.kill()
            raise TooSlow("The command could not be checked in time.") from None
        except BaseException:
            self.kill()
            raise
        return Reading(tuple(found), tuple(frozenset(one) for one in read_kinds))

    def _answer(self, deadline: float) -> Any:
        while len(self._received) < _SIZE.size or len(self._received) < self._wanted():
            self._receive(deadline)
        size = self._wanted()
        packed, self._received = self._received[_SIZE.size : size], self._received[size:]
        return _unpacked(packed)

    def _wanted(self) -> int:
        size: int = _SIZE.unpack_from(self._received)[0]
        return _SIZE.size + size

    def _receive(self, deadline: float) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        poller = select.poll()
        poller.register(self._process.stdout, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TooSlow
        data = os.read(self._process.stdout.fileno(), READ_BYTES)
        if not data:
            raise TooSlow
        self._received += data

    def kill(self) -> None:
        """End the process, and wait for it."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # killed is killed; init waits for it then
            self._process.wait(END_S)


class Workers:
    """Up to WORKERS worker processes, started when first needed; safe to use from any thread."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(WORKERS)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def ask(self, question: Question) -> Reading:
        """Have a worker answer; waits for a free one. Raises TooSlow."""
        with self._places:
            worker = self._worker()
            answer = worker.ask(question)
            self._idle.append(worker)
            return answer

    def _worker(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            return _Worker()
        except OSError:
            raise TooSlow("The command could not be checked.") from None

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            while self._idle:
                self._idle.pop().kill()


WORK: Final = Workers()
atexit.register(WORK.close)

if __name__ == "__main__":
    main()
