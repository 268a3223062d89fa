"""`python -m bench.rdp_decode FOLDER IDENTITY`: draw a recorded desktop; print frames, seconds, bytes of records and faults."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.desktop import SIZE
from proxyd.index.rdp.screen import Screen
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording


def main() -> None:
    """Read, decrypt and draw."""
    began, painted, size = time.perf_counter(), 0, 0
    screen = Screen()
    for record in Recording.open(Path(sys.argv[1]), sys.argv[2]).records():
        painted += sum(area.width * area.height for area in screen.feed(record))
        size += len(record.body) if record.kind is Kind.PDU else 0
    print(painted / (SIZE[0] * SIZE[1]), time.perf_counter() - began, size, screen.faults)


if __name__ == "__main__":
    main()
