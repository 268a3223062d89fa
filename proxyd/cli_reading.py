"""How `proxyctl` reads recordings: a piece after the other, each after the daemon has allowed it.

Rule 1: what is shown later is asked for later: by then it may be forbidden.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyd.cli_app import Run
    from proxyd.recorder.record import Record
    from proxyd.recorder.replay import Recording

PIECE_US = 60_000_000  # of a replay, asked for at once: a minute that was seen is one entry of the ledger
AGAIN_S = 60.0  # a piece that was let this long ago is asked for again


def ask_to_read(run: Run, kind: str, session: str, first_us: int, last_us: int | None) -> dict[str, Any]:
    """Ask the daemon for a piece of a recording, `last_us` None: to its end. Raises ControlError, ConfigError."""
    asked: dict[str, Any] = {"kind": kind, "first": first_us / 1e6, "views": kind == "log"}
    if last_us is not None:
        asked["last"] = last_us / 1e6
    return run.call("read", session=session, **asked)


def moment_us(session: Mapping[str, Any], at_us: int | None) -> int:
    """Give a moment of a session in microseconds; None: its last."""
    if at_us is not None:
        return at_us
    lasted_s: float = (session["ended_at"] or time.time()) - session["started_at"]
    return round(max(0.0, lasted_s) * 1e6)


class Pieces:
    """What is replayed of a recording that was opened at `first_us`, as `answer` allowed."""

    def __init__(self, run: Run, recording: Recording, answer: Mapping[str, Any], first_us: int) -> None:
        self._run = run
        self._recording = recording
        self._session = answer["session"]["id"]
        self._until = answer["until"]
        self._at = first_us // PIECE_US
        self._asked = {self._at: time.monotonic()}

    def records(self, start_us: int = 0) -> Iterator[Record]:
        """Yield the records at or after `start_us`. Raises ControlError before one that may not be seen."""
        return self.allowed(self._recording.records(start_us))

    def allowed(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield these records, as far as they may be seen."""
        for record in records:
            piece = record.at_us // PIECE_US
            if piece != self._at or self._over:
                self._ask(piece)
            yield record

    @property
    def _over(self) -> bool:
        return self._until is not None and time.time() >= self._until

    def _ask(self, piece: int) -> None:
        self._at, now = piece, time.monotonic()
        if not self._over and now - self._asked.get(piece, -AGAIN_S) < AGAIN_S:
            return  # a seek builds the screen from the beginning, through what was shown a moment ago
        first_us = piece * PIECE_US
        answer = ask_to_read(self._run, "replay", self._session, first_us, first_us + PIECE_US)
        self._until, self._asked[piece] = answer["until"], now
