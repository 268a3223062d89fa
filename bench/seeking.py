"""`python -m bench.seeking FOLDER IDENTITY COUNT`: show a recording at random moments; print milliseconds and memory as JSON.

Apart from what made the recording, so that its memory is that of who seeks.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from random import Random

from proxyd.cli_derive import TERMINAL, Decoder
from proxyd.recorder.replay import Recording

SEED = 24


def main() -> None:
    """Seek as a player does: one process emulates all."""
    folder, identity, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    draw, took, rows = Random(SEED), [], 0
    began = time.perf_counter()
    recording = Recording.open(folder, identity)
    sidecar = recording.sidecar()
    opened = time.perf_counter() - began
    with Decoder(TERMINAL) as decoder:
        for _ in range(count):
            at_us = draw.randrange(recording.duration_us)
            began = time.perf_counter()
            printed = decoder.shown_at(recording, sidecar.keyframe(at_us), at_us)
            took.append((time.perf_counter() - began) * 1e3)
            rows += len(printed.page.lines) if printed.page else 0
    reader, emulator = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps({"ms": took, "opened_ms": opened * 1e3, "rows": rows, "rss_kib": [reader, emulator]}))


if __name__ == "__main__":
    main()
