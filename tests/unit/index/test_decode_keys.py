"""Scancodes, layouts, dead keys and locks become the text that was typed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.index.tape import FRENCH, GERMAN, US, keys, press, record, session

from proxyd.index.rdp.keys import Keys, Keystroke, keystrokes
from proxyd.index.rdp.layouts import ALT_GR, Given, Held, layout
from proxyd.protocols.rdp.events import Event, Quality, Scancode, Sync, Toggle, Unicode
from proxyd.recorder.record import Kind, Record

pytestmark = pytest.mark.mission("M16")

SHIFT, CTRL, ALT, RIGHT_ALT, WIN = 0x2A, 0x1D, 0x38, 0xE038, 0xE05B
CAPS_LOCK, NUM_LOCK, ENTER, TAB, BACKSPACE, ESCAPE, SPACE = 0x3A, 0x45, 0x1C, 0x0F, 0x0E, 0x01, 0x39
INTERNATIONAL, BRAZILIAN, POLISH, UNKNOWN = 0x0002_0409, 0x0001_0416, 0x0415, 0x7FFF_FFFF
Chord = tuple[int, ...]


def strokes(events: list[Event], number: int = US, path: str = "fast") -> list[Keystroke]:
    return list(keystrokes([session(layout=number), keys(*events, path=path)]))


def typed(*chords: Chord, number: int = US, path: str = "fast") -> str:
    events = [event for chord in chords for event in press(*chord)]
    return "".join(stroke.text for stroke in strokes(events, number, path))


def codes(*numbers: int) -> list[Chord]:
    return [(number,) for number in numbers]


# "the quick" and so on, as the keys of each layout lie (scancodes of set 1).
LAYOUTS = [
    pytest.param(US, [*codes(0x23, 0x12, 0x26, 0x26, 0x18, 0x39), (SHIFT, 0x11), *codes(0x18, 0x13, 0x26, 0x20),
                      (SHIFT, 0x02), (SHIFT, 0x03), (SHIFT, 0x28), (0x28,), (0x29,), (SHIFT, 0x29), (0x2B,)],
                 "hello World!@\"'`~\\", id="US"),
    pytest.param(GERMAN, [(0x2C,), (0x15,), (0x1A,), (SHIFT, 0x28), (0x0C,), (RIGHT_ALT, 0x10), (RIGHT_ALT, 0x12),
                          (RIGHT_ALT, 0x08), (RIGHT_ALT, 0x1B), (SHIFT, 0x0C), (0x2B,), (SHIFT, 0x35), (0x56,)],
                 "yzüÄß@€{~?#_<", id="German"),
    pytest.param(FRENCH, [(0x10,), (0x11,), (0x1E,), (0x2C,), (0x27,), (0x02,), (SHIFT, 0x02), (0x03,), (0x0B,),
                          (RIGHT_ALT, 0x0B), (RIGHT_ALT, 0x0A), (SHIFT, 0x33), (0x33,), (0x35,), (0x28,)],
                 "azqwm&1éà@^.;!ù", id="French"),
]  # fmt: skip


@pytest.mark.parametrize("path", ["fast", "slow"])
@pytest.mark.parametrize(("number", "chords", "text"), LAYOUTS)
def test_text_of_three_layouts_comes_back_exact(
    number: int, chords: list[Chord], text: str, path: str
) -> None:
    assert typed(*chords, number=number, path=path) == text


@pytest.mark.parametrize(
    ("number", "chords", "text"),
    [
        pytest.param(FRENCH, codes(0x1A, 0x12), "ê", id="circumflex"),
        pytest.param(FRENCH, [(SHIFT, 0x1A), (0x17,)], "ï", id="diaeresis by Shift"),
        pytest.param(FRENCH, [(0x1A,), (SHIFT, 0x12)], "Ê", id="the letter by Shift"),
        pytest.param(FRENCH, codes(0x1A, SPACE), "^", id="space gives the accent"),
        pytest.param(FRENCH, codes(0x1A, 0x1A, 0x12), "^^e", id="twice gives both, and no accent waits"),
        pytest.param(FRENCH, codes(0x1A, 0x2D), "^x", id="no such letter: both"),
        pytest.param(FRENCH, codes(0x1A, 0x11), "^z", id="a letter Windows does not compose in French"),
        pytest.param(FRENCH, [(RIGHT_ALT, 0x03), (0x31,)], "ñ", id="tilde by AltGr"),
        pytest.param(FRENCH, [(RIGHT_ALT, 0x0A), (0x12,)], "^e", id="AltGr+9 is a plain circumflex"),
        pytest.param(GERMAN, codes(0x0D, 0x12), "é", id="acute"),
        pytest.param(GERMAN, [(SHIFT, 0x0D), (0x1E,)], "à", id="grave by Shift"),
        pytest.param(GERMAN, codes(0x29, 0x16), "û", id="German circumflex"),
        pytest.param(GERMAN, [(RIGHT_ALT, 0x1B), (0x31,)], "~n", id="the German tilde is plain"),
        pytest.param(US, [(0x28,), (0x12,)], "'e", id="US has no dead keys"),
        pytest.param(INTERNATIONAL, codes(0x28, 0x12, 0x28, 0x2E), "éç", id="US International"),
        pytest.param(BRAZILIAN, codes(0x28, 0x1E, 0x1A, 0x12), "ãé", id="Brazilian"),
        pytest.param(POLISH, [(SHIFT, 0x29), (0x26,)], "ł", id="the Polish tilde"),
    ],
)  # fmt: skip
def test_dead_keys(number: int, chords: list[Chord], text: str) -> None:
    assert typed(*chords, number=number) == text


def test_a_dead_key_types_nothing_and_modifiers_do_not_end_it() -> None:
    assert [stroke.text for stroke in strokes([*press(0x1A), *press(SHIFT), *press(0x12)], FRENCH)] == [
        "",
        "ê",
    ]


def test_controls() -> None:
    assert typed(*codes(0x1E, ENTER, TAB, BACKSPACE, ESCAPE, 0xE01C, 0x3B)) == "a\n\t\n"
    assert [stroke.name for stroke in strokes([*press(BACKSPACE), *press(ESCAPE), *press(0xE048), *press(0x3B)])] == [
        "Backspace", "Escape", "Up", "F1"]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "chord", "name", "text"),
    [
        (US, (CTRL, 0x2E), "Ctrl+C", ""),
        (US, (CTRL, SHIFT, 0x01), "Ctrl+Shift+Escape", ""),
        (US, (ALT, 0x3E), "Alt+F4", ""),
        (US, (CTRL, ALT, 0xE053), "Ctrl+Alt+Delete", ""),
        (US, (CTRL, SPACE), "Ctrl+Space", ""),
        (US, (WIN, 0x13), "Win+R", ""),
        (US, (SHIFT, 0x1E), "Shift+A", "A"),
        (US, (RIGHT_ALT, 0x1E), "Alt+A", ""),
        (GERMAN, (RIGHT_ALT, 0x10), "AltGr+Q", "@"),
        (GERMAN, (CTRL, RIGHT_ALT, 0x10), "AltGr+Q", "@"),  # Windows sends Ctrl with it
        (GERMAN, (CTRL, ALT, 0x10), "Ctrl+Alt+Q", "@"),  # which is the same to Windows
        (GERMAN, (0x0C,), "ß", "ß"),
    ],
)
def test_names_of_chords(number: int, chord: Chord, name: str, text: str) -> None:
    strokes_ = strokes(press(*chord), number)
    assert [(stroke.name, stroke.text) for stroke in strokes_] == [(name, text)]


def test_caps_lock_changes_letters_and_not_digits() -> None:
    assert typed((CAPS_LOCK,), (0x1E,), (0x02,), (SHIFT, 0x1E), (CAPS_LOCK,), (0x1E,)) == "A1aa"
    assert typed((CAPS_LOCK,), (0x02,), (SHIFT, 0x02), number=FRENCH) == "1&"  # there it changes digits too


def test_caps_lock_does_not_change_again_while_it_repeats() -> None:
    down = press(CAPS_LOCK)[0]
    assert [stroke.text for stroke in strokes([down, down, down, *press(0x1E)])] == ["A"]


def test_the_number_pad_types_while_num_lock_is_on() -> None:
    assert typed((0x47,), (NUM_LOCK,), (0x47,), (0x53,), (SHIFT, 0x47), (0x4A,)) == "7.-"
    assert typed((NUM_LOCK,), (0x53,), number=GERMAN) == ","


def test_the_client_says_how_the_locks_are() -> None:
    locked = Sync(Toggle.CAPS_LOCK | Toggle.NUM_LOCK)
    events = [locked, *press(0x1E), *press(0x47), Sync(Toggle(0)), *press(0x1E), *press(0x47)]
    assert "".join(stroke.text for stroke in strokes(events)) == "A7a"


def test_a_synchronize_lets_go_of_everything() -> None:
    assert [stroke.text for stroke in strokes([press(SHIFT)[0], Sync(Toggle(0)), *press(0x1E)])] == ["a"]


def test_pause_is_no_num_lock() -> None:
    down, up = press(0xE11D)
    num_down, num_up = press(NUM_LOCK)
    strokes_ = strokes([down, num_down, up, num_up, *press(0x47)])
    assert [(stroke.name, stroke.text) for stroke in strokes_] == [("Pause", ""), ("Home", "")]


def test_characters_without_keys() -> None:
    units = [
        Unicode(0x20AC),
        Unicode(0x20AC, released=True),
        Unicode(0xD83D),
        Unicode(0xDE00),
        Unicode(0xDE00),
        Unicode(13),
    ]
    assert [(stroke.text, stroke.scancode) for stroke in strokes(units)] == [("€", 0), ("😀", 0), ("\n", 0)]


def test_a_key_that_repeats_types_again() -> None:
    down, up = press(0x1E)
    assert "".join(stroke.text for stroke in strokes([down, down, up])) == "aa"


def test_what_met_a_closed_gate_is_marked_and_changes_nothing_at_the_target() -> None:
    shift_down, shift_up = press(SHIFT)
    records = [
        session(),
        keys(*press(0x1E), at_us=1),
        keys(shift_down, *press(0x30), at_us=2, kind=Kind.REFUSED),
        keys(*press(0x2E), at_us=3),
        keys(shift_up, kind=Kind.REFUSED),
    ]
    assert [(stroke.at_us, stroke.text, stroke.refused) for stroke in keystrokes(records)] == [
        (1, "a", False), (2, "B", True), (3, "c", False)]  # fmt: skip


def test_scancodes_have_their_prefix() -> None:
    assert [stroke.scancode for stroke in strokes([*press(0xE048), *press(0x48), Quality(1)])] == [
        0xE048,
        0x48,
    ]


def test_what_cannot_be_read_is_counted() -> None:
    reader = Keys()
    bad = [b"\x04\x03\x00", b"\x04", b"\x03\x00\x00\x07\x02\xf0\x80", b"\x08\x04\xe0\x00"]
    assert [reader.feed(one) for one in [session(), *(record(Kind.INPUT_PDU, body) for body in bad)]] == [
        []
    ] * 5
    assert reader.faults == len(bad)
    assert [stroke.text for stroke in reader.feed(keys(*press(0x1E)))] == ["a"]


@pytest.mark.parametrize(
    ("asked", "found", "exact"),
    [(US, US, True), (FRENCH, FRENCH, True), (0x0413, 0x0413, True), (0x0C07, GERMAN, False),
     (0xE001_0411, 0x0411, False), (UNKNOWN, US, False), (0, US, False), (1 << 40, US, False)],
)  # fmt: skip
def test_unknown_layouts_are_answered_by_their_language(asked: int, found: int, exact: bool) -> None:
    table = layout(asked)
    assert (table.id, table.exact) == (found, exact)


def test_the_layout_is_the_clients() -> None:
    reader = Keys()
    assert reader.layout.id == US
    reader.feed(session(layout=FRENCH))
    assert reader.layout.id == FRENCH


@pytest.mark.parametrize(
    "number", [US, GERMAN, FRENCH, INTERNATIONAL, BRAZILIAN, POLISH, 0x0413, 0x041F, 0x0411]
)
def test_every_key_of_a_layout_gives_text_or_an_accent_or_nothing(number: int) -> None:
    table = layout(number)
    given_ = {
        table.press(code, held)[0]
        for code in table.texts
        for held in (Held.NOTHING, Held.SHIFT, ALT_GR, ALT_GR | Held.SHIFT, Held.CAPS, Held.NUM)
    }
    assert given_ >= {Given.TEXT, Given.NOTHING}
    assert (Given.ACCENT in given_) is (number not in {US, 0x0411})
    assert all(table.name(code) for code in range(0x80))


@given(st.lists(st.binary(max_size=40), max_size=6), st.sampled_from([Kind.INPUT_PDU, Kind.REFUSED]))
def test_nothing_a_client_sends_raises(bodies: list[bytes], kind: Kind) -> None:
    reader = Keys()
    records: list[Record] = [
        session(),
        *(record(kind, bytes((len(body) % 16 << 2, len(body) + 2)) + body) for body in bodies),
    ]
    for one in records:
        for stroke in reader.feed(one):
            assert stroke.refused is (kind is Kind.REFUSED)


def test_a_key_costs_the_same_however_many_others_are_said_to_be_held() -> None:
    """Found by a campaign: every press went through all that was held, which a client says as it likes."""
    everything = [Scancode(code, extended=extended) for code in range(1, 0x80) for extended in (False, True)]
    held = [one for one in everything if one.code not in (0x45, 0x5B, 0x5C)]

    def took(before: list[Event]) -> float:
        reader = Keys()
        reader.feed(session())
        for event in before:
            reader.feed(keys(event))
        pressed = [keys(Scancode(0x1E)) for _ in range(2000)]
        began = time.process_time()
        for one in pressed:
            assert len(reader.feed(one)) == 1
        return time.process_time() - began

    most, least = (min(took(before) for _ in range(3)) for before in (held, []))
    assert most < 5 * least  # it was a hundred times as much
