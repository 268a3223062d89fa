"""The console in a real Chromium: each test is a step of the manual page "How to manage a remote session"."""

from __future__ import annotations

import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import expect

from proxyd.console.assets import Assets
from tests.e2e.console_lab import ADMIN, AUDITOR, NOBODY, OPERATOR, WAIT_MS, ConsoleLab, shot
from tests.e2e.lab import held, ssh
from tests.peers import eventually
from tests.peers.daemon import TARGET, USER

pytestmark = pytest.mark.timeout(300)

expect.set_options(timeout=WAIT_MS)
SHELL = "exec cat"
XSS = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"


def ended_session(lab: ConsoleLab, directory: Path, command: str) -> str:
    """Run a command through the proxy to its end; give the session."""
    before = lab.lab.proxyd.ids()
    with ssh(lab.lab.proxied(directory), command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        client.communicate(timeout=60)
    return lab.lab.proxyd.newest(before)["id"]


@pytest.mark.mission("M1")
def test_remote_sessions_list_and_filters(console_lab, short):
    ended_session(console_lab, short, "true")
    with held(console_lab.lab, short, SHELL), console_lab.page() as page:
        page.goto(console_lab.console.url)
        rows = page.locator("tbody tr")
        first = rows.first
        expect(first).to_contain_text("live")
        expect(first).to_contain_text(USER)
        expect(first).to_contain_text(TARGET)
        shot(page, "remote-sessions")
        page.get_by_label("State").select_option("ended")
        page.get_by_role("button", name="Filter").click()
        expect(rows.first).to_contain_text("ended")
        expect(page.get_by_text("Live Stream")).to_have_count(0)
        page.get_by_label("User").fill("nobody-is-called-so")
        page.get_by_role("button", name="Filter").click()
        expect(page.get_by_text("No such session.")).to_be_visible()


@pytest.mark.mission("M2", "M3")
def test_remote_session_live_stream_and_hold_on(console_lab, short):
    with held(console_lab.lab, short, SHELL) as (client, session), console_lab.page() as page:
        page.goto(console_lab.console.url)
        page.locator(f'a[href="/sessions/{session}/live"]').click()
        console_lab.shown(page, "up")
        client.stdin.write(b"typed while watched\n")
        client.stdin.flush()
        console_lab.shown(page, "typed while watched")
        expect(page.locator("[data-said=viewers]")).to_have_text(ADMIN)
        assert console_lab.lab.proxyd.live()[0]["viewers"] == 1

        page.get_by_label("Reason").fill("what is this?")
        page.get_by_role("button", name="Hold on!").click()
        expect(page.locator("[data-said=blocked]")).to_contain_text(f"Blocked by {ADMIN}")
        console_lab.shown(page, "Session interaction revoked")
        client.stdin.write(b"typed while blocked\n")
        client.stdin.flush()
        expect(page.locator("[data-said=events]")).to_contain_text("of input while blocked")
        assert not any("typed while blocked" in row for row in page.evaluate("proxyd.screen.text()"))
        shot(page, "live-stream-blocked")

        with ssh(
            console_lab.lab.proxied(short), "true", stderr=subprocess.PIPE, stdout=subprocess.PIPE
        ) as refused:
            assert b"prevented to start sessions by ann" in b"".join(refused.communicate(timeout=60))
        page.get_by_role("button", name="Release").click()
        expect(page.get_by_role("button", name="Hold on!")).to_be_visible()
        client.stdin.write(b"typed when released\n")
        client.stdin.flush()
        console_lab.shown(page, "typed when released")

        page.get_by_label("Message to the user").fill("please finish by noon")
        page.get_by_role("button", name="Send").click()
        console_lab.shown(page, "please finish by noon")
    assert {"who": ADMIN, "kind": "live"}.items() <= console_lab.lab.proxyd.call("show", session=session)[
        "views"
    ][0].items()


@pytest.mark.mission("M3")
def test_remote_session_release_from_the_list_of_blocked_users(console_lab, short):
    with held(console_lab.lab, short, SHELL) as (_, session), console_lab.page() as page:
        page.goto(f"{console_lab.console.url}/sessions/{session}")
        page.get_by_role("button", name="Hold on!").click()
        expect(page.get_by_role("status")).to_contain_text("is blocked")
        page.get_by_role("link", name="Users with session block").click()
        row = page.locator("tbody tr", has_text=USER)
        expect(row).to_contain_text(ADMIN)
        shot(page, "users-with-session-block")
        row.get_by_role("button", name="Release").click()
        expect(page.get_by_text("Nobody is blocked.")).to_be_visible()
        assert not console_lab.lab.proxyd.live()[0]["blocked"]


@pytest.mark.mission("M4")
def test_remote_session_drop_a_session(console_lab, short):
    with held(console_lab.lab, short, SHELL) as (client, session), console_lab.page() as page:
        page.goto(console_lab.console.url)
        page.locator(f'a[href="/sessions/{session}/drop"]').click()
        page.get_by_role("link", name="No").click()
        assert console_lab.lab.proxyd.live()[0]["id"] == session
        page.get_by_role("link", name="Drop Session").click()
        shot(page, "drop-session")
        page.get_by_label("Reason").fill("over")
        page.get_by_role("button", name="Yes").click()
        expect(page.get_by_role("heading", name="Interrupt Session")).to_be_visible()
        expect(page.get_by_role("status")).to_contain_text("The session was interrupted")
        shot(page, "interrupt-session")
        assert b"You have been disconnected" in b"".join(client.communicate(timeout=60))
    assert console_lab.lab.proxyd.ended(session)["by"] == ADMIN


@pytest.mark.mission("M5", "M10", "M11")
def test_remote_session_session_logs_and_info(console_lab, short):
    session = ended_session(console_lab, short, f"echo {XSS!r}; exit 3")
    with console_lab.page() as page:
        page.goto(console_lab.console.url)
        page.locator(f'a[href="/sessions/{session}/logs"]').click()
        expect(page.get_by_role("heading", name="Session logs")).to_be_visible()
        expect(page.locator("table")).to_contain_text("onerror=document.title")
        expect(page.locator("table")).to_contain_text("status 3")
        shot(page, "session-logs")
        page.get_by_role("link", name="Events").click()
        expect(page.locator("table")).not_to_contain_text("onerror")
        page.locator(".crumbs a").last.click()
        info = page.locator("section", has=page.get_by_role("heading", name="Session info"))
        for text in (session, "SSH", "127.0.0.1", "root"):
            expect(info).to_contain_text(text)
        expect(page.locator("section", has=page.get_by_role("heading", name="User info"))).to_contain_text(
            USER
        )
        expect(page.get_by_role("heading", name="Vulnerability analysis")).to_be_visible()
        expect(
            page.locator("section", has=page.get_by_role("heading", name="Who saw this session"))
        ).to_contain_text(ADMIN)
        shot(page, "session")
        assert "owned" not in page.title()


@pytest.mark.mission("M7")
def test_remote_session_prevent_purge(console_lab, short):
    session = ended_session(console_lab, short, "true")
    with console_lab.page() as page:
        page.goto(console_lab.console.url)
        page.locator(f'a[href="/sessions/{session}/hold"]').click()
        expect(page.get_by_role("heading", name="Prevent session purge")).to_be_visible()
        page.get_by_role("textbox").fill("case 4711")
        shot(page, "prevent-purge")
        page.get_by_role("button", name="Prevent Purge").click()
        expect(page.get_by_role("status")).to_contain_text("no purge takes it")
        expect(page.locator("main")).to_contain_text("prevented by ann")
        assert console_lab.lab.proxyd.call("show", session=session)["hold"]["reason"] == "case 4711"
        page.get_by_role("link", name="Release hold").click()
        page.get_by_role("button", name="Release").click()
        expect(page.get_by_role("status")).to_contain_text("held no longer")


@pytest.mark.mission("M2")
def test_roles_decide_who_may_do_what(console_lab, short):
    with held(console_lab.lab, short, SHELL) as (_, session):
        with console_lab.page(OPERATOR) as page:
            page.goto(f"{console_lab.console.url}/sessions/{session}/live")
            expect(page.locator("[data-said=end]")).to_contain_text("may not do this")
            assert console_lab.lab.proxyd.live()[0]["viewers"] == 0
        with console_lab.page(AUDITOR) as page:
            page.goto(f"{console_lab.console.url}/sessions/{session}/live")
            console_lab.shown(page, "up")
            page.goto(f"{console_lab.console.url}/sessions/{session}/drop")
            page.get_by_role("button", name="Yes").click()
            expect(page.get_by_role("heading", name="You may not do this")).to_be_visible()
        with console_lab.page(NOBODY) as page:
            page.goto(f"{console_lab.console.url}/sessions/{session}")
            expect(page.get_by_role("heading", name="You may not do this")).to_be_visible()
        assert console_lab.lab.proxyd.live()[0]["id"] == session


def test_pages_work_without_scripts(console_lab, short):
    with (
        held(console_lab.lab, short, SHELL) as (_, session),
        console_lab.page(java_script_enabled=False) as page,
    ):
        page.goto(console_lab.console.url)
        expect(page.locator("tbody tr").first).to_contain_text("UTC")
        page.goto(f"{console_lab.console.url}/sessions/{session}/live")
        page.get_by_role("button", name="Hold on!").click()
        eventually("the session is blocked", lambda: console_lab.lab.proxyd.live()[0]["blocked"])
        page.get_by_role("button", name="Release").click()
        eventually("the session is free", lambda: not console_lab.lab.proxyd.live()[0]["blocked"])


def test_signing_out_ends_a_live_view_elsewhere(console_lab, short):
    with held(console_lab.lab, short, SHELL) as (_, session), console_lab.page(AUDITOR) as page:
        page.goto(f"{console_lab.console.url}/sessions/{session}/live")
        console_lab.shown(page, "up")
        other = page.context.new_page()
        other.goto(console_lab.console.url)
        other.get_by_role("button", name="Sign out").click()
        other.get_by_role("heading", name="proxyd").wait_for()
        expect(page.locator("[data-said=end]")).to_contain_text("signed out")
        del console_lab.states[AUDITOR]
        eventually("nobody watches", lambda: console_lab.lab.proxyd.live()[0]["viewers"] == 0)


@pytest.mark.mission("M6", "M12")
def test_session_video_player_with_heat_map_and_keystroke_log(console_lab, short):
    """Session video - Proxy 2.0: the viewing browser has a heat map on the timeline, and the keystroke log."""
    script = (
        "printf 'first\\r\\n'; sleep 1; printf '\\033[31msecond\\033[0m\\r\\n'; sleep 4; printf 'third\\r\\n'"
    )
    session = ended_session(console_lab, short, script)
    with console_lab.page() as page:
        page.goto(console_lab.console.url)
        row = page.locator("tbody tr", has=page.locator(f'a[href="/sessions/{session}"]')).first
        row.get_by_role("link", name="Video of session").click()
        section = page.locator("section", has=page.get_by_role("heading", name="Session", exact=True))
        expect(section).to_contain_text("KB")
        page.get_by_role("link", name="Video", exact=True).click()
        slider = page.get_by_role("slider", name="Time in the session")
        expect(page.locator("[data-said=status]")).to_have_text("")
        painted = "(() => { const c = document.querySelector('.timeline canvas'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v) })()"
        assert page.evaluate(painted), "the heat map is empty"
        slider.focus()
        slider.press("End")
        assert [row for row in console_lab.shown(page, "third") if row] == ["first", "second", "third"]
        slider.press("Home")
        eventually(
            "back at the beginning",
            lambda: not any("second" in row for row in page.evaluate("proxyd.screen.text()")),
        )
        page.get_by_role("button", name="Play").click()
        console_lab.shown(page, "third")  # idle time is skipped
        expect(page.get_by_role("button", name="Play")).to_be_visible()
        shot(page, "player")
        page.locator(".feed button", has_text="printf").click()
        eventually("the log seeks", lambda: page.evaluate("proxyd.player.at") < 1e6)
        page.get_by_label("Search the log").fill("no such entry")
        expect(page.locator("[data-said=found]")).to_contain_text("0 of")

        page.goto(f"{console_lab.console.url}/sessions/{session}/play?at=2.5")  # a link to a moment
        assert "third" not in "".join(console_lab.shown(page, "second"))
    views = console_lab.lab.proxyd.call("show", session=session)["views"]
    assert {(view["who"], view["kind"]) for view in views} == {(ADMIN, "replay"), (ADMIN, "log")}


@pytest.mark.mission("M13")
def test_session_video_lists_what_was_exported(console_lab, short):
    """Session video, "Video of session": size, time and format of what was made; the file is fetched by proxyctl."""
    session = ended_session(console_lab, short, "echo shown; sleep 1")
    console_lab.lab.proxyd.ctl("export", session, "-o", str(short / "x.cast"))
    with console_lab.page() as page:
        page.goto(f"{console_lab.console.url}/sessions/{session}")
        section = page.locator("section", has=page.get_by_role("heading", name="Video of session"))
        for text in ("ready", "cast", " B", " s"):
            expect(section).to_contain_text(text)


@pytest.mark.mission("M6")
def test_session_video_is_for_those_with_the_permission(console_lab, short):
    session = ended_session(console_lab, short, "echo secret")
    with console_lab.page(OPERATOR) as page:
        page.goto(f"{console_lab.console.url}/sessions/{session}/play")
        expect(page.locator("[data-said=wrong]")).to_contain_text("may not do this")
        answers = page.evaluate(
            "Promise.all(['', '/pieces/0', '/pictures/0', '/motion/0/0/20000'].map((p) => fetch(document.querySelector('.screen').dataset.recording + p).then((r) => r.status)))"
        )
        assert answers == [403, 403, 403, 403]
    assert not console_lab.lab.proxyd.call("show", session=session)["views"]


@pytest.mark.mission("M8")
def test_remote_session_configuring_auditors(console_lab, short):
    session = ended_session(console_lab, short, "true")
    with console_lab.page() as page:
        page.goto(f"{console_lab.console.url}/sessions/{session}")
        page.get_by_role("link", name="Configure Auditors").click()
        expect(page.get_by_role("heading", name="Session auditors settings")).to_be_visible()
        page.get_by_role("button", name="Add").click()
        page.get_by_label("Auditor 1").select_option(AUDITOR)
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_label("Auditor 1")).to_have_value(AUDITOR)
        shot(page, "configure-auditors")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_contain_text(f"Only {AUDITOR} may audit this session")
        page.goto(f"{console_lab.console.url}/sessions/{session}/logs")
        expect(page.get_by_role("alert")).to_contain_text("none of this session's auditors")
    with console_lab.page(AUDITOR) as page:
        page.goto(f"{console_lab.console.url}/sessions/{session}/logs")
        expect(page.get_by_role("heading", name="Session logs")).to_be_visible()


@pytest.fixture
def approval(console_lab):
    """Approval for session videos is on during the test, in daemon and console."""

    def switch(review: dict[str, object]) -> None:
        console_lab.lab.proxyd.settings["review"] = review
        console_lab.lab.proxyd.write()
        console_lab.lab.proxyd.ctl("reload")
        said = console_lab.console.log().count('"reloaded"')
        console_lab.console.process.popen.send_signal(signal.SIGHUP)
        eventually("the console reloaded", lambda: console_lab.console.log().count('"reloaded"') > said)

    switch({"approval": True, "reasons": ["incident", "audit"], "code": "CHG-[0-9]+"})
    yield
    switch({"approval": False})


@pytest.mark.mission("M9")
@pytest.mark.usefixtures("approval")
def test_request_to_view_a_session_video(console_lab, short):
    """How to request to view a session video, step by step; nobody approves their own, and it ends when it is revoked."""
    session = ended_session(console_lab, short, "echo shown after approval")
    later = (datetime.now(UTC) + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M")
    with console_lab.page(AUDITOR) as page, console_lab.page() as approver:
        page.goto(console_lab.console.url)
        row = page.locator("tbody tr", has=page.locator(f'a[href="/sessions/{session}"]')).first
        row.get_by_role("link", name="Video of session").click()
        page.get_by_role("link", name="Video", exact=True).click()
        expect(page.get_by_role("heading", name="Justification")).to_be_visible()
        page.get_by_label("Justification").fill("ticket <b>12</b>")
        page.get_by_label("Reason").select_option("incident")
        page.get_by_label("Governance Code").fill("wrong")
        page.get_by_label("Access end").fill(later)
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("governance code")
        page.get_by_label("Governance Code").fill("CHG-17")
        shot(page, "justification")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_contain_text("Your request was sent")
        expect(page.get_by_role("button", name="Approve")).to_have_count(0)
        request = console_lab.lab.proxyd.call("requests", session=session)["requests"][0]["id"]
        own = page.evaluate(
            """request => fetch(`/requests/${request}/approve`, {method: 'POST', body: new URLSearchParams(
                {form_token: document.querySelector('[name=form_token]').value})}).then((r) => r.status)""",
            request,
        )
        assert own in (403, 409)
        assert page.evaluate("s => fetch(`/sessions/${s}/recording`).then((r) => r.status)", session) == 403

        approver.goto(f"{console_lab.console.url}/requests")
        expect(approver.locator("tbody")).to_contain_text("ticket <b>12</b>")
        shot(approver, "requests")
        approver.get_by_role("button", name="Approve").click()
        expect(approver.get_by_role("status")).to_contain_text("approved")

        page.goto(f"{console_lab.console.url}/requests")
        page.get_by_role("link", name="View").click()
        slider = page.get_by_role("slider", name="Time in the session")
        expect(page.locator("[data-said=status]")).to_have_text("")
        slider.press("End")
        console_lab.shown(page, "shown after approval")

        approver.goto(f"{console_lab.console.url}/sessions/{session}/play")  # approval is for one person
        expect(approver.get_by_role("heading", name="Justification")).to_be_visible()
        approver.goto(f"{console_lab.console.url}/requests")
        approver.get_by_role("button", name="Revoke").click()
        expect(approver.get_by_role("status")).to_contain_text("revoked")
        assert (
            page.evaluate("s => fetch(`/sessions/${s}/recording/pieces/0`).then((r) => r.status)", session)
            == 403
        )


@pytest.mark.slow
def test_pages_are_for_everybody(console_lab, short):
    """axe-core finds nothing on any page, in light or dark: names, roles, contrast, order."""
    session = ended_session(console_lab, short, "echo shown")
    pages = [
        f"/sessions/{session}{part}"
        for part in ("", "/logs", "/play", "/video", "/hold", "/auditors", "/request", "/drop")
    ]
    lists = ["/", "/blocked", "/requests", "/exports", "/search?text=x", "/no-such-page"]
    found = []
    for scheme, paths in (("light", [*lists, *pages]), ("dark", ["/", *pages[:3]])):
        with console_lab.page(color_scheme=scheme) as page:
            for path in paths:
                page.goto(console_lab.console.url + path)
                page.evaluate(AXE_SCRIPT + "; null")
                wrong = page.evaluate(
                    "axe.run().then((done) => done.violations.map((one) => [one.id, one.nodes[0].html]))"
                )
                found += [(scheme, path, *one) for one in wrong]
    assert not found


def test_the_player_is_light(console_lab):
    """Page weight of the player, packed as browsers get it: half a megabyte at most."""
    assets = Assets()
    loaded = [
        name
        for name in assets._named
        if name.startswith(("chunk-", "player.", "console.", "terminal.", "mark."))
    ]
    assert sum(len(assets._named[name].packed) for name in loaded) <= 500_000
    assert {"player.js", "console.css", "terminal.css"} <= set(loaded)


def test_a_killed_console_ends_no_session(console_lab, short):
    """Must be the last here: who was signed in signs in anew."""
    with held(console_lab.lab, short, SHELL) as (client, session), console_lab.page() as page:
        page.goto(f"{console_lab.console.url}/sessions/{session}/live")
        console_lab.shown(page, "up")
        console_lab.console.process.kill()
        client.stdin.write(b"nobody noticed\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"nobody noticed\n"
        eventually("nobody watches", lambda: console_lab.lab.proxyd.live()[0]["viewers"] == 0)
        console_lab.console.start()
        console_lab.states.clear()
        assert page.goto(console_lab.console.url).url.endswith("/sign-in?next=%2F")
        assert console_lab.lab.proxyd.live()[0]["id"] == session
