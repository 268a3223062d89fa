"""How a user proves themselves at the RDP front: by a password, with the code behind it, or by a session token.

Rule 1: whose name it is does not show in the time it takes: NLA tries as many keys for everybody, a password is hashed
        for everybody, also where only an NT hash of it is kept, and for nobody.
Rule 2: NLA proves a password alone, so who must show a second factor logs in without it, the code behind the password,
        or by a token: the operator who issued it vouches for the user.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.tokens import MAX_PER_USER, Token, Tokens
from proxyd.verifiers import nt_key, nt_key_of

if TYPE_CHECKING:
    from proxyd.access import Access
    from proxyd.config import User

CODE_DIGITS: Final = 6  # of a one-time code, behind the password
KEYS: Final = 1 + MAX_PER_USER  # that NLA tries: the password's, and those of tokens; 10 us each
KEY_BYTES: Final = 16

_PASSWORD: Final = frozenset({"password"})


class Proof(NamedTuple):
    """What proved who it is: how, as a session says it, and the token, if it was one. `missing`: a one-time code is."""

    how: str
    token: Token | None = None
    missing: bool = False


class Proofs:
    """What proves users of one configuration; tokens are by `clock`."""

    def __init__(self, access: Access, tokens: Tokens) -> None:
        self.access = access
        self._tokens = tokens
        self.clock = time.monotonic

    def network_level(self, name: str) -> dict[bytes, Proof]:
        """Give the NT keys by which NLA may prove the user of that name, KEYS of them whoever it is (rule 1)."""
        user = self.access.user(name)
        found: dict[bytes, Proof] = {}
        if user is not None:
            found = {token.nt_key: by_token(token) for token in self._tokens.good(name, self.clock())}
        if user is not None and user.nt_hash and _alone(user, _PASSWORD):
            found[nt_key_of(user.nt_hash)] = Proof("nla")
        nobody = Proof("")  # of keys that nobody knows
        return found | {secrets.token_bytes(KEY_BYTES): nobody for _ in range(KEYS - len(found))}

    async def said(self, name: str, text: str, *, behind: bool = True, asks: bool = False) -> Proof | None:
        """Tell whether `text` proves the user of that name: password, password and code, or token; None: it does not.

        `behind`: a code may stand behind the password; `asks`: one that does not will be asked for.
        """
        user = self.access.user(name)
        token = self._tokens.find(name, text, self.clock())
        if token is not None and user is not None:
            return by_token(token)
        needed = frozenset[str]() if user is None else _needed(user)
        code = text[-CODE_DIGITS:] if behind and "totp" in needed else ""
        if asks and not code.isdecimal():
            code = ""
        right = await self._is_password(user, name, text[:-CODE_DIGITS] if code else text)
        if not needed or not right or (code and not await self.access.verify_totp(name, code)):
            return None
        if code or "totp" not in needed:
            return Proof("+".join(sorted(needed)))
        return Proof("password", missing=True) if asks else None

    async def code(self, name: str, digits: str) -> Proof | None:
        """Tell whether these are the one-time code that was missing; None: they are not."""
        return Proof("password+totp") if await self.access.verify_totp(name, digits) else None

    async def _is_password(self, user: User | None, name: str, password: str) -> bool:
        by_nt_hash = user is not None and user.nt_hash and not user.password
        stored = nt_key_of(user.nt_hash) if user and by_nt_hash and user.nt_hash else bytes(KEY_BYTES)
        same = secrets.compare_digest(nt_key(password), stored)
        matched = await self.access.verify_password(name, password)  # also where it can't match (rule 1)
        return same if by_nt_hash else matched


def by_token(token: Token) -> Proof:
    """Give the proof a token is."""
    return Proof(f"token issued by {token.issuer}", token)


def _alone(user: User, factors: frozenset[str]) -> bool:
    """Tell whether these factors log the user in."""
    return any(chain <= factors for chain in user.chains)


def _needed(user: User) -> frozenset[str]:
    """Give the factors a user must show, the fewest that are possible here; none when none are."""
    ways = [chain for chain in user.chains if chain <= {"password", "totp"}]
    return min(ways, key=lambda chain: (len(chain), "totp" in chain), default=frozenset())
