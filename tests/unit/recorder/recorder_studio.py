"""A recorder on a temporary directory, with a catalog and a ledger that only take notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyd.errors import FormatError
from proxyd.recorder import store
from proxyd.recorder.keys import Signer, read_identities, unwrap
from proxyd.recorder.record import Record
from proxyd.recorder.recorder import Gauges, Recorder, Tape
from tests.peers.segments import SegmentReader

META = {
    "user": "ann",
    "user_ip": "192.0.2.7",
    "target": "db",
    "host": "198.51.100.9:22",
    "login": "root",
    "protocol": "ssh",
    "how": "publickey",
}


@dataclass(frozen=True)
class Settings:
    directory: Path
    recipients: Sequence[str]
    signing_key: Path = Path("unused")
    sync_seconds: float = 0.05
    reserve_bytes: int = 0


class Notes(Gauges):
    """Catalog, ledger and gauges in one; `refuse` makes the catalog fail."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.failures: list[str] = []
        self.troubles: list[tuple[str, str, str]] = []
        self.watching = 0
        self.refuse: Exception | None = None

    def started(self, row: Mapping[str, Any]) -> None:
        if self.refuse:
            raise self.refuse
        self.rows[row["id"]] = dict(row)

    def ended(self, id: str, **fields: Any) -> None:  # noqa: A002  the catalog's own name for it
        if id not in self.rows:
            raise FormatError("no session has that id")
        self.rows[id] |= fields

    def append(self, kind: str, /, **fields: Any) -> object:
        self.entries.append((kind, fields))
        return None

    def failed(self, policy: str) -> None:
        self.failures.append(policy)

    def trouble(self, what: str, session: str, error: str) -> None:
        self.troubles.append((what, session, error))

    def viewers(self, count: int) -> None:
        self.watching = count


@dataclass
class Studio:
    """A recorder and all that is needed to read what it wrote."""

    root: Path
    notes: Notes
    signer: Signer
    identity: str
    recorder: Recorder
    pressure: list[bool] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    async def open(self, session: str = "s1", *, strict: bool = True, hold: bool = False) -> Tape:
        return await self.recorder.open(
            session,
            META,
            strict=strict,
            hold=hold,
            on_pressure=self.pressure.append,
            on_failure=lambda error: self.ended.append(str(error)),
        )

    def folder(self, session: str = "s1") -> Path:
        found = store.find(self.root, session)
        assert found is not None
        return found

    def read(self, session: str = "s1") -> list[Record]:
        """What the identity opens, segment by segment."""
        identities = read_identities(self.identity)
        found: list[Record] = []
        for path in store.segments(self.folder(session)):
            data = path.read_bytes()
            dek = unwrap(store.read_manifest(self.folder(session)).keys, identities)
            found += SegmentReader(data, dek).records()
        return found


MakeStudio = Callable[[Path], Studio]
