"""A recording the real recorder has made, for what reads recordings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proxyd import setup
from proxyd.config import load
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.keys import load_signer
from proxyd.recorder.ledger import Ledger
from tests.peers import tapes


def record(
    played: Any, base: Path, meta: dict[str, Any], records: Iterable[tuple[Any, ...]], *, apart_s: float = 0.0
) -> Path:
    """Record a session: (kind, body) or (kind, body, channel) each; gives the directory `proxyd init` made for it, `base`."""
    config = load(setup.initialise(base, ssh_port=0, metrics_port=0).config)
    recording = config.recording
    played.ledger.close()
    played.catalog.close()
    played.catalog = Catalog(recording.catalog)
    played.ledger = Ledger(recording.ledger, load_signer(recording.signing_key), config.node)
    played.config.recording = recording
    tapes.record(config, [(meta, records)], played.catalog, played.ledger, apart_s=apart_s)
    return base
