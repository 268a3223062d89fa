"""Which ID tokens are believed: one by the provider, for us, now, for this attempt; and every other is refused (ASVS 5.0, 10.5)."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from proxyd.config import Oidc
from proxyd.console import idtoken
from proxyd.console.idtoken import LOGOUT, Farewell, Unbelievable, UnknownKey, farewell, keys_of, verified

NOW = 1_800_000_000.0
ISSUER, CLIENT, NONCE = "https://login.example/realms/staff", "proxyd", "n" * 43
SETTINGS = Oidc(issuer=ISSUER, client_id=CLIENT, skew_seconds=60)
GOOD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": CLIENT,
    "sub": "4711",
    "nonce": NONCE,
    "iat": NOW - 5,
    "exp": NOW + 300,
}
KEY = RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)
OTHER = RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)
KEYS = keys_of({"keys": [KEY.as_dict(private=False)]})


def signed(claims: dict[str, Any], key: Any = KEY, alg: str = "RS256", **header: Any) -> str:
    return jwt.encode({"alg": alg, "kid": KEY.kid, **header}, claims, key, algorithms=[alg])


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def with_header(header: dict[str, Any]) -> str:
    """A token with a header the library would not write, signed by the provider."""
    text = f"{part(header)}.{part(GOOD)}"
    proof = KEY.private_key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{base64.urlsafe_b64encode(proof).rstrip(b'=').decode()}"


def hmac_by(secret: bytes) -> str:
    """A token whose key is no secret; the library itself would not make it."""
    text = f"{part({'alg': 'HS256', 'kid': KEY.kid})}.{part(GOOD)}"
    proof = base64.urlsafe_b64encode(hmac.digest(secret, text.encode(), "sha256")).rstrip(b"=").decode()
    return f"{text}.{proof}"


def test_a_good_one_says_who_it_is():
    found = verified(
        signed({**GOOD, "preferred_username": "ann", "amr": ["pwd", "mfa"]}), KEYS, SETTINGS, NONCE, NOW
    )
    assert (found.subject, found.text("preferred_username")) == ("4711", "ann")
    assert found.texts("amr") == {"pwd", "mfa"}
    assert found.text("amr") == ""
    assert found.texts("acr") == frozenset()


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (ECKey.generate_key("P-256", auto_kid=True), "ES256"),
        (OKPKey.generate_key("Ed25519", auto_kid=True), "Ed25519"),
        (KEY, "PS256"),
    ],
    ids=["ES256", "Ed25519", "PS256"],
)
def test_other_algorithms_of_signatures(key, alg):
    keys = keys_of({"keys": [key.as_dict(private=False)]})
    assert verified(signed(GOOD, key, alg, kid=key.kid), keys, SETTINGS, NONCE, NOW).subject == "4711"


WRONG: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://login.example/realms/guests"},
    "an issuer that begins like ours": {"iss": ISSUER + "/"},
    "no issuer": {"iss": None},
    "another client": {"aud": "other"},
    "no client": {"aud": None},
    "others beside us, and none of them named": {"aud": [CLIENT, "other"]},
    "others beside us, made for one of these": {"aud": [CLIENT, "other"], "azp": "other"},
    "made for another": {"azp": "other"},
    "another attempt": {"nonce": "m" * 43},
    "no attempt": {"nonce": None},
    "a nonce that is no text": {"nonce": 7},
    "expired": {"exp": NOW - 61},
    "never expires": {"exp": None},
    "expires at no time": {"exp": "later"},
    "expires, says a truth": {"exp": True},
    "expires after the universe": {"exp": 1e300},
    "made at no time": {"iat": None},
    "made long ago": {"iat": NOW - 700},
    "made tomorrow": {"iat": NOW + 61},
    "not yet": {"nbf": NOW + 61},
    "nobody": {"sub": ""},
    "no subject": {"sub": None},
    "a subject that is a number": {"sub": 4711},
    "too long a subject": {"sub": "4" * 300},
    "a logout token": {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_claims_something_else_is_refused(wrong):
    claims = {name: value for name, value in (GOOD | WRONG[wrong]).items() if value is not None}
    with pytest.raises(Unbelievable) as refusal:
        verified(signed(claims), KEYS, SETTINGS, NONCE, NOW)
    for value in WRONG[wrong].values():
        assert not isinstance(value, str) or len(value) < 6 or value not in str(refusal.value)


@pytest.mark.parametrize(
    "claims",
    [{"aud": [CLIENT]}, {"aud": [CLIENT, "other"], "azp": CLIENT}, {"exp": NOW - 59}, {"iat": NOW + 59}],
)
def test_what_the_standard_allows_counts(claims):
    assert verified(signed(GOOD | claims), KEYS, SETTINGS, NONCE, NOW).subject == "4711"


def test_a_login_that_is_too_long_ago_counts_no_more():
    strict = Oidc(issuer=ISSUER, client_id=CLIENT, longest_minutes=60)
    assert verified(signed({**GOOD, "auth_time": NOW - 3600}), KEYS, strict, NONCE, NOW)
    for shown in ({"auth_time": NOW - 3661}, {}):
        with pytest.raises(Unbelievable, match="too long ago"):
            verified(signed({**GOOD, **shown}), KEYS, strict, NONCE, NOW)


def test_a_signature_is_the_providers_or_none():
    public = KEY.as_pem(private=False)
    forged = {
        "no algorithm": f"{part({'alg': 'none'})}.{part(GOOD)}.",
        "no algorithm, our key": f"{part({'alg': 'none', 'kid': KEY.kid})}.{part(GOOD)}.",
        "nOnE": f"{part({'alg': 'nOnE', 'kid': KEY.kid})}.{part(GOOD)}.",
        "the public key as a secret": hmac_by(public),
        "no secret at all": signed(GOOD, OctKey.import_key(b"x" * 32), "HS256"),
        "another algorithm's name": signed(GOOD).replace(
            signed(GOOD).split(".")[0], part({"alg": "ES256", "kid": KEY.kid})
        ),
        "a header that must be known": with_header(
            {"alg": "RS256", "kid": KEY.kid, "crit": ["late"], "late": 1}
        ),
        "its own key in the header": signed(GOOD, OTHER, jwk=OTHER.as_dict(private=False)),
        "cut": signed(GOOD)[:-20],
        "other claims under the signature": ".".join(
            (signed(GOOD).split(".")[0], part(GOOD | {"sub": "root"}), signed(GOOD).split(".")[2])
        ),
        "no token": "hello",
        "two dots": "..",
        "claims that are a list": f"{part({'alg': 'RS256'})}.{part([])}.AAAA",
        "too large": signed(GOOD | {"groups": ["g" * 100] * 400}),
    }
    for what, token in forged.items():
        with pytest.raises(Unbelievable):
            pytest.fail(f"{what} is believed: {verified(token, KEYS, SETTINGS, NONCE, NOW)}")


def test_another_key_is_a_reason_to_ask_again():
    for token in (signed(GOOD, OTHER, kid=OTHER.kid), signed(GOOD, OTHER)):
        with pytest.raises(UnknownKey):
            verified(token, KEYS, SETTINGS, NONCE, NOW)
    with pytest.raises(UnknownKey):
        verified(signed(GOOD), KeySet([]), SETTINGS, NONCE, NOW)


def test_of_the_keys_those_for_signatures_count():
    shown = KEY.as_dict(private=False)
    keys = keys_of(
        {"keys": [None, 7, {}, {"kty": "oct", "k": "AAAA", "kid": KEY.kid}, {"kty": "EC", "crv": "P-999", "x": "A", "y": "A"},
                  {"kty": "RSA", "n": "!", "e": "AQAB"}, {**OTHER.as_dict(private=False), "use": "enc"}, {"kty": "AKP"}, shown]}
    )  # fmt: skip
    assert [key.kid for key in keys.keys] == [KEY.kid]
    for nonsense in (None, [], {}, {"keys": 7}, {"keys": {"kty": "RSA"}}, "keys"):
        assert not keys_of(nonsense).keys
    assert len(keys_of({"keys": [shown] * 1000}).keys) == idtoken.MAX_KEYS


@given(st.binary(max_size=300), st.integers(min_value=0, max_value=2))
def test_a_token_of_anything_is_refused(noise, place):
    parts = signed(GOOD).split(".")
    parts[place] = base64.urlsafe_b64encode(noise).rstrip(b"=").decode()
    with pytest.raises(Unbelievable):
        verified(".".join(parts), KEYS, SETTINGS, NONCE, NOW)
    with pytest.raises(Unbelievable):
        verified(noise.decode("latin-1"), KEYS, SETTINGS, NONCE, NOW)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
       st.sampled_from(["iss", "aud", "azp", "nonce", "exp", "iat", "nbf", "sub", "events"]))  # fmt: skip
def test_claims_of_any_shape_are_refused_or_right(value, name):
    text = json.dumps(GOOD | {name: value})
    token = jwt.encode({"alg": "RS256", "kid": KEY.kid}, json.loads(text), KEY)
    try:
        found = verified(token, KEYS, SETTINGS, NONCE, NOW)
    except Unbelievable:
        return
    assert found.subject == "4711" or name == "sub"


GONE: dict[str, Any] = {
    "iss": ISSUER, "aud": CLIENT, "sub": "4711", "sid": "s1", "jti": "j1", "iat": NOW - 5, "exp": NOW + 120, "events": {LOGOUT: {}},
}  # fmt: skip


def test_a_logout_says_whose_and_which_session_it_was():
    assert farewell(signed(GONE), KEYS, SETTINGS, NOW) == Farewell("4711", "s1", "j1")
    assert farewell(signed(without(GONE, "sub")), KEYS, SETTINGS, NOW) == Farewell("", "s1", "j1")
    assert farewell(signed(without(GONE, "sid")), KEYS, SETTINGS, NOW) == Farewell("4711", "", "j1")
    asks_when = Oidc(issuer=ISSUER, client_id=CLIENT, longest_minutes=5)  # which is of sign-ins alone
    assert farewell(signed(GONE), KEYS, asks_when, NOW).subject == "4711"


def without(claims: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if name not in names}


NO_LOGOUTS: dict[str, dict[str, Any]] = {
    "another issuer": GONE | {"iss": "https://login.example/realms/guests"},
    "another client": GONE | {"aud": "other"},
    "an ID token": GOOD,
    "an ID token's nonce": GONE | {"nonce": NONCE},
    "no event": without(GONE, "events"),
    "another event": GONE | {"events": {"http://schemas.openid.net/event/other": {}}},
    "an event that is none": GONE | {"events": {LOGOUT: True}},
    "events in a list": GONE | {"events": [LOGOUT]},
    "nobody": without(GONE, "sub", "sid"),
    "no name": without(GONE, "jti"),
    "what is no text": GONE | {"sub": 4711, "sid": ["s1"]},
    "no end": without(GONE, "exp"),
    "no time": without(GONE, "iat"),
    "too old": GONE | {"iat": NOW - 3600, "exp": NOW + 9},
    "expired": GONE | {"exp": NOW - 61},
    "of the future": GONE | {"iat": NOW + 100},
}


@pytest.mark.parametrize("wrong", NO_LOGOUTS)
def test_other_logouts_are_not_believed(wrong):
    with pytest.raises(Unbelievable):
        farewell(signed(NO_LOGOUTS[wrong]), KEYS, SETTINGS, NOW)


def test_a_logout_is_signed_by_the_provider_and_is_no_sign_in():
    with pytest.raises(UnknownKey):
        farewell(signed(GONE, OTHER, kid=OTHER.kid), KEYS, SETTINGS, NOW)
    with pytest.raises(Unbelievable):
        farewell(hmac_by(b"proxyd"), KEYS, SETTINGS, NOW)
    with pytest.raises(Unbelievable):
        verified(signed(GONE | {"nonce": NONCE}), KEYS, SETTINGS, NONCE, NOW)
