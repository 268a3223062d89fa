"""What may be asked at the control socket: one table, name -> permission, arguments, answer.

Rule 1: what is not in COMMANDS can't be asked; what is, is checked for its permission before its arguments are used.
Rule 2: arguments are typed; unknown ones are refused, so that a misspelt filter never lists everything.
Rule 3: whoever sees a recording or a live screen is in the ledger before they see a recording, and when they
        leave a live one; a live view is on the tape from its first moment.
Rule 4: answers hold text and numbers only: never a password hash, and no secret but one that was just made for its owner.
        Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from proxyd.control import (
    commenting,
    enrolling,
    exporting,
    fetching,
    keeping,
    listing,
    operating,
    owning,
    proving,
    reading,
    reviewing,
    signins,
    vouching,
    watching,
)
from proxyd.control.issue import RdpFile, RdpRevoke, issue, revoke
from proxyd.control.listing import Nothing, One
from proxyd.control.noting import note
from proxyd.control.permissions import Caller, Permission
from proxyd.control.searching import Search, search
from proxyd.control.seeing import Read
from proxyd.control.watching import Desktop, Send

if TYPE_CHECKING:
    from proxyd.access import Access
    from proxyd.archive import Archive
    from proxyd.config import Config
    from proxyd.enrolled import Enrolled
    from proxyd.exports import Exports
    from proxyd.fronts import Front
    from proxyd.indexing.pool import Indexer
    from proxyd.notifications import Notifier
    from proxyd.passkeys import Ceremonies
    from proxyd.recorder.catalog import Catalog
    from proxyd.recorder.ledger import Ledger
    from proxyd.recorder.recorder import Recorder
    from proxyd.recorder.reviews import Reviews
    from proxyd.search.feed import Feed
    from proxyd.session import Registry
    from proxyd.tokens import Tokens


class Services(Protocol):
    """What the daemon gives to the control socket."""

    @property
    def config(self) -> Config:
        """The configuration in force; replaced whole by a reload."""

    @property
    def registry(self) -> Registry:
        """The live sessions."""

    @property
    def recorder(self) -> Recorder:
        """The recorder, with its live tapes."""

    @property
    def catalog(self) -> Catalog:
        """Sessions and blocks."""

    @property
    def ledger(self) -> Ledger:
        """What was done, for good."""

    @property
    def archive(self) -> Archive:
        """What is kept, held and purged."""

    @property
    def exports(self) -> Exports:
        """What is exported now."""

    @property
    def notifier(self) -> Notifier:
        """Who has people told."""

    @property
    def reviews(self) -> Reviews:
        """Auditors of sessions, and requests to view them."""

    @property
    def indexer(self) -> Indexer:
        """What decodes live sessions."""

    @property
    def search(self) -> Feed | None:
        """What keeps the search index; None: there is none."""

    @property
    def access(self) -> Access:
        """Who may reach what; replaced whole by a reload."""

    @property
    def tokens(self) -> Tokens:
        """The session tokens."""

    @property
    def enrolled(self) -> Enrolled:
        """What users set up themselves to log in with."""

    @property
    def pending(self) -> owning.Pending:
        """What they are setting up."""

    @property
    def consoles(self) -> signins.Consoles:
        """The consoles, and who is signed in to them."""

    @property
    def ceremonies(self) -> Ceremonies:
        """The challenges security keys are to answer."""

    @property
    def fronts(self) -> Mapping[str, Front]:
        """The open listeners, as clients see them."""

    @property
    def tickets(self) -> fetching.Tickets:
        """Who may read which recording in the store."""

    started_at: float

    def settle(self) -> None:
        """Have what users set up count from now on."""

    async def reload(self) -> str:
        """Read the configuration again; give a sentence about it. Raises ConfigError, and changed nothing."""


async def _reload(services: Services, caller: Caller, _: Nothing) -> dict[str, Any]:
    message = await services.reload()
    await note(services, caller, "reload")
    return {"message": message}


Answer = Callable[[Services, Caller, Any], Awaitable[dict[str, Any]]]
Streaming = Callable[[Services, Caller, Any, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table; `stream` instead of `answer` for a command that runs until someone leaves."""

    permission: Permission
    arguments: type[msgspec.Struct]
    answer: Answer | None = None
    stream: Streaming | None = None


_P = Permission
COMMANDS: Mapping[str, Command] = {
    "status": Command(_P.STATUS, Nothing, listing.status),
    "sessions": Command(_P.LIST, listing.Filter, listing.sessions),
    "show": Command(_P.LIST, One, listing.show),
    "watch": Command(_P.WATCH, watching.View, stream=watching.watch),
    "look": Command(_P.WATCH, Desktop, stream=watching.look),
    "picture": Command(_P.WATCH, Desktop, watching.picture),
    "block": Command(_P.BLOCK, operating.Action, operating.block),
    "unblock": Command(_P.BLOCK, operating.Release, operating.unblock),
    "blocked": Command(_P.BLOCKS, Nothing, listing.blocked),
    "message": Command(_P.MESSAGE, operating.Message, operating.message),
    "drop": Command(_P.DROP, operating.Action, operating.drop),
    "verify": Command(_P.LOG, One, reading.verify),
    "fetch": Command(_P.LIST, fetching.Range, fetching.fetch),
    "export-job": Command(_P.EXPORT, exporting.Begin, stream=exporting.begin),
    "export-resume": Command(_P.EXPORT, exporting.Resume, stream=exporting.resume),
    "export-ask": Command(_P.EXPORT, exporting.Wanted, exporting.ask),
    "export-waiting": Command(_P.ACT, Nothing, exporting.waiting),
    "export-told": Command(_P.EXPORT, exporting.Told, exporting.told),
    "export-sign": Command(_P.EXPORT, exporting.Sign, exporting.sign),
    "export-end": Command(_P.EXPORT, exporting.End, exporting.end),
    "export-cancel": Command(_P.EXPORT, exporting.One, exporting.cancel),
    "export-fetch": Command(_P.EXPORT, exporting.Piece, exporting.fetch),
    "export-piece": Command(_P.EXPORT, fetching.Range, exporting.piece),
    "exports": Command(_P.LIST, exporting.Filter, exporting.exports),
    "search": Command(_P.SEARCH, Search, search),
    "read": Command(_P.LIST, Read, reading.read),
    "views": Command(_P.LIST, One, listing.seen_by),
    "auditors": Command(_P.LIST, reviewing.Auditors, reviewing.auditors),
    "set-auditors": Command(_P.AUDITORS, reviewing.SetAuditors, reviewing.set_auditors),
    "comments": Command(_P.LIST, commenting.List, commenting.comments),
    "comment": Command(_P.REVIEW, commenting.Say, commenting.comment),
    "review": Command(_P.REVIEW, commenting.Review, commenting.review),
    "request": Command(_P.ASK, reviewing.Ask, reviewing.ask),
    "requests": Command(_P.ASK, reviewing.Filter, reviewing.requests),
    "approve": Command(_P.DECIDE, reviewing.Decide, reviewing.approve),
    "deny": Command(_P.DECIDE, reviewing.Decide, reviewing.deny),
    "revoke": Command(_P.ASK, reviewing.Decide, reviewing.revoke),
    "hold": Command(_P.HOLD, keeping.Keep, keeping.hold),
    "release": Command(_P.HOLD, keeping.Release, keeping.release),
    "holds": Command(_P.LIST, Nothing, keeping.holds),
    "purge": Command(_P.PURGE, keeping.Purge, stream=keeping.purge),
    "rdp-file": Command(_P.ISSUE, RdpFile, issue),
    "rdp-revoke": Command(_P.ISSUE, RdpRevoke, revoke),
    "sign-in": Command(_P.ACT, vouching.SignIn, vouching.sign_in),
    "sign-in-by-key": Command(_P.ACT, vouching.KeySignIn, vouching.sign_in_by_key),
    "sign-ins-join": Command(_P.ACT, Nothing, stream=signins.join),
    "sign-ins-tell": Command(_P.ACT, signins.Told, signins.tell),
    "sign-ins": Command(_P.SIGN_INS, Nothing, signins.sign_ins),
    "sign-out": Command(_P.SIGN_INS, signins.End, signins.sign_out),
    "recovery-code": Command(_P.ISSUE, vouching.Person, vouching.recovery_code),
    "unenrol": Command(_P.ISSUE, vouching.Unenrol, vouching.unenrol),
    "access": Command(_P.OWN, Nothing, owning.access),
    "own-key-add": Command(_P.OWN, owning.KeyAdd, owning.key_add),
    "own-key-remove": Command(_P.OWN, owning.KeyRemove, owning.key_remove),
    "own-totp": Command(_P.OWN, proving.Again, owning.totp_begin),
    "own-totp-confirm": Command(_P.OWN, owning.Confirm, owning.totp_confirm),
    "own-passkey": Command(_P.OWN, enrolling.Begin, enrolling.begin),
    "own-passkey-confirm": Command(_P.OWN, enrolling.Confirm, enrolling.confirm),
    "own-passkey-challenge": Command(_P.OWN, enrolling.Ask, enrolling.challenge),
    "own-passkey-remove": Command(_P.OWN, enrolling.Remove, enrolling.remove),
    "own-recovery": Command(_P.OWN, proving.Again, owning.recovery),
    "own-desktop": Command(_P.OWN, owning.Desktop, owning.desktop),
    "fsck": Command(_P.STATUS, Nothing, stream=keeping.fsck),
    "reload": Command(_P.RELOAD, Nothing, _reload),
    "users": Command(_P.STATUS, Nothing, listing.users),
}
