"""Recordings, opened in the console's own process: the daemon says who may, this process has the identity that opens them.

Rule 1: nothing is opened before the daemon has allowed it, for this person and this time, and has it in the ledger.
Rule 2: worker threads only; a few recordings stay open, as long as they are looked at.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from proxyd import cli_commands
from proxyd.cli_log import Entry
from proxyd.cli_recordings import source_of
from proxyd.console.visit import Visit
from proxyd.control.client import Client
from proxyd.errors import ConfigError
from proxyd.recorder.replay import Recording
from proxyd.recorder.source import Source

KEPT_OPEN: Final = 16  # recordings: some kilobytes each, and what finding their segments costs
READERS: Final = 4  # threads that decrypt at a time: a crowd of viewers leaves the processors to sessions

_readers = trio.CapacityLimiter(READERS)
Result = TypeVar("Result")


class Recordings:
    """Opens recordings with one identity."""

    def __init__(self, identity: Path | None) -> None:
        self._identity = identity
        self._lock = threading.Lock()
        self._open: OrderedDict[Path | Source, Recording] = OrderedDict()

    async def read(
        self,
        visit: Visit,
        kind: str,
        work: Callable[[Recording, dict[str, Any]], Result],
        *,
        first: float = 0.0,
        last: float | None = None,
    ) -> Result:
        """Have the daemon allow `kind` (log, replay) of these seconds to whoever asks, then do `work` on the recording.

        Raises ControlError, ConfigError, FormatError.
        """
        piece = {"first": first} | ({} if last is None else {"last": last})
        answer = await visit.call("read", session=visit.session, kind=kind, **piece)
        client = Client(visit.site.daemon.path).acting_for(visit.who.user, visit.who.source)
        return await trio.to_thread.run_sync(
            lambda: work(self._opened(client, answer), answer), limiter=_readers, abandon_on_cancel=True
        )

    def _opened(self, client: Client, answer: dict[str, Any]) -> Recording:
        source = source_of(client, answer)
        kept = isinstance(source, Path) and answer["session"]["state"] != "live"
        with self._lock:
            if kept and source in self._open:
                self._open.move_to_end(source)
                return self._open[source]
        if self._identity is None:
            raise ConfigError("the console has no identity that opens recordings: set recording.identity")
        found = Recording.open(source, self._identity)
        with self._lock:
            if kept:
                self._open[source] = found
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return found


def log_of(recording: Recording, answer: dict[str, Any]) -> tuple[list[Entry], str]:
    """Give the log of a session, in order, and what is missing from it."""
    log = cli_commands.log_of(recording, answer["session"])
    unread = f"{log.unread} messages of the client could not be read" if log.unread else ""
    return sorted(log.entries, key=attrgetter("at_us")), log.error or unread or recording.damage or ""
