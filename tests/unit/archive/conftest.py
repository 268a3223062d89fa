"""Recordings on disk, made by the recorder's own writer: from records given by hand, without a daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyd.recorder import store
from proxyd.recorder.keys import Signer, new_dek, wrap
from proxyd.recorder.layout import NO_CHAIN, SegmentHeader
from proxyd.recorder.manifest import End, Manifest, SegmentEntry
from proxyd.recorder.record import Kind
from proxyd.recorder.segment import SegmentWriter, new_packer

WALL_NS = 1_700_000_000 * 10**9
Item = tuple[int, Kind, int, Any]
META = {"id": "c0ffee", "user": "alice", "login": "root", "target": "db-prod", "protocol": "ssh"}


@dataclass
class Press:
    """Writes recordings below `root`; whoever has the file `identity` can open them."""

    root: Path
    signer: Signer = field(default_factory=lambda: Signer(Ed25519PrivateKey.generate()))

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        key = pyrage.x25519.Identity.generate()
        self.recipient = str(key.to_public())
        self.identity = self.root / "vault.identity"
        self.identity.write_text(f"# made for a test\n\n{key}\n# public key: {self.recipient}\n")
        self.identity.chmod(0o600)

    def segments(
        self,
        *parts: Sequence[Item],
        per_frame: int = 3,
        session: str = "c0ffee",
        sealed: bool = False,
        lost: int = 0,
        meta: Mapping[str, Any] = {},
    ) -> Path:
        """Write one segment a part: records (at_us, kind, channel, body), META first of all; the last one unsealed.

        `meta` is what META says other than usual.

        `lost` records are missing before each segment but the first, as when storage failed.
        """
        folder = store.folder_of(self.root, session, WALL_NS)
        folder.mkdir(parents=True)
        chain, seq, entries = NO_CHAIN, 1, []
        manifest = Manifest(
            session, "node1", WALL_NS, "open", strict=True, meta=META | meta | {"id": session}, keys=()
        )
        store.write_manifest(folder, manifest.signed(self.signer))
        for number, records in enumerate(parts):
            items = (
                [(0, Kind.META, 0, META | meta | {"id": session}), *records] if number == 0 else list(records)
            )
            dek = new_dek()
            start = items[0][0] // 1000 if items else 0
            header = SegmentHeader(
                session,
                number,
                chain,
                WALL_NS + start * 10**6,
                start,
                seq,
                self.signer.key_id,
                wrap(dek, [self.recipient]),
            )
            writer, packer = SegmentWriter(header, dek, self.signer), new_packer()
            data = writer.preamble
            for i in range(0, len(items), per_frame):
                data += writer.events(items[i : i + per_frame], packer)
            data += writer.checkpoint()
            if sealed or number < len(parts) - 1:
                data += writer.seal()
            entries.append(
                SegmentEntry(
                    number, len(data), seq, len(items), start, writer.t1_ms, writer.chain, sealed=True
                )
            )
            chain, seq = writer.chain, writer.next_seq + lost
            store.segment_path(folder, number).write_bytes(data)
        if sealed:
            end = End(WALL_NS + 10**9, "closed by the client")
            closed = replace(manifest, state="sealed", segments=tuple(entries), end=end)
            store.write_manifest(folder, closed.signed(self.signer))
        return folder


@pytest.fixture
def press(tmp_path: Path) -> Press:
    return Press(tmp_path)
