"""A terminal session as records: what real programs wrote into a real terminal, put at the times of someone at work.

What a program writes between two keys is one piece, cut to READ_BYTES, whatever it paused in between: so the session is the
same every time, on one machine.
"""

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
from typing import NamedTuple

from proxyd.recorder.record import Kind, Record

COLUMNS, ROWS = 120, 40
LISTEN_S = 30.0  # for a program to come to its end
QUIET_S = 0.4  # a program that says nothing for so long waits for a key
READ_BYTES = 4096  # what a terminal gives at once
TYPED = "for one in /etc/*.conf; do head -2 $one; done | less"
TYPING_US = 180_000  # between two keys: 65 words a minute
PROGRESS = b"\r"  # what its pieces begin with


class Program(NamedTuple):
    """What is run, the keys for it, and seconds of session a piece of its output stands for; pieces begin with `begin`."""

    argv: list[str]
    keys: list[bytes]
    pause_s: float
    begin: bytes = b""


PROGRAMS = (
    Program(["ls", "--color=always", "-laR", "/etc"], [], 0.05),
    Program(["vi", "/etc/services"], [b"\x06"] * 12 + [b"G", b"gg", b":q!\r"], 1.5),
    Program(["less", "/etc/services"], [b" "] * 12 + [b"q"], 2.0),
    Program(["sh", "-c", "for i in 1 2; do top -b -n 1 -w 110 | head -35; done"], [], 1.0),
    Program(["sh", "-c", "for i in $(seq 60); do printf '\\r%3d %%' $i; done; echo"], [], 0.3, PROGRESS),
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


def written(program: Program, columns: int = COLUMNS, rows: int = ROWS) -> list[bytes]:
    """Give the pieces a program writes into a terminal that gives it its keys, one when it says nothing more."""
    pieces: list[bytes] = []
    for answer in _answers(program, columns, rows):
        parts = answer.split(program.begin) if program.begin else [answer]
        whole = [program.begin + part for part in parts if part]
        pieces += [one[at : at + READ_BYTES] for one in whole for at in range(0, len(one), READ_BYTES)]
    return pieces


def _answers(program: Program, columns: int, rows: int) -> Iterator[bytes]:
    """Yield what a program writes until it wants a key, and to its end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        program.argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
    )
    os.close(theirs)
    deadline, waiting, said = time.monotonic() + LISTEN_S, list(program.keys), bytearray()
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], QUIET_S)[0]:
                try:
                    said += os.read(ours, READ_BYTES)
                except OSError:  # it has ended
                    break
            elif waiting:
                yield bytes(said)
                said.clear()
                os.write(ours, waiting.pop(0))
            elif process.poll() is not None:
                break
        yield bytes(said)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def at_work(seconds: int) -> list[Record]:
    """Give a session of so many seconds: typing, lists, editors, pagers, progress, and pauses, over and over."""
    pieces = [(written(program), program.pause_s) for program in PROGRAMS]
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
