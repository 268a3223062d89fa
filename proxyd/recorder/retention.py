"""Retention: what of the archive goes, when and why; and how it goes, which leaves a signed tombstone.

Rule 1: the first policy whose targets fit decides; a session no policy fits is kept for good.
Rule 2: a recording is condemned only where no hold is (holds.py), its tombstone is in the ledger before the first byte
        goes, and what a crash or a store that was away left half gone goes later.
Rule 3: by age what is older goes; by size and for space the oldest go, and only as many as it takes. What is held counts
        as what it takes, and stays.
Rule 4: `plan` touches nothing: what it says is what would go.

Times are seconds since 1970; sizes are bytes. All but `plan` waits for storage: call it through `trio.to_thread`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.recorder import store
from proxyd.recorder.holds import Holds, Kept
from proxyd.recorder.ledger import PURGED

if TYPE_CHECKING:
    from proxyd.config import Retention
    from proxyd.recorder.catalog import SessionRow
    from proxyd.recorder.ledger import Ledger
    from proxyd.recorder.stored import Stored

DAY_S: Final = 86_400


class Doomed(NamedTuple):
    """A recording that is to go, and why."""

    session: str
    target: str
    ended_at: float
    size: int
    why: str


def plan(kept: Iterable[Kept], policies: Sequence[Retention], now: float, free: int) -> list[Doomed]:
    """Say what goes of what is kept, given with the oldest end first; `free`: bytes the disk has left (rule 3)."""
    of: list[list[Kept]] = [[] for _ in policies]
    for one in kept:
        place = next((n for n, policy in enumerate(policies) if _fits(policy, one)), None)
        if place is not None:
            of[place].append(one)
    doomed: dict[str, Doomed] = {}
    for policy, mine in zip(policies, of, strict=True):
        doomed |= {one.session: one for one in _outlived(policy, mine, now)}
    free += sum(one.size for one in doomed.values())
    rest = sorted(
        (one.ended_at, one.session, one, policy)
        for policy, mine in zip(policies, of, strict=True)
        for one in mine
        if policy.free_bytes and not one.held and one.session not in doomed
    )
    for _, _, one, policy in rest:
        if free < policy.free_bytes:
            why = f"the disk has less than {policy.free_bytes} bytes free"
            doomed[one.session] = _doomed(one, why)
            free += one.size
    return sorted(doomed.values(), key=lambda one: (one.ended_at, one.session))


def _fits(policy: Retention, one: Kept) -> bool:
    return any(fnmatchcase(one.target, glob) for glob in policy.targets)


def _outlived(policy: Retention, mine: Sequence[Kept], now: float) -> Iterator[Doomed]:
    """Yield what is too old, and what is too much."""
    total = sum(one.size for one in mine)
    for one in mine:
        old = policy.keep_days is not None and one.ended_at + policy.keep_days * DAY_S <= now
        large = policy.max_bytes is not None and total > policy.max_bytes
        if one.held or not (old or large):
            continue
        total -= one.size
        yield _doomed(
            one,
            f"it is older than {policy.keep_days:g} days" if old
            else f"the recordings of {', '.join(policy.targets)} take more than {policy.max_bytes} bytes",
        )  # fmt: skip


def _doomed(one: Kept, why: str) -> Doomed:
    return Doomed(one.session, one.target, one.ended_at, one.size, why)


class Undertaker:
    """Takes recordings away."""

    def __init__(
        self,
        root: Path,
        holds: Holds,
        ledger: Ledger,
        stored: Stored | None = None,
        exports: Path | None = None,
        *,
        forget: Callable[[str], None] | None = None,
    ) -> None:
        """Take recordings away below `root`, what was exported of them to `exports`; `forget` takes them out of searches."""
        self._root = root
        self._exports = exports
        self._stored = stored
        self._forget = forget
        self._holds = holds
        self._ledger = ledger

    def purge(self, doomed: Doomed, by: str) -> bool:
        """Take a recording away; False when it may not go after all (rule 2).

        Raises CatalogError, LedgerError; StoreError, SearchError, OSError when storage refuses: then `finish` takes it away.
        """
        row = self._holds.condemn(doomed.session, doomed.why)
        if row is not None:
            self._bury(row, by)
        return row is not None

    def finish(self) -> list[str]:
        """Take away what was condemned and may be there still, as after a crash; gives the sessions."""
        rows = self._holds.condemned()
        buried = (
            {str(entry.fields.get("session")) for entry in self._ledger.entries((PURGED,))} if rows else set()
        )
        for row in rows:
            self._bury(row, "proxyd", tombstone=row.id not in buried)
        return [row.id for row in rows]

    def _bury(self, row: SessionRow, by: str, *, tombstone: bool = True) -> None:
        if tombstone:
            self._ledger.append(
                PURGED,
                session=row.id,
                who=by,
                why=row.purged_why,
                user=row.user,
                target=row.target,
                started_at=row.started_at,
                ended_at=row.ended_at,
                size=row.size,
                chain=row.chain,
            )
        if self._forget is not None:
            self._forget(row.id)
        folder = store.find(self._root, row.id)
        if self._stored is not None:
            self._stored.remote.delete(self._stored.key(self._stored.folder(row.path)))
        if self._exports is not None and (made := self._exports / row.id).is_dir():
            shutil.rmtree(made)
        if folder is not None:
            shutil.rmtree(folder)
            store.sync_directory(folder.parent)
        self._holds.gone(row.id)
