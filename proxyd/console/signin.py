"""Who is signed in to the console: one record for each browser, known by a token only that browser has.

Rule 1: the token is 256 random bits, new at every sign-in; here is only its SHA-256, so nothing here signs anybody in.
Rule 2: a sign-in ends after a time without a request, and after a longer one whatever happens (config.Console).
Rule 3: everything is bounded: sign-ins of one user, of all, and requests of one; the oldest, or the request, gives way.
Rule 4: no clock of its own, nothing on disk: a restart of the console signs everybody out.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from proxyd.config import Console

TOKEN_BYTES: Final = 32  # ASVS 5.0 7.2.3 wants 128 bits of entropy at least
MAX_SIGN_INS: Final = 2000  # a few hundred bytes each
MAX_OF_USER: Final = 10  # browsers of one person
REQUESTS_PER_SECOND: Final = 50.0  # a player that is dragged about asks for some 20 a second
REQUESTS_BURST: Final = 300.0
LIVE_OF_ONE: Final = 8  # live views open in one browser
AGENT: Final = 160  # characters of what a browser calls itself
NUMBER: Final = 16  # digits that tell one's sign-ins apart


@dataclass(slots=True)
class SignIn:
    """One browser of a user. `notice`: what the next page tells; `live`: live views that are open.

    `proof`: the token by which an OpenID Connect provider signed them in, which signs them out there; else "".
    `subject`, `session`: what that calls the person, and their session there.
    """

    user: str
    source: str
    began: float
    seen: float
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES), repr=False)
    notice: str = ""
    live: int = 0
    over: bool = False
    tokens: float = REQUESTS_BURST
    proof: str = field(default="", repr=False)
    subject: str = ""
    session: str = ""
    agent: str = ""
    asked: float = 0.0  # when `tokens` were counted last

    def holds(self, form_token: str) -> bool:
        """Tell whether a form is one this sign-in was given."""
        return hmac.compare_digest(self.form_token.encode(), form_token.encode(errors="replace"))


class SignIns:
    """The sign-ins of one console."""

    def __init__(self, settings: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_s, self._longest_s = settings.idle_minutes * 60, settings.hours * 3600
        self._clock = clock
        self._known: dict[bytes, SignIn] = {}  # by the token's SHA-256, oldest first
        self.changed = trio.Event()  # set, and another one, when somebody was signed in or out

    def __len__(self) -> int:
        return len(self._known)

    def begin(
        self, user: str, source: str, proof: str = "", agent: str = "", by: tuple[str, str] = ("", "")
    ) -> str:
        """Sign a user in; give the token for their browser. `by`: a provider's subject and session."""
        now = self._clock()
        for key in [key for key, one in self._known.items() if not self._good(one, now)]:
            self._forget(key)
        own = [key for key, one in self._known.items() if one.user == user]
        for key in own[: max(len(own) - MAX_OF_USER + 1, 0)] or list(self._known)[: self._too_many()]:
            self._forget(key)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._known[_digest(token)] = SignIn(
            user,
            source,
            now,
            now,
            proof=proof,
            subject=by[0],
            session=by[1],
            agent=agent[:AGENT],
            asked=now,
        )
        self._tell()
        return token

    def all(self) -> dict[str, SignIn]:
        """Give all sign-ins by their numbers, oldest first."""
        now = self._clock()
        return {key.hex()[:NUMBER]: one for key, one in self._known.items() if self._good(one, now)}

    def of(self, user: str) -> dict[str, SignIn]:
        """Give the sign-ins of a user by their numbers, oldest first."""
        return {number: one for number, one in self.all().items() if one.user == user}

    def age(self, at: float) -> float:
        """Say how many seconds ago that was."""
        return max(self._clock() - at, 0.0)

    def end_of(self, user: str, number: str) -> bool:
        """Sign out one browser of a user; False when they have none of that number."""
        for key in [
            key for key, one in self._known.items() if one.user == user and key.hex()[:NUMBER] == number
        ]:
            self._forget(key)
            return True
        return False

    def end_by(self, number: str) -> str:
        """Sign out one browser of anybody; gives whose it was, "" where there is none of that number."""
        for key in [key for key in self._known if key.hex()[:NUMBER] == number]:
            user = self._known[key].user
            self._forget(key)
            return user
        return ""

    def end_from(self, subject: str, session: str) -> int:
        """Sign out whom a provider has: one session there where it and we know that, else all of a person; give how many."""
        gone = [key for key, one in self._known.items() if _is_from(one, subject, session)]
        for key in gone:
            self._forget(key)
        return len(gone)

    def end_others(self, this: SignIn) -> int:
        """Sign out all browsers of a user but this one; give how many."""
        others = [key for key, one in self._known.items() if one.user == this.user and one is not this]
        for key in others:
            self._forget(key)
        return len(others)

    def find(self, token: str, *, counts: bool = True) -> SignIn | None:
        """Give the sign-in a token stands for; None when there is none.

        `counts`: it is a request of somebody who is there, and not a page's own.
        """
        key, now = _digest(token), self._clock()
        found = self._known.get(key)
        if found is None:
            return None
        if not self._good(found, now):
            self._forget(key)
            return None
        if counts:
            found.seen = now
        elapsed, found.asked = now - found.asked, now
        found.tokens = min(REQUESTS_BURST, found.tokens + elapsed * REQUESTS_PER_SECOND)
        return found

    def good(self, one: SignIn) -> bool:
        """Tell whether a sign-in still counts: a live view asks while it runs."""
        return self._good(one, self._clock())

    def take(self, one: SignIn) -> bool:
        """Spend one request; False when there were too many."""
        if one.tokens < 1:
            return False
        one.tokens -= 1
        return True

    def end(self, token: str) -> None:
        """Sign one browser out; idempotent."""
        self._forget(_digest(token))

    def keep(self, users: Callable[[str], bool]) -> None:
        """Sign out whoever is no user any more."""
        for key in [key for key, one in self._known.items() if not users(one.user)]:
            self._forget(key)

    def _good(self, one: SignIn, now: float) -> bool:
        idle = one.live == 0 and now - one.seen >= self._idle_s  # who watches is there
        return not (one.over or idle or now - one.began >= self._longest_s)

    def _forget(self, key: bytes) -> None:
        if found := self._known.pop(key, None):
            found.over = True
            self._tell()

    def _tell(self) -> None:
        told, self.changed = self.changed, trio.Event()
        told.set()

    def _too_many(self) -> int:
        return max(len(self._known) - MAX_SIGN_INS + 1, 0)


def _is_from(one: SignIn, subject: str, session: str) -> bool:
    if session and one.session:
        return session == one.session and subject in ("", one.subject)
    return bool(subject) and subject == one.subject


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
