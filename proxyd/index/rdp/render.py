"""A process of its own for what reads hostile bytes: `python -m proxyd.index.rdp.render screen|typed`.

It takes the records of one session on standard input, packed as `proxyd.recorder.record.pack` does, and gives one
msgpack map on standard output once they have ended:
- `screen`: {"width", "height", "png", "faults", "missing"}: the screen behind the last record; width 0 when there was none
  yet. `missing` says what must be installed to see all of it.
- `typed`: {"lines": [[at_us, refused, text], ...], "faults"}.
`faults` says how much of the recording could not be read.

Rule 1: what it may use is bounded before the first record is read: memory, time, and no file it could write.
Rule 2: it has no session, no key and nothing of the environment; whoever started it believes nothing but its answer.
"""

from __future__ import annotations

import io
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgpack
from PIL import Image

from proxyd.index.given import records
from proxyd.index.rdp.keys import Keys
from proxyd.index.rdp.screen import Screen
from proxyd.index.rdp.typed import lines
from proxyd.recorder.record import Record

MEMORY_BYTES: Final = (
    1 << 31
)  # of address space: the largest desktop takes 130 MB, its copies as a picture 400 MB, the pipeline's surfaces 270 MB
CPU_S: Final = 600  # whatever the bytes say, a core is free again after that
_LIMITS: Final = {
    resource.RLIMIT_AS: MEMORY_BYTES,
    resource.RLIMIT_CPU: CPU_S,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,  # it would hold what was on the screen
}


def screen(given: Iterable[Record]) -> dict[str, Any]:
    """Draw the screen as it was behind the last record."""
    shown = Screen()
    for record in given:
        shown.feed(record)
    picture = shown.picture()
    if picture is None:
        return {"width": 0, "height": 0, "png": b"", "faults": shown.faults, "missing": shown.missing}
    file = io.BytesIO()
    Image.frombytes("RGB", (picture.width, picture.height), picture.rgb).save(file, "PNG")
    return {
        "width": picture.width,
        "height": picture.height,
        "png": file.getvalue(),
        "faults": shown.faults,
        "missing": shown.missing,
    }


def typed(given: Iterable[Record]) -> dict[str, Any]:
    """Read what was typed."""
    keys = Keys()
    found = list(lines(stroke for record in given for stroke in keys.feed(record)))
    return {"lines": found, "faults": keys.faults}


ANSWERS: Final[Mapping[str, Callable[[Iterable[Record]], dict[str, Any]]]] = {
    "screen": screen,
    "typed": typed,
}


def main() -> None:
    """Answer what the command line asks for."""
    for limit, value in _LIMITS.items():
        resource.setrlimit(limit, (value, value))
    answer: bytes = msgpack.packb(ANSWERS[sys.argv[1]](records(sys.stdin.buffer)))
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    main()
