"""What it takes to see a session: one decision for every way to see one, live or recorded, whole or a piece.

Rule 1: each way to see a session takes its permission; whatever else holds, without it there is nothing to see.
Rule 2: a session that has auditors is seen by those alone. To be one gives no permission.
Rule 3: where approval is on, nobody sees anything, administrators included, but in the window of a request of their own for
        that session which others have approved.
Rule 4: where downloads are off, nobody takes a copy.
Rule 5: rules 2 and 3 are about people: an operator who is no user of the proxy is none, and passes neither.
Rule 6: a decision holds until the moment it names, and only for what it was made of: ask again for the next piece.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from proxyd.errors import Denied
from proxyd.governance.permissions import Permission
from proxyd.governance.requests import Request, Status


class Forbidden(Denied):
    """Who asks may not; the text says what they would need."""


class Sight(StrEnum):
    """A way to see a session, as the ledger calls it."""

    LIVE = "live"
    PICTURE = "picture"  # of a live desktop
    REPLAY = "replay"
    LOG = "log"
    SEARCH = "search"
    EXPORT = "export"
    DOWNLOAD = "download"  # an export that was made before


NEEDS: Mapping[Sight, Permission] = {
    Sight.LIVE: Permission.WATCH,
    Sight.PICTURE: Permission.WATCH,
    Sight.REPLAY: Permission.REPLAY,
    Sight.LOG: Permission.LOG,
    Sight.SEARCH: Permission.SEARCH,
    Sight.EXPORT: Permission.EXPORT,
    Sight.DOWNLOAD: Permission.EXPORT,
}
AT_ONCE = frozenset({Sight.LIVE, Sight.PICTURE})  # what is seen while it happens
COPIES = frozenset({Sight.EXPORT, Sight.DOWNLOAD})


class Policy(Protocol):
    """What the configuration says about viewing."""

    @property
    def approval(self) -> bool:
        """Whether seeing a session takes an approved request."""

    @property
    def live(self) -> bool:
        """Whether that goes for live sessions too."""

    @property
    def download(self) -> bool:
        """Whether copies may be taken."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who wants to see: `person` is the user of the proxy they are, "" when the configuration does not say."""

    name: str
    person: str
    permissions: frozenset[Permission]


class Allowed(NamedTuple):
    """They may, until `until` (seconds since 1970; None: until something changes), by the request with this id, or ""."""

    until: float | None = None
    request: str = ""


def decide(
    viewer: Viewer,
    sight: Sight,
    *,
    auditors: Collection[str],
    requests: Sequence[Request],
    policy: Policy,
    now: float,
) -> Allowed:
    """Decide whether `viewer` may see a session now, in this way. Raises Forbidden.

    `auditors` are the session's, `requests` those for this session; both may hold more than counts.
    """
    if NEEDS[sight] not in viewer.permissions:
        raise Forbidden(f"{viewer.name} may not do this: it takes {NEEDS[sight]}")
    if sight in COPIES and not policy.download:
        raise Forbidden("nobody takes copies of sessions here: review.download is off")
    if auditors and viewer.person not in auditors:
        raise Forbidden(f"{viewer.name} is none of this session's auditors: see proxyctl auditors SESSION")
    if not policy.approval or (sight in AT_ONCE and not policy.live):
        return Allowed()
    if not viewer.person:
        raise Forbidden(
            f"sessions are seen here with approval only, and that is given to users: {viewer.name}'s entry of "
            "[[control.operators]] says not which user they are"
        )
    covering = [one for one in requests if one.person == viewer.person and one.covers(now)]
    if not covering:
        raise Forbidden(_what_to_do(viewer, requests, now))
    longest = max(covering, key=lambda one: one.ends_at)
    return Allowed(longest.ends_at, longest.id)


def _what_to_do(viewer: Viewer, requests: Sequence[Request], now: float) -> str:
    """Say why no request counts, and what to do."""
    own = sorted((one for one in requests if one.person == viewer.person), key=lambda one: -one.asked_at)
    if not own:
        return "this session is seen with approval only: ask for it with proxyctl request SESSION"
    newest = own[0]
    status = newest.status(now)
    early = status is Status.APPROVED and now < newest.starts_at
    said = "is approved, and its time has not come yet" if early else f"is {status}"
    return (
        f"this session is seen with approval only, and your request {newest.id} {said}: see proxyctl requests"
    )
