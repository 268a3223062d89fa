"""Who makes the exports that people asked for: processes of their own, started by the console, which keeps the identity.

Rule 1: a maker asks for the person the export is for, who must be let see the session then; the daemon has the list, the
        turn and the ledger. The console keeps nothing of it: started anew, it asks what waits, and begins that.
Rule 2: what reads recordings' bytes and makes films is not this process; makers are niced, and few at a time.
Rule 3: a maker is ended with the console and its job goes to the next one; one that outlives a console that was killed goes
        on, and nobody else is given its job.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from proxyd import log
from proxyd.cli_exports import ENTRY
from proxyd.console.daemon import Daemon
from proxyd.control.client import ControlError
from proxyd.recorder.forms import APART

LOOK_S: Final = 5.0  # between two looks at what waits; who asks here is not kept waiting for the next
LIGHT: Final = 2  # makers at once of what takes a moment
REST_S: Final = 10.0  # after a maker that could not even begin: its job is next again

_log = log.get("console")


class Makers:
    """The makers of one console; `heavy`: of films and replays at once."""

    def __init__(self, config: Path, daemon: Daemon, heavy: int) -> None:
        self._config, self._daemon = config, daemon
        self._places = {True: heavy, False: LIGHT}
        self._at_work: dict[str, bool] = {}  # jobs, and whether they are heavy
        self._woken = trio.Event()
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """End all that is made, and begin nothing more (rule 3)."""
        self._scope.cancel()

    def allow(self, heavy: int) -> None:
        """Let so many films and replays be made at once from now on."""
        self._places[True] = heavy

    def wake(self) -> None:
        """Look now: somebody has asked."""
        self._woken.set()

    async def run(self) -> None:
        """Have made what waits, until stopped or cancelled."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                await self._serve(nursery)

    async def _serve(self, nursery: trio.Nursery) -> None:
        while True:
            self._woken = trio.Event()
            for job in await self._waiting():
                heavy = job["form"] in APART
                if job["id"] not in self._at_work and self._busy(heavy=heavy) < self._places[heavy]:
                    self._at_work[job["id"]] = heavy
                    nursery.start_soon(self._make, job)
            with trio.move_on_after(LOOK_S):
                await self._woken.wait()

    def _busy(self, *, heavy: bool) -> int:
        return sum(one is heavy for one in self._at_work.values())

    async def _waiting(self) -> list[dict[str, Any]]:
        try:
            waiting: list[dict[str, Any]] = (await self._daemon.call("", "", "export-waiting"))["exports"]
        except ControlError as error:
            _log.debug("nobody says which exports wait", why=str(error))
            return []
        return waiting

    async def _make(self, job: Mapping[str, Any]) -> None:
        words = ["--config", str(self._config), "exports", "make", job["id"], "--for", job["person"],
                 "--from", job["address"]]  # fmt: skip
        try:
            done = await trio.run_process(
                [sys.executable, "-P", "-c", ENTRY, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # why it failed is in the daemon's list
                check=False,
                start_new_session=True,
            )
            _log.info("a maker of exports ended", export=job["id"], status=done.returncode)
            if done.returncode and job["id"] in [one["id"] for one in await self._waiting()]:
                await trio.sleep(REST_S)
        finally:
            del self._at_work[job["id"]]
        self.wake()
