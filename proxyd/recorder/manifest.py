"""The manifest: one signed JSON file a recording, saying whose it is, who can open it and what belongs to it.

Rule 1: it is written, state "open", before the first segment; and once more at the end, with every segment.
Rule 2: it is always whole: written aside, synced, renamed.
Rule 3: `signature` is Ed25519 over "proxyd manifest", NUL, and the canonical JSON (sorted keys, no spaces, ASCII)
        of everything else.
Rule 4: what recovery sealed although it did not verify says so: `tampered` is true, and `problem` tells what; no other
        manifest has these keys.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxyd.errors import FormatError
from proxyd.recorder import layout
from proxyd.recorder.keys import Signer, WrappedKey, signed_by

NAME = "manifest.json"
FORMAT = "PXR1"
SIGNED = b"proxyd manifest\0"

State = Literal["open", "sealed", "recovered", "failed"]
STATES = frozenset({"open", "sealed", "recovered", "failed"})
MAX_NUMBER = (1 << 63) - 1  # ns since 1970 until the year 2262, and more bytes than any disk holds
UNREADABLE = "a manifest can't be read"

_Kind = TypeVar("_Kind")


class SegmentEntry(NamedTuple):
    """One segment as it was when the recording ended; `chain` is H after its `size` bytes.

    Not `sealed`: storage failed under it, or a crash tore it, and another segment follows; what counts is `size`.
    """

    number: int
    size: int
    first_seq: int
    records: int
    start_ms: int
    end_ms: int
    chain: bytes
    sealed: bool


@dataclass(frozen=True, slots=True)
class End:
    """How a session ended; times in ns since 1970."""

    at_ns: int
    reason: str
    by: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json says. `meta` is the part of META that JSON can say; `problem` is rule 4's."""

    session: str
    node: str
    started_ns: int
    state: State
    strict: bool
    meta: Mapping[str, Any]
    keys: tuple[WrappedKey, ...]
    segments: tuple[SegmentEntry, ...] = ()
    end: End | None = None
    problem: str = ""
    signer: bytes = b""
    signature: bytes = b""

    @property
    def chain(self) -> bytes:
        """Give H at the recording's end; empty while it is open."""
        return self.segments[-1].chain if self.segments else b""

    @property
    def size(self) -> int:
        """Give the bytes of all segments."""
        return sum(entry.size for entry in self.segments)

    @property
    def tampering(self) -> dict[str, Any]:
        """Give the keys of rule 4: for the manifest, and for the ledger's entry."""
        return {"tampered": True, "problem": self.problem} if self.problem else {}

    def signed(self, signer: Signer) -> Manifest:
        """Give this manifest with `signer`'s name and signature."""
        named = replace(self, signer=signer.key_id, signature=b"")
        return replace(named, signature=signer.sign(named.message()))

    def verify(self, public: Ed25519PublicKey) -> bool:
        """Say whether `public` signed this."""
        return signed_by(public, self.signature, self.message())

    def message(self) -> bytes:
        """Give the bytes that are signed."""
        fields = self._fields()
        del fields["signature"]
        return SIGNED + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    def encode(self) -> bytes:
        """Give the file's bytes."""
        return json.dumps(self._fields(), indent=1, sort_keys=True).encode() + b"\n"

    def _fields(self) -> dict[str, Any]:
        end = self.end
        return {
            "format": FORMAT,
            "session": self.session,
            "node": self.node,
            "started_ns": self.started_ns,
            "state": self.state,
            "strict": self.strict,
            "meta": dict(self.meta),
            "keys": [[recipient, base64.b64encode(blob).decode()] for recipient, blob in self.keys],
            "segments": [{**entry._asdict(), "chain": entry.chain.hex()} for entry in self.segments],
            "end": {"at_ns": end.at_ns, "reason": end.reason, "by": end.by, "error": end.error}
            if end
            else None,
            "signer": self.signer.hex(),
            "signature": self.signature.hex(),
            **self.tampering,
        }


def decode(data: bytes) -> Manifest:
    """Read a manifest's bytes; raises FormatError. Does not check the signature: `Manifest.verify` does."""
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT or fields["state"] not in STATES:
            raise FormatError("a manifest is not of this format")
        return Manifest(
            session=_typed(fields["session"], str),
            node=_typed(fields["node"], str),
            started_ns=_number(fields["started_ns"]),
            state=fields["state"],
            strict=_typed(fields["strict"], bool),
            meta=_typed(fields["meta"], dict),
            keys=tuple(
                WrappedKey(_typed(to, str), base64.b64decode(blob, validate=True))
                for to, blob in _typed(fields["keys"], list)
            ),
            segments=tuple(_entry(entry) for entry in _typed(fields["segments"], list)),
            end=None if fields["end"] is None else _end(fields["end"]),
            problem=_problem(fields) if "tampered" in fields else "",
            signer=bytes.fromhex(fields["signer"]),
            signature=bytes.fromhex(fields["signature"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError(UNREADABLE) from error


def _entry(fields: dict[str, Any]) -> SegmentEntry:
    entry = SegmentEntry(**{**fields, "chain": bytes.fromhex(fields["chain"])})
    _typed(entry.sealed, bool)
    _number(entry.number, layout.MAX_NUMBER)
    for value in (entry.size, entry.first_seq, entry.records, entry.start_ms, entry.end_ms):
        _number(value)
    return entry


def _end(fields: dict[str, Any]) -> End:
    end = End(**fields)
    _number(end.at_ns)
    for value in (end.reason, end.by, end.error):
        _typed(value, str)
    return end


def _problem(fields: dict[str, Any]) -> str:
    if fields["tampered"] is not True or not _typed(fields["problem"], str):
        raise FormatError(UNREADABLE)
    return str(fields["problem"])


def _typed(value: Any, kind: type[_Kind]) -> _Kind:
    if type(value) is not kind:
        raise FormatError(UNREADABLE)
    return value


def _number(value: Any, most: int = MAX_NUMBER) -> int:
    number = _typed(value, int)
    if not 0 <= number <= most:
        raise FormatError(UNREADABLE)
    return number


def sayable(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Give the part of META that goes into a manifest: scalars and lists of scalars, whatever JSON says exactly."""

    def plain(value: Any) -> bool:
        return value is None or isinstance(value, str | int | float | bool)

    return {
        key: value
        for key, value in meta.items()
        if plain(value) or (isinstance(value, list) and all(plain(item) for item in value))
    }
