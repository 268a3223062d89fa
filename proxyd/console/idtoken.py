"""ID tokens and logout tokens of an OpenID Connect provider: whose they are, and which are believed.

OpenID Connect Core 1.0, 3.1.3.7; Back-Channel Logout 1.0, 2.6.

Rule 1: a token counts when a key of the provider signed it with one of ALGORITHMS. No key we share, and no signature at
        all, makes a token, whatever its header says.
Rule 2: it is from the configured issuer, for this client and this very attempt (nonce), and neither old nor from the future.
Rule 3: nothing here waits or keeps anything: keys and times come in as arguments. An error repeats nothing of a token.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, KeySet
from joserfc.jws import JWSRegistry

from proxyd.config import Oidc
from proxyd.errors import Denied

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "Ed25519")
KINDS: Final = frozenset({"RSA", "EC", "OKP"})  # of keys: none we could sign with ourselves
MAX_KEYS: Final = 64
MAX_TOKEN: Final = 32 << 10  # characters; a person of some hundred groups fits
MAX_TEXT: Final = 255  # of `sub`, OpenID Connect Core 2
LOGOUT: Final = "http://schemas.openid.net/event/backchannel-logout"
FRESH_SECONDS: Final = 600  # since it was made: tokens of this flow are seconds old


class Unbelievable(Denied):
    """A token, or an answer around it, is not what it has to be; the text says how, for people."""


class UnknownKey(Unbelievable):
    """It names a key the provider did not show; after a change of keys it may show it now."""


class Identity(NamedTuple):
    """Who the provider says somebody is; `claims` are those of the token."""

    subject: str
    claims: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Give a claim that is text; "" when it is not there, or something else."""
        value = self.claims.get(name)
        return value if isinstance(value, str) and len(value) <= MAX_TEXT else ""

    def texts(self, name: str) -> frozenset[str]:
        """Give a claim that is one text or several."""
        value = self.claims.get(name)
        values = value if isinstance(value, list) else [value]
        return frozenset(one for one in values if isinstance(one, str))


class Farewell(NamedTuple):
    """Who was signed out at the provider: a person, a session of theirs there, or both; `name` tells it from others."""

    subject: str
    session: str
    name: str


def keys_of(document: Any) -> KeySet:
    """Read a set of keys (RFC 7517); what is no key for signatures is passed over."""
    found = document.get("keys") if isinstance(document, dict) else None
    keys = []
    for data in found[:MAX_KEYS] if isinstance(found, list) else ():
        if not isinstance(data, dict) or data.get("kty") not in KINDS or data.get("use", "sig") != "sig":
            continue
        try:
            keys.append(JWKRegistry.import_key(data))
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # a curve this library does not know, or nonsense: the others may be good
    return KeySet(keys)


def verified(token: str, keys: KeySet, settings: Oidc, nonce: str, now: float) -> Identity:
    """Read a token, believed (rules 1 and 2). Raises Unbelievable, and UnknownKey where other keys might help."""
    claims = _signed(token, keys)
    if claims.get("iss") != settings.issuer:
        raise Unbelievable("The sign-in came from another provider.")
    _check_audience(claims, settings.client_id)
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(errors="replace"), nonce.encode()):
        raise Unbelievable("The sign-in is the answer to another attempt.")
    if "events" in claims:  # OpenID Connect Back-Channel Logout 2.4: a logout token is no ID token
        raise Unbelievable("The provider sent another kind of token.")
    _check_times(claims, settings, now)
    identity = Identity(str(claims.get("sub") or ""), claims)
    if identity.text("sub") != identity.subject or not identity.subject:
        raise Unbelievable("The sign-in names nobody.")
    return identity


def farewell(token: str, keys: KeySet, settings: Oidc, now: float) -> Farewell:
    """Read a logout token, believed. Raises Unbelievable, and UnknownKey where other keys might help."""
    claims = _signed(token, keys)
    if claims.get("iss") != settings.issuer:
        raise Unbelievable("The logout came from another provider.")
    _check_audience(claims, settings.client_id)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT), dict) or "nonce" in claims:
        raise Unbelievable("The provider sent another kind of token.")
    _check_fresh(claims, settings, now)
    said = Identity("", claims)
    found = Farewell(said.text("sub"), said.text("sid"), said.text("jti"))
    if not found.name or not (found.subject or found.session):
        raise Unbelievable("The logout names nobody.")
    return found


def _signed(token: str, keys: KeySet) -> dict[str, Any]:
    if len(token) > MAX_TOKEN:
        raise Unbelievable("The sign-in is too large.")
    try:
        if not keys.keys:
            raise UnknownKey("The provider has shown no key.")
        # A header it does not know is to be ignored (RFC 7515 4.2), one it has to know ("crit") is not.
        registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        return jwt.decode(token, keys, registry=registry).claims
    except JoseError as error:
        if error.error in (
            "invalid_key_id",
            "bad_signature",
        ):  # also an old key under a name that is used again
            raise UnknownKey("The sign-in is signed by nobody we know.") from None
        raise Unbelievable("The sign-in is not signed as it has to be.") from None
    except (ValueError, TypeError, KeyError):
        raise Unbelievable("The sign-in can't be read.") from None


def _check_audience(claims: Mapping[str, Any], client: str) -> None:
    said = claims.get("aud")
    audience = said if isinstance(said, list) else [said]
    party = claims.get("azp", client if len(audience) == 1 else None)
    if client not in audience or party != client:
        raise Unbelievable("The sign-in is for another application.")


def _check_fresh(claims: Mapping[str, Any], settings: Oidc, now: float) -> None:
    skew = settings.skew_seconds
    expires, made = _time(claims, "exp"), _time(claims, "iat")
    if expires is None or made is None:
        raise Unbelievable("The sign-in does not say until when it counts.")
    if now >= expires + skew or now >= made + FRESH_SECONDS + skew:
        raise Unbelievable("The sign-in is too old; is the clock of this machine right?")
    if made > now + skew or (_time(claims, "nbf") or 0) > now + skew:
        raise Unbelievable("The sign-in is from the future; is the clock of this machine right?")


def _check_times(claims: Mapping[str, Any], settings: Oidc, now: float) -> None:
    _check_fresh(claims, settings, now)
    if settings.longest_minutes is not None:
        shown = _time(claims, "auth_time")
        if shown is None or now >= shown + settings.longest_minutes * 60 + settings.skew_seconds:
            raise Unbelievable(
                "You showed the provider who you are too long ago; sign out there, then try again."
            )


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 40:
        return None
    return float(value)
