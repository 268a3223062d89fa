"""Replay: a recording's records, in order, for whoever holds an identity that opens it.

Rule 1: it runs in the operator's own process; the daemon has no identity and never imports this.
Rule 2: whatever is there is shown: live, torn and recovered recordings read alike, and `damage` says what is missing.
Rule 3: a frame is decrypted only when its chain fits; a frame that fits and does not open raises, it is never skipped.
Rule 4: memory holds one segment's bytes and one block's records, however long the session was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from proxyd.errors import ConfigError, FormatError
from proxyd.recorder import sidecar, store
from proxyd.recorder.keys import OTHERS_MAY_READ, WrappedKey, read_identities, unwrap
from proxyd.recorder.layout import MAX_HEADER, SegmentHeader, read_header
from proxyd.recorder.manifest import Manifest
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.segment import Scan, SegmentReader, scan
from proxyd.recorder.sidecar import Sidecar

HEADER_ROOM = (
    64 * 1024
)  # read for a header at first: hundreds of recipients fit; a larger one is read again whole


@dataclass(frozen=True, slots=True)
class _Part:
    path: Path
    header: SegmentHeader
    limit: int | None  # where storage failed under it: what counts ends there

    def read(self) -> bytes:
        """Give its bytes. Raises FormatError."""
        try:
            return self.path.read_bytes()[: self.limit]
        except OSError as error:
            raise FormatError(f"{self.path.name} can't be read: {error.strerror}") from error


class Recording:
    """One recording, opened; `damage` says what is known to be missing or altered so far, or is None."""

    def __init__(self, path: Path, open_key: Callable[[Sequence[WrappedKey]], bytes]) -> None:
        """Read the recording in directory `path`; use `open` instead, which knows where keys come from."""
        self.path = path
        self.damage: str | None = None
        self._open_key = open_key
        self._deks: dict[tuple[WrappedKey, ...], bytes] = {}
        self.manifest = self._read_manifest()
        self._parts = self._find_parts()
        if not self._parts:
            raise FormatError(f"{path} holds no segment that can be read")
        first = self._parts[0].header
        self.started_at = first.wall_ns / 1e9 - first.start_ms / 1e3
        self.duration_us = scan(self._parts[-1].read()).t1_ms * 1000
        self.meta: Mapping[str, Any] = self._read_meta()

    @classmethod
    def open(cls, path: Path, identity: str | Path | None = None, *, dek: bytes | None = None) -> Self:
        """Open the recording in directory `path` with an age identity file (0600), or with its data key.

        Raises ConfigError for the identity file, FormatError when it does not open this recording or there is none.
        """
        if dek is not None:
            given = dek
            return cls(path, lambda _wrapped: given)
        if identity is None:
            raise ConfigError("a recording opens only with an identity file")
        identities = read_identities(_read_private(Path(identity)))
        return cls(path, lambda wrapped: unwrap(wrapped, identities))

    def records(self, start_us: int = 0) -> Iterator[Record]:
        """Yield the records at or after session time `start_us`, in order, to the end of what is there.

        Raises FormatError when the key does not fit. A live recording is read as far as it is on disk.
        """
        before: Scan | None = None
        for part, follower in zip(self._parts, [*self._parts[1:], None], strict=True):
            # A segment's last record may share a millisecond with the next one's beginning.
            if follower and (follower.header.start_ms + 1) * 1000 <= start_us:
                continue
            reader = SegmentReader(part.read(), self._dek(part.header))
            self._note(part, reader.scan, before)
            before = reader.scan
            yield from reader.records(start_us)

    def sidecar(self) -> Sidecar:
        """Open what was derived of it; raises FormatError when that is not there, damaged, or another's."""
        return Sidecar(sidecar.path_of(self.path), self.path.name, self.dek)

    @property
    def dek(self) -> bytes:
        """Give the data key; raises FormatError."""
        return self._dek(self._parts[0].header)

    def _read_manifest(self) -> Manifest | None:
        try:
            return store.read_manifest(self.path)
        except FormatError as error:
            self._damaged(str(error))
            return None

    def _find_parts(self) -> list[_Part]:
        # Nobody has checked the manifest's signature here: what is no number in it says nothing.
        entries = self.manifest.segments if self.manifest else ()
        listed = {one.number: one for one in entries if type(one.number) is type(one.size) is int}
        parts: dict[int, _Part] = {}
        for path in store.segments(self.path):
            try:
                header = read_header_of(path)
            except FormatError as error:
                self._damaged(f"{path.name}: {error}")
                continue
            entry = listed.get(header.number)
            parts[header.number] = _Part(path, header, entry.size if entry and not entry.sealed else None)
        there = sorted(parts)
        gaps = [place for place, number in enumerate(there) if place != number]
        for number in [*gaps[:1], *(number for number in sorted(listed) if number not in parts)]:
            self._damaged(f"segment {number} is missing")
        return [parts[number] for number in there]

    def _read_meta(self) -> Mapping[str, Any]:
        for record in self.records():
            if record.kind is Kind.META and isinstance(record.body, dict):
                return record.body
            break
        self._damaged("the beginning, which says whose session it was, is missing")
        return self.manifest.meta if self.manifest else {}

    def _dek(self, header: SegmentHeader) -> bytes:
        if header.keys not in self._deks:
            self._deks[header.keys] = self._open_key(header.keys)
        return self._deks[header.keys]

    def _note(self, part: _Part, found: Scan, before: Scan | None) -> None:
        if found.problem:
            self._damaged(f"{part.path.name}: {found.problem}")
        if before is not None and before.chain != found.header.prev_chain:
            self._damaged(f"{part.path.name}: what stands before it is missing or altered")

    def _damaged(self, text: str) -> None:
        self.damage = self.damage or text


def read_header_of(path: Path) -> SegmentHeader:
    """Read a segment file's header, and no more of it than that. Raises FormatError."""
    try:
        with path.open("rb") as file:
            data = file.read(HEADER_ROOM)
            try:
                return read_header(data)[0]
            except FormatError:
                if len(data) < HEADER_ROOM:
                    raise
            return read_header(data + file.read(MAX_HEADER))[0]
    except OSError as error:
        raise FormatError(f"a segment can't be read: {error.strerror}") from error


def _read_private(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & OTHERS_MAY_READ:
                raise ConfigError("the identity file can be read by others; make it 0600", path)
            return file.read().decode()
    except OSError as error:
        raise ConfigError(f"the identity file can't be read: {error.strerror}", path) from error
    except UnicodeDecodeError:
        raise ConfigError("the identity file is no text", path) from None
