"""SFTP told as events: real OpenSSH clients against the real sftp-server, and what no decent peer would send."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest
from unit.ssh.test_transfers import Conversation, Ear, Place, heard, sha256

from proxyd.digest import REORDER_LIMIT
from proxyd.events import TEXT_KEPT
from proxyd.protocols.ssh import sftp, sftp_packets
from proxyd.protocols.ssh.sftp import SftpWatch
from proxyd.protocols.ssh.sftp_packets import Packet, result
from proxyd.protocols.ssh.wire import string, uint32

OK, EOF, DENIED, FAILURE = 0, 1, 3, 4
R, W, APPEND, CREATE, TRUNCATE = 1, 2, 4, 8, 16


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def session(place: Place, *commands: str, options: tuple[str, ...] = ()) -> Conversation:
    """Run OpenSSH's sftp with a batch of commands; a leading "-" lets one fail."""
    talk = place.run(
        "sftp", "-q", *options, "-b", "-", "-S", "{relay}", "host", stdin="\n".join(commands) + "\n"
    )
    assert talk.status == 0, talk.errors
    return talk


def told(talk: Conversation) -> list[tuple[str, str, str]]:
    """Give (operation, path, result) of each event, once for whole and once for byte-at-a-time feeding."""
    watch, ear = heard(talk)
    drop, by_byte = heard(talk, 1)
    assert not ear.findings
    assert by_byte.summary() == ear.summary()
    assert (watch.omitted_input, watch.omitted_output) == (drop.omitted_input, drop.omitted_output)
    assert watch.omitted_input == sum(len(data) for by_client, data in talk.said if by_client)
    assert watch.omitted_output == sum(len(data) for by_client, data in talk.said if not by_client)
    assert isinstance(watch, SftpWatch)
    assert not watch._pending
    assert watch._room.used == 0
    return [(event.operation, event.path, event.result) for event in ear.transfers]


# ---------------------------------------------------------------------- real peers


@pytest.mark.mission("M5")
@pytest.mark.parametrize("size", [0, 1, 32768, 32769, 3_000_001])
@pytest.mark.parametrize("options", [(), ("-B", "1000", "-R", "3"), ("-B", "260000")])
def test_put_and_get_have_size_and_hash(place, size, options):
    if size > 100_000 and "1000" in options:
        size = 100_001  # small blocks: enough of them
    body = place.file("here", "a", size)
    there = str(place.there / "b")
    talk = session(place, "put a " + there, f"get {there} c", options=options)
    assert sha256(place.here / "c") == sha256(body)
    for cut in (1 << 20, 32768, 1000, 7):
        _, ear = heard(talk, cut)
        put, got = (event for event in ear.transfers if event.operation in ("put", "get"))
        assert (put.operation, put.path, put.size, put.sha256, put.result) == (
            "put",
            there,
            size,
            sha256(body),
            "ok",
        )
        assert put.truncated
        assert (got.operation, got.path, got.size, got.sha256, got.result) == (
            "get",
            there,
            size,
            sha256(body),
            "ok",
        )


@pytest.mark.mission("M5")
def test_what_changes_a_name_or_an_attribute_is_told_and_what_looks_is_not(place):
    place.file("here", "a", 10)
    talk = session(
        place,
        "ls",
        "pwd",
        "ls -l",
        "mkdir d",
        "put a d/a",
        "chmod 640 d/a",
        "rename d/a d/b",
        "rename d/b d/c",
        "symlink c d/link",
        "ln d/c d/hard",
        "-rm d/absent",
        "rm d/link",
        "rm d/hard",
        "-rmdir d",
        "rm d/c",
        "rmdir d",
        "-get absent",
        "df",
    )
    there = str(place.there)
    _, ear = heard(talk)
    events = told(talk)
    assert ("mkdir", f"{there}/d", "ok") in events
    assert ("setstat", f"{there}/d/a", "ok") in events
    assert ("remove", f"{there}/d/absent", "no such file") in events
    assert ("remove", f"{there}/d/c", "ok") in events
    assert ("rmdir", f"{there}/d", "failure") in events
    assert ("rmdir", f"{there}/d", "ok") in events
    renamed = [(event.path, event.to, event.result) for event in ear.transfers if event.operation == "rename"]
    assert renamed == [(f"{there}/d/a", f"{there}/d/b", "ok"), (f"{there}/d/b", f"{there}/d/c", "ok")]
    [link] = [event for event in ear.transfers if event.operation == "symlink"]
    assert (link.path, link.to, link.result) == (f"{there}/d/link", "c", "ok")
    [hard] = [event for event in ear.transfers if event.operation == "link"]
    assert (hard.path, hard.to, hard.result) == (f"{there}/d/hard", f"{there}/d/c", "ok")
    assert "mode 0640" in [event.detail for event in ear.transfers]
    assert {event.operation for event in ear.transfers} == {
        "mkdir", "put", "setstat", "rename", "symlink", "link", "remove", "rmdir",
    }  # fmt: skip


@pytest.mark.mission("M5")
def test_trees_go_file_by_file(place):
    bodies = {
        name: place.file("here", f"tree/{name}", 1000 * n)
        for n, name in enumerate(("a", "s/b", "s/t/c", "ü ö"))
    }
    talk = session(place, "put -pR tree", "get -R tree back")
    _, ear = heard(talk)
    told(talk)
    for name, body in bodies.items():
        for operation in ("put", "get"):
            path = f"{place.there}/tree/{name}"
            assert [
                event.sha256 for event in ear.transfers if (event.operation, event.path) == (operation, path)
            ] == [sha256(body)]


@pytest.mark.mission("M5")
def test_a_resumed_transfer_has_no_hash_and_says_why(place):
    body = place.file("here", "a", 200_000)
    (place.there / "a").write_bytes(body.read_bytes()[:50_000])
    (place.here / "b").write_bytes(body.read_bytes()[:70_000])
    session_ = session(place, "reput a a", "reget a b")
    _, ear = heard(session_)
    told(session_)
    assert sha256(place.there / "a") == sha256(place.here / "b") == sha256(body)
    put, got = (event for event in ear.transfers if event.operation in ("put", "get"))
    assert (put.size, put.sha256, put.why, put.appended) == (150_000, None, "appended", True)
    assert (got.size, got.sha256, got.why) == (130_000, None, "does not begin at offset 0")
    assert put.result == got.result == "ok"


@pytest.mark.mission("M5")
def test_what_the_target_refuses_is_told_with_its_answer(place):
    place.file("here", "a", 10)
    talk = session(place, "-put a absent/a", "-mkdir absent/d", "-chmod 600 absent", "-rename absent x")
    results = told(talk)
    assert ("put", f"{place.there}/absent/a", "no such file") in results
    assert ("mkdir", f"{place.there}/absent/d", "no such file") in results
    _, ear = heard(talk)
    assert all(event.sha256 is None for event in ear.transfers)


@pytest.mark.mission("M5")
def test_a_full_disk_is_the_puts_result(place):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    place.file("here", "a", 100_000)
    talk = place.run("sftp", "-q", "-b", "-", "-S", "{relay}", "host", stdin="put a /dev/full\n")
    assert talk.status != 0
    _, ear = heard(talk)
    [put] = [event for event in ear.transfers if event.operation == "put"]
    assert (put.path, put.result) == ("/dev/full", "failure")


@pytest.mark.mission("M5")
def test_scp_over_sftp_is_the_same(place):
    body = place.file("here", "a", 100_000)
    put = place.run("scp", "-q", "-S", "{relay}", "a", "host:b")
    got = place.run("scp", "-q", "-S", "{relay}", "host:b", "c")
    assert (put.kind, put.command, put.status, got.status) == ("subsystem", b"sftp", 0, 0)
    for talk, operation in ((put, "put"), (got, "get")):
        _, ear = heard(talk)
        assert [event.sha256 for event in ear.transfers if event.operation == operation] == [sha256(body)]


class Pipe(socket.socket):
    """A socket with the methods of a channel that paramiko's client asks for."""

    def get_name(self) -> str:
        return "sftp"

    def recv_ready(self) -> bool:
        return bool(select.select([self], [], [], 0)[0])


def paramiko_talk(place: Place, talk: Callable[[paramiko.SFTPClient], None]) -> Conversation:
    """Run paramiko's client on a socket whose other end is the relay with the real sftp-server."""
    near, theirs = socket.socketpair()
    ours = Pipe(fileno=near.detach())
    place.log.write_bytes(b"")
    with subprocess.Popen([place.relay, "-s", "sftp"], stdin=theirs, stdout=theirs) as relay, ours:
        theirs.close()
        talk(paramiko.SFTPClient(ours))
        ours.shutdown(socket.SHUT_WR)
        relay.wait(60)
    return Conversation("subsystem", b"sftp", place.said(), 0)


@pytest.mark.mission("M5")
def test_paramiko_asks_for_a_whole_file_at_once(place):
    body = place.file("here", "a", 5_000_000)

    def move(client: paramiko.SFTPClient) -> None:
        client.put(str(place.here / "a"), "a")
        client.get("a", str(place.here / "b"))
        client.truncate("a", 10)

    talk = paramiko_talk(place, move)
    assert sha256(place.here / "b") == sha256(body)
    for cut in (1 << 20, 1000):
        _, ear = heard(talk, cut)
        assert not ear.findings
        put, got = (event for event in ear.transfers if event.operation in ("put", "get"))
        assert (put.size, put.sha256) == (got.size, got.sha256) == (5_000_000, sha256(body))
        assert [event.detail for event in ear.transfers if event.operation == "setstat"] == ["size 10"]


# ---------------------------------------------------------------------- packets by hand


class Wire:
    """Packets of both sides, one request id after the other."""

    def __init__(self) -> None:
        self.said: list[tuple[bool, bytes]] = []
        self.next = 1000

    def client(self, kind: int, request: int | None, *fields: bytes) -> None:
        self._say(True, kind, request, fields)

    def target(self, kind: int, request: int | None, *fields: bytes) -> None:
        self._say(False, kind, request, fields)

    def _say(self, by_client: bool, kind: int, request: int | None, fields: tuple[bytes, ...]) -> None:
        body = bytes([kind]) + (b"" if request is None else uint32(request)) + b"".join(fields)
        self.said.append((by_client, string(body)))

    def start(self, version: int = 3) -> None:
        self.client(Packet.INIT, None, uint32(version))
        self.target(Packet.VERSION, None, uint32(version))

    def ask(self, kind: int, *fields: bytes, answer: int = OK) -> None:
        self.next += 1
        self.client(kind, self.next, *fields)
        self.target(Packet.STATUS, self.next, uint32(answer), string(b""), string(b""))

    def open(self, path: str, flags: int, handle: bytes = b"\0\0\0\0") -> bytes:
        self.next += 1
        self.client(Packet.OPEN, self.next, string(path.encode()), uint32(flags), uint32(0))
        self.target(Packet.HANDLE, self.next, string(handle))
        return handle

    def write(self, handle: bytes, offset: int, data: bytes, answer: int = OK) -> None:
        self.ask(Packet.WRITE, string(handle), struct.pack(">Q", offset), string(data), answer=answer)

    def close(self, handle: bytes, answer: int = OK) -> None:
        self.ask(Packet.CLOSE, string(handle), answer=answer)

    def heard(self, size: int = 1 << 30) -> tuple[SftpWatch, Ear]:
        watch, ear = heard(Conversation("subsystem", b"sftp", self.said, 0), size)
        assert isinstance(watch, SftpWatch)
        return watch, ear


@pytest.fixture
def wire() -> Wire:
    made = Wire()
    made.start()
    return made


def one(ear: Ear):
    assert not ear.findings, ear.findings
    [event] = ear.transfers
    return event


@pytest.mark.mission("M5")
def test_a_file_read_and_written_is_one_event(wire):
    handle = wire.open("/x", R | W)
    wire.write(handle, 0, b"abc")
    wire.client(Packet.READ, 1, string(handle), struct.pack(">QI", 0, 10))
    wire.target(Packet.DATA, 1, string(b"abc"))
    wire.close(handle)
    event = one(wire.heard()[1])
    assert (event.operation, event.size, event.sha256, event.why) == ("get+put", 6, None, "read and written")


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    ("flags", "operation", "sha", "why"),
    [
        (R, "get", None, "not read"),
        (W, "put", None, "not written"),
        (W | CREATE | TRUNCATE, "put", hashlib.sha256(b"").hexdigest(), ""),
    ],
)
def test_a_file_opened_and_closed(wire, flags, operation, sha, why):
    wire.close(wire.open("/x", flags))
    event = one(wire.heard()[1])
    assert (event.operation, event.size, event.sha256, event.why) == (operation, 0, sha, why)


@pytest.mark.mission("M5")
def test_an_appended_file_says_so(wire):
    handle = wire.open("/x", W | APPEND)
    wire.write(handle, 0, b"abc")
    wire.close(handle)
    event = one(wire.heard()[1])
    assert (event.appended, event.size, event.sha256, event.why) == (True, 3, None, "appended")


@pytest.mark.mission("M5")
def test_a_write_that_fails_is_the_files_result(wire):
    handle = wire.open("/x", W | TRUNCATE)
    wire.write(handle, 0, b"abc")
    wire.write(handle, 3, b"def", answer=14)
    wire.close(handle)
    assert one(wire.heard()[1]).result == "no space on filesystem"


@pytest.mark.mission("M5")
@pytest.mark.parametrize(("size", "why"), [(3, ""), (2, "size set to 2")])
def test_a_size_set_while_open_counts(wire, size, why):
    handle = wire.open("/x", W)
    wire.write(handle, 0, b"abc")
    wire.ask(Packet.FSETSTAT, string(handle), struct.pack(">IQ", 1, size))
    wire.close(handle)
    resized, event = wire.heard()[1].transfers
    assert (resized.operation, resized.path, resized.detail) == ("setstat", "/x", f"size {size}")
    assert (event.why, event.sha256 is None) == (why, bool(why))


@pytest.mark.mission("M5")
def test_what_is_unfinished_at_the_end_is_told_as_incomplete(wire):
    handle = wire.open("/x", W)
    wire.client(Packet.WRITE, 1, string(handle), struct.pack(">Q", 0), string(b"abc"))
    wire.client(Packet.REMOVE, 2, string(b"/y"))
    wire.client(Packet.OPEN, 3, string(b"/z"), uint32(R), uint32(0))
    wire.client(Packet.CLOSE, 4, string(handle))
    wire.said.append((True, b"\0\0\1"))
    watch, ear = wire.heard()
    assert sorted((event.operation, event.path, event.result) for event in ear.transfers) == [
        ("get", "/z", "incomplete"),
        ("put", "/x", "incomplete"),
        ("remove", "/y", "incomplete"),
    ]
    before = list(ear.events)
    ear.close(watch)
    assert ear.events == before


@pytest.mark.mission("M11")
def test_a_guessed_handle_hides_nothing(wire):
    """Write and open sent together: the target does both before the client was told the handle."""
    wire.client(Packet.OPEN, 1, string(b"/x"), uint32(W), uint32(0))
    wire.client(Packet.WRITE, 2, string(b"\0\0\0\0"), struct.pack(">Q", 0), string(b"secret"))
    wire.target(Packet.HANDLE, 1, string(b"\0\0\0\0"))
    wire.target(Packet.STATUS, 2, uint32(OK))
    wire.close(b"\0\0\0\0")
    event = one(wire.heard()[1])
    assert (event.path, event.size, event.sha256, event.why) == (
        "/x",
        6,
        None,
        "used before its opening was answered",
    )


@pytest.mark.mission("M11")
@pytest.mark.parametrize(("answer", "told_of"), [(OK, [("put", "(unknown)", 6)]), (FAILURE, [])])
def test_a_handle_never_given_is_told_when_the_target_takes_it(wire, answer, told_of):
    wire.write(b"none", 0, b"secret", answer=answer)
    wire.close(b"none", answer=answer)
    _, ear = wire.heard()
    assert [(event.operation, event.path, event.size) for event in ear.transfers] == told_of


@pytest.mark.mission("M5")
def test_a_copy_at_the_target_is_told(wire):
    source, target = wire.open("/x", R, b"1"), wire.open("/y", W, b"2")
    wire.ask(
        Packet.EXTENDED,
        string(b"copy-data"),
        string(source),
        struct.pack(">QQ", 0, 0),
        string(target),
        struct.pack(">Q", 0),
    )
    wire.close(source)
    wire.close(target)
    copied, *_, put = wire.heard()[1].transfers
    assert (copied.operation, copied.path, copied.to, copied.result) == ("copy", "/x", "/y", "ok")
    assert (put.path, put.sha256, put.why) == ("/y", None, "copied at the target")


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    ("name", "fields", "event"),
    [
        (b"posix-rename@openssh.com", string(b"/a") + string(b"/b"), ("rename", "/a", "/b", "")),
        (b"hardlink@openssh.com", string(b"/a") + string(b"/b"), ("link", "/b", "/a", "")),
        (
            b"lsetstat@openssh.com",
            string(b"/a") + struct.pack(">III", 2, 5, 6),
            ("setstat", "/a", "", "owner 5:6"),
        ),
        (b"copy-file", string(b"/a") + string(b"/b") + b"\0", ("copy", "/a", "/b", "")),
        (b"run@example.org", b"...", ("extended", "", "", "run@example.org")),
    ],
)
def test_extensions_that_change_something(wire, name, fields, event):
    wire.ask(Packet.EXTENDED, string(name), fields)
    told_of = one(wire.heard()[1])
    assert (told_of.operation, told_of.path, told_of.to, told_of.detail) == event


@pytest.mark.mission("M5")
def test_lookups_are_only_counted(wire):
    for request, (kind, reply) in enumerate(
        [
            (Packet.STAT, Packet.ATTRS),
            (Packet.LSTAT, Packet.ATTRS),
            (Packet.REALPATH, Packet.NAME),
            (Packet.READLINK, Packet.NAME),
            (Packet.READDIR, Packet.NAME),
            (Packet.OPENDIR, Packet.HANDLE),
        ]
    ):
        wire.client(kind, request, string(b"/x"))
        wire.target(reply, request, string(b"d"))
    wire.client(Packet.EXTENDED, 50, string(b"statvfs@openssh.com"), string(b"/"))
    wire.target(Packet.EXTENDED_REPLY, 50, bytes(88))
    wire.close(b"d")
    watch, ear = wire.heard(3)
    assert ear.events == []
    assert watch.lookups == 7


@pytest.mark.mission("M5")
def test_version_six_opens_and_links():
    wire = Wire()
    wire.start(6)
    for number, (access, flags) in enumerate([(0x1, 2), (0x2, 1), (0x4, 2 | 0x8)]):
        wire.client(Packet.OPEN, number, string(b"/x"), uint32(access), uint32(flags), uint32(0))
        wire.target(Packet.STATUS, number, uint32(DENIED))
    wire.ask(Packet.LINK, string(b"/new"), string(b"/old"), b"\1")
    wire.ask(Packet.LINK, string(b"/new"), string(b"/old"), b"\0", answer=11)
    _, ear = wire.heard()
    assert [(event.operation, event.truncated, event.appended, event.result) for event in ear.transfers] == [
        ("get", False, False, "permission denied"),
        ("put", True, False, "permission denied"),
        ("put", False, True, "permission denied"),
        ("symlink", False, False, "ok"),
        ("link", False, False, "file already exists"),
    ]


@pytest.mark.mission("M5")
def test_a_target_that_answers_out_of_order_still_gives_the_hash(wire):
    body = os.urandom(REORDER_LIMIT // 2)
    handle = wire.open("/x", R)
    blocks = list(enumerate(range(0, len(body), 30_000), 1))
    for request, offset in blocks:
        wire.client(Packet.READ, request, string(handle), struct.pack(">QI", offset, 30_000))
    for request, offset in reversed(blocks):
        wire.target(Packet.DATA, request, string(body[offset : offset + 30_000]))
    wire.close(handle)
    event = one(wire.heard(5000)[1])
    assert event.sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.mission("M5")
def test_a_short_answer_is_asked_for_again(wire):
    handle = wire.open("/x", R)
    for request, offset, size in ((1, 0, 10), (2, 10, 10)):
        wire.client(Packet.READ, request, string(handle), struct.pack(">QI", offset, size))
    wire.target(Packet.DATA, 1, string(b"abcd"))
    wire.target(Packet.DATA, 2, string(b"klmnopqrst"))
    wire.client(Packet.READ, 3, string(handle), struct.pack(">QI", 4, 6))
    wire.target(Packet.DATA, 3, string(b"efghij"))
    wire.close(handle)
    assert one(wire.heard()[1]).sha256 == hashlib.sha256(b"abcdefghijklmnopqrst").hexdigest()


@pytest.mark.mission("M5")
def test_more_requests_than_are_tracked_lose_the_hash_and_nothing_else(wire):
    """paramiko asks for a whole file at once."""
    handle = wire.open("/x", R)
    count = sftp.PENDING + 100
    for request in range(count):
        wire.client(Packet.READ, 10_000 + request, string(handle), struct.pack(">QI", request * 10, 10))
    for request in range(count):
        wire.target(Packet.DATA, 10_000 + request, string(b"0123456789"))
    wire.close(handle)
    watch, ear = wire.heard()
    event = one(ear)
    assert (event.size, event.sha256, event.why) == (count * 10, None, "too many requests in flight")
    assert not watch._pending


@pytest.mark.mission("M11")
def test_over_the_limit_an_operation_is_told_at_once(wire):
    for request in range(sftp.TOLD_PENDING + 50):
        wire.client(Packet.REMOVE, request, string(b"/" + str(request).encode()))
    for request in range(sftp.TOLD_PENDING + 50):
        wire.target(Packet.STATUS, request, uint32(OK))
    wire.ask(Packet.REMOVE, string(b"/last"))
    watch, ear = wire.heard()
    assert not ear.findings
    assert len(ear.transfers) == sftp.TOLD_PENDING + 51
    assert [event.result for event in ear.transfers].count("unanswered") == 50
    assert ear.transfers[-1].result == "ok"
    assert watch._told_pending == 0


@pytest.mark.mission("M11")
def test_more_open_files_than_are_tracked_are_still_told(wire):
    for number in range(sftp.OPEN_FILES + 5):
        wire.open(f"/{number}", W, str(number).encode())
    wire.write(str(sftp.OPEN_FILES + 1).encode(), 0, b"abc")
    watch, ear = wire.heard()
    assert not ear.findings
    paths = {event.path for event in ear.transfers}
    assert paths == {f"/{number}" for number in range(sftp.OPEN_FILES + 5)} | {"(unknown)"}
    assert [event.size for event in ear.transfers if event.path == "(unknown)"] == [3]
    assert not watch._files


@pytest.mark.mission("M5")
def test_a_long_path_is_cut(wire):
    wire.ask(Packet.REMOVE, string(b"x" * 100_000))
    assert len(one(wire.heard()[1]).path) == TEXT_KEPT + 1


def test_every_status_has_words():
    assert result(0) == "ok"
    assert result(24) == "file is a directory"
    assert result(99) == "status 99"


# ---------------------------------------------------------------------- what is not SFTP


BREAKS = {
    "a shell's client": lambda w: w.said.__setitem__(0, (True, b"ls -l /root\n")),
    "a shell's output": lambda w: w.said.__setitem__(1, (False, b"Welcome to host\n")),
    "no init": lambda w: w.said.pop(0),
    "a second init": lambda w: w.client(Packet.INIT, None, uint32(3)),
    "a second version": lambda w: w.target(Packet.VERSION, None, uint32(3)),
    "a reply by the client": lambda w: w.client(Packet.STATUS, 1, uint32(0)),
    "an unknown type": lambda w: w.client(99, 1, uint32(0)),
    "an id in use": lambda w: (
        w.client(Packet.STAT, 7, string(b"/")),
        w.client(Packet.REMOVE, 7, string(b"/y")),
    ),
    "an answer to nothing": lambda w: w.target(Packet.STATUS, 1, uint32(0)),
    "data for a stat": lambda w: (
        w.client(Packet.STAT, 7, string(b"/")),
        w.target(Packet.DATA, 7, string(b"body")),
    ),
    "a handle for a remove": lambda w: (
        w.client(Packet.REMOVE, 7, string(b"/")),
        w.target(Packet.HANDLE, 7, string(b"h")),
    ),
    "too big": lambda w: w.said.append((True, uint32(sftp_packets.PACKET_LIMIT) + b"\6")),
    "too big to keep": lambda w: w.said.append((True, uint32(sftp_packets.KEPT_LIMIT) + b"\3")),
    "too small": lambda w: w.said.append((True, uint32(1) + b"\3" + bytes(20))),
    "a path longer than its packet": lambda w: w.client(Packet.REMOVE, 1, uint32(100) + b"/x"),
    "a write longer than its packet": lambda w: w.client(
        Packet.WRITE, 1, string(b"h"), struct.pack(">QI", 0, 100), b"abc"
    ),
    "a write's handle longer than its packet": lambda w: w.client(Packet.WRITE, 1, uint32(200) + b"h" * 10),
    "a write's endless handle": lambda w: w.client(
        Packet.WRITE, 1, string(b"h" * 300), struct.pack(">QI", 0, 0)
    ),
    "a read of no handle": lambda w: w.client(Packet.READ, 1, uint32(5) + b"h" * 12),
    "a short read": lambda w: w.client(Packet.READ, 1, uint32(1)),
    "data longer than its packet": lambda w: (
        w.open("/x", R, b"h"),
        w.client(Packet.READ, 7, string(b"h"), struct.pack(">QI", 0, 9)),
        w.target(Packet.DATA, 7, uint32(100) + b"abc"),
    ),
}


@pytest.mark.mission("M11")
@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("size", [1 << 20, 1])
def test_what_is_not_sftp_is_found_once_and_the_rest_is_left_alone(wire, name, size):
    BREAKS[name](wire)
    ear = Ear()
    watch = SftpWatch(ear.events.append, ear.later.put)
    recorded = {True: b"", False: b""}
    for by_client, data in Conversation(
        "subsystem", b"sftp", [*wire.said, (True, b"id\n"), (False, b"root\n")], 0
    ).cut(size):
        was = watch.broken
        (watch.from_client if by_client else watch.from_target)(data)
        if watch.broken and not was:
            recorded[True] += watch.held_input
            recorded[False] += watch.held_output
        if watch.broken:
            recorded[by_client] += data
    assert [(event.code, event.severity) for event in ear.findings] == [("not-sftp", "high")]
    sent = {side: b"".join(data for by, data in wire.said if by is side) for side in (True, False)}
    sent = {True: sent[True] + b"id\n", False: sent[False] + b"root\n"}
    assert all(sent[side].endswith(recorded[side]) for side in sent)
    assert watch.omitted_input + len(recorded[True]) == len(sent[True])
    assert watch.omitted_output + len(recorded[False]) == len(sent[False])
    events = list(ear.events)
    ear.close(watch)
    assert ear.events == events


@pytest.mark.mission("M11")
def test_the_text_of_a_finding_holds_no_byte_of_the_wire(wire):
    wire.said[0] = (True, b"hunter2 hunter2\n")
    _, ear = wire.heard()
    assert "hunter2" not in str(ear.events)
