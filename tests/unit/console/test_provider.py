"""What the console asks of an OpenID Connect provider, and what becomes of answers that are wrong, large, late or somebody else's."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from proxyd import setup
from proxyd.config import Oidc
from proxyd.console import provider as module
from proxyd.console.idtoken import Unbelievable
from proxyd.console.provider import ATTEMPT_SECONDS, MAX_ATTEMPTS, WELL_KNOWN, Provider, Stale, Unreachable
from proxyd.errors import ConfigError

HOME = "https://console.example"
SECRET = "a secret of:ours&"
KEY = RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)
NEW = RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)


@dataclass
class Hostile:
    """A web server that answers as it is told: status, kind of content, body, by path."""

    port: int
    answers: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    hold: threading.Event | None = None  # answers wait for it

    @property
    def issuer(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def says(self, path: str, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = status, data, headers

    def describes(self, **other: Any) -> None:
        told = {
            name: f"{self.issuer}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
        }
        self.says(WELL_KNOWN, {"issuer": self.issuer, **told, **other})


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setup.initialise(tmp_path_factory.mktemp("keys") / "p").config.parent / "keys"


@contextmanager
def running(tls: Path) -> Iterator[Hostile]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            hostile.asked.append((self.path, self.rfile.read(length).decode(), dict(self.headers.items())))
            if hostile.hold is not None:
                hostile.hold.wait(30)
            status, body, headers = hostile.answers.get(self.path.partition("?")[0], (404, b"{}", {}))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that does not like our certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "tls.crt", tls / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    hostile = Hostile(server.server_address[1])
    hostile.describes()
    hostile.says("/jwks_uri", {"keys": [KEY.as_dict(private=False)]})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hostile
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


@pytest.fixture
def hostile(tls: Path) -> Iterator[Hostile]:
    with running(tls) as found:
        yield found


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Make = Callable[..., Provider]


@pytest.fixture
def make(hostile: Hostile, tls: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("OIDC_SECRET", SECRET)

    def one(**settings: Any) -> Provider:
        given = {
            "issuer": hostile.issuer,
            "client_id": "proxyd",
            "client_secret": "env:OIDC_SECRET",
            "ca": tls / "tls.crt",
        }
        return Provider(Oidc(**given | settings), HOME, clock)

    return one


async def begun(provider: Provider, browser: str = "b") -> dict[str, str]:
    return dict(parse_qsl(urlsplit(await provider.begin(browser, "/search")).query))


async def came_back(
    provider: Provider,
    hostile: Hostile,
    clock: Clock,
    *,
    key: RSAKey = KEY,
    given: dict[str, str] | None = None,
    **claims: Any,
) -> Any:
    """Begin, have the provider confirm, come back."""
    asked = await begun(provider)
    told = {
        "iss": hostile.issuer,
        "aud": "proxyd",
        "sub": "4711",
        "nonce": asked["nonce"],
        "iat": clock.now,
        "exp": clock.now + 60,
    }
    token = jwt.encode({"alg": "RS256", "kid": key.kid}, told | claims, key)
    hostile.says("/token_endpoint", {"id_token": token, "access_token": "opaque", "token_type": "Bearer"})
    answer = {"code": "C", "state": asked["state"]} if given is None else given
    return await provider.finish(provider.take("b", asked["state"]), answer)


async def test_it_is_asked_by_code_with_pkce_state_and_nonce(make, hostile):
    hostile.describes(authorization_endpoint=f"{hostile.issuer}/authorize?tenant=7")
    provider = make(acr=["gold", "silver"], longest_minutes=30, scopes=["profile"])
    address = await provider.begin("b", "/")
    assert address.startswith(f"{hostile.issuer}/authorize?tenant=7&")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert (asked["response_type"], asked["code_challenge_method"], asked["scope"]) == (
        "code",
        "S256",
        "openid profile",
    )
    assert (asked["redirect_uri"], asked["acr_values"], asked["max_age"]) == (
        f"{HOME}/sign-in/provider/back",
        "gold silver",
        "1800",
    )
    attempt = provider.take("b", asked["state"])
    expected = (
        base64.urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest()).decode().rstrip("=")
    )
    assert asked["code_challenge"] == expected
    assert attempt.nonce == asked["nonce"]
    other = await begun(provider)
    assert not {other["state"], other["nonce"], other["code_challenge"]} & {
        asked["state"],
        asked["nonce"],
        expected,
    }
    assert all(len(other[name]) >= 43 for name in ("state", "nonce"))


async def test_an_answer_counts_once_in_its_browser_and_in_time(make, clock):
    provider = make()
    asked = await begun(provider)
    for browser, state in (("another", asked["state"]), ("b", "guessed"), ("", asked["state"]), ("b", "")):
        with pytest.raises(Stale):
            provider.take(browser, state)
    assert provider.take("b", asked["state"]).wanted == "/search"
    with pytest.raises(Stale):
        provider.take("b", asked["state"])
    late = await begun(provider)
    clock.now += ATTEMPT_SECONDS
    with pytest.raises(Stale):
        provider.take("b", late["state"])


async def test_attempts_are_bounded(make):
    provider = make()
    first = await begun(provider)
    for _ in range(MAX_ATTEMPTS):
        await provider.begin("b", "/")
    assert len(provider._attempts) == MAX_ATTEMPTS
    with pytest.raises(Stale):
        provider.take("b", first["state"])


async def test_the_code_is_redeemed_with_our_secret_and_the_verifier(make, hostile, clock):
    identity, _ = await came_back(make(claim="sub"), hostile, clock)
    assert identity.subject == "4711"
    path, body, headers = (
        hostile.asked[-1] if hostile.asked[-1][0] == "/token_endpoint" else hostile.asked[-2]
    )
    assert path == "/token_endpoint"
    sent = dict(parse_qsl(body))
    assert (sent["grant_type"], sent["code"], sent["redirect_uri"]) == (
        "authorization_code",
        "C",
        f"{HOME}/sign-in/provider/back",
    )
    assert len(sent["code_verifier"]) >= 43
    assert "client_secret" not in sent
    named = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert named == "proxyd:a%20secret%20of%3Aours%26"
    hostile.describes(token_endpoint_auth_methods_supported=["client_secret_post"])
    await came_back(make(claim="sub"), hostile, clock)
    posted = [dict(parse_qsl(body)) for path, body, _ in hostile.asked if path == "/token_endpoint"][-1]
    assert (posted["client_id"], posted["client_secret"]) == ("proxyd", SECRET)


async def test_what_the_token_lacks_its_userinfo_tells_of_the_same_person(make, hostile, clock):
    hostile.describes(userinfo_endpoint=f"{hostile.issuer}/userinfo")
    hostile.says("/userinfo", {"sub": "4711", "preferred_username": "ann", "iss": "https://evil.example"})
    identity, _ = await came_back(make(), hostile, clock)
    assert (identity.text("preferred_username"), identity.text("iss")) == ("ann", hostile.issuer)
    assert hostile.asked[-1][2]["Authorization"] == "Bearer opaque"
    hostile.says("/userinfo", {"sub": "4712", "preferred_username": "root"})
    with pytest.raises(Unbelievable, match="somebody else"):
        await came_back(make(), hostile, clock)


async def test_a_new_key_is_found_and_not_asked_for_without_end(make, hostile, clock):
    provider = make(claim="sub")
    await came_back(provider, hostile, clock)
    hostile.says("/jwks_uri", {"keys": [NEW.as_dict(private=False)]})
    with pytest.raises(Unbelievable):
        await came_back(provider, hostile, clock, key=NEW)  # too soon after the last time
    clock.now += module.KEYS_AGAIN_SECONDS
    assert await came_back(provider, hostile, clock, key=NEW)
    fetched = sum(path == "/jwks_uri" for path, *_ in hostile.asked)
    for _ in range(5):
        with pytest.raises(Unbelievable):
            await came_back(provider, hostile, clock, key=KEY)
    assert sum(path == "/jwks_uri" for path, *_ in hostile.asked) == fetched


async def test_an_issuer_is_what_it_says_and_what_we_were_told(make, hostile, clock):
    hostile.says(
        WELL_KNOWN,
        {
            "issuer": "https://login.example",
            "authorization_endpoint": "https://a/",
            "token_endpoint": "https://a/",
            "jwks_uri": "https://a/",
        },
    )
    with pytest.raises(Unreachable, match="another name"):
        await make().begin("b", "/")
    hostile.describes(token_endpoint="http://127.0.0.1/token")
    with pytest.raises(Unreachable, match="without TLS"):
        await make().begin("b", "/")
    hostile.describes(authorization_endpoint="javascript:alert(1)")
    with pytest.raises(Unreachable, match="without TLS"):
        await make().begin("b", "/")
    hostile.describes(authorization_response_iss_parameter_supported=True)
    for iss in ({}, {"iss": "https://evil.example"}):  # RFC 9207: the mix-up
        with pytest.raises(Unbelievable, match="another provider"):
            await came_back(make(), hostile, clock, given={"code": "C", **iss})
    hostile.describes()
    with pytest.raises(Unbelievable, match="another provider"):
        await came_back(make(), hostile, clock, given={"code": "C", "iss": "https://evil.example"})


@pytest.mark.parametrize("given", [{"error": "access_denied", "code": "C"}, {}, {"code": ""}])
async def test_who_is_refused_there_is_refused_here(make, hostile, clock, given):
    with pytest.raises(Unbelievable, match="did not sign you in"):
        await came_back(make(), hostile, clock, given=given)


WRONG = {
    "not there": (404, b"{}"),
    "broken": (500, b"{}"),
    "no JSON": (200, b"<html>"),
    "no object": (200, b"[]"),
    "not UTF-8": (200, b"\xff\xfe{}"),
    "nested": (200, b"[" * 100_000),
    "other kinds": (200, b'{"id_token": 7, "issuer": 7, "keys": 7}'),
    "too much": (200, b'{"id_token": "' + b"x" * (module.ANSWER_BYTES + 1) + b'"}'),
    "a redirect": (302, b"{}"),
}


@pytest.mark.parametrize("path", [WELL_KNOWN, "/token_endpoint", "/jwks_uri", "/userinfo"])
@pytest.mark.parametrize("wrong", WRONG)
async def test_answers_that_are_none_are_typed_errors(make, hostile, clock, path, wrong):
    hostile.describes(userinfo_endpoint=f"{hostile.issuer}/userinfo")
    provider = make()
    asked = dict(parse_qsl(urlsplit(await provider.begin("b", "/")).query))
    token = jwt.encode(
        {"alg": "RS256", "kid": KEY.kid},
        {
            "iss": hostile.issuer,
            "aud": "proxyd",
            "sub": "4711",
            "nonce": asked["nonce"],
            "iat": clock.now,
            "exp": clock.now + 9999,
        },
        KEY,
    )
    hostile.says("/token_endpoint", {"id_token": token, "access_token": "opaque"})
    hostile.says("/userinfo", {"sub": "4711"})
    status, body = WRONG[wrong]
    hostile.says(path, body, status, location=f"{hostile.issuer}/elsewhere")
    if path == WELL_KNOWN:
        clock.now += module.KEPT_SECONDS
        with pytest.raises(Unreachable):
            await provider.begin("b", "/")
    else:
        with pytest.raises((Unreachable, Unbelievable)) as refusal:
            await provider.finish(provider.take("b", asked["state"]), {"code": "C", "iss": hostile.issuer})
        assert SECRET not in str(refusal.value)
    assert not any(path == "/elsewhere" for path, *_ in hostile.asked)


async def test_a_code_it_does_not_take(make, hostile, clock):
    asked = await begun(provider := make())
    hostile.says("/token_endpoint", {"error": "invalid_grant\x1b[31m", "error_description": "x"}, 400)
    with pytest.raises(Unbelievable, match="did not confirm"):
        await provider.finish(provider.take("b", asked["state"]), {"code": "C"})


async def test_tls_is_verified_and_silence_ends(make, hostile, tls, monkeypatch):
    with pytest.raises(Unreachable, match="certificate can't be verified"):
        await make(ca=None).begin("b", "/")
    with pytest.raises(ConfigError, match="can't be used as a CA"):
        make(ca=tls / "tls.key")
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    hostile.hold = threading.Event()
    with pytest.raises(Unreachable, match=r"did not answer|can't be reached"):
        await make().begin("b", "/")
    hostile.hold.set()


async def test_signing_out_goes_on_to_the_provider_where_it_can(make, hostile):
    assert await make().farewell("T") == ""  # it says no place
    hostile.describes(end_session_endpoint=f"{hostile.issuer}/end")
    sent = dict(parse_qsl(urlsplit(await make().farewell("T")).query))
    assert sent == {
        "id_token_hint": "T",
        "post_logout_redirect_uri": f"{HOME}/sign-in",
        "client_id": "proxyd",
    }
    assert await make().farewell("") == ""
    assert await make(logout=False).farewell("T") == ""
    hostile.says(WELL_KNOWN, {}, 500)
    assert await make().farewell("T") == ""
