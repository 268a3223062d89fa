"""Security keys and passkeys of users: added and removed by themselves, in a browser; taken away by operators (`vouching`).

Rule 1: adding one, and removing one, takes what any change does (`proving`); the first second factor brings recovery codes.
Rule 2: who has no other second factor keeps one: the last key can be replaced, never taken away.
Rule 3: a key is of one user: one that somebody has already is refused.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import trio

from proxyd import enrolled, passkeys
from proxyd.control.client import Code, ControlError
from proxyd.control.owning import refuse_unless
from proxyd.control.proving import Again, Change, KeyAnswer, carry_out, has_second, prove
from proxyd.enrolled import Enrolment
from proxyd.passkeys import Nameless, Purpose, Unproved

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller

SET_ELSEWHERE: Final = "second factors are set by your administrator here"

Origin = Annotated[str, msgspec.Meta(max_length=300, pattern=r"^https://[\x21-\x7e]+$")]


class Begin(Again, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new key, what it is to be called, and the page's origin, "https://host:port"."""

    name: Annotated[str, msgspec.Meta(max_length=enrolled.MAX_COMMENT)]
    origin: Origin


class Confirm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the browser made of the challenge, as JSON."""

    answer: KeyAnswer


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A challenge for one's own keys, on a page of that origin."""

    origin: Origin


class Remove(Again, frozen=True, forbid_unknown_fields=True):
    """A key of one's own, by its fingerprint."""

    fingerprint: Annotated[str, msgspec.Meta(max_length=100)] = ""


async def begin(services: Services, caller: Caller, wanted: Begin) -> dict[str, Any]:
    """Make the challenge a new key answers; it counts once `confirm` has that."""
    user = caller.require_user()
    refuse_unless(services.config.self_service.second_factor, SET_ELSEWHERE)
    if not (name := passkeys.checked_name(wanted.name)):
        raise ControlError(Code.USAGE, "give the key a name, so that you know it among others")
    own = services.enrolled.of(user).passkeys
    if len(own) >= enrolled.MAX_PASSKEYS:
        raise ControlError(Code.REFUSED, f"you have {enrolled.MAX_PASSKEYS} security keys: remove one first")
    _refuse_nameless(wanted.origin)
    await prove(services, caller, wanted)
    ceremony = services.ceremonies.begin(Purpose.ADD, user, user, wanted.origin, name)
    return {"options": passkeys.options_to_add(ceremony, own)}


async def confirm(services: Services, caller: Caller, wanted: Confirm) -> dict[str, Any]:
    """Take the new key; gives recovery codes where it is the first second factor (rule 1)."""
    user = caller.require_user()
    refuse_unless(services.config.self_service.second_factor, SET_ELSEWHERE)
    try:
        ceremony = services.ceremonies.take(Purpose.ADD, user)
        read = functools.partial(passkeys.added, wanted.answer, ceremony, time.time())
        fresh = await trio.to_thread.run_sync(read)
    except Unproved as error:
        raise ControlError(Code.REFUSED, f"the key was not added, {error}: begin again") from None
    if services.enrolled.has_passkey(fresh.id):
        raise ControlError(Code.REFUSED, "somebody has this key already")
    codes = [] if has_second(services, user) else enrolled.recovery_codes()

    def add(own: Enrolment) -> Enrolment:
        recovery = tuple(map(enrolled.recovery_digest, codes)) or own.recovery
        return msgspec.structs.replace(own, passkeys=(*own.passkeys, fresh), recovery=recovery)

    told = (("name", fresh.name), ("fingerprint", fresh.mark))
    change = Change(user, "passkey-added", "A security key was added to your account", told)
    await carry_out(services, caller, change, add)
    return {"name": fresh.name, "fingerprint": fresh.mark, "codes": codes}


async def challenge(services: Services, caller: Caller, wanted: Ask) -> dict[str, Any]:
    """Make a challenge by which one's key proves who one is, in place of a code."""
    user = caller.require_user()
    own = passkeys.usable(services.enrolled.of(user).passkeys, wanted.origin)
    if not own:
        raise ControlError(Code.REFUSED, "you have no security key for this address of the console")
    ceremony = services.ceremonies.begin(Purpose.PROVE, user, user, wanted.origin)
    return {"options": passkeys.options_to_show(ceremony, own)}


async def remove(services: Services, caller: Caller, wanted: Remove) -> dict[str, Any]:
    """Remove a key of the caller's."""
    user = caller.require_user()
    own = services.enrolled.of(user).passkeys
    found = next((one for one in own if one.mark == wanted.fingerprint), None)
    if found is None:
        raise ControlError(Code.NOT_FOUND, "you have no such security key")
    if len(own) == 1 and not services.access.users[user].totp:
        text = "it is your only second factor, which can be replaced, not taken away: add another key first"
        raise ControlError(Code.REFUSED, text)
    await prove(services, caller, wanted)

    def without(kept: Enrolment) -> Enrolment:
        left = tuple(one for one in kept.passkeys if one.id != found.id)
        return msgspec.structs.replace(kept, passkeys=left)

    told = (("name", found.name), ("fingerprint", found.mark))
    change = Change(user, "passkey-removed", "A security key was removed from your account", told)
    await carry_out(services, caller, change, without)
    return {"name": found.name, "fingerprint": found.mark}


def _refuse_nameless(origin: str) -> None:
    try:
        passkeys.place_of(origin)
    except Nameless as error:
        raise ControlError(Code.REFUSED, str(error)) from None
