"""One process of `proxyd index`: started, fed, listened to, and ended when it is silent or takes too much.

Rule 1: it gets no environment, no key, no standard error and no directory of ours: standard input and output are all.
Rule 2: `post` never waits: whoever has something to say is answered before it says more, so what waits is bounded.
Rule 3: however it ends, it is gone and reaped when `run` returns, and `why` says what happened.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from proxyd.errors import FormatError
from proxyd.indexing.frames import ChildFrames, FromChild, Ping, ToChild, pack

ARGV: Final = (
    sys.executable,
    "-P",
    "-m",
    "proxyd.index.main",
)  # -P: the current directory is no place to import from
PING_S: Final = 5.0
SILENT_S: Final = 30.0  # one frame of records takes a second at most, unless it was made to take minutes
MEMORY_BYTES: Final = 1 << 30  # resident: eight desktops of 1080p and their copies take half of it
READ_BYTES: Final = 1 << 18
KILL_S: Final = 5.0  # for the kernel to end what was killed
ENDING_S: Final = 0.2  # between the end of its output and its own
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_KEPT: Final = ("PYTHONPATH", "LD_LIBRARY_PATH")  # where an interpreter that was moved finds its own


def environment() -> dict[str, str]:
    """Give the little a child's interpreter needs to start; the child clears it."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


class Child:
    """A running process; made by `started`."""

    def __init__(self, process: trio.Process) -> None:
        self.why = ""
        self.killed = False  # by somebody else than us
        self._process = process
        self._out: deque[bytes] = deque()
        self._bell = trio.Event()
        self._heard = trio.current_time()

    @classmethod
    async def started(cls) -> Child:
        """Start one; raises OSError."""
        process = await trio.lowlevel.open_process(
            ARGV,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # native libraries complain there about what they read
            env=environment(),
            cwd="/",
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def post(self, frame: ToChild) -> None:
        """Have a frame sent."""
        self._out.append(pack(frame))
        self._bell.set()

    async def run(self, take: Callable[[FromChild], None]) -> None:
        """Serve it until it ends, giving what it says to `take`; kills it when cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch, nursery.cancel_scope)
                await self._read(take)
                nursery.cancel_scope.cancel()
        finally:
            await self._end()

    async def _read(self, take: Callable[[FromChild], None]) -> None:
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        frames = ChildFrames()
        try:
            while data := await self._process.stdout.receive_some(READ_BYTES):
                self._heard = trio.current_time()
                for frame in frames.feed(bytes(data)):
                    take(frame)
        except FormatError as error:
            self.why = str(error)
        except trio.BrokenResourceError:
            return

    async def _write(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        try:
            while True:
                while self._out:
                    await self._process.stdin.send_all(self._out.popleft())
                self._bell = trio.Event()
                await self._bell.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it has ended; who reads it sees that too

    async def _watch(self, scope: trio.CancelScope) -> None:
        number = 0
        while not self.why:
            number += 1
            self.post(Ping(number))
            await trio.sleep(PING_S)
            if trio.current_time() - self._heard > SILENT_S:
                self.why = f"it said nothing for {SILENT_S:g} s"
            elif self._resident() > MEMORY_BYTES:
                self.why = f"it took more than {MEMORY_BYTES >> 20} MiB"
        scope.cancel()

    def _resident(self) -> int:
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, ValueError, IndexError):
            return 0  # no /proc, or it has ended: the resource limits are there all the same

    async def _end(self) -> None:
        """Kill it if it runs, reap it, and say how it ended (rule 3)."""
        with trio.CancelScope(shield=True), trio.move_on_after(KILL_S):
            assert self._process.stdin is not None  # noqa: S101
            assert self._process.stdout is not None  # noqa: S101
            if not self.why:  # it may be ending by itself: then its status says why
                with trio.move_on_after(ENDING_S):
                    await self._process.wait()
            ours = self._process.poll() is None
            if ours:
                self._process.kill()
            status = await self._process.wait()
            self.killed = not ours and status == -signal.SIGKILL
            self.why = self.why or _said(status)
            await self._process.stdin.aclose()
            await self._process.stdout.aclose()


def _said(status: int) -> str:
    if status < 0:
        return f"it ended by signal {signal.Signals(-status).name}"
    return f"it ended with status {status}"
