"""Who may do what at the control socket: roles, permissions, and the operator behind a connection.

Rule 1: the kernel says who connects (SO_PEERCRED, SO_PEERGROUPS); nothing a client sends changes it.
Rule 2: a role is one row of ROLES; an operator may do what any of their roles may, and nothing else.
Rule 3: someone no entry of the config names may do nothing, and is told which key to set.
"""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import trio

from proxyd.config import Operator
from proxyd.control.client import Code, ControlError

SO_PEERGROUPS = 59  # Linux 4.13, <asm-generic/socket.h>; Python's socket module has no name for it
MAX_GROUPS = 256  # what one getsockopt of Python's can hold (1024 bytes of 4-byte ids)
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Permission(StrEnum):
    """What a command may ask for; the comment names it as the mission's manual does."""

    LIST = "sessions.list"
    WATCH = "sessions.watch"  # PAM.SessionManagement.Livestream
    BLOCK = "sessions.block"
    DROP = "sessions.drop"
    MESSAGE = "sessions.message"  # whoever may stop a user may tell them why
    REPLAY = "sessions.replay"  # PAM.SessionManagement.Recording
    LOG = "sessions.log"
    BLOCKS = "blocks.list"
    HOLD = "recordings.hold"
    PURGE = "recordings.purge"
    RELOAD = "daemon.reload"
    STATUS = "daemon.status"
    ISSUE = "tokens.issue"  # vouch for a user: a session token logs in alone


_P = Permission
# Only the first three may see screens, live or recorded (mission M2, M6). The auditor may block a session they
# watch (M3 happens inside the live view) but not end it, and keep a recording (M7) but not purge one; the operator may
# act on sessions without seeing them.
ROLES: Mapping[str, frozenset[Permission]] = {
    "System Administrator": frozenset(Permission),
    "PAM Administrator": frozenset(Permission),
    "PAM Auditor": frozenset(
        {_P.LIST, _P.WATCH, _P.BLOCK, _P.MESSAGE, _P.REPLAY, _P.LOG, _P.BLOCKS, _P.HOLD, _P.STATUS}
    ),
    "PAM Operator": frozenset({_P.LIST, _P.BLOCK, _P.DROP, _P.MESSAGE, _P.LOG, _P.BLOCKS, _P.STATUS}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end: `name` is what ledger and tape say, `user` the proxyd user they are, or ""."""

    name: str
    uid: int
    user: str
    roles: tuple[str, ...]

    @property
    def permissions(self) -> frozenset[Permission]:
        """What all roles together allow."""
        return frozenset().union(*(ROLES.get(role, frozenset()) for role in self.roles))

    def require(self, permission: Permission) -> None:
        """Return if allowed. Raises ControlError that names the permission and the roles which have it."""
        if permission in self.permissions:
            return
        having = " or ".join(role for role, permissions in ROLES.items() if permission in permissions)
        held = ", ".join(self.roles) or "no role"
        text = f"{self.name} ({held}) may not do this: it takes {permission}, which {having} has"
        raise ControlError(Code.DENIED, text)


def peer_of(connection: trio.socket.SocketType) -> tuple[int, frozenset[int]]:
    """Ask the kernel for the uid and all group ids of the process that connected."""
    _, uid, gid = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS * 4)
    except OSError:  # an older kernel, or more groups than fit: the first group is known anyway
        packed = b""
    return uid, frozenset({gid, *(number for (number,) in struct.iter_unpack("=I", packed))})


def identify(operators: Sequence[Operator], uid: int, groups: frozenset[int], config: str) -> Caller:
    """Find the operator for a uid, else for one of its groups; reads the password database.

    An entry for a group stands for many people, so ledger and tape get the login name, which is also taken
    as their proxyd user. Raises ControlError naming the uid and the key to set in `config`.
    """
    for entry in operators:
        if entry.uid == uid:
            return Caller(entry.name, uid, entry.user, tuple(entry.roles))
    for entry in operators:
        if entry.uid is None and entry.gid in groups:
            name = _login_name(uid)
            return Caller(name or f"{entry.name}:{uid}", uid, entry.user or name, tuple(entry.roles))
    text = f"uid {uid} is no operator: add a [[control.operators]] entry with uid = {uid} to {config}"
    raise ControlError(Code.DENIED, text)


def _login_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
