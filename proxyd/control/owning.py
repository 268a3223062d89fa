"""What users do for themselves: see what they may reach and how, and set up what they log in with.

Rule 1: everything here is about the caller's own user: no argument names another.
Rule 2: a change takes what `proving` asks for, and happens as it says: in the ledger, told to the user, at once.
Rule 3: what may be set up the configuration says (`self_service`); a second factor can be replaced, never taken away.
Rule 4: a secret is answered once, to whoever set it up: that of a device until its first code is there, recovery codes,
        a session token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import pyotp

from proxyd import connecting, enrolled
from proxyd.config_values import key_data
from proxyd.control.client import Code, ControlError
from proxyd.control.issue import RdpFile, hand_out
from proxyd.control.proving import Again, Change, CodeText, carry_out, has_second, prove
from proxyd.enrolled import OWN_DEVICE, BadKey, Enrolment, Key
from proxyd.fronts import SPOKEN

if TYPE_CHECKING:
    from proxyd.access import Permit
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller

PENDING_S: Final = 600.0  # to scan a code and type what the device shows
PENDING_MOST: Final = 1000  # users who do so at once
SECRET_LENGTH: Final = 32  # of base32: 160 bits, RFC 4226 4 R6


class KeyAdd(Again, frozen=True, forbid_unknown_fields=True):
    """A public key as OpenSSH writes it."""

    line: Annotated[str, msgspec.Meta(max_length=2 * enrolled.MAX_LINE)] = ""


class KeyRemove(Again, frozen=True, forbid_unknown_fields=True):
    """A key of one's own, by its fingerprint."""

    fingerprint: Annotated[str, msgspec.Meta(max_length=100)] = ""


class Confirm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first code that a new device shows."""

    code: CodeText


class Desktop(Again, frozen=True, forbid_unknown_fields=True):
    """A desktop, and the account there."""

    target: Annotated[str, msgspec.Meta(max_length=256)] = ""
    login: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Pending:
    """Secrets of devices that have not shown a code yet, in memory; the oldest gives way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: dict[str, tuple[str, float]] = {}

    def put(self, user: str, secret: str) -> None:
        """Keep one for PENDING_S, in place of any other of that user."""
        self._of.pop(user, None)
        while len(self._of) >= PENDING_MOST:
            del self._of[next(iter(self._of))]
        self._of[user] = (secret, self._clock() + PENDING_S)

    def get(self, user: str) -> str:
        """Give it; "" when there is none any more."""
        secret, until = self._of.get(user, ("", 0.0))
        return secret if self._clock() < until else ""

    def drop(self, user: str) -> None:
        """Forget it."""
        self._of.pop(user, None)


async def access(services: Services, caller: Caller, _: object) -> dict[str, Any]:
    """Say what the caller may reach, how, and what they log in with."""
    name = caller.require_user()
    user, own = services.access.users[name], services.enrolled.of(name)
    return {
        "user": name,
        "may": msgspec.structs.asdict(services.config.self_service),
        "fronts": {key: _front(services, key) for key in services.fronts},
        "targets": _reachable(services, caller),
        "keys": _keys(services, name),
        "password": user.password is not None,
        "totp": {
            "has": user.totp is not None,
            "own": user.totp == OWN_DEVICE,
            "since": own.totp_at or None,
        },
        "passkeys": _passkeys(services, name),
        "recovery": len(own.recovery),
        "factors": [sorted(chain) for chain in user.chains],
    }


def _front(services: Services, protocol: str) -> dict[str, Any]:
    front = services.fronts[protocol]
    shown = [enrolled.fingerprint(key_data(line)) for line in front.keys]
    wanted = front.certificate and protocol != "rdp"  # desktops are known by the fingerprint
    file = connecting.certificate_file(front) if wanted else ""
    told = {"fingerprints": shown, "trust": connecting.trust(front), "file": file}
    return asdict(front) | {"keys": list(front.keys)} | told


def _reachable(services: Services, caller: Caller) -> list[dict[str, Any]]:
    found = []
    for protocol in SPOKEN:
        front = services.fronts.get(protocol)
        permits = services.access.reachable(caller.user, caller.address, protocol) if front else []
        found += [
            _way(services, permit) for permit in permits if front and front.bound in ("", permit.target.name)
        ]
    return found


def _way(services: Services, permit: Permit) -> dict[str, Any]:
    target, front = permit.target, services.fronts[permit.target.protocol]
    wish = connecting.Wish(permit.user, permit.account, target.name, permit.channels)
    return {
        "protocol": target.protocol,
        "target": target.name,
        "login": permit.account,
        "description": target.description,
        "channels": sorted(permit.channels),
        "expires": permit.expires,
        "username": connecting.username(front, wish),
        "ways": [{"name": name, "command": command} for name, command in connecting.ways(front, wish)],
    }


def _keys(services: Services, name: str) -> list[dict[str, Any]]:
    added = {key.line: key.added_at for key in services.enrolled.of(name).keys}
    used = services.enrolled.used(name)
    lines = [*services.access.users[name].keys, *added]
    counting = frozenset(services.access.users[name].keys)
    return [
        {
            "fingerprint": (mark := enrolled.fingerprint(key_data(line))),
            "kind": line.split()[0],
            "comment": " ".join(line.split()[2:]),
            "own": line in added,
            "counts": line in counting,
            "added_at": added.get(line),
            "used_at": used.get(mark),
        }
        for line in dict.fromkeys(lines)
    ]


def _passkeys(services: Services, name: str) -> list[dict[str, Any]]:
    used = services.enrolled.used(name)
    return [
        {
            "fingerprint": one.mark,
            "name": one.name,
            "place": one.place,
            "added_at": one.added_at,
            "used_at": used.get(one.mark),
        }
        for one in services.enrolled.of(name).passkeys
    ]


async def key_add(services: Services, caller: Caller, wanted: KeyAdd) -> dict[str, Any]:
    """Add an SSH key of the caller's; it logs in at once."""
    name = caller.require_user()
    refuse_unless(services.config.self_service.keys, "keys are set by your administrator here")
    try:
        line = enrolled.checked_line(wanted.line)
    except BadKey as error:
        raise ControlError(Code.USAGE, str(error)) from None
    data = key_data(line)
    if data in map(key_data, services.access.users[name].keys):
        raise ControlError(Code.REFUSED, "you have this key already")
    if len(services.enrolled.of(name).keys) >= enrolled.MAX_KEYS:
        raise ControlError(Code.REFUSED, f"you have {enrolled.MAX_KEYS} keys: remove one first")
    await prove(services, caller, wanted)

    mark = enrolled.fingerprint(data)
    title = "An SSH key was added to your account"
    await carry_out(
        services,
        caller,
        Change(name, "key-added", title, (("fingerprint", mark),)),
        lambda own: msgspec.structs.replace(own, keys=(*own.keys, Key(line, time.time()))),
    )
    return {"fingerprint": mark}


async def key_remove(services: Services, caller: Caller, wanted: KeyRemove) -> dict[str, Any]:
    """Remove an SSH key the caller added; sessions it opened go on."""
    name = caller.require_user()
    own = [key for key in services.enrolled.of(name).keys if _mark(key) == wanted.fingerprint]
    if not own:
        raise ControlError(
            Code.NOT_FOUND, "you added no such key; those of the configuration its administrator removes"
        )
    await prove(services, caller, wanted)

    def remove(kept: Enrolment) -> Enrolment:
        left = tuple(key for key in kept.keys if _mark(key) != wanted.fingerprint)
        return msgspec.structs.replace(kept, keys=left)

    title = "An SSH key was removed from your account"
    change = Change(name, "key-removed", title, (("fingerprint", wanted.fingerprint),))
    await carry_out(services, caller, change, remove)
    return {"fingerprint": wanted.fingerprint}


async def totp_begin(services: Services, caller: Caller, wanted: Again) -> dict[str, Any]:
    """Make the secret of a new device; it counts once `totp_confirm` has its first code."""
    name = caller.require_user()
    refuse_unless(
        services.config.self_service.second_factor, "second factors are set by your administrator here"
    )
    await prove(services, caller, wanted)
    secret = pyotp.random_base32(SECRET_LENGTH)
    services.pending.put(name, secret)
    issuer = f"proxyd {services.config.node}"
    return {"secret": secret, "uri": pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=issuer)}


async def totp_confirm(services: Services, caller: Caller, wanted: Confirm) -> dict[str, Any]:
    """Take a new device whose code this is in place of any other; gives new recovery codes."""
    name = caller.require_user()
    refuse_unless(
        services.config.self_service.second_factor, "second factors are set by your administrator here"
    )
    secret = services.pending.get(name)
    if not secret:
        raise ControlError(Code.REFUSED, "there is no new device to confirm: begin again")
    if not services.access.redeem(name, wanted.code, secret, new=True):
        raise ControlError(Code.DENIED, "that is not what the new device shows now: try its next code")
    services.pending.drop(name)
    codes = enrolled.recovery_codes()

    def set_up(own: Enrolment) -> Enrolment:
        digests = tuple(map(enrolled.recovery_digest, codes))
        return msgspec.structs.replace(own, totp=secret, totp_at=time.time(), recovery=digests)

    change = Change(name, "totp-set", "A new authenticator was set up for your account")
    await carry_out(services, caller, change, set_up)
    return {"codes": codes}


async def recovery(services: Services, caller: Caller, wanted: Again) -> dict[str, Any]:
    """Give new recovery codes in place of the old ones."""
    name = caller.require_user()
    refuse_unless(
        services.config.self_service.second_factor, "second factors are set by your administrator here"
    )
    if not has_second(services, name):
        raise ControlError(Code.REFUSED, "recovery codes are for who has a second factor: set one up first")
    await prove(services, caller, wanted)
    codes = enrolled.recovery_codes()
    digests = tuple(map(enrolled.recovery_digest, codes))
    change = Change(name, "recovery-set", "New recovery codes were made for your account")
    await carry_out(services, caller, change, lambda own: msgspec.structs.replace(own, recovery=digests))
    return {"codes": codes}


async def desktop(services: Services, caller: Caller, wanted: Desktop) -> dict[str, Any]:
    """Issue a session token to the caller, good for one session on one desktop; they show all their factors for it."""
    name = caller.require_user()
    refuse_unless(services.config.self_service.rdp_files, "tokens for desktops are issued by operators here")
    shown = await prove(services, caller, wanted)
    if services.access.missing(name, shown) != frozenset():
        text = "your login takes more than a password and a code: ask an operator for a token"
        raise ControlError(Code.REFUSED, text)
    return await hand_out(services, caller, RdpFile(name, wanted.target, wanted.login), once=True)


def _mark(key: Key) -> str:
    return enrolled.fingerprint(key_data(key.line))


def refuse_unless(allowed: bool, text: str) -> None:  # noqa: FBT001 - a question and what to say where it is no
    """Raise ControlError with a text where something is not allowed here."""
    if not allowed:
        raise ControlError(Code.REFUSED, text)
