"""An OpenID Connect provider, asked on behalf of a browser that wants to sign in: code flow with PKCE.

Rule 1: one issuer, the configuration's; what describes it has to say the same name, or nothing of it is used.
Rule 2: an attempt counts once, within ATTEMPT_SECONDS, in the browser that began it: state, PKCE's verifier and nonce are
        made for it alone, and none of them leaves this process but in the form the protocol has for it.
Rule 3: we go to no address but those the issuer's own description names, by verified TLS, with no redirect followed; answers
        are bounded in bytes and time.
Rule 4: who it says has signed out there is signed out here, once for each time it says so.
Rule 5: keys are asked for again when a token names one that is not there, at most once in KEYS_AGAIN_SECONDS.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import trio
from joserfc.jwk import KeySet

from proxyd import log, vault
from proxyd.characters import printable
from proxyd.config import Oidc
from proxyd.console.idtoken import (
    FRESH_SECONDS,
    Farewell,
    Identity,
    Unbelievable,
    UnknownKey,
    farewell,
    keys_of,
    verified,
)
from proxyd.errors import ConfigError, ProxydError

WELL_KNOWN: Final = "/.well-known/openid-configuration"
ATTEMPT_SECONDS: Final = (
    600  # to find a phone, or to wait for a message; ASVS 5.0 6.5.5 has 10 minutes at most
)
MAX_ATTEMPTS: Final = 1000  # the oldest gives way; some hundred bytes each
MAX_HEARD: Final = 10_000  # logouts of the last minutes
ANSWER_BYTES: Final = 256 << 10  # sets of keys with certificate chains are some ten kilobytes
ANSWER_SECONDS: Final = 10.0
KEPT_SECONDS: Final = 3600.0  # what describes the provider, and its keys
KEYS_AGAIN_SECONDS: Final = 5.0
ASKING: Final = 4  # threads that wait for the provider
SHOWN: Final = 60
SECRET_BYTES: Final = 32  # of state, nonce and verifier: RFC 7636 4.1 asks for as many

_asking = trio.CapacityLimiter(ASKING)
_log = log.get("console")
_Kind = TypeVar("_Kind")


class Unreachable(ProxydError):
    """The provider does not answer, or not as one."""


class Stale(ProxydError):
    """There is no such attempt in this browser, or no more."""


class Attempt(NamedTuple):
    """One try to sign in; `wanted`: the page to go on to."""

    nonce: str
    verifier: str
    wanted: str
    began: float


class Description(msgspec.Struct, frozen=True):
    """What the provider says of itself (OpenID Connect Discovery 1.0, 3); the rest is not for us."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False

    @property
    def addresses(self) -> list[str]:
        """All that browsers are sent to, or we ask."""
        told = (self.authorization_endpoint, self.token_endpoint, self.jwks_uri)
        return [*told, *filter(None, (self.userinfo_endpoint, self.end_session_endpoint))]


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str = ""


class Provider:
    """One provider; `home` is the console's "https://host"."""

    def __init__(self, settings: Oidc, home: str, clock: Callable[[], float] = time.time) -> None:
        """Read the certificates to believe. Raises ConfigError."""
        self.settings, self._home, self._clock = settings, home, clock
        self._attempts: dict[bytes, Attempt] = {}  # by state and browser, oldest first
        self._described: tuple[float, Description] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._heard: dict[str, float] = {}  # names of logouts, and when they came
        self._lock = trio.Lock()
        try:
            self._context = ssl.create_default_context(cafile=settings.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"can't be used as a CA: {error.strerror or error}", settings.ca) from None
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2

    @property
    def back(self) -> str:
        """Where the provider sends the browser."""
        return f"{self._home}/sign-in/provider/back"

    async def begin(self, browser: str, wanted: str) -> str:
        """Give the address to send a browser to. Raises Unreachable."""
        known = await self._description()
        state, now = secrets.token_urlsafe(SECRET_BYTES), self._clock()
        attempt = Attempt(
            secrets.token_urlsafe(SECRET_BYTES), secrets.token_urlsafe(SECRET_BYTES), wanted, now
        )
        self._forget(now)
        self._attempts[_key(browser, state)] = attempt
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.back,
            "scope": " ".join(dict.fromkeys(["openid", *self.settings.scopes])),
            "state": state,
            "nonce": attempt.nonce,
            "code_challenge": _challenge(attempt.verifier),
            "code_challenge_method": "S256",
        }
        if self.settings.acr:
            asked["acr_values"] = " ".join(self.settings.acr)
        if self.settings.longest_minutes is not None:
            asked["max_age"] = str(int(self.settings.longest_minutes * 60))
        return _with(known.authorization_endpoint, asked)

    def take(self, browser: str, state: str) -> Attempt:
        """Give the attempt an answer is for, once. Raises Stale."""
        self._forget(self._clock())
        attempt = self._attempts.pop(_key(browser, state), None)
        if attempt is None:
            raise Stale("This sign-in took too long, or began in another browser. Try again.")
        return attempt

    async def finish(self, attempt: Attempt, given: Mapping[str, str]) -> tuple[Identity, str]:
        """Turn the provider's answer into who it is, and the token that says so. Raises Unbelievable, Unreachable."""
        known = await self._description()
        told = given.get("iss", "")
        if told != self.settings.issuer and (told or known.authorization_response_iss_parameter_supported):
            raise Unbelievable("The answer came from another provider.")  # RFC 9207
        if "error" in given or not given.get("code"):
            _log.info("the provider refused", why=printable(given.get("error", "no code")[:SHOWN]))
            raise Unbelievable("The provider did not sign you in.")
        tokens = await self._redeem(known, given["code"], attempt)
        identity = await self._verified(known, tokens.id_token, attempt.nonce)
        if identity.text(self.settings.claim) or not (known.userinfo_endpoint and tokens.access_token):
            return identity, tokens.id_token
        return await self._filled(known, identity, tokens.access_token), tokens.id_token

    async def farewell(self, token: str) -> str:
        """Give the address that signs out at the provider as well; "" where there is none."""
        if not (self.settings.logout and token):
            return ""
        try:
            known = await self._description()
        except Unreachable as error:
            _log.warning("not signed out at the provider", why=str(error))
            return ""
        if not known.end_session_endpoint:
            return ""
        back = {"post_logout_redirect_uri": f"{self._home}/sign-in", "client_id": self.settings.client_id}
        return _with(known.end_session_endpoint, {"id_token_hint": token, **back})

    async def heard(self, token: str) -> Farewell:
        """Read what the provider says of who signed out there, once (Rule 4). Raises Unbelievable, Unreachable."""
        known = await self._description()
        said = await self._believed(known, lambda keys: farewell(token, keys, self.settings, self._clock()))
        now, kept = self._clock(), FRESH_SECONDS + 2 * self.settings.skew_seconds
        self._heard = {name: at for name, at in self._heard.items() if now - at < kept}
        if said.name in self._heard or len(self._heard) >= MAX_HEARD:
            raise Unbelievable("The provider has said this before.")
        self._heard[said.name] = now
        return said

    async def _verified(self, known: Description, token: str, nonce: str) -> Identity:
        return await self._believed(
            known, lambda keys: verified(token, keys, self.settings, nonce, self._clock())
        )

    async def _believed(self, known: Description, read: Callable[[KeySet], _Kind]) -> _Kind:
        """Read a token by the keys the provider has, new ones where it names one we do not know."""
        try:
            return read(await self._key_set(known))
        except UnknownKey:
            return read(await self._key_set(known, again=True))

    async def _redeem(self, known: Description, code: str, attempt: Attempt) -> _Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.back,
            "code_verifier": attempt.verifier,
        }
        headers: dict[str, str] = {}
        client, reference = self.settings.client_id, self.settings.client_secret
        if reference is None:
            form["client_id"] = client
        else:
            try:
                secret = (await vault.fetch(reference)).text()
            except vault.VaultError as error:
                raise Unreachable(f"console.oidc.client_secret: {error.detail}") from None
            if "client_secret_basic" in known.token_endpoint_auth_methods_supported:
                pair = f"{quote(client, safe='')}:{quote(secret, safe='')}"  # RFC 6749 2.3.1
                headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            else:
                form |= {"client_id": client, "client_secret": secret}
        return await self._ask(known.token_endpoint, _Tokens, urlencode(form), headers)

    async def _filled(self, known: Description, identity: Identity, access: str) -> Identity:
        """Add what only the provider's UserInfo tells; it has to be of the same person (OpenID Connect Core 5.3.2)."""
        headers = {"Authorization": f"Bearer {access}"}
        told = await self._ask(known.userinfo_endpoint, dict[str, Any], None, headers)
        if told.get("sub") != identity.subject:
            raise Unbelievable("The provider told of somebody else.")
        return Identity(identity.subject, {**told, **identity.claims})

    async def _description(self) -> Description:
        async with self._lock:
            if self._described is None or self._clock() - self._described[0] >= KEPT_SECONDS:
                found = await self._ask(self.settings.issuer.rstrip("/") + WELL_KNOWN, Description)
                if found.issuer != self.settings.issuer:
                    raise Unreachable("The provider gives itself another name than console.oidc.issuer.")
                if not all(one.startswith("https://") for one in found.addresses):
                    raise Unreachable("The provider names an address without TLS.")
                self._described = self._clock(), found
            return self._described[1]

    async def _key_set(self, known: Description, *, again: bool = False) -> KeySet:
        async with self._lock:
            kept = KEYS_AGAIN_SECONDS if again else KEPT_SECONDS
            if self._keys is None or self._clock() - self._keys[0] >= kept:
                self._keys = self._clock(), keys_of(await self._ask(known.jwks_uri, dict[str, Any]))
            return self._keys[1]

    async def _ask(
        self, url: str, kind: type[_Kind], body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> _Kind:
        """Ask one question and read its answer as JSON of a kind. Raises Unreachable, Unbelievable."""
        with trio.move_on_after(ANSWER_SECONDS):
            status, data = await trio.to_thread.run_sync(
                _exchange,
                self._context,
                url,
                body,
                dict(headers or {}),
                limiter=_asking,
                abandon_on_cancel=True,
            )
            if (
                400 <= status < 500 and body is not None
            ):  # RFC 6749 5.2: the code, or we, are not what it wants
                _log.warning("the provider takes no code of ours", why=_error_of(data))
                raise Unbelievable("The provider did not confirm the sign-in.")
            if status != 200:
                raise Unreachable(f"The provider answered {status}.")
            try:
                return msgspec.json.decode(data, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Unreachable("The provider answered what can't be read.") from None
        raise Unreachable(f"The provider did not answer within {ANSWER_SECONDS:g} s.")

    def _forget(self, now: float) -> None:
        """Drop attempts that are too old, and the oldest where one more would be too many."""
        for key, attempt in list(self._attempts.items()):
            if now - attempt.began < ATTEMPT_SECONDS and len(self._attempts) < MAX_ATTEMPTS:
                return
            del self._attempts[key]


def _exchange(
    context: ssl.SSLContext, url: str, body: str | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise Unreachable("The provider names an address without TLS.")
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    path = f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"
    try:
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=ANSWER_SECONDS, context=context
        )
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, path, body, {"Accept": "application/json", **headers})
            with connection.getresponse() as answer:
                status, data = answer.status, answer.read(ANSWER_BYTES + 1)
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"The provider's certificate can't be verified: {error.verify_message}.") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise Unreachable(f"The provider can't be reached: {why}.") from None
    if len(data) > ANSWER_BYTES:
        raise Unreachable("The provider answered too much.")
    return status, data


def _error_of(data: bytes) -> str:
    try:
        told = msgspec.json.decode(data, type=dict[str, Any]).get("error", "")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = ""
    return printable(str(told)[:SHOWN]) or "it does not say"


def _with(address: str, parameters: Mapping[str, str]) -> str:
    return f"{address}{'&' if '?' in address else '?'}{urlencode(parameters)}"


def _challenge(verifier: str) -> str:
    """Give PKCE's challenge of a verifier (RFC 7636 4.2, S256)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _key(browser: str, state: str) -> bytes:
    return hashlib.sha256(f"{browser} {state}".encode(errors="replace")).digest()
