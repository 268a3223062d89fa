"""CredSSP, both sides (MS-CSSP): NTLM inside TLS, bound to the server's key, then the password itself; bytes in, bytes out.

Rule 1: a session is bound to the TLS it runs in: a peer that saw another public key is refused before any password goes.
Rule 2: the password that is handed over must be the one that was proven, so a stolen NT hash opens nothing here.
Rule 3: a failure is told in CredSSP's own words (errorCode), or clients say that the network failed.
Rule 4: no password, hash or token in a repr or an error.

The acceptor, from the first byte inside TLS:

    acceptor = Acceptor(lookup, public_key(certificate), time.time())
    while acceptor.login is None:
        request = ...                  # as many bytes as request_bytes(buffer) says, it is None while some are missing
        answer = acceptor.step(request)   # WireError: close; Refused: send its answer, then close
        ...                            # send the answer, if there is one
    ...                                # HYBRID_EX: send AUTHORIZED or ACCESS_DENIED (MS-RDPBCGR 2.2.10.2)

The initiator: `start()` first, then `step()` for each request that comes, until it is `done`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

import spnego as pyspnego
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spnego.exceptions import SpnegoError

from proxyd.protocols.rdp import der, ntlm, spnego
from proxyd.protocols.rdp.account import Account, Mechanism
from proxyd.protocols.rdp.wire import WireError
from proxyd.verifiers import nt_key

VERSION: Final = 6  # the newest there is (2.2.1)
LEAST_VERSION: Final = 2  # Windows Vista's
NONCE_VERSION: Final = 5  # from here on the key is bound by a hash with a nonce (CVE-2018-0886)
TELLS_ERRORS: Final = frozenset({3, 4, 6})  # versions whose TSRequest has an errorCode (2.2.1)
NONCE_BYTES: Final = 32
MAX_REQUEST: Final = 64 << 10  # Windows' largest token is 48000 bytes (MaxTokenSize)
PASSWORD: Final = 1  # credType of TSPasswordCreds (2.2.1.2)
CLIENT_MAGIC: Final = b"CredSSP Client-To-Server Binding Hash\0"  # 3.1.5
SERVER_MAGIC: Final = b"CredSSP Server-To-Client Binding Hash\0"
_LAST_TOKEN: Final = ntlm.SIGNATURE + struct.pack("<I", ntlm.AUTHENTICATE)
"""In a token that ends the initiator's part: pubKeyAuth goes with it, inside SPNEGO too, as Windows has it (3.1.5)."""
SERVICE: Final = "TERMSRV"  # the service of a remote desktop's principal name (MS-RDPBCGR 5.4.5.2)

EARLY_GRANTED: Final = 0  # AUTHZ_SUCCESS (MS-RDPBCGR 2.2.10.2)
EARLY_DENIED: Final = 5  # AUTHZ_ACCESS_DENIED, which is no NTSTATUS
EARLY_RESULT_BYTES: Final = 4
AUTHORIZED: Final = EARLY_GRANTED.to_bytes(EARLY_RESULT_BYTES, "little")
ACCESS_DENIED: Final = EARLY_DENIED.to_bytes(EARLY_RESULT_BYTES, "little")

LOGON_FAILURE: Final = 0xC000006D  # STATUS_LOGON_FAILURE (MS-ERREF 2.3.1), and what else a target may say
REASONS: Final = {
    EARLY_DENIED: "the account may not use remote desktop",
    LOGON_FAILURE: "wrong user name or password",
    0xC000006E: "the account is restricted",
    0xC000006F: "not at this time of the day",
    0xC0000070: "not from this computer",
    0xC0000071: "the password has expired",
    0xC0000072: "the account is disabled",
    0xC000015B: "the account may not log in this way",
    0xC0000193: "the account has expired",
    0xC0000224: "the password must be changed",
    0xC0000234: "the account is locked",
}


def request_bytes(buffer: bytes | bytearray) -> int | None:
    """Tell how long the TSRequest is that the buffer begins with; None: not yet known. Raises WireError."""
    found = der.head(buffer)
    if buffer and (buffer[0] != der.SEQUENCE or (found is not None and found.end > MAX_REQUEST)):
        raise WireError("no CredSSP request, or one larger than any")
    return found.end if found is not None else None


def public_key(certificate: bytes) -> bytes:
    """Give the contents of a certificate's subjectPublicKey, which CredSSP binds to (3.1.5). Raises WireError."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise WireError("a certificate that can't be read") from None
    _, (tag, bits) = der.elements(der.only(info, der.SEQUENCE))
    if tag != der.BIT_STRING:
        raise WireError("a certificate without a public key")
    return bits[1:]  # the first octet counts unused bits: none


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """TSRequest (2.2.1)."""

    version: int = VERSION
    token: bytes = b""
    credentials: bytes = b""  # authInfo
    binding: bytes = b""  # pubKeyAuth
    error: int = 0
    nonce: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Read one; raises WireError."""
        fields = der.fields(data)
        if 0 not in fields:
            raise WireError("a CredSSP request without a version")
        octets = {n: der.only(fields[n], der.OCTET_STRING) for n in (2, 3, 5) if n in fields}
        return cls(
            der.integer(fields[0]),
            _token(fields[1]) if 1 in fields else b"",
            octets.get(2, b""),
            octets.get(3, b""),
            der.integer(fields[4]) & 0xFFFFFFFF if 4 in fields else 0,
            octets.get(5, b""),
        )

    def build(self) -> bytes:
        """Encode it."""
        parts = [der.field(0, der.INTEGER, der.number(self.version))]
        if self.token:
            item = der.element(der.SEQUENCE, der.field(0, der.OCTET_STRING, self.token))
            parts.append(der.field(1, der.SEQUENCE, item))
        if self.credentials:
            parts.append(der.field(2, der.OCTET_STRING, self.credentials))
        if self.binding:
            parts.append(der.field(3, der.OCTET_STRING, self.binding))
        if self.error:
            parts.append(der.field(4, der.INTEGER, self.error.to_bytes(4, "big")))
        if self.nonce:
            parts.append(der.field(5, der.OCTET_STRING, self.nonce))
        return der.element(der.SEQUENCE, *parts)


def _token(nego_tokens: bytes) -> bytes:
    """Read NegoData (2.2.1.1): a list, of which nobody sends two; raises WireError."""
    fields = der.fields(der.only(nego_tokens, der.SEQUENCE))
    if 0 not in fields:
        raise WireError("a CredSSP token that can't be read")
    return der.only(fields[0], der.OCTET_STRING)


class Login(NamedTuple):
    """Who logged in: the names NTLM proved, and the password; `nt_key`: the hash of the lookup that fitted."""

    user: str
    domain: str
    password: str
    nt_key: bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.user!r}, {self.domain!r})"


class Refused(Exception):
    """The login failed; `answer` is to be sent before closing, and may be empty."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("wrong user name or password")
        self.answer = answer


class TargetRefused(Exception):
    """The target did not let us in; `status`: its NTSTATUS."""

    def __init__(self, status: int) -> None:
        super().__init__(REASONS.get(status, f"NTSTATUS 0x{status:08X}"))
        self.status = status


class NoTicket(Exception):
    """Kerberos gave no ticket for the account and the target; the text is for operators."""


class State(Enum):
    """What the acceptor waits for."""

    PROOF = auto()  # of the password, then of the key
    CREDENTIALS = auto()
    NOTHING = auto()


class Acceptor:
    """The server of one login; `key` is that of the certificate the client sees, `now` seconds since 1970."""

    def __init__(self, lookup: ntlm.Lookup, key: bytes, now: float) -> None:
        self._ntlm = ntlm.Acceptor(lookup, now)
        self._mechanism: ntlm.Acceptor | spnego.Acceptor | None = None
        self._session: ntlm.Session | None = None
        self._key = key
        self._version = 0
        self._state = State.PROOF
        self.login: Login | None = None

    @property
    def user(self) -> str:
        """Give the name the client gives itself, proven or not; empty before it does."""
        return self._ntlm.user

    def step(self, data: bytes) -> bytes:
        """Take a TSRequest and give the answer, empty at the end. Raises WireError; Refused, whose answer is to be sent."""
        request = Request.parse(data)
        self._agree(request.version)
        try:
            if self._session is None:
                return self._negotiated(request).build()
            if self._state is State.PROOF:
                return self._bound(self._session, request, b"").build()
            self._take(self._session, request)
        except ntlm.WrongPassword:
            told = Request(error=LOGON_FAILURE).build() if self._version in TELLS_ERRORS else b""
            raise Refused(told) from None
        return b""

    def _agree(self, version: int) -> None:
        agreed = min(version, VERSION)
        if agreed < LEAST_VERSION or self._version not in (0, agreed):
            raise WireError("a version of CredSSP that is too old, or changes")
        self._version = agreed

    def _negotiated(self, request: Request) -> Request:
        """Take a token; the last one may come with pubKeyAuth, or before it."""
        if self._mechanism is None:
            raw = request.token.startswith(ntlm.SIGNATURE)
            self._mechanism = self._ntlm if raw else spnego.Acceptor(self._ntlm)
        answer = self._mechanism.step(request.token)
        self._session = self._mechanism.session
        if self._session is not None and (request.binding or not answer):
            return self._bound(self._session, request, answer)
        if request.binding:
            raise WireError("a CredSSP request out of order")
        return Request(token=answer)

    def _bound(self, session: ntlm.Session, request: Request, token: bytes) -> Request:
        """Check pubKeyAuth and give ours (3.1.5); raises WireError."""
        if not request.binding:
            raise WireError("a CredSSP request out of order")
        theirs = _binding(CLIENT_MAGIC, request.nonce, self._key, self._version)
        if not hmac.compare_digest(session.theirs.unseal(request.binding), theirs):
            raise WireError("its TLS session ends somewhere else")
        self._state = State.CREDENTIALS
        ours = session.ours.seal(_binding(SERVER_MAGIC, request.nonce, self._key, self._version))
        return Request(token=token, binding=ours)

    def _take(self, session: ntlm.Session, request: Request) -> None:
        """Take authInfo: TSCredentials (2.2.1.2); raises WireError, ntlm.WrongPassword."""
        if self._state is not State.CREDENTIALS or not request.credentials:
            raise WireError("a CredSSP request without credentials, or one too many")
        self._state = State.NOTHING
        password = _password(session.theirs.unseal(request.credentials))
        if not hmac.compare_digest(nt_key(password), session.nt_key):
            raise ntlm.WrongPassword  # rule 2
        self.login = Login(session.user, session.domain, password, session.nt_key)


class Initiator:
    """Our login at a target; `key` is that of the certificate it showed. `done`: the last request has been given."""

    def __init__(
        self, account: Account, key: bytes, hostname: str, mechanism: Mechanism | None = None
    ) -> None:
        """Begin; asks a KDC where the account has a ticket, and raises NoTicket. `mechanism`: else the account's."""
        self._account = account
        self._key = key
        protocol = mechanism or account.mechanism
        try:
            self._context = pyspnego.client(
                account.proof(), hostname=hostname, service=SERVICE, protocol=protocol
            )
        except (SpnegoError, ImportError) as error:
            raise NoTicket(str(error)) from None
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._version = 0
        self._bound = False
        self.done = False

    def start(self) -> bytes:
        """Give the first request; asks a KDC where the account has a ticket, and raises NoTicket."""
        try:
            token = self._context.step(None) or b""
        except SpnegoError as error:
            raise NoTicket(str(error)) from None
        return Request(token=token).build()

    def step(self, data: bytes) -> bytes:
        """Take a TSRequest and give the next one. Raises WireError, TargetRefused."""
        answer = Request.parse(data)
        agreed = min(answer.version, VERSION)
        if self._version not in (0, agreed) or agreed < LEAST_VERSION or self.done:
            raise WireError("a version of CredSSP that is too old or changes, or a request too many")
        self._version = agreed
        if answer.error:
            raise TargetRefused(answer.error)
        if self._bound:
            return self._handed(answer)
        token = self._stepped(answer.token)
        if not self._context.complete and _LAST_TOKEN not in token:
            return Request(token=token).build()
        self._bound = True
        sealed = self._sealed(_binding(CLIENT_MAGIC, self._nonce, self._key, agreed))
        nonce = self._nonce if agreed >= NONCE_VERSION else b""
        return Request(token=token, binding=sealed, nonce=nonce).build()

    def _handed(self, answer: Request) -> bytes:
        """Check the target's pubKeyAuth, then give authInfo (rule 1); raises WireError."""
        if not answer.binding:
            raise WireError("a CredSSP answer without the key's proof")
        complete = self._context.complete
        if answer.token and complete and not self._account.kerberos:
            raise WireError("a login token behind the last one")
        if (
            answer.token and not complete
        ):  # SPNEGO's last word of Kerberos says nothing: no other mechanism was offered
            self._stepped(answer.token)  # with the target's mechListMIC, which comes before what it seals
        try:
            shown = self._context.unwrap(answer.binding).data
        except _PEER_ERRORS:
            raise WireError("a CredSSP answer that is not sealed as agreed") from None
        if not hmac.compare_digest(shown, _binding(SERVER_MAGIC, self._nonce, self._key, self._version)):
            raise WireError("its TLS session ends somewhere else")
        names = (self._account.domain, self._account.user, self._account.password)
        texts = (name.encode("utf-16-le", "surrogatepass") for name in names)
        login = (der.field(number, der.OCTET_STRING, text) for number, text in enumerate(texts))
        credentials = der.element(
            der.SEQUENCE,
            der.field(0, der.INTEGER, der.number(PASSWORD)),
            der.field(1, der.OCTET_STRING, der.element(der.SEQUENCE, *login)),
        )
        self.done = True
        return Request(credentials=self._sealed(credentials)).build()

    def _stepped(self, token: bytes) -> bytes:
        try:
            return self._context.step(token) or b""
        except _PEER_ERRORS:
            raise WireError("a login token that can't be read, or is turned down") from None

    def _sealed(self, message: bytes) -> bytes:
        """Seal in SSPI's layout: of Kerberos everything but the text stands before it, which FreeRDP insists on."""
        try:
            sealed = self._context.wrap_winrm(message)
            return sealed.header + sealed.data
        except _PEER_ERRORS:
            raise WireError("agreed on a login without sealing") from None


_PEER_ERRORS: Final = (
    SpnegoError,
    ValueError,
    struct.error,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)
"""What pyspnego raises for a token that is cut off, changed or of another kind."""


def early_result(data: bytes) -> None:
    """Read the Early User Authorization Result (MS-RDPBCGR 2.2.10.2) of HYBRID_EX. Raises WireError, TargetRefused."""
    if len(data) != EARLY_RESULT_BYTES:
        raise WireError("an Early User Authorization Result of another size")
    status = int.from_bytes(data, "little")
    if status != EARLY_GRANTED:
        raise TargetRefused(status)


def _binding(magic: bytes, nonce: bytes, key: bytes, version: int) -> bytes:
    """Give what pubKeyAuth seals (3.1.5); raises WireError."""
    if version >= NONCE_VERSION:
        if len(nonce) != NONCE_BYTES:
            raise WireError("a CredSSP nonce of another size")
        return hashlib.sha256(magic + nonce + key).digest()
    if magic == CLIENT_MAGIC:
        return key
    return bytes(((key[0] + 1) & 0xFF,)) + key[1:]


def _password(credentials: bytes) -> str:
    """Read the password of TSCredentials (2.2.1.2); raises WireError, ntlm.WrongPassword where there is none."""
    fields = der.fields(credentials)
    if not {0, 1} <= set(fields):
        raise WireError("CredSSP credentials without a kind")
    if der.integer(fields[0]) != PASSWORD:
        raise ntlm.WrongPassword  # a smart card, or Remote Credential Guard: never offered here
    given = der.fields(der.only(fields[1], der.OCTET_STRING))
    return ntlm.text(der.only(given[2], der.OCTET_STRING)) if 2 in given else ""
