"""Which commands move files, what runs inside a forward, rsync, hashing beside the loop; and real conversations to parse.

`Conversation` is what a real client and a real server said to each other through a program in the place of ssh, in the
order in which a relay would have seen it; the tests of SFTP and SCP and the fuzzer play it to a watch.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd import digest
from proxyd.digest import Body, Digest, Room
from proxyd.protocols.ssh import transfers
from proxyd.protocols.ssh.scp import ScpWatch
from proxyd.protocols.ssh.sftp import SftpWatch
from proxyd.protocols.ssh.transfers import (
    Classified,
    Event,
    Finding,
    RsyncWatch,
    Transfer,
    classify,
    sniff,
    watch_for,
)

SFTP_SERVERS = ("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec")
RUN_S = 60.0
FRAME = struct.Struct(">BI")  # from the client?, bytes

RELAY = """#!{python}
import os, select, subprocess, sys, threading
words = sys.argv[1:]
if "-s" in words:
    kind, command, argv = "subsystem", words[-1], [{sftp_server!r}]
else:
    rest = words[words.index("--") + 2 :] if "--" in words else words[1:]
    kind, command = "exec", " ".join(rest)
    argv = ["/bin/sh", "-c", command]
log = open({log!r}, "ab", buffering=0)
turn = threading.Lock()
with open({log!r} + ".command", "wb") as file:
    file.write(kind.encode() + b"\\n" + os.fsencode(command))
child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd={target!r})


def pump(source, sink):
    try:
        while True:
            select.select([source], [], [])
            data = os.read(source, 32768)
            if not data:
                break
            with turn:
                log.write(bytes([source == 0]) + len(data).to_bytes(4, "big") + data)
            while data:
                select.select([], [sink], [])
                try:
                    data = data[os.write(sink, data) :]
                except BlockingIOError:
                    continue
    except OSError:
        pass
    os.close(sink)


up = threading.Thread(target=pump, args=(0, os.dup(child.stdin.fileno())), daemon=True)
child.stdin.close()
up.start()
pump(child.stdout.fileno(), 1)
status = child.wait()
os._exit(status)
"""


def sftp_server() -> str:
    found = shutil.which("sftp-server", path=os.pathsep.join(SFTP_SERVERS))
    if found is None:
        pytest.skip("needs OpenSSH's sftp-server")
    return found


@dataclass
class Conversation:
    """What was said: (by the client?, bytes) in order, for the command the client asked for."""

    kind: str
    command: bytes
    said: list[tuple[bool, bytes]]
    status: int
    errors: str = ""

    def cut(self, size: int) -> Iterable[tuple[bool, bytes]]:
        """The same in pieces of at most `size` bytes."""
        for by_client, data in self.said:
            for at in range(0, len(data), size):
                yield by_client, data[at : at + size]


class Ear:
    """Takes events as an engine does: late ones come from another thread and are called by `settle`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    @property
    def transfers(self) -> list[Transfer]:
        return [event for event in self.events if isinstance(event, Transfer)]

    @property
    def findings(self) -> list[Finding]:
        return [event for event in self.events if isinstance(event, Finding)]

    def close(self, watch: transfers.Watch, status: int | None = None) -> None:
        """Close `watch` and wait for its last event."""
        done: list[bool] = []
        watch.close(status, lambda: done.append(True))
        while not done:
            self.later.get(timeout=RUN_S)()

    def summary(self) -> list[dict]:
        return sorted(
            (event.as_map() for event in self.events), key=lambda told: sorted(map(str, told.items()))
        )


def heard(talk: Conversation, size: int = 1 << 20) -> tuple[transfers.Watch, Ear]:
    """Play a conversation to its watch, in pieces of at most `size` bytes."""
    ear = Ear()
    watch = watch_for(talk.kind, talk.command, ear.events.append, ear.later.put)
    assert watch is not None, talk.command
    for by_client, data in talk.cut(size):
        (watch.from_client if by_client else watch.from_target)(data)
    ear.close(watch, talk.status)
    return watch, ear


class Place:
    """A directory with a client's side (`here`) and a target's side (`there`), and a program that relays as ssh would."""

    def __init__(self, root: Path) -> None:
        self.here, self.there = root / "here", root / "there"
        self.here.mkdir(parents=True)
        self.there.mkdir()
        self.log = root / "said"
        self.relay = root / "relay"
        self.relay.write_text(
            RELAY.format(
                python=sys.executable, log=str(self.log), target=str(self.there), sftp_server=sftp_server()
            )
        )
        self.relay.chmod(0o700)

    def run(self, *argv: str, stdin: str = "") -> Conversation:
        """Run a client, `{relay}` in its arguments being the program that stands for ssh."""
        self.log.write_bytes(b"")
        if shutil.which(argv[0]) is None:
            pytest.skip(f"needs {argv[0]}")
        done = subprocess.run(
            [word.replace("{relay}", str(self.relay)) for word in argv],
            input=stdin.encode(),
            capture_output=True,
            cwd=self.here,
            timeout=RUN_S,
            check=False,
        )
        kind, _, command = Path(f"{self.log}.command").read_bytes().partition(b"\n")
        return Conversation(kind.decode(), command, self.said(), done.returncode, done.stderr.decode())

    def said(self) -> list[tuple[bool, bytes]]:
        said, log, at = [], self.log.read_bytes(), 0
        while at < len(log):
            by_client, size = FRAME.unpack_from(log, at)
            at += FRAME.size + size
            said.append((bool(by_client), log[at - size : at]))
        return said

    def file(self, side: str, name: str, size: int) -> Path:
        """Make a file of random bytes."""
        path = (self.here if side == "here" else self.there) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def never(event: Event) -> None:
    raise AssertionError(event)


def later(call: Callable[[], None]) -> None:
    raise AssertionError(call)


# ---------------------------------------------------------------------- which command


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    ("command", "watch"),
    [
        (b"scp -t /tmp/x", ScpWatch),
        (b"scp -r -p -t -- -odd", ScpWatch),
        (b"scp -v -f a b 'c d' \xff\xfe", ScpWatch),
        (b"scp -f ~/logs/*.{gz,txt} $HOME/x ${USER}", ScpWatch),
        (b"scp -t 'R&D; $(x) | `y`'", ScpWatch),
        (b'scp -t "a\\"b $HOME;"', ScpWatch),
        (b"scp -t a\\;b", ScpWatch),
        (b"/usr/bin/scp -pt x", ScpWatch),
        (b"rsync --server -logDtpre.iLsfxCIvu . /x\\ y/", RsyncWatch),
        (b"rsync --server --sender -e.LsfxCIvu . x", RsyncWatch),
        (b"sudo rsync --server -s", RsyncWatch),
        (b"sudo -n -u backup rsync --server . x", RsyncWatch),
        (b"/usr/lib/openssh/sftp-server", SftpWatch),
        (b"sudo /usr/libexec/openssh/sftp-server -l INFO", SftpWatch),
    ],
)
def test_a_transfer_is_known_by_its_command(command, watch):
    classified = classify("exec", command, never, later)
    assert type(classified.watch) is watch
    assert classified.finding is None


@pytest.mark.mission("M11")
@pytest.mark.parametrize(
    "tail",
    [b"; bash", b"&& sh", b"| sh", b"& sh", b"\nsh", b" '\n'", b" > /x", b" < /y", b" $(sh)", b" `sh`"],
)
@pytest.mark.parametrize(
    "transfer",
    [b"scp -t /tmp/x", b"rsync --server . x", b"sftp-server", b"sudo -n scp -f y", b"/usr/bin/scp -f y"],
)
def test_a_command_that_only_looks_like_a_transfer_is_recorded_whole_and_found(transfer, tail):
    classified = classify("exec", transfer + tail, never, later)
    assert classified.watch is None
    assert (classified.finding.code, classified.finding.severity) == ("pretends-transfer", "high")


@pytest.mark.mission("M11")
@pytest.mark.parametrize(
    "command",
    [
        b'scp -t "$(sh)"',
        b'scp -t "`sh`"',
        b"scp -t ${x:=$(sh)}",
        b"scp -t $((a[0]))",
        b"scp -t <(sh)",
        b"scp -t x\0; sh",
        b"scp -t *(e:'sh':)",
        b"scp -t x\\\n; sh",
        b"sftp-server;sh",
        b"scp -t 'x",
    ],
)
def test_no_quoting_hides_what_the_shell_would_run(command):
    classified = classify("exec", command, never, later)
    assert classified.watch is None
    assert classified.finding.code == "pretends-transfer"


@pytest.mark.mission("M11")
@pytest.mark.parametrize(
    "command",
    [
        b"./scp -t x",
        b"/tmp/rsync --server . x",
        b"/usr/../tmp/sftp-server",
        b"~/bin/scp -f x",
        b"sudo /home/u/scp -t x",
    ],
)
def test_a_program_of_the_users_own_is_no_transfer(command):
    classified = classify("exec", command, never, later)
    assert classified.watch is None
    assert (classified.finding.code, classified.finding.severity) == ("pretends-transfer", "medium")


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"ls -l; id",
        b"scp a host:b",
        b"scp -r my-file host:b && echo -t",
        b"scp -oStrictHostKeyChecking=no a host:b; ls",
        b"scp -t",
        b"scp -t a b",
        b"scp -tf a",
        b"scp -S sh -t x",
        b"rsync a b",
        b"rsync --server --daemon .",
        b"mkdir -p /x && rsync --server . x",
        b"sudo -S scp -t x",
        b"scp-like -t x; sh",
        b"sftp-server.sh; x",
        b"A=b scp -t x",
    ],
)
def test_anything_else_is_neither(command):
    assert classify("exec", command, never, later) == (None, None)


@pytest.mark.mission("M5")
def test_only_the_sftp_subsystem_is_sftp():
    assert isinstance(watch_for("subsystem", b"sftp", never, later), SftpWatch)
    assert watch_for("subsystem", b"netconf", never, later) is None


@pytest.mark.mission("M11")
def test_watch_for_tells_the_finding_itself():
    events: list[Event] = []
    assert watch_for("exec", b"scp -t x; sh", events.append, later) is None
    assert [event.as_map()["code"] for event in events] == ["pretends-transfer"]


@pytest.mark.mission("M11")
@pytest.mark.parametrize("part", [b"-t ", b"scp ", b"sudo -a ", b"$a", b"-t-f ", b"'a'", b'"$a"', b"\\ "])
def test_a_long_command_is_judged_whatever_it_is_made_of(part: bytes) -> None:
    """What it takes is measured by bench/transfers.py; without end, the test's own timeout says so."""
    longest = b"scp -t " + part * (transfers.COMMAND_LIMIT // len(part) - 7)
    too_long = part * (256 * 1024 // len(part))
    assert classify("exec", longest, never, later).finding is None
    finding = classify("exec", longest + b" -t x;", never, later).finding
    assert finding is not None
    assert finding.code == "pretends-transfer"
    for end in (b"", b";", b"'", b" -t x;"):
        assert classify("exec", too_long + end, never, later) == Classified()
        assert classify("exec", b"scp -t " + too_long + end, never, later) == Classified()


# ---------------------------------------------------------------------- inside a forward


@pytest.mark.mission("M11")
@pytest.mark.parametrize(
    ("first", "what"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ssh"),
        (b"SSH-1.99-x", "ssh"),
        (b"SSH-2", None),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "tls"),
        (b"\x16\x03\x01\x02\x00\x02\x00\x01", None),
        (b"\x03\x00\x00\x2b\x26\xe0\x00\x00", "rdp"),
        (b"\x03\x00\x00\x13\x0e\xd0\x00\x00", "rdp"),
        (b"GET / HT", None),
        (b"", None),
    ],
)
def test_what_runs_inside_a_forward(first, what):
    assert sniff(first) == what
    if what is not None:
        assert sniff(first[: transfers.SNIFF_BYTES]) == what


# ---------------------------------------------------------------------- rsync


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    "options", [["-a"], ["-az"], ["-as"], ["-as", "--partial-dir=.p"], ["-ab", "--backup-dir=old"]]
)
@pytest.mark.parametrize("size", [1 << 20, 1])
def test_rsync_is_counted_and_its_paths_told(place, options, size):
    body = place.file("here", "a", 300_000)
    put = place.run("rsync", *options, "-e", "{relay}", "a", "host:x y")
    assert put.status == 0, put.errors
    assert sha256(place.there / "x y") == sha256(body)
    watch, ear = heard(put, size)
    assert not ear.findings
    [told] = ear.transfers
    assert (told.operation, told.detail, told.path, told.result) == ("rsync", "put", "x y", "ok")
    assert 300_000 < told.size == watch.omitted_input < 320_000

    got = place.run("rsync", *options, "-e", "{relay}", "host:x y", "b")
    assert got.status == 0, got.errors
    watch, ear = heard(got, size)
    [told] = ear.transfers
    assert (told.detail, told.path, told.result) == ("get", "x y", "ok")
    assert 300_000 < told.size == watch.omitted_output < 320_000


@pytest.mark.mission("M5")
def test_an_rsync_that_fails_says_so(place):
    talk = place.run("rsync", "-a", "-e", "{relay}", "host:absent", ".")
    assert talk.status != 0
    _, ear = heard(talk)
    assert ear.transfers[0].result == f"exit status {talk.status}"


@pytest.mark.mission("M11")
@pytest.mark.parametrize("command", [b"rsync --server . x", b"rsync --server -s"])
@pytest.mark.parametrize("size", [1, 4, 70_000])
def test_a_shell_behind_rsyncs_name_is_found(command, size):
    ear = Ear()
    watch = watch_for("exec", command, ear.events.append, ear.later.put)
    recorded = b""
    sent = b"id; ls /root\n" * 10_000
    for at in range(0, len(sent), size):
        data = sent[at : at + size]
        watch.from_client(data)
        if watch.broken:
            recorded = watch.held_input + data
            break
    assert [finding.code for finding in ear.findings] == ["not-rsync"]
    assert sent.startswith(recorded)
    assert len(recorded) <= transfers.ARGUMENTS_LIMIT + 2 * size
    assert watch.omitted_input == 0
    ear.close(watch)
    assert [told.result for told in ear.transfers] == ["incomplete"]


# ---------------------------------------------------------------------- the hash, beside the loop


def hashed(pieces: list[bytes]) -> str:
    calls: queue.SimpleQueue = queue.SimpleQueue()
    said: list[str] = []
    made = Digest(calls.put)
    for piece in pieces:
        made.update(piece)
    made.finish(said.append)
    calls.get(timeout=RUN_S)()
    return said[0]


@pytest.mark.mission("M5")
@given(st.lists(st.binary(max_size=5000), max_size=40))
def test_the_thread_hashes_what_was_given(pieces):
    assert hashed(pieces) == hashlib.sha256(b"".join(pieces)).hexdigest()


@pytest.mark.mission("M5")
def test_the_hash_runs_on_one_other_thread_and_what_waits_is_bounded():
    piece = os.urandom(32768)
    made = Digest(later)
    most = 0
    for _ in range(20_000):
        made.update(piece)
        most = max(most, digest._thread.waiting_bytes)
    made.abandon()
    assert most <= digest.QUEUED_LIMIT + len(piece) + digest.PIECE_COST
    assert [thread.name for thread in threading.enumerate()].count("proxyd-sha256") == 1


@pytest.mark.mission("M5")
def test_many_digests_side_by_side_give_their_own_hashes_and_leave_nothing():
    calls: queue.SimpleQueue = queue.SimpleQueue()
    said: dict[int, str] = {}
    bodies = [os.urandom(100_000) for _ in range(50)]
    made = [Digest(calls.put) for _ in bodies]
    for at in range(0, 100_000, 10_000):
        for one, body in zip(made, bodies, strict=True):
            one.update(memoryview(body)[at : at + 10_000])
    for number, one in enumerate(made):
        one.finish(lambda sha, number=number: said.__setitem__(number, sha))
    for _ in bodies:
        calls.get(timeout=RUN_S)()
    assert said == {number: hashlib.sha256(body).hexdigest() for number, body in enumerate(bodies)}
    deadline = time.monotonic() + RUN_S
    while digest._thread.waiting_bytes:
        assert time.monotonic() < deadline, digest._thread.waiting_bytes
        os.sched_yield()


@pytest.mark.mission("M5")
def test_a_loop_that_has_ended_does_not_end_the_thread():
    def ended(call):
        raise RuntimeError("loop is closed")

    gone = Digest(ended)
    gone.update(b"x")
    gone.finish(never)
    assert hashed([b"y"]) == hashlib.sha256(b"y").hexdigest()


def body_of(blocks: list[tuple[int, bytes]]) -> tuple[Body, str | None, str]:
    calls: queue.SimpleQueue = queue.SimpleQueue()
    said: list[tuple[str | None, str]] = []
    body = Body(calls.put, room := Room())
    for offset, data in blocks:
        body.begin(offset)
        for at in range(0, len(data), 1000):
            body.piece(data[at : at + 1000])
        body.end()
    body.finish(lambda sha, why: said.append((sha, why)))
    if not said:
        calls.get(timeout=RUN_S)()
    assert room.used == 0
    return body, *said[0]


@pytest.mark.mission("M5")
@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=30), st.randoms(use_true_random=False))
def test_blocks_in_any_order_give_the_bodys_hash(blocks, random):
    placed, at = [], 0
    for block in blocks:
        placed.append((at, block))
        at += len(block)
    random.shuffle(placed)
    body, said, _ = body_of(placed)
    assert said == hashlib.sha256(b"".join(blocks)).hexdigest()
    assert body.size == at


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ([(10, b"x")], "does not begin at offset 0"),
        ([(1 << 40, b"x"), (0, b"y")], "does not begin at offset 0"),
        ([(0, b"ab"), (5, b"x")], "out of sequence"),
        ([(0, b"ab"), (1, b"x")], "passed more than once"),
        ([(0, b"ab"), (3, b"x"), (3, b"y"), (2, b"z")], "passed more than once"),
        ([(3, b"x"), (0, b"abcdef")], "passed more than once"),
        ([(1, bytes(digest.REORDER_LIMIT)), (0, b"a")], "does not begin at offset 0"),
    ],
)
def test_a_body_that_did_not_pass_once_in_sequence_has_no_hash(blocks, why):
    body, said, told = body_of(blocks)
    assert said is None
    assert told == why
    assert body.size == sum(len(data) for _, data in blocks)


@pytest.mark.mission("M5")
def test_blocks_of_a_byte_ahead_of_their_place_are_bounded_too():
    body = Body(later, room := Room())
    for offset in range(2, 200_000, 2):
        body.begin(offset)
        body.piece(b"x")
        body.end()
    assert body.why
    assert room.used == 0
    assert not body._ahead


@pytest.mark.mission("M5")
def test_a_transfers_record_leaves_out_what_says_nothing():
    assert Transfer("sftp", "remove", "/x").as_map() == {
        "protocol": "sftp",
        "operation": "remove",
        "path": "/x",
        "size": 0,
        "sha256": None,
        "result": "ok",
    }
    assert Transfer("scp", "put", "/x", expected=0, truncated=True).as_map()["truncated"] is True
    assert Finding("a", "low", "b").as_map() == {"code": "a", "severity": "low", "text": "b"}
