"""The transfer watches on hostile bytes: they never raise, keep little, and say at most once that a stream is none."""

from __future__ import annotations

import queue
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.ssh.test_transfers import Conversation, Place

from proxyd.digest import REORDER_LIMIT
from proxyd.events import Finding
from proxyd.protocols.ssh import scp, sftp, transfers
from proxyd.protocols.ssh.scp import ScpWatch
from proxyd.protocols.ssh.sftp import SftpWatch
from proxyd.protocols.ssh.sftp_packets import KEPT_LIMIT, Packet
from proxyd.protocols.ssh.transfers import Event, RsyncWatch, classify, sniff
from proxyd.protocols.ssh.watch import StreamWatch
from proxyd.protocols.ssh.wire import string

COMMANDS = [
    ("subsystem", b"sftp"),
    ("exec", b"scp -rt x"),
    ("exec", b"scp -d -t x"),
    ("exec", b"scp -rf x y"),
    ("exec", b"rsync --server . x"),
    ("exec", b"rsync --server --sender -s"),
]
FUZZ = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def fed(kind: str, command: bytes, said: list[tuple[bool, bytes]]) -> tuple[StreamWatch, list[Event]]:
    """Play `said` to a watch of `command`, and check what must hold whatever it was."""
    events: list[Event] = []
    later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    watch = classify(kind, command, events.append, later.put).watch
    assert isinstance(watch, StreamWatch)
    passed, unparsed = [0, 0], [0, 0]
    for by_client, data in said:
        was = watch.broken
        (watch.from_client if by_client else watch.from_target)(data)
        passed[by_client] += len(data)
        if watch.broken:
            unparsed[by_client] += len(data)
        if watch.broken and not was:
            unparsed[1] += len(watch.held_input)
            unparsed[0] += len(watch.held_output)
        check_bounds(watch)
    assert (watch.omitted_output, watch.omitted_input) == (passed[0] - unparsed[0], passed[1] - unparsed[1])
    done: list[bool] = []
    watch.close(0, lambda: done.append(True))
    while not done:
        later.get(timeout=60)()
    assert sum(isinstance(event, Finding) for event in events) == watch.broken
    assert watch._room.used == 0 or watch.broken
    for event in events:
        event.as_map()
    return watch, events


def check_bounds(watch: StreamWatch) -> None:
    assert 0 <= watch._room.used <= REORDER_LIMIT + 1024
    match watch:
        case SftpWatch():
            assert len(watch._pending) <= sftp.PENDING
            assert 0 <= watch._told_pending <= sftp.TOLD_PENDING
            assert len(watch._files) <= sftp.OPEN_FILES
            assert len(watch._from_client._held) <= KEPT_LIMIT
            assert len(watch._from_target._held) <= KEPT_LIMIT
        case ScpWatch():
            assert len(watch._asked) <= scp.UNANSWERED_LIMIT
            assert len(watch._line) <= scp.LINE_LIMIT + 1
            assert len(watch._text) <= scp.LINE_LIMIT + 1
            assert watch._path_bytes <= scp.PATH_LIMIT + scp.LINE_LIMIT
        case RsyncWatch():
            assert len(watch._arguments or b"") <= transfers.ARGUMENTS_LIMIT + 2


said_of = st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=30)


@pytest.mark.mission("M11")
@FUZZ
@given(st.sampled_from(COMMANDS), said_of)
def test_random_bytes(command, said):
    fed(*command, said)


@pytest.mark.mission("M11")
@FUZZ
@given(st.binary(max_size=200), st.sampled_from([b"", b"scp -t ", b"sudo rsync --server ", b"sftp-server "]))
def test_random_commands(command, start):
    classified = classify("exec", start + command, lambda _: None, lambda _: None)
    assert classified.watch is None or classified.finding is None
    if any(byte in command for byte in b"\n\0"):
        assert classified.watch is None
    sniff(command)


HANDLES = st.sampled_from([b"", b"0", b"\0\0\0\1", b"h" * 256, b"h" * 257])
NUMBERS = st.sampled_from([0, 1, 2, 3, 10, 32768, REORDER_LIMIT, REORDER_LIMIT + 2, 2**63, 2**64 - 1])
FIELDS = st.one_of(
    HANDLES.map(string),
    NUMBERS.map(lambda number: struct.pack(">Q", number)),
    NUMBERS.map(lambda number: struct.pack(">I", number & 0xFFFFFFFF)),
    st.binary(max_size=40).map(string),
    st.sampled_from([b"copy-data", b"posix-rename@openssh.com", b"lsetstat@openssh.com", b"?"]).map(string),
    st.binary(max_size=8),
)


@st.composite
def packets(draw: st.DrawFn) -> tuple[bool, bytes]:
    """A packet with the right frame, a likely type and id, and likely fields in any order."""
    by_client = draw(st.booleans())
    kinds = [kind for kind in Packet if (kind < 100 or kind == 200) is by_client]
    kind, request = draw(st.sampled_from(kinds)), draw(st.integers(0, 6))
    shape = draw(st.integers(0, 3))
    if kind == Packet.WRITE and shape:
        fields = (
            string(draw(HANDLES)) + struct.pack(">Q", draw(NUMBERS)) + string(draw(st.binary(max_size=40)))
        )
    elif kind == Packet.READ and shape:
        fields = string(draw(HANDLES)) + struct.pack(">QI", draw(NUMBERS), 40)
    elif kind in (Packet.HANDLE, Packet.CLOSE) and shape:
        fields = string(draw(HANDLES))
    elif kind == Packet.OPEN and shape:
        fields = string(draw(st.binary(max_size=20))) + struct.pack(">II", draw(st.integers(0, 63)), 0)
    else:
        fields = b"".join(draw(st.lists(FIELDS, max_size=5)))
    return by_client, string(bytes([kind]) + struct.pack(">I", request) + fields)


START = [(True, string(b"\1\0\0\0\3")), (False, string(b"\2\0\0\0\3"))]


@pytest.mark.mission("M11")
@FUZZ
@given(st.lists(packets(), max_size=40), st.sampled_from([1, 7, 1 << 20]))
def test_packets_in_any_order(said, size):
    talk = Conversation("subsystem", b"sftp", [*START, *said], 0)
    fed("subsystem", b"sftp", list(talk.cut(size)))


LINES = st.sampled_from(
    [
        b"\0",
        b"\0",
        b"\0",
        b"\1no\n",
        b"\2end\n",
        b"C0644 3 x\n",
        b"abc\0",
        b"C0644 0 y\n",
        b"D0755 0 d\n",
        b"E\n",
        b"T1 0 1 0\n",
        b"ab",
    ]
)


@pytest.mark.mission("M11")
@FUZZ
@given(st.booleans(), st.lists(st.tuples(st.booleans(), LINES), max_size=40), st.sampled_from([1, 1 << 20]))
def test_lines_in_any_order(sink, said, size):
    command = b"scp -rt x" if sink else b"scp -rf x"
    said = [(by_sender is sink, line) for by_sender, line in said if by_sender or line[:1] in b"\0\1\2"]
    fed("exec", command, list(Conversation("exec", command, said, 0).cut(size)))


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> list[Conversation]:
    """What real clients and servers said."""
    place = Place(Path(tmp_path_factory.mktemp("talks")) / "place")
    for name in ("t/a", "t/s/b"):
        place.file("here", name, 3000)
    batch = "put -R t\nget -R t u\nrename t/a t/c\nchmod 600 t/c\nsymlink c t/l\nrm t/c\nls t\n"
    made = [
        place.run("sftp", "-q", "-B", "700", "-b", "-", "-S", "{relay}", "host", stdin=batch),
        place.run("scp", "-qOrp", "-S", "{relay}", "t", "host:v"),
        place.run("scp", "-qOr", "-S", "{relay}", "host:v", "w"),
        place.run("rsync", "-as", "-e", "{relay}", "t", "host:r"),
        place.run("rsync", "-a", "-e", "{relay}", "host:r", "q"),
    ]
    assert [talk.status for talk in made] == [0] * len(made), [talk.errors for talk in made]
    return made


@pytest.mark.mission("M11")
@FUZZ
@given(st.data())
def test_real_conversations_damaged(talks, data):
    talk = data.draw(st.sampled_from(talks))
    said = list(talk.cut(data.draw(st.sampled_from([1 << 20, 900, 50]))))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(said) - 1))
        by_client, piece = said[at]
        cut = data.draw(st.integers(0, len(piece)))
        match data.draw(st.integers(0, 5)):
            case 0:
                said[at] = by_client, piece[:cut] + data.draw(st.binary(max_size=9)) + piece[cut:]
            case 1:
                said[at] = by_client, piece[:cut] + data.draw(st.binary(max_size=9)) + piece[cut + 9 :]
            case 2:
                said[at] = by_client, piece[:cut]
            case 3:
                said.insert(at, said[data.draw(st.integers(0, len(said) - 1))])
            case 4:
                said[at] = not by_client, piece
            case 5 if len(said) > 1:
                del said[at]
    fed(talk.kind, talk.command, said)
