"""Long sessions, recorded by the recorder's own reel with a clock that runs as fast as the disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.recorder import reel as reels
from proxyd.recorder import store
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.keys import Signer, new_dek, wrap
from proxyd.recorder.ledger import Ledger
from proxyd.recorder.manifest import End, Manifest
from proxyd.recorder.record import Kind
from proxyd.recorder.recorder import BLOCK_SECONDS, ledger_fields
from proxyd.recorder.reel import Block, Reel, weigh
from proxyd.recorder.segment import Item, new_packer

BEGAN_NS = 1_790_000_000 * 10**9
WORDS = b"drwxr-xr-x root build error warning listen 443 GET POST commit merge branch index kernel".split()
KEYS_US = 60_000_000  # a command is typed every minute
BLOCK_BYTES = 64 << 10  # a block is written when it is so large, or so old


class Clock:
    """What stands for `time` in the reel."""

    def __init__(self) -> None:
        self.at_us = 0

    def monotonic(self) -> float:
        """Seconds into the session."""
        return self.at_us / 1e6

    def time_ns(self) -> int:
        """The wall clock of that moment."""
        return BEGAN_NS + self.at_us * 1000


def typed_and_shown(seconds: int, size: int, piece: int) -> Iterator[Item]:
    """Yield a shell's records over so many seconds, `size` bytes of output in pieces of `piece`."""
    draw = random.Random(11)
    yield 0, Kind.CHANNEL, 1, {"event": "open", "type": "session"}
    yield 0, Kind.REQUEST, 1, {"name": "pty-req", "side": "client", "columns": 120, "rows": 40}
    yield 0, Kind.REQUEST, 1, {"name": "shell", "side": "client"}
    count = size // piece
    lines = [b"%s %d\x1b[32m %s\x1b[0m\r\n" % (draw.choice(WORDS), draw.randrange(10**9), draw.choice(WORDS))
             for _ in range(4096)]  # fmt: skip
    keys_at = KEYS_US
    for number in range(count):
        at_us = number * seconds * 1_000_000 // count
        while keys_at <= at_us:
            command = b"make step-%d" % (keys_at // KEYS_US)
            yield keys_at, Kind.OUTPUT, 1, b"\x1b[0m\r\n$ "  # also behind half of a sequence
            for kind in (Kind.INPUT, Kind.OUTPUT):  # what is typed, and its echo
                yield keys_at, kind, 1, command
            yield keys_at, Kind.INPUT, 1, b"\r"
            yield keys_at, Kind.OUTPUT, 1, b"\r\n"
            keys_at += KEYS_US
        text = b"".join(draw.choices(lines, k=piece // 32 + 1))
        yield max(at_us, keys_at - KEYS_US), Kind.OUTPUT, 1, text[:piece]
    yield seconds * 1_000_000, Kind.END, 0, {"reason": "closed", "by": "", "error": ""}


def wound(
    session: str,
    items: Iterator[Item],
    root: Path,
    signer: Signer,
    recipient: str,
    patched: pytest.MonkeyPatch,
) -> tuple[Reel, Manifest]:
    """Record items as the recorder does, at their own times; gives the reel and its last manifest."""
    clock, packer, dek = Clock(), new_packer(), new_dek()
    patched.setattr(reels, "time", clock)
    meta = {"id": session, "user": "alice", "user_ip": "192.0.2.7", "target": "web1", "host": "web1:22",
            "login": "root", "protocol": "ssh", "how": "publickey"}  # fmt: skip
    keys = wrap(dek, [recipient])
    reel = Reel(root, Manifest(session, "node1", BEGAN_NS, "open", True, meta, keys), dek, signer)
    reel.queue.append(Block(1, [(0, Kind.META, 0, meta)], weigh(meta)))
    reel.begin(packer)
    seq = 2
    for block in _blocks(items):
        clock.at_us = block[-1][0]
        while reel.next_chore < clock.monotonic():
            reel.write(packer)
        reel.queue.append(Block(seq, block, sum(weigh(item[3]) for item in block)))
        seq += len(block)
        reel.write(packer)
    return reel, reel.finish(packer, End(clock.time_ns(), "closed"), failed=False)


def _blocks(items: Iterator[Item]) -> Iterator[list[Item]]:
    block: list[Item] = []
    size = 0
    for item in items:
        old = block and item[0] - block[0][0] >= BLOCK_SECONDS * 1e6
        if old or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
        block.append(item)
        size += weigh(item[3])
    yield block


def listed(reel: Reel, manifest: Manifest, catalog: Catalog, ledger: Ledger, *, node: str = "node1") -> None:
    """Tell catalog and ledger of a recording, as its end on that node would have."""
    store.unmark_open(reel.root, manifest.session)
    tell: Callable[..., Any] = ledger.append
    tell("sealed", **ledger_fields(manifest, reel.folder, reel.root))
    row = {**manifest.meta, "node": node, "path": str(reel.folder), "started_at": BEGAN_NS / 1e9}
    catalog.started(row)
    assert manifest.end is not None
    catalog.ended(manifest.session, ended_at=manifest.end.at_ns / 1e9, reason="closed", size=manifest.size,
                  input_bytes=0, output_bytes=0, chain=manifest.chain)  # fmt: skip
