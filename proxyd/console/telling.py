"""What the console tells the daemon of its sign-ins, and which of them it ends because the daemon says so.

Rule 1: whoever is signed in here is known there at once, what they last asked within TELL_S.
Rule 2: an end asked for is done before it is confirmed; the browser's next request meets no sign-in.
Rule 3: a daemon that is away changes nothing here: it is asked again, and told anew.
"""

from __future__ import annotations

import time
from typing import Final

import trio

from proxyd import log
from proxyd.console.daemon import Daemon, Stream
from proxyd.console.signin import SignIns
from proxyd.control.client import ControlError

TELL_S: Final = 10.0
AGAIN_S: Final = 2.0
AGENT: Final = 100  # characters: two thousand of them fit into a request

_log = log.get("console")


class Teller:
    """Tells one daemon of the sign-ins of one console."""

    def __init__(self, daemon: Daemon, signins: SignIns) -> None:
        self._daemon, self._signins = daemon, signins

    async def run(self) -> None:
        """Tell and listen until cancelled."""
        while True:
            try:
                async with self._daemon.stream("", "", "sign-ins-join") as stream:
                    await self._joined(stream)
            except ControlError as error:
                _log.debug("nobody hears who is signed in", why=str(error))
            await trio.sleep(AGAIN_S)

    async def _joined(self, stream: Stream) -> None:
        """Serve one stream until it ends. Raises ControlError."""
        name = str((await stream.receive())["console"])
        wrong: list[ControlError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, stream, wrong, nursery.cancel_scope)
            nursery.start_soon(self._tell, name, wrong, nursery.cancel_scope)
        raise wrong[0]

    async def _listen(self, stream: Stream, wrong: list[ControlError], scope: trio.CancelScope) -> None:
        try:
            while True:
                for number in (await stream.receive()).get("sign_out", ()):
                    if user := self._signins.end_by(str(number)):
                        _log.info("signed out by an operator", user=user)
        except ControlError as error:
            wrong.append(error)
            scope.cancel()

    async def _tell(self, name: str, wrong: list[ControlError], scope: trio.CancelScope) -> None:
        try:
            while True:
                changed = self._signins.changed
                await self._daemon.call("", "", "sign-ins-tell", console=name, rows=self._rows())
                with trio.move_on_after(TELL_S):
                    await changed.wait()
        except ControlError as error:
            wrong.append(error)
            scope.cancel()

    def _rows(self) -> list[dict[str, object]]:
        now = time.time()
        return [
            {
                "number": number,
                "user": one.user,
                "address": one.source,
                "agent": one.agent[:AGENT],
                "began_at": now - self._signins.age(one.began),
                "seen_at": now - self._signins.age(one.seen),
            }
            for number, one in self._signins.all().items()
        ]
