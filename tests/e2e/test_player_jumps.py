"""A jump in the player against playing from the beginning: xterm.js holds the same cells, cursor and screens beneath.

Real programs through a real SSH session, in a real Chromium. What is compared is xterm.js's own buffer, cell by cell.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from proxyd.recorder.record import Kind
from tests.e2e.console_lab import ADMIN, OPERATOR, ConsoleLab, shot
from tests.e2e.test_terminal_screens import ENDS, PROGRAMS, SSH, answered, settled
from tests.peers import Terminal, eventually

pytestmark = [pytest.mark.mission("M6", "M12"), pytest.mark.timeout(600)]

SEED = 11
Size = tuple[int, int]  # rows and columns
SIZES: tuple[Size, ...] = ((24, 64), (36, 120), (20, 72))  # smaller than it began, larger, and smaller again
MOST_COLUMNS, MOST_ROWS = 320, 200  # of a small picture
PNG = b"\x89PNG\r\n\x1a\n"
# A terminal's buffers as text: of each cell its characters, width, colours and attributes; where the cursor is.
DUMP = """() => {
    const terminal = proxyd.screen.terminal, active = terminal.buffer.active;
    const shade = (cell, of) => (cell[`is${of}Default`]() ? '' : cell[`is${of}RGB`]() ? 'r' : 'p') + (cell[`is${of}Default`]() ? '' : cell[`get${of}Color`]());
    const marks = ['Bold', 'Italic', 'Dim', 'Underline', 'Blink', 'Inverse', 'Invisible', 'Strikethrough', 'Overline'];
    const rows = (buffer) => Array.from({length: terminal.rows}, (_, y) => {
        const line = buffer.getLine(buffer.baseY + y);
        return Array.from({length: terminal.cols}, (_, x) => {
            const cell = line.getCell(x);
            return [cell.getChars(), cell.getWidth(), shade(cell, 'Fg'), shade(cell, 'Bg'), marks.filter((one) => cell[`is${one}`]()).join()].join('|');
        }).join('\\n');
    });
    return {size: [terminal.cols, terminal.rows], at: [active.cursorX, active.cursorY], alternate: active.type,
            active: rows(active), beneath: active.type === 'alternate' ? rows(terminal.buffer.normal) : []};
}"""
STRAIGHT = f"""async (moments) => {{
    const view = proxyd.view, dump = {DUMP}, found = [];
    view.forget(); view.screen.reset();
    await view.begin(0);
    view.screen.resize(view.current.size);
    for (const at of moments) {{ await view.advance(at); found.push(dump()); }}
    return found;
}}"""
# To each moment by a jump with nothing at hand, and from there on to the next one.
JUMPING = f"""async (moments) => {{
    const view = proxyd.view, dump = {DUMP}, jumped = [], gone = [];
    for (const [n, at] of moments.entries()) {{
        view.forget(); view.pieces.clear();
        await proxyd.player.seek(at);
        jumped.push(dump());
        if (n + 1 < moments.length) {{ await view.advance(moments[n + 1]); gone.push(dump()); }}
    }}
    return [jumped, gone];
}}"""


def worked(lab: ConsoleLab, directory: Path, names: list[str], sizes: tuple[Size, ...] = ()) -> str:
    """Use some programs in a shell, one after the other; gives the session once its index is there.

    The window takes each size in turn: the first in the shell, then one in the middle of each program.
    """
    proxyd = lab.lab.proxyd
    (directory / "numbers").write_text("".join(f"line {number} of the file\n" for number in range(1, 400)))
    before, at = proxyd.ids(), lab.lab.proxied(directory)
    colours = r"printf '\033[31mred\033[0m \033[1;4:3;58;5;9mcurly\033[0m wide 字 e\314\201 \360\237\230\200 smile\n'"
    commands = [f"cd {directory}; export LC_ALL=C.UTF-8", colours]
    for rows, columns in sizes[:1]:
        commands += [f"echo small; until [ \"$(stty size)\" = '{rows} {columns}' ]; do sleep 0.1; done"]
    commands += [f"{PROGRAMS[name][0]}; echo {name}-is-over" for name in names]
    argv = SSH.argv(at, "-q", "-e", "none", command="; ".join(commands), terminal=True)
    with Terminal(argv, env=SSH.env(at) | {"SHELL": "/bin/sh"}, rows=30, columns=100) as terminal:
        if sizes:
            terminal.expect("small")
            terminal.resize(*sizes[0])
        for number, name in enumerate(names, 1):
            _, first, keys = PROGRAMS[name]
            terminal.expect(first)
            settled(terminal)
            for place, key in enumerate(keys):
                if sizes and place == len(keys) // 2:
                    terminal.resize(*sizes[number % len(sizes)])
                    answered(terminal)
                terminal.type(key)
                answered(terminal)
            terminal.type(ENDS[name])
            terminal.expect(f"{name}-is-over")
        assert terminal.wait() == 0
    session = str(proxyd.newest(before)["id"])
    eventually("an index of the session", (proxyd.recording(session).path / "index.pxi").exists, within_s=30)
    return session


def played(page: Page, lab: ConsoleLab, session: str) -> None:
    page.goto(f"{lab.console.url}/sessions/{session}/play")
    expect(page.locator("[data-said=status]")).to_have_text("")
    expect(page.locator("[data-said=wrong]")).to_be_hidden()


def seen_by(lab: ConsoleLab, session: str, name: str) -> set[str]:
    """What the ledger has of somebody's views."""
    views = lab.lab.proxyd.call("show", session=session)["views"]
    return {view["kind"] for view in views if view["who"] == name}


def differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Say where a jump's dump differs from a straight one; "" when they are equal.

    Behind a full row xterm and libghostty erase a line's end from its last cell on, and no letter waits to wrap any more;
    xterm.js erases nothing, and one waits. So that cell may be blank, and the cursor on it instead of behind it.
    """
    edge = one["size"][0] - 1
    one, other = ({**dump, "at": [min(dump["at"][0], edge), dump["at"][1]]} for dump in (one, other))
    for name in ("size", "at", "alternate"):
        if one[name] != other[name]:
            return f"{name}: {one[name]} is not {other[name]}"
    for name in ("active", "beneath"):
        for row, (left, right) in enumerate(zip(one[name], other[name], strict=True)):
            cells = zip(left.split("\n"), right.split("\n"), strict=True)
            for column, (a, b) in enumerate(cells):
                if a != b and not (column == edge and a.startswith("|")):
                    return f"{name}, row {row}, column {column}: {a!r} is not {b!r}"
    return ""


def drawn(duration: int, count: int) -> list[int]:
    """Draw so many moments of a session, in order."""
    draw = Random(SEED)
    return sorted(draw.randrange(duration + 1) for _ in range(count))


def compared(page: Page, moments: list[int]) -> list[dict[str, Any]]:
    """Jump to moments, and go on from each to the next: both show what playing shows, which is given."""
    straight, jumped, gone = [], [], []
    for begin in range(0, len(moments), 50):
        part = moments[begin : begin + 51]
        straight += page.evaluate(STRAIGHT, part)[:50]
        some, others = page.evaluate(JUMPING, part)
        jumped, gone = jumped + some[:50], gone + others
    found = {
        f"{kind} {at / 1e6:.6f}: {wrong}"
        for kind, dumps, shown, times in (
            ("at", jumped, straight, moments),
            ("to", gone, straight[1:], moments[1:]),
        )
        for at, dump, one in zip(times, dumps, shown, strict=True)
        if (wrong := differing(dump, one))
    }
    assert not found, sorted(found)[:20]
    return straight


@pytest.mark.parametrize(
    ("names", "count"),
    [(["less", "vim"], 20), pytest.param(list(PROGRAMS), 1000, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_a_jump_shows_what_playing_from_the_beginning_shows(names, count, console_lab, short):
    session = worked(console_lab, short, names)
    with console_lab.page() as page:
        played(page, console_lab, session)
        duration = page.evaluate("proxyd.player.duration")
        straight = compared(page, drawn(duration, count))
        shot(page, "player-jumped")
    assert len({json.dumps(one) for one in straight}) > min(count // 4, 40), "hardly anything moved"


def test_a_jump_over_a_new_size_of_the_window_shows_what_playing_there_shows(console_lab, short):
    session = worked(console_lab, short, ["less", "vim"], SIZES)
    with console_lab.page() as page:
        played(page, console_lab, session)
        records = list(console_lab.lab.proxyd.recording(session).records())
        sizes = [
            record for record in records if record.kind is Kind.RESIZE
        ]  # it began with one; a client may say it twice
        resized = [two.at_us for one, two in pairwise(sizes) if one.body != two.body]
        assert len(resized) == len(SIZES)
        # Until a full-screen program has drawn itself anew, terminals do not agree on what a new size leaves where.
        typed = [record.at_us for record in records if record.kind is Kind.INPUT]
        answered_at = [next(when for when in typed if when > at) - 1 for at in resized]
        around = [resized[0], *(at - 1 for at in resized), *answered_at]
        straight = compared(page, sorted(around + drawn(page.evaluate("proxyd.player.duration"), 12)))
        shot(page, "player-resized")
    assert {tuple(one["size"]) for one in straight} == {
        (100, 30),
        *((columns, rows) for rows, columns in SIZES),
    }


def test_pictures_of_moments_on_the_timeline_and_to_keep(console_lab, short):
    session = worked(console_lab, short, ["vim"])
    with console_lab.page() as page:
        played(page, console_lab, session)
        slider = page.get_by_role("slider", name="Time in the session")
        box = slider.bounding_box()
        thumb = page.locator("[data-said=thumb]")
        expect(thumb).to_be_hidden()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 10)
        expect(thumb.locator("img")).to_be_visible()
        size = page.evaluate("(i => [i.naturalWidth, i.naturalHeight])(document.querySelector('.thumb img'))")
        assert 100 < size[0] <= MOST_COLUMNS
        assert 50 < size[1] <= MOST_ROWS
        shot(page, "player-thumb")
        asked = page.evaluate("performance.getEntriesByType('resource').length")
        page.mouse.move(box["x"] + box["width"] * 0.5 + 1, box["y"] + 12)
        page.mouse.move(10, 10)
        expect(thumb).to_be_hidden()
        assert page.evaluate("performance.getEntriesByType('resource').length") == asked, "asked for twice"

        slider.press("End")
        eventually("it is at the end", lambda: page.evaluate("proxyd.player.at === proxyd.player.duration"))
        with page.expect_download() as download:
            page.get_by_role("link", name="Picture of this moment").click()
        assert download.value.suggested_filename.startswith(session[:8])
        assert Path(download.value.path()).read_bytes().startswith(PNG)
    assert seen_by(console_lab, session, ADMIN) == {"replay", "log"}


def test_keys_move_and_a_full_screen_has_them_too(console_lab, short):
    session = worked(console_lab, short, ["less"])
    with console_lab.page() as page:
        played(page, console_lab, session)
        at = lambda: page.evaluate("proxyd.player.at")  # noqa: E731
        page.locator("h1").click()
        page.keyboard.press("End")
        eventually("it is at the end", lambda: at() == page.evaluate("proxyd.player.duration"))
        page.keyboard.press("ArrowLeft")
        eventually("it went back", lambda: at() < page.evaluate("proxyd.player.duration"))
        page.keyboard.press("f")
        eventually("it is on the full screen", lambda: page.evaluate("!!document.fullscreenElement"))
        expect(page.get_by_role("slider", name="Time in the session")).to_be_visible()
        page.keyboard.press("Home")
        eventually("it is at the beginning", lambda: at() == 0)
        page.keyboard.press("f")
        eventually("it is on the page again", lambda: not page.evaluate("!!document.fullscreenElement"))
        page.get_by_label("Search the log").fill("f 0 1")
        assert at() == 0, "what is typed into a field moves nothing"


def test_without_an_index_the_page_says_so_and_jumps_all_the_same(console_lab, short):
    session = worked(console_lab, short, ["vim"])
    (console_lab.lab.proxyd.recording(session).path / "index.pxi").unlink()
    with console_lab.page() as page:
        played(page, console_lab, session)
        expect(page.locator("[data-said=note]")).to_contain_text("no index of this session")
        expect(page.locator("[data-said=log]")).to_contain_text("pty-req")
        moments = [page.evaluate("proxyd.player.duration") // 2]
        (straight,), ((jumped,), _) = page.evaluate(STRAIGHT, moments), page.evaluate(JUMPING, moments)
        assert not differing(jumped, straight)


def test_nobody_without_the_permission_sees_a_moment(console_lab, short):
    session = worked(console_lab, short, ["less"])
    with console_lab.page(OPERATOR) as page:
        page.goto(f"{console_lab.console.url}/sessions/{session}/play")
        expect(page.locator("[data-said=wrong]")).to_contain_text("may not do this")
        asked = """Promise.all(['screens', 'thumbs', 'stills'].map((one) =>
            fetch(`${document.querySelector('.screen').dataset.recording}/${one}/1`).then((answer) => answer.status)))"""
        assert page.evaluate(asked) == [403, 403, 403]
    assert not seen_by(console_lab, session, OPERATOR)
