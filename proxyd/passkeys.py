"""Security keys and passkeys: what a browser is asked, and which answers are believed (W3C WebAuthn Level 3, 7.1 and 7.2).

Rule 1: an answer is to a challenge of ours, made for one user, one purpose and one asker; it counts once, within CEREMONY_S.
Rule 2: it comes from the page that asked and no frame of another, is for that page's host, and its user was there.
Rule 3: a key signs with one of ALGORITHMS. Who made it is not asked for, and not looked at.
Rule 4: a counter that does not go on means that there is a copy of the key: whoever shows it is refused.
Rule 5: nothing here waits or writes; what a browser sends is bounded, and no error repeats any of it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidSignature
from fido2 import cbor
from fido2.cose import RS256, CoseKey
from fido2.webauthn import (
    AuthenticationResponse,
    AuthenticatorData,
    CollectedClientData,
    RegistrationResponse,
)

from proxyd.enrolled import MAX_COMMENT, Enrolment, Passkey
from proxyd.errors import ProxydError

CEREMONY_S: Final = 180.0  # to find the key and touch it
MOST: Final = 1000  # ceremonies at once; the oldest gives way
CHALLENGE_BYTES: Final = 32  # WebAuthn 3, 13.4.3 asks for 16
ANSWER_LENGTH: Final = 12 << 10  # characters of JSON: a form of the console takes 16 KiB
ALGORITHMS: Final = (-7, -8, -257)  # ES256, EdDSA, and RS256 for TPMs; RFC 9053 2, RFC 8812 2
WANTED: Final = "security key wanted"  # what a sign-in lacks whose password was right
RSA_BYTES: Final = range(256, 513)  # of a modulus: 2048 to 4096 bits


class Unproved(ProxydError):
    """What a browser sent proves nothing; the text says for the log how."""


class Copied(Unproved):
    """The signature is right, and the counter went back (rule 4)."""


class Nameless(ProxydError):
    """Keys are for hosts that have a name; the text says what to do."""


class Purpose(Enum):
    """What a challenge is for."""

    ADD = "add"  # a key to one's own
    PROVE = "prove"  # who one is, before a change
    ENTER = "enter"  # sign in


class Ceremony(NamedTuple):
    """A challenge that waits for its answer; `name`: what a new key is to be called."""

    user: str
    origin: str
    challenge: bytes
    until: float
    name: str = ""

    @property
    def place(self) -> str:
        """The host keys are for."""
        return place_of(self.origin)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(user={self.user!r})"


class Ceremonies:
    """The challenges of a daemon, by what they are for and who was asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[tuple[Purpose, str], Ceremony] = {}

    def begin(self, purpose: Purpose, asked: str, user: str, origin: str, name: str = "") -> Ceremony:
        """Make a challenge, in place of any other for the same. Raises Nameless."""
        place_of(origin)
        self._waiting.pop((purpose, asked), None)
        while len(self._waiting) >= MOST:
            del self._waiting[next(iter(self._waiting))]
        made = Ceremony(user, origin, secrets.token_bytes(CHALLENGE_BYTES), self._clock() + CEREMONY_S, name)
        self._waiting[purpose, asked] = made
        return made

    def take(self, purpose: Purpose, asked: str) -> Ceremony:
        """Give the one an answer is to, once (rule 1). Raises Unproved."""
        found = self._waiting.pop((purpose, asked), None)
        if found is None or self._clock() >= found.until:
            raise Unproved("no challenge waits for it")
        return found


def place_of(origin: str) -> str:
    """Give the host of a page "https://host:port" as keys know it (WebAuthn 3, 5.1.3). Raises Nameless."""
    host = urlsplit(origin).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host:
            return host
    raise Nameless(
        "security keys are for a console that is called by a name, not an address: set public in [console]"
    )


def usable(own: Iterable[Passkey], origin: str) -> tuple[Passkey, ...]:
    """Give those of a user's keys that can answer on a page."""
    try:
        place = place_of(origin)
    except Nameless:
        return ()
    return tuple(one for one in own if one.place == place)


def options_to_add(ceremony: Ceremony, own: Iterable[Passkey]) -> dict[str, Any]:
    """Give what a browser is to make a key by (`PublicKeyCredentialCreationOptions`, bytes as base64url)."""
    handle = hashlib.sha256(f"proxyd {ceremony.user}".encode()).digest()  # WebAuthn 3, 14.6.1: no name in it
    return {
        "challenge": _text(ceremony.challenge),
        "rp": {"id": ceremony.place, "name": "proxyd"},
        "user": {"id": _text(handle), "name": ceremony.user, "displayName": ceremony.user},
        "pubKeyCredParams": [{"type": "public-key", "alg": number} for number in ALGORITHMS],
        "timeout": int(CEREMONY_S * 1000),
        "excludeCredentials": _named(usable(own, ceremony.origin)),
        "authenticatorSelection": {"residentKey": "discouraged", "userVerification": "preferred"},
        "attestation": "none",
    }


def options_to_show(ceremony: Ceremony, own: Iterable[Passkey]) -> dict[str, Any]:
    """Give what a browser is to have a key sign (`PublicKeyCredentialRequestOptions`, bytes as base64url)."""
    return {
        "challenge": _text(ceremony.challenge),
        "rpId": ceremony.place,
        "allowCredentials": _named(usable(own, ceremony.origin)),
        "timeout": int(CEREMONY_S * 1000),
        "userVerification": "preferred",
    }


def added(answer: str, ceremony: Ceremony, at: float) -> Passkey:
    """Read a new key, believed. Raises Unproved."""
    found = _read(RegistrationResponse, answer)
    data = found.response.attestation_object.auth_data
    _check(found.response.client_data, CollectedClientData.TYPE.CREATE, data, ceremony)
    made = data.credential_data
    if made is None or made.credential_id != found.raw_id:
        raise Unproved("it holds no key")
    public = cbor.encode(made.public_key)
    if not _usable(made.public_key):
        raise Unproved("its key is of a kind we do not take")
    try:
        kept = {
            "id": bytes(made.credential_id),
            "public": public,
            "place": ceremony.place,
            "name": ceremony.name,
        }
        return msgspec.convert({**kept, "added_at": at, "count": data.counter}, Passkey)
    except msgspec.ValidationError:
        raise Unproved("its id or key is too large") from None


def shown(answer: str, ceremony: Ceremony, own: Iterable[Passkey]) -> tuple[Passkey, int]:
    """Say which of these keys has signed, and what its counter says; that has to be `counted`. Raises Unproved."""
    found = _read(AuthenticationResponse, answer)
    said, data = found.response.client_data, found.response.authenticator_data
    _check(said, CollectedClientData.TYPE.GET, data, ceremony)
    known = next((one for one in usable(own, ceremony.origin) if one.id == found.raw_id), None)
    if known is None:
        raise Unproved("it is no key of theirs")
    try:
        _key(known.public).verify(bytes(data) + said.hash, found.response.signature)
    except Exception:  # noqa: BLE001  InvalidSignature, and whatever a signature of another form makes of it
        raise Unproved("its signature is wrong") from None
    return known, data.counter


def counted(own: Enrolment, credential: bytes, count: int) -> Enrolment:
    """Give what a user has set up with a key's counter as it is now. Raises Copied, and Unproved where it has gone."""
    found = next((one for one in own.passkeys if one.id == credential), None)
    if found is None:
        raise Unproved("it was removed a moment ago")
    if (count or found.count) and count <= found.count:  # WebAuthn 3, 7.2, 22; who does not count says 0
        raise Copied("its counter went back: there is a copy of it")
    fresh = msgspec.structs.replace(found, count=count)
    return msgspec.structs.replace(
        own, passkeys=tuple(fresh if one is found else one for one in own.passkeys)
    )


def checked_name(text: str) -> str:
    """Give what a key is called as it is kept; "" where nothing can be seen of it."""
    return "".join(mark for mark in text if mark.isprintable()).strip()[:MAX_COMMENT]


def _check(said: CollectedClientData, kind: str, data: AuthenticatorData, ceremony: Ceremony) -> None:
    """Rules 1 and 2, of either kind of answer."""
    if said.type != kind:
        raise Unproved("it is an answer of another kind")
    if not hmac.compare_digest(bytes(said.challenge), ceremony.challenge):
        raise Unproved("it is the answer to another challenge")
    if said.origin != ceremony.origin or said.cross_origin:
        raise Unproved("it comes from another page")
    if not hmac.compare_digest(data.rp_id_hash, hashlib.sha256(ceremony.place.encode()).digest()):
        raise Unproved("it is for another host")
    if not data.is_user_present():
        raise Unproved("nobody was there")


def _read(kind: Any, answer: str) -> Any:
    if len(answer) > ANSWER_LENGTH:
        raise Unproved("it is too large")
    try:
        return kind.from_dict(msgspec.json.decode(answer, type=dict[str, Any]))
    except Exception:  # noqa: BLE001  the library has no error of its own: what Python raises for what is no such thing
        raise Unproved("it can't be read") from None


def _key(public: bytes) -> CoseKey:
    return CoseKey.parse(cast("Mapping[int, Any]", cbor.decode(public)))  # as `added` wrote it


def _usable(key: CoseKey) -> bool:
    """Tell whether signatures can be checked by it (rule 3): a wrong one is then told from a right one."""
    if key.ALGORITHM not in ALGORITHMS:
        return False
    try:
        if isinstance(key, RS256) and len(key[-1]) not in RSA_BYTES:
            return False
        key.verify(b"", b"")
    except InvalidSignature:
        return True
    except Exception:  # noqa: BLE001  no point of its curve, parts that are missing or something else
        return False
    return False


def _named(own: Iterable[Passkey]) -> list[dict[str, str]]:
    return [{"type": "public-key", "id": _text(one.id)} for one in own]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
