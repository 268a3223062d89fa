"""The login methods of MySQL and MariaDB, both sides: what proves a password, and how a proof is checked.

Rule 1: no socket and no clock; a nonce comes in, a proof goes out, and back.
Rule 2: proofs are compared in constant time.
Rule 3: a cleartext password is asked for and given inside TLS only; RSA is for a target without TLS, by its own key.

mysql_native_password: SHA1(p) XOR SHA1(nonce + SHA1(SHA1(p))); the server keeps SHA1(SHA1(p)).
caching_sha2_password: SHA256(p) XOR SHA256(SHA256(SHA256(p)) + nonce); then 01 03 for yes, or 01 04: send the password.
client_ed25519: an Ed25519 signature of the nonce, by a key that is SHA512(p) and not the usual SHA512(seed).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl import bindings

from proxyd.protocols.mysql.login_packets import CLEAR, ED25519, NATIVE, NONCE_BYTES, SHA2
from proxyd.protocols.mysql.wire import WireError

ED25519_NONCE_BYTES: Final = 32
MORE: Final = b"\x01"  # the first byte of what belongs to a method and is no verdict
FAST_OK: Final = b"\x01\x03"
SEND_PASSWORD: Final = b"\x01\x04"
ASK_RSA_KEY: Final = b"\x02"
_MARKS: Final = bytes(mark for mark in range(1, 128) if mark != ord("$"))
MIN_RSA_BITS: Final = 2048  # MySQL makes its own keys this long


def new_nonce(size: int = NONCE_BYTES) -> bytes:
    """Draw a nonce without NUL, and without the mark some old clients stop at."""
    return bytes(secrets.choice(_MARKS) for _ in range(size))


# ------------------------------------------------------------------ towards users


def native_proves(stored: str, nonce: bytes, proof: bytes) -> bool:
    """Tell whether the proof was made with the password of a hash like *94BD...; `stored` as the configuration has it."""
    doubled = bytes.fromhex(stored.removeprefix("*"))
    if len(proof) != len(doubled):
        return False
    once = _xor(proof, hashlib.sha1(nonce + doubled, usedforsecurity=False).digest())
    return hmac.compare_digest(hashlib.sha1(once, usedforsecurity=False).digest(), doubled)


def ed25519_proves(stored: str, nonce: bytes, proof: bytes) -> bool:
    """Tell whether the nonce was signed with the password of a MariaDB public key, 43 characters of base64."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(stored + "="))
        key.verify(proof, nonce)
    except (InvalidSignature, ValueError):
        return False
    return True


def sha2_digest(password: str) -> bytes:
    """Give what a server may keep to know a password again by `sha2_proves`."""
    return hashlib.sha256(hashlib.sha256(password.encode("utf-8", "surrogateescape")).digest()).digest()


def sha2_proves(digest: bytes, nonce: bytes, proof: bytes) -> bool:
    """Tell whether the proof was made with the password of that digest."""
    if len(proof) != len(digest):
        return False
    once = _xor(proof, hashlib.sha256(digest + nonce).digest())
    return hmac.compare_digest(hashlib.sha256(once).digest(), digest)


# ------------------------------------------------------------------ towards targets


def proof_of(plugin: str, password: str, nonce: bytes, *, inside_tls: bool) -> bytes:
    """Give a client's first proof. Raises WireError for a method that is not known, or not here."""
    secret = password.encode()
    if plugin == NATIVE:
        once = hashlib.sha1(secret, usedforsecurity=False).digest()
        doubled = hashlib.sha1(once, usedforsecurity=False).digest()
        return _xor(once, hashlib.sha1(nonce[:NONCE_BYTES] + doubled, usedforsecurity=False).digest())
    if plugin == SHA2:
        once = hashlib.sha256(secret).digest()
        return _xor(once, hashlib.sha256(hashlib.sha256(once).digest() + nonce[:NONCE_BYTES]).digest())
    if plugin == ED25519:
        return ed25519_sign(secret, nonce[:ED25519_NONCE_BYTES])
    if plugin == CLEAR and inside_tls:
        return secret + b"\0"
    raise WireError("the target asks for a login method that is not known, or not safe here")


def ed25519_sign(password: bytes, message: bytes) -> bytes:
    """Sign as MariaDB does: RFC 8032 5.1.6 with SHA512(password) where it hashes the seed."""
    hashed = hashlib.sha512(password).digest()
    clamped = bytearray(hashed[:32])
    clamped[0] &= 0xF8
    clamped[31] = clamped[31] & 0x7F | 0x40
    scalar, prefix = bytes(clamped), hashed[32:]
    public = bindings.crypto_scalarmult_ed25519_base_noclamp(scalar)
    r = bindings.crypto_core_ed25519_scalar_reduce(hashlib.sha512(prefix + message).digest())
    point = bindings.crypto_scalarmult_ed25519_base_noclamp(r)
    k = bindings.crypto_core_ed25519_scalar_reduce(hashlib.sha512(point + public + message).digest())
    s = bindings.crypto_core_ed25519_scalar_add(bindings.crypto_core_ed25519_scalar_mul(k, scalar), r)
    return bytes(point + s)


def rsa_password(pem: bytes, password: str, nonce: bytes) -> bytes:
    """Encrypt a password for caching_sha2_password without TLS. Raises WireError for a key or a nonce that is none."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise WireError("a public key that can't be read") from None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < MIN_RSA_BITS:
        raise WireError("a public key of another kind")
    if len(nonce) < NONCE_BYTES:
        raise WireError("a nonce that is too short")
    secret = password.encode() + b"\0"
    masked = bytes(byte ^ nonce[place % NONCE_BYTES] for place, byte in enumerate(secret))
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - the server's choice
    try:
        return key.encrypt(masked, oaep)
    except ValueError:
        raise WireError("a public key too short for the password") from None


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
