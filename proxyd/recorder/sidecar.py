"""The index sidecar: what was derived from one recording, encrypted beside it. Format PXI1.

Byte by byte, little-endian::

    sidecar := header frame* END trailer
    header  := "PXI1" | u16 version=1 | u32 length | map
       map  =  msgpack {session: str, derived: what the content is a version of, salt: bytes16}
    frame   := head(24) | payload
       head =  u32 payload length | u8 type | 3 bytes of zero | u64 at_us (session time of what is inside) | u64 frame number
               payload is AES-256-GCM, nonce = 4 bytes of zero | u64 frame number, AAD = SHA-256(header) | head,
               key = HKDF-SHA-256(the recording's data key, salt, "proxyd PXI1" | NUL | session id in UTF-8)
    payload by type:
       1 ITEMS       zstd of msgpack [[kind, at_us, body], ...]
       2 KEYFRAME    msgpack [kind, at_us, body] of one of KEYFRAMES, which are compressed already
       3 END         msgpack [[offset, at_us], ...] of the keyframes: the last frame
    trailer := "PXIE" | u64 offset of END

Rule 1: it is never evidence: nothing verifies it, nothing is lost with it; the recording makes it anew, with equal content.
Rule 2: each file has a salt, so a key, of its own: no nonce meets another text, however often a sidecar is made anew.
Rule 3: it is written aside and gets its name with its END: a file of that name that does not read whole is damaged. What is
        aside, of a session that lives or whose indexer was killed, is good for seeking as far as it goes.
Rule 4: what is in it came from a process that reads hostile bytes: readers believe it nothing but shapes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgpack
import msgspec
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxyd.errors import FormatError
from proxyd.recorder.source import File
from proxyd.recorder.store import FILE_MODE

NAME: Final = "index.pxi"
ASIDE: Final = ".new"
MAGIC: Final = b"PXI1"
VERSION: Final = 1
DERIVED: Final = 3  # what is derived, and how: another number makes every sidecar be made anew
SALT: Final = 16
MAX_HEADER: Final = 4096  # a session id and a salt
MAX_PAYLOAD: Final = 1 << 27  # of a frame: the largest desktop as pixels; more is a damaged length
MAX_ITEMS: Final = 1 << 26  # bytes of items when they are no more compressed
ITEMS_BYTES: Final = 64 << 10  # small items are written together, about so many bytes of them

_FAST: Final = 1  # level of zstd: 1080p of text in 20 ms and 50 KiB
_PREFIX = struct.Struct("<4sHI")
_HEAD = struct.Struct("<IB3xQQ")
_NONCE = struct.Struct("<4xQ")
_TRAILER = struct.Struct("<4sQ")
_TRAILER_MAGIC: Final = b"PXIE"
_INFO: Final = b"proxyd PXI1\0"
_TAG: Final = 16


class FrameType(IntEnum):
    """What a frame holds."""

    ITEMS = 1
    KEYFRAME = 2
    END = 3


class Derived(IntEnum):
    """What an item is; the comment gives its body. A kind is never renumbered."""

    KEYFRAME = 1  # map: see Keyframe
    TYPED = 2  # [refused: bool, text: str]: a line that was typed; of terminals [False, text, channel], text "" if unseen
    HEAT = 3  # [input, output, findings]: bytes (of databases: bytes of statements, rows), in the second from at_us on
    SOUND = 4  # [stream, end_us, rate, channels, bits]: sound from at_us to end_us
    SUMMARY = 5  # map: {seq, faults}: the last item; how much was read, and how much of it could not be
    TERMINAL = 6  # map: see Keyframe; of terminals
    COMMAND = 7  # map: {line, ended_us, exit: int or None, channel}: what ran in a terminal from at_us on
    TEXT = 8  # [source, text]: what search finds, seen at at_us; source: one of SOURCES
    CUT = 9  # [seq, stage, filter, rest]: a piece of a terminal's recording begins at record seq; see proxyd.cuts
    LOG = 10  # [channel, kind, text]: a line of the log that a record tells by itself


KEYFRAMES: Final = frozenset({Derived.KEYFRAME, Derived.TERMINAL})
SOURCES: Final = ("screen", "command", "sql", "keys", "title", "transfer", "finding")  # where a TEXT was seen


class Item(NamedTuple):
    """One thing that was derived; `at_us`: microseconds since the session began."""

    kind: int
    at_us: int
    body: Any


class Keyframe(msgspec.Struct, frozen=True):
    """The screen behind record `seq`: `rgb` is zstd of width * height * 3 bytes, empty of terminals, whose size is in cells.

    `saved`: zstd of what a decoder needs to go on from here; empty where it can only begin at the session's beginning.
    """

    at_us: int
    seq: int
    width: int
    height: int
    rgb: bytes
    saved: bytes

    def picture(self) -> bytes:
        """Give the pixels: red, green, blue, the top row first. Raises FormatError."""
        return inflated(self.rgb, self.width * self.height * 3)

    def state(self) -> bytes:
        """Give what `saved` holds; raises FormatError."""
        return _decompressed(self.saved)


def packed(data: bytes) -> bytes:
    """Compress pixels, or a state, as readers here take them."""
    return zstandard.ZstdCompressor(level=_FAST).compress(data)


def inflated(data: bytes, size: int) -> bytes:
    """Decompress what must be `size` bytes; raises FormatError."""
    if not 0 < size <= MAX_PAYLOAD * 4:
        raise FormatError("an index has a picture of an impossible size")
    try:
        whole = _unzipped(data, size)
    except zstandard.ZstdError:
        raise FormatError("an index has a picture that can't be read") from None
    if len(whole) != size:
        raise FormatError("an index has a picture of another size than it says")
    return whole


def _unzipped(data: bytes, most: int) -> bytes:
    """Decompress one frame to so many bytes at most, whatever length its header names; raises ZstdError."""
    if zstandard.frame_content_size(data) > most:  # zstandard would allocate that, and ask no limit
        raise zstandard.ZstdError("longer than it may be")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=most, allow_extra_data=False)


def keyframe_of(item: Item) -> Keyframe:
    """Read a keyframe's item; raises FormatError."""
    try:
        body = dict(item.body)
        return msgspec.convert(body | {"at_us": item.at_us}, Keyframe, builtin_types=(bytes,))
    except (TypeError, ValueError, msgspec.ValidationError):
        raise FormatError("an index has a keyframe that can't be read") from None


def path_of(folder: Path) -> Path:
    """Give the path of a recording's sidecar."""
    return folder / NAME


def remove(folder: Path) -> None:
    """Remove a recording's sidecar, and what is left of one that was not finished; raises OSError."""
    path = path_of(folder)
    path.unlink(missing_ok=True)
    path.with_name(NAME + ASIDE).unlink(missing_ok=True)


def _key(dek: bytes, salt: bytes, session: str) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt, _INFO + session.encode()).derive(dek))


class Writer:
    """Writes one sidecar aside; `finish` gives it its name, `abandon` removes it. Worker threads, one at a time."""

    def __init__(self, folder: Path, session: str, dek: bytes) -> None:
        """Begin; replaces what was begun before. Raises OSError."""
        self._path = path_of(folder)
        self._aside = self._path.with_name(NAME + ASIDE)
        salt = os.urandom(SALT)
        packed: bytes = msgpack.packb({"session": session, "derived": DERIVED, "salt": salt})
        header = _PREFIX.pack(MAGIC, VERSION, len(packed)) + packed
        self._aead, self._bound = _key(dek, salt, session), sha256(header).digest()
        self._number, self._offset = 0, 0
        self._keyframes: list[tuple[int, int]] = []
        self._held: list[Item] = []
        self._held_bytes = 0
        self._aside.unlink(missing_ok=True)
        fd = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        self._file = FileIO(
            fd, "w"
        )  # frames are written whole: a buffer would be as large as all else an idle session has here
        self._write(header)
        self._file.flush()

    @property
    def size(self) -> int:
        """Give the bytes written so far."""
        return self._offset

    def add(self, items: Sequence[Item]) -> None:
        """Write what was derived, in order; raises OSError, and FormatError for what no reader would take."""
        for item in items:
            if item.kind in KEYFRAMES:
                self._flush()
                keyframe_of(item)
                self._keyframes.append((self._offset, item.at_us))
                self._frame(FrameType.KEYFRAME, item.at_us, msgpack.packb(item))
                self._file.flush()  # for who seeks in what is live
                continue
            self._held.append(item)
            self._held_bytes += len(msgpack.packb(item))
            if self._held_bytes >= ITEMS_BYTES:
                self._flush()

    def finish(self) -> None:
        """Write the end, and give the file its name; raises OSError."""
        self._flush()
        at, end_us = self._offset, self._keyframes[-1][1] if self._keyframes else 0
        self._frame(FrameType.END, end_us, msgpack.packb(self._keyframes))
        self._write(_TRAILER.pack(_TRAILER_MAGIC, at))
        self._file.close()
        self._aside.rename(self._path)

    def abandon(self) -> None:
        """Remove what was written, unless it is finished; idempotent, never raises."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._aside.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._held:
            packed = zstandard.ZstdCompressor(level=3).compress(msgpack.packb(self._held))
            self._frame(FrameType.ITEMS, self._held[0].at_us, packed)
            self._held, self._held_bytes = [], 0

    def _frame(self, kind: FrameType, at_us: int, payload: bytes) -> None:
        if len(payload) + _TAG > MAX_PAYLOAD:
            raise FormatError("an index has a frame that is too long")
        head = _HEAD.pack(len(payload) + _TAG, kind, at_us, self._number)
        sealed = self._aead.encrypt(_NONCE.pack(self._number), payload, self._bound + head)
        self._number += 1
        self._write(head + sealed)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._offset += len(data)


class _Head(NamedTuple):
    length: int
    type: int
    at_us: int
    number: int


class Keyframes:
    """The keyframes of a sidecar, opened with its recording's data key; here, of one that may still be written aside."""

    def __init__(self, path: File, session: str, dek: bytes) -> None:
        """Open it; raises FormatError when it is damaged, another session's, or not there."""
        try:
            with path.open("rb") as file:
                self._begin(file, session, dek)
                self._table = self._places(file)
        except OSError as error:
            raise FormatError(f"{path.name} can't be read: {error.strerror}") from None
        self._path = path

    def _begin(self, file: IO[bytes], session: str, dek: bytes) -> None:
        header, fields = _read_header(file)
        if fields["session"] != session:
            raise FormatError(f"{NAME} is another session's")
        if fields.get("derived") != DERIVED:
            raise FormatError(f"{NAME} is of another version")
        self._aead, self._bound = _key(dek, fields["salt"], session), sha256(header).digest()
        self._first = len(header)

    def _places(self, file: IO[bytes]) -> list[tuple[int, int]]:
        """Find the keyframes by the heads of whole frames; what is false in one fails when it is read."""
        size, at = file.seek(0, os.SEEK_END), self._first
        found: list[tuple[int, int]] = []
        while at + _HEAD.size <= size:
            file.seek(at)
            head = _Head(*_HEAD.unpack(file.read(_HEAD.size)))
            end = at + _HEAD.size + head.length
            if end > size or not _TAG <= head.length <= MAX_PAYLOAD:
                break
            if head.type == FrameType.KEYFRAME:
                found.append((at, head.at_us))
            at = end
        return found

    @property
    def keyframes(self) -> list[int]:
        """Give the session times of the keyframes, in order."""
        return [at_us for _, at_us in self._table]

    def keyframe(self, at_us: int) -> Keyframe | None:
        """Give the last keyframe at or before a moment; None when there is none. Raises FormatError."""
        places = [offset for offset, when in self._table if when <= at_us]
        if not places:
            return None
        try:
            with self._path.open("rb") as file:
                head, payload = self._frame(file, places[-1])
        except OSError as error:
            raise FormatError(f"{NAME} can't be read: {error.strerror}") from None
        if head.type != FrameType.KEYFRAME:
            raise FormatError(f"{NAME} has another frame where a keyframe was")
        return keyframe_of(_item(_unpacked(payload)))

    def _head(self, file: IO[bytes], at: int) -> tuple[_Head, bytes]:
        file.seek(at)
        raw = file.read(_HEAD.size)
        if len(raw) < _HEAD.size:
            raise FormatError(f"{NAME} is cut short")
        head = _Head(*_HEAD.unpack(raw))
        if not _TAG <= head.length <= MAX_PAYLOAD:
            raise FormatError(f"{NAME} has a frame of an impossible length")
        return head, raw

    def _frame(self, file: IO[bytes], at: int) -> tuple[_Head, bytes]:
        head, raw = self._head(file, at)
        try:
            return head, self._aead.decrypt(
                _NONCE.pack(head.number), file.read(head.length), self._bound + raw
            )
        except InvalidTag:
            raise FormatError(f"{NAME} was altered, or is another recording's") from None


class Sidecar(Keyframes):
    """A sidecar that is whole; `keyframes` are the session times there are pictures of."""

    def _places(self, file: IO[bytes]) -> list[tuple[int, int]]:
        """Read the table of keyframes at its end (rule 3)."""
        size = file.seek(0, os.SEEK_END)
        if size < self._first + _TRAILER.size:
            raise FormatError(f"{NAME} is cut short")
        file.seek(size - _TRAILER.size)
        magic, at = _TRAILER.unpack(file.read(_TRAILER.size))
        if magic != _TRAILER_MAGIC or not self._first <= at < size:
            raise FormatError(f"{NAME} is cut short")
        head, payload = self._frame(file, at)
        if head.type != FrameType.END or at + _HEAD.size + head.length + _TRAILER.size != size:
            raise FormatError(f"{NAME} has no end")
        table = _unpacked(payload)
        if not isinstance(table, list) or not all(_is_place(entry) for entry in table):
            raise FormatError(f"{NAME} has no table of keyframes")
        self._end, self._frames = at, head.number
        return [(offset, at_us) for offset, at_us in table]

    def items(self, *, keyframes: bool = True) -> Iterator[Item]:
        """Yield all that was derived, in order, on wish without the keyframes: they are most of the file.

        Raises FormatError where the file is damaged.
        """
        with self._path.open("rb") as file:
            at = self._first
            for number in range(self._frames):
                head, _ = self._head(file, at)
                if head.type == FrameType.KEYFRAME and not keyframes and head.number == number:
                    at += _HEAD.size + head.length
                    continue
                head, payload = self._frame(file, at)
                if head.number != number:
                    raise FormatError(f"{NAME} has a frame in another's place")
                at += _HEAD.size + head.length
                if head.type == FrameType.KEYFRAME:
                    yield _item(_unpacked(payload))
                    continue
                for entry in _unpacked(_decompressed(payload)):
                    yield _item(entry)
            if at != self._end:
                raise FormatError(f"{NAME} has bytes too many")


def _read_header(file: IO[bytes]) -> tuple[bytes, dict[str, Any]]:
    raw = file.read(_PREFIX.size)
    if len(raw) < _PREFIX.size:
        raise FormatError(f"{NAME} is cut short")
    magic, version, length = _PREFIX.unpack(raw)
    if magic != MAGIC or version != VERSION or length > MAX_HEADER:
        raise FormatError(f"{NAME} does not begin like an index")
    packed = file.read(length)
    fields = _unpacked(packed)
    good = isinstance(fields, dict) and isinstance(fields.get("session"), str)
    if not good or not isinstance(fields.get("salt"), bytes):
        raise FormatError(f"{NAME} does not begin like an index")
    return raw + packed, fields


def _is_place(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)


def _unpacked(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):  # TypeError: a list as a key
        raise FormatError(f"{NAME} holds what can't be read") from None


def _decompressed(data: bytes) -> bytes:
    try:
        return _unzipped(data, MAX_ITEMS)
    except zstandard.ZstdError:
        raise FormatError(f"{NAME} holds what can't be read") from None


def _item(entry: Any) -> Item:
    try:
        kind, at_us, body = entry
    except (TypeError, ValueError):
        raise FormatError(f"{NAME} holds what is no item") from None
    if type(kind) is not int or type(at_us) is not int:
        raise FormatError(f"{NAME} holds what is no item")
    return Item(kind, at_us, body)
