import pytest

from proxyd.protocols.rdp.events import Mouse, Pointer, Quality, Scancode, Sync, Toggle, Unicode
from proxyd.protocols.rdp.keyboard import Key, Keyboard
from proxyd.protocols.rdp.keymaps import KEYMAPS, KEYS

SHIFT, CONTROL, ALT, CAPS, NUM, SPACE = 0x2A, 0x1D, 0x38, 0x3A, 0x45, 0x39
ALT_GR = Scancode(0x38, extended=True)
US, GERMAN, FRENCH = 0x0409, 0x0407, 0x040C
NAMED = ("US English", "UK English", "German", "French", "Spanish", "Italian", "Swiss German", "Swiss French",
         "Portuguese", "Danish", "Norwegian", "Swedish", "Finnish")  # fmt: skip
NOT_THERE = {0x0410: "`~"}  # Windows' Italian keyboard has no key for them
ASCII = "".join(map(chr, range(0x20, 0x7F)))


def code(one):
    return one if isinstance(one, Scancode) else Scancode(one)


def chord(keyboard, *keys):
    """Press keys one after the other and let them go; gives what the last one did."""
    strokes = []
    for key in map(code, keys):
        strokes = keyboard.feed(key)
    for key in reversed([code(key) for key in keys]):
        assert keyboard.feed(key._replace(released=True)) == []
    return strokes


def typed(*keys, layout=US):
    keyboard = Keyboard(layout)
    return [stroke for one in keys for stroke in chord(keyboard, *(one if type(one) is tuple else (one,)))]


@pytest.mark.parametrize("number", KEYMAPS, ids=lambda number: KEYMAPS[number].name)
def test_layouts_are_those_of_the_indexer_key_by_key(number):
    pytest.importorskip("aardwolf", reason="the indexer's layouts are not installed")
    from proxyd.index.rdp.layouts import ALT_GR as HELD_ALT_GR  # noqa: PLC0415 - needs the tables
    from proxyd.index.rdp.layouts import Given, Held, layout  # noqa: PLC0415

    theirs = layout(number)
    assert theirs.exact
    assert theirs.alt_gr == KEYMAPS[number].alt_gr
    held = {(): Held.NOTHING, (SHIFT,): Held.SHIFT}
    if theirs.alt_gr:
        held |= {(ALT_GR,): HELD_ALT_GR, (SHIFT, ALT_GR): HELD_ALT_GR | Held.SHIFT}
    for caps in (False, True):
        for with_keys, modifiers in held.items():
            for key in KEYS:
                keyboard = Keyboard(number)
                keyboard.feed(Sync(Toggle.CAPS_LOCK if caps else Toggle(0)))
                first = chord(keyboard, *with_keys, key)
                # AltGr has no letters that Caps Lock changes on most layouts; the indexer knows those that do
                given, text = theirs.press(
                    key, modifiers | (Held.CAPS if caps and ALT_GR not in with_keys else 0)
                )
                if given is Given.ACCENT:
                    assert first == []
                    assert chord(keyboard, SPACE) == [text], (key, with_keys)
                elif text.isspace() or not text or len(text) > 1:
                    assert first == [], (key, with_keys, text)
                else:
                    assert first == [text], (key, with_keys, caps)


@pytest.mark.parametrize("number", [number for number, one in KEYMAPS.items() if one.name in NAMED],
                         ids=lambda number: KEYMAPS[number].name)  # fmt: skip
def test_all_of_ascii_can_be_typed(number):
    assert {KEYMAPS[one].name for one in KEYMAPS} >= set(NAMED)
    found = set(typed(SPACE))
    for key in KEYS:
        for held in ((), (SHIFT,), (ALT_GR,), (CONTROL, ALT), (SHIFT, ALT_GR)):
            found |= {one for one in typed((*held, key), SPACE, layout=number) if one != " "}
    assert set(ASCII) - found == set(NOT_THERE.get(number, ""))


def test_dead_keys_compose_as_windows_does():
    assert typed(0x0D, 0x12, layout=GERMAN) == ["é"]
    assert typed(0x29, 0x11, layout=GERMAN) == ["^w"]  # code page 1252 has no such letter
    assert typed(0x29, 0x29, layout=GERMAN) == ["^^"]
    assert typed(0x29, SPACE, layout=GERMAN) == ["^"]
    assert typed(0x29, 0x1C, 0x1E, layout=GERMAN) == [Key.ENTER, "a"]  # what acts takes the accent away


def test_modifiers_locks_and_the_number_pad():
    assert typed((CONTROL, 0x1E), (ALT, 0x1E), (ALT_GR, 0x1E)) == []
    assert typed(CAPS, 0x1E, 0x02, (SHIFT, 0x1E), CAPS, 0x1E) == ["A", "1", "a", "a"]
    assert typed(CAPS, 0x03, layout=FRENCH) == ["2"]
    assert typed(0x47, NUM, 0x47, 0x4C, 0x53, 0x37, Scancode(0x35, extended=True)) == [
        Key.HOME, "7", "5", ".", "*", "/",
    ]  # fmt: skip
    assert typed(0x4C) == []
    assert typed(NUM, 0x53, layout=GERMAN) == [","]
    assert typed(NUM, Scancode(0x47, extended=True)) == [Key.HOME]
    held = Keyboard(US)
    assert [held.feed(Scancode(CAPS)) for _ in range(3)] == [[], [], []]  # a key that repeats changes nothing
    assert held.caps


def test_a_client_that_gets_the_focus_says_what_is_on_and_holds_nothing():
    keyboard = Keyboard(US)
    keyboard.feed(Scancode(SHIFT))
    keyboard.feed(Sync(Toggle.CAPS_LOCK | Toggle.NUM_LOCK))
    assert keyboard.feed(Scancode(0x1E)) == ["A"]
    assert keyboard.num
    keyboard.feed(Sync(Toggle(0)))
    assert keyboard.feed(Scancode(0x1E)) == ["a"]


def test_characters_without_a_key():
    keyboard = Keyboard(US)
    codes = [0x20AC, 0xD83D, 0xDE00, 0xDE00, 0x0D, 0x09, 0x08, 0x1B, 0x07]
    strokes = [stroke for one in codes for stroke in keyboard.feed(Unicode(one))]
    assert strokes == ["€", "😀", Key.ENTER, Key.TAB, Key.BACKSPACE, Key.ESCAPE]
    assert keyboard.feed(Unicode(0x41, released=True)) == []
    assert keyboard.feed(Mouse(Pointer.MOVE, 1, 1)) == keyboard.feed(Quality(1)) == []
    assert keyboard.feed(Scancode(0x1D, extended1=True)) == []  # Pause


def test_tab_goes_both_ways_and_what_is_unknown_does_nothing():
    assert typed(0x0F, (SHIFT, 0x0F), 0x01, 0x0E, 0x7F, 0xFF) == [
        Key.TAB, Key.BACK_TAB, Key.ESCAPE, Key.BACKSPACE,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "name"),
    [(0x0407, "German"), (0x00010407, "German"), (0x0C07, "German"), (0x0411, "US English"), (0, "US English"),
     (0xFFFFFFFF, "US English"), (0x1009, "US English"), (0xF0010407, "German")],
)  # fmt: skip
def test_a_layout_nobody_knows_is_its_languages_or_us_english(number, name):
    assert Keyboard(number).name == name
