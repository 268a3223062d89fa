"""What a server keeps of a password so that clients can prove they know it, each in the form its protocol asks.

Rule 1: each is what the protocol's own server would store, so a hash of an existing account may be copied as well.
Rule 2: none is the password, yet all can be guessed from: SCRAM slowly, MariaDB's, MySQL's and NT's as fast as one can
        hash.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final, NamedTuple

from nacl.bindings import crypto_scalarmult_ed25519_base
from scramp.utils import ScramException, saslprep  # type: ignore[import-untyped]

from proxyd.md4 import md4

SCRAM_ITERATIONS: Final = 4096  # RFC 7677 4, and PostgreSQL's own; every login costs the client as many
SCRAM_SALT_BYTES: Final = 16  # PostgreSQL's SCRAM_DEFAULT_SALT_LEN
NT_MARK: Final = "$NT$"  # what the modular crypt format calls it


class ScramKeys(NamedTuple):
    """What a password becomes (RFC 5802, 3): ClientKey and ServerKey."""

    client: bytes
    server: bytes


def scram_keys(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """Compute the keys; takes 0.3 us an iteration.

    The password is prepared by SASLprep, or taken as it is where that does not allow it, as servers and libpq do.
    """
    try:
        prepared = str(saslprep(password))
    except ScramException:
        prepared = password
    salted = hashlib.pbkdf2_hmac("sha256", prepared.encode(errors="surrogateescape"), salt, iterations)
    return ScramKeys(
        hmac.digest(salted, b"Client Key", "sha256"), hmac.digest(salted, b"Server Key", "sha256")
    )


def scram(password: str, *, salt: bytes | None = None, iterations: int = SCRAM_ITERATIONS) -> str:
    """Give PostgreSQL's SCRAM-SHA-256 verifier: what pg_authid.rolpassword holds (RFC 5802 3, RFC 7677)."""
    salt = salt if salt is not None else secrets.token_bytes(SCRAM_SALT_BYTES)
    keys = scram_keys(password, salt, iterations)
    stored = hashlib.sha256(keys.client).digest()
    return f"SCRAM-SHA-256${iterations}:{_base64(salt)}${_base64(stored)}:{_base64(keys.server)}"


def mysql_native(password: str) -> str:
    """Give the hash of mysql_native_password: what PASSWORD() of MariaDB does."""
    once = hashlib.sha1(password.encode(errors="surrogateescape"), usedforsecurity=False).digest()
    return f"*{hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()}"


def mariadb_ed25519(password: str) -> str:
    """Give the public key of MariaDB's ed25519 plugin: SHA512 of the password is what RFC 8032 has of the seed."""
    scalar = hashlib.sha512(password.encode(errors="surrogateescape")).digest()[:32]
    return _base64(crypto_scalarmult_ed25519_base(scalar)).rstrip("=")  # clamps the scalar itself


def nt_key(password: str) -> bytes:
    """Give what NTLM computes with in place of the password, 16 bytes: NTOWFv1 (MS-NLMP 3.3.1)."""
    return md4(password.encode("utf-16-le", "surrogatepass"))


def nt_hash(password: str) -> str:
    """Give the NT hash, as Windows' SAM and Samba hold it: "$NT$" and 32 digits of hex (MS-NLMP 3.3.1)."""
    return f"{NT_MARK}{nt_key(password).hex()}"


def nt_key_of(verifier: str) -> bytes:
    """Read back what `nt_hash` gave; raises ValueError."""
    return bytes.fromhex(verifier.removeprefix(NT_MARK))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
