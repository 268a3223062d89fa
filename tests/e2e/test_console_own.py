"""My access in a real Chromium: what it says to type is typed into real clients, and what is set up there logs in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Locator, Page, expect

from proxyd.recorder.ledger import LedgerReader
from tests.e2e.commandlines import TYPED_S, Typed, run, type_into
from tests.e2e.console_lab import WAIT_MS, ConsoleLab, chromium, shot
from tests.e2e.desktops import account, drawn, login_screen
from tests.e2e.lab import RUNNING, furnish, make_lab, ssh
from tests.peers import Key, eventually, mariadb, postgres
from tests.peers.console import HASH, PASSWORD, Console, Person
from tests.peers.daemon import TARGET
from tests.peers.endpoint import HOST
from tests.peers.mailbox import Mailbox, mail_server
from tests.peers.process import free_port
from tests.peers.rdp import freerdp, shadow
from tests.peers.rdp.freerdp import Opened
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.x11 import Xvfb, same

pytestmark = pytest.mark.timeout(300)

expect.set_options(timeout=WAIT_MS)
DORA, EVE = "dora", "eve"  # one has everything, the other sets it up herself
PEERS = {"postgresql": postgres, "mariadb": mariadb, "xfreerdp": freerdp, "freerdp-shadow-cli": shadow}


@dataclass
class Own(ConsoleLab):
    """The console's lab, and where its mails go."""

    box: Mailbox

    def commands(self, page: Page, target: str) -> list[str]:
        """What the page says to type for a target."""
        return page.locator("details.target", has_text=target).locator("code.command").all_text_contents()

    def ledger(self, kind: str) -> list[dict[str, object]]:
        """What the ledger holds of a kind."""
        path = self.lab.proxyd.home / "state" / "ledger"
        return [dict(entry.fields) for entry in LedgerReader(path).entries(kind)]


@pytest.fixture(scope="module")
def own(shared: Path) -> Iterator[Own]:
    """An SSH server, listeners of every kind, a console, two people."""
    directory = shared / "own"
    made, box = make_lab(directory / "lab"), Mailbox()
    with ExitStack() as stack:
        stack.enter_context(made.sshd)
        furnish(made)
        settings, keys = made.proxyd.settings, made.proxyd.home / "keys"
        for protocol in ("postgres", "mysql", "rdp"):
            tls = {"certificate": str(keys / "tls.crt"), "key": str(keys / "tls.key")}
            settings["listen"][protocol] = {"address": f"{HOST}:{free_port()}", **tls}
        mysql = settings["listen"]["mysql"]
        mysql["public"] = mysql["address"].replace(HOST, "localhost")
        address = stack.enter_context(mail_server(box, None, None))
        settings["notify"] = {"mail": {"server": address, "sender": "proxyd@example.org", "tls": "off"}}
        console = Console(made.proxyd, directory / "console")
        made.proxyd.user(DORA, keys=[made.key.line])
        console.person(DORA, factors=["publickey", "password", "password+totp"])
        made.proxyd.user(EVE, password=HASH, factors=["publickey", "password+totp"], email="eve@example.org")
        settings["control"]["operators"][0]["user"] = DORA
        stack.enter_context(made.proxyd)
        stack.enter_context(console)
        browser = stack.enter_context(chromium())
        yield Own(lab=made, console=console, browser=browser, box=box)
        assert "Traceback" not in made.proxyd.log() + console.log()
    RUNNING.remove(made)


@pytest.fixture(scope="module")
def desktop(own: Own, shared: Path) -> Iterator[Shadow]:
    """A desktop, and both kinds of databases, as targets."""
    missing = [name for name, peer in PEERS.items() if not peer.INSTALLED]
    if missing:
        pytest.skip(f"{missing} ARE MISSING: nothing shows that the page's commands for them work")
    directory = shared / "own"
    for made in (shared, directory):
        made.chmod(0o755)  # the servers are users of their own
    with (
        postgres.Postgres(directory / "pg") as database,
        mariadb.MariaDb(directory / "my") as maria,
        Shadow(directory / "desk", Security.NLA) as desk,
    ):
        secret = directory / "maria.password"
        secret.write_text(mariadb.ACCOUNTS["app"])
        secret.chmod(0o600)
        targets = own.lab.proxyd.settings["targets"]
        targets["pg1"] = database.target("app", directory=directory)
        targets["db1"] = {
            "address": f"localhost:{maria.port}", "protocol": "mysql", "tls_ca": str(maria.authority.ca),
            "accounts": {"app": {"password": f"file:{secret}"}}}  # fmt: skip
        targets["desk1"] = account(directory, "desk1", desk)
        own.lab.proxyd.write()
        own.lab.proxyd.ctl("reload")
        yield desk


def everybody_can_use_it(page: Page) -> None:
    """axe finds nothing."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run()")["violations"]
    assert not found, [(one["id"], one["nodes"][0]["html"]) for one in found]


def opened(page: Page, target: str) -> Locator:
    """What the page has of a target, unfolded: where there is one only, it is already."""
    row = page.locator("details.target", has_text=target)
    if row.get_attribute("open") is None:
        row.locator("summary").click()
    return row


def workplace(own: Own, directory: Path) -> dict[str, str]:
    """A user's machine: OpenSSH with a home of its own, everything else as it is installed."""
    bin_, home = directory / "bin", directory / "home"
    for made in (bin_, home / ".ssh"):
        made.mkdir(parents=True)
    config = directory / "config"
    config.write_text(
        f"UserKnownHostsFile {home}/.ssh/known_hosts\nGlobalKnownHostsFile /dev/null\n"
        f"IdentityFile {own.lab.key.path}\nIdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking yes\n"
    )
    for program in ("ssh", "scp", "sftp"):
        shim = bin_ / program
        shim.write_text(f'#!/bin/sh\nexec /usr/bin/{program} -F {config} "$@"\n')
        shim.chmod(0o755)
    return {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "HOME": str(home)}


@pytest.mark.mission("M17")
def test_the_ssh_commands_on_the_page_work_as_they_are_shown(own: Own, short: Path) -> None:
    env = workplace(own, short)
    with own.page(DORA) as page:
        page.goto(f"{own.console.url}/access")
        expect(page.get_by_role("heading", name="What you may reach")).to_be_visible()
        shot(page, "my-access")
        everybody_can_use_it(page)
        shown = own.commands(page, TARGET)
        trust = page.locator("section", has_text="How to know this proxy: SSH").locator("code.command")
        run(trust.text_content() or "", short, env)
        fingerprint = subprocess.run(
            ["ssh-keygen", "-lf", f"{own.lab.proxyd.host_key.path}.pub"], capture_output=True, text=True, check=True)  # fmt: skip
        expect(page.locator("main")).to_contain_text(fingerprint.stdout.split()[1])
    by_program = {command.split()[0]: [] for command in shown}
    for command in shown:
        by_program[command.split()[0]].append(command)
    shell, once, jump = by_program["ssh"]
    assert run(shell, short, env, stdin="echo $((41+1)) here\n").endswith("42 here\n")
    assert "Linux" in run(once, short, env)
    assert run(jump, short, env, stdin="echo $((41+2)) here\n").endswith("43 here\n")
    (short / "report.pdf").write_bytes(b"the report")
    there, back = by_program["scp"]
    run(there, short, env)
    (short / "report.pdf").unlink()
    run(back, short, env)
    assert (short / "report.pdf").read_bytes() == b"the report"
    run(by_program["sftp"][0], short, env, stdin="get report.pdf again.pdf\n")
    assert (short / "again.pdf").read_bytes() == b"the report"
    own.lab.proxyd.quiet()


@pytest.mark.slow
@pytest.mark.usefixtures("desktop")
def test_the_database_commands_on_the_page_work_as_they_are_shown(own: Own, short: Path) -> None:
    env = workplace(own, short)
    with own.page(DORA) as page:
        page.goto(f"{own.console.url}/access")
        shown = {target: own.commands(page, target) for target in ("pg1", "db1")}
        for protocol in ("postgres", "mysql"):
            with page.expect_download() as saved:
                page.get_by_role("link", name=f"Download proxyd-{protocol}.pem").click()
            saved.value.save_as(short / saved.value.suggested_filename)
    psql, uri = shown["pg1"]
    question = "select 'answer ' || (41 + 1);"
    type_into(psql, short, env, "postgres=#", question, "answer 42")
    type_into(f"psql '{uri}'", short, env, "postgres=#", question, "answer 42")
    client, _mysql = shown["db1"]
    question = "select concat('answer ', 41 + 1);"
    type_into(client, short, env, "[(none)]>", question, "answer 42")
    own.lab.proxyd.quiet()


@pytest.mark.slow
def test_the_desktop_command_on_the_page_works_and_a_token_opens_one_session(
    own: Own, desktop: Shadow, short: Path
) -> None:
    proxyd = own.lab.proxyd
    with own.page(DORA) as page:
        page.goto(f"{own.console.url}/access")
        row = opened(page, "desk1")
        row.get_by_label("Your password").fill(PASSWORD)
        row.get_by_label("One-time code").fill(own.console.people[DORA].code())
        with page.expect_download() as saved:
            row.get_by_role("button", name="Get a file with a token").click()
        saved.value.save_as(short / "desk1.rdp")
        (command,) = own.commands(page, "desk1")
    fingerprint = command.rpartition(":sha256:")[2]
    with Opened(short / "first", short / "desk1.rdp", fingerprint=fingerprint) as client:
        same(client.screen, desktop.screen)
        session = proxyd.the_live_session()
        assert (session["user"], session["how"]) == (DORA, f"token issued by {DORA}")
        with Opened(short / "second", short / "desk1.rdp", fingerprint=fingerprint) as other:
            assert other.ended() != 0
            assert "ERRCONNECT_LOGON_FAILURE" in other.words, other.said
    proxyd.ended(session["id"])
    assert (
        own.ledger("token")[-1].items()
        >= {"user": DORA, "target": "desk1", "once": True, "who": DORA}.items()
    )
    token = (short / "desk1.rdp").read_text("utf-16").split("password:s:")[1].split("\r\n")[0]
    assert token not in proxyd.log() + own.console.log()
    env = workplace(own, short)
    with Xvfb(short / "x") as display, Typed(command, short, {**env, **display.env}):
        asked = drawn(login_screen(f"{DORA}%svc%desk1"))
        eventually("the login is asked for", lambda: display.picture() == asked, within_s=TYPED_S)
        display.enter(PASSWORD)
        session = proxyd.the_live_session()
        assert (session["user"], session["target"], session["how"]) == (DORA, "desk1", "password")
        same(display, desktop.screen)
    proxyd.ended(session["id"])


def test_who_has_no_second_factor_sets_one_up_and_adds_a_key_that_logs_in_at_once(
    own: Own, short: Path
) -> None:
    proxyd, key = own.lab.proxyd, Key.generate(short / "eves")
    eve = own.console.people[EVE] = Person(EVE)
    given = proxyd.ctl("users", "recovery-code", EVE).data["code"]
    context = own.browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    eve_codes = [given]
    page.goto(own.console.url)
    page.get_by_label("User name").fill(EVE)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("One-time code").fill(eve_codes.pop())
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("status")).to_have_text("You may not list sessions. This is what is your own.")

    device = page.locator("section", has=page.get_by_role("heading", name="Authenticator"))
    device.get_by_label("Your password").fill("not hers")
    device.get_by_role("button", name="Set one up").click()
    expect(page.get_by_role("alert")).to_have_text("That is not your password.")
    device.get_by_label("Your password").fill(PASSWORD)
    device.get_by_role("button", name="Set one up").click()
    expect(page.get_by_role("img", name="QR code")).to_be_visible()
    shot(page, "authenticator")
    everybody_can_use_it(page)
    eve.secret = (page.locator("code.command").text_content() or "").replace(" ", "")
    page.get_by_label("The code it shows now").fill(eve.code())
    page.get_by_role("button", name="Confirm").click()
    eve_codes = (page.locator(".codes").text_content() or "").split()
    assert len(eve_codes) == 10
    shot(page, "recovery-codes")
    everybody_can_use_it(page)
    page.get_by_role("link", name="I have kept them").click()

    endpoint = proxyd.endpoint(key, short, user=EVE)
    assert not logs_in(endpoint)
    keys = page.locator("section", has=page.get_by_role("heading", name="SSH keys"))
    keys.get_by_label("Public key").fill(key.line)
    keys.get_by_label("Your password").fill(PASSWORD)
    keys.get_by_label("One-time code").fill(eve.code())
    keys.get_by_role("button", name="Add this key").click()
    expect(page.get_by_role("status")).to_contain_text("was added")
    assert logs_in(endpoint)
    page.reload()
    row = keys.locator("tbody tr")
    expect(row.locator("time")).to_have_count(2)  # when it was added, and when it logged in last
    shot(page, "ssh-keys")
    row.locator("summary").click()
    row.get_by_label("Your password").fill(PASSWORD)
    row.get_by_label("One-time code").fill(eve_codes.pop())
    row.get_by_role("button", name="Remove this key").click()
    expect(page.get_by_role("status")).to_contain_text("was removed")
    assert not logs_in(endpoint)
    context.close()

    deeds = [entry["action"] for entry in own.ledger("credential") if entry["user"] == EVE]
    assert deeds == [
        "recovery-given",
        "recovery-used",
        "totp-set",
        "key-added",
        "recovery-used",
        "key-removed",
    ]
    eventually("a mail for every change", lambda: len(own.box.mails) == len(deeds), within_s=30)
    assert {tuple(to) for to, _, _ in own.box.mails} == {("eve@example.org",)}
    mails = "".join(str(mail) for _, mail, _ in own.box.mails)
    for secret in (eve.secret, PASSWORD, given, *eve_codes):
        assert secret not in mails + proxyd.log() + own.console.log()


def logs_in(endpoint: object) -> bool:
    """Whether this key opens a session now."""
    with ssh(endpoint, "true", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        client.communicate(timeout=60)
    return client.returncode == 0


def test_what_is_shown_can_be_copied_with_a_button_and_without_scripts(own: Own) -> None:
    with own.page(DORA, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{own.console.url}/access")
        row = opened(page, TARGET)
        row.get_by_role("button", name="Copy").first.click()
        expect(row.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == own.commands(page, TARGET)[0]
    with own.page(DORA, java_script_enabled=False) as page:
        page.goto(f"{own.console.url}/access")
        row = opened(page, TARGET)
        expect(row.locator("code.command").first).to_be_visible()
        expect(page.get_by_role("button", name="Copy")).to_have_count(0)


def test_a_code_used_for_a_session_does_not_sign_in_and_the_other_way_round(own: Own) -> None:
    person = own.console.people[DORA]
    code = person.code()
    client = own.console.client()
    assert client.sign_in(person, code=code).status == 303
    again = {"password": PASSWORD, "code": code}
    assert client.get("/access").status == 200
    answer = client.post("/access/recovery", again)
    assert answer.status == 403
    assert "That code is not good" in answer.text
    assert own.console.client().sign_in(person, code=code).status == 403


def test_proxyctl_own_does_what_the_page_does(own: Own, short: Path) -> None:
    ctl, key = own.lab.proxyd.ctl, Key.generate(short / "new")
    with own.page(DORA) as page:
        page.goto(f"{own.console.url}/access")
        shown = own.commands(page, TARGET)
    rows = ctl("own", "access").data["targets"]
    assert [way["command"] for row in rows for way in row["ways"] if row["target"] == TARGET] == shown
    refused = ctl("own", "recovery-codes", stdin="wrong\n000000\n", check=False)
    assert (refused.code, "that is not your password" in refused.err + refused.out) == (1, True)
    proved = f"{PASSWORD}\n{own.console.people[DORA].code()}\n"
    codes = ctl("own", "recovery-codes", stdin=proved).data["codes"]
    public = f"{key.path}.pub"
    added = ctl("own", "add-key", public, stdin=f"{PASSWORD}\n{codes[0]}\n").data["fingerprint"]
    assert logs_in(own.lab.proxyd.endpoint(key, short, user=DORA))
    assert [row["own"] for row in ctl("own", "keys").data["keys"] if row["fingerprint"] == added] == [True]
    again = ctl("own", "remove-key", added, stdin=f"{PASSWORD}\n{codes[0]}\n", check=False)
    assert again.code == 1
    ctl("own", "remove-key", added, stdin=f"{PASSWORD}\n{codes[1]}\n")
    assert not logs_in(own.lab.proxyd.endpoint(key, short, user=DORA))
    table = own.lab.proxyd.run_ctl("own", "access").out
    assert f"{TARGET} (ssh) as root" in table
    assert shown[0] in table
