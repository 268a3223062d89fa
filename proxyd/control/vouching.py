"""Who signs in to the console, and whom operators help who has lost a second factor.

Rule 1: the console checks the password, of which it has the hash; whether that is enough, and every code, is said here: what
        is used up in one place is used up in all.
Rule 2: an operator's recovery code stands for a second factor once, beside the password, at the console alone. Nobody makes
        one for themselves where they have to show a second factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from proxyd import enrolled
from proxyd.control.client import Code, ControlError
from proxyd.control.owning import Change, carry_out, second

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user whose password was right, the code they typed with it, and the address they come from."""

    user: _Name
    code: Annotated[str, msgspec.Meta(max_length=64)] = ""
    address: Annotated[str, msgspec.Meta(max_length=64)] = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(user={self.user!r})"


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user."""

    user: _Name


async def sign_in(services: Services, caller: Caller, wanted: SignIn) -> dict[str, Any]:
    """Say whether these sign a user in to the console; `why` says for its log what is missing, "" when nothing is."""
    name, console = wanted.user, services.config.console
    done = frozenset({"password"})
    if wanted.code:
        if not await second(services, caller, name, wanted.code, wanted.address):
            return {"why": "one-time code"}
        done |= {"totp"}
    if (console is None or console.second_factor) and "totp" not in done:
        return {"why": "no one-time code"}
    if services.access.missing(name, done) != frozenset():
        return {"why": "needs more factors"}
    return {"why": "" if services.access.welcomes(name, wanted.address) else "address"}


async def recovery_code(services: Services, caller: Caller, wanted: Person) -> dict[str, Any]:
    """Make a recovery code for a user, beside those they have; raises ControlError."""
    name = wanted.user
    user = services.access.user(name)
    if user is None:
        raise ControlError(Code.NOT_FOUND, f"no user {name}: see proxyctl users list")
    if caller.user == name and (user.totp or all("totp" in chain for chain in user.chains)):
        text = f"nobody vouches for their own second factor: {name} is you; ask another operator"
        raise ControlError(Code.DENIED, text)
    if len(services.enrolled.of(name).recovery) >= enrolled.RECOVERY_MOST:
        raise ControlError(
            Code.REFUSED, f"{name} has {enrolled.RECOVERY_MOST} unused ones: proxyctl users unenrol {name}"
        )
    (code,) = enrolled.recovery_codes(1)
    digest = enrolled.recovery_digest(code)
    change = Change(name, "recovery-given", "An operator made a recovery code for your account")
    await carry_out(
        services, caller, change, lambda own: msgspec.structs.replace(own, recovery=(*own.recovery, digest))
    )
    return {"user": name, "code": code}


async def unenrol(services: Services, caller: Caller, wanted: Person) -> dict[str, Any]:
    """Take away all that a user has set up: keys, second factor, recovery codes; what the configuration gives them stays."""
    name = wanted.user
    if services.access.user(name) is None:
        raise ControlError(Code.NOT_FOUND, f"no user {name}: see proxyctl users list")
    own = services.enrolled.of(name)
    if caller.user == name and own.totp:
        text = f"nobody takes away their own second factor: {name} is you; ask another operator"
        raise ControlError(Code.DENIED, text)
    change = Change(name, "unenrolled", "An operator removed all you had set up to log in with")
    await carry_out(services, caller, change, lambda _: enrolled.NOTHING)
    return {"user": name, "keys": len(own.keys), "totp": bool(own.totp), "recovery": len(own.recovery)}
