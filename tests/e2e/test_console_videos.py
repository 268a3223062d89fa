"""Videos in the console, in a real Chromium: the steps of the manual page "Session video", a real mail server, and kill -9.

Films of two sessions that were recorded beforehand: making them takes long enough to be looked at, and ended.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import expect

from proxyd.recorder.catalog import Catalog
from proxyd.recorder.exported import manifest_of
from proxyd.recorder.jobs import Jobs, State
from proxyd.recorder.keys import load_signer
from proxyd.recorder.ledger import Ledger
from tests.e2e.console_lab import ADMIN, AUDITOR, NOBODY, WAIT_MS, ConsoleLab, chromium, shot
from tests.e2e.lab import RUNNING, make_lab
from tests.peers import eventually
from tests.peers.console import PASSWORD, Client, Console
from tests.peers.endpoint import HOST
from tests.peers.longtape import listed, typed_and_shown, wound
from tests.peers.mailbox import Mailbox, mail_server

av = pytest.importorskip("av", reason="what makes films is not installed")
pytestmark = [pytest.mark.mission("M13"), pytest.mark.timeout(300)]
expect.set_options(timeout=WAIT_MS)
SESSION = "5e55" + "0" * 28
THERE = "c105" + "0" * 28  # recorded by another node
OTHER = "node2"
SECONDS, SIZE, PIECE = 60, 300_000, 1000  # 300 pictures: some seconds of work
MADE_MS = 120_000  # on a busy machine


@dataclass
class Films:
    """A console with a recorded session, and a mail server."""

    at: ConsoleLab
    mailbox: Mailbox

    def row(self, job: str) -> dict[str, Any]:
        (row,) = self.at.lab.proxyd.call("exports", job=job)["exports"]
        return dict(row)

    def ask(self, client: Client, form: str = "mp4") -> str:
        """Ask for a video as a browser without scripts does; give its number."""
        assert "Yes, generate it" in client.get(f"/sessions/{SESSION}/video").text
        answer = client.post(f"/sessions/{SESSION}/video", {"form": form})
        assert answer.status == 303, answer.text
        return answer.headers["location"].rpartition("/")[2]


def record(lab: Any) -> None:
    """Put a recording where the daemon finds it, as it would have made it; one where it does not yet, of another node."""
    home, settings = lab.proxyd.home, lab.proxyd.settings["recording"]
    signer, to = load_signer(home / settings["signing_key"]), settings["recipients"][0]
    (home / OTHER).mkdir()
    with pytest.MonkeyPatch.context() as patched:
        items = typed_and_shown(SECONDS, SIZE, PIECE)
        reel, manifest = wound(SESSION, items, home / "recordings", signer, to, patched)
        items = typed_and_shown(SECONDS, SIZE // 100, PIECE)
        other, of_other = wound(THERE, items, home / OTHER, signer, to, patched)
    with (
        Catalog(f"sqlite:///{home}/state/catalog.db") as catalog,
        Ledger(home / "state" / "ledger", signer, "node1") as ledger,
    ):
        listed(reel, manifest, catalog, ledger)
        listed(other, of_other, catalog, ledger, node=OTHER)
        jobs = Jobs(catalog, OTHER)
        made = {"session": THERE, "form": "mp4", "path": "/there/x.mp4", "settings": "{}", "unattended": True}
        jobs.add("c1" * 16, who=f"{ADMIN} by web", person=ADMIN, **made)
        jobs.move("c1" * 16, State.RUNNING)
        jobs.move("c1" * 16, State.DONE, size=3_000_000, duration_us=SECONDS * 1_000_000)
    (home / OTHER).rename(home / "elsewhere")


@pytest.fixture(scope="module")
def films(shared: Path) -> Iterator[Films]:
    """The lab all tests here share."""
    lab, mailbox = make_lab(shared / "videos-lab"), Mailbox()
    with mail_server(mailbox, None, None) as address:
        console = Console(lab.proxyd, shared / "videos")
        mail = {"server": address, "sender": "proxyd@example.org", "tls": "off"}
        lab.proxyd.settings["notify"] = {"link": console.url, "mail": mail}
        console.person(ADMIN, "PAM Administrator")
        console.person(AUDITOR, "PAM Auditor", email="audrey@example.org")
        console.person(NOBODY)
        record(lab)
        with lab.proxyd, console, chromium() as browser:
            yield Films(ConsoleLab(lab=lab, console=console, browser=browser), mailbox)
    RUNNING.remove(lab)


def makers(job: str) -> list[int]:
    """The processes that make this export, by what their command lines say."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if job.encode() in words and b"make" in words:
            found.append(int(process.name))
    return found


@contextmanager
def paused(films: Films, job: str) -> Iterator[None]:
    """Hold whoever makes an export, once it is at work, so that there is time to look."""

    def at_work() -> list[int]:
        return makers(job) if films.row(job)["percent"] > 0 else []

    (maker,) = eventually("it is at work", at_work, within_s=60)
    os.kill(maker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(maker, signal.SIGCONT)


@contextmanager
def slowly(console: Console, client: Client, path: str) -> Iterator[ssl.SSLSocket]:
    """Ask for a file on a connection that takes little at a time: the kernels hold some megabytes of it, and no more."""
    context = ssl.create_default_context(cafile=str(console.proxyd.home / "keys" / "tls.crt"))
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        plain.settimeout(30)
        plain.connect((HOST, console.port))
        with context.wrap_socket(plain, server_hostname=HOST) as line:
            line.sendall(
                f"GET {path} HTTP/1.1\r\nhost: {HOST}:{console.port}\r\ncookie: {cookies}\r\n\r\n".encode()
            )
            yield line


def rest(line: ssl.SSLSocket) -> int:
    """How many bytes come until the console ends it."""
    count = 0
    while data := line.recv(1 << 16):
        count += len(data)
    return count


def test_session_video_generate_video_for_download(films: Films, tmp_path: Path) -> None:
    url = films.at.console.url
    with films.at.page(AUDITOR) as page:
        page.goto(f"{url}/sessions/{SESSION}")
        page.get_by_role("link", name="Generate video for download").click()
        page.get_by_label("Format").select_option("mp4")
        page.get_by_label("With what was typed").check()
        expect(page.get_by_label("Speed of films")).to_have_value("")
        expect(page.get_by_label("Size of films")).to_have_value("")
        shot(page, "generate-video")
        page.get_by_role("button", name="Yes, generate it").click()
        expect(page.get_by_text("You get a mail when it is ready")).to_be_visible()
        with paused(films, page.url.rpartition("/")[2]):
            expect(page.locator("progress")).to_be_visible()  # the page keeps itself true
            expect(page.locator("progress")).not_to_have_attribute("value", "0")
            shot(page, "export-at-work")
            page.get_by_role("link", name="Exports").click()
            expect(page.locator("tbody tr")).to_contain_text("alice on root@web1")
            shot(page, "exports")
        expect(page.locator("tbody tr .badge.ok")).to_have_text("ready", timeout=MADE_MS)

    eventually("the mail arrives", lambda: films.mailbox.mails, within_s=30)
    ((to, mail, _),) = films.mailbox.mails
    assert to == ["audrey@example.org"]
    assert mail["Subject"] == "[proxyd] the mp4 of session 5e550000 is ready"
    (link,) = re.findall(rf"{re.escape(url)}/\S+", mail.get_content())
    job = link.rpartition("/")[2]

    with films.at.browser.new_context(ignore_https_errors=True) as context:  # signed out: sign-in, then it
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(link)
        page.get_by_label("User name").fill(AUDITOR)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("One-time code").fill(films.at.console.people[AUDITOR].code())
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(link)
        shot(page, "export-ready")
        with page.expect_download() as taking:
            page.get_by_role("link", name="Video download").click()
        taken = tmp_path / taking.value.suggested_filename
        taking.value.save_as(taken)
        assert taken.suffix == ".mp4"
        assert hashlib.sha256(taken.read_bytes()).hexdigest() == films.row(job)["sha256"]
        with page.expect_download() as taking:
            page.get_by_role("link", name="Manifest").click()
        taking.value.save_as(manifest_of(taken))
        assert films.at.lab.proxyd.ctl("verify", str(taken)).data["ok"]
        page.get_by_role("link", name="Verify").click()
        expect(page.get_by_text("Whole and unaltered")).to_be_visible()
        shot(page, "export-verified")
    with av.open(taken) as film:
        assert film.duration == pytest.approx(SECONDS * 1_000_000, abs=200_000)

    # A download that was begun ends when its person may see the session no longer.
    client = films.at.console.signed_in(AUDITOR)
    with slowly(films.at.console, client, f"/exports/{job}/file") as line:
        assert b" 200 " in line.recv(1000)
        films.at.lab.proxyd.call("set-auditors", session=SESSION, people=[ADMIN])
        assert 0 < rest(line) < films.row(job)["size"]
    assert client.get(f"/exports/{job}/file").status == 403
    films.at.lab.proxyd.call("set-auditors", session=SESSION, people=[])

    with films.at.page(ADMIN) as page:  # another user, of more power: refused, and in the ledger
        page.goto(link)
        expect(page.get_by_role("heading", name="mp4 of")).to_be_visible()
        expect(page.get_by_role("link", name="Video download")).to_have_count(0)
        assert page.request.get(f"{link}/file").status == 403
        assert page.request.get(f"{link}/manifest").status == 403
    with films.at.page(NOBODY) as page:
        page.goto(link)
        expect(page.get_by_role("heading", name="You may not do this")).to_be_visible()
        shot(page, "export-of-somebody-else")
    seen = films.at.lab.proxyd.call("show", session=SESSION)["views"]
    assert [one["who"] for one in seen if one["kind"] == "download"] == [AUDITOR, AUDITOR]
    log = (films.at.lab.proxyd.home / "state" / "ledger").read_text()
    assert log.count('"kind":"export-refused"') == 2


def test_without_scripts_it_is_followed_cancelled_and_taken_in_parts(films: Films) -> None:
    client = films.at.console.signed_in(AUDITOR)
    job = films.ask(client)
    eventually("it is at work", lambda: "<progress" in client.get(f"/exports/{job}").text)
    page = client.get(f"/exports/{job}").text
    assert '<noscript><meta http-equiv="refresh"' in page
    assert client.post(f"/exports/{job}/cancel", {}).status == 303
    assert "cancelled by audrey" in client.get(f"/exports/{job}").text
    assert client.get(f"/exports/{job}/file").status == 409

    client.get(f"/sessions/{SESSION}/video")
    job = films.ask(client, "asciicast")
    eventually("it is ready", lambda: films.row(job)["state"] == "done", within_s=60)
    row = films.row(job)
    path = f"/exports/{job}/file"
    whole = client.get(path)
    assert (whole.status, len(whole.body)) == (200, row["size"])
    assert whole.headers["content-disposition"].startswith('attachment; filename="session-5e550000-')
    parts = client.get(path, range="bytes=0-999").body + client.get(path, range="bytes=1000-").body
    assert parts == whole.body
    part = client.get(path, range="bytes=-10", if_range=f'"{row["sha256"]}"')
    assert (part.status, part.headers["content-range"]) == (206, f"bytes {row['size'] - 10}-{row['size'] - 1}/{row['size']}")  # fmt: skip
    assert client.get(path, range="bytes=5-", if_range='"another"').status == 200
    assert client.get(path, range=f"bytes={row['size']}-").status == 416
    listing = client.get("/exports?state=done&form=asciicast&sort=size").text
    assert job in listing
    assert "cancelled" not in listing.partition("<tbody>")[2]
    other = films.at.console.signed_in(ADMIN)
    assert job in other.get("/exports?person=audr").text
    assert other.get(path).status == 403


def test_session_video_of_a_cluster_is_there_once_it_has_come_from_its_node(films: Films) -> None:
    """Session video, "in a cluster": until the recording is here the page says where it is; then it has it by itself.

    A file made of it is where it was made.
    """
    url, home = films.at.console.url, films.at.lab.proxyd.home
    with films.at.page(ADMIN) as page:
        page.goto(f"{url}/sessions/{THERE}")
        expect(page.get_by_role("status").first).to_contain_text(
            f"Its recording is on node {OTHER}, and not here yet"
        )
        for name in ("Video", "Session Logs", "Generate video for download"):
            expect(page.get_by_role("link", name=name, exact=True)).to_have_count(0)
        shot(page, "video-of-another-node")
        answer = page.request.get(f"{url}/sessions/{THERE}/recording")
        assert (answer.status, f"is on node {OTHER}" in answer.text()) == (404, True)
        assert page.request.get(f"{url}/sessions/{THERE}/logs").status == 404

        (home / "elsewhere").rename(home / OTHER)  # as the store does, or a file system the nodes share
        page.get_by_role("link", name="Video", exact=True).click()
        films.at.shown(page, "merge")

        page.goto(f"{url}/exports/{'c1' * 16}")
        expect(page.get_by_role("main")).to_contain_text(
            f"Its file is on node {OTHER}: download it in that node's console"
        )
        expect(page.get_by_role("link", name="Video download")).to_have_count(0)
        assert page.request.get(f"{page.url}/file").status == 404
    views = films.at.lab.proxyd.call("show", session=THERE)["views"]
    assert {view["who"] for view in views} == {ADMIN}


def test_who_asked_for_what_could_not_be_made_is_told_what_to_do(films: Films) -> None:
    client = films.at.console.signed_in(AUDITOR)
    client.get(f"/sessions/{SESSION}/video")
    answer = client.post(f"/sessions/{SESSION}/video", {"form": "asciicast", "channel": "9"})
    job = answer.headers["location"].rpartition("/")[2]
    told = lambda: [one for one in films.mailbox.mails if "could not be made" in one[1]["Subject"]]  # noqa: E731
    eventually("a mail says so", told, within_s=60)
    ((to, mail, _),) = told()
    assert (to, mail["Subject"]) == (
        ["audrey@example.org"],
        "[proxyd] the asciicast of session 5e550000 could not be made",
    )
    why = "channel 9 showed nothing; channels that did: 1"
    text = mail.get_content()
    assert f"why: {why}" in text
    assert "ask for it again on the session's page" in text
    assert f"{films.at.console.url}/exports/{job}" in text.split()
    page = client.get(f"/exports/{job}").text
    assert why in page
    assert "/file" not in page


@pytest.mark.slow
def test_pages_about_exports_are_for_everybody(films: Films) -> None:
    """axe-core finds nothing on them, in light or dark, with one that waits, one at work, one that is ready and one that failed."""
    client = films.at.console.signed_in(ADMIN)
    ready = films.ask(client, "asciicast")
    eventually("it is ready", lambda: films.row(ready)["state"] == "done", within_s=60)
    gone = films.ask(client, "webm")
    client.get("/exports")
    assert client.post(f"/exports/{gone}/cancel", {}).status == 303
    jobs = [films.ask(client), films.ask(client)]
    eventually("one is at work", lambda: films.row(jobs[0])["percent"] > 3, within_s=60)
    paths = ["/exports", f"/exports/{jobs[0]}", f"/exports/{jobs[1]}", f"/exports/{gone}", f"/exports/{ready}",
             f"/exports/{ready}/verify", f"/sessions/{SESSION}", f"/sessions/{SESSION}/video"]  # fmt: skip
    found = []
    for scheme in ("light", "dark"):
        with films.at.page(ADMIN, color_scheme=scheme) as page:
            for number, path in enumerate(paths):
                page.goto(films.at.console.url + path)
                shot(page, f"exports-{scheme}-{number}")
                page.evaluate(AXE_SCRIPT + "; null")
                wrong = page.evaluate(
                    "axe.run().then((done) => done.violations.map((one) => [one.id, one.nodes[0].html]))"
                )
                found += [(scheme, path, *one) for one in wrong]
    client.get("/exports")
    for job in jobs:
        client.post(f"/exports/{job}/cancel", {})
    assert not found


@pytest.mark.slow
def test_what_is_killed_in_the_middle_is_begun_again_under_the_same_number(films: Films) -> None:
    proxyd, console = films.at.lab.proxyd, films.at.console
    job = films.ask(console.signed_in(AUDITOR))

    def at_work() -> bool:
        row = films.row(job)
        assert row["state"] in ("queued", "running"), row
        return bool(row["state"] == "running" and row["percent"] >= 2 and makers(job))

    eventually("it is at work", at_work, within_s=60)
    os.kill(makers(job)[0], signal.SIGKILL)  # whoever makes it
    eventually("it waits again", lambda: films.row(job)["tries"] == 1, within_s=20)
    eventually("another makes it", at_work, within_s=60)
    before = makers(job)
    proxyd.kill()  # the daemon
    proxyd.start()
    assert makers(job) == before
    eventually("it goes on", at_work, within_s=60)
    assert (films.row(job)["tries"], makers(job)) == (1, before)
    assert console.process is not None
    console.process.stop()  # the console, with its makers
    eventually("it waits again", lambda: films.row(job)["state"] == "queued", within_s=20)
    assert makers(job) == []
    console.start()
    eventually("another makes it", at_work, within_s=60)
    console.process.kill()
    console.start()
    assert len(makers(job)) == 1  # it outlives a console that is killed, and no second one is begun
    eventually("it is done", lambda: films.row(job)["state"] == "done", within_s=120)
    row = films.row(job)
    assert proxyd.ctl("verify", row["path"]).data["ok"]
    folder = Path(row["path"]).parent
    assert {path.name for path in folder.iterdir() if job in path.name} == {
        f"{job}.mp4",
        f"{job}.mp4.manifest.json",
    }
