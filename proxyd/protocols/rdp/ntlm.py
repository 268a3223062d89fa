"""NTLMv2, the accepting side (MS-NLMP): who logs in knows the password of a stored NT hash; bytes in, bytes out.

Rule 1: the proof is checked over the bytes the client sent, never over what they were read as.
Rule 2: whoever does not know a password learns nothing: an unknown user gets a whole exchange, and fails where and as
        late as a wrong password does.
Rule 3: only NTLMv2 with extended session security, signing, sealing and 128 bits; a message integrity code is checked
        wherever the client says that there is one, which nobody between can unsay: its proof covers that.
Rule 4: no hash, key or proof in a repr.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, NamedTuple

from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext

from proxyd.protocols.rdp.wire import WireError

SIGNATURE: Final = b"NTLMSSP\0"
NEGOTIATE: Final = 1  # MessageType (2.2.1)
CHALLENGE: Final = 2
AUTHENTICATE: Final = 3

NAME: Final = (
    "PROXYD"  # the server's NetBIOS names, at most 15 characters; clients show or hash them, no more
)
VERSION: Final = bytes(
    (10, 0, 0x61, 0x4A, 0, 0, 0, 15)
)  # 2.2.2.10: Windows 10 (19041), NTLMSSP_REVISION_W2K3
CHALLENGE_BYTES: Final = 8
KEY_BYTES: Final = 16
PROOF_BYTES: Final = 16
CHALLENGE_HEAD: Final = 56  # of CHALLENGE_MESSAGE, before its payload (2.2.1.2)
AUTHENTICATE_HEAD: Final = 88  # of AUTHENTICATE_MESSAGE, with Version and MIC (2.2.1.3)
MIC_AT: Final = 72
MIC_BYTES: Final = 16
PAIRS_AT: Final = 28  # AvPairs in NTLMv2_CLIENT_CHALLENGE (2.2.2.7)
RESPONSE_TYPE: Final = b"\x01\x01"  # RespType and HiRespType of NTLMv2_CLIENT_CHALLENGE
MAX_PAIRS: Final = 32  # ten kinds are known
SIGNATURE_VERSION: Final = b"\x01\0\0\0"  # 2.2.2.9.1
CHECKSUM_BYTES: Final = 8
SIGNATURE_BYTES: Final = 16
FILETIME_EPOCH: Final = 11_644_473_600  # seconds from 1601 to 1970
FILETIME_TICKS: Final = 10_000_000  # in a second

CLIENT_TO_SERVER: Final = b"client-to-server"
SERVER_TO_CLIENT: Final = b"server-to-client"

_u32: Final = struct.Struct("<I")
_pair: Final = struct.Struct("<HH")
_span: Final = struct.Struct("<HHI")
_challenge: Final = struct.Struct("<8sIHHII8s8xHHI8s").pack


class Flag(IntFlag):
    """NegotiateFlags (2.2.2.5)."""

    UNICODE = 0x1
    REQUEST_TARGET = 0x4
    SIGN = 0x10
    SEAL = 0x20
    NTLM = 0x200
    ALWAYS_SIGN = 0x8000
    TARGET_TYPE_SERVER = 0x20000
    EXTENDED_SESSIONSECURITY = 0x80000
    TARGET_INFO = 0x800000
    VERSION = 0x2000000
    KEY_128 = 0x20000000
    KEY_EXCH = 0x40000000
    KEY_56 = 0x80000000


OURS: Final = (
    Flag.UNICODE
    | Flag.REQUEST_TARGET
    | Flag.NTLM
    | Flag.TARGET_TYPE_SERVER
    | Flag.EXTENDED_SESSIONSECURITY
    | Flag.TARGET_INFO
    | Flag.VERSION
)
IF_ASKED: Final = Flag.SIGN | Flag.SEAL | Flag.ALWAYS_SIGN | Flag.KEY_128 | Flag.KEY_EXCH | Flag.KEY_56
NEEDED: Final = Flag.UNICODE | Flag.SIGN | Flag.SEAL | Flag.EXTENDED_SESSIONSECURITY | Flag.KEY_128  # rule 3


class Pair(NamedTuple):
    """An AV_PAIR (2.2.2.1)."""

    kind: int
    value: bytes


END_OF_PAIRS: Final = 0
NETBIOS_COMPUTER: Final = 1
NETBIOS_DOMAIN: Final = 2
DNS_COMPUTER: Final = 3
DNS_DOMAIN: Final = 4
AV_FLAGS: Final = 6
TIMESTAMP: Final = 7
HAS_MIC: Final = 0x2  # in MsvAvFlags


class WrongPassword(Exception):
    """The proof does not fit, or there is no such user."""


Lookup = Callable[[str, str], Sequence[bytes]]
"""From the user and domain a client names to the NT hashes that may log in so: several with session tokens, or none."""


@dataclass(frozen=True, slots=True, repr=False)
class Authenticate:
    """AUTHENTICATE_MESSAGE (2.2.1.3), as far as it is used."""

    user: str
    domain: str
    proof: bytes  # NTProofStr
    challenge: bytes  # NTLMv2_CLIENT_CHALLENGE, with whatever stands behind it
    session_key: bytes  # EncryptedRandomSessionKey
    flags: int

    @classmethod
    def parse(cls, token: bytes) -> Authenticate:
        """Read one; raises WireError."""
        if len(token) < AUTHENTICATE_HEAD:
            raise WireError("an NTLM message is cut off")
        response, domain, user, session_key = (_payload(token, at) for at in (20, 28, 36, 52))
        (flags,) = _u32.unpack_from(token, 60)
        if flags & NEEDED != NEEDED:
            raise WireError("NTLM without 128-bit sealing, or without extended session security")
        proof, challenge = response[:PROOF_BYTES], response[PROOF_BYTES:]
        return cls(text(user), text(domain), proof, challenge, session_key, flags)

    @property
    def is_v2(self) -> bool:
        """Tell whether there is an NTLMv2 proof; there is none of an anonymous login and of NTLMv1."""
        return len(self.challenge) >= PAIRS_AT and self.challenge.startswith(RESPONSE_TYPE)

    @property
    def has_mic(self) -> bool:
        """Tell whether the message says that its MIC field is one. Raises WireError."""
        at = PAIRS_AT
        for _ in range(MAX_PAIRS):
            if len(self.challenge) < at + _pair.size:
                raise WireError("the list of NTLM's pairs is cut off")
            kind, size = _pair.unpack_from(self.challenge, at)
            value = self.challenge[at + _pair.size :][:size]
            if kind == AV_FLAGS and len(value) == _u32.size:
                return bool(_u32.unpack(value)[0] & HAS_MIC)
            if kind == END_OF_PAIRS:
                return False
            at += _pair.size + size
        raise WireError("too many NTLM pairs")


class Seals:
    """One direction's signing and sealing, with extended session security (3.4.4.2, 3.4.5)."""

    def __init__(self, session_key: bytes, direction: bytes, flags: int) -> None:
        self._signing = _magic(session_key, direction, b"signing")
        self._sealing = _magic(session_key, direction, b"sealing")
        self._exchanged = bool(flags & Flag.KEY_EXCH)
        self._sequence = 0
        self._stream = _rc4(self._sealing)

    def reset(self) -> None:
        """Start the key stream anew, as both sides do behind a mechListMIC (MS-SPNG 3.3.5.1); numbers go on."""
        self._stream = _rc4(self._sealing)

    def sign(self, message: bytes) -> bytes:
        """Give the signature of the direction's next message (GSS_GetMICEx, 3.4.4)."""
        number = _u32.pack(self._sequence & 0xFFFFFFFF)
        self._sequence += 1
        checksum = hmac.digest(self._signing, number + message, "md5")[:CHECKSUM_BYTES]
        if self._exchanged:
            checksum = self._stream.update(checksum)
        return SIGNATURE_VERSION + checksum + number

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check the signature of the direction's next message; raises WireError."""
        if not hmac.compare_digest(self.sign(message), signature):
            raise WireError("an NTLM signature that does not fit")

    def seal(self, message: bytes) -> bytes:
        """Encrypt and sign (GSS_WrapEx, 3.4.6): the signature stands before the text."""
        sealed = self._stream.update(message)
        return self.sign(message) + sealed

    def unseal(self, sealed: bytes) -> bytes:
        """Decrypt and check (GSS_UnwrapEx, 3.4.7); raises WireError."""
        message = self._stream.update(sealed[SIGNATURE_BYTES:])
        self.verify(message, sealed[:SIGNATURE_BYTES])
        return message


class Session(NamedTuple):
    """What a proven login leaves: whose it is, and how its messages are sealed."""

    user: str
    domain: str
    nt_key: bytes  # the hash of `Lookup` that fits
    theirs: Seals
    ours: Seals

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.user!r}, {self.domain!r})"


class Acceptor:
    """The server of one exchange; `now`: seconds since 1970. `session` is there when the login is proven."""

    def __init__(self, lookup: Lookup, now: float) -> None:
        self._lookup = lookup
        self._now = now
        self._negotiate = self._challenge = b""
        self._server_challenge = secrets.token_bytes(CHALLENGE_BYTES)
        self.user = ""  # as the client names itself, proven or not
        self.session: Session | None = None

    def step(self, token: bytes) -> bytes:
        """Take NEGOTIATE and give CHALLENGE; take AUTHENTICATE and give nothing. Raises WireError, WrongPassword."""
        if not token.startswith(SIGNATURE) or len(token) < len(SIGNATURE) + 2 * _u32.size:
            raise WireError("not an NTLM message")
        (kind,) = _u32.unpack_from(token, len(SIGNATURE))
        if kind == NEGOTIATE and not self._negotiate:
            return self._challenged(token)
        if kind == AUTHENTICATE and self._negotiate and self.session is None:
            self._authenticated(token)
            return b""
        raise WireError("an NTLM message out of order")

    def _challenged(self, token: bytes) -> bytes:
        (asked,) = _u32.unpack_from(token, 12)
        flags = OURS | asked & IF_ASKED
        name = NAME.encode("utf-16-le")
        when = int((self._now + FILETIME_EPOCH) * FILETIME_TICKS).to_bytes(8, "little")
        pairs = _pairs(
            Pair(NETBIOS_DOMAIN, name),
            Pair(NETBIOS_COMPUTER, name),
            Pair(DNS_DOMAIN, NAME.lower().encode("utf-16-le")),
            Pair(DNS_COMPUTER, NAME.lower().encode("utf-16-le")),
            Pair(TIMESTAMP, when),
            Pair(END_OF_PAIRS, b""),
        )
        head = _challenge(
            SIGNATURE,
            CHALLENGE,
            len(name),
            len(name),
            CHALLENGE_HEAD,
            flags,
            self._server_challenge,
            len(pairs),
            len(pairs),
            CHALLENGE_HEAD + len(name),
            VERSION,
        )
        self._negotiate, self._challenge = token, head + name + pairs
        return self._challenge

    def _authenticated(self, token: bytes) -> None:
        said = Authenticate.parse(token)
        self.user = said.user
        nt_key, base_key = self._proven(said)
        exported = base_key
        if said.flags & Flag.KEY_EXCH:
            if len(said.session_key) != KEY_BYTES:
                raise WireError("an NTLM session key of another size")
            exported = _rc4(base_key).update(said.session_key)
        if said.has_mic:
            plain = token[:MIC_AT] + bytes(MIC_BYTES) + token[MIC_AT + MIC_BYTES :]
            made = hmac.digest(exported, self._negotiate + self._challenge + plain, "md5")
            if not hmac.compare_digest(made, token[MIC_AT:][:MIC_BYTES]):
                raise WireError("NTLM's messages were changed on their way")
        self.session = Session(
            said.user,
            said.domain,
            nt_key,
            Seals(exported, CLIENT_TO_SERVER, said.flags),
            Seals(exported, SERVER_TO_CLIENT, said.flags),
        )

    def _proven(self, said: Authenticate) -> tuple[bytes, bytes]:
        """Give the hash that fits, and SessionBaseKey (3.3.2); raises WrongPassword."""
        if not said.is_v2:
            raise WrongPassword
        proven = None
        known = tuple(self._lookup(said.user, said.domain))
        for nt_key in known or (secrets.token_bytes(KEY_BYTES),):  # rule 2
            response_key = ntowf_v2(nt_key, said.user, said.domain)
            made = hmac.digest(response_key, self._server_challenge + said.challenge, "md5")
            base_key = hmac.digest(response_key, made, "md5")
            if hmac.compare_digest(made, said.proof):
                proven = (nt_key, base_key)
        if proven is None or not known:
            raise WrongPassword
        return proven


def ntowf_v2(nt_key: bytes, user: str, domain: str) -> bytes:
    """Give ResponseKeyNT (NTOWFv2, 3.3.2)."""
    return hmac.digest(nt_key, (upper_case(user) + domain).encode("utf-16-le"), "md5")


def upper_case(name: str) -> str:
    """Raise each letter as Windows does: one for one and in the basic plane only, so that a sharp s stays as it is."""
    raised = ((letter, letter.upper()) for letter in name)
    return "".join(big if len(big) == 1 and big <= "\uffff" else letter for letter, big in raised)


def text(data: bytes) -> str:
    """Read UTF-16LE; raises WireError."""
    try:
        return data.decode("utf-16-le")
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-16") from None


def _payload(token: bytes, at: int) -> bytes:
    """Give what the Len, MaxLen and BufferOffset at `at` point to; raises WireError."""
    size, _, start = _span.unpack_from(token, at)
    if start + size > len(token):
        raise WireError("a field of an NTLM message lies outside it")
    return token[start : start + size]


def _pairs(*pairs: Pair) -> bytes:
    return b"".join(_pair.pack(pair.kind, len(pair.value)) + pair.value for pair in pairs)


def _magic(session_key: bytes, direction: bytes, what: bytes) -> bytes:
    """Give SIGNKEY or SEALKEY for 128 bits (3.4.5.2, 3.4.5.3)."""
    constant = b"session key to %s %s key magic constant\0" % (direction, what)
    return hashlib.md5(session_key + constant, usedforsecurity=False).digest()


def _rc4(key: bytes) -> CipherContext:
    return Cipher(ARC4(key), mode=None).encryptor()
