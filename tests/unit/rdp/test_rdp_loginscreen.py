import pytest

from proxyd.protocols.rdp.events import Mouse, Pointer, Scancode
from proxyd.protocols.rdp.keyboard import Key
from proxyd.protocols.rdp.loginscreen import (
    MAX_TYPED,
    SHOWN_ROWS,
    Chosen,
    Code,
    Credentials,
    Left,
    LoginScreen,
    Part,
    Row,
    Step,
)

ROWS = [Row(f"desk{number}", "Finance" if number % 2 else "Personnel") for number in range(20)]


def nowhere(x, y):
    return None


def enter(screen, *strokes):
    """Press; gives the last answer."""
    answer = None
    for one in strokes:
        for stroke in [one] if isinstance(one, Key) else one:
            answer = screen.press(stroke)
    return answer


@pytest.fixture
def screen():
    made = LoginScreen("alice")
    made.ask_login()
    return made


def test_a_login(screen):
    assert screen.view.focus is Part.PASSWORD
    assert enter(screen, "secret", Key.ENTER) == Credentials("alice", "secret")
    assert screen.user == "alice"


def test_a_secret_is_in_no_view_and_gone_with_its_answer(screen):
    enter(screen, "hunter2")
    assert "hunter2" not in repr(screen.view) + repr(vars(screen))
    assert screen.view.lines[1].length == 7
    answer = screen.press(Key.ENTER)
    assert "hunter2" not in repr(answer) + repr(Code("hunter2"))
    assert screen.view.lines[1].length == 0
    enter(screen, "half")
    screen.wait("Checking.")
    screen.ask_login("Wrong.")
    assert screen.view.lines[1].length == 0
    assert screen.view.message == "Wrong."


def test_what_is_missing_is_asked_for():
    screen = LoginScreen()
    screen.ask_login()
    assert screen.view.focus is Part.USER
    assert screen.press(Key.ENTER) is None
    assert screen.view.message == "Type your user name."
    assert enter(screen, "bob", Key.ENTER) is None
    assert screen.view.focus is Part.PASSWORD
    assert screen.press(Key.ENTER) is None
    assert screen.view.message == "Type your password."
    assert enter(screen, "x", Key.ENTER) == Credentials("bob", "x")


def test_tab_goes_round_and_buttons_can_be_pressed_by_keys(screen):
    seen = []
    for key in [Key.TAB] * 4 + [Key.BACK_TAB] * 4:
        screen.press(key)
        seen.append(screen.view.focus)
    order = [Part.GO, Part.CANCEL, Part.USER, Part.PASSWORD]
    assert seen == [*order, Part.USER, Part.CANCEL, Part.GO, Part.PASSWORD]
    enter(screen, "pw", Key.TAB)
    assert screen.press(" ") == Credentials("alice", "pw")
    enter(screen, Key.TAB)
    assert screen.press(" ") == screen.press(Key.ENTER) == Left()


def test_a_field_can_be_edited(screen):
    enter(screen, Key.BACK_TAB, Key.HOME, "X", Key.RIGHT, Key.DELETE, Key.END, Key.LEFT, Key.BACKSPACE)
    line = screen.view.lines[0]
    assert (line.text, line.caret) == ("Xaie", 3)
    enter(screen, *[Key.BACKSPACE] * 9, *[Key.DELETE] * 9, Key.LEFT, Key.RIGHT)
    assert screen.view.lines[0].text == ""
    enter(screen, "y" * (MAX_TYPED + 9))
    assert len(screen.view.lines[0].text) == MAX_TYPED


def test_escape_leaves_wherever_it_is_asked_but_not_while_nothing_is(screen):
    for ask in (
        screen.ask_login,
        screen.ask_code,
        lambda: screen.ask_target(ROWS),
        lambda: screen.tell("No."),
    ):
        ask()
        assert screen.press(Key.ESCAPE) == Left()
    screen.wait("Connecting.")
    for stroke in (Key.ESCAPE, Key.ENTER, "x", Key.TAB):
        assert screen.press(stroke) is None
    assert screen.release(Part.CANCEL) is None
    assert screen.view.step is Step.WAIT


def test_a_code(screen):
    screen.ask_code()
    assert screen.press(Key.ENTER) is None
    assert screen.view.message == "Type the code."
    assert enter(screen, "123456", Key.ENTER) == Code("123456")


def test_a_list_by_keys(screen):
    screen.ask_target(ROWS)
    assert screen.press(Key.ENTER) == Chosen(0)
    enter(screen, Key.DOWN, Key.DOWN, Key.UP, Key.PAGE_DOWN)
    assert screen.press(Key.ENTER) == Chosen(1 + SHOWN_ROWS)
    view = screen.view
    assert view.rows[view.selected] == ROWS[1 + SHOWN_ROWS]
    enter(screen, *[Key.PAGE_DOWN] * 9)
    assert screen.press(Key.ENTER) == Chosen(len(ROWS) - 1)
    assert screen.view.rows == tuple(ROWS[-SHOWN_ROWS:])
    enter(screen, *[Key.PAGE_UP] * 9)
    assert screen.press(Key.ENTER) == Chosen(0)


def test_a_list_is_searched_by_what_is_typed(screen):
    screen.ask_target(ROWS)
    enter(screen, "finance 1")
    assert screen.view.found == 6  # desk1, 11, 13, 15, 17, 19
    enter(screen, Key.DOWN)
    assert screen.press(Key.ENTER) == Chosen(11)
    enter(screen, "zzz")
    assert screen.view.found == 0
    assert screen.press(Key.ENTER) is None
    assert screen.press(Key.DOWN) is None
    enter(screen, *[Key.BACKSPACE] * 20)
    assert screen.view.found == len(ROWS)
    enter(screen, Key.TAB, Key.TAB)
    assert screen.view.focus is Part.CANCEL
    enter(screen, "5")
    assert screen.view.focus is Part.SEARCH


def test_a_list_by_the_mouse(screen):
    screen.ask_target(ROWS)
    assert screen.click(0) is None  # selected already, and not clicked before
    assert screen.click(3) is None
    assert screen.view.selected == 3
    assert screen.click(3) == Chosen(3)
    assert screen.click(99) is None
    assert screen.click(2) is None
    screen.press(Key.DOWN)
    assert screen.click(2) is None  # something else was done between
    wheel = Mouse(Pointer.WHEEL | Pointer.WHEEL_NEGATIVE, 1, 1)
    screen.ask_target(ROWS)
    screen.feed(wheel, nowhere)
    assert screen.view.selected == 3
    screen.feed(Mouse(Pointer.WHEEL, 1, 1), nowhere)
    assert screen.view.selected == 0


def test_a_button_acts_when_it_was_pressed_and_released(screen):
    enter(screen, "pw")
    down, up = Mouse(Pointer.BUTTON1 | Pointer.DOWN, 5, 5), Mouse(Pointer.BUTTON1, 5, 5)
    assert screen.feed(up, lambda x, y: Part.GO) is None
    assert screen.feed(down, lambda x, y: Part.GO) is None
    assert screen.feed(up, lambda x, y: Part.CANCEL) is None
    assert screen.feed(up, lambda x, y: Part.GO) == Credentials("alice", "pw")
    screen.feed(down, lambda x, y: Part.CANCEL)
    assert screen.feed(up, lambda x, y: Part.CANCEL) == Left()
    screen.feed(down, lambda x, y: Part.USER)
    assert screen.view.focus is Part.USER
    screen.feed(down, lambda x, y: Part.SEARCH)  # is not on this screen
    assert screen.view.focus is Part.USER
    assert screen.feed(Mouse(Pointer.BUTTON2 | Pointer.DOWN, 5, 5), lambda x, y: Part.PASSWORD) is None
    assert screen.view.focus is Part.USER


def test_caps_lock_is_said_where_a_secret_is_asked_for(screen):
    screen.feed(Scancode(0x3A), nowhere)
    assert screen.view.caps
    screen.ask_code()
    assert not screen.view.caps


def test_a_message_stays_until_something_is_typed(screen):
    screen.ask_login("Wrong user name or password.")
    screen.press(Key.ENTER)
    assert screen.view.message == "Wrong user name or password."
    screen.press("x")
    assert screen.view.message == ""
