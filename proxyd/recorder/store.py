"""Where recordings lie on a local disk, and the few ways a file there may be touched.

    <root>/yyyy/mm/dd/<session id>/manifest.json     UTC date of the session's start; directories 0700, files 0600
                                   NNNNNN.pxr        segments, from 000000
                                   NNNNNN.pxr.torn   what recovery cut off a segment's end
    <root>/open/<session id>                         one empty file per recording not sealed yet: what recovery reads

Rule 1: segments are made exclusively and only appended to; the one exception cuts a torn frame off an end.
Rule 2: a new name is on disk (its directory synced) before anything is said about it.
Rule 3: what a short or failed write left over is kept and written before anything else: a frame is never
        encrypted twice and never torn in the middle of a file that goes on.
Rule 4: a failed sync is final for that file; nobody knows any more what of it is on disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from proxyd.errors import FormatError, RecordingFailed
from proxyd.recorder import manifest as manifests
from proxyd.recorder.manifest import Manifest

SUFFIX = ".pxr"
TORN = ".torn"
OPEN = "open"
FOLDERS = 4  # of a recording's path below the root: year, month, day, session
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # a session id is a file name here: no dots, no slashes
_SEGMENT = re.compile(rf"[0-9]{{6}}{re.escape(SUFFIX)}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def folder_of(root: Path, session: str, started_ns: int) -> Path:
    """Give a recording's directory; raises ValueError when the id can't be a file name."""
    if not _NAME.fullmatch(session):
        raise ValueError("a session id is made of 1 to 64 letters, digits, - and _")
    day = datetime.fromtimestamp(started_ns / 1e9, UTC)
    return root / f"{day:%Y}" / f"{day:%m}" / f"{day:%d}" / session


def segment_path(folder: Path, number: int) -> Path:
    """Give the path of a segment."""
    return folder / f"{number:06d}{SUFFIX}"


def segments(folder: Path) -> list[Path]:
    """List a recording's segments, first to last."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if is_segment(path.name))


def is_segment(name: str) -> bool:
    """Say whether a file's name is a segment's."""
    return _SEGMENT.fullmatch(name) is not None


def is_full(error: OSError) -> bool:
    """Say whether storage has no room, which may change, rather than being broken."""
    return error.errno in _FULL


@contextmanager
def claim(root: Path) -> Iterator[None]:
    """Hold a store for this process alone; raises RecordingFailed when another has it, or it can't be used."""
    fd = -1
    try:
        root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        make_directory(root / OPEN, root)
        fd = os.open(root / OPEN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        if isinstance(error, BlockingIOError):
            raise RecordingFailed(f"another proxyd records to {root}") from None
        raise RecordingFailed(f"recordings can't be kept in {root}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(fd)


def free_bytes(root: Path) -> int:
    """Give the bytes an unprivileged process may still write; raises OSError."""
    place = os.statvfs(root)
    return place.f_bavail * place.f_frsize


def sync_directory(path: Path) -> None:
    """Make a directory's names durable; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, root: Path) -> None:
    """Make `path` and what is missing between it and `root`, durably; raises OSError."""
    missing = [path, *path.parents][: len(path.relative_to(root).parts)]
    for place in reversed(missing):
        try:
            place.mkdir(mode=DIRECTORY_MODE)
        except FileExistsError:
            continue
        sync_directory(place.parent)


def mark_open(root: Path, session: str) -> None:
    """Note, durably, that a recording begins; raises OSError."""
    make_directory(root / OPEN, root)
    fd = os.open(root / OPEN / session, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    os.close(fd)
    sync_directory(root / OPEN)


def unmark_open(root: Path, session: str) -> None:
    """Note that a recording is sealed; raises OSError. Not synced: recovery finds a sealed one and unmarks it."""
    (root / OPEN / session).unlink(missing_ok=True)


def marked_open(root: Path) -> list[str]:
    """List the recordings that began and were not sealed."""
    try:
        return sorted(path.name for path in (root / OPEN).iterdir())
    except FileNotFoundError:
        return []


def find(root: Path, session: str) -> Path | None:
    """Find a recording's directory by its id alone, newest day first; None when there is none."""
    return next(iter(sorted(root.glob(f"[0-9]*/[0-9]*/[0-9]*/{session}"), reverse=True)), None)


def recordings(root: Path) -> Iterator[Path]:
    """Yield the directory of every recording below `root`, oldest day first."""
    found = (path for path in root.glob("[0-9]*/[0-9]*/[0-9]*/*") if _NAME.fullmatch(path.name))
    yield from sorted(path for path in found if path.is_dir())


def read_manifest(folder: Path) -> Manifest:
    """Read a recording's manifest; raises FormatError, also when there is none."""
    try:
        return manifests.decode((folder / manifests.NAME).read_bytes())
    except OSError as error:
        raise FormatError(f"a manifest can't be read: {error.strerror}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put a signed manifest in place, whole and durable; raises OSError."""
    aside = folder / (manifests.NAME + ".new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        rest = manifest.encode()
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    aside.rename(folder / manifests.NAME)
    sync_directory(folder)


class SegmentFile:
    """One segment's file, appended to. Not thread-safe."""

    __slots__ = ("_fd", "_left", "dirty", "path", "size")

    def __init__(self, path: Path) -> None:
        """Make the file, which must not exist; raises OSError. Its directory is not synced yet."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, FILE_MODE)
        self._left = b""  # what the last write could not take
        self.path = path
        self.size = 0  # bytes in the file
        self.dirty = False

    @property
    def whole(self) -> bool:
        """Say whether everything appended is in the file."""
        return not self._left

    def append(self, data: bytes) -> None:
        """Write all of it; raises OSError, and then keeps what is left for the next `push`."""
        self._left = self._left + data if self._left else data
        self.push()

    def push(self) -> None:
        """Write what an earlier write left over; raises OSError."""
        while self._left:
            written = os.write(self._fd, self._left)
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.size += written
            self.dirty = True
            self._left = self._left[written:]

    def sync(self) -> None:
        """Wait until everything in the file is on disk; raises OSError, once and for all (rule 4)."""
        self.dirty = False
        os.fdatasync(self._fd)

    def cut(self, size: int) -> None:
        """Take a torn frame off the end again; raises OSError."""
        os.ftruncate(self._fd, size)
        self.size, self._left = size, b""

    def close(self) -> None:
        """Close; what is not synced may be lost with the power."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
