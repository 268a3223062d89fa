"""What users, targets and operators may put on a page runs on none of them (ASVS 5.0, 1.2.1, 3.2.2).

That is names, titles, output, files, statements and their errors, what was pasted, messages, comments and reasons. Every page of
the console's table that is HTML is opened in a real Chromium, by somebody who sees all of it. The canary would set window.__xss;
the policy of the pages would forbid it, and say so: neither happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import paramiko
import pytest
from playwright.sync_api import Error

from proxyd.config import load
from proxyd.console.app import TABLE
from proxyd.protocols.rdp.updates import build_bitmaps
from proxyd.recorder.record import Kind
from tests.e2e.console_lab import ADMIN, OPERATOR, ConsoleLab, chromium
from tests.e2e.lab import RUNNING, furnish, make_lab
from tests.peers import eventually
from tests.peers.console import Client, Console
from tests.peers.libraries import Paramiko
from tests.peers.tapes import record_before
from tests.unit.index.tape import demand_active, fast, session, tile

pytestmark = pytest.mark.timeout(300)

EVIL = "\"'><img src=x onerror=window.__xss=1>{{7*7}}"  # no slash: it names files too
SCRIPT = "</title></script><script>window.__xss=1</script><svg onload=window.__xss=1>"
PAGES = 30  # so many pages at least showed it
STATEMENTS, DESKTOP = "5d" * 16, "7d" * 16  # sessions that were recorded before
FEED = (
    (Kind.REQUEST, {"name": EVIL, "side": "client"}),
    (Kind.STATEMENT, {"event": "statement", "n": 1, "how": "execute", "text": f"select $1 from {EVIL}{SCRIPT}",
                      "parameters": [{"kind": EVIL, "size": 4, "value": EVIL + SCRIPT}]}),
    (Kind.STATEMENT, {"event": "result", "n": 1, "us": 412, "tag": EVIL, "rows": 1, "transaction": "idle"}),
    (Kind.STATEMENT, {"event": "statement", "n": 2, "how": "simple", "text": f"use {SCRIPT}{EVIL}"}),
    (Kind.STATEMENT, {"event": "result", "n": 2, "us": 90, "error":
                      {"severity": "ERROR", "code": "42P01", "message": f'database "{EVIL}{SCRIPT}" does not exist'}}),
    (Kind.FINDING, {"code": "rule-x", "severity": "high", "text": EVIL + SCRIPT}),
    (Kind.STATEMENT, {"event": "statement", "n": 3, "how": "simple", "text": EVIL, "refused": EVIL}),
)  # fmt: skip
PASTED = (
    (Kind.REQUEST, session(64, 48).body | {"channels": {"1004": EVIL}}),
    (Kind.PDU, demand_active(64, 48).body),
    (Kind.PDU, fast(build_bitmaps([tile(0, 0, 4, 4, bytes((0, 0, 255, 0)) * 16)])).body),
    (Kind.CLIPBOARD, {"direction": "to target", "format": EVIL, "size": 5, "text": EVIL + SCRIPT}),
    (Kind.TRANSFER, {"protocol": "drive", "operation": "put", "path": EVIL, "to": SCRIPT, "size": 3}),
    (Kind.FINDING, {"code": "x", "severity": "high", "text": EVIL + SCRIPT}),
)
WATCH = """
window.__violations = [];
document.addEventListener("securitypolicyviolation", event => window.__violations.push(event.blockedURI + " " + event.violatedDirective));
"""


@pytest.fixture(scope="module")
def console_lab(shared) -> Iterator[ConsoleLab]:
    """A console; who has the evil name may do everything in it."""
    made = make_lab(shared / "canary-lab")
    with made.sshd, chromium() as browser:
        furnish(made, description=EVIL)
        made.proxyd.user(EVIL, keys=[made.key.line])
        console = Console(made.proxyd, shared / "canary")
        console.person(EVIL, "PAM Administrator", factors=["publickey", "password+totp"])
        console.person(ADMIN, "PAM Administrator")
        console.person(OPERATOR, "PAM Operator")
        made.proxyd.write()
        meta = {
            "user": EVIL,
            "user_ip": "192.0.2.7",
            "how": EVIL,
            "target": EVIL,
            "host": EVIL,
            "login": EVIL,
        }
        told = [
            ({"id": STATEMENTS, "protocol": "postgres"} | meta, FEED),
            ({"id": DESKTOP, "protocol": "rdp"} | meta, PASTED),
        ]
        record_before(load(made.proxyd.config), told)
        with made.proxyd, console:
            yield ConsoleLab(console, browser, made)
    RUNNING.remove(made)


@pytest.fixture(scope="module")
def evil(console_lab: ConsoleLab, shared) -> Iterator[dict[str, str]]:
    """Sessions that have ended, one that is live, all of an evil user to an evil target, and all that operators say of them."""
    lab = console_lab.lab
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
        given = say(console_lab, ended, live)
        yield {"ended": ended, "live": live, "statements": STATEMENTS, "desktop": DESKTOP, **given}


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


def say(console_lab: ConsoleLab, ended: str, live: str) -> dict[str, str]:
    """Have operators write it wherever they may; gives an export somebody of that name asked for."""
    proxyd, console = console_lab.lab.proxyd, console_lab.console
    own, other = console.signed_in(EVIL), console.signed_in(ADMIN)
    proxyd.call("hold", session=ended, reason=EVIL)
    proxyd.call("block", session=live, reason=EVIL)
    proxyd.call("message", session=live, text=EVIL)
    asker = console.signed_in(OPERATOR)
    asker.get(f"/sessions/{ended}/request")
    ends = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M")
    words = {"justification": EVIL + SCRIPT, "reason": EVIL, "code": EVIL, "ends": ends}
    reloaded(console_lab, approval=True)
    for _ in range(2):
        assert asker.post(f"/sessions/{ended}/request", words).status == 303
    (first, _) = proxyd.call("requests")["requests"]
    own.get("/requests")
    post(own, f"/requests/{first['id']}/deny", comment=EVIL + SCRIPT)
    reloaded(console_lab)
    for one in (ended, STATEMENTS, DESKTOP):
        proxyd.call("set-auditors", session=one, people=[EVIL, ADMIN])
        own.get(f"/sessions/{one}")
        post(own, f"/sessions/{one}/comments", text=EVIL + SCRIPT, moment="0:00")
        other.get(f"/sessions/{one}")
        post(other, f"/sessions/{one}/review", text=SCRIPT + EVIL)
    own.get(f"/sessions/{STATEMENTS}/video")
    return {"export": post(own, f"/sessions/{STATEMENTS}/video", form="jsonl").rpartition("/")[2]}


def post(client: Client, path: str, **fields: str) -> str:
    """Send a form, which is taken; gives where it leads."""
    answer = client.post(path, fields)
    assert answer.status == 303, answer.text
    return answer.headers["location"]


def addresses(evil: dict[str, str]) -> list[str]:
    """Every page of the table, for both sessions; what takes words gets the evil ones."""
    found = ["/sign-in"]
    for method, path, _ in TABLE:
        if method != "GET":
            continue
        sessions = [one for name, one in evil.items() if name != "export"] if "{session}" in path else [""]
        named = path.replace("{export}", evil["export"])
        found += [re.sub(r"{[^}]+}", "0", named.replace("{session}", session)) for session in sessions]
    more = ("/search?words=window&source=screen", "/search?words=img", "/search?words=onerror&source=sql",
            "/search?words=onerror&source=transfers", "/?user=%3Cimg%20src%3Dx%20onerror%3Dwindow.__xss%3D1%3E",
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
                shown = ".xterm, .queries li, .desktop canvas"
                painted = f"window.proxyd !== undefined && document.querySelector('{shown}') !== null"
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
        for session in (evil["ended"], STATEMENTS, DESKTOP):
            for address in (f"/sessions/{session}/logs", f"/sessions/{session}"):
                page.goto(console_lab.console.url + address)
                assert EVIL in page.locator("body").inner_text()
        page.goto(f"{console_lab.console.url}/sessions/{STATEMENTS}/logs")
        for text in (f"select $1 from {EVIL}{SCRIPT}", f'database "{EVIL}{SCRIPT}" does not exist'):
            assert page.locator("tbody tr", has_text=text).count() == 1, text
        page.goto(f"{console_lab.console.url}/sessions/{DESKTOP}/logs?kind=transfers")
        for text in (EVIL + SCRIPT, f"{EVIL}  to {SCRIPT}"):
            assert page.locator("tbody tr", has_text=text).count() == 1, text


def test_the_players_log_shows_it_as_text(console_lab, evil):
    with console_lab.page(ADMIN) as page:
        page.add_init_script(WATCH)
        for session, shown in ((STATEMENTS, ".queries li"), (DESKTOP, "[data-said=log] li")):
            page.goto(f"{console_lab.console.url}/sessions/{session}/play")
            page.locator(shown, has_text=EVIL).first.wait_for()
            page.locator("[data-said=comments] li", has_text=EVIL + SCRIPT).first.wait_for()
            page.get_by_label("Search the log").fill("onerror")
            page.locator("[data-said=log] li", has_text=EVIL).first.wait_for()
            assert page.evaluate("window.__violations") == []
            assert page.evaluate("window.__xss") is None
            assert page.locator("img[src=x], svg[onload]").count() == 0


def test_who_has_such_a_name_sees_it_as_text_too(console_lab, evil):
    with console_lab.page(EVIL) as page:
        page.add_init_script(WATCH)
        for address in ("/", "/access", "/exports", f"/exports/{evil['export']}", "/requests", "/sign-ins"):
            page.goto(console_lab.console.url + address)
            assert page.locator("body", has_text=EVIL).count() == 1, address
            assert page.evaluate("window.__violations") == [], address
            assert page.evaluate("window.__xss") is None, address
            assert page.locator("img[src=x], svg[onload]").count() == 0, address
