"""How fast it is answered who saw a session, by a ledger of years and by its index.

Promise: p99 of asking is at most 20 ms, however long the ledger; an entry that is appended meanwhile is in the answer.

The ledger holds views as players make them: one a minute that is looked at, of sessions drawn so that a few were looked at much
and most hardly. Asked is as pages ask: for the newest of one session, between appends.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.rig import Promise, Report, Rig, Table
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Entry, Ledger, LedgerReader

ENTRIES, ENTRIES_QUICK = 200_000, 20_000
SESSIONS = 5000
ASKED, ASKED_WHOLE = 400, 3
NEWEST = 300  # what a page asks for
WRITERS = 64  # threads that append at once share one sync
P99_MS = 20.0
SEED = 3


def _names() -> list[str]:
    draw = random.Random(SEED)
    return [f"{draw.getrandbits(128):032x}" for _ in range(SESSIONS)]


def _fill(ledger: Ledger, names: list[str], count: int) -> None:
    def append(seed: int) -> None:
        draw = random.Random(seed)
        for n in range(count // WRITERS):
            session = names[min(int(draw.paretovariate(0.4)) - 1, SESSIONS - 1)]
            ledger.append(
                "view", session=session, who="ann", kind="replay", first=60 * n, last=60 * n + 60, seconds=60
            )

    threads = [threading.Thread(target=append, args=(seed,)) for seed in range(WRITERS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def _timed(ask: Callable[[], list[Entry]]) -> float:
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1e3


def measure(rig: Rig) -> Report:
    """Fill a ledger, ask it whole, ask its index for the first time, then as pages do."""
    count, names, draw = ENTRIES_QUICK if rig.quick else ENTRIES, _names(), random.Random(SEED)
    report = Report("views")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger"
        with Ledger(path, Signer(Ed25519PrivateKey.generate()), "node1") as ledger:
            _fill(ledger, names, count)
            reader = LedgerReader(path)
            whole = [_timed(partial(reader.viewers, name, NEWEST)) for name in names[:ASKED_WHOLE]]
            first = _timed(partial(ledger.viewers, names[0], NEWEST))
            took, missed = [], 0
            for _ in range(ASKED):
                session = draw.choice(names[:50] if draw.random() < 0.5 else names)
                entry = ledger.append("view", session=session, who="eve", kind="log")
                took.append(_timed(partial(ledger.viewers, session, NEWEST)))
                missed += ledger.viewers(session, 1) != [entry]
            index = path.with_name(path.name + ".views").stat().st_size
        size = path.stat().st_size
    took.sort()
    p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
    table = Table(f"who saw a session, of {count:,} views of {SESSIONS:,} sessions", ["", "ms"])
    table.rows += [
        ["the whole ledger", f"{statistics.median(whole):.0f}"],
        ["the index, asked for the first time", f"{first:.0f}"],
        ["the index, p50", f"{p50:.2f}"],
        ["the index, p99", f"{p99:.2f}"],
    ]
    report.tables.append(table)
    report.promises += [
        Promise("who saw a session, p99", p99, P99_MS, unit=" ms"),
        Promise("views appended just before that an answer lacked", missed, 0),
    ]
    report.notes.append(f"the ledger has {size / 1e6:.0f} MB, the index {index / 1e6:.1f} MB")
    report.data |= {
        "whole_ms": whole,
        "first_ms": first,
        "p50_ms": p50,
        "p99_ms": p99,
        "bytes": size,
        "index": index,
    }
    return report
