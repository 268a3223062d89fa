"""Where a recording's files are read from: its directory here, or, piece by piece, from wherever somebody fetches them.

Rule 1: a source gives bytes and believes nothing: what they are worth say chain, signatures and key, as for any file.
Rule 2: of what is elsewhere only those pages come that are read; CACHE_PAGES of them are kept, the latest used.
Rule 3: who reads on gets several pages at once, who jumps gets one.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol, cast

from proxyd.errors import ProxydError

PAGE: Final = 256 << 10  # a seek reads one or two: half a minute of a desktop, hours of typing
AHEAD: Final = 4  # pages asked for at once by who reads on: 1 MiB an answer
CACHE_PAGES: Final = 32  # 8 MiB: going back and forth in what was just seen asks nobody

Fetch = Callable[[str, int, int], bytes]
"""Gives `length` bytes of a file from `start`: (file, start, length)."""


class FetchError(ProxydError):
    """What came is not what was asked for: the recording may be whole all the same."""


class File(Protocol):
    """A file that can be opened; a Path is one."""

    @property
    def name(self) -> str:
        """Its name in the recording."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Open it; raises OSError, or what fetching raises."""


class Source(Protocol):
    """One recording's files; `path` is the directory they are, or would be, in."""

    @property
    def path(self) -> Path:
        """Whose last part is the session's id."""

    def sizes(self) -> Mapping[str, int]:
        """Give the files there are."""

    def file(self, name: str) -> File:
        """Give one of them."""


class Folder:
    """A recording in a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sizes(self) -> Mapping[str, int]:
        """Give the files there are; none where there is no directory."""
        try:
            return {entry.name: entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file()}
        except OSError:
            return {}

    def file(self, name: str) -> File:
        """Give one of them."""
        return cast("File", self.path / name)


class Elsewhere:
    """A recording whose files are fetched page by page. Not thread-safe."""

    def __init__(self, path: Path, sizes: Mapping[str, int], fetch: Fetch) -> None:
        self.path = path
        self.fetched = 0  # bytes
        self._sizes = dict(sizes)
        self._fetch = fetch
        self._pages: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def sizes(self) -> Mapping[str, int]:
        """Give the files there are."""
        return self._sizes

    def file(self, name: str) -> File:
        """Give one of them."""
        return _Distant(self, name)

    def size_of(self, name: str) -> int:
        """Give a file's size; raises FileNotFoundError."""
        try:
            return self._sizes[name]
        except KeyError:
            raise FileNotFoundError(2, "No such file in the store", name) from None

    def page(self, name: str, number: int) -> bytes:
        """Give one page of a file. Raises FetchError, and what fetching raises."""
        wanted = (name, number)
        if wanted not in self._pages:
            self._get(name, number)
        self._pages.move_to_end(wanted)
        return self._pages[wanted]

    def _get(self, name: str, number: int) -> None:
        """Fetch a page, and those behind it for who has just read the one before (rule 3)."""
        reads_on = (name, number - 1) in self._pages
        start = number * PAGE
        length = min(PAGE * (AHEAD if reads_on else 1), self.size_of(name) - start)
        data = self._fetch(name, start, length)
        if len(data) != length:
            raise FetchError(f"{name} came from the store with {len(data)} bytes instead of {length}")
        self.fetched += length
        for at in range(0, length, PAGE):
            self._pages[name, number + at // PAGE] = data[at : at + PAGE]
        while len(self._pages) > CACHE_PAGES:
            self._pages.popitem(last=False)


class _Distant:
    """One file elsewhere."""

    def __init__(self, source: Elsewhere, name: str) -> None:
        self._source = source
        self.name = name

    def open(self, _mode: Literal["rb"], /) -> BinaryIO:
        return io.BufferedReader(_Raw(self._source, self.name))


class _Raw(io.RawIOBase):
    """Reads a file elsewhere at any place."""

    def __init__(self, source: Elsewhere, name: str) -> None:
        self._source, self._name, self._at = source, name, 0
        self._size = source.size_of(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        if self._at >= self._size:
            return 0
        number, within = divmod(self._at, PAGE)
        piece = self._source.page(self._name, number)[within : within + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
