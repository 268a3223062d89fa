"""Sessions written by the real recorder without a session: what reads recordings has some at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import trio

from proxyd.config import Config
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.keys import load_signer
from proxyd.recorder.ledger import Ledger
from proxyd.recorder.record import Kind
from proxyd.recorder.recorder import Recorder

Records = Iterable[tuple[Any, ...]]  # (kind, body) or (kind, body, channel)


def record(
    config: Config,
    sessions: Iterable[tuple[dict[str, Any], Records]],
    catalog: Catalog,
    ledger: Ledger,
    *,
    apart_s: float = 0.0,
) -> None:
    """Record these sessions, each from its META to its END."""

    async def play() -> None:
        recorder = Recorder(config.recording, config.node, catalog=catalog, ledger=ledger)
        async with trio.open_nursery() as nursery:
            await nursery.start(recorder.run)
            for meta, records in sessions:
                tape = await recorder.open(
                    meta["id"], meta, strict=True, on_pressure=lambda _: None, on_failure=lambda _: None
                )
                for one in records:
                    tape.add(*one)
                    if apart_s:
                        await trio.sleep(apart_s)
                await tape.seal("closed", by="", error="")
            nursery.cancel_scope.cancel()

    trio.run(play)


def record_before(config: Config, sessions: Iterable[tuple[dict[str, Any], Records]]) -> None:
    """Record sessions for a daemon that does not run yet."""
    catalog = Catalog(config.recording.catalog)
    ledger = Ledger(config.recording.ledger, load_signer(config.recording.signing_key), config.node)
    try:
        record(config, sessions, catalog, ledger)
    finally:
        ledger.close()
        catalog.close()


SHELL = (
    (Kind.CHANNEL, {"event": "open", "type": "session"}, 1),
    (Kind.REQUEST, {"name": "pty-req", "side": "client", "term": "xterm", "columns": 80, "rows": 24}, 1),
    (Kind.REQUEST, {"name": "shell", "side": "client"}, 1),
)  # how a shell's tape begins
