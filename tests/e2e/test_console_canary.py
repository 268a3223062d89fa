"""What users, targets and operators may put on a page - names, titles, output, files, reasons - runs on none of them (ASVS 5.0, 1.2.1, 3.2.2).

Every page of the console's table that is HTML is opened in a real Chromium, by somebody who sees all of it. The canary would set
window.__xss; the policy of the pages would forbid it, and say so: neither happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import paramiko
import pytest
from playwright.sync_api import Error

from proxyd.console.app import TABLE
from tests.e2e.console_lab import ADMIN, OPERATOR, ConsoleLab
from tests.peers import eventually
from tests.peers.daemon import TARGET
from tests.peers.libraries import Paramiko

pytestmark = pytest.mark.timeout(300)

EVIL = "\"'><img src=x onerror=window.__xss=1>{{7*7}}"  # no slash: it names files too
SCRIPT = "</title></script><script>window.__xss=1</script><svg onload=window.__xss=1>"
PAGES = 12  # so many pages at least showed it
WATCH = """
window.__violations = [];
document.addEventListener("securitypolicyviolation", event => window.__violations.push(event.blockedURI + " " + event.violatedDirective));
"""


@pytest.fixture(scope="module")
def evil(console_lab: ConsoleLab, shared) -> Iterator[dict[str, str]]:
    """A session that has ended, one that is live, both of an evil user to an evil target, and all that operators say of them."""
    lab = console_lab.lab
    lab.proxyd.user(EVIL, keys=[lab.key.line])
    lab.proxyd.target(TARGET, lab.sshd, description=EVIL)
    reloaded(console_lab)
    at = lab.proxied(shared, user=EVIL)
    known = lab.proxyd.ids()
    with Paramiko().transport(at) as link:
        paint = f"printf '\\033]0;{SCRIPT}\\007'; printf '%s\\n' \"$TEXT\"; cat >/dev/null"
        channel = link.open_session()
        channel.get_pty()
        channel.exec_command(paint.replace('"$TEXT"', shell(EVIL + SCRIPT)))
        channel.sendall(f"{EVIL}\r{SCRIPT}\r\x04".encode())
        channel.recv_exit_status()
        with paramiko.SFTPClient.from_transport(link) as files:
            name = f"{lab.directory}/{EVIL}"
            with files.open(name, "w") as file:
                file.write(SCRIPT)
            files.remove(name)
    ended = lab.proxyd.newest(known)["id"]
    with Paramiko().transport(at) as link:
        channel = link.open_session()
        channel.get_pty()
        channel.exec_command(f"printf '%s\\n' {shell(EVIL + SCRIPT)}; exec cat")
        live = lab.proxyd.the_live_session()["id"]
        say(console_lab, ended, live)
        yield {"ended": ended, "live": live}


def reloaded(console_lab: ConsoleLab, **review: bool) -> None:
    """Have the daemon read its configuration again, with this for [review]."""
    proxyd = console_lab.lab.proxyd
    proxyd.settings["review"] = review
    proxyd.write()
    before = proxyd.log().count('"reloaded"')
    proxyd.hup()
    eventually("it is reloaded", lambda: proxyd.log().count('"reloaded"') > before, within_s=30)


def shell(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def say(console_lab: ConsoleLab, ended: str, live: str) -> None:
    """Have operators write it wherever they may."""
    proxyd = console_lab.lab.proxyd
    proxyd.call("hold", session=ended, reason=EVIL)
    proxyd.call("block", session=live, reason=EVIL)
    proxyd.call("message", session=live, text=EVIL)
    asker = console_lab.console.signed_in(OPERATOR)
    asker.get(f"/sessions/{ended}/request")
    ends = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M")
    words = {"justification": EVIL + SCRIPT, "reason": EVIL, "code": EVIL, "ends": ends}
    reloaded(console_lab, approval=True)
    assert asker.post(f"/sessions/{ended}/request", words).status == 303
    reloaded(console_lab)


def addresses(evil: dict[str, str]) -> list[str]:
    """Every page of the table, for both sessions; what takes words gets the evil ones."""
    found = ["/sign-in"]
    for method, path, _ in TABLE:
        if method != "GET":
            continue
        sessions = list(evil.values()) if "{session}" in path else [""]
        found += [re.sub(r"{[^}]+}", "0", path.replace("{session}", session)) for session in sessions]
    more = ("/search?words=window&source=screen", "/search?words=img", "/?user=%3Cimg%20src%3Dx%20onerror%3Dwindow.__xss%3D1%3E",
            "/?target=%22%3E%3Csvg%20onload%3Dwindow.__xss%3D1%3E", "/nothing/%3Cscript%3Ewindow.__xss=1%3C%2Fscript%3E")  # fmt: skip
    return [*found, *more]


def test_nothing_that_is_shown_runs(console_lab, evil):
    seen = []
    with console_lab.page(ADMIN) as page:
        page.add_init_script(WATCH)
        for address in addresses(evil):
            try:
                answer = page.goto(console_lab.console.url + address)
            except Error as error:
                assert "Download is starting" in str(error) or "ERR_ABORTED" in str(error), error
                continue
            if answer is None or not answer.headers.get("content-type", "").startswith("text/html"):
                continue
            if page.url.endswith(("/live", "/play")):  # each sends on to where the session is
                painted = "window.proxyd !== undefined && document.querySelector('.xterm') !== null"
                eventually("it is painted", lambda js=painted: page.evaluate(js), within_s=30)
            assert page.evaluate("window.__xss") is None, address
            assert page.evaluate("window.__violations") == [], address
            assert page.locator("img[src=x], svg[onload]").count() == 0, address
            assert "49" not in page.title(), address
            if "onerror=window.__xss" in page.locator("body").inner_text() + page.content():
                seen.append(address)
    assert len(seen) >= PAGES, seen


def test_log_and_page_of_a_session_show_it_as_text(console_lab, evil):
    with console_lab.page(ADMIN) as page:
        for address in (f"/sessions/{evil['ended']}/logs", f"/sessions/{evil['ended']}"):
            page.goto(console_lab.console.url + address)
            assert EVIL in page.locator("body").inner_text()
