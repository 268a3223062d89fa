"""Where `proxyd index` finds recordings: below the directory they are recorded to, and those the store alone has.

Rule 1: what the store alone has is read page by page, and nothing of it is kept here; its new index goes to the store.
Rule 2: the store and the catalog are opened only when something may be there that is not here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from proxyd.cli_recordings import NoRecording, recording_at
from proxyd.errors import ConfigError

if TYPE_CHECKING:
    from proxyd.cli_app import Run
    from proxyd.recorder.catalog import Catalog, SessionRow
    from proxyd.recorder.replay import Recording
    from proxyd.recorder.stored import Stored


class Here:
    """A recording below the directory they are recorded to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name

    def open(self, identity: Path) -> Recording:
        """Open it. Raises ConfigError, FormatError."""
        from proxyd.recorder.replay import Recording

        return Recording.open(self.folder, identity)

    def check(self, recording: Recording) -> None:
        """Read its index to the end; raises FormatError when it is not whole."""
        for _ in recording.sidecar().items():
            continue

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Give where its new index is to be written."""
        yield self.folder


class Elsewhere:
    """A recording that the store alone has; `row` is the catalog's."""

    def __init__(self, stored: Stored, row: SessionRow) -> None:
        self._stored, self._row = stored, row
        self.name = row.id

    def open(self, identity: Path) -> Recording:
        """Open it. Raises ConfigError, FormatError, StoreError."""
        from proxyd.recorder import source
        from proxyd.recorder.replay import Recording

        folder, files = self._stored.find(self._row)
        fetch = partial(self._stored.read, self._row)
        return Recording.open(source.Elsewhere(folder, files, fetch), identity)

    def check(self, recording: Recording) -> None:
        """Read the end of its index, whose size the store knows; raises FormatError when that is not there."""
        recording.sidecar()

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Give where its new index is to be written; what is there then goes to the store. Raises StoreError, OSError."""
        from proxyd.recorder.sidecar import path_of

        with TemporaryDirectory(prefix="proxyd-index-") as directory:
            yield Path(directory)
            self._stored.replace_sidecar(self._row, path_of(Path(directory)))


Place = Here | Elsewhere


@contextmanager
def places(run: Run, what: str | None) -> Iterator[list[Place]]:
    """Give the recording that is named, or all: those here first. Raises ProxydError."""
    from proxyd.recorder import store

    root, elsewhere = run.config().recording.directory, run.config().store is not None
    found: list[Place] = []
    try:
        folders = store.recordings(root) if what is None else [recording_at(what, root)]
        found += map(Here, folders)
    except NoRecording:
        if not elsewhere:
            raise
    if not elsewhere or (what is not None and found):
        yield found
        return
    with _opened(run) as (catalog, stored):
        yield found + [Elsewhere(stored, row) for row in _there(catalog, stored, what)]


@contextmanager
def _opened(run: Run) -> Iterator[tuple[Catalog, Stored]]:
    """Open the catalog and the store, of which it says what is there. Raises ConfigError, CatalogError."""
    import trio

    from proxyd.recorder.catalog import Catalog
    from proxyd.vault import VaultError

    config = run.config()
    if importlib.util.find_spec("obstore") is None:
        raise ConfigError("the store needs obstore: pip install 'proxyd[store]'", config.path)
    from proxyd.uploads import open_store

    assert config.store is not None  # noqa: S101 - asked for before
    with Catalog(config.recording.catalog) as catalog:
        try:
            stored = trio.run(open_store, config.store, config.recording.directory, catalog)
        except VaultError as error:
            raise ConfigError(f"store.secrets: {error.detail}", config.path) from None
        yield catalog, stored


def _there(catalog: Catalog, stored: Stored, what: str | None) -> list[SessionRow]:
    """List what the store alone has. Raises CatalogError, NotFound."""
    from proxyd.recorder.catalog import SessionFilter

    every = SessionFilter(limit=None, order="oldest")
    rows = catalog.sessions(every) if what is None else [catalog.session(what)]
    there = [row for row in rows if row.purged_at is None and stored.find(row)[1]]
    if what is not None and not there:
        raise NoRecording(f"the recording of session {rows[0].id} is neither here nor in the store")
    return there
