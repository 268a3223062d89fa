"""Reaching a target: the connection to its address, and the host keys it must show.

Rule 1: a key is trusted only because the configuration pins it for this target; there is no first use.
Rule 2: a failure to connect is one sentence that says which of the three it was: refused, silent, unknown name.
"""

from __future__ import annotations

import base64
import binascii
import errno
import fnmatch
import hashlib
import hmac
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

import trio

from proxyd import config, metrics
from proxyd.errors import TargetError, TargetLoginFailed, TargetUnreachable

SSH_PORT: Final = 22  # known_hosts names it without brackets (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)
MARKERS: Final = ("@cert-authority", "@revoked")
HASHED: Final = "|1|"  # known_hosts: |1|base64 salt|base64 HMAC-SHA1 of the name


async def dial(target: config.Target) -> socket.socket:
    """Connect to the target's address within its `connect_seconds`; all its addresses are tried, staggered.

    Returns a non-blocking socket with TCP_NODELAY; raises TargetUnreachable.
    """
    try:
        with trio.fail_after(target.connect_seconds):
            stream = await trio.open_tcp_stream(target.host, target.port)
    except trio.TooSlowError:
        raise TargetUnreachable(
            f"{target.name} does not answer (waited {target.connect_seconds:g} s)."
        ) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of the name is too long for DNS
        raise TargetUnreachable(f"{target.name} {_why(error)}.") from None
    connected = socket.socket(fileno=stream.socket.detach())
    connected.setblocking(False)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def count_login(protocol: str, error: TargetError | None) -> None:
    """Count a login at a target: what it failed with, None where it did not."""
    results = {TargetUnreachable: "unreachable", TargetLoginFailed: "failed", TargetError: "untrusted"}
    result = next((word for kind, word in results.items() if isinstance(error, kind)), "ok")
    metrics.TARGET_LOGINS.labels(protocol=protocol, result=result).inc()


def _why(error: BaseException) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, socket.gaierror | UnicodeError) for cause in causes):
        return "can't be reached: its name is not known"
    numbers = {getattr(cause, "errno", None) for cause in causes}
    if errno.ECONNREFUSED in numbers:
        return "refused the connection"
    if errno.ETIMEDOUT in numbers:
        return "does not answer"
    return "can't be reached: there is no way to its address"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what is inside: trio groups one error for each address it tried."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    elif error.__cause__ is not None:
        yield from _causes(error.__cause__)
    else:
        yield error


class Trusted(NamedTuple):
    """OpenSSH public key lines: good as they are, good as CA of a host certificate, never good."""

    host_keys: list[str]
    ca_keys: list[str]
    revoked: list[str]


class _Entry(NamedTuple):
    marker: str
    names: str
    key: str


class HostKeys:
    """The keys a target is pinned to: inline keys and CAs, and what its known_hosts file says of its names.

    Rule 1: inline keys hold whatever address the target answers from.
    Rule 2: a line of known_hosts that can't be read trusts nothing and harms no other line.
    """

    def __init__(self, target: config.Target) -> None:
        """Read the target's known_hosts file, if it has one: call it in a thread. Raises TargetError."""
        self._host_keys, self._host_ca = list(target.host_keys), list(target.host_ca)
        self._entries: list[_Entry] = []
        if target.known_hosts is not None:
            try:
                text = target.known_hosts.read_text(errors="replace")
            except OSError:
                raise TargetError(f"The pinned host keys of {target.name} can't be read.") from None
            self._entries = list(_entries(text))

    def trusted(self, host: str, addr: str, port: int | None) -> Trusted:
        """Return what is pinned for a host name, its address and port (None: 22)."""
        found = Trusted(list(self._host_keys), list(self._host_ca), [])
        names = [name for name in (host, addr) if name]
        if port not in (None, SSH_PORT):
            names = [f"[{name}]:{port}" for name in names]
        for marker, patterns, key in self._entries:
            if _named(patterns, names):
                place = {"@cert-authority": found.ca_keys, "@revoked": found.revoked}
                place.get(marker, found.host_keys).append(key)
        return found

    def known_hosts(
        self, host: str, addr: str, port: int | None
    ) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """Return `trusted` as asyncssh's `known_hosts` callable must: a str there would be a file's name."""
        host_keys, ca_keys, revoked = (
            [line.encode() for line in lines] for lines in self.trusted(host, addr, port)
        )
        return host_keys, ca_keys, revoked


def _entries(text: str) -> Iterator[_Entry]:
    for line in text.splitlines():
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if (
            len(fields) < 3 or fields[0].startswith("#") or (marker and marker not in MARKERS)
        ):  # names type base64
            continue
        try:
            config.key_data(key := f"{fields[1]} {fields[2]}")
        except ValueError:
            continue
        yield _Entry(marker, fields[0], key)


def _named(patterns: str, names: list[str]) -> bool:
    """Tell whether a line's first field means one of the names; a matching "!name" rules all out."""
    if patterns.startswith(HASHED):
        return any(_hashed(patterns, name) for name in names)
    found = False
    for pattern in patterns.lower().split(","):
        if any(_matches(pattern.removeprefix("!"), name.lower()) for name in names):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _matches(pattern: str, name: str) -> bool:
    """Match * and ? only: brackets are part of "[host]:port"."""
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hashed(pattern: str, name: str) -> bool:
    try:
        salt, digest = (
            base64.b64decode(part, validate=True) for part in pattern.removeprefix(HASHED).split("|")
        )
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), hashlib.sha1), digest)
