"""The feed of a database session: what it says, how it looks on a terminal, and that no statement can paint on it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from proxyd import cli_queries, cli_view
from proxyd.characters import UNSAFE
from proxyd.cli_log import entries
from proxyd.cli_queries import GUTTER, Feed, Line, QueryView, bound, laid_out, lasted, shortened
from proxyd.cli_view import Pace, Player
from proxyd.recorder.queries import joined
from proxyd.recorder.record import Kind, Record
from proxyd.terminal import CLEAR, RESTORE

MISSING = {"severity": "ERROR", "code": "42P01", "message": 'relation "x" does not exist'}


def sent(n: int, text: str = "SELECT 1", **more: Any) -> tuple[Kind, Any]:
    return Kind.STATEMENT, {"event": "statement", "n": n, "how": "simple", "text": text} | more


def answered(n: int, **more: Any) -> tuple[Kind, Any]:
    return Kind.STATEMENT, {"event": "result", "n": n, "us": 400} | more


def records(*items: tuple[Kind, Any]) -> list[Record]:
    return [Record(seq, seq * 100_000, kind, 0, body) for seq, (kind, body) in enumerate(items, 1)]


def feed(*items: tuple[Kind, Any]) -> str:
    drawn = Feed()
    return b"".join(drawn.raw(record) for record in records(*items)).decode()


# ---------------------------------------------------------------- what it says


@pytest.mark.mission("M2", "M14")
def test_the_feed_tells_statements_outcomes_and_what_else_happened() -> None:
    drawn = feed(
        sent(1, "BEGIN"),
        answered(1, tag="BEGIN", transaction="open"),
        sent(
            2, "UPDATE t\n  SET a = $1", how="execute", parameters=[{"kind": "int4", "size": 4, "value": 7}]
        ),
        answered(2, tag="UPDATE 1", rows=1, transaction="open", us=15_300),
        sent(3, "SELECT * FROM x"),
        answered(3, error=MISSING, transaction="failed"),
        sent(4, "ROLLBACK", how="prepare", name="s4"),
        answered(4, tag="ROLLBACK", transaction="idle", us=2_500_000),
        (Kind.FINDING, {"code": "rule-x", "severity": "high", "text": "DROP matches no-drop"}),
        sent(5, "DROP TABLE t", refused="rule no-drop"),
        (Kind.CONTROL, {"action": "watch", "by": "root", "reason": ""}),
        (Kind.CONTROL, {"action": "block", "by": "root", "reason": "why?"}),
        (Kind.NOTICE, "Session interaction revoked"),
        sent(6, "SELECT pg_sleep(1000)"),
        answered(9, error={"severity": "FATAL", "code": "57P01", "message": "You have been disconnected"}),
        (Kind.END, {"reason": "dropped", "by": "root", "error": "You have been disconnected"}),
    )
    assert drawn == (
        "  0:00.100 #1     BEGIN\n"
        "        ok #1     BEGIN, 0.4 ms, transaction open\n"
        "  0:00.300 #2     UPDATE t\n"
        "                    SET a = $1\n"
        "      with        $1 = 7 (int4)\n"
        "        ok #2     UPDATE, 1 row, 15 ms\n"
        "  0:00.500 #3     SELECT * FROM x\n"
        '     ERROR #3     42P01: relation "x" does not exist, 0.4 ms, transaction failed\n'
        "  0:00.700 #4     (prepare s4) ROLLBACK\n"
        "        ok #4     ROLLBACK, 2.5 s, transaction ended\n"
        "  0:00.900        finding: high: DROP matches no-drop\n"
        "  0:01.000 #5     DROP TABLE t\n"
        "   refused #5     rule no-drop\n"
        "  0:01.200        control: block by root: why?\n"
        "  0:01.300        notice: Session interaction revoked\n"
        "  0:01.400 #6     SELECT pg_sleep(1000)\n"
        "     ERROR #9     FATAL 57P01: You have been disconnected, 0.4 ms\n"
        " no answer #6     \n"
        "  0:01.600        end: dropped by root: You have been disconnected\n"
    )


def test_parameters_are_shown_as_far_as_they_are_kept() -> None:
    parameters = [
        {"kind": "text", "size": 7, "value": "o'brien"},
        {"kind": "bool", "size": 1, "value": True},
        {"kind": "null", "size": 0},
        {"kind": "int4", "size": 4},
        {"kind": "bytea", "size": 5, "hash": "ab12"},
        {"kind": "text", "size": 6, "masked": True},
        {"kind": "text", "size": 5000, "value": "xyz", "truncated": True},
    ]
    (query,) = joined(records(sent(1, parameters=parameters, parameters_total=500)))
    assert bound(query) == (
        "$1 = 'o''brien' (text), $2 = true (bool), $3 = NULL, $4 = (int4, 4 bytes), $5 = hash ab12 (bytea), "
        "$6 = masked (text), $7 = 'xyz'... (text, 5,000 bytes), 500 in all"
    )


@pytest.mark.parametrize(
    ("us", "text"),
    [(None, ""), (0, "0.0 ms"), (412, "0.4 ms"), (9_960, "10.0 ms"), (15_300, "15 ms"), (999_400, "999 ms"),
     (1_500_000, "1.5 s"), (185_000_000, "3 min 05 s")],
)  # fmt: skip
def test_how_long_it_took(us: int | None, text: str) -> None:
    assert lasted(us) == text


@pytest.mark.mission("M5", "M14")
def test_the_log_has_each_statement_once_with_its_outcome() -> None:
    found = list(
        entries(
            records(sent(1), sent(2, "DROP", refused="no"), answered(1, tag="SELECT 1", rows=1), sent(3, "x"))
        )
    )
    assert [(entry.kind, entry.text, entry.query and entry.query.status) for entry in found] == [
        ("statement", "DROP", "refused"),
        ("statement", "SELECT 1", "ok"),
        ("statement", "x", "unanswered"),
    ]
    assert found[1].document()["query"]["rows"] == 1


# ---------------------------------------------------------------- how it looks


@pytest.mark.mission("M14")
@given(
    st.text(st.characters(codec="utf-8") | st.sampled_from(" \n\r\t\x00\x1b\x9b\u202e日ok#"), max_size=300),
    st.sampled_from([None, 40, 80, 120]),
)
def test_no_statement_leaves_its_columns(text: str, width: int | None) -> None:
    line, *more = laid_out(Line("0:00.100", "#1", text, "time"), width)
    assert line.startswith("  0:00.100 #1     ")
    for drawn in (line, *more):
        assert not UNSAFE.search(drawn)
        assert width is None or cells(drawn) <= width
    for drawn in more:
        assert drawn[:GUTTER] == " " * GUTTER


def cells(text: str) -> int:
    return cell_len(text)


def test_wrapping_keeps_every_character_of_a_long_word() -> None:
    text = "日本" * 60 + "x" * 90
    drawn = laid_out(Line("0:00.100", "#1", text), 80)
    assert "".join(line[GUTTER:] for line in drawn) == text
    assert all(cells(line) <= 80 for line in drawn)


def test_a_text_that_fills_screens_keeps_its_beginning_and_its_end() -> None:
    assert shortened("x" * 800) == "x" * 800
    cut = shortened("SELECT " + "y" * 10_000 + " WHERE id = 1")
    assert cut.startswith("SELECT yyy")
    assert cut.endswith("yyy WHERE id = 1")
    assert "9,220 characters, see proxyctl export" in cut
    many = shortened("\n".join(f"line {n}" for n in range(100)))
    assert (many.split("\n")[0], many.split("\n")[-1]) == ("line 0", "line 99")
    assert many.count("\n") < 20


# ---------------------------------------------------------------- on a screen


class PlayedScreen:
    """A screen of any size that keeps what it is given; time passes while it waits for keys."""

    def __init__(self, *sizes: tuple[int, int], presses: dict[int, list[str]] | None = None) -> None:
        self.sizes = list(sizes) or [(80, 24)]
        self.now = 100.0
        self.written: list[tuple[float, str]] = []
        self.titles: list[str] = []
        self.notes: list[str] = []
        self._presses = presses or {}
        self._waits = 0

    def monotonic(self) -> float:
        return self.now

    def size(self) -> tuple[int, int]:
        return self.sizes[0]

    def write(self, data: bytes) -> None:
        self.written.append((round(self.now - 100, 3), data.decode()))

    def title(self, text: str) -> None:
        self.titles.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def keys(self, seconds: float | None, *_: int) -> tuple[list[str], bool]:
        self._waits += 1
        if self._waits in self._presses:
            return self._presses.pop(self._waits), False
        self.now += seconds or 0
        return [], False

    def when(self, text: str) -> float:
        return next(at for at, data in self.written if text in data)


def view_on(screen: PlayedScreen, *, color: bool = False) -> QueryView:
    return QueryView(screen, "alice on app@db1", color=color)  # type: ignore[arg-type]


TIMED = [
    Record(1, 100_000, Kind.STATEMENT, 0, {"event": "statement", "n": 1, "text": "SELECT first"}),
    Record(2, 400_000, Kind.STATEMENT, 0, {"event": "result", "n": 1, "tag": "SELECT 1", "rows": 1}),
    Record(3, 8_000_000, Kind.STATEMENT, 0, {"event": "statement", "n": 2, "text": "SELECT late"}),
    Record(4, 8_100_000, Kind.END, 0, {"reason": "closed"}),
]


@pytest.mark.mission("M6", "M12", "M14")
@pytest.mark.parametrize("speed", [1, 2])
def test_statements_and_outcomes_come_at_their_own_times(monkeypatch: pytest.MonkeyPatch, speed: int) -> None:
    screen = PlayedScreen()
    monkeypatch.setattr(cli_view, "time", screen)
    assert Player(lambda: iter(TIMED), view_on(screen), Pace(speed=speed), 8_100_000).play()
    came = [screen.when(text) for text in ("SELECT first", "ok #1", "SELECT late")]
    assert came == pytest.approx([0.1 / speed, 0.4 / speed, 8.0 / speed])


def test_seeking_draws_the_feed_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = PlayedScreen(presses={4: ["right"], 5: ["right"], 6: ["left"], 7: ["q"]})
    monkeypatch.setattr(cli_view, "time", screen)
    assert not Player(lambda: iter(TIMED), view_on(screen), Pace(), 8_100_000).play()
    painted = [
        data.removeprefix((RESTORE + CLEAR).decode())
        for _, data in screen.written
        if RESTORE.decode() in data
    ]
    assert painted[0] == "alice on app@db1, ? for keys\x1b[K\r\n"
    assert "SELECT first" in painted[1]
    assert "SELECT late" not in painted[1]
    assert "SELECT late" in painted[2]
    assert "SELECT late" not in painted[3]


def test_a_window_of_another_size_gets_the_feed_laid_out_anew() -> None:
    screen = PlayedScreen((80, 10))
    view = view_on(screen)
    for record in records(*(sent(n, f"SELECT {'word ' * 20}{n}") for n in range(1, 40))):
        view.take(record)
    screen.sizes = [(40, 8)]
    view.tick("live")
    lines = screen.written[-1][1].split("\r\n")
    assert len(lines) == 8  # the heading, six rows, and the one for notes
    assert lines[-2].endswith(" 39\x1b[K")
    assert all(cells(line.split("\x1b[K")[0].split("\x1b[H")[-1]) <= 40 for line in lines)
    before = len(screen.written)
    view.tick("live")
    assert len(screen.written) == before


def test_an_open_question_is_not_written_over() -> None:
    screen = PlayedScreen()
    view = view_on(screen)
    view.note("Drop this session? y/n", lambda: "session dropped")
    view.take(records(sent(1, "SELECT secretly"))[0])
    assert not any("secretly" in data for _, data in screen.written)
    assert view.asked("n")
    assert "SELECT secretly" in screen.written[-1][1]


def test_colours_are_ours_alone() -> None:
    screen = PlayedScreen()
    plain, colored = view_on(screen), view_on(screen, color=True)
    for view in (plain, colored):
        for record in records(sent(1, "a\x1b[31mb"), answered(1, error=MISSING)):
            view.take(record)
    written = "".join(data for _, data in screen.written)
    assert r"a\x1b[31mb" in written
    assert set(re.findall(r"\x1b\[[0-9;]*m", written)) == {"\x1b[2m", "\x1b[1;31m", "\x1b[0m"}
    assert cli_queries.KEPT > 1000
