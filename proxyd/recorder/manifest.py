"""The manifest: one signed JSON file a recording, saying whose it is, who can open it and what belongs to it.

Rule 1: it is written, state "open", before the first segment; and once more at the end, with every segment.
Rule 2: it is always whole: written aside, synced, renamed.
Rule 3: `signature` is Ed25519 over "proxyd manifest", NUL, and the canonical JSON (sorted keys, no spaces, ASCII)
        of everything else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxyd.errors import FormatError
from proxyd.recorder.keys import Signer, WrappedKey, signed_by

NAME = "manifest.json"
FORMAT = "PXR1"
SIGNED = b"proxyd manifest\0"

State = Literal["open", "sealed", "recovered", "failed"]
STATES = frozenset({"open", "sealed", "recovered", "failed"})


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
    """What manifest.json says. `meta` is the part of META that JSON can say."""

    session: str
    node: str
    started_ns: int
    state: State
    strict: bool
    meta: Mapping[str, Any]
    keys: tuple[WrappedKey, ...]
    segments: tuple[SegmentEntry, ...] = ()
    end: End | None = None
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
        }


def decode(data: bytes) -> Manifest:
    """Read a manifest's bytes; raises FormatError. Does not check the signature: `Manifest.verify` does."""
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT or fields["state"] not in STATES:
            raise FormatError("a manifest is not of this format")
        return Manifest(
            session=_text(fields["session"]),
            node=_text(fields["node"]),
            started_ns=int(fields["started_ns"]),
            state=fields["state"],
            strict=bool(fields["strict"]),
            meta=dict(fields["meta"]),
            keys=tuple(
                WrappedKey(_text(to), base64.b64decode(blob, validate=True)) for to, blob in fields["keys"]
            ),
            segments=tuple(_entry(entry) for entry in fields["segments"]),
            end=End(**fields["end"]) if fields["end"] else None,
            signer=bytes.fromhex(fields["signer"]),
            signature=bytes.fromhex(fields["signature"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError("a manifest can't be read") from error


def _entry(fields: dict[str, Any]) -> SegmentEntry:
    return SegmentEntry(**{**fields, "chain": bytes.fromhex(fields["chain"])})


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError("a manifest can't be read")
    return value


def sayable(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Give the part of META that goes into a manifest: scalars and lists of scalars, whatever JSON says exactly."""

    def plain(value: Any) -> bool:
        return value is None or isinstance(value, str | int | float | bool)

    return {
        key: value
        for key, value in meta.items()
        if plain(value) or (isinstance(value, list) and all(plain(item) for item in value))
    }
