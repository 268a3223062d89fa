"""What crosses beside the screen of a desktop: clipboard and drives, by real clients and servers, by policy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from proxyd.protocols.rdp import channels, clipboard, devices, mcs
from proxyd.protocols.rdp.wire import is_fast_path
from proxyd.recorder.record import Kind
from tests.e2e.desktops import ALICE, Front, account, front
from tests.peers.process import eventually
from tests.peers.rdp import freerdp, pasteboard, xrdp
from tests.peers.rdp.freerdp import Client, RDesktop
from tests.peers.rdp.pasteboard import copied, pasted
from tests.peers.rdp.x11 import IN_TERMINAL, same
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and freerdp.INSTALLED and pasteboard.INSTALLED),
        reason="xrdp, xfreerdp or xclip is missing",
    ),
    pytest.mark.mission("M16"),
]
need_mounts = pytest.mark.skipif(
    not (xrdp.MOUNTS and freerdp.RDESKTOP_INSTALLED),
    reason="/dev/fuse, fusermount (fuse3) or rdesktop is missing",
)

UP, DOWN = "Grüße an den Server: 5 € für Łódź", "Gruß zurück: ¥ 漢字 ½"
LOG = {"text": "log", "files": "log", "other": "log"}
ALLOW = {"text": "allow", "files": "allow", "other": "allow"}
DENY = {"text": "deny", "files": "deny", "other": "deny"}
DRIVES = {"drives": "log"}


@pytest.fixture(scope="module")
def desktop(shared: Path) -> Iterator[Xrdp]:
    with Xrdp(shared / "beside-x") as made:
        yield made


@pytest.fixture(scope="module")
def rig(shared: Path, desktop: Xrdp) -> Iterator[Front]:
    directory = shared / "beside"
    directory.mkdir()

    def target(name: str, **more: Any) -> dict[str, Any]:
        return account(directory, name, desktop) | more

    targets = {
        "plain": target("plain"),
        "open": target("open", clipboard={"to_target": LOG, "to_client": LOG}, devices=DRIVES),
        "quiet": target(
            "quiet", clipboard={"to_target": ALLOW, "to_client": ALLOW}, devices={"drives": "allow"}
        ),
        "inward": target("inward", clipboard={"to_target": LOG, "to_client": DENY}),
        "outward": target("outward", clipboard={"to_target": DENY, "to_client": LOG}),
        "shut": target("shut", clipboard={"to_target": DENY, "to_client": DENY}),
    }
    with front(directory, targets) as made:
        yield made


@pytest.fixture
def untouched(short: Path) -> Iterator[tuple[Front, Xrdp]]:
    """A desktop nobody has pasted at: xfreerdp 2.11 and chansrv remember formats of clipboards before, and give up."""
    with Xrdp(short / "x") as made:
        rules = {"clipboard": {"to_target": LOG, "to_client": LOG}}
        with front(short, {"open": account(short, "open", made) | rules}) as rig:
            yield rig, made


def clips(rig: Front, session: str) -> list[tuple[str, str, str]]:
    return [(one["direction"], one["format"], one["text"]) for one in rig.bodies(session, Kind.CLIPBOARD)]


def said(rig: Front, session: str, name: str) -> bytes:
    """Everything that crossed on a static channel."""
    numbers = next(body for body in rig.bodies(session, Kind.REQUEST) if body["name"] == "rdp")["channels"]
    found = [int(number) for number, what in numbers.items() if what == name]
    frames = [*rig.bodies(session, Kind.PDU), *rig.bodies(session, Kind.INPUT_PDU)]
    datas = [mcs.data_frame(frame) for frame in frames if not is_fast_path(frame)]
    return b"".join(channels.parse_chunk(one.payload).data for one in datas if one and one.channel in found)


def crosses(source: Any, sink: Any, log: Path, text: str) -> None:
    """Copy on one display, paste on the other."""
    with copied(source, log, text.encode()):
        eventually("what was copied can be pasted", lambda: pasted(sink) == text.encode(), within_s=20.0)


@pytest.mark.parametrize(
    ("target", "up", "down"),
    [
        ("plain", "log", "log"),
        ("quiet", "allow", "allow"),
        ("inward", "log", "deny"),
        ("outward", "deny", "log"),
    ],
)
def test_text_crosses_each_way_as_far_as_the_target_says(
    rig: Front, desktop: Xrdp, short: Path, target: str, up: str, down: str
) -> None:
    with rig.client(short / "c", f"alice%{target}", ALICE, options=("+clipboard",)) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        for rule, source, sink, text in (
            (up, client.screen, desktop.screen, UP),
            (down, desktop.screen, client.screen, DOWN),
        ):
            if rule != "deny":
                crosses(source, sink, short / "xclip", text)
            else:
                with copied(source, short / "xclip", text.encode()):
                    until(rig, session, Kind.CLIPBOARD, lambda body: body.get("result") == "denied")
                    assert pasted(sink) != text.encode()
        assert client.connected
    rig.proxyd.ended(session)
    found = clips(rig, session)
    for rule, direction, text in ((up, "to target", UP), (down, "to client", DOWN)):
        assert ((direction, "text", text) in found) is (rule == "log")
        raw = said(rig, session, clipboard.CHANNEL)
        assert (text.encode("utf-16-le") in raw) is (rule != "deny")
        for one in rig.bodies(session, Kind.CLIPBOARD):
            if one["text"] == text:
                crossed = (text + "\0").encode("utf-16-le")
                assert (one["size"], one["sha256"]) == (len(crossed), hashlib.sha256(crossed).hexdigest())


def ready(rig: Front, session: str) -> None:
    """Wait until the target has seen what the client's clipboard holds at first."""
    seen = clipboard.build_clip(clipboard.ClipType.FORMAT_LIST_RESPONSE, clipboard.ClipFlag.RESPONSE_OK)
    until(rig, session, Kind.PDU, lambda body: seen in body)


def until(rig: Front, session: str, wanted: Kind, condition: Callable[[Any], bool]) -> None:
    """Follow a live session from its beginning until its tape has such a record."""
    with rig.proxyd.client().stream("watch", session=session) as stream:
        for frame in stream:
            if any(kind == wanted and condition(body) for _, _, kind, _, body in frame.get("records", ())):
                return
    raise AssertionError("the session ended")


def works(client: Client, desktop: Xrdp, name: str) -> None:
    """Make a file of that name by typing."""
    client.screen.click(*IN_TERMINAL)
    client.screen.enter(f"touch {name}")
    eventually("the session works", (desktop.home / name).exists)


DRIVE, PASTED = "xrdp-client/share", "xrdp-client/.clipboard"  # where chansrv mounts what the client has
GIVEN = b"what the client has\n" * 5000
TAKEN = "".join(f"{number}\n" for number in range(1, 20001)).encode()  # as `seq` writes it


def hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def share(short: Path) -> Path:
    """A folder of the client's with a file in it."""
    made = short / "share"
    made.mkdir()
    (made / "given.txt").write_bytes(GIVEN)
    return made


def sharing(rig: Front, directory: Path, target: str, share: Path) -> RDesktop:
    """A client that brings that folder as a drive.

    rdesktop, as FreeRDP 2.11 and 3 announce no drive to xrdp 0.9.21 whether proxyd is there or not: it tells of the
    user's login before its capabilities, and they take that for a protocol it does not have.
    """
    options = ("-r", f"disk:share={share}")
    return RDesktop(directory / "c", rig.port, f"alice%{target}", ALICE, options=options)


@need_mounts
@pytest.mark.parametrize(("target", "logged"), [("open", True), ("quiet", False)])
def test_files_of_a_redirected_drive_pass_and_are_in_the_log_where_it_is_asked_for(
    rig: Front, desktop: Xrdp, short: Path, share: Path, target: str, logged: bool
) -> None:
    with sharing(rig, short, target, share) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        eventually("the drive is mounted", lambda: "given.txt" in desktop.run(f"ls {DRIVE} || true"))
        assert desktop.run(f"sha256sum < {DRIVE}/given.txt").split()[0] == hashed(GIVEN)
        desktop.run(f"seq 20000 > {DRIVE}/t.txt; mv {DRIVE}/t.txt {DRIVE}/taken.txt; rm {DRIVE}/given.txt")
        eventually("the client has the file", (share / "taken.txt").exists)
        assert (share / "taken.txt").read_bytes() == TAKEN
    rig.proxyd.ended(session)
    told = [
        (one["operation"], one["path"], one["size"], one["sha256"], one["result"])
        for one in rig.bodies(session, Kind.TRANSFER)
    ]
    folder = "\\\\tsclient\\share\\"
    assert (
        told
        == [
            ("put", f"{folder}given.txt", len(GIVEN), hashed(GIVEN), "ok"),
            ("get", f"{folder}t.txt", len(TAKEN), hashed(TAKEN), "ok"),
            ("rename", f"{folder}t.txt", 0, None, "ok"),
            ("remove", f"{folder}given.txt", 0, None, "ok"),
        ][: 4 * logged]
    )
    opened = {"event": "open", "type": "drive", "path": "share"}
    assert (opened in rig.bodies(session, Kind.CHANNEL)) is logged
    assert GIVEN[:1000] in said(rig, session, devices.CHANNEL)


@need_mounts
def test_a_drive_that_is_denied_is_never_there_and_all_else_goes_on(
    rig: Front, desktop: Xrdp, short: Path, share: Path
) -> None:
    with sharing(rig, short, "plain", share) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        until(
            rig,
            session,
            Kind.CHANNEL,
            lambda body: body == {"event": "refused", "type": "drive", "path": "share"},
        )
        works(client, desktop, "typed-without-a-drive")  # long after chansrv has seen the list
        assert "share" not in desktop.run("ls xrdp-client").split()
        assert client.connected
    rig.proxyd.ended(session)
    assert not rig.bodies(session, Kind.TRANSFER)
    assert b"share\0" not in said(rig, session, devices.CHANNEL)
    log = rig.proxyd.ctl("log", session).data["entries"]
    assert ("channel", "refused drive share") in [(one["kind"], one["text"]) for one in log]


@need_mounts
def test_while_blocked_the_target_gets_nothing_of_the_clients_drive(
    rig: Front, desktop: Xrdp, short: Path, share: Path
) -> None:
    read = f"cat {DRIVE}/given.txt > read.txt 2> /dev/null; echo $?"
    with sharing(rig, short, "open", share) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        eventually("the drive is mounted", lambda: "given.txt" in desktop.run(f"ls {DRIVE} || true"))
        assert rig.proxyd.call("block", session=session)["settled"] is True
        assert desktop.run(read).strip() != "0"
        assert desktop.run("wc -c < read.txt").strip() == "0"
        desktop.run(f"echo no > {DRIVE}/new.txt || true")
        assert not (share / "new.txt").exists()
        rig.proxyd.call("unblock", whom=session)
        assert desktop.run(read).strip() == "0"
        assert desktop.run("sha256sum < read.txt").split()[0] == hashed(GIVEN)
        assert client.connected


def test_while_blocked_nothing_of_the_clipboard_passes_and_then_it_does_again(
    rig: Front, desktop: Xrdp, short: Path
) -> None:
    with rig.client(short / "c", "alice%open", ALICE) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        crosses(client.screen, desktop.screen, short / "xclip", UP)
        rig.proxyd.call("block", session=session)
        with copied(client.screen, short / "xclip", b"while blocked"):
            until(rig, session, Kind.REFUSED, lambda body: b"\2\0\0\0" in body)  # its Format List
            assert pasted(desktop.screen) != b"while blocked"
        rig.proxyd.call("unblock", whom=session)
        crosses(client.screen, desktop.screen, short / "xclip", "after it")
        crosses(desktop.screen, client.screen, short / "xclip", DOWN)
    rig.proxyd.ended(session)
    assert "while blocked".encode("utf-16-le") not in said(rig, session, clipboard.CHANNEL)


@need_mounts
def test_files_are_copied_to_the_target_by_the_clipboard(
    untouched: tuple[Front, Xrdp], short: Path, share: Path
) -> None:
    rig, desktop = untouched
    offer = f"{(share / 'given.txt').as_uri()}\r\n".encode()
    with rig.client(short / "c", "alice%open", ALICE) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        ready(rig, session)
        with copied(client.screen, short / "xclip", offer, pasteboard.FILES):
            eventually(
                "the file is listed",
                lambda: b"given.txt" in pasted(desktop.screen, pasteboard.FILES),
                within_s=30.0,
            )
            assert desktop.run(f"sha256sum < {PASTED}/given.txt").split()[0] == hashed(GIVEN)
    rig.proxyd.ended(session)
    (told,) = rig.bodies(session, Kind.TRANSFER)
    assert (told["protocol"], told["operation"], told["path"]) == ("clipboard", "put", "given.txt")
    assert (told["size"], told["sha256"], told["result"]) == (len(GIVEN), hashed(GIVEN), "ok")
    listed = [one for one in rig.bodies(session, Kind.CLIPBOARD) if one["format"] == clipboard.FILE_LIST]
    assert {one["text"] for one in listed if one["text"]} == {"given.txt"}


@pytest.mark.skipif(
    not freerdp.INSTALLED_FUSE,
    reason="LOUD: no xfreerdp3 built WITH_FUSE on PATH: files FROM a target's clipboard are fetched by no other client here",
)
def test_files_are_copied_from_the_target_by_the_clipboard(
    untouched: tuple[Front, Xrdp], short: Path
) -> None:
    rig, desktop = untouched
    taken = desktop.home / "taken.txt"
    taken.write_bytes(TAKEN)
    offer = f"copy\n{taken.as_uri()}".encode()
    with rig.client(short / "c", "alice%open", ALICE, program=freerdp.XFREERDP3) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        ready(rig, session)
        with copied(desktop.screen, short / "xclip", offer, "x-special/gnome-copied-files"):
            found = eventually("the file can be pasted", lambda: pasted(client.screen, pasteboard.FILES))
            with Path(url2pathname(urlsplit(found.decode().strip()).path)).open("rb", buffering=0) as file:
                assert file.read(len(TAKEN)) == TAKEN  # beyond its end xrdp fails, where others give nothing
    rig.proxyd.ended(session)
    (told,) = rig.bodies(session, Kind.TRANSFER)
    assert (told["protocol"], told["operation"], told["path"]) == ("clipboard", "get", "taken.txt")
    assert (told["size"], told["sha256"], told["result"]) == (len(TAKEN), hashed(TAKEN), "ok")


def test_files_that_are_denied_are_not_offered(rig: Front, desktop: Xrdp, short: Path, share: Path) -> None:
    with rig.client(short / "c", "alice%plain", ALICE) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        with copied(
            client.screen, short / "xclip", f"{(share / 'given.txt').as_uri()}\r\n".encode(), pasteboard.FILES
        ):
            until(
                rig,
                session,
                Kind.CLIPBOARD,
                lambda body: (body["format"], body.get("result")) == ("files", "denied"),
            )
            assert pasteboard.FILES not in pasteboard.kinds(desktop.screen)
        crosses(client.screen, desktop.screen, short / "xclip", UP)


def test_a_clipboard_that_is_shut_both_ways_is_no_channel_at_all(
    rig: Front, desktop: Xrdp, short: Path
) -> None:
    with rig.client(short / "c", "alice%shut", ALICE) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        until(rig, session, Kind.CHANNEL, lambda body: body == {"event": "refused", "type": "cliprdr"})
        works(client, desktop, "typed-without-clipboard")
    rig.proxyd.ended(session)
    assert said(rig, session, clipboard.CHANNEL) == b""
