"""Seeking in a day of terminal work: how long a moment takes from the nearest keyframe, and how soon a heat map is there.

Promise: in a recording of 24 h and 1 GB of output any moment is shown within 30 ms (p50) and 100 ms (p99), with at most
128 MiB of memory; the heat map is ready 50 ms after a session's end.

The recording is written by the recorder's own reel with a clock of its own: each minute a burst of coloured listings, a
full-screen program that redraws, keys that are echoed, a pause. Its index is made by the process the daemon runs. A seek is
what a player does: find the keyframe, read the records behind it, have that process emulate them, take the page; one
process for all of them. The heat map is waited for after sessions of the real daemon: from its log, whose clock is one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyrage import x25519

from bench.rig import Promise, Report, Rig, Table
from proxyd.cli_derive import TERMINAL, Decoder
from proxyd.recorder.keys import Signer, new_dek, wrap
from proxyd.recorder.manifest import End, Manifest
from proxyd.recorder.record import Kind
from proxyd.recorder.reel import Block, Reel
from proxyd.recorder.replay import Recording
from proxyd.recorder.segment import new_packer
from proxyd.recorder.sidecar import Writer

MINUTES = 24 * 60
BYTES, BYTES_QUICK = 1 << 30, 1 << 26
SEEKS, SEEKS_QUICK = 1000, 200
SESSIONS, SESSIONS_QUICK = 40, 10  # whose heat map is waited for
P50_MS, P99_MS, RSS_MIB, READY_MS = 30, 100, 128, 50
MINUTE_US, SECOND_US = 60_000_000, 1_000_000
RECORD = 16 << 10  # bytes of a listing's record: what a channel sends at once
COMMAND = "seq 2000; sleep 0.3"
SESSION = "day" + "0" * 29
Item = tuple[int, int, int, Any]


def measure(rig: Rig) -> Report:
    """Write a day, index it, seek in it; then run sessions and wait for their heat maps."""
    identity = x25519.Identity.generate()
    key = rig.place("seek") / "identity"
    key.touch(0o600)
    key.write_text(str(identity))
    folder, written_s = write_day(rig.place("seek"), str(identity.to_public()), rig.pick(BYTES_QUICK, BYTES))
    index_s, index_bytes = index(folder, key)
    rig.calm()
    argv = [sys.executable, "-m", "bench.seeking", str(folder), str(key), str(rig.pick(SEEKS_QUICK, SEEKS))]
    found = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    first, *rest = heat_maps(rig)
    ready, (first_ms, *seeks) = sorted(rest), found["ms"]
    ms, (reader, emulator) = sorted(seeks), found["rss_kib"]
    p50, p99 = statistics.median(ms), ms[len(ms) * 99 // 100]
    size = sum(path.stat().st_size for path in folder.glob("*.pxr"))
    table = Table(f"a recording of 24 h, {rig.pick(BYTES_QUICK, BYTES) >> 20} MiB of output", ("", ""))
    table.rows = [
        ("on disk; its index, MiB", f"{size / (1 << 20):.0f}; {index_bytes / (1 << 20):.1f}"),
        ("written; indexed, s", f"{written_s:.0f}; {index_s:.0f}"),
        ("opened, ms", f"{found['opened_ms']:.0f}"),
        ("the first seek, which starts the process that emulates, ms", f"{first_ms:.0f}"),
        (f"{len(ms)} seeks, ms: p50 / p99 / slowest", f"{p50:.1f} / {p99:.1f} / {ms[-1]:.1f}"),
        ("memory, MiB: who reads / who emulates", f"{reader / 1024:.0f} / {emulator / 1024:.0f}"),
    ]
    heat = Table(f"{len(ready)} sessions", ("", "p50", "slowest"))
    heat.rows = [
        (
            "index with its heat map after the session's end, ms",
            f"{statistics.median(ready):.1f}",
            f"{ready[-1]:.1f}",
        )
    ]
    promises = [
        Promise("a moment, p50", p50, P50_MS, unit=" ms"),
        Promise("a moment, p99", p99, P99_MS, unit=" ms"),
        Promise("memory of who reads and who emulates", (reader + emulator) / 1024, RSS_MIB, unit=" MiB"),
        Promise("heat map after the session's end, slowest", ready[-1], READY_MS, unit=" ms"),
    ]
    return Report("seek", [table, heat], promises, data=found | {"ready_ms": [first, *rest]})


def write_day(root: Path, recipient: str, size: int) -> tuple[Path, float]:
    """Write the recording; gives its directory, and the seconds it took."""
    began, dek = time.perf_counter(), new_dek()
    about = {
        "id": SESSION,
        "protocol": "ssh",
        "user": "alice",
        "target": "db1",
        "host": "db1:22",
        "login": "root",
    }
    manifest = Manifest(
        SESSION, "node1", time.time_ns(), "open", strict=True, meta=about, keys=wrap(dek, [recipient])
    )
    reel, packer = Reel(root, manifest, dek, Signer(Ed25519PrivateKey.generate())), new_packer()
    seq = 1
    reel.queue.append(Block(seq, [(0, Kind.META, 0, about)], 100))
    reel.begin(packer)
    for minute in range(MINUTES):
        items = list(a_minute(minute, size // MINUTES))
        reel.queue.append(
            Block(seq + 1, items, sum(len(body) for _, _, _, body in items if isinstance(body, bytes)))
        )
        seq += len(items)
        while reel.queue:
            reel.write(packer)
    reel.finish(packer, End(time.time_ns(), "closed", "", ""), failed=False)
    return reel.folder, time.perf_counter() - began


def a_minute(minute: int, size: int) -> Iterator[Item]:
    """Yield the records of a minute: about `size` bytes of output."""
    at = minute * MINUTE_US
    if minute == 0:
        yield at, Kind.REQUEST, 1, {"name": "pty-req", "columns": 120, "rows": 40}
    for key in b"ls -la /var/log\r":
        at += SECOND_US // 5
        yield at, Kind.INPUT, 1, bytes((key,))
        yield at + 900, Kind.OUTPUT, 1, bytes((key,))
    at += SECOND_US
    listing = b"".join(
        b"\x1b[0m-rw-r--r-- 1 root adm %9d Nov 22 %02d:%02d \x1b[3%dmlog-%d-%d.gz\x1b[0m\r\n"
        % (line * 7919 % 10**8, minute // 60, minute % 60, line % 8, minute, line)
        for line in range(max(size - 20 * 3000, 0) // 75)
    )
    for cut in range(0, len(listing), RECORD):
        at += 20_000
        yield at, Kind.OUTPUT, 1, listing[cut : cut + RECORD]
    yield at + 1, Kind.OUTPUT, 1, b"\x1b[?1049h"
    for frame in range(20):
        at += SECOND_US
        rows = (
            b"%5d root  20 0 %7d S %2d.%d worker-%d\x1b[K\r\n" % (row, frame * row, row, frame % 10, minute)
            for row in range(38)
        )
        yield (
            at,
            Kind.OUTPUT,
            1,
            b"\x1b[H\x1b[7mtop %02d:%02d\x1b[0m\x1b[K\r\n" % (minute, frame) + b"".join(rows),
        )
    yield at + 1, Kind.OUTPUT, 1, b"\x1b[?1049l$ "


def index(folder: Path, key: Path, session: str = SESSION) -> tuple[float, int]:
    """Make the index as `proxyd index` does; gives seconds and bytes."""
    began, recording = time.perf_counter(), Recording.open(folder, key)
    writer = Writer(folder, session, recording.dek)
    with Decoder(TERMINAL) as decoder:
        for items in decoder.fed(recording.records()):
            writer.add(items)
        writer.add(decoder.finish())
    writer.finish()
    return time.perf_counter() - began, writer.size


def heat_maps(rig: Rig) -> list[float]:
    """Run sessions one after the other; gives the milliseconds from each one's end to its index."""
    for _ in range(rig.pick(SESSIONS_QUICK, SESSIONS)):
        subprocess.run(rig.way_proxyd.ssh(COMMAND), stdout=subprocess.DEVNULL, check=True)
    rig.proxyd.quiet()
    ends: dict[str, dict[str, float]] = {}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for event in rig.proxyd.events():
            if event["event"] in ("session ended", "indexed"):
                when = datetime.fromisoformat(event["timestamp"]).timestamp()
                ends.setdefault(event["session"], {})[event["event"]] = when
        if ends and all(len(one) == 2 for one in ends.values()):
            break
        time.sleep(0.1)
    return [(one["indexed"] - one["session ended"]) * 1e3 for one in ends.values()]  # in the order they began
