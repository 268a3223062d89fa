"""How users prove who they are, beside or behind a sign-in, and how what they log in with changes.

Rule 1: a change takes their password again, and a second factor where they have one: a code, or what a security key
        signs. Wrong ones are counted, and in the ledger.
Rule 2: every change is in the ledger before the answer, is told to the user, and counts at once.
Rule 3: a security key whose counter goes back is refused, in the ledger, and its user is told: there is a copy of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import trio

from proxyd import log, passkeys
from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note
from proxyd.enrolled import Enrolment
from proxyd.governance.notices import Event, Notice
from proxyd.passkeys import Ceremony, Copied, Purpose, Unproved

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.recorder.ledger import Entry

Secret = Annotated[str, msgspec.Meta(max_length=1024)]
CodeText = Annotated[str, msgspec.Meta(max_length=64)]
KeyAnswer = Annotated[str, msgspec.Meta(max_length=passkeys.ANSWER_LENGTH)]

_log = log.get("access")


class WithKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a security key signed, in place of a code: the answer to `own-passkey-challenge`, as JSON."""

    passkey: KeyAnswer = ""


class Again(WithKey, frozen=True, forbid_unknown_fields=True):
    """What a change takes (rule 1)."""

    password: Secret = ""
    code: CodeText = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Change(NamedTuple):
    """What changes for a user: a word for the ledger, a sentence for a mail, and what else there is to say."""

    user: str
    action: str
    title: str
    details: tuple[tuple[str, str], ...] = ()

    @property
    def about(self) -> dict[str, str]:
        """What the ledger and the log have of it."""
        return {"user": self.user, "action": self.action} | dict(self.details)


def has_second(services: Services, name: str) -> bool:
    """Tell whether a known user has a second factor to show."""
    return bool(services.access.users[name].totp or services.enrolled.of(name).passkeys)


async def prove(services: Services, caller: Caller, again: Again) -> frozenset[str]:
    """Have the caller prove again who they are (rule 1); gives the factors. Raises ControlError."""
    name = caller.require_user()
    user, rules = services.access.users[name], services.access
    if not (user.password or has_second(services, name)):
        text = "you have neither a password nor a second factor here to show who you are: ask an operator"
        raise ControlError(Code.REFUSED, text)
    shown = set()
    if user.password:
        if not await rules.verify_own_password(name, again.password):
            await _failed(services, caller, "password")
            raise ControlError(Code.DENIED, "that is not your password")
        shown.add("password")
    if has_second(services, name):
        if again.passkey:
            await _prove_by_key(services, caller, name, again.passkey)
        elif not await second(services, caller, name, again.code):
            await _failed(services, caller, "code")
            text = "that code is not good: each is good once, so wait for the next one your device shows"
            raise ControlError(Code.DENIED, text)
        shown.add("totp")
    return frozenset(shown)


async def _prove_by_key(services: Services, caller: Caller, name: str, answer: str) -> None:
    try:
        ceremony = services.ceremonies.take(Purpose.PROVE, name)
        await by_key(services, caller, ceremony, answer)
    except Unproved as error:
        await _failed(services, caller, f"security key: {error}")
        raise ControlError(Code.DENIED, "that security key did not show that it is you; try again") from None


async def second(services: Services, caller: Caller, name: str, code: str, source: str = "") -> bool:
    """Tell whether a code is a user's, who comes from `source`: their device's, or a recovery code, which is used up."""
    if not code:
        return False
    if code.replace(" ", "").isdecimal():
        return await services.access.verify_totp(name, code)
    if not await services.access.verify_recovery(name, code):
        return False
    left = str(len(services.enrolled.of(name).recovery))
    told = (("left", left), ("source", source or caller.address))
    change = Change(name, "recovery-used", "A recovery code of yours was used", told)
    tell(services, caller, change, await note(services, caller, "credential", **change.about))
    return True


async def by_key(
    services: Services, caller: Caller, ceremony: Ceremony, answer: str, source: str = ""
) -> None:
    """Believe a user's security key, and remember its counter. Raises Unproved, and ConfigError where it can't be."""
    name = ceremony.user
    own = services.enrolled.of(name).passkeys
    known, count = await trio.to_thread.run_sync(passkeys.shown, answer, ceremony, own)
    if count or known.count:
        try:
            await trio.to_thread.run_sync(
                services.enrolled.change, name, lambda now: passkeys.counted(now, known.id, count)
            )
        except Copied as error:
            told = (("name", known.name), ("fingerprint", known.mark), ("source", source or caller.address))
            title = "A security key of yours was refused: somebody seems to have a copy of it"
            entry = await note(
                services, caller, "credential-refused", user=name, why=str(error), **dict(told)
            )
            _log.warning("a security key was refused: its counter went back", user=name, **dict(told))
            _notify(services, caller, Change(name, "passkey-copied", title, told), entry)
            raise
    services.enrolled.note_used(name, known.id, time.time())


async def _failed(services: Services, caller: Caller, what: str) -> None:
    _log.warning(
        "a change to what one logs in with was refused", user=caller.user, source=caller.address, why=what
    )
    await note(services, caller, "credential-refused", user=caller.user, why=what)


async def carry_out(
    services: Services, caller: Caller, change: Change, how: Callable[[Enrolment], Enrolment]
) -> None:
    """Change what a user logs in with: in the ledger first, then on disk, then for logins (rule 2). Raises ConfigError."""
    entry = await note(services, caller, "credential", **change.about)
    await trio.to_thread.run_sync(services.enrolled.change, change.user, how)
    services.settle()
    tell(services, caller, change, entry)


def tell(services: Services, caller: Caller, change: Change, entry: Entry) -> None:
    """Tell the log, and the user, of a change."""
    _log.warning("what a user logs in with has changed", **change.about, by=caller.signed)
    _notify(services, caller, change, entry)


def _notify(services: Services, caller: Caller, change: Change, entry: Entry) -> None:
    told = {"by": caller.signed, "source": caller.address} | dict(change.details)
    notice = Notice(Event.CREDENTIAL, entry.at, "", change.title, (change.user,), told, "/access")
    services.notifier.tell(notice, again=str(entry.n))
