"""What was typed as lines, the decoder in its own process, and moments of a session."""
# ruff: noqa: RUF001 - the marks around keys, and accents

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from PIL import Image
from unit.index.tape import fast, keys, press, record, session, tile

from proxyd import cli, cli_decoder
from proxyd.cli_app import Run
from proxyd.cli_decoder import DEADLINE_S, FAILED, MISSING, Undecoded, draw, read_typed
from proxyd.cli_desktop import At, When
from proxyd.cli_output import Output
from proxyd.index.rdp import render
from proxyd.index.rdp.keys import Keystroke
from proxyd.index.rdp.typed import LONGEST, PAUSE_US, Line, lines
from proxyd.protocols.rdp.events import Unicode
from proxyd.protocols.rdp.updates import build_bitmaps
from proxyd.recorder.record import Kind, Record, pack
from tests.peers.process import eventually

pytestmark = pytest.mark.mission("M16")

H, I_KEY, CTRL, C, ENTER, BACKSPACE = 0x23, 0x17, 0x1D, 0x2E, 0x1C, 0x0E
WIDTH, HEIGHT = 16, 8


def stroke(text: str, name: str = "", at_us: int = 0, *, refused: bool = False) -> Keystroke:
    return Keystroke(at_us, 1, name or text.upper(), text, refused)


def shown(*strokes: Keystroke) -> list[str]:
    return [line.text for line in lines(strokes)]


# ---------------------------------------------------------------- lines


def test_a_line_ends_with_enter_a_pause_and_a_block() -> None:
    late = PAUSE_US + 3
    found = lines([
        stroke("l", at_us=1), stroke("s", at_us=2), stroke("\n", "Enter", 3), stroke("a", at_us=3),
        stroke("b", at_us=late), stroke("c", at_us=late + 1), stroke("d", at_us=late + 2, refused=True),
        stroke("e", at_us=late + 3),
    ])  # fmt: skip
    assert list(found) == [
        Line(1, False, "ls‹Enter›"), Line(3, False, "abc"), Line(late + 2, True, "d"), Line(late + 3, False, "e"),
    ]  # fmt: skip
    assert shown(stroke("a"), stroke("b", at_us=PAUSE_US + 1)) == ["a", "b"]


def test_enter_behind_an_accent_that_waited_ends_the_line() -> None:
    """Found by a campaign: the two came as one text, and the line went on behind its end."""
    assert shown(stroke("a"), stroke("´\n", "Enter"), stroke("b"), stroke("^\t", "Tab")) == [
        "a´‹Enter›",
        "b^‹Tab›",
    ]


def test_keys_without_text_are_named_and_counted_and_accents_wait() -> None:
    assert shown(
        stroke("a"), *[stroke("", "Backspace")] * 3, stroke("", "Ctrl+C"), stroke("\t", "Tab"), stroke("", "Ctrl++"),
        stroke("", "´"), stroke("é"), stroke("", "Shift+^"), stroke("", "F5"), stroke("\n", "\n"),
    ) == ["a‹Backspace x3›‹Ctrl+C›‹Tab›‹Ctrl++›é‹F5›‹Enter›"]  # fmt: skip
    assert shown(stroke("‹F5›", "?")) == [r"\u2039F5\u203a"]
    assert shown(stroke("", "´")) == []


def test_a_line_has_an_end_though_nobody_presses_enter() -> None:
    found = shown(*[stroke("x")] * (LONGEST + 5))
    assert [len(text) for text in found] == [LONGEST, 5]


# ---------------------------------------------------------------- the decoder, apart


def desktop(*more: Record) -> list[Record]:
    red = tile(0, 0, 4, 4, b"\x00\x00\xff\x00" * 16)
    return [session(WIDTH, HEIGHT), fast(build_bitmaps([red])), *more]


def test_a_picture_comes_out_of_a_process_of_its_own() -> None:
    drawn = draw(desktop(fast(b"\xff\xff\xff\xff")))
    assert (drawn.width, drawn.height, drawn.faults) == (WIDTH, HEIGHT, 1)
    picture = Image.open(io.BytesIO(drawn.png))
    assert picture.format == "PNG"
    assert picture.size == (WIDTH, HEIGHT)
    assert picture.getpixel((3, 3)) == (255, 0, 0)
    assert picture.getpixel((4, 4)) == (0, 0, 0)
    assert draw([record(Kind.END, {"reason": "closed"})]).width == 0


def test_what_was_typed_comes_out_with_its_times() -> None:
    typed = read_typed([
        session(), keys(*press(H), *press(I_KEY), at_us=5), keys(*press(CTRL, C), at_us=7, path="slow"),
        keys(*press(H), kind=Kind.REFUSED, at_us=8), keys(*press(ENTER), at_us=9), record(Kind.INPUT_PDU, b"\x04", 10),
    ])  # fmt: skip
    assert typed.lines == [(5, False, "hi‹Ctrl+C›"), (8, True, "h"), (9, False, "‹Enter›")]
    assert typed.faults == 1


def test_the_functions_the_process_runs() -> None:
    packed = io.BytesIO(b"".join(pack(7, one.kind, one.channel, one.body) for one in desktop()))
    assert [one.at_us for one in render.records(packed)] == [7, 14]
    assert render.screen(desktop())["png"]
    assert render.typed([session(), keys(*press(H))]) == {"lines": [(0, False, "h")], "faults": 0}


def test_the_process_has_bounds_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (
        rf"Max cpu time +{render.CPU_S} +{render.CPU_S} ",
        rf"Max address space +{render.MEMORY_BYTES} ",
        r"Max file size +0 +0 ",
        r"Max core file size +0 +0 ",
    )
    started = _seen(monkeypatch)
    monkeypatch.setenv("RUST_BACKTRACE", "1")
    monkeypatch.setenv("CANARY", "secret")

    def looked_at(given: Iterable[Record]) -> Iterable[Record]:
        yield from given
        place = Path(f"/proc/{started[0].pid}")
        eventually(
            "the limits are set",
            lambda: all(re.search(one, (place / "limits").read_text()) for one in limits),
        )
        environment = (place / "environ").read_bytes()
        assert b"CANARY" not in environment
        assert b"RUST" not in environment

    assert draw(looked_at(desktop())).width == WIDTH
    assert started[0].returncode is not None


CHILDREN = {
    "breaks at once": "raise SystemExit(3)",
    "breaks in the middle": "import sys, os; sys.stdin.buffer.read(10); os.abort()",
    "says nonsense": "import sys; sys.stdin.buffer.read(); sys.stdout.write('nonsense')",
    "says something else": "import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write(b'\\x80')",
    "says it is a picture": "import sys, msgpack; sys.stdin.buffer.read(); sys.stdout.buffer.write(msgpack.packb("
    "{'width': 1, 'height': 1, 'faults': 0, 'png': b'GIF89a'}))",
}


@pytest.mark.parametrize("script", CHILDREN.values(), ids=CHILDREN)
def test_a_decoder_that_breaks_is_one_sentence(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace(monkeypatch, script)
    with pytest.raises(Undecoded, match=re.escape(FAILED)):
        draw(desktop(*[record(Kind.PDU, bytes(60_000))] * 50))


def test_a_decoder_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEADLINE_S >= render.CPU_S
    _replace(monkeypatch, "import signal; signal.pause()")
    monkeypatch.setattr(cli_decoder, "DEADLINE_S", 0.5)
    with pytest.raises(Undecoded, match=re.escape(FAILED)):
        draw(desktop(*[record(Kind.PDU, bytes(60_000))] * 50))


def test_what_breaks_while_records_are_read_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    started = _seen(monkeypatch)

    def broken() -> Iterable[Record]:
        yield from desktop()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        draw(broken())
    assert started[0].returncode is not None


def _seen(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The decoders that are started from now on."""
    started: list[subprocess.Popen[bytes]] = []
    start = cli_decoder.started

    def start_and_tell(module: str, what: str) -> subprocess.Popen[bytes]:
        started.append(start(module, what))
        return started[-1]

    monkeypatch.setattr(cli_decoder, "started", start_and_tell)
    return started


def _replace(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    def start(_module: str, _what: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    monkeypatch.setattr(cli_decoder, "started", start)


def test_without_the_decoder_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli_decoder, "PACKAGE", "no_such_package_here")
    with pytest.raises(Undecoded, match=re.escape("pip install 'aardwolf>=0.2.16,<0.3'")):
        read_typed(desktop())
    words = ["screenshot", "1a2b", "-o", str(tmp_path / "x.png")]
    done = CliRunner().invoke(cli.proxyctl, words, prog_name="proxyctl")
    assert (done.exit_code, done.stderr) == (1, f"proxyctl: {MISSING}\n")


# ---------------------------------------------------------------- the words


def at(text: str) -> When:
    context = click.Context(cli.proxyctl, obj=Run(Output("proxyctl", utc=True)))
    when: Any = At().convert(text, None, context)
    assert isinstance(when, When)
    return when


ENDED = {"started_at": 1_795_000_000.0, "ended_at": 1_795_000_075.5}


def test_a_moment_is_a_place_or_a_time() -> None:
    assert at("1:23").offset_us == at("83s").offset_us == at("83").offset_us == 83_000_000
    assert at("2026-11-18T11:07:00") == When(None, 1_795_000_020.0)
    assert at("2026-11-18 11:07").within(ENDED) == 20_000_000
    assert at("0:75").within(ENDED) == 75_000_000
    with pytest.raises(click.BadParameter, match="is no moment"):
        at("soon")


@pytest.mark.parametrize(
    ("text", "said"),
    [("2026-11-18T11:00", "had not begun"), ("76", "not that long: 1:15.500"), ("now", "not that long")],
)
def test_a_moment_outside_of_the_session_is_refused(text: str, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        at(text).within(ENDED)


def test_a_live_session_lasts_until_now() -> None:
    live = {"started_at": time.time() - 60, "ended_at": None}
    assert at("now").within(live) == pytest.approx(60e6, abs=20e6)
    with pytest.raises(click.UsageError, match="so far"):
        at("1h").within(live)


def test_characters_sent_as_such_are_typed_too() -> None:
    assert read_typed([session(), keys(Unicode(0x20AC), Unicode(0x1B))]).lines == [(0, False, "€\x1b")]


def test_help_and_completion_know_the_command() -> None:
    shown_help = CliRunner().invoke(cli.proxyctl, ["--help"], prog_name="proxyctl").stdout
    assert re.search(
        r"^  screenshot +Draw the screen of a desktop session at a moment\.$", shown_help, re.MULTILINE
    )
    environment = {"_PROXYCTL_COMPLETE": "bash_complete", "COMP_WORDS": "proxyctl scr", "COMP_CWORD": "1"}
    done = CliRunner().invoke(cli.proxyctl, [], prog_name="proxyctl", env=environment)
    assert done.stdout == "plain,screen\nplain,screenshot\n"
