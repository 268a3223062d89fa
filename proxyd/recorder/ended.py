"""A recording that has ended, read like a tape, by who has its data key: what indexes tapes indexes these too.

Rule 1: it is read to the end its manifest names, and as a live one is: a frame whose chain does not fit is a FormatError.
Rule 2: nothing of it is in memory but what a reader asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import trio

from proxyd.errors import FormatError
from proxyd.recorder import store
from proxyd.recorder.hub import PackedViewer
from proxyd.recorder.manifest import Manifest
from proxyd.recorder.record import Record
from proxyd.recorder.reel import Extent
from proxyd.recorder.segment import Mark


class _Shelf:
    """Its segments."""

    def __init__(self, root: Path, folder: Path, manifest: Manifest, dek: bytes) -> None:
        self.root, self.folder, self.dek = root, folder, dek
        self.shelf = [
            Extent(one.number, store.segment_path(folder, one.number), one.first_seq, one.size)
            for one in manifest.segments
        ]

    def marks(self) -> list[Mark]:
        """Give none: it is read from its beginning on."""
        return []


class Ended:
    """An ended recording; made by Ended.open."""

    over: Final = True

    def __init__(self, root: Path, folder: Path, manifest: Manifest, dek: bytes) -> None:
        self.id, self.meta, self.started_ns = manifest.session, manifest.meta, manifest.started_ns
        self.reel = _Shelf(root, folder, manifest, dek)
        self.written = self.seq = max(
            (one.first_seq + one.records - 1 for one in manifest.segments), default=0
        )
        self.news = trio.Event()
        self.packed: dict[int, tuple[int, bytes]] = {}

    @classmethod
    def open(cls, root: Path, session: str, dek: bytes) -> Self:
        """Open a session's recording below `root`; waits for storage. Raises FormatError: it has not ended, or is gone."""
        folder = store.find(root, session)
        if folder is None:
            raise FormatError("the recording is gone")
        manifest = store.read_manifest(folder)
        if manifest.state == "open" or manifest.session != session:
            raise FormatError("the recording has not ended")
        return cls(root, folder, manifest, dek)

    def watch_packed(self, after_seq: int = 0, *, counted: bool = True) -> PackedViewer:
        """Read it, each batch packed; see Tape.watch_packed."""
        return PackedViewer(self, after_seq, counted=counted)

    def join(self, *, counted: bool = True) -> None:
        """Nobody counts who reads it."""

    def leave(self, *, counted: bool = True) -> None:
        """Nobody counts who reads it."""

    def remembers(self, seq: int) -> bool:
        """Say whether nothing is left to be read after `seq`."""
        return seq >= self.written

    def recall(self, seq: int) -> list[Record]:
        """Give nothing: all is in files."""
        del seq
        return []
