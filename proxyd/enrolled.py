"""What users have set up themselves: SSH keys, an authenticator, passkeys, recovery codes; one file of the daemon's own.

Rule 1: a change counts once it is on disk: the file is replaced whole, 0600, and synced, file and directory.
Rule 2: a file that can't be read, or is not one of ours, ends the start: a second factor never vanishes unnoticed.
Rule 3: a recovery code is kept as its SHA-256 (it is 80 random bits), is good once, and is spent on disk before it counts.
Rule 4: what was set up by somebody who is no user any more goes: a later user of that name begins with nothing.
Rule 5: everything is bounded, and what is secret shows in no repr.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from proxyd import log
from proxyd.config import User
from proxyd.config_values import key_data
from proxyd.errors import ConfigError, ProxydError
from proxyd.recorder.store import sync_directory

NAME: Final = "enrolled.json"  # below the daemon's state
OWN_DEVICE: Final = "enrolled:"  # what a user's `totp` says where the secret is here: no vault knows it
MAX_FILE_BYTES: Final = 64 << 20  # twenty thousand users with all they may have
MAX_KEYS: Final = 20  # of one user: their machines, and some to spare
MAX_PASSKEYS: Final = 10  # of one user: what they carry, what lies in the safe, their machines' own
MAX_LINE: Final = 4096  # bytes of a key line; an RSA key of 16384 bits has 2,800
MAX_COMMENT: Final = 100
MIN_RSA_BITS: Final = 2048  # NIST SP 800-131A; OpenSSH takes 1024
RECOVERY_CODES: Final = 10
RECOVERY_MOST: Final = 20  # with those an operator gave
RECOVERY_BYTES: Final = 10  # 16 characters of base32
SAVE_USED_S: Final = 60.0  # what a crash may lose of "last used"

_log = log.get("enrolled")


class BadKey(ProxydError):
    """A key line is none, or none that may be added; the text says why."""


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An SSH key as its user gave it; `added_at`: seconds since 1970."""

    line: Annotated[str, msgspec.Meta(max_length=MAX_LINE)]
    added_at: float


class Passkey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security key, or a passkey of a device (WebAuthn): what it calls itself, and its public key in COSE.

    `place`: the host it was made for; `name`: as its user calls it; `count`: of what it had signed when it was last seen.
    """

    id: Annotated[bytes, msgspec.Meta(max_length=1023)]  # WebAuthn 3, 5.8.2 credential ids have no more
    public: Annotated[bytes, msgspec.Meta(max_length=2048)]
    place: Annotated[str, msgspec.Meta(max_length=255)]
    name: Annotated[str, msgspec.Meta(max_length=MAX_COMMENT)]
    added_at: float
    count: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mark})"

    @property
    def mark(self) -> str:
        """What tells it apart, where people see it."""
        return fingerprint(self.id)


class Enrolment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that one user has set up. `totp`: a secret in base32, since `totp_at`; `recovery`: SHA-256 in hex."""

    keys: Annotated[tuple[Key, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()
    totp: Annotated[str, msgspec.Meta(max_length=128)] = ""
    totp_at: float = 0.0
    recovery: Annotated[tuple[str, ...], msgspec.Meta(max_length=RECOVERY_MOST)] = ()
    passkeys: Annotated[tuple[Passkey, ...], msgspec.Meta(max_length=MAX_PASSKEYS)] = ()

    def __repr__(self) -> str:
        counts = f"keys={len(self.keys)}, passkeys={len(self.passkeys)}, recovery={len(self.recovery)}"
        return f"{type(self).__name__}({counts}, totp={bool(self.totp)})"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. `used`: when a user's key or passkey was used last, by user and fingerprint."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    users: dict[str, Enrolment]
    used: dict[str, dict[str, float]]


NOTHING: Final = Enrolment()


class Enrolled:
    """The file, and what it says; its methods that write wait for the disk: call them in a thread."""

    def __init__(self, path: Path) -> None:
        """Read it, where there is one. Raises ConfigError."""
        self._path = path
        self._lock = threading.Lock()  # of changes
        found = _read(path)
        self._users, self._used = found.users, found.used
        self._dirty = False

    def of(self, user: str) -> Enrolment:
        """Give what a user has set up."""
        return self._users.get(user, NOTHING)

    def applied(self, users: Mapping[str, User], *, keys: bool) -> dict[str, User]:
        """Give the users of a configuration with what they set up; `keys`: whether keys they added count."""
        return {name: _joined(user, self.of(name), keys=keys) for name, user in users.items()}

    def change(self, user: str, how: Callable[[Enrolment], Enrolment]) -> Enrolment:
        """Change what a user has set up, on disk first (rule 1). Raises what `how` does, ConfigError, ValueError."""
        with self._lock:
            changed = msgspec.convert(
                msgspec.to_builtins(how(self.of(user))), Enrolment
            )  # within its bounds (rule 5)
            users = {name: one for name, one in self._users.items() if name != user}
            if changed != NOTHING:
                users[user] = changed
            self._write(users, self._used)
            self._users = users
        return changed

    def keep(self, users: Collection[str]) -> list[str]:
        """Forget whoever is no user any more (rule 4); gives who that was. Raises ConfigError."""
        with self._lock:
            gone = sorted(name for name in self._users.keys() | self._used.keys() if name not in users)
            if gone:
                left = {name: one for name, one in self._users.items() if name not in gone}
                used = {name: one for name, one in self._used.items() if name not in gone}
                self._write(left, used)
                self._users, self._used = left, used
        return gone

    def spend(self, user: str, code: str) -> bool:
        """Use a recovery code up (rule 3); False when it is none of theirs. Raises ConfigError."""
        digest = recovery_digest(code)
        if not any(hmac.compare_digest(digest, kept) for kept in self.of(user).recovery):
            return False

        def without(own: Enrolment) -> Enrolment:
            left = tuple(kept for kept in own.recovery if kept != digest)
            if len(left) == len(own.recovery):
                raise _SpentError
            return msgspec.structs.replace(own, recovery=left)

        try:
            self.change(user, without)
        except _SpentError:  # by somebody else, a moment ago
            return False
        return True

    def has_passkey(self, credential: bytes) -> bool:
        """Tell whether anybody has a passkey of that id."""
        return any(one.id == credential for own in self._users.values() for one in own.passkeys)

    def note_used(self, user: str, key: bytes, at: float) -> None:
        """Remember that a key (wire format), or a passkey (its id), logged its user in; never waits."""
        self._used = {**self._used, user: {**self.used(user), fingerprint(key): at}}
        self._dirty = True

    def used(self, user: str) -> Mapping[str, float]:
        """Give when a user's keys logged in last, by fingerprint."""
        return self._used.get(user, {})

    async def run(self) -> None:
        """Write down when keys were used, now and then, until cancelled; then once more."""
        try:
            while True:
                await trio.sleep(SAVE_USED_S)
                await trio.to_thread.run_sync(self.save)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.save)

    def save(self) -> None:
        """Write down when keys were used, where that is news; a disk that says no is told of in the log."""
        with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            try:
                self._write(self._users, self._used)
            except ConfigError as error:
                self._dirty = True
                _log.warning("when keys were used is not written down", why=str(error))

    def _write(self, users: dict[str, Enrolment], used: dict[str, dict[str, float]]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_File(1, users, used)))
        aside = self._path.with_name(f".{self._path.name}.new")
        try:
            aside.unlink(missing_ok=True)
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            aside.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            raise ConfigError(
                f"can't be written: {error.strerror}; nothing was changed", self._path
            ) from None


class _SpentError(Exception):
    """A recovery code is gone already."""


def _joined(user: User, own: Enrolment, *, keys: bool) -> User:
    lines = [key.line for key in own.keys] if keys else []
    totp = OWN_DEVICE if own.totp else user.totp
    return msgspec.structs.replace(user, keys=[*user.keys, *lines], totp=totp)


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return _File(1, {}, {})
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", path) from None
    if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            "is open to others, and holds second factors: chmod 600, and give it to proxyd's user", path
        )
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES >> 20} MiB", path)
    try:
        found = msgspec.json.decode(data, type=_File)
        for own in found.users.values():
            for key in own.keys:
                key_data(key.line)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # its text could quote a secret
        raise ConfigError(
            "is not what proxyd wrote; put back a copy of it: second factors are in it", path
        ) from None
    return found


def fingerprint(key: bytes) -> str:
    """Give a key's fingerprint as OpenSSH shows it; of a passkey's id, in the same form."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def checked_line(text: str) -> str:
    """Give a pasted public key as it is kept: type, data and comment. Raises BadKey, which says what to do."""
    line = text.strip()
    if "PRIVATE KEY" in line:
        raise BadKey(
            "this is a private key: never give it away; paste the line of the file that ends in .pub"
        )
    if "\n" in line or len(line.encode()) > MAX_LINE:
        raise BadKey("paste one public key: the one line of a file that ends in .pub")
    try:
        data = key_data(line)
        kind, encoded, *comment = line.split(maxsplit=2)
        key = load_ssh_public_key(f"{kind} {encoded}".encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey(
            "this is no public key of a kind that logs in here: make one with ssh-keygen -t ed25519"
        ) from None
    if b"-cert-" in data[:64] or kind == "ssh-dss":
        raise BadKey(f"keys of the type {kind} are not taken: make one with ssh-keygen -t ed25519")
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise BadKey(
            f"an RSA key has at least {MIN_RSA_BITS} bits, this one {key.key_size}: ssh-keygen -t ed25519"
        )
    said = "".join(mark for mark in (comment or [""])[0] if mark.isprintable())[:MAX_COMMENT]
    return " ".join(part for part in (kind, encoded, said) if part)


def recovery_codes(count: int = RECOVERY_CODES) -> list[str]:
    """Make recovery codes, as people write them down."""
    texts = [base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower() for _ in range(count)]
    return ["-".join(text[at : at + 4] for at in range(0, len(text), 4)) for text in texts]


def recovery_digest(code: str) -> str:
    """Give what is kept of a recovery code, however it was typed."""
    plain = "".join(mark for mark in code.lower() if mark.isascii() and mark.isalnum())
    return hashlib.sha256(plain.encode()).hexdigest()
