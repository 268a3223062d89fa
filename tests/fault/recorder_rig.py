"""Runs the recording child, and reads afterwards what it left."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxyd.errors import FormatError
from proxyd.recorder import store
from proxyd.recorder.keys import Signer, read_identities, unwrap
from proxyd.recorder.record import Record
from proxyd.recorder.recover import Recovered, recover
from proxyd.recorder.segment import scan
from tests.peers.segments import SegmentReader

CHILD = Path(__file__).with_name("recorder_child.py")


class Notes:
    """A catalog and a ledger that take notes."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.entries: list[tuple[str, dict[str, Any]]] = []

    def started(self, row: Mapping[str, Any]) -> None:
        self.rows[row["id"]] = dict(row)

    def ended(self, id: str, **fields: Any) -> None:  # noqa: A002  the catalog's own name for it
        if id not in self.rows:
            raise FormatError("no session has that id")
        self.rows[id] |= fields

    def append(self, kind: str, /, **fields: Any) -> object:
        self.entries.append((kind, fields))
        return None


@dataclass
class Rig:
    """A directory to record to, and the keys."""

    root: Path
    signer: Signer
    key: Path
    identity: pyrage.x25519.Identity
    notes: Notes = field(default_factory=Notes)

    @classmethod
    def make(cls, place: Path) -> Rig:
        private = Ed25519PrivateKey.generate()
        key = place / "signing.pem"
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        root = place / "recordings"
        root.mkdir()
        return cls(root, Signer(private), key, pyrage.x25519.Identity.generate())

    def command(self, what: str, policy: str = "strict", rounds: int = 25) -> list[str]:
        recipient = str(self.identity.to_public())
        return [
            sys.executable,
            str(CHILD),
            str(self.root),
            recipient,
            str(self.key),
            what,
            policy,
            str(rounds),
        ]

    def folder(self, session: str) -> Path:
        found = store.find(self.root, session)
        assert found is not None
        return found

    def recover(self) -> list[Recovered]:
        return recover(self.root, self.signer, node="node1", catalog=self.notes, ledger=self.notes)

    def read(self, session: str) -> list[Record]:
        """Every record the identity opens; fails when the manifest and the files do not agree."""
        folder = self.folder(session)
        manifest = store.read_manifest(folder)
        assert manifest.state != "open"
        assert manifest.verify(self.signer.public)
        dek = unwrap(manifest.keys, read_identities(str(self.identity)))
        found: list[Record] = []
        chain = bytes(32)
        assert len(manifest.segments) == len(store.segments(folder))
        for entry, path in zip(manifest.segments, store.segments(folder), strict=True):
            data = path.read_bytes()[: entry.size]
            seen = scan(data)
            assert seen.problem is None
            assert (seen.chain, seen.sealed, seen.header.prev_chain) == (entry.chain, entry.sealed, chain)
            assert all(signature.verify(self.signer.public) for signature in seen.signatures)
            chain = seen.chain
            found += SegmentReader(data, dek).records()
        return found


def lines(output: bytes) -> list[dict[str, Any]]:
    """What a child said; a last line cut short by its death is left out."""
    return [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
