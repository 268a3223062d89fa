"""Replay: a recording's records, in order, for whoever holds an identity that opens it.

Rule 1: it runs in the operator's own process; the daemon has no identity and never imports this.
Rule 2: whatever is there is shown: live, torn and recovered recordings read alike, and `damage` says what is missing.
Rule 3: a frame is decrypted only when its chain fits; a frame that fits and does not open raises, it is never skipped.
Rule 4: memory holds one frame's records, however long the session was; a start in the middle reads nothing before the
        place where decoding can start.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from proxyd.errors import ConfigError, FormatError
from proxyd.recorder import manifest as manifests
from proxyd.recorder import sidecar, store
from proxyd.recorder.keys import OTHERS_MAY_READ, WrappedKey, read_identities, unwrap
from proxyd.recorder.layout import FrameType, SegmentHeader
from proxyd.recorder.manifest import Manifest, SegmentEntry
from proxyd.recorder.pieces import Pieces, read_header_from
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.segment import BlockDecoder
from proxyd.recorder.sidecar import Keyframes, Sidecar
from proxyd.recorder.source import File, Folder, Source


@dataclass(frozen=True, slots=True)
class _Part:
    """One segment; where the manifest lists it, its file is not opened before it is read."""

    number: int
    file: File
    start_ms: int
    limit: int | None  # where storage failed under it: what counts ends there

    def header(self) -> SegmentHeader:
        """Read its header. Raises FormatError."""
        try:
            with self.file.open("rb") as file:
                return read_header_from(file)[0]
        except OSError as error:
            raise FormatError(f"a segment can't be read: {error.strerror}") from error


class Recording:
    """One recording, opened; `damage` says what is known to be missing or altered so far, or is None."""

    def __init__(self, source: Source, open_key: Callable[[Sequence[WrappedKey]], bytes]) -> None:
        """Read the recording that `source` has; use `open` instead, which knows where keys come from."""
        self.path = source.path
        self.damage: str | None = None
        self._source = source
        self._open_key = open_key
        self._deks: dict[tuple[WrappedKey, ...], bytes] = {}
        self.manifest = self._read_manifest()
        self._parts = self._find_parts()
        first = self._first_header()
        self._keys = first.keys
        self.started_at = first.wall_ns / 1e9 - first.start_ms / 1e3
        self.duration_us = self._last_ms() * 1000
        self.meta: Mapping[str, Any] = self._read_meta()

    @classmethod
    def open(
        cls, path: Path | Source, identity: str | Path | None = None, *, dek: bytes | None = None
    ) -> Self:
        """Open the recording in directory `path`, or elsewhere, with an age identity file (0600), or with its data key.

        Raises ConfigError for the identity file, FormatError when it does not open this recording or there is none.
        """
        source = Folder(path) if isinstance(path, Path) else path
        if dek is not None:
            given = dek
            return cls(source, lambda _wrapped: given)
        if identity is None:
            raise ConfigError("a recording opens only with an identity file")
        identities = read_identities(_read_private(Path(identity)))
        return cls(source, lambda wrapped: unwrap(wrapped, identities))

    def records(self, start_us: int = 0) -> Iterator[Record]:
        """Yield the records at or after session time `start_us`, in order, to the end of what is there.

        Raises FormatError when the key does not fit. A live recording is read as far as it is on disk.
        """
        before: bytes | None = None
        for part, follower in zip(self._parts, [*self._parts[1:], None], strict=True):
            # A segment's last record may share a millisecond with the next one's beginning.
            if follower and (follower.start_ms + 1) * 1000 <= start_us:
                continue
            before = yield from self._records_of(part, start_us, before)

    def _records_of(
        self, part: _Part, start_us: int, before: bytes | None
    ) -> Generator[Record, None, bytes | None]:
        """Yield one segment's records; gives the chain behind it, None when it is no segment."""
        try:
            with part.file.open("rb") as file:
                try:
                    pieces = Pieces(file, part.limit)
                except FormatError as error:
                    self._damaged(f"{part.file.name}: {error}")
                    return None
                self._check_place(part, pieces.header, before)
                decoder = BlockDecoder(pieces.header, self._dek(pieces.header.keys))
                for frame, raw in pieces.frames(start_us):
                    if frame.type is FrameType.EVENTS:
                        for record in decoder.records(frame, raw):
                            if record.at_us >= start_us:
                                yield record
        except OSError as error:
            raise FormatError(f"{part.file.name} can't be read: {error.strerror}") from error
        if pieces.problem:
            self._damaged(f"{part.file.name}: {pieces.problem}")
        return pieces.chain

    def _check_place(self, part: _Part, header: SegmentHeader, before: bytes | None) -> None:
        if before is not None and before != header.prev_chain:
            self._damaged(f"{part.file.name}: what stands before it is missing or altered")
        if (header.number, header.start_ms) != (part.number, part.start_ms):
            self._damaged(f"{part.file.name}: it is another segment than the manifest says")

    def sidecar(self) -> Sidecar:
        """Open what was derived of it; raises FormatError when that is not there, damaged, or another's."""
        return Sidecar(self._source.file(sidecar.NAME), self.path.name, self.dek)

    @property
    def files(self) -> Mapping[str, int]:
        """Give the sizes of its files, by name."""
        return self._source.sizes()

    def keyframes(self) -> Keyframes:
        """Open what there is to seek by: of a session that lives, and where no index is whole, what is aside so far.

        Raises FormatError.
        """
        try:
            return self.sidecar()
        except FormatError:
            aside = self._source.file(sidecar.NAME + sidecar.ASIDE)
            if self.files.get(sidecar.NAME + sidecar.ASIDE):
                return Keyframes(aside, self.path.name, self.dek)
            raise

    @property
    def dek(self) -> bytes:
        """Give the data key; raises FormatError."""
        return self._dek(self._keys)

    def _read_manifest(self) -> Manifest | None:
        try:
            return read_manifest(self._source)
        except FormatError as error:
            self._damaged(str(error))
            return None

    def _find_parts(self) -> list[_Part]:
        # Nobody has checked the manifest's signature here: what is no number in it says nothing.
        entries = self.manifest.segments if self.manifest else ()
        listed = {one.number: one for one in entries if all(type(number) is int for number in one[:6])}
        parts: dict[int, _Part] = {}
        for name in segments_of(self._source):
            try:
                part = self._part(name, listed)
            except FormatError as error:
                self._damaged(f"{name}: {error}")
                continue
            parts[part.number] = part
        there = sorted(parts)
        gaps = [place for place, number in enumerate(there) if place != number]
        for number in [*gaps[:1], *(number for number in sorted(listed) if number not in parts)]:
            self._damaged(f"segment {number} is missing")
        return [parts[number] for number in there]

    def _part(self, name: str, listed: Mapping[int, SegmentEntry]) -> _Part:
        """Place a segment: as the manifest lists it, else as its header says. Raises FormatError."""
        file = self._source.file(name)
        entry = listed.get(int(name.removesuffix(store.SUFFIX)))
        if entry is not None:
            return _Part(entry.number, file, entry.start_ms, None if entry.sealed else entry.size)
        header = _Part(0, file, 0, None).header()
        return _Part(header.number, file, header.start_ms, None)

    def _first_header(self) -> SegmentHeader:
        """Read the first header there is; what is none is no part. Raises FormatError."""
        while self._parts:
            try:
                return self._parts[0].header()
            except FormatError as error:
                self._damaged(f"{self._parts.pop(0).file.name}: {error}")
        raise FormatError(f"{self.path} holds no segment that can be read")

    def _last_ms(self) -> int:
        """Give the session time of the last record that is there. Raises FormatError."""
        part = self._parts[-1]
        try:
            with part.file.open("rb") as file:
                return Pieces(file, part.limit).t1_ms()
        except OSError as error:
            raise FormatError(f"{part.file.name} can't be read: {error.strerror}") from error

    def _read_meta(self) -> Mapping[str, Any]:
        for record in self.records():
            if record.kind is Kind.META and isinstance(record.body, dict):
                return record.body
            break
        self._damaged("the beginning, which says whose session it was, is missing")
        return self.manifest.meta if self.manifest else {}

    def _dek(self, keys: tuple[WrappedKey, ...]) -> bytes:
        if keys not in self._deks:
            self._deks[keys] = self._open_key(keys)
        return self._deks[keys]

    def _damaged(self, text: str) -> None:
        self.damage = self.damage or text


def segments_of(source: Source) -> list[str]:
    """List the names of a recording's segments, first to last."""
    return sorted(name for name in source.sizes() if store.is_segment(name))


def read_manifest(source: Source) -> Manifest:
    """Read a recording's manifest; raises FormatError, also when there is none."""
    try:
        with source.file(manifests.NAME).open("rb") as file:
            return manifests.decode(file.read())
    except OSError as error:
        raise FormatError(f"a manifest can't be read: {error.strerror}") from error


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
