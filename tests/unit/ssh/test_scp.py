"""SCP told as events: OpenSSH's scp on both ends, and what no decent peer would send."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from unit.ssh.test_transfers import Conversation, Ear, Place, heard, sha256

from proxyd.events import Transfer
from proxyd.protocols.ssh import scp
from proxyd.protocols.ssh.scp import ScpCommand, ScpWatch, scp_command

CLIENT, TARGET = True, False


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def scp_run(place: Place, *arguments: str) -> Conversation:
    return place.run("scp", "-q", "-O", "-S", "{relay}", *arguments)


def told(talk: Conversation) -> list[Transfer]:
    """Give the events, the same however the bytes are cut; all bytes are omitted."""
    watch, ear = heard(talk)
    assert isinstance(watch, ScpWatch)
    for size in (1, 3, 1000):
        again, by_piece = heard(talk, size)
        assert by_piece.summary() == ear.summary()
        assert not again.broken
    assert not ear.findings
    assert not watch._asked or talk.status
    assert watch.omitted_input == sum(len(data) for by_client, data in talk.said if by_client)
    assert watch.omitted_output == sum(len(data) for by_client, data in talk.said if not by_client)
    return ear.transfers


# ---------------------------------------------------------------------- real peers


@pytest.mark.mission("M5")
@pytest.mark.parametrize("size", [0, 1, 32768, 300_003])
@pytest.mark.parametrize("options", [(), ("-p",)])
def test_put_and_get_have_size_and_hash(place, size, options):
    body = place.file("here", "a", size)
    put = scp_run(place, *options, "a", "host:b")
    got = scp_run(place, *options, "host:b", "c")
    assert put.status == got.status == 0, put.errors + got.errors
    assert sha256(place.here / "c") == sha256(body)
    [event] = told(put)
    assert (event.operation, event.path, event.name) == ("put", "b", "a")
    assert (event.size, event.sha256, event.result) == (size, sha256(body), "ok")
    [event] = told(got)
    assert (event.operation, event.path, event.name) == ("get", "b", "b")
    assert (event.size, event.sha256, event.result) == (size, sha256(body), "ok")


@pytest.mark.mission("M5")
def test_trees_go_file_by_file(place):
    bodies = {
        name: place.file("here", f"tree/{name}", 1000 * n)
        for n, name in enumerate(("a", "s/b", "s/t/c", "u/d e"))
    }
    (place.there / "into").mkdir()
    put = scp_run(place, "-rp", "tree", "host:into/")
    got = scp_run(place, "-r", "host:into/tree", "back")
    assert put.status == got.status == 0, put.errors + got.errors
    events = told(put)
    assert {event.path for event in events if event.operation == "mkdir"} == {
        f"into/tree{sub}" for sub in ("", "/s", "/s/t", "/u")
    }
    assert {(event.path, event.sha256) for event in events if event.operation == "put"} == {
        (f"into/tree/{name}", sha256(body)) for name, body in bodies.items()
    }
    assert {(event.operation, event.path, event.sha256) for event in told(got)} == {
        ("get", f"into/tree/{name}", sha256(body)) for name, body in bodies.items()
    }


@pytest.mark.mission("M5")
def test_several_files_and_patterns(place):
    bodies = {name: place.file("there", f"d/{name}", 100) for name in ("a.txt", "b.txt")}
    place.file("here", "x", 10)
    place.file("here", "y", 10)
    put = scp_run(place, "x", "y", "host:d")
    got = scp_run(place, "host:d/*.txt", ".")
    assert put.status == got.status == 0, put.errors + got.errors
    assert [(event.path, event.name) for event in told(put)] == [("d/x", "x"), ("d/y", "y")]
    assert [(event.path, event.sha256) for event in told(got)] == [
        (f"d/{name}", sha256(body)) for name, body in sorted(bodies.items())
    ]


@pytest.mark.mission("M5")
def test_what_the_target_refuses_is_told_with_its_words(place):
    place.file("here", "a", 10)
    [event] = told(scp_run(place, "a", "host:absent/b"))
    assert (event.operation, event.size, event.sha256, event.expected) == ("put", 0, None, 10)
    assert "absent/b" in event.result
    [event] = told(scp_run(place, "host:absent", "b"))
    assert (event.operation, event.path, event.size) == ("get", "absent", 0)
    assert "No such file" in event.result


@pytest.mark.mission("M5")
def test_a_full_disk_is_the_puts_result(place):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    body = place.file("here", "a", 100_000)
    talk = scp_run(place, "a", "host:/dev/full")
    assert talk.status
    [event] = told(talk)
    assert (event.path, event.size, event.sha256) == ("/dev/full", 100_000, sha256(body))
    assert "No space left" in event.result


@pytest.mark.mission("M5")
def test_one_refused_file_does_not_hide_the_next(place):
    bodies = [place.file("here", name, 50_000) for name in ("a", "b")]
    (place.there / "d" / "a").mkdir(parents=True)
    talk = scp_run(place, "a", "b", "host:d")
    first, second = told(talk)
    assert first.result != "ok"
    assert (second.path, second.sha256, second.result) == ("d/b", sha256(bodies[1]), "ok")


@pytest.mark.mission("M5")
def test_a_transfer_cut_in_the_middle_is_incomplete(place):
    place.file("here", "a", 1_000_000)
    talk = scp_run(place, "a", "host:b")
    half = Conversation(talk.kind, talk.command, talk.said[:8], 1)
    _, ear = heard(half)
    [event] = ear.transfers
    assert (event.result, event.sha256, event.expected) == ("incomplete", None, 1_000_000)
    assert 0 < event.size < 1_000_000


# ---------------------------------------------------------------------- lines by hand


def play(command: bytes, *said: tuple[bool, bytes], size: int = 1 << 20) -> tuple[ScpWatch, Ear]:
    watch, ear = heard(Conversation("exec", command, list(said), 0), size)
    assert isinstance(watch, ScpWatch)
    return watch, ear


@pytest.mark.mission("M5")
def test_a_sender_that_waits_for_nothing(place):
    """As some libraries do: line, body and status in one write."""
    _, ear = play(b"scp -t /d/x", (CLIENT, b"C0644 3 x\nabc\0"), (TARGET, b"\0\0\0"))
    [event] = ear.transfers
    assert (event.path, event.sha256, event.result) == ("/d/x", hashlib.sha256(b"abc").hexdigest(), "ok")


@pytest.mark.mission("M5")
def test_what_went_wrong_with_a_body_is_its_result():
    start = ((TARGET, b"\0"), (CLIENT, b"C0644 3 x\n"), (TARGET, b"\0"))
    _, ear = play(b"scp -t x", *start, (CLIENT, b"abc\1disk error\n"), (TARGET, b"\0"))
    assert [event.result for event in ear.transfers] == ["disk error"]
    _, ear = play(b"scp -t x", *start, (CLIENT, b"abc\0"), (TARGET, b"\1quota\n"), size=1)
    assert [event.result for event in ear.transfers] == ["quota"]
    _, ear = play(b"scp -t x", *start, (CLIENT, b"abc\0"))
    assert [event.result for event in ear.transfers] == ["incomplete"]


@pytest.mark.mission("M5")
def test_two_errors_for_one_file_do_not_shift_the_next():
    said = [
        (TARGET, b"\0"),
        (CLIENT, b"C0644 1 x\n"),
        (TARGET, b"\0"),
        (CLIENT, b"a\0"),
        (TARGET, b"\1times\n\1size\n"),
    ]
    said += [(CLIENT, b"C0644 1 y\n"), (TARGET, b"\0"), (CLIENT, b"b\0"), (TARGET, b"\0")]
    _, ear = play(b"scp -d -t d", *said)
    assert not ear.findings
    assert [(event.path, event.result) for event in ear.transfers] == [("d/x", "times"), ("d/y", "ok")]


@pytest.mark.mission("M5")
def test_a_refused_directory_is_left_out_of_the_path():
    said = [
        (TARGET, b"\0"),
        (CLIENT, b"D0755 0 a\n"),
        (TARGET, b"\1denied\n"),
        (CLIENT, b"D0755 0 b\n"),
        (TARGET, b"\0"),
    ]
    said += [
        (CLIENT, b"C0644 1 y\n"),
        (TARGET, b"\0"),
        (CLIENT, b"b\0"),
        (TARGET, b"\0"),
        (CLIENT, b"E\n"),
        (TARGET, b"\0"),
    ]
    _, ear = play(b"scp -r -t .", *said)
    assert [(event.operation, event.path, event.result) for event in ear.transfers] == [
        ("mkdir", "./a", "denied"),
        ("mkdir", "./b", "ok"),
        ("put", "./b/y", "ok"),
    ]


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    ("command", "name", "path"),
    [
        (b"scp -t /tmp/x", b"a", "/tmp/x"),
        (b"scp -t /tmp/a", b"a", "/tmp/a"),
        (b"scp -t /tmp/", b"a", "/tmp/a"),
        (b"scp -d -t /tmp", b"a", "/tmp/a"),
        (b"scp -t .", b"a", "./a"),
        (b"scp -t ~", b"a", "~/a"),
        (b"scp -t /", b"a", "/a"),
    ],
)
def test_where_a_put_goes_as_far_as_it_shows(command, name, path):
    _, ear = play(
        command,
        (TARGET, b"\0"),
        (CLIENT, b"C0644 0 " + name + b"\n"),
        (TARGET, b"\0"),
        (CLIENT, b"\0"),
        (TARGET, b"\0"),
    )
    assert [event.path for event in ear.transfers] == [path]


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        ([b"-t", b"x"], ScpCommand(True, (b"x",))),
        ([b"-rpdt", b"--", b"-x"], ScpCommand(True, (b"-x",), True, True)),
        ([b"-f", b"x", b"y"], ScpCommand(False, (b"x", b"y"))),
        ([b"-t"], None),
        ([b"-t", b"-f", b"x"], None),
        ([b"-Sx", b"-t", b"x"], None),
        ([], None),
    ],
)
def test_the_command_line(arguments, parsed):
    assert scp_command(arguments) == parsed


# ---------------------------------------------------------------------- what is not SCP

READY = (TARGET, b"\0")
NOT_SCP = {
    "a shell's input": (b"scp -t x", [READY, (CLIENT, b"id; ls\n")]),
    "a shell's output": (b"scp -t x", [(TARGET, b"Welcome\n")]),
    "a shell behind -f": (b"scp -f x", [(CLIENT, b"\0"), (TARGET, b"# ")]),
    "input behind -f": (b"scp -f x", [(CLIENT, b"id\n")]),
    "a body after a refusal": (b"scp -t x", [READY, (CLIENT, b"C0644 9 x\nC0644"), (TARGET, b"\1no\n")]),
    "an empty body after a refusal": (b"scp -t x", [READY, (CLIENT, b"C0644 0 x\n\0"), (TARGET, b"\1no\n")]),
    "entries after a refusal": (
        b"scp -rt x",
        [READY, (CLIENT, b"D0755 0 x\nC0644 0 y\n"), (TARGET, b"\1no\n")],
    ),
    "half an entry after a refusal": (
        b"scp -rt x",
        [READY, (CLIENT, b"D0755 0 x\nC06"), (TARGET, b"\1no\n")],
    ),
    "a directory unasked": (b"scp -t x", [READY, (CLIENT, b"D0755 0 x\n")]),
    "an end unasked": (b"scp -rt x", [READY, (CLIENT, b"E\n")]),
    "a bad entry": (b"scp -t x", [READY, (CLIENT, b"C644 9 x\n")]),
    "a size without end": (b"scp -t x", [READY, (CLIENT, b"C0644 " + b"9" * 30 + b" x\n")]),
    "bad times": (b"scp -t x", [READY, (CLIENT, b"T12\n")]),
    "a line without end": (b"scp -t x", [READY, (CLIENT, b"C" * (scp.LINE_LIMIT + 2))]),
    "a text without end": (b"scp -t x", [(TARGET, b"\1" * (scp.LINE_LIMIT + 2))]),
    "a body longer than said": (b"scp -t x", [READY, (CLIENT, b"C0644 1 x\n"), READY, (CLIENT, b"abc")]),
    "a zero where a line should be": (b"scp -t x", [READY, (CLIENT, b"\0")]),
    "a status unasked": (b"scp -t x", [READY, READY]),
    "errors unasked": (b"scp -t x", [READY, (TARGET, b"\1x\n" * (scp.UNASKED_LIMIT + 1))]),
    "much unanswered": (b"scp -t x", [(CLIENT, b"T1 0 1 0\n" * scp.UNANSWERED_LIMIT)]),
    "deep": (b"scp -rt x", [(CLIENT, b"D0755 0 x\n"), (TARGET, b"\0\0")] * 3000),
    "wide": (b"scp -rt x", [(CLIENT, b"D0755 0 " + b"x" * 8000 + b"\n"), (TARGET, b"\0")] * 20),
}


@pytest.mark.mission("M11")
@pytest.mark.parametrize("name", NOT_SCP)
@pytest.mark.parametrize("size", [1 << 20, 1])
def test_what_is_not_scp_is_found_once_and_the_rest_is_left_alone(name, size):
    command, said = NOT_SCP[name]
    ear = Ear()
    watch = watch_of(command, ear)
    recorded = {CLIENT: b"", TARGET: b""}
    passed = {CLIENT: b"", TARGET: b""}
    for by_client, data in Conversation("exec", command, [*said, (CLIENT, b"id\n")], 0).cut(size):
        was = watch.broken
        (watch.from_client if by_client else watch.from_target)(data)
        passed[by_client] += data
        if watch.broken and not was:
            recorded[CLIENT] += watch.held_input
            recorded[TARGET] += watch.held_output
        if watch.broken:
            recorded[by_client] += data
    assert [(event.code, event.severity) for event in ear.findings] == [("not-scp", "high")]
    assert all(passed[side].endswith(recorded[side]) for side in passed)
    assert watch.omitted_input + len(recorded[CLIENT]) == len(passed[CLIENT])
    assert watch.omitted_output + len(recorded[TARGET]) == len(passed[TARGET])
    ear.close(watch)
    assert not any(
        event.result == "ok" and event.sha256 for event in ear.transfers if event.operation == "put"
    )


def watch_of(command: bytes, ear: Ear) -> ScpWatch:
    parsed = scp_command(command.split()[1:])
    assert parsed is not None
    return ScpWatch(parsed, ear.events.append, ear.later.put)
