"""Reading typed lines: editing as a shell does it, pastes, and the wait of an Enter for its verdict."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.config import Rule
from proxyd.editing import MAX_LINE, Editor
from proxyd.gate import REVOKED
from proxyd.host import on_host
from proxyd.policy import Policy, Verdict
from proxyd.protocols.ssh.typed import CANCEL, Typist
from proxyd.protocols.ssh.wire import string, uint32
from proxyd.recorder.record import Kind
from tests.contract.ssh_rig import rigged, until


def lines(*typed: bytes) -> list[str | None]:
    """The lines that were run."""
    editor = Editor()
    return [piece.line for data in typed for piece in editor.feed(data) if piece.line is not None]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (b"ls -l\r", "ls -l"),
        (b"ls\n", "ls"),
        (b"ls\x0f", "ls"),
        (b"lx\x7fs\r", "ls"),
        (b"\x08\x7fls\r", "ls"),
        ("é\x7fls\r".encode(), "ls"),
        ("ä\x02é\r".encode(), "éä"),
        (b"rm -rf /\x15ls\r", "ls"),
        (b"rm -rf /\x17\x17ls\r", "rm ls"),
        (b"rm -rf /\x03ls\r", "ls"),
        (b"s\x01l\x05 -l\r", "ls -l"),
        (b"rm\x1b[D\x1b[Dx\x1b[3~\x1b[C\r", "xm"),
        (b"m -rf\x1b[Hr\x1bOF /\r", "rm -rf /"),
        (b"abc\x1b[D\x0b\r", "ab"),
        (b"a\x16\x15b\r", "a\x15b"),
        (b"ab\x02\x04\x05c\r", "ac"),
        (b"\x1b[200~echo a\x1b[201~\r", "echo a"),
        (b"a\xff\r", "a\\xff"),
        (b"  ls  \r", "ls"),
    ],
)
def test_editing(typed: bytes, line: str) -> None:
    assert lines(typed)[-1] == line
    assert lines(*(bytes((byte,)) for byte in typed))[-1] == line


def test_several_lines_of_one_paste() -> None:
    assert lines(b"a\rb\rc\r") == ["a", "b", "c"]


def test_a_bracketed_paste_is_judged_each_way_a_shell_may_take_it() -> None:
    assert lines(b"\x1b[200~rm \\\r-rf /\x1b[201~", b"\r") == ["rm \\", "rm \\\n-rf /"]


def test_end_of_input_runs_what_stands_there() -> None:
    assert lines(b"\x04") == []
    assert lines(b"rm -rf /\x04\x04") == ["rm -rf /", "rm -rf /"]


@pytest.mark.parametrize("key", [b"\t", b"\x1b[A", b"\x12", b"\x19", b"\x1bb", b"\x10"])
def test_what_the_shell_fills_in_is_unsure(key: bytes) -> None:
    editor = Editor()
    assert [piece.unsure for piece in editor.feed(b"rm " + key + b"\r") if piece.line is not None] == [True]
    assert [piece.unsure for piece in editor.feed(b"ls\r") if piece.line is not None] == [False]


def test_a_line_too_long_to_be_read_is_unsure() -> None:
    last = Editor().feed(b"x" * (MAX_LINE + 1) + b"\r")[-1]
    assert last.unsure


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_every_byte_is_forwarded_once_in_order(typed: list[bytes]) -> None:
    editor = Editor()
    pieces = [piece for data in typed for piece in editor.feed(data)]
    assert b"".join(piece.data for piece in pieces) == b"".join(typed)


class Rig:
    """A typist whose verdicts the test gives when it likes."""

    def __init__(self, forbidden: str = "rm") -> None:
        self.sent: list[bytes] = []
        self.refused: list[bytes] = []
        self.asked: list[tuple[str, bool]] = []
        self.pauses: list[bool] = []
        self.running: list[Coroutine[Any, Any, None]] = []
        self.forbidden = forbidden
        self.typist = Typist(
            self.sent.append, self.refused.append, self.judge, self.running.append, self.pauses.append
        )

    async def judge(self, line: str, unsure: bool) -> str:
        self.asked.append((line, unsure))
        return "no" if self.forbidden in line else ""

    def go(self, between: Callable[[], None] = lambda: None) -> None:
        """Let what waits go on to its end."""
        while self.running:
            between()
            with pytest.raises(StopIteration):
                self.running.pop(0).send(None)

    @property
    def got(self) -> bytes:
        return b"".join(self.sent)


def test_only_the_enter_waits() -> None:
    rig = Rig()
    rig.typist.typed(b"ls")
    assert rig.got == b"ls"
    rig.typist.typed(b" -l\rpw")
    assert rig.got == b"ls -l"
    assert rig.typist.busy
    rig.go()
    assert rig.got == b"ls -l\rpw"
    assert rig.asked == [("ls -l", False)]
    assert not rig.typist.busy


@pytest.mark.mission("M11")
def test_a_forbidden_line_is_cancelled() -> None:
    rig = Rig()
    rig.typist.typed(b"rm -rf /\rls\r")
    rig.go()
    assert rig.got == b"rm -rf /" + CANCEL + b"ls\r"
    assert rig.refused == [b"\r"]
    assert rig.asked == [("rm -rf /", False), ("ls", False)]


def test_an_empty_line_asks_nobody() -> None:
    rig = Rig()
    rig.typist.typed(b"\r \r")
    assert rig.got == b"\r \r"
    assert not rig.running


def test_what_comes_meanwhile_waits_and_stops_the_reading() -> None:
    rig = Rig()
    rig.typist.typed(b"ls\r")
    rig.typist.typed(b"pwd")
    assert rig.got == b"ls"
    assert rig.pauses == [True]
    rig.go()
    assert rig.got == b"ls\rpwd"
    assert rig.pauses == [True, False]


def test_what_waits_at_a_shut_gate_is_thrown_away() -> None:
    rig = Rig()
    rig.typist.typed(b"ls\rpwd\r")
    rig.go(lambda: None if rig.refused else rig.refused.extend([str(rig.typist.throw_away()).encode()]))
    assert rig.got == b"ls"
    assert rig.refused == [b"\rpwd\r", b"5"]
    rig.typist.typed(b"id\r")
    rig.go()
    assert rig.asked[-1] == ("id", False)


def test_the_end_waits_behind_the_last_line() -> None:
    rig = Rig()
    rig.typist.typed(b"ls\r")
    rig.typist.then = lambda: rig.sent.append(b"END")
    rig.go()
    assert rig.sent == [b"ls", b"\r", b"END"]


def test_a_judge_that_fails_lets_nothing_pass() -> None:
    rig = Rig()

    async def broken(line: str, unsure: bool) -> str:
        raise OSError

    rig.typist._judge = broken
    rig.typist.typed(b"ls\r")
    with pytest.raises(OSError):
        rig.running.pop().send(None)
    assert rig.got == b"ls"


def test_a_line_from_history_is_judged_though_nothing_was_typed() -> None:
    rig = Rig()
    rig.typist.typed(b"\x1b[A\r")
    rig.go()
    assert rig.asked == [("", True)]


# ---------------------------------------------------------------------- on a line, between a client and a target

RULES = """
[[rules]]
name = "no-touch"
action = "block"
pattern = "touch"
"""
PTY = string(b"xterm") + uint32(80) + uint32(24) + uint32(0) * 2 + string(b"")


@pytest.mark.hosted
@pytest.mark.parametrize("reply", [True, False])
async def test_a_command_waits_for_the_rules(reply: bool, tmp_path: Path) -> None:
    async with rigged(tmp_path, more=RULES) as rig:
        client = await rig.attack("alice+web1")
        allowed, refused = await client.channel(), await client.channel()
        session = await rig.session()
        for channel, command in ((refused, b"touch x"), (allowed, b"cat")):
            if reply:
                assert await on_host(channel._make_request(b"exec", string(command)))
            else:
                client.request_raw(channel._send_chan, b"exec", string(command))
        allowed.write(b"input")
        await until("the input is there", lambda: any(sink.got == b"input" for sink in rig.sinks))
        await until("the other is over", lambda: any(sink.closed for sink in rig.sinks))
        client.abort()
        await rig.ended(session)
        assert [sink.asked for sink in rig.sinks if sink.got] == [["cat"]]
        assert [sink.asked for sink in rig.sinks if not sink.got] == [[]]
        asked = {body["command"]: body.get("refused", "") for body in rig.bodies(session, Kind.REQUEST)}
        assert asked == {b"touch x": "The rule no-touch does not allow this.", b"cat": ""}


@pytest.mark.hosted
async def test_a_command_the_target_refuses_is_answered_so(tmp_path: Path) -> None:
    async with rigged(tmp_path, more=RULES) as rig:
        rig.refuses.add("exec")
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        assert not await on_host(channel._make_request(b"exec", string(b"cat")))


@pytest.mark.hosted
async def test_a_block_reaches_what_waits_for_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async with rigged(tmp_path, more=RULES) as rig:
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        assert await on_host(channel._make_request(b"pty-req", PTY))
        assert await on_host(channel._make_request(b"shell"))
        session, sink = await rig.session(), await rig.sink()
        go_on = threading.Event()

        def judge(policy: Policy, text: str, dialect: str, unsure: bool) -> Verdict | None:
            asked.append(text)
            go_on.wait(60)
            return None

        monkeypatch.setattr(Policy, "judge_apart", judge)
        channel.write(b"rm -rf /\rls\r")
        await until("it is being judged", lambda: asked)
        answer = await session.block("carol")
        assert answer["discarded_bytes"] == len(b"\rls\r")
        go_on.set()
        await session.unblock("carol")
        channel.write(b"pwd\r")
        await until("the next line is there", lambda: sink.got.endswith(b"pwd\r"))
        client.abort()
        await rig.ended(session)
        assert bytes(sink.got) == b"rm -rf /pwd\r"
        assert asked == ["rm -rf /", "pwd"]
        assert rig.bodies(session, Kind.REFUSED) == [b"\rls\r"]
        assert REVOKED in rig.bodies(session, Kind.NOTICE)


@pytest.mark.hosted
async def test_a_check_with_a_bug_lets_nothing_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr(Policy, "judge_apart", broken)
    async with rigged(tmp_path, more=RULES) as rig:
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        session = await rig.session()
        assert await on_host(channel._make_request(b"exec", string(b"cat")))
        client.abort()
        await rig.ended(session)
        assert rig.sinks[0].asked == []


def test_an_unsure_line_is_permitted_by_no_rule() -> None:
    policy = Policy([Rule(name="only", action="force", pattern="ls.*")], None, "web1", sql=False)
    assert policy.judge_apart("ls", "") is None
    verdict = policy.judge_apart("ls", "", True)
    assert verdict is not None
    assert verdict.action == "block"
