"""What proxyd says first: a server speaks before it knows who comes, so what it promises is known from the target.

Rule 1: a listener bound to a target promises what that target has; it is asked once, by reading its greeting.
Rule 2: any other promises what all targets seen so far have in common, and before any was seen what every one has; never
        what MariaDB alone has, for the next target may be a MySQL.
Rule 3: `version` of the listener wins over what a target says; a version decides no layout, so that is harmless.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from proxyd.errors import ProxydError
from proxyd.preamble import Side, read_preamble
from proxyd.protocols.mysql.login_packets import OURS, PASSED, SHAPING, Cap, Greeting, read_greeting
from proxyd.protocols.mysql.talk import LOGIN_BYTES, missing, payload_of
from proxyd.protocols.mysql.threads import Threads
from proxyd.protocols.mysql.wire import WireError
from proxyd.target import dial

if TYPE_CHECKING:
    from proxyd.config import MysqlListen, Target

PROBE_SECONDS: Final = 2.0  # the user waits for it, once
PROBE_AGAIN_SECONDS: Final = 30.0  # after a failure: a target that is down is not knocked at by every client
VERSION: Final = (
    "8.0.36-proxyd"  # drivers choose by it: young enough for every login method, old enough for all
)
CHARSET: Final = 45  # utf8mb4_general_ci: known to MySQL 5.5 and MariaDB 5.5
MAX_PROOFS: Final = 10_000
PROOF_SECONDS: Final = (
    600.0  # MySQL keeps them until it stops; a pool that lives opens connections more often
)


class Promise(NamedTuple):
    """What a greeting says of the server."""

    version: str
    flags: Cap
    charset: int


SAFE: Final = Promise(VERSION, PASSED & ~(SHAPING & ~Cap.PROTOCOL_41), CHARSET)


class Proofs:
    """Digests of passwords that were checked in full, so that a pool's next login costs no argon2 (caching_sha2_password).

    A digest is good for the hash it was checked against, PROOF_SECONDS long; it is in memory only.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, bytes, float]] = {}

    def remember(self, user: str, stored: str, digest: bytes) -> None:
        """Keep the digest of a password that matched the hash `stored`."""
        self._known.pop(user, None)
        while len(self._known) >= MAX_PROOFS:
            del self._known[next(iter(self._known))]
        self._known[user] = (stored, digest, trio.current_time() + PROOF_SECONDS)

    def digest(self, user: str, stored: str | None) -> bytes | None:
        """Give the digest that is good for the user's hash now, None when there is none."""
        known = self._known.get(user)
        if known is None or known[0] != stored or known[2] < trio.current_time():
            return None
        return known[1]


class Greetings:
    """What targets said, and what logins proved, for as long as the daemon lives."""

    def __init__(self) -> None:
        self.proofs = Proofs()
        self._seen: dict[str, Promise] = {}
        self._probes: dict[str, trio.Lock] = {}
        self._failed: dict[str, float] = {}
        self.threads = Threads()

    def learn(self, target: str, greeting: Greeting) -> None:
        """Remember what a target said."""
        self._seen[target] = Promise(greeting.version, greeting.flags & PASSED, greeting.charset)

    async def promise(self, listen: MysqlListen, bound: Target | None) -> Promise:
        """Say what to promise on a listener; waits for a probe at most PROBE_SECONDS."""
        if bound is not None:
            await self._probed(bound)
        found = self._seen.get(bound.name) if bound is not None else self._common()
        version, flags, charset = found or SAFE
        return Promise(listen.version or version, flags | OURS, charset)

    def _common(self) -> Promise | None:
        if not self._seen:
            return None
        last = next(reversed(self._seen.values()))
        common = functools.reduce(operator.and_, (one.flags for one in self._seen.values()))
        return last._replace(flags=common & ~Cap.EXTENDED_METADATA)

    async def _probed(self, target: Target) -> None:
        lock = self._probes.setdefault(target.name, trio.Lock())
        async with lock:
            late = trio.current_time() - self._failed.get(target.name, float("-inf"))
            if target.name in self._seen or late < PROBE_AGAIN_SECONDS:
                return
            with trio.move_on_after(PROBE_SECONDS):
                try:
                    self.learn(target.name, await _greeting(target))
                except (ProxydError, WireError):
                    pass
                else:
                    return
            self._failed[target.name] = trio.current_time()


async def _greeting(target: Target) -> Greeting:
    sock = await dial(target)
    with sock:
        raw = await read_preamble(
            sock, missing, side=Side.TARGET, limit=LOGIN_BYTES, seconds=target.connect_seconds
        )
    return read_greeting(payload_of(raw, 0))
