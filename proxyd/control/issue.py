"""Session tokens from the control socket: who may have one, and what the ledger says of it.

Rule 1: whoever issues a token vouches for its user, so it takes a permission of its own, and the ledger has it before
        the token is given out.
Rule 2: nobody vouches for themselves where they would have to show a second factor; who shows it may have one of their
        own (owning), good for one session.
Rule 3: a token is issued for a target its user is granted now; whether they may still reach it, and from where they
        come, is looked at again at every login.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from proxyd.access import Wanted
from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note
from proxyd.fronts import public_address
from proxyd.tokens import LIFETIME, MAX_LIFETIME

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller

PROTOCOL = "rdp"
SEPARATOR = "%"  # of user, login and target: mstsc takes what is behind @ or before \ for a domain

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class RdpFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token for a user and a target, good for `lifetime` seconds; `login`: the account, where there are several."""

    user: _Name
    target: _Name
    login: Annotated[str, msgspec.Meta(max_length=256)] = ""
    lifetime: Annotated[float, msgspec.Meta(ge=1, le=MAX_LIFETIME)] = LIFETIME


class RdpRevoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tokens of a user, or those for one target."""

    user: _Name
    target: Annotated[str, msgspec.Meta(max_length=256)] = ""


async def issue(services: Services, caller: Caller, wanted: RdpFile) -> dict[str, Any]:
    """Issue a token for somebody, and say what a client has to be told; raises ControlError, Denied."""
    _refuse_second_factor(services, caller, wanted.user)
    return await hand_out(services, caller, wanted)


async def hand_out(
    services: Services, caller: Caller, wanted: RdpFile, *, once: bool = False
) -> dict[str, Any]:
    """Issue a token to whom it is due; `once`: for one session. Raises ControlError, Denied."""
    listen = services.config.listen.rdp
    if listen is None:
        raise ControlError(Code.REFUSED, "there is no listen.rdp: nobody could use the file")
    permit = services.access.granted(wanted.user, wanted.login or None, wanted.target, PROTOCOL)
    target, login = permit.target.name, permit.account
    if listen.target not in ("", target):
        raise ControlError(Code.REFUSED, f"listen.rdp leads to {listen.target} only")
    username = _username(services, Wanted(wanted.user, wanted.login or None, target))
    about = {"user": wanted.user, "target": target, "lifetime": wanted.lifetime} | (
        {"once": True} if once else {}
    )
    await note(services, caller, "token", **about)
    issued = services.tokens.issue(
        wanted.user, target, time.monotonic(), issuer=caller.name, lifetime=wanted.lifetime, once=once
    )
    return {
        "user": wanted.user,
        "target": target,
        "login": login,
        "address": public_address(listen),
        "username": username,
        "token": issued.text,
        "expires": time.time() + wanted.lifetime,
    }


async def revoke(services: Services, caller: Caller, wanted: RdpRevoke) -> dict[str, Any]:
    """End tokens, also those that live sessions would reconnect by; the sessions go on."""
    count = services.tokens.revoke_all(wanted.user, wanted.target)
    await note(services, caller, "revoke-token", user=wanted.user, target=wanted.target, tokens=count)
    return {"user": wanted.user, "target": wanted.target, "revoked": count}


def _refuse_second_factor(services: Services, caller: Caller, name: str) -> None:
    user = services.config.users.get(name)
    if user is None:
        raise ControlError(Code.NOT_FOUND, f"no user {name}: see proxyctl users")
    if caller.user == name and all("totp" in chain for chain in user.chains):
        text = f"nobody vouches for their own second factor: {name} is you; ask another operator"
        raise ControlError(Code.DENIED, text)


def _username(services: Services, wanted: Wanted) -> str:
    """Give what the client says for its user's name; raises ControlError where it would be read as another."""
    parts = (wanted.user, wanted.login, wanted.target)
    name = SEPARATOR.join(part for part in parts if part)
    if services.access.parse_username(name) != wanted:
        raise ControlError(Code.REFUSED, f"{name} can't be told apart as user, login and target: rename one")
    return name
