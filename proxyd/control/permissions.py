"""Who is at the other end of the control socket: the operator behind a connection, and the person they act for.

Rule 1: the kernel says who connects (SO_PEERCRED, SO_PEERGROUPS); nothing a client sends changes it.
Rule 2: someone no entry of the config names may do nothing, and is told which key to set.
Rule 3: a client that may act for others names a user of the configuration; that user's permissions count then, not its
        own, and whatever is written down names both.
Rule 4: who may do what is the table of `proxyd.governance.permissions`; a reload changes it for connections that are open.
"""

from __future__ import annotations

import ipaddress
import pwd
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from proxyd.config import Operator
from proxyd.control.client import Code, ControlError
from proxyd.governance.permissions import OF_USERS, ROLES, Permission, allowed, roles_with

if TYPE_CHECKING:
    from proxyd.config import Config

__all__ = ["ROLES", "Caller", "Permission", "acting_for", "acting_roles", "identify", "peer_of", "renewed"]

SO_PEERGROUPS = 59  # Linux 4.13, <asm-generic/socket.h>; Python's socket module has no name for it
MAX_GROUPS = 256  # what one getsockopt of Python's can hold (1024 bytes of 4-byte ids)
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: `name` is what ledger and tape say, `user` the proxyd user they are, or "".

    `via` is the operator who acts for them, "" where they ask themselves; `address` where they sit, as `via` says.
    """

    name: str
    uid: int
    user: str
    roles: tuple[str, ...]
    via: str = ""
    address: str = ""
    table: Mapping[str, frozenset[Permission]] = field(
        default_factory=lambda: ROLES, repr=False, compare=False
    )
    groups: frozenset[int] = field(default=frozenset(), repr=False, compare=False)

    @property
    def permissions(self) -> frozenset[Permission]:
        """What all roles together allow."""
        return allowed(self.roles, self.table)

    @property
    def person(self) -> str:
        """What a request to view and a list of auditors know them by."""
        return self.user or self.name

    @property
    def signed(self) -> str:
        """Give both names in one, where there is one field for them."""
        return f"{self.name} by {self.via}" if self.via else self.name

    @property
    def signature(self) -> dict[str, str]:
        """Give what the ledger says of who did it: `who`, and for whom others act by whom and from where."""
        told = {"who": self.name, "via": self.via, "address": self.address}
        return {key: value for key, value in told.items() if value or key == "who"}

    def require(self, permission: Permission) -> None:
        """Return if allowed. Raises ControlError that names the permission and the roles which have it."""
        if permission in OF_USERS:
            self.require_user()
            return
        if permission in self.permissions:
            return
        having = " or ".join(role for role, permissions in self.table.items() if permission in permissions)
        held = ", ".join(self.roles) or "no role"
        text = f"{self.name} ({held}) may not do this: it takes {permission}, which {having} has"
        raise ControlError(Code.DENIED, text)

    def require_user(self) -> str:
        """Give the user of the proxy they are. Raises ControlError where the configuration names none."""
        if self.user:
            return self.user
        text = f"this is for users of the proxy: {self.name}'s entry of [[control.operators]] says not which user they are"
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


def identify(config: Config, uid: int, groups: frozenset[int]) -> Caller:
    """Find the operator for a uid, else for one of its groups; reads the password database.

    An entry for a group stands for many people, so ledger and tape get the login name, which is also taken
    as their proxyd user. Raises ControlError naming the uid and the key to set in the configuration.
    """
    entry, name, user = _operator_of(config.control.operators, uid, groups)
    if entry is None:
        text = (
            f"uid {uid} is no operator: add a [[control.operators]] entry with uid = {uid} to {config.path}"
        )
        raise ControlError(Code.DENIED, text)
    table = roles_with(config.control.roles)
    return Caller(name, uid, user, tuple(entry.roles), table=table, groups=groups)


def _operator_of(
    operators: Sequence[Operator], uid: int, groups: frozenset[int]
) -> tuple[Operator | None, str, str]:
    """Give the entry, and what the person behind it is called, as operator and as user of the proxy."""
    for entry in operators:
        if entry.uid == uid:
            return entry, entry.name, entry.user
    for entry in operators:
        if entry.uid is None and entry.gid in groups:
            name = _login_name(uid)
            return entry, name or f"{entry.name}:{uid}", entry.user or name
    return None, "", ""


def acting_for(config: Config, caller: Caller, user: str, address: str) -> Caller:
    """Give the person a client acts for (rule 3): their roles are the user's own, and those of operators who are them.

    Raises ControlError: the client may not act for others, there is no such user, or `address` is none.
    """
    caller.require(Permission.ACT)
    if user not in config.users:
        raise ControlError(Code.NOT_FOUND, f"no user {user}: see proxyctl users list")
    roles, table = acting_roles(config, user)
    return Caller(user, caller.uid, user, roles, caller.name, _address(address), table, caller.groups)


def acting_roles(config: Config, user: str) -> tuple[tuple[str, ...], Mapping[str, frozenset[Permission]]]:
    """Give a known user's roles at the control socket, and the table of all roles."""
    table = roles_with(config.control.roles)
    own = [role for role in config.users[user].roles if role in table]
    lent = [role for entry in config.control.operators if entry.user == user for role in entry.roles]
    return tuple(dict.fromkeys(own + lent)), table


def renewed(config: Config, caller: Caller) -> Caller:
    """Give a caller as this configuration has them. Raises ControlError when it has them no longer."""
    operator = identify(config, caller.uid, caller.groups)
    return acting_for(config, operator, caller.user, caller.address) if caller.via else operator


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise ControlError(
            Code.FORMAT, "not a request: the address of who it is for is no IP address"
        ) from None


def _login_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
