"""A store of recordings elsewhere, named by a URL: a directory, S3 and what speaks its language, Google's, Azure's.

Rule 1: an object is written once and never over: what is there already must be the same bytes, or it is a Conflict.
        What is derived, and so no evidence, may be written over.
Rule 2: an object is there whole or not at all; it is acknowledged when `put` returns.
Rule 3: everything waits for the network: call it through `trio.to_thread`. What goes wrong is a StoreError, without any
        secret.

Keys are the recordings' paths below their directory: yyyy/mm/dd/<session id>/<file>.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import from_url

from proxyd.errors import ProxydError

TIMEOUT: Final = timedelta(seconds=60)  # of one request: a segment of 16 MiB at 2.2 Mbit/s
RETRIES: Final = 2  # within one call; the caller tries again, and says so
MESSAGE_SHOWN: Final = 200  # characters of what a store says: the rest repeats the request
CHUNK: Final = 1 << 20


_WRONG: Final = (BaseError, OSError)  # what is not found, or not allowed, is Python's own


class StoreError(ProxydError):
    """The store refused, or could not be reached."""


class Conflict(StoreError):
    """The store has other bytes under a name: of this file there is nothing more to be tried."""


class Object(NamedTuple):
    """Something the store has."""

    key: str
    size: int


class Remote:
    """One store; `options` are those of its kind, as `endpoint` and `region` of S3's."""

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        """Make it ready; nothing is asked yet. Raises StoreError for a URL or an option that is of no use."""
        self.url = url
        local = url.startswith("file:")
        settings: dict[str, Any] = {"mkdir": True} if local else _patience(options.get("endpoint", ""))
        settings |= options
        try:
            self._store = from_url(url, **settings)
        except (*_WRONG, ValueError, TypeError) as error:
            raise StoreError(f"the store {url} can't be used: {_told(error)}") from None

    def put(self, key: str, path: Path, *, derived: bool = False) -> int:
        """Write a file as an object; gives its size. Raises StoreError, Conflict when other bytes are there; OSError."""
        with path.open("rb") as file:  # what is wrong here must not look like the store's
            size = os.fstat(file.fileno()).st_size
        try:
            obstore.put(self._store, key, path, mode="overwrite" if derived else "create")
        except AlreadyExistsError:
            self._must_be(key, path)
        except _WRONG as error:
            raise StoreError(f"{key} can't be stored: {_told(error)}") from None
        return size

    def _must_be(self, key: str, path: Path) -> None:
        """Raise Conflict unless the object is the file (rule 1): a crash came between a put and its note."""
        with path.open("rb") as file:
            ours = hashlib.file_digest(file, "sha256").digest()
        theirs = hashlib.sha256()
        for piece in self.read(key):
            theirs.update(piece)
        if theirs.digest() != ours:
            raise Conflict(f"{key} is in the store with other bytes; nothing was written over it")

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Give an object's bytes, or `length` of them from `start`, in pieces. Raises StoreError."""
        try:
            if length is not None:
                piece = bytes(obstore.get_range(self._store, key, start=start, length=length))
                if len(piece) != length:
                    raise StoreError(f"{key} can't be read: {len(piece)} bytes came instead of {length}")
                yield piece
                return
            for piece in obstore.get(self._store, key).stream(min_chunk_size=CHUNK):
                yield bytes(piece)
        except _WRONG as error:
            raise StoreError(f"{key} can't be read: {_told(error)}") from None

    def objects(self, prefix: str = "") -> Iterator[Object]:
        """Give all objects below a prefix. Raises StoreError."""
        try:
            for batch in obstore.list(self._store, prefix=prefix or None):
                for found in batch:
                    yield Object(found["path"], found["size"])
        except _WRONG as error:
            raise StoreError(f"the store can't be listed: {_told(error)}") from None

    def delete(self, prefix: str) -> int:
        """Delete all below a prefix, which ends at a whole name; gives how many. Raises StoreError."""
        count = 0
        for found in self.objects(prefix):
            try:
                obstore.delete(self._store, found.key)
            except (NotFoundError, FileNotFoundError):
                continue
            except _WRONG as error:
                raise StoreError(f"{found.key} can't be deleted: {_told(error)}") from None
            count += 1
        return count


def _patience(endpoint: str) -> dict[str, Any]:
    client = {"timeout": TIMEOUT, "allow_http": endpoint.startswith("http://")}
    return {
        "client_options": client,
        "retry_config": {"max_retries": RETRIES, "retry_timeout": TIMEOUT},
    }


def _told(error: Exception) -> str:
    """Give the first line of what went wrong, cut: what follows repeats requests."""
    return str(error).strip().partition("\n")[0][:MESSAGE_SHOWN]
