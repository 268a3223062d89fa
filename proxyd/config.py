"""The configuration: one TOML file read into frozen structs, or refused in one line that names file and line.

Rule 1: what `load` returns is usable: every key known, every type right, every reference leads somewhere.
Rule 2: an error is one line, `PATH:LINE: key: what is wrong`; the values of secrets are never in it.
Rule 3: relative paths, also those in `file:` references, are relative to the configuration file's directory.
Rule 4: a file that exists but can't be looked at is no error: `proxyctl` reads the same configuration
    as an operator who may not enter the key directory.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import functools
import ipaddress
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

import argon2
import msgspec
import pyrage

from proxyd.errors import ConfigError

CHANNELS: Final = ("shell", "exec", "sftp", "local-forward", "remote-forward", "agent", "x11")
FACTORS: Final = ("publickey", "password", "totp")
OPERATOR_ROLES: Final = ("PAM Administrator", "PAM Auditor", "PAM Operator", "System Administrator")
SCHEMES: Final = ("file", "env", "systemd", "command")
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES: Final = 24 * 60
MAX_PORT: Final = 65535
MAX_CONFIG_BYTES: Final = (
    16 << 20
)  # thousands of targets with keys fit; a wrong path to a disk image does not
CLOSE_ENOUGH: Final = 0.5  # of difflib's ratio: below it, a suggested key is a guess and all keys are shown


class Startups(NamedTuple):
    """MaxStartups of sshd: from `start` unauthenticated connections on, refuse `rate` %; at `full`, all."""

    start: int
    rate: int
    full: int


class Window(NamedTuple):
    """Days of the week (0 = Monday) and minutes of the day; `end` <= `start` reaches into the next day."""

    days: frozenset[int]
    start: int
    end: int


def split_address(text: str) -> tuple[str, int]:
    """Split "host:port" or "[ipv6]:port"; raises ValueError, saying what is wrong."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets: [::1]:22")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
        raise ValueError('expected "host:port"')
    return host, int(port)


def parse_startups(text: str) -> Startups:
    """Parse "start:rate:full"; raises ValueError."""
    parts = text.split(":")
    if len(parts) != len(Startups._fields) or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError('expected "start:rate:full", as "10:30:100"')
    startups = Startups(*map(int, parts))
    if not 1 <= startups.start <= startups.full or not 0 <= startups.rate <= 100:
        raise ValueError("start must be 1 to full, and rate a percentage")
    return startups


def parse_window(text: str) -> Window:
    """Parse "mon-fri 08:00-18:00", "sat,sun" or "22:00-06:00"; raises ValueError."""
    match = re.fullmatch(
        r"(?:([a-z,-]+))?(?:(?:^| +)(\d\d):(\d\d)-(\d\d):(\d\d))?", text.strip().lower(), re.ASCII
    )
    if not match or not match[0]:
        raise ValueError('expected days and times, as "mon-fri 08:00-18:00"')
    days = frozenset(_days(match[1])) if match[1] else frozenset(range(len(DAYS)))
    if match[2] is None:
        return Window(days, 0, DAY_MINUTES)
    times = [int(hour) * 60 + int(minute) for hour, minute in (match.group(2, 3), match.group(4, 5))]
    if any(int(minute) >= 60 for minute in match.group(3, 5)) or max(times) > DAY_MINUTES:
        raise ValueError("a time is 00:00 to 24:00")
    return Window(days, times[0], times[1])


def _days(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if first not in DAYS or last not in DAYS:
            raise ValueError(f"a day is one of {', '.join(DAYS)}")
        start, end = DAYS.index(first), DAYS.index(last)
        for day in range(start, (end if end >= start else end + len(DAYS)) + 1):
            yield day % len(DAYS)


def key_data(line: str) -> bytes:
    """Return the wire-format data of an OpenSSH public key line; raises ValueError."""
    fields = line.split()
    if len(fields) < 2:  # "type base64 [comment]"
        raise ValueError('expected a public key line, as "ssh-ed25519 AAAA... comment"')
    try:
        data = base64.b64decode(fields[1], validate=True)
    except binascii.Error:
        raise ValueError("not a public key line: the second word is not base64") from None
    kind = fields[0].encode()
    if not data.startswith(len(kind).to_bytes(4, "big") + kind) or len(data) <= len(kind) + 4:  # RFC 4253 6.6
        raise ValueError(f"not a public key line: its data is not that of a {fields[0][:40]} key")
    return data


# Checks: (value, directory of the file) -> the value as it is kept; ValueError says what is wrong.


def _as_written(parse: Callable[[str], object]) -> Callable[[str, Path], str]:
    def check(value: str, _: Path) -> str:
        parse(value)
        return value

    return check


def _one_of(words: tuple[str, ...]) -> Callable[[str, Path], str]:
    def check(value: str, _: Path) -> str:
        if value not in words:
            raise ValueError(f'"{value[:60]}" is not one of {", ".join(words)}')
        return value

    return check


def _located(value: str, base: Path) -> Path:
    return base / Path(value).expanduser()


def _existing(value: str, base: Path) -> Path:
    path = _located(value, base)
    try:
        present = path.is_file()
    except PermissionError:  # Rule 4
        present = True
    if not present:
        raise ValueError(f"no such file: {path}")
    return path


def _reference(value: str, base: Path) -> str:
    scheme, _, rest = value.partition(":")
    if (
        scheme not in SCHEMES or not rest
    ):  # the value itself may be a secret someone put here: not in the text
        raise ValueError(
            "expected a reference (file:PATH, env:NAME, systemd:NAME or command:ARGV), not the secret itself"
        )
    return f"file:{_located(rest, base)}" if scheme == "file" else value


def _database(value: str, base: Path) -> str:
    if "://" not in value:
        raise ValueError("expected a database URL, as sqlite:///catalog.db")
    file = value.removeprefix("sqlite:///")
    return value if file == value else f"sqlite:///{base / file}"


def _authority(value: str, base: Path) -> str:
    if value.startswith("file:"):
        return f"file:{_existing(value.removeprefix('file:'), base)}"
    key_data(value)
    return value


def _password_hash(value: str, _: Path) -> str:
    try:
        kind = argon2.extract_parameters(value).type
    except argon2.exceptions.InvalidHashError:
        kind = None
    if kind is not argon2.Type.ID:
        raise ValueError('expected an argon2id hash; make one with "proxyctl users hash-password"')
    return value


def _recipient(value: str, _: Path) -> str:
    try:
        pyrage.x25519.Recipient.from_str(value)
    except pyrage.RecipientError:
        raise ValueError('expected an age public key, as "age1..."') from None
    return value


def _zone(value: str, _: Path) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, OSError, ValueError):  # not found; a directory, a path out of the tree; a NUL
        raise ValueError(f'no such time zone: "{value[:60]}"') from None
    return value


def _chain(value: str, _: Path) -> str:
    factors = value.split("+")
    if not set(factors) <= set(FACTORS) or len(set(factors)) != len(factors):
        raise ValueError(f'"{value[:60]}" is not a chain of {", ".join(FACTORS)}, as "publickey+totp"')
    if factors == ["totp"]:
        raise ValueError("totp is a second factor: put publickey or password before it")
    return value


@dataclass(frozen=True)
class _Check:
    """Metadata of an annotated type: what else must hold of its value."""

    test: Callable[[str, Path], object]


DERIVED: Final = object()  # metadata of a field that load fills: not a key of the file
Address = Annotated[str, _Check(_as_written(split_address))]
Network = Annotated[str, _Check(_as_written(ipaddress.ip_network))]
KeyLine = Annotated[str, _Check(_as_written(key_data))]
Located = Annotated[Path, _Check(_located)]
Existing = Annotated[Path, _Check(_existing)]
Reference = Annotated[str, _Check(_reference)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Penalty = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the file."""


class Log(_Section, frozen=True, kw_only=True):
    """How events are written; `auto`: console on a terminal, JSON otherwise."""

    format: Literal["json", "console", "auto"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class SshListen(_Section, frozen=True, kw_only=True):
    """The SSH front. `host_ca`: private key of the CA that signs host keys for `ssh -J`."""

    host_keys: Annotated[list[Existing], msgspec.Meta(min_length=1)]
    address: Address = "127.0.0.1:2222"
    host_ca: Existing | None = None
    user_ca: list[Annotated[str, _Check(_authority)]] = []
    banner: str = ""
    rekey_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 1 << 30  # RFC 4253 9: a gigabyte
    rekey_seconds: Seconds = 3600  # RFC 4253 9: an hour
    keepalive_seconds: Seconds = 30  # below the idle limits of common NAT and load balancers
    chacha: bool = False  # costs twice AES-GCM here, and OpenSSH picks it whenever offered


class MetricsListen(_Section, frozen=True, kw_only=True):
    """Where Prometheus scrapes."""

    address: Address = "127.0.0.1:9322"


class Listen(_Section, frozen=True, kw_only=True):
    """The listeners; one left out is not opened."""

    ssh: SshListen | None = None
    metrics: MetricsListen | None = None


class Penalties(_Section, frozen=True, kw_only=True):
    """OpenSSH's PerSourcePenalties, in seconds; 0 switches one off. `invalid`: broke the protocol."""

    authfail: Penalty = 5
    invalid: Penalty = 5
    noauth: Penalty = 1
    grace_exceeded: Penalty = 20
    refuseconnection: Penalty = 10
    max: Penalty = 600
    min: Penalty = 15
    max_sources4: Count = 65536
    max_sources6: Count = 65536
    overflow: Literal["permissive", "deny-all"] = "permissive"


class Admission(_Section, frozen=True, kw_only=True):
    """Limits before login. A source is an address cut to `source_prefix4` or `source_prefix6` bits."""

    grace_seconds: Seconds = 60
    max_startups: Annotated[str, _Check(_as_written(parse_startups))] = "10:30:100"
    per_source_rate: Seconds = 20  # connections a second: a deployment tool's forks pass, a scanner does not
    per_source_burst: Count = 40
    source_prefix4: Annotated[int, msgspec.Meta(ge=0, le=32)] = 32
    source_prefix6: Annotated[int, msgspec.Meta(ge=0, le=128)] = 64  # what one customer gets
    exempt: list[Network] = []
    penalties: Penalties = Penalties()


class Recording(_Section, frozen=True, kw_only=True):
    """Where recordings go and who can open them. Empty `catalog` and `ledger`: below `state`, filled by load."""

    directory: Located
    recipients: Annotated[list[Annotated[str, _Check(_recipient)]], msgspec.Meta(min_length=1)]
    signing_key: Existing
    identity: Located | None = None  # read by proxyctl only, perhaps on another machine: need not exist here
    sync_seconds: Seconds = 1.0
    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 256 << 20
    catalog: Annotated[str, _Check(_database)] = ""
    ledger: Located = Path()


class Operator(_Section, frozen=True, kw_only=True):
    """Who may use the control socket: matched by uid or gid. `user`: the proxyd user this person is."""

    name: Text
    roles: list[Annotated[str, _Check(_one_of(OPERATOR_ROLES))]]
    uid: Annotated[int, msgspec.Meta(ge=0)] | None = None
    gid: Annotated[int, msgspec.Meta(ge=0)] | None = None
    user: str = ""


class Control(_Section, frozen=True, kw_only=True):
    """The control socket."""

    socket: Located
    operators: list[Operator] = []


class User(_Section, frozen=True, kw_only=True):
    """Who may log in to the proxy, and by which chains of factors; empty `factors`: see `chains`."""

    name: Annotated[str, DERIVED] = ""
    password: Annotated[str, _Check(_password_hash)] | None = None
    keys: list[KeyLine] = []
    totp: Reference | None = None
    roles: list[Text] = []
    factors: list[Annotated[str, _Check(_chain)]] = []
    source: list[Network] = []

    @property
    def chains(self) -> tuple[frozenset[str], ...]:
        """Each set of factors that logs in; with a TOTP secret the default is a second factor, always."""
        default = ["publickey+totp", "password+totp"] if self.totp else ["publickey", "password"]
        return tuple(frozenset(chain.split("+")) for chain in self.factors or default)


class Account(_Section, frozen=True, kw_only=True):
    """A login on a target; every value is a vault reference."""

    password: Reference | None = None
    key: Reference | None = None
    certificate: Reference | None = None
    passphrase: Reference | None = None


class Target(_Section, frozen=True, kw_only=True):
    """A host users reach through the proxy, its pinned keys and the accounts proxyd can log in to."""

    name: Annotated[str, DERIVED] = ""
    address: Address
    protocol: Literal["ssh"] = "ssh"
    description: str = ""
    host_keys: list[KeyLine] = []
    known_hosts: Existing | None = None
    host_ca: list[KeyLine] = []
    recording: Literal["strict", "best_effort"] = "strict"
    disk_full: Literal["drop", "hold"] = "drop"
    file_bodies: bool = False
    connect_seconds: Seconds = 10
    login_seconds: Seconds = 20
    accounts: dict[str, Account] = {}

    @property
    def host(self) -> str:
        """Name or address, without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """TCP port."""
        return split_address(self.address)[1]


class Grant(_Section, frozen=True, kw_only=True):
    """Users (globs) or holders of roles reach targets (globs) as accounts (globs), with channels, at times."""

    targets: Annotated[list[Text], msgspec.Meta(min_length=1)]
    accounts: Annotated[list[Text], msgspec.Meta(min_length=1)]
    users: list[Text] = []
    roles: list[Text] = []
    channels: Annotated[list[Annotated[str, _Check(_one_of(CHANNELS))]], msgspec.Meta(min_length=1)] = (
        msgspec.field(default_factory=lambda: ["shell", "exec", "sftp"])  # none that leads past the recording
    )
    when: list[Annotated[str, _Check(_as_written(parse_window))]] = []
    timezone: Annotated[str, _Check(_zone)] = "UTC"
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Config(_Section, frozen=True, kw_only=True):
    """The whole file. `path`: where it was read from; `drain_seconds`: how long sessions may go on at a stop."""

    path: Annotated[Path, DERIVED] = Path()
    state: Located
    recording: Recording
    control: Control
    node: Text = "node1"
    drain_seconds: Penalty = 30
    log: Log = Log()
    listen: Listen = Listen()
    admission: Admission = Admission()
    users: dict[str, User] = {}
    targets: dict[str, Target] = {}
    grants: list[Grant] = []


def load(path: Path) -> Config:
    """Read the configuration file at `path`, whole or not at all.

    Raises ConfigError, one line; reads small files, so call it from a thread when a loop is running.
    """
    path = path.absolute()
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", path) from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"larger than {MAX_CONFIG_BYTES >> 20} MiB", path)
    try:
        text = raw.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", path, raw.count(b"\n", 0, error.start) + 1) from None
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), path, text) from None
    except RecursionError:
        raise ConfigError("nested too deeply", path) from None
    reader = _Reader(path, text)
    config: Config = reader.struct(table, Config, (), {"path": path})
    _check_consistency(config, reader)
    kept = config.recording
    return msgspec.structs.replace(
        config,
        recording=msgspec.structs.replace(
            kept,
            catalog=kept.catalog or f"sqlite:///{config.state / 'catalog.db'}",
            ledger=kept.ledger if "ledger" in table["recording"] else config.state / "ledger",
        ),
    )


def _syntax_error(message: str, path: Path, text: str) -> ConfigError:
    what, _, where = message.rpartition(" (at ")
    match = re.match(r"line (\d+)", where)
    return ConfigError(what, path, int(match[1]) if match else text.rstrip().count("\n") + 1)


def _check_consistency(config: Config, reader: _Reader) -> None:
    """Raise ConfigError where two parts of the file contradict each other or a reference leads nowhere."""
    for name, user in config.users.items():
        for factor in ("password", "totp"):
            wanted = any(factor in chain.split("+") for chain in user.factors)
            if wanted and not getattr(user, factor):
                reader.fail(("users", name, "factors"), f"{factor} is asked for, but the user has none")
    for name, target in config.targets.items():
        for login, account in target.accounts.items():
            _check_account(account, ("targets", name, "accounts", login), reader)
    for place, operator in enumerate(config.control.operators):
        here = ("control", "operators", place)
        if operator.uid is None and operator.gid is None:
            reader.fail(here, "needs a uid or a gid")
        if operator.user and operator.user not in config.users:
            reader.fail((*here, "user"), _unknown("user", operator.user, config.users))
    for place, grant in enumerate(config.grants):
        _check_grant(config, grant, ("grants", place), reader)


def _check_account(account: Account, where: _Where, reader: _Reader) -> None:
    if not account.password and not account.key:
        reader.fail(where, "needs a password or a key")
    if not account.key and (account.certificate or account.passphrase):
        reader.fail(where, "a certificate or passphrase needs a key")


def _check_grant(config: Config, grant: Grant, where: _Where, reader: _Reader) -> None:
    if not grant.users and not grant.roles:
        reader.fail(where, "names no user and no role")
    for kind, names, known in (
        ("user", grant.users, config.users),
        ("target", grant.targets, config.targets),
    ):
        for index, name in enumerate(names):
            if not is_glob(name) and name not in known:
                reader.fail((*where, f"{kind}s", index), _unknown(kind, name, known))
    if any(map(is_glob, grant.targets)):
        return  # a pattern is also for targets to come, with accounts to come
    logins = {login for name in grant.targets for login in config.targets[name].accounts}
    for index, login in enumerate(grant.accounts):
        if not is_glob(login) and login not in logins:
            reader.fail((*where, "accounts", index), _unknown("account of these targets", login, logins))


def is_glob(text: str) -> bool:
    """Tell whether a name in a grant is a pattern."""
    return any(mark in text for mark in "*?[")


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    return f'no such {kind}: "{name}"{_suggestion(name, known)}'


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, CLOSE_ENOUGH)
    return f'; did you mean "{near[0]}"?' if near else ""


_Where = tuple[str | int, ...]


class _Reader:
    """Turns the parsed table into structs; whatever is wrong is said with the key's line."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._base, self._text = path, path.parent, text

    def fail(self, where: _Where, message: str) -> NoReturn:
        """Raise ConfigError for the key at `where`."""
        lines, at = _Lines(self._text).found, where
        while at not in lines:
            at = at[:-1]
        raise ConfigError(f"{_dotted(where)}: {message}" if where else message, self._path, lines[at])

    def struct(self, data: Any, kind: Any, where: _Where, derived: dict[str, Any]) -> Any:
        """Convert a table into the struct `kind`; `derived`: what load knows and the table must not say."""
        hints, required = _shape(kind)
        keys = [
            key
            for key, hint in hints.items()
            if not (get_origin(hint) is Annotated and DERIVED in get_args(hint))
        ]
        for key in self._table(data, where):
            if key not in keys:
                known = _suggestion(key, keys) or f"; known here: {', '.join(keys)}"
                self.fail((*where, key), f"unknown key{known}")
        for name in required:
            if name not in data:
                self.fail(where, f'"{name}" is missing')
        values = {key: self._value(value, hints[key], (*where, key)) for key, value in data.items()}
        return kind(
            **values, **{key: value for key, value in derived.items() if key in hints and key not in keys}
        )

    def _table(self, data: Any, where: _Where) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail(where, f"expected a table, got {_named(data)}")
        return data

    def _value(self, data: Any, hint: Any, where: _Where) -> Any:
        extras: tuple[Any, ...] = ()
        if type(None) in get_args(
            hint
        ):  # TOML has no null: an optional key is there with a value, or not there
            hint = next(kind for kind in get_args(hint) if kind is not type(None))
        if get_origin(hint) is Annotated:
            extras = get_args(hint)[1:]
        kind = get_args(hint)[0] if extras else hint
        if isinstance(kind, type) and issubclass(kind, _Section):
            return self.struct(data, kind, where, {})
        if get_origin(kind) is dict:
            each = get_args(kind)[1]
            return {
                key: self.struct(value, each, (*where, key), {"name": key})
                for key, value in self._table(data, where).items()
            }
        if get_origin(kind) is list and isinstance(data, list):
            if not data and extras:
                self.fail(where, "must not be empty")
            return [
                self._value(value, get_args(kind)[0], (*where, index)) for index, value in enumerate(data)
            ]
        return self._leaf(data, hint, where, extras)

    def _leaf(self, data: Any, hint: Any, where: _Where, extras: tuple[Any, ...]) -> Any:
        checks = [extra.test for extra in extras if isinstance(extra, _Check)]
        if get_origin(hint) is Literal:
            checks = [_one_of(get_args(hint))]
        try:
            value = msgspec.convert(data, str if checks else hint)
        except msgspec.ValidationError as error:
            self.fail(where, str(error).replace("`", "").replace("Expected", "expected"))
        if isinstance(value, float) and not math.isfinite(value):
            self.fail(where, "expected a finite number")
        for check in checks:
            try:
                value = check(value, self._base)
            except ValueError as error:
                self.fail(where, str(error))
        return value


@functools.cache
def _shape(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the types of a struct's fields and the names of those it needs: slow to find, the same each time."""
    required = [field.name for field in msgspec.structs.fields(kind) if field.required]
    return get_type_hints(kind, include_extras=True), required


def _named(value: Any) -> str:
    return {list: "an array", str: "text", bool: "a boolean", int: "a number", float: "a number"}.get(
        type(value), "a date"
    )


def _dotted(where: _Where) -> str:
    """Write a key path as the file does: users.alice.keys[0]."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part))
    return text


_TOKEN: Final = re.compile(
    r"(?P<space>(?:[ \t\r]|\#[^\n]*)+)|(?P<newline>\n)|(?P<mark>[\[\]{}=,.])"
    r"|(?P<text>\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*')"
    r"|(?P<bare>[^\s\[\]{}=,.\#\"']+)",
    re.DOTALL,
)


class _Lines:
    """Finds the line of every key and array element in text that tomllib has accepted (TOML 1.0)."""

    def __init__(self, text: str) -> None:
        self.found: dict[_Where, int] = {(): 1}
        self._elements: dict[_Where, int] = {}  # arrays of tables: how many so far
        self._tokens: list[tuple[str, str, int]] = []
        line = 1
        for match in _TOKEN.finditer(text):
            if match.lastgroup != "space":
                self._tokens.append((match.lastgroup or "", match[0], line))
            line += match[0].count("\n")
        self._tokens.append(("end", "", line))
        self._at = 0
        self._document()

    def _take(self, *texts: str) -> str:
        """Step over the next token if it is one of `texts`, or whatever it is when none is named."""
        token = self._tokens[self._at][1]
        if texts and token not in texts:
            return ""
        self._at += 1
        return token

    def _document(self) -> None:
        table: _Where = ()
        while self._tokens[self._at][0] != "end":
            if self._take("\n"):
                continue
            if self._take("["):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> _Where:
        line, array = self._tokens[self._at][2], bool(self._take("["))
        *parents, last = self._key()
        path: _Where = ()
        for part in parents:
            path = self._latest((*path, part), line)
        path = (*path, last)
        if array:
            self.found.setdefault(path, line)
            self._elements[path] = self._elements.get(path, -1) + 1
        while self._take("]"):
            pass
        return self._latest(path, line)

    def _latest(self, path: _Where, line: int) -> _Where:
        if path in self._elements:
            path = (*path, self._elements[path])
        self.found.setdefault(path, line)
        return path

    def _key(self) -> list[str]:
        parts = []
        while True:
            kind, text, _ = self._tokens[self._at]
            self._at += 1
            parts.append(next(iter(tomllib.loads(f"{text}=0"))) if kind == "text" else text)
            if not self._take("."):
                return parts

    def _pair(self, table: _Where) -> None:
        line, path = self._tokens[self._at][2], table
        for part in self._key():
            path = (*path, part)
            self.found.setdefault(path, line)
        self._take("=")
        self._value(path)

    def _value(self, path: _Where) -> None:
        if self._take("["):
            index = 0
            while not self._take("]"):
                if not self._take("\n", ","):
                    self.found.setdefault((*path, index), self._tokens[self._at][2])
                    self._value((*path, index))
                    index += 1
        elif self._take("{"):
            while not self._take("}"):
                if not self._take("\n", ","):
                    self._pair(path)
        else:
            while self._tokens[self._at][1] not in (
                "\n",
                ",",
                "]",
                "}",
                "",
            ):  # "1.5" and dates are several tokens
                self._at += 1
