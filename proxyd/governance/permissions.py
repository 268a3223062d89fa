"""The one table of permissions and roles; control socket and console ask it, and have no other.

Rule 1: a role is one row of a table, built in or of the configuration; whoever holds several may do what any of them may.
Rule 2: no built-in role but "Console" may act for others: an administrator who could would approve their own requests.
Rule 3: what is a user's own needs no role, and no role gives it: `OF_USERS`.
Rule 4: a permission is needed for everything, and is never enough to see a session: `rules` says what else is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Protocol


class Permission(StrEnum):
    """What a command may ask for; the comment names it as the mission's manual does."""

    LIST = "sessions.list"
    WATCH = "sessions.watch"  # PAM.SessionManagement.Livestream
    BLOCK = "sessions.block"
    DROP = "sessions.drop"
    MESSAGE = "sessions.message"  # whoever may stop a user may tell them why
    REPLAY = "sessions.replay"  # PAM.SessionManagement.Recording
    LOG = "sessions.log"
    SEARCH = "sessions.search"  # in what was typed and shown
    EXPORT = "recordings.export"  # take a copy along: what becomes of it no rule here sees
    EXPORTS = "exports.others"  # the list of what others export, and an end of what is at work; not the files
    AUDITORS = "sessions.auditors"
    BLOCKS = "blocks.list"
    REVIEW = "sessions.review"  # comment on what one may see, and say that it has been reviewed
    HOLD = "recordings.hold"
    PURGE = "recordings.purge"
    ASK = "requests.ask"
    DECIDE = "requests.decide"
    RELOAD = "daemon.reload"
    STATUS = "daemon.status"
    ISSUE = "tokens.issue"  # vouch for a user: a session token logs in alone
    SIGN_INS = "console.sign-ins"  # see who is signed in to the console, and sign them out
    ACT = "console.act"  # act for the person who has signed in, and ask whether what they show signs them in
    OWN = "own.access"  # see and set up what one logs in with oneself


CONSOLE = "Console"

_P = Permission
OF_USERS = frozenset({_P.OWN})  # of whoever is a user of the proxy, by no role
_ADMINISTRATOR = frozenset(Permission) - {_P.ACT} - OF_USERS

# Only the administrators and the auditor may see screens, live or recorded (mission M2, M6). The auditor may block a
# session they watch (M3 happens inside the live view) but not end it, and keep a recording (M7) but not purge one; the
# operator may act on sessions without seeing them.
ROLES: Mapping[str, frozenset[Permission]] = {
    "PAM Administrator": _ADMINISTRATOR,
    "PAM Auditor": frozenset(
        {
            _P.LIST, _P.WATCH, _P.BLOCK, _P.MESSAGE, _P.REPLAY, _P.LOG, _P.SEARCH, _P.EXPORT, _P.REVIEW, _P.BLOCKS, _P.HOLD,
            _P.ASK, _P.STATUS,
        }
    ),
    "PAM Operator": frozenset({_P.LIST, _P.BLOCK, _P.DROP, _P.MESSAGE, _P.LOG, _P.BLOCKS, _P.ASK, _P.STATUS}),
    "System Administrator": _ADMINISTRATOR,
    CONSOLE: frozenset({_P.ACT}),
}  # fmt: skip


class Role(Protocol):
    """A role of the configuration."""

    @property
    def name(self) -> str:
        """What operators and users hold it by."""

    @property
    def permissions(self) -> Iterable[str]:
        """The permissions it gives, by name."""


def roles_with(configured: Iterable[Role]) -> Mapping[str, frozenset[Permission]]:
    """Give the table of roles: the built-in ones, and those of the configuration beside them."""
    own = {role.name: frozenset(map(Permission, role.permissions)) for role in configured}
    return {**own, **ROLES}  # a built-in one is what it is


def allowed(roles: Iterable[str], table: Mapping[str, frozenset[Permission]]) -> frozenset[Permission]:
    """Give what these roles together allow; a role that is not in the table allows nothing."""
    return frozenset().union(*(table.get(role, frozenset()) for role in roles))
