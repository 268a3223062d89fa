"""Who may even try to log in: limits on connections before anybody has proven who they are.

Rule 1: an arriving connection passes three doors: its source's penalty, its source's rate, the number of
    connections still logging in (sshd's MaxStartups, dropped at random between start and full).
Rule 2: a source is an address cut to the configured prefix; an exempt one passes the first two doors.
Rule 3: penalties are OpenSSH's PerSourcePenalties (srclimit.c): they add up to `max`, refuse once more than
    `min` is outstanding, and go on refusing until all is served.
Rule 4: every table is bounded. Memory does not grow with the number of attackers.
Rule 5: no clock, no randomness, no waiting of its own: both are given.
"""

from __future__ import annotations

import heapq
import ipaddress
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from proxyd import config
from proxyd.errors import Denied

MAX_RATE_SOURCES: Final = 65536  # as OpenSSH's penalty tables; the source longest idle gives way
PERCENT: Final = 100

Why = Literal["authfail", "invalid", "noauth", "grace", "refused"]
Door = Literal["startups", "rate", "penalty"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TOLD: Final[dict[Door, str]] = {
    "startups": "Too many people are logging in; try again in a moment.",
    "rate": "Too many connections from your address; slow down and try again.",
    "penalty": "Too many failed logins from your address; try again later.",
}


class Refused(Denied):
    """A connection that may not start; `reason` is the door that was closed."""

    def __init__(self, reason: Door) -> None:
        super().__init__(_TOLD[reason])
        self.reason: Door = reason


@dataclass(slots=True)
class _Penalty:
    expires: float
    active: bool


class _Penalties:
    """The penalties of one address family, forgotten as they expire."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._by_source: dict[Network, _Penalty] = {}
        self._queue: list[
            tuple[float, int, Network]
        ] = []  # one entry a source, never later than its real expiry
        self._entered = 0  # orders entries of equal expiry: networks of equal time are not compared

    def __len__(self) -> int:
        return len(self._by_source)

    def refuses(self, source: Network, now: float) -> bool:
        self._forget(now)
        found = self._by_source.get(source)
        return found is not None and found.active

    def full(self, now: float) -> bool:
        self._forget(now)
        return len(self._by_source) >= self.capacity

    def add(self, source: Network, seconds: float, now: float, limits: config.Penalties) -> None:
        self._forget(now)
        found = self._by_source.get(source)
        if found is None:
            if limits.overflow == "deny-all" and self.full(now):
                return  # everybody is refused already
            found = self._by_source[source] = _Penalty(now, active=False)
            self._enter(now + min(seconds, limits.max), source)
        found.expires = min(found.expires + seconds, now + limits.max)
        found.active = found.active or found.expires - now > limits.min
        while len(self._by_source) > self.capacity:
            self._forget_first()

    def _enter(self, expires: float, source: Network) -> None:
        self._entered += 1
        heapq.heappush(self._queue, (expires, self._entered, source))

    def _forget(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now:
            self._pop_or_push_back(now)

    def _forget_first(self) -> None:
        before = len(self._by_source)
        while len(self._by_source) == before:
            self._pop_or_push_back(self._queue[0][0])

    def _pop_or_push_back(self, now: float) -> None:
        """Take the first entry: it is forgotten if it expires by `now`, else queued where it belongs."""
        _, _, source = heapq.heappop(self._queue)
        if self._by_source[source].expires <= now:
            del self._by_source[source]
        else:
            self._enter(self._by_source[source].expires, source)


class Ticket:
    """A connection that was let in: holds a place among those logging in until it is in, or gone."""

    def __init__(self, admission: Admission, source: Network | None) -> None:
        """`source` None: an exempt one, never penalised."""
        self._admission, self._source = admission, source
        self._waiting = True

    def authenticated(self) -> None:
        """Give the place back: the login is done. Calling it again does nothing."""
        if self._waiting:
            self._waiting = False
            self._admission.left()

    def failed(self, why: Why) -> None:
        """Penalise the source: see config.Penalties for the kinds ("grace": exceeded it; "refused": by policy)."""
        if self._source is not None:
            self._admission.penalise(self._source, why)

    def close(self) -> None:
        """Give the place back: the connection is gone. Calling it again does nothing."""
        self.authenticated()


class Admission:
    """The doors before login; one for the daemon. Plain calls, nothing waits."""

    def __init__(
        self,
        settings: config.Admission,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`clock` gives seconds; `draw` a number in [0, 1)."""
        self._clock, self._draw = clock, draw
        self._waiting = 0
        self._buckets: OrderedDict[Network, tuple[float, float]] = OrderedDict()  # tokens, and when
        self._penalties: dict[int, _Penalties] = {4: _Penalties(1), 6: _Penalties(1)}
        self.reconfigure(settings)

    def reconfigure(self, settings: config.Admission) -> None:
        """Use other limits from now on; penalties being served and places held stay."""
        self._settings = settings
        self._startups = config.parse_startups(settings.max_startups)
        self._exempt = [ipaddress.ip_network(network) for network in settings.exempt]
        self._penalties[4].capacity = settings.penalties.max_sources4
        self._penalties[6].capacity = settings.penalties.max_sources6

    @property
    def waiting(self) -> int:
        """How many connections are logging in now."""
        return self._waiting

    def arrive(self, ip: str) -> Ticket:
        """Let a connection from `ip` in, or raise Refused. ValueError: not an address."""
        source = self.source_of(ip)
        if source is not None:
            if self._is_penalised(source):
                raise Refused("penalty")
            if not self._take_token(source):
                raise Refused("rate")
        if self._is_crowded():
            raise Refused("startups")
        self._waiting += 1
        return Ticket(self, source)

    def left(self) -> None:
        """Count one connection less that is logging in; called by its ticket."""
        self._waiting -= 1

    def penalise(self, source: Network, why: Why) -> None:
        """Add the penalty for `why` to what the source has to serve."""
        limits = self._settings.penalties
        seconds = {
            "authfail": limits.authfail,
            "invalid": limits.invalid,
            "noauth": limits.noauth,
            "grace": limits.grace_exceeded,
            "refused": limits.refuseconnection,
        }[why]
        if seconds > 0:
            self._penalties[source.version].add(source, seconds, self._clock(), limits)

    def source_of(self, ip: str) -> Network | None:
        """Give what `ip` is counted as (Rule 2); None: an exempt one. ValueError: not an address."""
        address = ipaddress.ip_address(ip.partition("%")[0])  # a zone index tells the link, not the peer
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in network for network in self._exempt):
            return None
        prefix = self._settings.source_prefix4 if address.version == 4 else self._settings.source_prefix6
        return ipaddress.ip_network(f"{address}/{prefix}", strict=False)

    def _is_penalised(self, source: Network) -> bool:
        table, now = self._penalties[source.version], self._clock()
        if self._settings.penalties.overflow == "deny-all" and table.full(now):
            return True
        return table.refuses(source, now)

    def _take_token(self, source: Network) -> bool:
        """Take one from the source's bucket, which fills at the allowed rate up to the burst."""
        now = self._clock()
        tokens, at = self._buckets.pop(source, (float(self._settings.per_source_burst), now))
        tokens = min(self._settings.per_source_burst, tokens + (now - at) * self._settings.per_source_rate)
        self._buckets[source] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_RATE_SOURCES:
            self._buckets.popitem(last=False)
        return tokens >= 1

    def _is_crowded(self) -> bool:
        """Draw whether to drop: none below start, `rate` % at start, rising evenly to all at full."""
        start, rate, full = self._startups
        if self._waiting < start:
            return False
        if self._waiting >= full or rate == PERCENT:
            return True
        return self._draw() * PERCENT < rate + (PERCENT - rate) * (self._waiting - start) / (full - start)
