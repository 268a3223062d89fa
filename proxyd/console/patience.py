"""A browser's connection that is given up when nothing moves on it, in either direction.

anycorn's own deadline counts what comes only, and a browser that takes a file says nothing until it has it.
"""

from __future__ import annotations

from typing import Any, Final

import trio

READ_SECONDS: Final = 120.0  # without a byte either way; a live view answers pings


class Patient:
    """A connection of anycorn's, as that uses it."""

    def __init__(self, stream: Any, seconds: float = READ_SECONDS) -> None:
        self._stream, self._seconds = stream, seconds
        self._sent = trio.current_time()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, data: bytes) -> None:
        """Send it all."""
        await self._stream.send(data)
        self._sent = trio.current_time()

    async def receive(self, size: int) -> bytes:
        """Wait for bytes. Raises TimeoutError when for so long nothing came, and nothing went."""
        began = trio.current_time()
        while True:
            deadline = max(began, self._sent) + self._seconds
            if trio.current_time() >= deadline:
                raise TimeoutError
            with trio.CancelScope(deadline=deadline):
                return bytes(await self._stream.receive(size))
