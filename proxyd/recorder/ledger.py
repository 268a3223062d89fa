"""The ledger: one file a node, naming every recording sealed and everything done to one, in order, for good.

Rule 1: an entry is on disk before `append` returns; entries are only ever appended.
Rule 2: each entry holds the hash of the one before it and is signed: one changed, removed, added or moved shows.
Rule 3: a line is the one canonical JSON form of its entry, so that no byte of the file is free.
Rule 4: what kill -9 or power loss left torn is moved aside, never thrown away, and a `repaired` entry says so.
Rule 5: entries cut from the end show only against a head kept elsewhere: `head` is for that.
Rule 6: one process writes a ledger at a time; any number may read it meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from proxyd.errors import FormatError, ProxydError
from proxyd.recorder import store
from proxyd.recorder.keys import Signer, key_id, signed_by
from proxyd.recorder.ledger_index import INDEXED, LedgerIndex, Unindexed

DOMAIN = b"proxyd ledger entry\0"  # what is signed begins with it: a signature made elsewhere never fits here
FIRST = "0" * 64  # the hash before the first entry
LINE_LIMIT = 256 * 1024  # bytes of one entry: many times the longest reason anyone types
TAIL = 4 * LINE_LIMIT  # how far back from its end a torn ledger is searched for a whole entry
REPAIRED = "repaired"
STORED = "stored"  # a recording of which the store elsewhere has every file
PURGED = "purged"  # the tombstone of a recording
EXPORTED = "exported"  # a file that was made of a recording; the entry goes with it as its manifest
_PEM_END = b"-----END PUBLIC KEY-----\n"


class LedgerError(ProxydError):
    """The ledger can't be opened, or could not keep an entry."""


class Head(NamedTuple):
    """The last entry's number and hash; kept elsewhere, it proves later that nothing was cut."""

    n: int
    hash: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; `at` is seconds since 1970, `prev` and `hash` are hex SHA-256, `key` names who signed."""

    n: int
    at: float
    node: str
    kind: str
    fields: dict[str, Any]
    key: str
    prev: str
    hash: str
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What `verify` found; `bad` is the number of the first bad entry, `offset` the byte where it begins."""

    ok: bool
    text: str
    entries: int
    repairs: int
    head: Head
    bad: int | None = None
    offset: int | None = None


class LedgerReader:
    """Reads a node's ledger, also while the daemon writes it."""

    def __init__(self, path: Path, public_keys: Collection[Ed25519PublicKey] | None = None) -> None:
        """Read the ledger at `path`; `public_keys` are those trusted, by default the ones beside it."""
        self.path = path
        self._trusted = public_keys

    def entries(
        self,
        kind: str | Collection[str] = (),
        *,
        session: str = "",
        since: float = 0,
        after: int = 0,
        past_damage: bool = False,
    ) -> Iterator[Entry]:
        """Yield the entries of these kinds (empty: all) and this session, at or after `since`, numbered above `after`.

        Checks no chain and no signature: `verify` does. Raises FormatError for a line that is no entry, or passes
        over it with `past_damage`.
        """
        for entry in self._read((line for _, line in self._lines()), kind, session, past_damage=past_damage):
            if entry.at >= since and entry.n > after:
                yield entry

    def viewers(self, session: str, limit: int | None = None) -> list[Entry]:
        """Say who watched, replayed or exported a session, in order (mission M5); at most the newest `limit`."""
        found = self.entries(INDEXED, session=session)
        return list(found if limit is None else deque(found, limit))

    def _read(
        self, lines: Iterable[bytes], kind: str | Collection[str], session: str, *, past_damage: bool = False
    ) -> Iterator[Entry]:
        """Yield what these lines hold of these kinds and this session. Raises FormatError."""
        kinds = {kind} if isinstance(kind, str) and kind else set(kind)
        needle = session.encode()
        for line in lines:
            if needle not in line or not line.endswith(b"\n"):
                continue
            try:
                entry = _parse(line)
            except ValueError as error:
                if past_damage:
                    continue
                raise FormatError(f"the ledger {self.path} is damaged: {error}") from None
            if (not kinds or entry.kind in kinds) and session in ("", entry.fields.get("session")):
                yield entry

    def verify(self, known: Head | None = None) -> LedgerReport:
        """Check every line, link and signature, and that `known`, a head seen before, is still there.

        Needs the public keys only. Raises LedgerError when the files can't be read.
        """
        keys = {key_id(key).hex(): key for key in self.public_keys()}
        head, repairs, seen = Head(0, FIRST), 0, known is None or known.n == 0
        for offset, line in self._lines():
            try:
                entry = _parse(line)
                _check(entry, head, keys)
                if known and known.n == entry.n and known.hash != entry.hash:
                    raise ValueError(f"entry {entry.n} is not the one that was there")  # noqa: TRY301  joins the same report
            except ValueError as error:
                text = f"the ledger {self.path} is damaged at entry {head.n + 1}: {error}"
                return LedgerReport(False, text, head.n, repairs, head, head.n + 1, offset)
            head = Head(entry.n, entry.hash)
            repairs += entry.kind == REPAIRED
            seen = seen or (known is not None and known.n == entry.n)
        if known and not seen:
            text = f"the ledger {self.path} ends at entry {head.n}, but entry {known.n} was there: entries were removed"
            return LedgerReport(False, text, head.n, repairs, head, head.n + 1)
        text = f"the ledger is whole: {head.n} entries, {repairs} repaired after a crash"
        return LedgerReport(True, text, head.n, repairs, head)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield each line with its offset; the last may be torn, and so may one a daemon is just writing."""
        try:
            with self.path.open("rb") as file:
                offset = 0
                while line := file.readline(LINE_LIMIT + 1):
                    if not line.endswith(b"\n"):
                        line += file.readline(LINE_LIMIT + 1)  # its second half is there by now
                    yield offset, line
                    offset += len(line)
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} can't be read: {error.strerror}") from error

    def public_keys(self) -> Collection[Ed25519PublicKey]:
        """Give the keys that are trusted. Raises LedgerError when those beside the ledger can't be read."""
        if self._trusted is not None:
            return self._trusted
        return read_public_keys(public_path(self.path))


class Ledger(LedgerReader):
    """Writes a node's ledger."""

    def __init__(
        self, path: Path, signer: Signer, node: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Open the ledger at `path`, made when it isn't there, repaired when its end is torn.

        Raises LedgerError when it can't be written, another process writes it, or it is no ledger.
        """
        super().__init__(path)
        self._index = LedgerIndex(path, LINE_LIMIT + 1)
        self._signer, self._node, self._clock = signer, node, clock
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._broken = ""
        self._head, self._end = Head(0, FIRST), 0
        try:
            self._fd = _open_locked(path)
        except OSError as error:
            raise LedgerError(f"the ledger {path} can't be opened: {error.strerror}") from error
        try:
            self._take_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write; idempotent."""
        self._index.close()
        with self._writing:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self._broken = -1, "it is closed"

    def viewers(self, session: str, limit: int | None = None) -> list[Entry]:
        """Say the same, by the index; by the ledger itself where that can't be kept, or points at what is no entry."""
        try:
            lines = self._index.newest(session, -1 if limit is None else limit)
            return list(self._read(lines, INDEXED, session))
        except (Unindexed, OSError, FormatError):
            return super().viewers(session, limit)

    @property
    def head(self) -> Head:
        """The last entry that is on disk."""
        return self._on_disk

    def append(self, kind: str, /, **fields: Any) -> Entry:
        """Add an entry and wait until it is on disk; threads that call at once share one sync.

        Fields are JSON values; bytes are kept as hex, paths as text. Raises LedgerError when it can't be kept.
        """
        with self._writing:
            entry = self._write(kind, fields)
        self._sync(entry.n)
        return entry

    def _take_up(self) -> None:
        """Go on where the last writer ended."""
        try:
            _keep_public_key(public_path(self.path), self._signer.public)
            torn = self._find_end()
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} can't be read: {error.strerror}") from error
        self._on_disk = self._head
        if torn:
            self._repair(torn)

    def _write(self, kind: str, fields: Mapping[str, Any]) -> Entry:
        if self._broken:
            raise LedgerError(f"the ledger {self.path} takes no entries: {self._broken}")
        line, entry = self._sign(kind, fields)
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(0, "it was written in part")  # noqa: TRY301  one way out for both
        except OSError as error:
            self._cut_back()
            raise LedgerError(f"the ledger {self.path} could not keep an entry: {error.strerror}") from error
        self._end += len(line)
        self._head = Head(entry.n, entry.hash)
        return entry

    def _sign(self, kind: str, fields: Mapping[str, Any]) -> tuple[bytes, Entry]:
        body: dict[str, Any] = {
            "n": self._head.n + 1,
            "at": int(self._clock() * 1_000_000),
            "node": self._node,
            "kind": kind,
            "fields": json.loads(json.dumps(fields, default=_as_json)),
            "key": self._signer.key_id.hex(),
            "prev": self._head.hash,
        }
        body["hash"] = _hash(body)
        body["sig"] = self._signer.sign(DOMAIN + bytes.fromhex(body["hash"])).hex()
        line = _canonical(body) + b"\n"
        if len(line) > LINE_LIMIT:
            raise LedgerError(f"a ledger entry of {len(line)} bytes is too long")
        return line, _parse(line)

    def _sync(self, n: int) -> None:
        with self._syncing:
            if self._on_disk.n >= n:
                return  # the sync of a thread before us took ours along
            with self._writing:
                if self._broken:
                    raise LedgerError(f"the ledger {self.path} could not keep entry {n}: {self._broken}")
                head, fd = self._head, os.dup(self._fd)
            try:
                os.fdatasync(fd)
            except OSError as error:
                # The kernel may have forgotten the pages it could not write: a second sync would lie.
                self._broken = f"its disk failed ({error.strerror}); it is read again at the next start"
                raise LedgerError(
                    f"the ledger {self.path} could not keep entry {n}: {error.strerror}"
                ) from error
            finally:
                os.close(fd)
            self._on_disk = head

    def _cut_back(self) -> None:
        """Take a half-written line off the end, so that the next entry begins a line."""
        try:
            os.ftruncate(self._fd, self._end)
        except OSError as error:
            self._broken = f"a torn line could not be cut off ({error.strerror})"

    def _find_end(self) -> bytes:
        """Set head and end to the last whole entry's; give what stands after it."""
        size = os.fstat(self._fd).st_size
        start = max(0, size - TAIL)
        data = os.pread(self._fd, size - start, start)
        at = end = len(data)
        while end:
            at = data.rfind(b"\n", 0, end - 1) + 1
            if at == 0 and start:
                break
            try:
                entry = _parse(data[at:end])
            except ValueError:
                end = at
                continue
            self._head, self._end = Head(entry.n, entry.hash), start + end
            return data[end:]
        if b"\n" in data or start:
            raise LedgerError(
                f"{self.path} is no ledger, or its end is damaged beyond one torn write: move it aside"
            )
        return data

    def _repair(self, torn: bytes) -> None:
        kept = self.path.with_name(f"{self.path.name}.torn-{self._head.n + 1}")
        try:
            fd = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(torn)
                file.flush()
                os.fsync(fd)
            os.ftruncate(self._fd, self._end)
            os.fsync(self._fd)
            store.sync_directory(self.path.parent)
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} can't be repaired: {error.strerror}") from error
        self.append(REPAIRED, bytes=len(torn), sha256=hashlib.sha256(torn).digest(), kept=kept.name)


def encoded(entry: Entry) -> bytes:
    """Give an entry as the one line it is in the ledger (rule 3)."""
    body: dict[str, Any] = {
        name: getattr(entry, name) for name in ("n", "node", "kind", "fields", "key", "prev", "hash")
    }
    return _canonical(body | {"at": round(entry.at * 1_000_000), "sig": entry.signature.hex()}) + b"\n"


def decoded(line: bytes) -> Entry:
    """Read an entry that was taken out of a ledger. Raises FormatError; its signature is for `is_signed` to check."""
    try:
        return _parse(line)
    except ValueError as error:
        raise FormatError(str(error)) from None


def is_signed(entry: Entry, public: Ed25519PublicKey) -> bool:
    """Say whether `public` signed this entry."""
    return signed_by(public, entry.signature, DOMAIN + bytes.fromhex(entry.hash))


def public_path(path: Path) -> Path:
    """Say where the public keys of the ledger at `path` stand: beside it, PEM, one after the other."""
    return path.with_name(path.name + ".pub")


def read_public_keys(path: Path) -> list[Ed25519PublicKey]:
    """Read Ed25519 public keys from PEM blocks, oldest first. Raises LedgerError."""
    try:
        blocks = path.read_bytes().split(_PEM_END)[:-1]
        keys = [load_pem_public_key(block + _PEM_END) for block in blocks]
    except OSError as error:
        raise LedgerError(f"the public keys {path} can't be read: {error.strerror}") from error
    except ValueError:
        raise LedgerError(f"{path} holds something that is no public key") from None
    return [key for key in keys if isinstance(key, Ed25519PublicKey)]


def _open_locked(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise LedgerError(f"another process writes the ledger {path}") from None
    store.sync_directory(path.parent)
    return fd


def _keep_public_key(path: Path, key: Ed25519PublicKey) -> None:
    """Add the key to those beside the ledger; older ones stay, for the entries they signed."""
    kept = path.read_bytes() if path.exists() else b""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if pem in kept:
        return
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(kept + pem)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    store.sync_directory(path.parent)


def _parse(line: bytes) -> Entry:
    """Read one line; ValueError says why it is no entry. Its own hash is checked, nothing beside it."""
    try:
        body = json.loads(line)
        sealed = {name: body[name] for name in ("n", "at", "node", "kind", "fields", "key", "prev")}
        canonical = _canonical(sealed | {"hash": body["hash"], "sig": body["sig"]}) + b"\n"
        signature = bytes.fromhex(body["sig"])
        whole = canonical == line and _hash(sealed) == body["hash"] and signature.hex() == body["sig"]
        numbers = (
            isinstance(body["n"], int) and isinstance(body["at"], int) and isinstance(body["fields"], dict)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("the line is no entry") from None
    if not (whole and numbers):
        raise ValueError("the line was changed")
    named = {name: body[name] for name in ("n", "node", "kind", "fields", "key", "prev", "hash")}
    return Entry(at=body["at"] / 1_000_000, signature=signature, **named)


def _check(entry: Entry, head: Head, keys: Mapping[str, Ed25519PublicKey]) -> None:
    if entry.n != head.n + 1:
        raise ValueError(f"it is numbered {entry.n}")
    if entry.prev != head.hash:
        raise ValueError("it does not follow the one before it")
    if entry.key not in keys:
        raise ValueError("its signing key is not trusted")
    if not is_signed(entry, keys[entry.key]):
        raise ValueError("its signature is false")


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _as_json(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a ledger field can't be a {type(value).__name__}")
