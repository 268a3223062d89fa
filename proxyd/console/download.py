"""A file on its way to a browser: whole, or the range it asked for (RFC 9110, 14), a piece at a time, each allowed before.

Rule 1: a piece that may not be given ends the connection, so that who downloads sees that it is not whole.
Rule 2: one piece is in memory, however slow the browser is; the file is opened once, and not through a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxyd import log
from proxyd.control.client import Code, ControlError
from proxyd.control.fetching import RANGE_BYTES

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_log = log.get("console")


class Span(NamedTuple):
    """Bytes of a file, from `first` to before `end`."""

    first: int
    end: int


def span_of(asked: str, size: int, *, whole: bool = False) -> Span | None:
    """Give what a Range header asks for: all of it where there is none, or one this can't serve; None: it has nothing there.

    `whole`: the file is another than the one the browser has a part of.
    """
    match = _RANGE.fullmatch(asked.replace(" ", ""))
    if whole or match is None or match[0] == "bytes=-":
        return Span(0, size)
    first, last = match.groups()
    if not first:
        return Span(max(0, size - int(last)), size) if int(last) and size else None
    end = min(int(last) + 1, size) if last else size
    if last and int(last) < int(first):
        return Span(0, size)  # RFC 9110 14.1.1: such a range is no range
    return Span(int(first), end) if int(first) < size else None


class Download(Response):
    """The answer; `allowed` waits for leave for a piece and raises ControlError; None: nothing but headers is asked for."""

    def __init__(
        self,
        file: Path,
        span: Span,
        size: int,
        headers: Mapping[str, str],
        allowed: Callable[[int, int], Awaitable[None]] | None,
    ) -> None:
        part = span != Span(0, size)
        told = {**headers, "accept-ranges": "bytes", "content-length": str(span.end - span.first)}
        if part:
            told["content-range"] = f"bytes {span.first}-{span.end - 1}/{size}"
        super().__init__(None, 206 if part else 200, told)
        self.raw_headers = [(name.encode(), value.encode()) for name, value in told.items()]
        self._file, self._span, self._allowed = file, span, allowed

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if self._allowed is None:
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ControlError(Code.NOT_FOUND, f"its file can't be read: {error.strerror}") from None
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            await send(start)
            try:
                await self._send(file.fileno(), self._allowed, send)
            except (ControlError, OSError) as error:
                _log.warning("a download ended early", file=self._file.name, why=str(error))
                return
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, file: int, allowed: Callable[[int, int], Awaitable[None]], send: Send) -> None:
        at, end = self._span
        while at < end:
            length = min(RANGE_BYTES, end - at)
            await allowed(at, length)
            data = await trio.to_thread.run_sync(os.pread, file, length, at)
            if not data:
                raise OSError("it is shorter than it was")
            await send({"type": "http.response.body", "body": data, "more_body": True})
            at += len(data)
