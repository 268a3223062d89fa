"""The control socket seen from the console: requests for a signed-in person, on trio.

Rule 1: every request names the person it is for; what they may do the daemon decides, each time.
Rule 2: a request is a connection of its own, as with `proxyctl`; a stream ends when its block is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from proxyd.control.client import (
    ANSWER_LIMIT,
    ANSWER_SECONDS,
    READ_BYTES,
    REQUEST_ID,
    REQUEST_LIMIT,
    Code,
    ControlError,
    Frames,
    answer_of,
    pack_frame,
)


class Stream:
    """A running command's frames, one after the other; `receive` raises ControlError when the daemon refuses or goes."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self._connection = connection
        self._frames, self._waiting = Frames(ANSWER_LIMIT), deque[dict[str, Any]]()

    async def receive(self) -> dict[str, Any]:
        """Wait for the next frame."""
        while not self._waiting:
            try:
                data = bytes(await self._connection.receive_some(READ_BYTES))
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise ControlError(Code.UNREACHABLE, "the daemon has stopped, or closed the connection")
            self._waiting.extend(self._frames.feed(data))
        message = self._waiting.popleft()
        if "error" in message:
            answer_of(message)
        return message


class Daemon:
    """Asks the daemon behind one control socket."""

    def __init__(self, path: Path, *, deadline_s: float = ANSWER_SECONDS) -> None:
        self.path = path
        self._deadline_s = deadline_s

    async def call(self, person: str, address: str, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Ask one command for a person at an IP address and wait for its answer. Raises ControlError."""
        with trio.move_on_after(self._deadline_s):
            async with self.stream(person, address, name, **arguments) as stream:
                return answer_of(await stream.receive())
        raise ControlError(Code.TIMEOUT, f"the daemon did not answer within {self._deadline_s:g} s")

    @asynccontextmanager
    async def stream(
        self, person: str, address: str, name: str, /, **arguments: Any
    ) -> AsyncIterator[Stream]:
        """Ask a command that answers for as long as it runs. Raises ControlError."""
        request = {
            "id": REQUEST_ID,
            "command": name,
            "arguments": arguments,
            "as": person,
            "address": address,
        }
        async with await self._connect() as connection:
            with suppress(trio.BrokenResourceError):  # who is refused is answered before they are read
                await connection.send_all(pack_frame(request, REQUEST_LIMIT))
            yield Stream(connection)

    async def _connect(self) -> trio.SocketStream:
        try:
            return await trio.open_unix_socket(str(self.path))
        except OSError as error:
            text = f"the daemon can't be reached: {error.strerror or error}"
            raise ControlError(Code.UNREACHABLE, text) from None
