"""The values the configuration knows beyond TOML's own: words, addresses, times, keys, references, and their checks."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import argon2
import msgspec
import pyrage

from proxyd.config_reader import Check, one_of
from proxyd.governance.notices import Event
from proxyd.governance.permissions import ROLES, Permission
from proxyd.search import SOURCES

DESKTOP_CHANNELS: Final = (
    "clipboard",
    "clipboard-files",
    "devices",
)  # what crosses beside a desktop's screen
CHANNELS: Final = (
    "shell", "exec", "sftp", "local-forward", "remote-forward", "agent", "x11", "replication", "local-infile",
    *DESKTOP_CHANNELS,
)  # fmt: skip
FACTORS: Final = ("publickey", "password", "totp")
OPERATOR_ROLES: Final = tuple(ROLES)  # those that are built in
SCHEMES: Final = ("file", "env", "systemd", "command")
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES: Final = 24 * 60
STATEMENT_KINDS: Final = (
    "select", "insert", "update", "delete", "merge", "update-without-where", "delete-without-where", "truncate", "drop",
    "create", "alter", "grant", "revoke", "copy", "call", "set", "transaction", "user", "other", "unparsable",
)  # fmt: skip
FOLLOWED_CHANNELS: Final = {
    "cliprdr": "see clipboard", "rdpdr": "see devices", "rdpsnd": "sound always passes",
    "drdynvc": "see graphics",
}  # fmt: skip
"""Static virtual channels of RDP that proxyd reads, and what decides on them."""
MAX_PORT: Final = 65535
_SCRAM: Final = re.compile(r"SCRAM-SHA-256\$\d{4,7}:[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=")


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


def is_glob(text: str) -> bool:
    """Tell whether a name in a grant is a pattern."""
    return any(mark in text for mark in "*?[")


# Checks: (value, directory of the file) -> the value as it is kept; ValueError says what is wrong.


def _as_written(parse: Callable[[str], object]) -> Callable[[str, Path], str]:
    def check(value: str, _: Path) -> str:
        parse(value)
        return value

    return check


def _located(value: str, base: Path) -> Path:
    return base / Path(value).expanduser()


def _existing(value: str, base: Path) -> Path:
    path = _located(value, base)
    try:
        present = path.is_file()
    except PermissionError:  # config.py, Rule 4
        present = True
    if not present:
        raise ValueError(f"no such file: {path}")
    return path


def _reference(value: str, base: Path) -> str:
    scheme, _, rest = value.partition(":")
    if scheme not in SCHEMES or not rest:  # the value may be a secret someone put here: not in the text
        raise ValueError(
            "expected a reference (file:PATH, env:NAME, systemd:NAME or command:ARGV), not the secret itself"
        )
    return f"file:{_located(rest, base)}" if scheme == "file" else value


def _database(value: str, base: Path) -> str:
    if "://" not in value:
        raise ValueError("expected a database URL, as sqlite:///catalog.db")
    file = value.removeprefix("sqlite:///")
    return value if file == value else f"sqlite:///{base / file}"


def _static_channel(value: str, _: Path) -> str:
    name = value.lower()
    if not re.fullmatch(r"[!-~]{1,7}", name):
        raise ValueError("expected the name of a static virtual channel, at most 7 letters")
    if name in FOLLOWED_CHANNELS:
        raise ValueError(f"{name} is not named here: {FOLLOWED_CHANNELS[name]}")
    return name


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


def _scram(value: str, _: Path) -> str:
    if not _SCRAM.fullmatch(value):
        raise ValueError(
            'expected a SCRAM-SHA-256 verifier; make one with "proxyctl users hash-password --databases"'
        )
    return value


def _mysql_native(value: str, _: Path) -> str:
    if not re.fullmatch(r"\*[0-9A-F]{40}", value):
        raise ValueError('expected a mysql_native_password hash, as "*" and 40 digits of hex in capitals')
    return value


def _ed25519(value: str, _: Path) -> str:
    if not re.fullmatch(r"[A-Za-z0-9+/]{43}", value):
        raise ValueError("expected a MariaDB ed25519 public key, 43 characters of base64")
    return value


def _nt_hash(value: str, _: Path) -> str:
    if not re.fullmatch(r"\$NT\$[0-9a-f]{32}", value):
        raise ValueError('expected an NT hash; make one with "proxyctl users hash-password --databases"')
    return value


def _certificate_pin(value: str, _: Path) -> str:
    digits = value.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("expected the SHA-256 of a certificate, 64 digits of hex, with colons or without")
    return digits


def _issuer(value: str, _: Path) -> str:
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("expected what the provider calls itself, as https://login.example/realms/staff")
    return value


def _email(value: str, _: Path) -> str:
    if not re.fullmatch(r"[^@\s<>,;:\"()\[\]\\]{1,64}@[A-Za-z0-9.-]{1,253}", value):
        raise ValueError("expected an e-mail address, as alice@example.org")
    return value


def _regex(value: str, _: Path) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
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


# Types of keys: the check runs on the text of the file, the rest is msgspec's.

Address = Annotated[str, Check(_as_written(split_address))]
PublicAddress = Annotated[str, Check(_as_written(lambda text: text and split_address(text)))]
Network = Annotated[str, Check(_as_written(ipaddress.ip_network))]
KeyLine = Annotated[str, Check(_as_written(key_data))]
Located = Annotated[Path, Check(_located)]
Existing = Annotated[Path, Check(_existing)]
Reference = Annotated[str, Check(_reference)]
UserCa = Annotated[str, Check(_authority)]
Database = Annotated[str, Check(_database)]
PasswordHash = Annotated[str, Check(_password_hash)]
EmailAddress = Annotated[str, Check(_email)]
Issuer = Annotated[str, Check(_issuer)]
EventName = Annotated[str, Check(one_of(tuple(Event)))]
Regex = Annotated[str, Check(_regex)]
StatementKind = Annotated[str, Check(one_of(STATEMENT_KINDS))]
ScramVerifier = Annotated[str, Check(_scram)]
MysqlNative = Annotated[str, Check(_mysql_native)]
MariadbEd25519 = Annotated[str, Check(_ed25519)]
CertificatePin = Annotated[str, Check(_certificate_pin)]
NtHash = Annotated[str, Check(_nt_hash)]
Recipient = Annotated[str, Check(_recipient)]
TimeZone = Annotated[str, Check(_zone)]
Chain = Annotated[str, Check(_chain)]
MaxStartups = Annotated[str, Check(_as_written(parse_startups))]
When = Annotated[str, Check(_as_written(parse_window))]
Channel = Annotated[str, Check(one_of(CHANNELS))]
PermissionName = Annotated[str, Check(one_of(tuple(Permission)))]
SearchSource = Annotated[str, Check(one_of(SOURCES))]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Penalty = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
StaticChannel = Annotated[str, Check(_static_channel)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
