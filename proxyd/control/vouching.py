"""Who signs in to the console, and whom operators help who has lost a second factor.

Rule 1: the console checks the password, of which it has the hash; whether that is enough, and every code, is said here: what
        is used up in one place is used up in all.
Rule 2: who has security keys, and types no code, is asked for one of them, whatever the configuration says of second
        factors: the challenge is for the one browser whose password was right, and good once.
Rule 3: an operator's recovery code stands for a second factor once, beside the password, at the console alone. Nobody makes
        one for themselves where they have to show a second factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from proxyd import enrolled, passkeys
from proxyd.control.client import Code, ControlError
from proxyd.control.proving import Change, KeyAnswer, by_key, carry_out, has_second, second
from proxyd.enrolled import Enrolment
from proxyd.passkeys import Purpose, Unproved

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Address = Annotated[str, msgspec.Meta(max_length=64)]


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user whose password was right, the code they typed with it, and the address they come from.

    `browser` is what the console knows the browser by, `origin` the page's: for a challenge to a security key.
    """

    user: _Name
    code: Annotated[str, msgspec.Meta(max_length=64)] = ""
    address: _Address = ""
    browser: Annotated[str, msgspec.Meta(max_length=128)] = ""
    origin: Annotated[str, msgspec.Meta(max_length=300)] = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(user={self.user!r})"


class KeySignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the security key of a browser answered, as JSON."""

    browser: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    answer: KeyAnswer
    address: _Address = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user."""

    user: _Name


class Unenrol(Person, frozen=True, forbid_unknown_fields=True):
    """A user, and what of theirs: security keys alone, or all they set up."""

    what: Literal["all", "passkeys"] = "all"


async def sign_in(services: Services, caller: Caller, wanted: SignIn) -> dict[str, Any]:
    """Say whether these sign a user in to the console; `why` says for its log what is missing, "" when nothing is.

    Where a security key is what is missing (passkeys.WANTED), `options` are what the browser asks it by.
    """
    name, console, done = wanted.user, services.config.console, frozenset({"password"})
    own = services.enrolled.of(name).passkeys
    if wanted.code:
        if not await second(services, caller, name, wanted.code, wanted.address):
            return {"why": "one-time code"}
        done |= {"totp"}
    elif wanted.browser and (here := passkeys.usable(own, wanted.origin)):
        ceremony = services.ceremonies.begin(Purpose.ENTER, wanted.browser, name, wanted.origin)
        return {"why": passkeys.WANTED, "options": passkeys.options_to_show(ceremony, here)}
    if (console is None or console.second_factor or own) and "totp" not in done:
        return {"why": "no one-time code"}
    return {"why": _missing(services, name, done, wanted.address)}


async def sign_in_by_key(services: Services, caller: Caller, wanted: KeySignIn) -> dict[str, Any]:
    """Say whom a security key signs in, behind the password of `sign_in`; `why` as there."""
    try:
        ceremony = services.ceremonies.take(Purpose.ENTER, wanted.browser)
        await by_key(services, caller, ceremony, wanted.answer, wanted.address)
    except Unproved as error:
        return {"user": "", "why": f"security key: {error}"}
    done = frozenset({"password", "totp"})
    return {"user": ceremony.user, "why": _missing(services, ceremony.user, done, wanted.address)}


def _missing(services: Services, name: str, done: frozenset[str], address: str) -> str:
    if services.access.missing(name, done) != frozenset():
        return "needs more factors"
    return "" if services.access.welcomes(name, address) else "address"


async def recovery_code(services: Services, caller: Caller, wanted: Person) -> dict[str, Any]:
    """Make a recovery code for a user, beside those they have; raises ControlError."""
    name = wanted.user
    user = services.access.user(name)
    if user is None:
        raise ControlError(Code.NOT_FOUND, f"no user {name}: see proxyctl users list")
    if caller.user == name and (has_second(services, name) or all("totp" in chain for chain in user.chains)):
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


async def unenrol(services: Services, caller: Caller, wanted: Unenrol) -> dict[str, Any]:
    """Take away what a user has set up: keys, second factors, recovery codes; what the configuration gives them stays."""
    name, alone = wanted.user, wanted.what == "passkeys"
    if services.access.user(name) is None:
        raise ControlError(Code.NOT_FOUND, f"no user {name}: see proxyctl users list")
    own = services.enrolled.of(name)
    if caller.user == name and (own.totp or own.passkeys):
        text = f"nobody takes away their own second factor: {name} is you; ask another operator"
        raise ControlError(Code.DENIED, text)
    if alone:
        change = Change(name, "passkeys-removed", "An operator removed your security keys")
    else:
        change = Change(name, "unenrolled", "An operator removed all you had set up to log in with")

    def left(kept: Enrolment) -> Enrolment:
        return msgspec.structs.replace(kept, passkeys=()) if alone else enrolled.NOTHING

    await carry_out(services, caller, change, left)
    gone = Enrolment(passkeys=own.passkeys) if alone else own
    counts = {"keys": len(gone.keys), "passkeys": len(gone.passkeys), "recovery": len(gone.recovery)}
    return {"user": name, "totp": bool(gone.totp), **counts}
