"""Commands and typed lines off a terminal's screen: transcripts of real shells, cut anywhere, and what must never be told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.index.terminal.derived import Session
from proxyd.index.terminal.marks import LONGEST, Marks, What
from proxyd.index.terminal.typing import WAITING, Typing
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item

pytestmark = pytest.mark.mission("M5", "M12")

STEP_US = 300_000  # between what is typed and what came before it
ECHO_US = 2_000

# What bash 5.2, zsh 5.9 and fish 3.6 were sent (<) and sent (>), byte by byte.
BASH = [
    b">\x1b[?2004hbash-5.2# ", b"<ech", b">ech", b"<o x\x7fy", b">o x\x08\x1b[Ky", b"<\r", b">\r\n\x1b[?2004l\ry\r\n",
    b">\x1b[?2004hbash-5.2# ", b"<\x1b[A", b">echo y", b"<\r", b">\r\n\x1b[?2004l\ry\r\n\x1b[?2004hbash-5.2# ",
    b"<\x12ec", (b">\r(reverse-i-search)`': \x08\x08\x08e': \x1b[7me\x1b[27mcho y\x08\x08\x08\x08\x08\x08\x08\x08\x08c': "
    b"\x1b[7mec\x1b[27mho y\x08\x08\x08\x08\x08\x08"), b"<\r", (b">\r\x1b[16Pbash-5.2# echo y\x08\x08\x08\x08\x08\x08\r\n\x1b[?2004l\ry\r\n"
    b"\x1b[?2004hbash-5.2# "), b"<abc", b">abc", b"<\x03",
    b">^C\x1b[?2004l\r\x1b[?2004h\x1b[?2004l\r\r\n\x1b[?2004hbash-5.2# ", b"<for i in 1 2; do\r",
    b">for i in 1 2; do\r\n\x1b[?2004l\r\x1b[?2004h> ", b"<echo $i\r", b">echo $i\r\n\x1b[?2004l\r\x1b[?2004h> ",
    b"<done\r", b">done\r\n\x1b[?2004l\r1\r\n2\r\n\x1b[?2004hbash-5.2# ", b"<read -s P\r", b">read -s P\r\n\x1b[?2004l\r",
    b"<hunter2\r", b">\x1b[?2004hbash-5.2# ", b"<sleep 1\recho t\r", b">sleep 1\r\n\x1b[?2004l\r",
    b">\x1b[?2004hbash-5.2# echo t\r\n\x1b[?2004l\rt\r\n\x1b[?2004hbash-5.2# ", b"<cat\r", b">cat\r\n\x1b[?2004l\r",
    b"<hello\r", b">hello\r\nhello\r\n", b"<\x04", b">\x1b[?2004hbash-5.2# ", b"<\x04", b">\x1b[?2004l\r\r\nexit\r\n",
]  # fmt: skip
ZSH = [
    b">\x1b[1m\x1b[7m#\x1b[27m\x1b[1m\x1b[0m" + b" " * 79 + b"\r \r\r\x1b[0m\x1b[27m\x1b[24m\x1b[Jvm# \x1b[K\x1b[?2004h",
    b"<sleep 0.1\recho t\r", b">s\x08sleep 0.1\x1b[?2004l\r\r\n",
    b">\x1b[1m\x1b[7m#\x1b[27m\x1b[1m\x1b[0m" + b" " * 79 + b"\r \r\r\x1b[0m\x1b[27m\x1b[24m\x1b[Jvm# \x1b[K\x1b[?2004h"
    b"e\x08echo t\x1b[?2004l\r\r\nt\r\n\r\x1b[0m\x1b[27m\x1b[24m\x1b[Jvm# \x1b[K\x1b[?2004h",
    b"<for i in 1; do\r", b">f\x08for i in 1; do\x1b[?2004l\r\r\n\r\x1b[0m\x1b[27m\x1b[24m\x1b[Jfor> \x1b[K\x1b[?2004h",
    b"<done\r", b">d\x08done\x1b[?2004l\r\r\n\r\x1b[0m\x1b[27m\x1b[24m\x1b[Jvm# \x1b[K\x1b[?2004h",
    b"<abc", b">a\x08abc", b"<\x03", b">\x1b[?2004l\r\r\n\r\x1b[0m\x1b[27m\x1b[24m\x1b[Jvm# \x1b[K\x1b[?2004h",
    b"<ls /us\t", b">l\x08ls /us", b">r\x1b[1m/\x1b[0m", b"<\r", b">\x08\x1b[0m \x08\x1b[?2004l\r\r\n",
    b">bin  etc\r\n\r\x1b[0m\x1b[27m\x1b[24m\x1b[Jvm# \x1b[K\x1b[?2004h",
]  # fmt: skip
_FISH_PROMPT = b"\x1b[?2004h\x1b]0;~\x07\x1b[30m\x1b(B\x1b[m\x1b[92mroot\x1b(B\x1b[m@\x1b(B\x1b[mvm \x1b[31m~\x1b(B\x1b[m# \x1b[K\r\x1b[11C"
FISH = [
    b">" + _FISH_PROMPT, b"<ech", b">ech\r\x1b[14C\x1b[38;5;240mo old\r\x1b[14C\x1b[30m\x1b(B\x1b[m", b"<o y\r",
    b">\x1b[91mo \x1b[38;5;240mold\r\x1b[16C\x1b[K\x1b[91my\r\x1b[17C\x1b[30m\x1b(B\x1b[m\r\n\x1b[30m\x1b(B\x1b[m\x1b[?2004ly\r\n" + _FISH_PROMPT,
    b"<for i in 1 2\r", b">for i in 1 2\r\n\x1b[K\x1b[A\r\n\x1b[15C", b"<echo $i\r", b">echo $i\r\n\x1b[K\x1b[A\r\n\x1b[15C",
    b"<end\r", b">\x08\x08\x08\x08end\x1b[K\r\n\x1b[30m\x1b(B\x1b[m\x1b[?2004l\r1\r\n2\r\n" + _FISH_PROMPT,
    b"<read -s P\r", b">read -s P\r\x1b[20C\r\n\x1b[30m\x1b(B\x1b[m\x1b[?2004l\r\x1b[?2004h\r\x1b[32mread\x1b(B\x1b[m> \x1b[K\r\x1b[6C",
    b"<hunter2\r", b">" + "\u25cf".encode() * 7 + b"\r\x1b[13C\r\n\x1b[30m\x1b(B\x1b[m" + _FISH_PROMPT, b"<\r",
    b">\r\n" + _FISH_PROMPT,
]  # fmt: skip
DASH = [
    b"># ", b"<id\r", b">id\r\nuid=0(root)\r\n# ", b"<su bob\r", b">su bob\r\nPassword: ", b"<hunter2\r", b">\r\n$ ",
    b"<ls -l\r", b">ls -l\r\ntotal 0\r\n$ ", b"<exit\r", b">exit\r\n# ",
]  # fmt: skip
# A shell that tells of itself by OSC 133, and runs a program that does not.
TOLD = [
    b">\x1b]133;A\x07\x1b[?2004hme: \x1b]133;B\x07", b"<false\r", b">false\r\n\x1b[?2004l\r\x1b]133;C\x07",
    b">\x1b]133;D;1\x07\x1b]133;A\x07\x1b[?2004hme: \x1b]133;B\x07", b"<mysql\r", b">mysql\r\n\x1b[?2004l\r\x1b]133;C\x07",
    b">Welcome\r\nmysql> ", b"<select 1\r", b">select 1\r\n    -> ", b"<from t;\r", b">from t;\r\n1 row\r\nmysql> ", b"<exit\r",
    b">exit\r\nBye\r\n\x1b]133;D;0\x07\x1b]133;A\x07\x1b[?2004hme: \x1b]133;B\x07",
]  # fmt: skip


class Told(NamedTuple):
    """What was derived, in short."""

    commands: list[str]
    typed: list[str]


def records(transcript: Sequence[bytes]) -> list[Record]:
    """Make records of a transcript, as somebody types who waits for answers."""
    made = [Record(1, 0, Kind.REQUEST, 1, {"name": "pty-req", "columns": 80, "rows": 24})]
    at_us = 0
    for entry in transcript:
        sent = entry[:1] == b"<"
        at_us += STEP_US if sent else ECHO_US
        made.append(Record(len(made) + 1, at_us, Kind.INPUT if sent else Kind.OUTPUT, 1, entry[1:]))
    return made


def derived(given_: Sequence[Record]) -> list[Item]:
    session = Session()
    items = [item for record in given_ for item in session.feed(record)[0]]
    return items + session.finish()


def told(transcript: Sequence[bytes]) -> Told:
    items = derived(records(transcript))
    commands = [item.body["line"] for item in items if item.kind == Derived.COMMAND]
    return Told(commands, [item.body[1] for item in items if item.kind == Derived.TYPED])


def test_bash() -> None:
    found = told(BASH)
    assert found.commands == [
        "echo y", "echo y", "echo y", "for i in 1 2; do\necho $i\ndone", "read -s P", "sleep 1", "echo t", "cat",
    ]  # fmt: skip
    assert found.typed == [
        "echo y", "echo y", "echo y", "for i in 1 2; do", "echo $i", "done", "read -s P", "", "sleep 1", "echo t", "cat",
        "hello",
    ]  # fmt: skip


def test_zsh() -> None:
    assert told(ZSH).commands == ["sleep 0.1", "echo t", "for i in 1; do\ndone", "ls /usr"]


def test_fish() -> None:
    found = told(FISH)
    assert found.commands == ["echo y", "for i in 1 2\necho $i\nend", "read -s P"]
    assert found.typed[-1] == ""


def test_a_shell_that_tells_nothing() -> None:
    found = told(DASH)
    assert found.commands == ["id", "su bob", "ls -l", "exit"]
    assert found.typed == ["id", "su bob", "", "ls -l", "exit"]


def test_what_a_shell_tells_by_osc_133() -> None:
    bodies = [item.body for item in derived(records(TOLD)) if item.kind == Derived.COMMAND]
    assert [(body["line"], body["exit"]) for body in bodies] == [
        ("false", 1), ("select 1\nfrom t;", None), ("exit", None), ("mysql", 0),
    ]  # fmt: skip
    ends = [body["ended_us"] for body in bodies]
    assert ends[0] < ends[1] < ends[2] <= ends[3]


def test_when_a_command_began_and_ended() -> None:
    made = records(BASH)
    items = derived(made)
    first = next(item for item in items if item.kind == Derived.COMMAND)
    accepted = next(record for record in made if record.body == b"\r\n\x1b[?2004l\ry\r\n")
    prompt = made[made.index(accepted) + 1]
    assert (first.at_us, first.body["ended_us"], first.body["exit"], first.body["channel"]) == (
        accepted.at_us, prompt.at_us, None, 1,
    )  # fmt: skip


def test_a_program_that_is_run_without_a_shell() -> None:
    made = [
        Record(1, 10, Kind.REQUEST, 3, {"name": "exec", "command": b"make all"}),
        Record(2, 20, Kind.OUTPUT, 3, b"made\n"),
        Record(3, 30, Kind.EXIT, 3, {"status": 2}),
        Record(4, 40, Kind.CHANNEL, 3, {"event": "close"}),
        Record(5, 50, Kind.REQUEST, 4, {"name": "exec", "command": b"never", "refused": "a rule"}),
    ]
    (command,) = [item for item in derived(made) if item.kind == Derived.COMMAND]
    assert command.at_us == 10
    assert command.body == {"line": "make all", "ended_us": 40, "exit": 2, "channel": 3}


@pytest.mark.parametrize(
    "transcript", [BASH, ZSH, FISH, DASH, TOLD], ids=["bash", "zsh", "fish", "dash", "osc133"]
)
@settings(max_examples=25, deadline=None)  # of each of five transcripts
@given(seed=st.integers(0, 1 << 32))
def test_where_bytes_are_cut_changes_nothing(transcript: list[bytes], seed: int) -> None:
    draw = random.Random(seed)
    whole = records(transcript)
    pieces: list[Record] = []
    for record in whole:
        if record.kind is Kind.REQUEST:
            pieces.append(record)
            continue
        cuts = sorted({0, len(record.body), *(draw.randrange(len(record.body) + 1) for _ in range(4))})
        pieces += [record._replace(body=record.body[a:b]) for a, b in pairwise(cuts)]
    assert written(derived(pieces)) == written(derived(whole))


def written(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.kind in (Derived.COMMAND, Derived.TYPED)]


PASSWORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=6, max_size=20)


@settings(deadline=None)
@given(
    password=PASSWORDS.map(lambda text: f"Pw{text}".strip()),
    prompt=st.sampled_from(["Password: ", "[sudo] password for bob: ", "Enter PIN> ", "# ", "", "root$ "]),
    answer=st.sampled_from([b"\r\n", b"", b"\r\nSorry, try again.\r\n", b"**********\r\n", b"\r\n\r\n$ "]),
)
def test_what_has_no_echo_is_nowhere(password: str, prompt: str, answer: bytes) -> None:
    transcript = [
        b">\x1b[?2004h$ ", b"<login\r", b">login\r\n\x1b[?2004l\r" + prompt.encode(), b"<" + password.encode(), b"<\r",
        b">" + answer, b">\x1b[?2004h$ ", b"<echo done\r", b">echo done\r\n\x1b[?2004l\rdone\r\n\x1b[?2004h$ ",
    ]  # fmt: skip
    items = derived(records(transcript))
    texts = [str(item.body) for item in items if item.kind in (Derived.TYPED, Derived.COMMAND, Derived.TEXT)]
    assert not [text for text in texts if password in text]
    commands = [item.body["line"] for item in items if item.kind == Derived.COMMAND]
    assert commands == ["login", "echo done"]


def test_full_screen_programs_are_told_no_lines() -> None:
    transcript = [
        b">$ ", b"<vi\r", b">vi\r\n\x1b[?1049h\x1b[H~\r\n$ ", b"<isecret words\r", b">secret words\r\n", b"<\x1b:wq\r",
        b">\x1b[?1049l$ ", b"<ls\r", b">ls\r\n$ ",
    ]  # fmt: skip
    found = told(transcript)
    assert found.commands == ["vi", "ls"]
    assert "secret words" not in found.typed


def test_what_nobody_entered_is_no_command() -> None:
    assert told([b">\x1b[?2004h$ rm -rf /\x1b[?2004l\r\n\x1b[?2004h$ ", b"<ls", b">ls\x1b[?2004l\r\n"]) == (
        [],
        [],
    )


def test_lines_without_a_prompt_are_told_as_they_were_typed() -> None:
    keys = [
        b"<l", b">l", b"<x", b">x", b"<\x7f", b">\x08\x1b[K", b"<s", b">s", b"<\r", b">\r\nfile\r\n$ ", b"<a\rb\r", b">a\r\nb\r\n",
    ]  # fmt: skip
    assert told(keys).typed == ["ls", "a", "b"]
    assert told([b"<hunter2\r"]).typed == [""]


def test_marks_are_found_wherever_they_are_cut() -> None:
    data = b"a\x1b[?2004hb\x1b[?1;2004lc\x1b]133;D;17\x1b\\d\x1b]133;C\x07\x1b[?25h"
    for cut in range(len(data)):
        marks, found = Marks(), []
        for piece in (data[:cut], data[cut:]):
            at = 0
            while mark := marks.find(piece, at, newlines=False):
                found.append((mark.what, mark.exit))
                at = mark.end
        assert found == [(What.EDITING, None), (What.EDITED, None), (What.DONE, 17), (What.RUNNING, None)], (
            cut
        )


def test_what_is_no_mark_is_kept_no_longer_than_a_mark() -> None:
    marks = Marks()
    for _ in range(10):
        assert marks.find(b"\x1b]133;A" + b"x" * LONGEST, 0, newlines=True) is None
    assert len(vars(marks)["_begun"]) <= LONGEST


def test_lines_that_nobody_answers_are_bounded() -> None:
    typing = Typing()
    typing.typed(0, b"x\r" * (WAITING + 10), editing=False, spoke_us=0, look=lambda: None)
    assert len(typing.forget()) == WAITING


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.sampled_from([
            b"\x1b[?2004h", b"\x1b[?2004l", b"\r\n", b"$ ", b"ls", b"\x1b]133;", b"A\x07", b"B\x07", b"C\x07", b"D;0\x07",
            b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[A", b"\x03", b"\x04", b"\xe6\x97\xa5", b"\x1b[2J\x1b[H", b"x" * 90,
        ]), max_size=8).map(b"".join)), max_size=30,
    )
)  # fmt: skip
def test_nothing_a_terminal_says_raises(said: list[tuple[bool, bytes]]) -> None:
    items: list[Any] = derived(records([(b"<" if sent else b">") + data for sent, data in said]))
    assert items[-1].kind == Derived.SUMMARY
