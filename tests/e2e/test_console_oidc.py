"""Signing in to the console by a real OpenID Connect provider: panva's oidc-provider, with TLS, plain HTTP clients and Chromium.

What a provider that lies gets is in tests/unit/console/test_idtoken.py and test_provider.py. ASVS 5.0: 6.8, 7.6, 10.1, 10.2, 10.5.
"""

from __future__ import annotations

import http.client
import re
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from playwright.sync_api import sync_playwright

from tests.e2e.console_lab import WAIT_MS, shot
from tests.peers import Proxyd
from tests.peers.console import PASSWORD, Answer, Console
from tests.peers.nodejs import NotInstalled
from tests.peers.oidc import CLIENT, SECRET, Oidc, installed
from tests.peers.process import eventually

pytestmark = pytest.mark.timeout(300)

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def provider(shared: Path) -> Iterator[Oidc]:
    """The provider, its console beside it (`provider.console`), and users: ann by her name, bert by another."""
    try:
        installed()
    except NotInstalled as why:
        pytest.skip(f"NO OPENID CONNECT PROVIDER: {why}")
    proxyd = Proxyd(shared / "oidc-front")
    keys = proxyd.home / "keys"
    console = Console(proxyd, shared / "oidc-console")
    provider = Oidc(shared / "oidc", keys / "tls.crt", keys / "tls.key", console.url)
    proxyd.settings["console"]["oidc"] = provider.settings() | {"acr": ["gold"]}
    console.person("ann", "PAM Administrator")
    console.person("bert", "PAM Auditor", oidc="bert-at-work")
    console.person("carla", source=["10.0.0.0/8"])
    provider.console = console  # type: ignore[attr-defined]
    with proxyd, provider, console:
        yield provider


@pytest.fixture(scope="module")
def console(provider) -> Console:
    return provider.console


@dataclass
class Visitor:
    """A browser without scripts that keeps the cookies of each host apart, and follows what it is sent to."""

    console: Console
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)
    where: str = ""
    back: str = ""  # the last address the provider sent it back to

    def ask(self, method: str, url: str, fields: dict[str, str] | None = None) -> Answer:
        parts = urlsplit(url)
        context = ssl.create_default_context(cafile=str(self.console.proxyd.home / "keys" / "tls.crt"))
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=20, context=context
        )
        jar = self.cookies.setdefault(parts.netloc, {})
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
        if fields is not None:
            headers |= {"content-type": FORM, "origin": f"https://{parts.netloc}"}
        try:
            body = urlencode(fields) if fields is not None else None
            connection.request(
                method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, headers
            )
            found = connection.getresponse()
            answer = Answer(found.status, found.headers, found.read())
        finally:
            connection.close()
        for name, line in answer.cookies().items():
            jar[name] = line.partition("=")[2].partition(";")[0]
            if not jar[name]:
                del jar[name]
        self.where = url
        return answer

    def follow(self, answer: Answer) -> Answer:
        while answer.status in (302, 303):
            target = urljoin(self.where, answer.headers["location"])
            if "/sign-in/provider/back?" in target:
                self.back = target
            answer = self.ask("GET", target)
        return answer

    def leave(self, *, wanted: str = "/") -> str:
        """Press the button; give where the console sends to."""
        page = self.ask("GET", f"{self.console.url}/sign-in?next={wanted}")
        assert "Sign in by the Provider" in page.text
        token = re.search(r'name="form_token" value="([^"]+)"', page.text)[1]
        answer = self.ask(
            "POST", f"{self.console.url}/sign-in/provider", {"form_token": token, "next": wanted}
        )
        assert answer.status == 200, answer.text
        return re.search(r'href="(https://[^"]+)"', answer.text)[1].replace("&amp;", "&")

    def sign_in(self, who: str, *, by: str = "pwd otp mfa", grade: str = "", wanted: str = "/") -> Answer:
        """Go all the way, as whoever the provider is told; give the page it ends at."""
        page = self.follow(self.ask("GET", self.leave(wanted=wanted)))
        if self.where.startswith(self.console.url):
            return page  # the provider knew them still
        assert "Provider" in page.text, page.text
        return self.follow(self.ask("POST", self.where, {"who": who, "by": by, "class": grade}))


def test_10_2_1_who_the_provider_names_is_signed_in(provider, console):
    """Code flow, PKCE (the provider refuses without), state, nonce; then a sign-in as by password, with cookies as strict."""
    visitor = Visitor(console)
    page = visitor.sign_in("ann", wanted="/search")
    assert (page.status, visitor.where) == (200, f"{console.url}/search")
    assert "ann" in page.text
    told = console.log()
    assert '"by": "provider"' in told or "by=provider" in told
    assert SECRET not in told + provider.process.text()
    assert parse_qs(urlsplit(visitor.back).query)["code"][0] not in told
    again = Visitor(console).sign_in("bert-at-work")
    assert "bert" in again.text
    assert "bert-at-work" not in again.text


@pytest.mark.parametrize(
    ("who", "by", "says"),
    [
        ("mallory", "mfa", "mallory is no user of this proxy"),
        ("bert", "mfa", "bert is no user of this proxy"),  # the provider calls him otherwise
        ("<script>alert(1)</script>", "mfa", "&lt;script&gt;alert(1)&lt;/script&gt; is no user"),
        ("ann", "pwd", "A second factor is needed"),
        ("carla", "mfa", "You may not sign in from your address"),
        ("", "", "The provider did not sign you in"),
    ],
)
def test_6_8_4_others_are_refused_and_told_why(provider, console, who, by, says):
    visitor = Visitor(console)
    page = visitor.sign_in(who, by=by)
    assert page.status == 403
    assert says in page.text
    assert "__Host-proxyd" not in visitor.cookies[urlsplit(console.url).netloc]
    assert visitor.ask("GET", f"{console.url}/").status == 303


def test_6_8_4_a_class_of_logins_counts_as_a_second_factor(provider, console):
    assert Visitor(console).sign_in("ann", by="pwd", grade="gold").status == 200
    assert Visitor(console).sign_in("ann", by="pwd", grade="bronze").status == 403


def test_10_1_2_an_answer_counts_once_and_only_where_it_was_asked(provider, console):
    visitor, thief = Visitor(console), Visitor(console)
    assert visitor.sign_in("ann").status == 200
    thief.leave()
    for one in (visitor, thief, Visitor(console)):
        again = one.ask("GET", visitor.back)
        assert again.status == 403
        assert "Try again" in again.text
    assert thief.ask("GET", f"{console.url}/").status == 303
    # What another browser was to have: the victim's browser is given the attacker's answer, and stays nobody.
    attacker = Visitor(console)
    page = attacker.ask("GET", attacker.leave())
    target = urljoin(attacker.where, page.headers["location"])
    attacker.ask("GET", target)
    page = attacker.ask("POST", target, {"who": "ann", "by": "mfa", "class": ""})
    while "/sign-in/provider/back?" not in (target := urljoin(attacker.where, page.headers["location"])):
        page = attacker.ask("GET", target)
    victim = Visitor(console)
    victim.leave()
    assert victim.ask("GET", target).status == 403


def test_7_6_2_nobody_is_sent_there_but_by_a_form_of_ours(provider, console):
    assert console.ask("GET", "/sign-in/provider").status == 405
    client = console.client()
    client.get("/sign-in")
    assert client.post("/sign-in/provider", {"form_token": "A" * 43}).status == 403
    assert client.post("/sign-in/provider", {}, origin="https://evil.example").status == 403
    assert client.get("/sign-in/provider/back?code=x&state=y").status == 403
    assert client.get("/sign-in/provider/back").status == 403


def test_7_6_1_signing_out_ends_both(provider, console):
    visitor = Visitor(console)
    visitor.sign_in("ann")
    page = visitor.ask("GET", f"{console.url}/")
    token = re.search(r'name="form_token" value="([^"]+)"', page.text)[1]
    answer = visitor.ask("POST", f"{console.url}/sign-out", {"form_token": token})
    assert answer.status == 200
    assert answer.headers["clear-site-data"] == '"storage"'
    assert visitor.ask("GET", f"{console.url}/").status == 303
    away = re.search(r'href="(https://[^"]+)"', answer.text)[1].replace("&amp;", "&")
    assert away.startswith(f"{provider.issuer}/session/end?")
    asked = visitor.ask("GET", away)
    assert asked.status == 200, asked.text
    xsrf = re.search(r'name="xsrf" value="([^"]+)"', asked.text)[1]
    done = visitor.ask("POST", f"{provider.issuer}/session/end/confirm", {"xsrf": xsrf, "logout": "yes"})
    assert done.headers["location"].startswith(f"{console.url}/sign-in")
    page = visitor.follow(visitor.ask("GET", visitor.leave()))
    assert 'name="who"' in page.text  # it asks again who it is


def test_6_8_a_logout_at_the_provider_ends_the_sign_ins_of_that_session_there(provider, console):
    """Back-channel: the provider's server tells ours; a second browser, with a session of its own there, stays."""
    here, elsewhere, other = Visitor(console), Visitor(console), Visitor(console)
    here.sign_in("ann")
    elsewhere.sign_in("ann")
    other.sign_in("bert-at-work")
    asked = here.ask("GET", f"{provider.issuer}/session/end")
    xsrf = re.search(r'name="xsrf" value="([^"]+)"', asked.text)[1]
    here.ask("POST", f"{provider.issuer}/session/end/confirm", {"xsrf": xsrf, "logout": "yes"})
    eventually(
        "the console has heard of it",
        lambda: here.ask("GET", f"{console.url}/").status == 303,
        within_s=30,
    )
    assert elsewhere.ask("GET", f"{console.url}/").status == 200
    assert other.ask("GET", f"{console.url}/").status == 200
    assert '"event": "signed out at the provider"' in console.log()


def test_6_8_nobody_else_tells_of_logouts(provider, console):
    visitor = Visitor(console)
    visitor.sign_in("ann")
    proof = jwt.encode({"alg": "RS256", "kid": "x"}, {"iss": provider.issuer}, RSAKey.generate_key(2048))
    for headers in ({}, {"origin": console.url}, {"sec-fetch-site": "same-origin"}):
        for token in ("", "x", proof):
            told = {"content-type": FORM, "host": urlsplit(console.url).netloc, **headers}
            body = urlencode({"logout_token": token})
            answer = console.ask("POST", "/sign-in/provider/logout", body, told)
            assert answer.status == (403 if headers else 400), answer.text
    assert visitor.ask("GET", f"{console.url}/").status == 200


def test_a_new_key_of_the_provider_is_learnt(provider, console):
    assert Visitor(console).sign_in("ann").status == 200
    provider.rotate()
    eventually("the new key counts", lambda: Visitor(console).sign_in("ann").status == 200, within_s=30)


@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium IS MISSING: nothing shows this in a browser"
)
def test_in_a_browser_with_the_policy_of_our_pages(provider, console):
    wrong: list[str] = []
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(ignore_https_errors=True)
        page.set_default_timeout(WAIT_MS)
        page.on(
            "console",
            lambda said: wrong.append(said.text) if "Security Policy" in said.text else None,
        )
        page.goto(f"{console.url}/requests")
        shot(page, "oidc-sign-in")
        page.get_by_role("button", name="Sign in by the Provider").click()
        page.get_by_label("Who").fill("ann")
        page.get_by_role("button", name="Go").click()
        page.get_by_role("button", name="Sign out").wait_for()
        assert page.url == f"{console.url}/requests"
        cookies = {one["name"]: one for one in page.context.cookies(console.url)}
        assert (cookies["__Host-proxyd"]["httpOnly"], cookies["__Host-proxyd"]["secure"]) == (True, True)
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{provider.issuer}/**")
        browser.close()
    assert not wrong, wrong


def test_without_the_provider_a_password_still_signs_in_unless_it_must_not(provider, console):
    """Last: it stops the provider, and starts the console again."""
    provider.stop()
    page = Visitor(console)
    form = page.ask("GET", f"{console.url}/sign-in")
    token = re.search(r'name="form_token" value="([^"]+)"', form.text)[1]
    proxyd = console.proxyd
    console.process.stop()
    console.start()
    answer = page.ask("POST", f"{console.url}/sign-in/provider", {"form_token": token, "next": "/"})
    assert (answer.status, "can&#39;t be reached" in answer.text) == (502, True), answer.text
    assert console.client().sign_in(console.people["ann"]).status == 303
    proxyd.settings["console"]["oidc"]["password"] = False
    proxyd.write()
    console.process.stop()
    console.start()
    refused = console.client().sign_in(console.people["ann"], code="000000")
    assert refused.status == 403
    assert 'name="password"' not in refused.text
    assert "by name and password" in refused.text
    assert PASSWORD not in console.log()
    assert CLIENT in proxyd.config.read_text()
