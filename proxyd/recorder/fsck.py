"""Whether catalog, disk and store agree about which recordings there are, and of which files.

Rule 1: it looks and tells, and touches nothing; what files hold is `verify`'s to say.
Rule 2: what lives, or ends meanwhile, is no problem: the catalog is asked before and after.
Rule 3: nodes may share catalog and store: what another has on its disk, and has yet to store, is that node's to tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.recorder import store
from proxyd.recorder.catalog import LIVE, SessionFilter

if TYPE_CHECKING:
    from proxyd.recorder.catalog import Catalog, SessionRow
    from proxyd.recorder.stored import Stored

_EVERY: Final = SessionFilter(limit=None, order="oldest")


class Problem(NamedTuple):
    """Something that does not agree."""

    session: str
    code: str
    text: str


def check(root: Path, catalog: Catalog, stored: Stored | None, node: str) -> Iterator[Problem]:
    """Yield what does not agree, as `node` sees it. Raises CatalogError, StoreError."""
    rows = {row.id: row for row in catalog.sessions(_EVERY)}
    here = {path.name for path in store.recordings(root)}
    there = _there(stored) if stored is not None else {}
    late = {row.id for row in catalog.sessions(_EVERY)} - rows.keys()
    for session in sorted(here - rows.keys() - late):
        yield Problem(session, "unlisted", "its recording is on disk, and the catalog does not know it")
    for session in sorted(there.keys() - rows.keys() - late):
        yield Problem(session, "unlisted", "the store has files of it, and the catalog does not know it")
    for row in rows.values():
        if row.state != LIVE:
            if row.node == node and row.id not in here and _kept_here(row):
                yield Problem(row.id, "lost", "its recording is neither on disk nor in the store")
            yield from _of(row, row.id in here, there.get(row.id, {}), stored)


def _there(stored: Stored) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for one in stored.remote.objects():
        session, _, name = one.key.rpartition("/")
        found[session.rpartition("/")[2]][name] = one.size
    return found


def _kept_here(row: SessionRow) -> bool:
    """Say whether the disk of its node should have a recording, as far as the catalog knows."""
    return row.purged_at is None and row.stored_at is None and bool(row.path)


def _of(row: SessionRow, here: bool, there: dict[str, int], stored: Stored | None) -> Iterator[Problem]:  # noqa: FBT001
    if row.purged_at is not None:
        if here or there:
            yield Problem(row.id, "left over", "it was purged, and files of it are left")
        return
    if stored is None:
        return
    noted = stored.files(row.id)
    for name in sorted(noted.keys() - there.keys()):
        yield Problem(row.id, "lost", f"{name} was stored, and the store does not have it")
    for name in sorted(noted.keys() & there.keys()):
        if noted[name] != there[name]:
            yield Problem(row.id, "altered", f"{name} has another size in the store than was stored")
    if here and row.stored_at is not None:
        for path in stored.missing(row):
            yield Problem(row.id, "behind", f"{path.name} is on disk, and was not stored")
