"""Session tokens: random passwords of a few minutes, each for one user and one target, given in place of a password.

Whoever issues one vouches for the user: it logs in alone, also where the user would have to show a second factor.

Rule 1: they are kept in memory, as NT hashes: a restart ends them, and no file, log or repr holds one.
Rule 2: a token opens sessions until it expires. Once used it is good for the reconnects of that session: while the
        session lives, and `reconnect` seconds behind its end. Never for another user or target.
Rule 3: whoever was dropped does not come back by the same token: `revoke`.
Rule 4: a user has at most MAX_PER_USER; the oldest goes.
Rule 5: a token that is `once` opens one session and is gone with its beginning: no second one, no reconnect.
Rule 6: no clock: `now` is in seconds, of whatever clock, always the same.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxyd.errors import Denied
from proxyd.verifiers import nt_key

LIFETIME: Final = 300.0  # seconds to open the file one was given
MAX_LIFETIME: Final = 3600.0  # seconds: one that lies about for longer is a password
RECONNECT: Final = (
    600.0  # seconds: what mstsc and FreeRDP spend on trying again, and a walk to the next access point
)
TOKEN_BYTES: Final = 15  # 120 bits, 24 characters of base32
MAX_PER_USER: Final = 32  # each is tried at a login: 10 us


class Issued(NamedTuple):
    """A token's text, which is given out once, and when it expires."""

    text: str
    expires: float

    def __repr__(self) -> str:
        return f"{type(self).__name__}(expires={self.expires})"


@dataclass(slots=True, repr=False, eq=False)
class Token:
    """What is kept of one."""

    user: str
    target: str
    issuer: str
    nt_key: bytes
    expires: float
    once: bool = False
    sessions: int = 0  # that live now

    def good(self, now: float) -> bool:
        """Tell whether it opens a session."""
        return self.sessions > 0 or now < self.expires


class Tokens:
    """All tokens of a daemon; `reconnect` in seconds."""

    def __init__(self, reconnect: float = RECONNECT) -> None:
        self._reconnect = reconnect
        self._of: dict[str, list[Token]] = {}

    def issue(
        self,
        user: str,
        target: str,
        now: float,
        *,
        issuer: str,
        lifetime: float = LIFETIME,
        once: bool = False,
    ) -> Issued:
        """Make a token that is good for `lifetime` seconds; `issuer`: who vouches for the user."""
        self._forget(now)
        text = base64.b32encode(secrets.token_bytes(TOKEN_BYTES)).decode().lower()
        expires = now + lifetime
        mine = self._of.setdefault(user, [])
        mine.append(Token(user, target, issuer, nt_key(text), expires, once))
        del mine[:-MAX_PER_USER]
        return Issued(text, expires)

    def good(self, user: str, now: float) -> tuple[Token, ...]:
        """Give those a user may log in with now."""
        return tuple(token for token in self._of.get(user, ()) if token.good(now))

    def find(self, user: str, text: str, now: float) -> Token | None:
        """Find the user's token; None: there is none that is good now. Takes the same time for every user but by 1 us."""
        key = nt_key(text)
        found = None
        for token in self.good(user, now):
            if secrets.compare_digest(token.nt_key, key):
                found = token
        return found

    @contextmanager
    def opening(self, token: Token | None, clock: Callable[[], float]) -> Iterator[None]:
        """Hold a token for as long as a session it opened; then the time to reconnect begins (rule 2).

        Raises Denied for one that is good once and was used (rule 5).
        """
        if token is None:
            yield
            return
        if token.once:
            if token not in self._of.get(token.user, ()):
                raise Denied("This session token was used already; get a new one.")
            self.revoke(token)
        token.sessions += 1
        try:
            yield
        finally:
            token.sessions -= 1
            token.expires = clock() + self._reconnect

    def revoke(self, token: Token) -> None:
        """End it at once, whatever sessions it opened (rule 3)."""
        mine = self._of.get(token.user, [])
        if token in mine:
            mine.remove(token)

    def revoke_all(self, user: str, target: str = "") -> int:
        """End all of a user, or those for one target; gives how many there were."""
        ended = [token for token in self._of.get(user, ()) if target in ("", token.target)]
        for token in ended:
            self.revoke(token)
        return len(ended)

    def _forget(self, now: float) -> None:
        good = {user: [token for token in mine if token.good(now)] for user, mine in self._of.items()}
        self._of = {user: mine for user, mine in good.items() if mine}
