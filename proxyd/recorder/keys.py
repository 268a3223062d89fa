"""The keys of a recording: the node's signing key, and the data key that only a vault's identity opens.

Rule 1: a data key (DEK) lives in the daemon's memory for one session, beside it in memory until the session is indexed
        (indexing.keyring), and on disk only wrapped with age.
Rule 2: the daemon holds recipients (public); `unwrap` is for the operator's own process, which has an identity.
Rule 3: a signature names its key by `key_id`, the first 8 bytes of SHA-256 over the raw Ed25519 public key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pyrage
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proxyd.errors import ConfigError, FormatError

DEK_BYTES = 32  # AES-256
KEY_ID_BYTES = 8  # enough to tell a site's signing keys apart; the signature itself is what proves
OTHERS_MAY_READ = stat.S_IRWXG | stat.S_IRWXO


class WrappedKey(NamedTuple):
    """A data key as `recipient` alone can open it; `blob` is an age file."""

    recipient: str
    blob: bytes


def key_id(public: Ed25519PublicKey) -> bytes:
    """Name a public key by 8 bytes."""
    return sha256(public.public_bytes_raw()).digest()[:KEY_ID_BYTES]


class Signer:
    """A node's Ed25519 signing key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key()
        self.key_id = key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """Sign; 64 bytes."""
        return self._private.sign(message)


def signed_by(public: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Say whether `public`'s owner signed exactly this message."""
    try:
        public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def load_signer(path: Path) -> Signer:
    """Read the signing key, an unencrypted Ed25519 PEM nobody else may read; raises ConfigError."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & OTHERS_MAY_READ:
            raise ConfigError("the signing key can be read by others; make it 0600", path)
        private = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"the signing key can't be read: {error.strerror}", path) from error
    except (ValueError, TypeError) as error:
        raise ConfigError("the signing key is no unencrypted PEM private key", path) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError("the signing key is not Ed25519", path)
    return Signer(private)


def new_dek() -> bytes:
    """Draw a data key."""
    return os.urandom(DEK_BYTES)


def _recipient(text: str) -> Any:
    """Read one age recipient: `age1...` or an SSH public key."""
    try:
        if text.startswith("ssh-"):
            return pyrage.ssh.Recipient.from_str(text)
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise ConfigError(f"{text!r} is no age recipient") from error


def wrap(dek: bytes, recipients: Sequence[str]) -> tuple[WrappedKey, ...]:
    """Wrap a data key once for each recipient, so that any one of them opens it; raises ConfigError."""
    if not recipients:
        raise ConfigError("recording.recipients is empty: nobody could ever open a recording")
    return tuple(WrappedKey(text, pyrage.encrypt(dek, [_recipient(text)])) for text in recipients)


def read_identities(text: str) -> list[Any]:
    """Read an age identity file's text (one AGE-SECRET-KEY per line, # comments); raises FormatError."""
    lines = (line.strip() for line in text.splitlines())
    try:
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except pyrage.IdentityError as error:
        raise FormatError("the identity file holds something that is no age identity") from error
    if not found:
        raise FormatError("the identity file holds no age identity")
    return found


def unwrap(wrapped: Iterable[WrappedKey], identities: Sequence[Any]) -> bytes:
    """Open whichever wrapped copy one of the identities fits; raises FormatError when none does."""
    for key in wrapped:
        try:
            dek: bytes = pyrage.decrypt(key.blob, list(identities))
        except pyrage.DecryptError:
            continue
        if len(dek) == DEK_BYTES:
            return dek
    raise FormatError("no identity given here opens this recording")
