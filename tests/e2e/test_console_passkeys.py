"""Security keys in a real Chromium, with the authenticator its developer tools have (CDP's WebAuthn domain): CTAP2, by USB.

ASVS 5.0: 6.3.3 (a second factor resistant to phishing), 6.5.1 (good once), 6.4.4 (identity proved again, or an operator, where one is
lost), 6.8 has the provider's own. What a lying key says is in tests/unit/test_passkeys.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, CDPSession, Page, expect

from proxyd.recorder.ledger import LedgerReader
from tests.e2e.console_lab import WAIT_MS, chromium, shot
from tests.peers import Proxyd
from tests.peers.console import HASH, PASSWORD, Console

pytestmark = pytest.mark.timeout(300)

expect.set_options(timeout=WAIT_MS)
ANN, BEN = "ann", "ben"  # one has an authenticator, the other nothing but a password
KEY = {
    "protocol": "ctap2", "transport": "usb", "hasResidentKey": False, "hasUserVerification": True, "isUserVerified": True,
    "automaticPresenceSimulation": True,
}  # fmt: skip


@dataclass
class Key:
    """An authenticator in a page's USB port; somebody touches it whenever it blinks, unless they let go."""

    session: CDPSession
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.session.send("WebAuthn.addVirtualAuthenticator", {"options": KEY})["authenticatorId"]

    def touched(self, *, enabled: bool) -> None:
        told = {"authenticatorId": self.id, "enabled": enabled}
        self.session.send("WebAuthn.setAutomaticPresenceSimulation", told)

    @property
    def credentials(self) -> list[dict[str, Any]]:
        return self.session.send("WebAuthn.getCredentials", {"authenticatorId": self.id})["credentials"]

    def remove(self) -> None:
        self.session.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": self.id})

    def copy(self, credential: dict[str, Any]) -> Key:
        """Another one with the same secret, as it was then."""
        made = Key(self.session)
        told = {**credential, "rpId": "localhost"}
        made.session.send("WebAuthn.addCredential", {"authenticatorId": made.id, "credential": told})
        return made


@dataclass
class Keyed:
    """A console called by a name, and a browser."""

    console: Console
    browser: Browser

    @property
    def url(self) -> str:
        return f"https://localhost:{self.console.port}"

    def code(self, name: str) -> str:
        """A code that stands for their second factor once, without waiting for the next half minute."""
        return self.console.proxyd.ctl("users", "recovery-code", name).data["code"]

    def ledger(self, kind: str) -> list[dict[str, Any]]:
        """What the ledger holds of a kind."""
        path = self.console.proxyd.home / "state" / "ledger"
        return [dict(entry.fields) for entry in LedgerReader(path).entries(kind)]

    @contextmanager
    def page(self) -> Iterator[tuple[Page, Key]]:
        """A page with a key plugged in; a script's error or a violated policy fails the test."""
        context = self.browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 800})
        page, wrong = context.new_page(), []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Security Policy" in said.text else None)
        session = context.new_cdp_session(page)
        session.send("WebAuthn.enable")
        try:
            yield page, Key(session)
        finally:
            context.close()
        assert not wrong, wrong

    def typed(self, page: Page, name: str, code: str = "") -> None:
        """Fill in the form of the sign-in."""
        page.goto(f"{self.url}/sign-in?next=/access")
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("One-time code").fill(code)
        page.get_by_role("button", name="Sign in").click()

    def entered(self, page: Page, name: str, code: str = "") -> None:
        """Sign in, by a code or by the key that is plugged in."""
        self.typed(page, name, code)
        page.get_by_role("button", name="Sign out").wait_for()
        assert page.url == f"{self.url}/access"

    def refused(self, page: Page, name: str) -> None:
        """The key that is plugged in does not sign in."""
        self.typed(page, name)
        expect(page.get_by_role("alert")).to_have_text(re.compile("That did not sign you in"))


@pytest.fixture(scope="module")
def keyed(shared: Path) -> Iterator[Keyed]:
    proxyd = Proxyd(shared / "keyed")
    console = Console(proxyd, shared / "keyed-console")
    console.person(ANN)
    proxyd.user(BEN, password=HASH)
    with ExitStack() as stack:
        stack.enter_context(proxyd)
        stack.enter_context(console)
        yield Keyed(console, stack.enter_context(chromium()))
        assert "Traceback" not in proxyd.log() + console.log()


def section(page: Page) -> Any:
    return page.locator("section", has=page.get_by_role("heading", name="Security keys and passkeys"))


def everybody_can_use_it(page: Page) -> None:
    """axe finds nothing."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run()")["violations"]
    assert not found, [(one["id"], one["nodes"][0]["html"]) for one in found]


def add(page: Page, name: str, code: str = "") -> None:
    """Add the key that is plugged in; without a code the form asks a key that is there already."""
    part = section(page)
    form = part.locator("form", has=page.get_by_role("button", name="Add a security key"))
    form.get_by_label("Name of the key").fill(name)
    form.get_by_label("Your password").fill(PASSWORD)
    if code:
        form.get_by_label("code").fill(code)
    form.get_by_role("button", name="Add a security key").click()


def test_6_3_3_a_key_is_added_signs_in_and_is_removed(keyed: Keyed) -> None:
    with keyed.page() as (page, key):
        keyed.entered(page, ANN, keyed.code(ANN))
        everybody_can_use_it(page)
        add(page, "blue", keyed.code(ANN))
        expect(page.get_by_role("status")).to_have_text("The security key blue counts from now on.")
        expect(section(page).locator("tbody tr")).to_contain_text("localhost")
        shot(page, "security-keys")
        everybody_can_use_it(page)
        assert len(key.credentials) == 1

        # 6.5.1: what the key answered signs in once, in that browser.
        page.get_by_role("button", name="Sign out").click()
        with page.expect_request("**/sign-in/key") as sent:
            keyed.entered(page, ANN)
        replayed(keyed, sent.value.post_data or "")

        # The key is a second factor for changes as well; a second one is added, and the first is told from it.
        other = Key(key.session)
        other.touched(enabled=False)
        add(page, "red")
        expect(page.get_by_role("alert")).to_have_text("You have added this key already.")
        everybody_can_use_it(page)
        key.touched(enabled=False)
        other.touched(enabled=True)
        page.get_by_role("button", name="Use the key").click()
        expect(page.get_by_role("status")).to_have_text("The security key red counts from now on.")
        assert (len(key.credentials), len(other.credentials)) == (1, 1)
        row = section(page).locator("tbody tr", has_text="red")
        row.locator("summary").click()
        row.get_by_label("Your password").fill(PASSWORD)
        row.get_by_role("button", name="Remove this key").click()
        expect(page.get_by_role("status")).to_have_text("The security key red was removed.")

        # One that was removed signs nobody in; a code does.
        page.get_by_role("button", name="Sign out").click()
        key.remove()
        keyed.typed(page, ANN)
        expect(page.get_by_role("alert")).to_contain_text("No key was used in time")
        shot(page, "sign-in-by-key")
        everybody_can_use_it(page)
        page.get_by_role("link", name="one-time code").click()
        keyed.entered(page, ANN, keyed.code(ANN))
    told = [one for one in keyed.ledger("credential") if one["user"] == ANN and "passkey" in one["action"]]
    assert [(one["action"], one["name"]) for one in told[:3]] == [
        ("passkey-added", "blue"), ("passkey-added", "red"), ("passkey-removed", "red")]  # fmt: skip


def replayed(keyed: Keyed, body: str) -> None:
    """Somebody who has the password too sends a key's answer again: it signs nobody in."""
    (answer,) = re.findall(r"answer=([^&]+)", body)
    thief, here = keyed.console.client(), {"origin": keyed.url, "host": keyed.url.removeprefix("https://")}
    thief.get("/sign-in")
    asked = thief.post("/sign-in", {"name": ANN, "password": PASSWORD, "code": "", "next": "/"}, **here)
    assert (asked.status, "data-ceremony" in asked.text) == (200, True)
    for why in ("it is the answer to another challenge", "no challenge waits for it"):
        again = thief.post("/sign-in/key", {"answer": unquote_plus(answer)}, **here)
        assert (again.status, "__Host-proxyd" in again.cookies()) == (403, False)
        assert why in keyed.console.log()
    assert thief.get("/").status == 303


def test_6_7_2_a_copy_of_a_key_is_refused_and_told(keyed: Keyed) -> None:
    ben, proxyd = BEN, keyed.console.proxyd
    with keyed.page() as (page, key):
        keyed.entered(page, ben, keyed.code(ben))
        add(page, "only")
        codes = (page.locator(".codes").text_content() or "").split()
        assert len(codes) == 10
        everybody_can_use_it(page)
        page.get_by_role("link", name="I have kept them").click()
        expect(section(page).get_by_role("cell", name="only", exact=True)).to_be_visible()
        stolen = key.credentials[0]
        page.get_by_role("button", name="Sign out").click()
        keyed.entered(page, ben)  # the counter goes on
        page.get_by_role("button", name="Sign out").click()
        assert key.credentials[0]["signCount"] > stolen["signCount"]
        used = key.credentials[0]
        key.remove()
        copy = key.copy(stolen)
        keyed.refused(page, ben)
        copy.remove()
        key.copy(used)
        keyed.entered(page, ben)

        row = section(page).locator("tbody tr")
        row.locator("summary").click()
        row.get_by_label("Your password").fill(PASSWORD)
        row.get_by_role("button", name="Remove this key").click()
        expect(page.get_by_role("alert")).to_contain_text("only second factor")

        # Lost: an operator takes it away, and a recovery code signs in.
        removed = proxyd.ctl("users", "unenrol", ben, "--passkeys").data
        assert (removed["passkeys"], removed["totp"]) == (1, False)
        page.get_by_role("button", name="Sign out").click()
        keyed.refused(page, ben)
        keyed.entered(page, ben, codes[0])
    (told,) = [one for one in keyed.ledger("credential-refused") if one["user"] == ben]
    assert "copy" in told["why"]
    assert "its counter went back" in proxyd.log()


def test_a_wrong_key_signs_nobody_in_and_an_address_has_no_keys(keyed: Keyed) -> None:
    with keyed.page() as (page, mine):
        keyed.entered(page, ANN, keyed.code(ANN))
        add(page, "green", keyed.code(ANN))
        expect(page.get_by_role("status")).to_contain_text("green")
        credential = mine.credentials[0]
        mine.remove()
        wrong = Key(mine.session)
        add(
            page, "grey", keyed.code(ANN)
        )  # its secret, under the first one's name, is what somebody else has
        expect(page.get_by_role("status")).to_contain_text("grey")
        secret = wrong.credentials[0]["privateKey"]
        wrong.remove()
        mine.copy({**credential, "privateKey": secret, "signCount": 99})
        page.get_by_role("button", name="Sign out").click()
        keyed.refused(page, ANN)
        assert "its signature is wrong" in keyed.console.log()
        page.goto(f"{keyed.console.url}/access")
        page.get_by_label("User name").fill(ANN)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("One-time code").fill(keyed.code(ANN))
        page.get_by_role("button", name="Sign in").click()
        expect(section(page)).to_contain_text("open this console by one, not by its address")
    rows = keyed.console.proxyd.ctl("users", "list").data["users"]
    assert {row["name"]: row["passkeys"] for row in rows}[ANN] >= 2
    assert PASSWORD not in keyed.console.log() + keyed.console.proxyd.log()
