"""Who may log in, how they prove it, and what they may reach.

Rule 1: an Access never changes; a reload builds the next one with `renewed`, which carries over
    the one-time codes already used and the limit on password checks in progress.
Rule 2: an unknown user costs the same time and gets the same answers as a known one with a wrong password.
Rule 3: a refusal is one sentence that says what to do, and is the same for a target that does not exist
    and one the user has no grant for.
Rule 4: a one-time code is good once, and wrong ones are counted over all connections; one place knows: the daemon's.
Rule 5: what users set up themselves (enrolled) counts beside what the configuration gives them.
"""

from __future__ import annotations

import binascii
import fnmatch
import hmac
import ipaddress
import math
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import argon2
import pyotp
import trio

from proxyd import config, log, vault
from proxyd.characters import printable
from proxyd.config import Config, Grant, Target, User, Window
from proxyd.enrolled import OWN_DEVICE, Enrolled
from proxyd.errors import ConfigError, Denied

SEPARATORS: Final = "+%@"  # of user, login and target; ':' breaks scp and '/' breaks rsync
PASSWORD_CHECKS: Final = 2  # at a time: 64 MiB and 4 threads each in argon2id's default profile
MAX_PASSWORD_BYTES: Final = 1024  # far above any passphrase; hashing more is work for nothing
TOTP_STEP_SECONDS: Final = 30  # RFC 6238 5.2, and what every authenticator app does
TOTP_DRIFT_STEPS: Final = 1  # RFC 6238 5.2: one step either way for the delay of typing
MAX_WRONG_CODES: Final = 10  # per user in WRONG_CODES_SECONDS: RFC 6238 5.1 leaves 1 guess in 33,000 a chance
WRONG_CODES_SECONDS: Final = 300
SSH_PORT: Final = 22  # what `ssh -J` sends when its user named no port
MAX_SHOWN: Final = 64  # characters of a name that came from a client
WEEK: Final = timedelta(days=8)  # windows that follow each other for longer than a week never close

# The hash of a random password nobody kept, in argon2-cffi's default profile (RFC 9106, low memory).
NOBODY: Final = (
    "$argon2id$v=19$m=65536,t=3,p=4$OckGgCzvW+3kUtQ0XTHeAw$ZWd3/yITIIy/T3N6m5BK8Hco1pxv+dO3pggVg2VpgEA"
)

_log = log.get("access")


class Wanted(NamedTuple):
    """What a client's user name asks for."""

    user: str
    login: str | None = None
    target: str | None = None

    def at(self, bound: str) -> Wanted:
        """Read it at a listener that leads to the target `bound` alone, if to any: a login may stand in its place."""
        if not bound or self.target == bound or self.login is not None:
            return self
        return Wanted(self.user, self.target, bound)


@dataclass(frozen=True, slots=True)
class Permit:
    """A user may reach a target as an account, with channels, until `expires` (wall clock, s since 1970)."""

    user: str
    target: Target
    account: str
    channels: frozenset[str]
    expires: float | None


@dataclass(slots=True)
class Codes:
    """One-time codes: the last step used and the times of wrong ones, per user; survives reloads."""

    used: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, list[float]] = field(default_factory=dict)

    def exhausted(self, user: str, now: float) -> bool:
        """Tell whether there were as many wrong ones lately as there may be."""
        return len(self._recent(user, now)) >= MAX_WRONG_CODES

    def failed(self, user: str, now: float) -> None:
        """Count a wrong one."""
        self.wrong[user] = [*self._recent(user, now), now]

    def redeem(self, user: str, code: str, expected: dict[int, str], now: float) -> bool:
        """Use `code` up if it is one of `expected` (step -> code) and newer than the last one used."""
        if self.exhausted(user, now):
            return False
        for step, wanted in expected.items():
            if hmac.compare_digest(wanted.encode(), code.encode()) and step > self.used.get(user, -1):
                self.used[user] = step
                return True
        self.failed(user, now)
        return False

    def _recent(self, user: str, now: float) -> list[float]:
        return [at for at in self.wrong.get(user, ()) if 0 <= now - at < WRONG_CODES_SECONDS]


class _Names:
    """Names and globs, asked whether one of them is meant."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._plain = frozenset(pattern for pattern in patterns if not config.is_glob(pattern))
        self._globs = [re.compile(fnmatch.translate(text)) for text in patterns if config.is_glob(text)]

    def __contains__(self, name: str) -> bool:
        return name in self._plain or any(glob.match(name) for glob in self._globs)


class _Rule:
    """A grant, made ready to be asked."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.users, self.roles = _Names(grant.users), frozenset(grant.roles)
        self.targets, self.accounts = _Names(grant.targets), _Names(grant.accounts)
        self.channels = frozenset(grant.channels)
        self.windows = [config.parse_window(text) for text in grant.when]
        self.zone = ZoneInfo(grant.timezone)
        self.expires = grant.expires.timestamp() if grant.expires else math.inf

    def given_to(self, user: User) -> bool:
        return user.name in self.users or not self.roles.isdisjoint(user.roles)

    def closes(self, now: float) -> float:
        """Return when the grant, open at `now`, closes: inf for never, and `now` or less when it is not open."""
        return min(self.expires, closing(self.windows, self.zone, now) if self.windows else math.inf)


def closing(windows: list[Window], zone: ZoneInfo, now: float) -> float:
    """Return when windows that are open at `now` (s since 1970) close; `now` when none is open, inf for never."""
    at = begun = (start := datetime.fromtimestamp(now, zone)).replace(
        tzinfo=None
    )  # windows are times on the wall
    while at - begun < WEEK:
        ends = [end for window in windows for end in _ends(window, at)]
        if not ends:
            return now if at == begun else at.replace(tzinfo=zone, fold=start.fold).timestamp()
        at = max(ends)
    return math.inf


def _ends(window: Window, at: datetime) -> Iterator[datetime]:
    """Yield the end of each opening of `window` that holds `at`; one opened yesterday may still be open."""
    for back in (0, 1):
        midnight = datetime.combine(at.date() - timedelta(days=back), datetime.min.time())
        if midnight.weekday() in window.days:
            end = window.end if window.end > window.start else window.end + config.DAY_MINUTES
            if midnight + timedelta(minutes=window.start) <= at < midnight + timedelta(minutes=end):
                yield midnight + timedelta(minutes=end)


class Access:
    """The users, targets and grants of one configuration."""

    def __init__(
        self,
        settings: Config,
        clock: Callable[[], float] = time.time,
        *,
        codes: Codes | None = None,
        checks: trio.CapacityLimiter | None = None,
        enrolled: Enrolled | None = None,
    ) -> None:
        """Read user CA files and make the grants ready; raises ConfigError.

        `codes`, `checks`: see `renewed`; `enrolled`: what users set up themselves.
        """
        self._enrolled, self._targets, self._clock = enrolled, settings.targets, clock
        self._users = settings.users
        if enrolled is not None:
            self._users = enrolled.applied(settings.users, keys=settings.self_service.keys)
        self._rules = [_Rule(grant) for grant in settings.grants]
        self._keys = {name: frozenset(map(config.key_data, user.keys)) for name, user in self._users.items()}
        self._user_ca = tuple(_authorities(settings))
        self._codes = codes or Codes()
        self._checks = checks or trio.CapacityLimiter(PASSWORD_CHECKS)

    def renewed(self, settings: Config) -> Access:
        """Return the Access of another configuration that remembers what this one must not forget (Rule 1)."""
        return Access(settings, self._clock, codes=self._codes, checks=self._checks, enrolled=self._enrolled)

    @property
    def users(self) -> dict[str, User]:
        """All users, with what they set up themselves."""
        return self._users

    def user(self, name: str) -> User | None:
        """Return the user of that name."""
        return self._users.get(name)

    def identified(self, said: str) -> str:
        """Return the name of the user an OpenID Connect provider calls so (config.Oidc.claim); "" for nobody."""
        for name, user in self._users.items():
            if said == (user.oidc or name):
                return name
        return ""

    def welcomes(self, name: str, source_ip: str) -> bool:
        """Tell whether the user may come from that address."""
        user = self._users.get(name)
        return user is not None and _may_come_from(user, source_ip)

    def parse_username(self, text: str) -> Wanted:
        """Split a client's user name as `parse_username` does, knowing our users."""
        return parse_username(text, self._users)

    async def verify_password(self, name: str, password: str) -> bool:
        """Tell whether it is the user's password; waits for a place and then about 0.1 s, in a thread."""
        data = password.encode(errors="surrogatepass")
        if len(data) > MAX_PASSWORD_BYTES:
            return False
        user = self._users.get(name)
        stored = user.password if user and user.password else NOBODY
        matched = await trio.to_thread.run_sync(
            _matches, stored, data, limiter=self._checks, abandon_on_cancel=True
        )
        return matched and stored is not NOBODY

    def key_allowed(self, name: str, public_key: bytes) -> bool:
        """Tell whether the key (wire-format data, RFC 4253 6.6) is one of the user's."""
        return public_key in self._keys.get(name, ())

    def key_used(self, name: str, public_key: bytes) -> None:
        """Remember that a key (wire format) has logged its user in now."""
        if self._enrolled is not None and self.key_allowed(name, public_key):
            self._enrolled.note_used(name, public_key, self._clock())

    def user_ca(self) -> tuple[str, ...]:
        """Return the public key lines of the CAs whose certificates name our users as principals."""
        return self._user_ca

    async def verify_totp(self, name: str, code: str) -> bool:
        """Tell whether it is the user's current one-time code (RFC 6238), not used before; waits for the vault."""
        user = self._users.get(name)
        if user is None or not user.totp:
            return False
        try:
            if self._enrolled is not None and user.totp == OWN_DEVICE:
                secret = self._enrolled.of(name).totp
            else:
                secret = (await vault.fetch(user.totp)).text()
            return self.redeem(name, code, secret)
        except (vault.VaultError, binascii.Error) as error:
            _log.error(
                "one-time code can't be checked", user=name, why=getattr(error, "detail", "not base32")
            )
            return False

    def redeem(self, name: str, code: str, secret: str, *, new: bool = False) -> bool:
        """Use up a one-time code of a secret in base32; `new`: of the device its user is about to set up.

        Raises binascii.Error when the secret is no base32.
        """
        device = pyotp.TOTP("".join(secret.split()), interval=TOTP_STEP_SECONDS)
        now = int(self._clock())
        steps = [now // TOTP_STEP_SECONDS + drift for drift in range(-TOTP_DRIFT_STEPS, TOTP_DRIFT_STEPS + 1)]
        expected = {step: device.generate_otp(step) for step in steps}
        digits = code.replace(" ", "")
        if not new:
            return self._codes.redeem(name, digits, expected, now)
        # What the old device showed in this step was another code; from here on the new one's is used up.
        first = f"new device of {name}"
        if not self._codes.redeem(first, digits, expected, now):
            return False
        self._codes.used[name] = self._codes.used.pop(first)
        return True

    async def verify_recovery(self, name: str, code: str) -> bool:
        """Use up a recovery code; waits for the disk. Raises ConfigError when it can't be used up."""
        if self._enrolled is None or name not in self._users:
            return False
        now = self._clock()
        if self._codes.exhausted(name, now):
            return False
        good = await trio.to_thread.run_sync(self._enrolled.spend, name, code)
        if not good:
            self._codes.failed(name, now)
        return good

    async def verify_own_password(self, name: str, password: str) -> bool:
        """Check the password of somebody who is signed in: wrong ones are counted, as codes are."""
        guesses, now = f"password of {name}", self._clock()
        if self._codes.exhausted(guesses, now):
            return False
        good = await self.verify_password(name, password)
        if not good:
            self._codes.failed(guesses, now)
        return good

    def missing(self, name: str, done: frozenset[str]) -> frozenset[str] | None:
        """Return the factors to offer next: empty when logged in, None when nothing more can log this name in.

        A certificate counts as "publickey". "totp" is offered when it is all that is missing. An unknown user
        is offered what a plain known one is, and None once a factor is said to be done.
        """
        done = frozenset("publickey" if factor == "certificate" else factor for factor in done)
        user = self._users.get(name)
        if user is None:
            return None if done else frozenset({"publickey", "password"})
        rests = [chain - done for chain in user.chains]
        if not all(rests):
            return frozenset()
        if done:  # who has begun one chain is not asked for the factors of another
            fewest = min(map(len, rests))
            rests = [rest for rest in rests if len(rest) == fewest]
        return frozenset().union(*(rest - {"totp"} or rest for rest in rests))

    def authorize(
        self, user: str, login: str | None, target: str | None, source_ip: str, protocol: str = "ssh"
    ) -> Permit:
        """Return what the user may do now on the target of that protocol they named; raises Denied.

        `target`: its name, else its host or host:port. `login` None: the one account that grants allow.
        """
        who = self._users.get(user)
        if target and who is not None and not _may_come_from(who, source_ip):
            raise Denied(
                f"You may not log in from {_shown(source_ip)}; connect from an address allowed to you."
            )
        return self.granted(user, login, target, protocol)

    def granted(self, user: str, login: str | None, target: str | None, protocol: str = "ssh") -> Permit:
        """Return what `authorize` does, wherever the user comes from; raises Denied."""
        who = self._users.get(user)
        if not target:
            raise Denied("No target was named; log in as USER+TARGET or USER+LOGIN+TARGET.")
        asked = _shown(target) + (f" as {_shown(login)}" if login else "")
        if not (granted := list(self._granted(who, self._named(target, protocol))) if who else []):
            raise Denied(f"You may not reach {asked}; ask for a grant.")
        if not (meant := [way for way in granted if login in (None, way.account)]):
            logins = ", ".join(sorted({way.account for way in granted}))
            raise Denied(
                f"You may not reach {asked}, only as {logins}; name such a login or ask for a grant."
            )
        now = self._clock()
        permits = [permit for way in meant if (permit := way.permit(now))]
        if not permits:
            raise Denied(_closed(asked, [rule for way in meant for rule in way.rules], now))
        if len(permits) > 1:
            raise Denied(_several(asked, permits))
        return permits[0]

    def reachable(self, user: str, source_ip: str, protocol: str = "ssh") -> list[Permit]:
        """Return everything the user may reach now from that address, by target and account."""
        who = self._users.get(user)
        if who is None or not _may_come_from(who, source_ip):
            return []
        now = self._clock()
        ways = self._granted(who, sorted(self._spoken(protocol), key=lambda target: target.name))
        return [permit for way in ways if (permit := way.permit(now))]

    def _granted(self, user: User, targets: Iterable[Target]) -> Iterator[_Way]:
        mine = [rule for rule in self._rules if rule.given_to(user)]
        for target in targets:
            here = [rule for rule in mine if target.name in rule.targets]
            for account in sorted(target.accounts):
                if rules := [rule for rule in here if account in rule.accounts]:
                    yield _Way(user.name, target, account, rules)

    def _spoken(self, protocol: str) -> list[Target]:
        return [target for target in self._targets.values() if target.protocol == protocol]

    def _named(self, text: str, protocol: str) -> list[Target]:
        """Return the targets that a name, host or host:port can mean: by name first."""
        spoken = self._spoken(protocol)
        if text in self._targets:
            return [self._targets[text]] if self._targets[text] in spoken else []
        try:
            host, port = config.split_address(text)
        except ValueError:
            host, port = text, None
        host = _comparable(host)  # OpenSSH sends names in lower case
        named = [target for target in spoken if target.name.lower() == host]
        found = named or [target for target in spoken if _comparable(target.host) == host]
        exact = [target for target in found if port in (None, target.port)]
        return exact or (found if port == SSH_PORT else [])


class _Way(NamedTuple):
    """An account on a target and the grants that lead a user to it, open now or not."""

    user: str
    target: Target
    account: str
    rules: list[_Rule]

    def permit(self, now: float) -> Permit | None:
        """Join the grants open at `now`; one that closes early shortens the permit only if it adds a channel."""
        channels: frozenset[str] = frozenset()
        expires = math.inf
        for rule in sorted(self.rules, key=lambda rule: -rule.closes(now)):
            if rule.closes(now) > now and not rule.channels <= channels:
                channels |= rule.channels
                expires = min(expires, rule.closes(now))
        until = None if expires == math.inf else expires
        return Permit(self.user, self.target, self.account, channels, until) if channels else None


def parse_username(text: str, known: Container[str] = ()) -> Wanted:
    """Split "user+login+target" or "user+target" from the right, with + % or @.

    A known user's name is never split; where several splits are possible, one that gives a known user wins.
    """
    if text in known:
        return Wanted(text)
    splits = [
        Wanted(parts[0], (parts[1] or None) if len(parts) == 3 else None, parts[-1] or None)
        for separator in SEPARATORS
        for count in (2, 1)
        if len(parts := text.rsplit(separator, count)) == count + 1
    ]
    return next((wanted for wanted in splits if wanted.user in known), splits[0] if splits else Wanted(text))


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password, as the configuration holds it; takes about 0.1 s."""
    return argon2.PasswordHasher().hash(password.encode(errors="surrogatepass"))


def _matches(stored: str, password: bytes) -> bool:
    try:
        return argon2.PasswordHasher().verify(stored, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _authorities(settings: Config) -> Iterator[str]:
    for entry in settings.listen.ssh.user_ca if settings.listen.ssh else ():
        path = Path(entry.removeprefix("file:"))
        try:
            lines = path.read_text().splitlines() if entry.startswith("file:") else [entry]
        except (OSError, UnicodeDecodeError):
            raise ConfigError("can't be read as a file of public key lines", path) from None
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                yield _authority(line, path, number)


def _authority(line: str, path: Path, number: int) -> str:
    try:
        config.key_data(line)
    except ValueError as error:
        raise ConfigError(str(error), path, number) from None
    return line


def _may_come_from(user: User, source_ip: str) -> bool:
    try:
        address = ipaddress.ip_address(source_ip)
    except ValueError:  # no address is in no network
        return not user.source
    address = getattr(address, "ipv4_mapped", None) or address
    return not user.source or any(address in ipaddress.ip_network(network) for network in user.source)


def _comparable(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return host.lower().rstrip(".")


def _shown(text: str) -> str:
    """Make a name from a client fit for a terminal and a log."""
    return printable(text[:MAX_SHOWN])


def _closed(asked: str, rules: list[_Rule], now: float) -> str:
    waiting = [rule for rule in rules if rule.expires > now]
    if not waiting:
        ended = datetime.fromtimestamp(max(rule.expires for rule in rules), UTC)
        return f"Your grant to reach {asked} ended on {ended:%Y-%m-%d %H:%M} UTC; ask for a new one."
    times = "; ".join(sorted({f"{', '.join(rule.grant.when)} {rule.grant.timezone}" for rule in waiting}))
    return f"You may reach {asked} only at these times: {times}; come back then."


def _several(asked: str, permits: list[Permit]) -> str:
    names = sorted({permit.target.name for permit in permits})
    if len(names) > 1:
        return f"{asked} is the address of several targets: {', '.join(names)}; name one of them."
    logins = [permit.account for permit in permits]
    return f"You may reach {asked} as {', '.join(logins)}; name one of these, as in USER+LOGIN+{names[0]}."
