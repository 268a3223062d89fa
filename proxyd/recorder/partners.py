"""What the recorder needs from the rest of the daemon, and where it says how it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from proxyd.recorder.summary import Finding


class Settings(Protocol):
    """What of config.Recording is used here."""

    @property
    def directory(self) -> Path: ...  # noqa: D102
    @property
    def recipients(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def signing_key(self) -> Path: ...  # noqa: D102
    @property
    def sync_seconds(self) -> float: ...  # noqa: D102
    @property
    def reserve_bytes(self) -> int: ...  # noqa: D102


class Catalog(Protocol):
    """The list of sessions; called in worker threads; raises ProxydError or OSError."""

    def started(self, row: Mapping[str, Any]) -> None:
        """Keep a session that begins."""

    def ended(
        self,
        id: str,  # noqa: A002  the catalog's own name for it
        *,
        ended_at: float,
        reason: str,
        by: str,
        error: str,
        size: int,
        input_bytes: int,
        output_bytes: int,
        chain: str | bytes,
        state: Any,
        findings: int | None = None,
        found: Sequence[Finding] | None = None,
        channels: Mapping[str, int] | None = None,
    ) -> None:
        """Keep how it ended; `state` is "ended", "recovered" or "failed"."""


class Ledger(Protocol):
    """The node's ledger; called in worker threads; raises ProxydError or OSError."""

    def append(self, kind: str, /, **fields: Any) -> object:
        """Keep an entry, durably."""


class Gauges:
    """Where the recorder says how it is; this one says it to nobody. Called on trio's thread."""

    def lag(self, seconds: float) -> None:
        """Age of the oldest record when it was written."""

    def queue(self, size: int) -> None:
        """Bytes added and not written."""

    def unsealed(self, count: int) -> None:
        """Segments open now."""

    def synced(self, seconds: float) -> None:
        """Time of one fdatasync."""

    def written(self, size: int) -> None:
        """Bytes written to segments, more."""

    def viewers(self, count: int) -> None:
        """Viewers now."""

    def failed(self, policy: str) -> None:
        """One more recording could not keep its promise; policy is "strict" or "best_effort"."""

    def trouble(self, what: str, session: str, error: str) -> None:
        """Something for the log; `error` holds no bytes of the session."""
