"""Asks the decoder of RDP recordings, which runs in a process of its own: what it reads may be hostile.

Rule 1: the decoder is believed nothing but an answer of the right shape; without one there is one clear sentence.
Rule 2: it gets records and nothing else: no key, no environment, no standard error; it is killed at its deadline, and
        when whoever asks is interrupted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import msgspec

from proxyd.characters import printable
from proxyd.errors import ProxydError
from proxyd.recorder.record import Record, pack

PACKAGE: Final = "aardwolf"
MISSING: Final = "the decoder of RDP recordings is not installed: pip install 'aardwolf>=0.2.16,<0.3'"
FAILED: Final = (
    "the decoder gave up on this recording: it is damaged, hostile, or more than it reads in 10 min"
)
DEADLINE_S: Final = 600.0  # the decoder's own limit is as much of work
LARGEST: Final = (
    1 << 27
)  # bytes of an answer: a desktop as large as there are, as if PNG could not compress it
_MODULE: Final = "proxyd.index.rdp.render"
_KEPT_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_PNG: Final = b"\x89PNG\r\n\x1a\n"


class Undecoded(ProxydError):
    """The decoder is missing, or gave no answer."""


class Drawn(msgspec.Struct, frozen=True):
    """A picture; `faults` updates of it could not be read. `width` 0: there was no screen yet.

    `missing`: what must be installed for all of it to be seen.
    """

    width: int
    height: int
    png: bytes
    faults: int
    missing: str = ""


class Typed(msgspec.Struct, frozen=True):
    """What was typed: when, whether a block refused it, and what; `faults` frames could not be read."""

    lines: list[tuple[int, bool, str]]
    faults: int


_Answer = TypeVar("_Answer", Drawn, Typed)


def require() -> None:
    """Raise Undecoded when the decoder is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise Undecoded(MISSING)


def draw(records: Iterable[Record]) -> Drawn:
    """Draw the screen as it was behind the last of these records. Raises Undecoded."""
    drawn = _ask("screen", records, Drawn)
    if drawn.missing:
        raise Undecoded(printable(drawn.missing))
    if drawn.width and not drawn.png.startswith(_PNG):
        raise Undecoded(FAILED)
    return drawn


def read_typed(records: Iterable[Record]) -> Typed:
    """Read what was typed in these records. Raises Undecoded."""
    return _ask("typed", records, Typed)


def _ask(what: str, records: Iterable[Record], shape: type[_Answer]) -> _Answer:
    require()
    with started(_MODULE, what) as process:
        timer = threading.Timer(DEADLINE_S, process.kill)
        timer.start()
        try:
            answer = _told(process, records)
        finally:
            timer.cancel()
            process.kill()
    try:
        return msgspec.msgpack.decode(answer, type=shape)
    except msgspec.MsgspecError:
        raise Undecoded(FAILED) from None


def started(module: str, what: str) -> subprocess.Popen[bytes]:
    """Start a process that reads records (rule 2)."""
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    # -P: the directory someone happens to be in is no place to import from.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Rust says there what it panics at, which is nobody's error
        env=environment,
    )


def _told(process: subprocess.Popen[bytes], records: Iterable[Record]) -> bytes:
    """Send the records, then take the answer, which comes at their end only."""
    assert process.stdin is not None  # noqa: S101 - they are pipes
    assert process.stdout is not None  # noqa: S101
    try:
        for one in packed(records):
            process.stdin.write(one)
    except BrokenPipeError:
        return b""
    finally:
        with contextlib.suppress(BrokenPipeError):  # what was not sent yet, to a process that is gone
            process.stdin.close()
    return process.stdout.read(LARGEST)


def packed(records: Iterable[Record]) -> Iterator[bytes]:
    """Yield records as the processes that read them take them."""
    at_us = 0
    for record in records:
        yield pack(record.at_us - at_us, record.kind, record.channel, record.body)
        at_us = record.at_us
