"""Proving who one is, to either side: SCRAM-SHA-256 and -PLUS, MD5, cleartext; bytes in, bytes out.

Rule 1: whoever does not know a password learns nothing: an unknown user gets a whole exchange with a salt that stays
        the same, and fails where a wrong password fails.
Rule 2: channel binding is used wherever there is TLS, and a peer that was talked out of it is refused (RFC 5802, 6).
Rule 3: a target may not make us compute for ever: MAX_ITERATIONS.
Rule 4: nothing here waits; what takes long (`scram_keys`, `ScramVerifier.matches`) is to be called in a thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from proxyd.protocols.postgres.wire import WireError
from proxyd.verifiers import ScramKeys, scram_keys

SCRAM: Final = b"SCRAM-SHA-256"
SCRAM_PLUS: Final = b"SCRAM-SHA-256-PLUS"
BINDING: Final = "p=tls-server-end-point,,"
ITERATIONS: Final = 4096  # what PostgreSQL's own verifiers have
MAX_ITERATIONS: Final = 1_000_000  # 0.3 s of a core; servers have 4096
NONCE_BYTES: Final = 18  # SCRAM_RAW_NONCE_LEN
SALT_BYTES: Final = 16  # SCRAM_DEFAULT_SALT_LEN
KEY_BYTES: Final = 32
WEAK_HASHES: Final = ("md5", "sha1")  # RFC 5929 4.1: SHA-256 in their place

_CLIENT_FIRST: Final = re.compile(
    r"(?P<gs2>(?:n|y|p=tls-server-end-point),,)(?P<bare>n=[^,]*,r=(?P<nonce>[!-+\--~]{8,256})(?:,[^,]*)*)"
)
_CLIENT_FINAL: Final = re.compile(
    r"(?P<bare>c=(?P<binding>[^,]*),r=(?P<nonce>[^,]*)(?:,[^,]*)*),p=(?P<proof>[^,]*)"
)
_SERVER_FIRST: Final = re.compile(r"r=(?P<nonce>[^,]+),s=(?P<salt>[^,]+),i=(?P<iterations>\d{1,10})(?:,.*)?")


class WrongPassword(Exception):
    """The proof does not fit."""


@dataclass(frozen=True, slots=True, repr=False)
class ScramVerifier:
    """What is stored of a password: enough to check it, not to log in with it."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes
    known: bool = True  # False: nobody's; no proof fits

    @classmethod
    def parse(cls, text: str) -> ScramVerifier:
        """Read "SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER", as PostgreSQL and our configuration have it."""
        _, numbers, keys = text.split("$")
        iterations, salt = numbers.split(":")
        stored, server = keys.split(":")
        return cls(
            int(iterations), base64.b64decode(salt), base64.b64decode(stored), base64.b64decode(server)
        )

    @classmethod
    def doomed(cls, secret: bytes, user: bytes, like: ScramVerifier | None = None) -> ScramVerifier:
        """Make one for a user that is not there: always the same for the same name, and no password fits (rule 1)."""
        size = len(like.salt) if like is not None else SALT_BYTES
        salt = hashlib.shake_256(hmac.digest(secret, b"salt\0" + user, "sha256")).digest(size)
        iterations = like.iterations if like is not None else ITERATIONS
        return cls(
            iterations, salt, secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES), known=False
        )

    def matches(self, password: str) -> bool:
        """Tell whether this is the password; takes 0.3 us an iteration."""
        client_key = scram_keys(password, self.salt, self.iterations).client
        return hmac.compare_digest(hashlib.sha256(client_key).digest(), self.stored_key) and self.known


class ScramServer:
    """Our side towards a client; `binding`: the hash of the certificate it must have seen, None without TLS."""

    def __init__(self, verifier: ScramVerifier, binding: bytes | None) -> None:
        self._verifier = verifier
        self._binding = binding
        self._gs2 = self._bare = self._said = self._nonce = ""

    @property
    def mechanisms(self) -> bytes:
        """What we offer, as AuthenticationSASL has it."""
        offered = (SCRAM_PLUS, SCRAM) if self._binding is not None else (SCRAM,)
        return b"".join(name + b"\0" for name in offered) + b"\0"

    def first(self, mechanism: bytes, data: bytes) -> bytes:
        """Take client-first, give server-first; raises WireError."""
        match = _CLIENT_FIRST.fullmatch(_text(data))
        if match is None:
            raise WireError("its SCRAM message can't be read")
        self._gs2, self._bare = match["gs2"], match["bare"]
        offered = (SCRAM_PLUS, SCRAM) if self._binding is not None else (SCRAM,)
        if mechanism not in offered or self._gs2.startswith("p") != (mechanism == SCRAM_PLUS):
            raise WireError("it chose a SCRAM mechanism that was not offered, or used another")
        if self._gs2.startswith("y") and self._binding is not None:
            raise WireError("it was told that channel binding is not possible here, which is not so")
        self._nonce = match["nonce"] + base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()
        salt = base64.b64encode(self._verifier.salt).decode()
        self._said = f"r={self._nonce},s={salt},i={self._verifier.iterations}"
        return self._said.encode()

    def final(self, data: bytes) -> bytes:
        """Take client-final, give server-final; raises WireError, WrongPassword."""
        match = _CLIENT_FINAL.fullmatch(_text(data))
        if match is None:
            raise WireError("its SCRAM message can't be read")
        bound = self._gs2.encode() + (self._binding or b"" if self._gs2.startswith("p") else b"")
        if not hmac.compare_digest(_bytes(match["binding"]), bound):
            raise WireError("its channel binding is not to this connection")
        if not hmac.compare_digest(match["nonce"].encode(), self._nonce.encode()):
            raise WireError("its SCRAM nonce is not the one it was given")
        proof = _bytes(match["proof"])
        both = f"{self._bare},{self._said},{match['bare']}".encode()
        client_key = _xor(proof, hmac.digest(self._verifier.stored_key, both, "sha256"))
        right = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        if not (right and self._verifier.known):
            raise WrongPassword
        return b"v=" + base64.b64encode(hmac.digest(self._verifier.server_key, both, "sha256"))


class ScramClient:
    """Our side towards a target; `binding`: the hash of the certificate it showed, None where there is none."""

    def __init__(self, offered: frozenset[bytes], binding: bytes | None) -> None:
        """Choose the mechanism; raises WireError when none is known."""
        self._binding = b""
        if binding is not None and SCRAM_PLUS in offered:
            self.mechanism, self._gs2, self._binding = SCRAM_PLUS, BINDING, binding
        elif SCRAM in offered:
            self.mechanism, self._gs2 = (
                SCRAM,
                "y,," if binding is not None else "n,,",
            )  # y: we could have bound
        else:
            raise WireError("offers no SASL mechanism that is known here")
        self._nonce = base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()
        self._bare = f"n=,r={self._nonce}"
        self._signature = b""
        self._server_first = ""

    def first(self) -> bytes:
        """Give client-first."""
        return f"{self._gs2}{self._bare}".encode()

    def challenge(self, data: bytes) -> tuple[bytes, int]:
        """Take server-first, give salt and iterations for `scram_keys`; raises WireError."""
        self._server_first = _text(data)
        match = _SERVER_FIRST.fullmatch(self._server_first)
        if match is None or not match["nonce"].startswith(self._nonce) or match["nonce"] == self._nonce:
            raise WireError("sent a SCRAM message that can't be read")
        iterations = int(match["iterations"])
        if not 1 <= iterations <= MAX_ITERATIONS:
            raise WireError("asks for too many iterations of its password's hash")
        self._nonce = match["nonce"]
        return _bytes(match["salt"]), iterations

    def final(self, keys: ScramKeys) -> bytes:
        """Give client-final."""
        bound = base64.b64encode(self._gs2.encode() + self._binding).decode()
        bare = f"c={bound},r={self._nonce}"
        both = f"{self._bare},{self._server_first},{bare}".encode()
        self._signature = hmac.digest(keys.server, both, "sha256")
        proof = _xor(keys.client, hmac.digest(hashlib.sha256(keys.client).digest(), both, "sha256"))
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()

    def check(self, data: bytes) -> None:
        """Take server-final: the target knows the password too; raises WireError."""
        text = _text(data)
        if not text.startswith("v=") or not hmac.compare_digest(
            _bytes(text[2:].split(",")[0]), self._signature
        ):
            raise WireError("does not know the password it asked for")


def md5_answer(user: str, password: str, salt: bytes) -> bytes:
    """Give what AuthenticationMD5Password asks for; MD5 is the protocol's, not our choice."""
    inner = hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def certificate_hash(der: bytes) -> bytes | None:
    """Give a certificate's tls-server-end-point (RFC 5929, 4.1), None where that is not defined (Ed25519)."""
    try:
        algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in WEAK_HASHES else algorithm.name
    return hashlib.new(name, der).digest()


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise WireError("a SCRAM message is no text") from None


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise WireError("a SCRAM message has a value that is not base64") from None


def _xor(one: bytes, other: bytes) -> bytes:
    if len(one) != len(other):
        raise WireError("its SCRAM proof has a wrong length")
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
