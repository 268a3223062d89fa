"""A terminal session as records: what real programs wrote into a real terminal, put at the times of someone at work."""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

from proxyd.recorder.record import Kind, Record

COLUMNS, ROWS = 120, 40
LISTEN_S = 30.0  # for a program to come to its end
QUIET_S = 0.25  # a program that says nothing for so long waits for a key
TYPED = "for one in /etc/*.conf; do head -2 $one; done | less"
TYPING_US = 180_000  # between two keys: 65 words a minute
# (keys for it, seconds of session a piece of its output stands for): what it is like to be watched
PROGRAMS: tuple[tuple[list[str], list[bytes], float], ...] = (
    (["ls", "--color=always", "-laR", "/etc"], [], 0.05),
    (["vi", "/etc/services"], [b"\x06"] * 12 + [b"G", b"gg", b":q!\r"], 1.5),
    (["less", "/etc/services"], [b" "] * 12 + [b"q"], 2.0),
    (["top", "-b", "-n", "2", "-d", "0.2"], [], 1.0),
    (["sh", "-c", "for i in $(seq 60); do printf '\\r%3d %%' $i; sleep 0.01; done; echo"], [], 0.3),
)


class Tape:
    """Records in the making; times in µs of the session."""

    def __init__(self, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self.records: list[Record] = []
        self.at_us = 0
        self._seq = itertools.count(1)
        self.add(Kind.META, {"protocol": "ssh"}, channel=0)
        self.add(Kind.CHANNEL, {"event": "open", "type": "session"})
        self.add(
            Kind.REQUEST, {"name": "pty-req", "term": "xterm-256color", "columns": columns, "rows": rows}
        )

    def add(self, kind: Kind, body: object, after_us: int = 0, channel: int = 1) -> None:
        self.at_us += after_us
        self.records.append(Record(next(self._seq), self.at_us, kind, channel, body))

    def end(self, at_us: int) -> None:
        self.at_us = max(self.at_us, at_us)
        self.add(Kind.END, {"reason": "closed", "by": "", "error": ""}, channel=0)


def written(argv: list[str], keys: list[bytes], columns: int = COLUMNS, rows: int = ROWS) -> Iterator[bytes]:
    """Yield what a program writes into a terminal, a piece whenever it pauses, getting a key each time."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
    )
    os.close(theirs)
    deadline, waiting = time.monotonic() + LISTEN_S, list(keys)
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], QUIET_S)[0]:
                try:
                    yield os.read(ours, 4096)
                except OSError:  # it has ended
                    return
            elif waiting:
                os.write(ours, waiting.pop(0))
            elif process.poll() is not None:
                return
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def at_work(seconds: int) -> list[Record]:
    """Give a session of so many seconds: typing, lists, editors, pagers, progress, and pauses, over and over."""
    pieces = [(list(written(argv, keys)), pause) for argv, keys, pause in PROGRAMS]
    tape = Tape()
    for output, pause in itertools.cycle(pieces):
        for key in TYPED:
            tape.add(Kind.INPUT, key.encode(), TYPING_US)
            tape.add(Kind.OUTPUT, key.encode(), 20_000)
        for piece in output:
            tape.add(Kind.OUTPUT, piece, round(pause * 1e6))
            if tape.at_us >= (seconds - 5) * 1_000_000:
                tape.end(seconds * 1_000_000)
                return tape.records
        tape.add(Kind.OUTPUT, b"\r\n$ ", 3_000_000)
    raise AssertionError("the programs wrote nothing")
