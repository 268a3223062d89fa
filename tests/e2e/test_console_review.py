"""The console where sessions are reviewed: statements as they happen, comments at moments, marks; when things were."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from proxyd.access import hash_password
from proxyd.recorder.ledger import Entry, LedgerReader
from proxyd.verifiers import scram
from tests.e2e.console_lab import (
    ADMIN,
    AUDITOR,
    NOBODY,
    OPERATOR,
    WAIT_MS,
    ConsoleLab,
    consoled,
    shot,
)
from tests.e2e.console_taking import ask, take
from tests.e2e.databases import PASSWORD, listener
from tests.e2e.lab import RUNNING, furnish, held, make_lab, ssh
from tests.peers import eventually
from tests.peers.daemon import TARGET, USER
from tests.peers.endpoint import HOST
from tests.peers.mariadb import ACCOUNTS, DATABASE, Authority, MariaDb
from tests.peers.postgres import BIN, Postgres
from tests.peers.process import free_port

pytestmark = pytest.mark.timeout(300)

expect.set_options(timeout=WAIT_MS)
XSS = "<img src=x onerror=document.title='owned'>"
FLAGGED = "secret-project"
ROWS = "ab" * 20  # what a query answers: in no page


@pytest.fixture(scope="module")
def databases(shared: Path) -> Iterator[ConsoleLab]:
    """A console before an SSH server, PostgreSQL and MariaDB; a rule flags a word."""
    directory = shared / "review"
    made = make_lab(directory / "lab")
    directory.chmod(0o755)
    with made.sshd, Postgres(directory / "pg") as postgres, MariaDb(directory / "maria") as maria:
        furnish(made)
        front, proxyd = Authority(directory / "front"), made.proxyd
        secret = directory / "app.mariadb"
        secret.write_text(ACCOUNTS["app"])
        secret.chmod(0o600)
        proxyd.settings["listen"] |= {
            "postgres": listener(front, free_port()),
            "mysql": listener(front, free_port()),
        }
        proxyd.settings["targets"] |= {
            "pg1": postgres.target("app", directory=directory),
            "db1": {"address": f"localhost:{maria.port}", "protocol": "mysql", "tls_ca": str(maria.authority.ca),
                    "accounts": {"app": {"password": f"file:{secret}"}}},
        }  # fmt: skip
        proxyd.settings["rules"] = [
            {"name": "projects", "action": "flag", "pattern": FLAGGED, "severity": "high"}
        ]
        proxyd.user(USER, keys=[made.key.line], password=hash_password(PASSWORD), scram=scram(PASSWORD))
        with consoled(made, shared / "review-console") as lab:
            yield lab
    RUNNING.remove(made)


def ended_session(lab: ConsoleLab, directory: Path, command: str) -> str:
    before = lab.lab.proxyd.ids()
    with ssh(lab.lab.proxied(directory), command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        client.communicate(timeout=60)
    session = str(lab.lab.proxyd.newest(before)["id"])
    lab.lab.proxyd.ended(session)
    return session


# ---------------------------------------------------------------- statements as they happen


def argv_of(lab: ConsoleLab, protocol: str) -> list[str]:
    front = Path(lab.lab.proxyd.settings["listen"][protocol]["certificate"]).parent / "ca.pem"
    port = lab.lab.proxyd.settings["listen"][protocol]["address"].rpartition(":")[2]
    if protocol == "postgres":
        assert BIN is not None
        way = f"host={HOST} port={port} user={USER}+app+pg1 password={PASSWORD} dbname={DATABASE}"
        return [str(BIN / "psql"), "-Xq", f"{way} sslmode=verify-full sslrootcert={front}"]
    way = ["--protocol=TCP", "-hlocalhost", f"-P{port}", f"-u{USER}+app+db1", f"-p{PASSWORD}"]
    return [
        "mariadb",
        "--no-defaults",
        *way,
        f"--ssl-ca={front}",
        "--ssl-verify-server-cert",
        "-f",
        "-n",
        DATABASE,
    ]


@contextmanager
def querying(lab: ConsoleLab, protocol: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A database client that reads statements from a pipe, and its session."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(argv_of(lab, protocol), env=os.environ | {"LC_ALL": "C.UTF-8"}, **pipes) as client:
        try:
            session = lab.lab.proxyd.the_live_session()["id"]
            yield client, session
        finally:
            client.kill()
    lab.lab.proxyd.ended(session)


def say(client: subprocess.Popen[bytes], statement: str) -> None:
    assert client.stdin
    client.stdin.write(f"{statement};\n".encode())
    client.stdin.flush()


@pytest.mark.mission("M2", "M3", "M4", "M14")
@pytest.mark.parametrize("protocol", ["postgres", "mysql"])
def test_session_video_of_a_database_session_live(databases: ConsoleLab, protocol: str, short: Path) -> None:
    """Live Stream and Session video: each statement with its outcome, no row of a result; hold on, release, drop; csv."""
    with querying(databases, protocol) as (client, session), databases.page() as page:
        page.goto(databases.console.url)
        page.locator(f'a[href="/sessions/{session}/live"]').click()
        expect(page.locator("[data-said=status]")).to_have_text("watching")
        statements = page.locator(".queries li")
        say(client, "create table seen (a text)")
        say(client, "insert into seen values ('one'), ('two')")
        expect(statements.filter(has_text="insert into seen").locator(".result")).to_contain_text("2 rows")
        say(client, "select repeat('ab', 20)")
        expect(statements.filter(has_text="repeat").locator(".result")).to_contain_text("1 row")
        say(client, "select * from no_such_table")
        expect(statements.filter(has_text="no_such_table").locator(".error")).to_contain_text("no_such_table")
        say(client, f"select '{XSS.replace(chr(39), chr(39) * 2)}'")
        expect(statements.filter(has_text="<img src=x")).to_have_count(1)

        page.get_by_label("Reason").fill("wait")
        page.get_by_role("button", name="Hold on!").click()
        expect(page.locator("[data-said=blocked]")).to_contain_text(f"Blocked by {ADMIN}")
        say(client, "select 4711")
        expect(statements.filter(has_text="4711").locator(".error")).to_contain_text("revoked")
        shot(page, f"live-statements-{protocol}")
        page.get_by_role("button", name="Release").click()
        expect(page.get_by_role("button", name="Hold on!")).to_be_visible()
        say(client, "select 4712")
        expect(statements.filter(has_text="4712").locator(".result")).to_contain_text("1 row")
        assert ROWS not in page.content()
        assert "owned" not in page.title()

        page.get_by_role("link", name="Drop Session").click()
        page.get_by_role("button", name="Yes").click()
        expect(page.get_by_role("status")).to_contain_text("The session was interrupted")
        say(client, "select 4713")
        output, _ = client.communicate(timeout=60)
        assert b"You have been disconnected" in output, output
        databases.lab.proxyd.ended(session)
        page.goto(f"{databases.console.url}/sessions/{session}/play")
        expect(page.locator(".queries li").filter(has_text="no_such_table").locator(".error")).to_be_visible()
        page.goto(f"{databases.console.url}/sessions/{session}/logs?kind=statements")
        row = page.locator("tbody tr", has_text="insert into seen")
        expect(row.locator(".badge")).to_have_text("ok")
        expect(row.locator("td.num").last).to_have_text("2")
        assert ROWS not in page.content()
        shot(page, f"session-logs-{protocol}")
        exported_as_a_table(databases, page, session, short)


def exported_as_a_table(databases: ConsoleLab, page: Page, session: str, directory: Path) -> None:
    """Session video: what can be made of it for download are its statements, and no film."""
    page.goto(f"{databases.console.url}/sessions/{session}/video")
    forms = page.locator("select[name=form] option")
    assert [one.get_attribute("value") for one in forms.all()] == ["jsonl", "csv"]
    expect(page.locator("select")).to_have_count(1)
    ask(page, databases.console, session, "csv")
    text = take(page, databases.lab.proxyd, directory).read_text()
    told = {row["statement"].rstrip(";"): row["status"] for row in csv.DictReader(text.splitlines())}
    assert (told["insert into seen values ('one'), ('two')"], told["select * from no_such_table"]) == (
        "ok",
        "error",
    )
    assert ROWS not in text


# ---------------------------------------------------------------- comments and marks


def rows_of(page: Page, session: str) -> int:
    return page.locator(f'tbody a[href="/sessions/{session}"]').count()


@pytest.mark.mission("M12")
def test_comments_are_pinned_to_moments(databases: ConsoleLab, short: Path) -> None:
    session = ended_session(databases, short, "echo first; sleep 1; echo second; sleep 1.5; echo third")
    with databases.page() as page:
        page.goto(f"{databases.console.url}/sessions/{session}/play?at=1.4")
        databases.shown(page, "second")
        expect(page.locator("[data-said=said]")).to_have_text("Nobody has said anything yet.")
        page.get_by_role("textbox", name="Comment").fill(f"look here {XSS}")
        expect(page.get_by_label("at", exact=True)).to_have_value("0:01.4")
        page.get_by_role("button", name="Add comment").click()
        expect(page.locator("[data-said=comments]")).to_contain_text(f"{ADMIN} look here {XSS}")
        pin = page.locator(".pin")
        expect(pin).to_have_attribute("title", f"0:01 {ADMIN}: look here {XSS}")
        page.get_by_role("slider", name="Time in the session").press("End")
        databases.shown(page, "third")
        pin.click()
        eventually("the pin seeks", lambda: page.evaluate("proxyd.player.at") == 1_400_000)
        databases.shown(page, "second")
        page.get_by_role("textbox", name="Comment").fill("of all of it")
        page.get_by_label("at", exact=True).fill("9:59")
        page.get_by_role("button", name="Add comment").click()
        expect(page.locator("[data-said=said]")).to_contain_text("no such moment")
        page.get_by_label("at", exact=True).fill("")
        page.get_by_role("button", name="Add comment").click()
        expect(page.locator("[data-said=comments] li")).to_have_count(2)
        expect(pin).to_have_count(1)
        shot(page, "player-comments")
        assert "owned" not in page.title()

        page.goto(f"{databases.console.url}/sessions/{session}")
        said = page.locator("section", has=page.get_by_role("heading", name="Review", exact=True))
        expect(said).to_contain_text(XSS)
        said.get_by_label("Comment").fill("from the page")
        said.get_by_label("At 1:23").fill("soon")
        said.get_by_role("button", name="Add comment").click()
        expect(page.get_by_role("alert")).to_contain_text("no moment")
        page.go_back()
        said.get_by_label("Comment").fill("from the page")
        said.get_by_label("At 1:23").fill("0:02")
        said.get_by_role("button", name="Add comment").click()
        expect(said.locator("li")).to_have_count(3)
        said.get_by_role("link", name="at 0:02.000").click()
        expect(page).to_have_url(re.compile(r"/play\?at=2"))
    assert [one.fields["text"] for one in ledger_of(databases, "comment", session)][-1] == "from the page"


def ledger_of(lab: ConsoleLab, kind: str, session: str) -> list[Entry]:
    (path,) = lab.lab.proxyd.home.rglob("ledger")
    return list(LedgerReader(path).entries(kind, session=session))


def test_a_reviewer_marks_a_session_and_the_list_knows(databases: ConsoleLab, short: Path) -> None:
    session = ended_session(databases, short, "true")
    waiting = f"{databases.console.url}/?reviewed=no&user={USER}"
    with databases.page(AUDITOR) as page:
        page.goto(databases.console.url)
        page.get_by_label("Review").select_option("not reviewed")
        page.get_by_role("button", name="Filter").click()
        assert rows_of(page, session)
        page.goto(f"{databases.console.url}/sessions/{session}")
        said = page.locator("section", has=page.get_by_role("heading", name="Review", exact=True))
        expect(said).to_contain_text("not reviewed")
        said.get_by_label("What you found").fill("nothing odd")
        said.get_by_role("button", name="Mark as reviewed").click()
        expect(page.get_by_role("status")).to_contain_text("marked as reviewed")
        expect(said.locator("p").first).to_contain_text(f"reviewed by {AUDITOR}")
        shot(page, "session-reviewed")
        page.goto(waiting)
        assert not rows_of(page, session)
        page.goto(waiting.replace("no", "yes", 1))
        row = page.locator("tbody tr", has=page.locator(f'a[href="/sessions/{session}"]')).first
        expect(row).to_contain_text("reviewed")
    with databases.page(OPERATOR) as page:  # sees that it was, not what was said
        page.goto(f"{databases.console.url}/sessions/{session}")
        said = page.locator("section", has=page.get_by_role("heading", name="Review", exact=True))
        expect(said).to_contain_text(f"reviewed by {AUDITOR}")
        expect(said).to_contain_text("for those who may see it")
        expect(said).not_to_contain_text("nothing odd")
        status = "fetch(location.pathname + '/comments').then((answer) => answer.status)"
        assert page.evaluate(status) == 403
    with databases.page() as page:
        page.goto(f"{databases.console.url}/sessions/{session}")
        page.get_by_role("button", name="Review again").click()
        expect(page.get_by_role("status")).to_contain_text("waits for review again")
        page.goto(waiting)
        assert rows_of(page, session)
    with databases.page(NOBODY) as page:
        page.goto(f"{databases.console.url}/sessions/{session}")
        expect(page.get_by_role("heading", name="You may not do this")).to_be_visible()


@pytest.mark.mission("M11")
def test_session_video_vulnerability_analysis(databases: ConsoleLab, short: Path) -> None:
    """Session video - Proxy 2.0, "Vulnerability analysis": the findings of an ended session, each with its moment."""
    session = ended_session(databases, short, f"echo {FLAGGED}")
    with databases.page(OPERATOR) as page:
        page.goto(f"{databases.console.url}/sessions/{session}")
        found = page.locator("section", has=page.get_by_role("heading", name="Vulnerability analysis"))
        expect(found.locator("li")).to_contain_text(["The rule projects matches this."])
        expect(found.locator(".badge")).to_have_text("high")
        expect(found.get_by_role("link")).to_have_text(re.compile(r"at \d:\d\d\.\d\d\d"))
        info = page.locator("section", has=page.get_by_role("heading", name="Session", exact=True))
        expect(info).to_contain_text("1 session")  # the channels
        shot(page, "session-findings")


@pytest.mark.mission("M4", "M10")
def test_session_video_has_every_item_of_its_sections(databases: ConsoleLab, short: Path) -> None:
    """Session video: "Session info", "User info", "Session", each with its items; here of a session that was dropped."""
    with held(databases.lab, short) as (_, session):
        databases.lab.proxyd.ctl("drop", session, "--yes")
    row = databases.lab.proxyd.ended(session)
    with databases.page() as page:
        page.goto(f"{databases.console.url}/sessions/{session}")
        items = {
            "Session info": {"ID": session, "Start": "UTC", "End": "UTC", "Type": "SSH", "Host": row["host"],
                             "Username": row["login"], "Error message": "You have been disconnected"},
            "User info": {"User": USER, "User IP": "127.0.0.1"},
            "Session": {"Size": "KB", "Time": " s"},
        }  # fmt: skip
        for section, wanted in items.items():
            card = page.locator("section", has=page.get_by_role("heading", name=section, exact=True))
            for item, text in wanted.items():
                said = card.locator("dt", has_text=re.compile(f"^{item}$")).locator("+ dd")
                expect(said).to_contain_text(text)
        expect(page.get_by_role("link", name="Video", exact=True)).to_be_visible()
        shot(page, "session-video")


# ---------------------------------------------------------------- when things were


def test_times_are_the_viewers_and_say_their_zone(databases: ConsoleLab, short: Path) -> None:
    session = ended_session(databases, short, "true")
    began = datetime.fromtimestamp(databases.lab.proxyd.ended(session)["started_at"], UTC)
    india = began + timedelta(hours=5, minutes=30)
    with databases.page(timezone_id="Asia/Kolkata", locale="en-US") as page:
        page.goto(databases.console.url)
        row = page.locator("tbody tr", has=page.locator(f'a[href="/sessions/{session}"]')).first
        at = row.locator("time")
        expect(at).to_have_text(india.strftime("%Y-%m-%d %H:%M:%S +05:30"))
        expect(at).to_have_attribute("title", began.strftime("%Y-%m-%d %H:%M:%S UTC"))
        expect(page.locator("[data-said=zone]")).to_contain_text("Asia/")
        shot(page, "times")
        page.get_by_label("From (your time)").fill(f"{india:%Y-%m-%dT%H:%M}")
        page.get_by_label("Until (your time)").fill(f"{india + timedelta(minutes=1):%Y-%m-%dT%H:%M}")
        page.get_by_role("button", name="Filter").click()
        expect(page).to_have_url(re.compile(f"since={began:%Y-%m-%dT%H}%3A{began:%M}"))
        expect(page.get_by_label("From (your time)")).to_have_value(f"{india:%Y-%m-%dT%H:%M}")
        assert rows_of(page, session)
    with databases.page(java_script_enabled=False) as page:
        page.goto(databases.console.url)
        row = page.locator("tbody tr", has=page.locator(f'a[href="/sessions/{session}"]')).first
        expect(row.locator("time")).to_have_text(began.strftime("%Y-%m-%d %H:%M:%S UTC"))
        expect(page.get_by_label("From (UTC)")).to_be_visible()
        expect(page.get_by_text("Times are in UTC.")).to_be_visible()


# ---------------------------------------------------------------- How to manage a remote session, Session video


@pytest.mark.mission("M1")
def test_remote_sessions_are_filtered_by_each_field(databases: ConsoleLab, short: Path) -> None:
    session = ended_session(databases, short, "true")
    hit = {"user": USER[:3], "target": TARGET, "protocol": "ssh", "state": "ended", "reviewed": "no",
           "since": "2020-01-01T00:00", "until": "2100-01-01T00:00"}  # fmt: skip
    miss = {"user": "nobody?", "target": "x*", "protocol": "rdp", "state": "live", "reviewed": "yes",
            "since": "2100-01-01T00:00", "until": "2020-01-01T00:00"}  # fmt: skip
    client = databases.console.signed_in(OPERATOR)
    whole = "&".join(f"{name}={value}" for name, value in hit.items())
    assert f'href="/sessions/{session}"' in client.get(f"/?{whole}").text
    for name, value in miss.items():
        page = client.get(f"/?{whole.replace(f'{name}={hit[name]}', f'{name}={value}')}").text
        assert f'href="/sessions/{session}"' not in page, name


@pytest.mark.mission("M1", "M5", "M6")
def test_remote_session_actions_are_those_of_its_state(databases: ConsoleLab, short: Path) -> None:
    """Session Logs and Video of session are there for completed sessions only, Live Stream and Drop Session for live ones."""
    ended = ended_session(databases, short, "true")
    with querying(databases, "postgres") as (_, live), databases.page() as page:
        page.goto(databases.console.url)
        always = ["Prevent Purge", "Configure Auditors"]
        for session, actions in (
            (live, ["Live Stream", "Drop Session"]),
            (ended, ["Session Logs", "Video of session"]),
        ):
            row = page.locator("tbody tr", has=page.locator(f'a[href="/sessions/{session}"]')).first
            assert row.locator(".actions a").all_inner_texts() == [*actions, *always]
        shot(page, "remote-sessions-actions")
        for path in ("logs", "recording"):
            answer = page.request.get(f"{databases.console.url}/sessions/{live}/{path}")
            assert answer.status == 409, path
        page.goto(f"{databases.console.url}/sessions/{live}/play")
        expect(page).to_have_url(re.compile("/live$"))
        page.goto(f"{databases.console.url}/sessions/{ended}/live")
        expect(page).to_have_url(re.compile(f"/sessions/{ended}$"))
