"""A console beside a lab, people who may sign in to it, and a real Chromium: one of each for all tests of a worker."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.e2e.lab import RUNNING, Lab, furnish, make_lab
from tests.peers import eventually
from tests.peers.console import PASSWORD, Console

ADMIN, AUDITOR, OPERATOR, NOBODY = "ann", "audrey", "oscar", "nora"
WAIT_MS = 45_000  # for what a page is to show; a busy machine takes some seconds
SHOTS = os.environ.get("CONSOLE_SHOTS", "")  # where pictures of every step go; none without


@dataclass
class Browsing:
    """A console and a browser, and who has signed in."""

    console: Console
    browser: Browser
    states: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def context(self, name: str = ADMIN, **options: Any) -> BrowserContext:
        """A browser profile of one person, signed in; each signs in once, with the form."""
        fixed = {"ignore_https_errors": True, "viewport": {"width": 1280, "height": 800}, **options}
        if name not in self.states:
            context = self.browser.new_context(**fixed)
            page = context.new_page()
            sign_in(page, self.console, name)
            self.states[name] = context.storage_state()
            context.close()
        return self.browser.new_context(storage_state=self.states[name], **fixed)

    @contextmanager
    def page(self, name: str = ADMIN, **options: Any) -> Iterator[Page]:
        """A page of one person; a script error or a violated policy fails the test."""
        context = self.context(name, **options)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None,
        )
        try:
            yield page
        finally:
            context.close()
        assert not wrong, wrong


@dataclass
class ConsoleLab(Browsing):
    """A console beside a lab."""

    lab: Lab

    def shown(self, page: Page, text: str) -> list[str]:
        """Wait until the terminal on the page shows a text; give its rows."""
        rows = lambda: page.evaluate("window.proxyd ? proxyd.screen.text() : []")  # noqa: E731
        eventually(
            f"the screen shows {text!r}", lambda: any(text in row for row in rows()), within_s=WAIT_MS / 1000
        )
        return rows()


def sign_in(page: Page, console: Console, name: str) -> None:
    """Sign in as people do."""
    page.goto(console.url)
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("One-time code").fill(console.people[name].code())
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()


def shot(page: Page, name: str) -> None:
    """Keep a picture of a step, where pictures are wanted."""
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A real Chromium; the test is skipped, loudly, where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium IS MISSING: nothing shows that the console's pages work in a browser")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def console_lab(shared: Path, request: pytest.FixtureRequest) -> Iterator[ConsoleLab]:
    """The console all tests of a file share; the browser's event loop is gone before tests that have one of their own."""
    name = request.module.__name__.rpartition(".")[2]
    made = make_lab(shared / f"{name}-lab")
    with made.sshd:
        furnish(made)
        with consoled(made, shared / name) as lab:
            yield lab
    RUNNING.remove(made)


@contextmanager
def consoled(made: Lab, directory: Path) -> Iterator[ConsoleLab]:
    """Start a lab's proxyd, a console beside it with one person of each role, and a browser."""
    console = Console(made.proxyd, directory)
    console.person(ADMIN, "PAM Administrator")
    console.person(AUDITOR, "PAM Auditor")
    console.person(OPERATOR, "PAM Operator")
    console.person(NOBODY)
    with made.proxyd, console, chromium() as browser:
        yield ConsoleLab(console, browser, made)
