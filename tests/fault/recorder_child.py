"""A process that only records, for tests that kill it or break its storage. It prints what it did, one JSON a line.

argv: directory, recipient, signing key (PEM), what to do ("storm" or "story"), strict | best_effort | hold, rounds.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from proxyd.errors import RecordingFailed
from proxyd.recorder import reel
from proxyd.recorder.record import Kind
from proxyd.recorder.recorder import Gauges, Recorder

TAPES = 20
PER_ROUND = 3


@dataclass(frozen=True)
class Settings:
    directory: Path
    recipients: list[str]
    signing_key: Path
    sync_seconds: float = 0.1
    reserve_bytes: int = 0


def say(**fields: Any) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


class Said(Gauges):
    """Catalog, ledger and gauges: says it all on standard output."""

    def started(self, row: Any) -> None:
        say(started=row["id"])

    def ended(self, id: str, **fields: Any) -> None:  # noqa: A002  the catalog's own name for it
        say(ended=id, state=fields["state"])

    def append(self, kind: str, /, **fields: Any) -> None:
        say(ledger=kind, session=fields["session"])

    def trouble(self, what: str, session: str, error: str) -> None:
        say(trouble=what, session=session, error=error)

    def lag(self, seconds: float) -> None:
        say(lag=seconds)


async def storm(recorder: Recorder) -> None:
    """Record on all tapes at once until killed."""
    draw = random.Random()
    tapes = [
        await recorder.open(f"s{n}", {}, strict=True, on_pressure=bool, on_failure=bool) for n in range(TAPES)
    ]
    say(ready=True)
    numbers = [0] * TAPES
    while True:
        for n, tape in enumerate(tapes):
            for _ in range(draw.randrange(4)):
                numbers[n] += 1
                tape.add(Kind.OUTPUT, b"%08d" % numbers[n] + draw.randbytes(draw.randrange(300)))
                say(tape=n, number=numbers[n], at_us=(time.monotonic_ns() - tape._zero_ns) // 1000)
        await trio.sleep(0.005)


async def story(recorder: Recorder, policy: str, rounds: int) -> None:
    """Record one session from beginning to end, with several segments and syncs, saying what is promised."""
    reel.SEGMENT_BYTES = 6000
    number = 0
    failed = trio.Event()

    def failing(error: RecordingFailed) -> None:
        say(failed=str(error), seconds=time.monotonic() - added)
        failed.set()

    added = time.monotonic()
    try:
        tape = await recorder.open(
            "s1", {}, strict=policy != "best_effort", hold=policy == "hold",
            on_pressure=lambda held: say(held=held), on_failure=failing,
        )  # fmt: skip
    except RecordingFailed as error:
        say(refused=str(error))
        return
    draw = random.Random(5)
    for turn in range(rounds):
        for _ in range(PER_ROUND):
            number += 1
            tape.add(Kind.OUTPUT, b"%08d" % number + draw.randbytes(300))
        added = time.monotonic()
        try:
            with trio.fail_after(3):
                await tape.flush()
        except RecordingFailed:
            break
        except trio.TooSlowError:
            say(stuck=number)
            break
        if failed.is_set():
            break
        say(flushed=number)
        if turn % 8 == 0:
            await trio.sleep(0.15)  # a sync
    say(added=number)
    await tape.seal("story told")
    say(sealed=True)


async def main(directory: str, recipient: str, key: str, what: str, policy: str, rounds: str) -> None:
    said = Said()
    settings = Settings(Path(directory), [recipient], Path(key))
    recorder = Recorder(settings, "node1", catalog=said, ledger=said, gauges=said)
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(recorder.run)
        except RecordingFailed as error:
            say(refused=str(error))
            return
        await (storm(recorder) if what == "storm" else story(recorder, policy, int(rounds)))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
