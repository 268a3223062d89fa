"""What `proxyd check` looks at once a configuration has loaded: is what it names there, and usable.

Rule 1: an error is what a start, or a session, would fail on; a warning is what someone surely did not mean.
Rule 2: nothing is changed, nothing is dialled, no vault command is run, and no secret is shown.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from proxyd.config import Account, Config, DatabaseListen, Target, TlsListen
from proxyd.database_tls import front_context, target_tls
from proxyd.decoders import PACKAGES, freerdp
from proxyd.errors import ProxydError
from proxyd.indexing.pool import DECODER, MISSING
from proxyd.recorder.keys import load_signer

KERBEROS = ("gssapi", "krb5")  # what pyspnego does it with
PROTOCOLS = ("ssh", "postgres", "mysql", "rdp")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})  # nobody listens in on these
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Finding(NamedTuple):
    """One thing `check` has to say; `where` is the key of the configuration."""

    severity: Literal["error", "warning"]
    where: str
    text: str


def findings(config: Config) -> Iterator[Finding]:
    """Yield what is wrong with a loaded configuration."""
    yield from _listeners(config)
    yield from _recording(config)
    yield from _index(config)
    yield from _control(config)
    yield from _users(config)
    yield from _targets(config)


def _listeners(config: Config) -> Iterator[Finding]:
    fronts = {name: getattr(config.listen, name) for name in PROTOCOLS}
    if not any(fronts.values()):
        yield Finding("warning", "listen", f"has none of {', '.join(PROTOCOLS)}: no user can connect")
    keys: list[tuple[str, Path]] = []
    if ssh := config.listen.ssh:
        keys += [("listen.ssh.host_keys", path) for path in ssh.host_keys]
        if ssh.host_ca is not None:
            keys.append(("listen.ssh.host_ca", ssh.host_ca))
    for name in ("postgres", "mysql", "rdp"):
        if front := fronts[name]:
            keys.append((f"listen.{name}.key", front.key))
            yield from _front_tls(f"listen.{name}", front)
    for where, path in keys:
        yield from _private_key(where, path)


def _front_tls(where: str, front: TlsListen) -> Iterator[Finding]:
    database = front if isinstance(front, DatabaseListen) else None
    for path in filter(None, (front.certificate, database.client_ca if database else None)):
        if problem := _unreadable(path):
            yield Finding("error", where, problem)
            return
    try:
        front_context(front)
    except ProxydError as error:
        yield Finding("error", where, str(error))
    if database is not None and database.tls == "prefer":
        text = "is prefer: a client that asks for no TLS sends its statements in the clear"
        yield Finding("warning", f"{where}.tls", text)


def _private_key(where: str, path: Path) -> Iterator[Finding]:
    if problem := _unreadable(path):
        yield Finding("error", where, problem)
        return
    if path.stat().st_mode & OTHERS:
        yield Finding("error", where, f"{path} can be read by others: chmod 600")
    data = path.read_bytes()
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        yield Finding("error", where, f"{path} is no private key that opens without a passphrase")


def _recording(config: Config) -> Iterator[Finding]:
    recording = config.recording
    try:
        load_signer(recording.signing_key)
    except ProxydError as error:
        yield Finding("error", "recording.signing_key", str(error))
    for where, path in (("state", config.state), ("recording.directory", recording.directory)):
        yield from _directory(where, path)
    if recording.directory.exists() and shutil.disk_usage(recording.directory).free < recording.reserve_bytes:
        text = f"{recording.directory} has less free space than reserve_bytes: every session would be refused"
        yield Finding("error", "recording.reserve_bytes", text)
    identity = recording.identity
    if identity is not None and identity.exists() and identity.stat().st_mode & OTHERS:
        yield Finding("error", "recording.identity", f"{identity} can be read by others: chmod 600")


def _index(config: Config) -> Iterator[Finding]:
    if config.listen.rdp is not None and config.index.enabled and importlib.util.find_spec(DECODER) is None:
        yield Finding("warning", "index.enabled", f"no desktop can be watched or indexed: {MISSING}")
    if config.search.enabled and config.search.key:
        yield from _reference("search.key", config.search.key)


def _directory(where: str, path: Path) -> Iterator[Finding]:
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("error", where, f"{path} can't be written, at {there}")


def _control(config: Config) -> Iterator[Finding]:
    yield from _directory("control.socket", config.control.socket.parent)
    if not config.control.operators:
        yield Finding("warning", "control.operators", "is empty: nobody can use proxyctl")


def _users(config: Config) -> Iterator[Finding]:
    for name, user in config.users.items():
        where = f"users.{name}"
        authorities = config.listen.ssh.user_ca if config.listen.ssh else []
        databases = (user.scram, user.mysql_native, user.mariadb_ed25519)
        proofs = (user.password, user.keys, *databases, user.nt_hash, authorities)
        if not any(proofs):
            yield Finding("warning", where, "has neither a password nor a key: can't log in")
        if user.totp:
            yield from _reference(f"{where}.totp", user.totp)
        granted = any(
            any(fnmatchcase(name, glob) for glob in grant.users) or set(grant.roles) & set(user.roles)
            for grant in config.grants
        )
        if not granted:
            yield Finding("warning", where, "no grant names them or a role of theirs: they reach nothing")


def _targets(config: Config) -> Iterator[Finding]:
    for name, target in config.targets.items():
        where = f"targets.{name}"
        if getattr(config.listen, target.protocol) is None:
            text = f"there is no listen.{target.protocol}: nobody reaches it"
            yield Finding("warning", where, text)
        yield from _target_trust(where, target)
        if target.graphics != "bitmap" and freerdp() is None:
            text = f"is {target.graphics}, which needs {PACKAGES} here: without it desktops are painted by bitmaps"
            yield Finding("warning", f"{where}.graphics", text)
        if not any(fnmatchcase(name, glob) for grant in config.grants for glob in grant.targets):
            yield Finding("warning", where, "no grant names it: nobody reaches it")
        if not target.accounts:
            yield Finding("warning", where, "has no account: nobody reaches it")
        for login, account in target.accounts.items():
            for field in ("password", "key", "certificate", "passphrase"):
                if reference := getattr(account, field):
                    yield from _reference(f"{where}.accounts.{login}.{field}", reference)
            yield from _kerberos(f"{where}.accounts.{login}", account)


def _kerberos(where: str, account: Account) -> Iterator[Finding]:
    """Check that what logs in with Kerberos is there; a ticket is asked for at a login only."""
    for field in ("keytab", "ccache"):
        if (path := getattr(account, field)) and (problem := _unreadable(path)):
            yield Finding("error", f"{where}.{field}", problem)
    if (account.keytab or account.ccache) and not all(map(importlib.util.find_spec, KERBEROS)):
        yield Finding("error", where, "Kerberos needs more packages: pip install proxyd[kerberos]")


def _target_trust(where: str, target: Target) -> Iterator[Finding]:
    """Check how sure a session can be that it is this target it reached."""
    if target.protocol == "ssh":
        if not target.host_keys and not target.known_hosts and not target.host_ca:
            text = "no host key is pinned (host_keys, known_hosts or host_ca): every session to it is refused"
            yield Finding("error", where, text)
        return
    if target.tls == "off" and target.host not in LOOPBACK:
        text = "is off: passwords and statements cross the network as anyone there can read them"
        yield Finding("warning", f"{where}.tls", text)
    elif target.tls == "require" and not target.tls_pins:
        yield Finding("warning", f"{where}.tls", "is require: whoever answers at its address is believed")
    try:
        target_tls(target)
    except ProxydError as error:
        yield Finding("error", f"{where}.tls_ca", str(error))


def _reference(where: str, reference: str) -> Iterator[Finding]:
    """Check that a credential is where it is said to be; it is not read."""
    scheme, _, rest = reference.partition(":")
    if scheme == "file":
        path = Path(rest)
        if problem := _unreadable(path):
            yield Finding("error", where, problem)
        elif path.stat().st_mode & OTHERS:
            yield Finding("error", where, f"{path} can be read by others: chmod 600")
    elif scheme == "env" and rest not in os.environ:
        yield Finding("warning", where, f"the variable {rest} is not set here; it must be for the daemon")
    elif scheme == "command":
        try:
            program = shlex.split(rest)[0]
        except (ValueError, IndexError):
            yield Finding("error", where, "is no command line")
            return
        if shutil.which(program) is None:
            yield Finding("error", where, f"there is no program {program}")


def _unreadable(path: Path) -> str:
    """Say why a file can't be read, or nothing."""
    if not path.exists():
        return f"{path} does not exist"
    return "" if os.access(path, os.R_OK) else f"{path} can't be read by uid {os.getuid()}"
