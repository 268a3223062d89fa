import math

import pytest

from proxyd.gate import RESTORED, REVOKED
from proxyd.protocols.rdp import banner, fastpath
from proxyd.protocols.rdp.crossing import Desk
from proxyd.protocols.rdp.fastpath import Fragment, Update, UpdateCode
from proxyd.protocols.rdp.notices import Notices, standing_s
from proxyd.protocols.rdp.wire import Framer

pytestmark = pytest.mark.mission("M3", "M4")

SIZE = (800, 600)


@pytest.fixture
def desk():
    return Desk(*SIZE, licensed=True, active=True)


@pytest.fixture
def notices(desk):
    return Notices(desk)


def update(*fragments):
    return fastpath.build_output([Update(UpdateCode.BITMAP, one, 0, b"xy") for one in fragments])


def drawn(text, size=SIZE):
    return b"".join(banner.draw(text, *size).frames)


def test_a_notice_is_drawn_once(notices):
    assert notices.put(REVOKED) == []
    assert notices.frames() == drawn(REVOKED)
    assert notices.frames() == b""
    assert not notices.due


@pytest.mark.parametrize("begun", [(Fragment.FIRST,), (Fragment.SINGLE, Fragment.FIRST), (Fragment.NEXT,)])
def test_nothing_is_drawn_inside_an_update_in_fragments(notices, begun):
    notices.passed(update(*begun))
    notices.put("hello")
    assert notices.frames() == b""
    notices.passed(update(Fragment.NEXT))
    assert notices.frames() == b""
    notices.passed(
        b"\x03\x00\x00\x09\x02\xf0\x80\x21\x80"
    )  # the slow path stands between fragments without harm
    assert notices.frames() == b""
    notices.passed(update(Fragment.LAST))
    assert notices.frames() == drawn("hello")


def test_nothing_is_drawn_behind_an_update_nobody_can_read(notices):
    """Found by a campaign: a target's broken update came back from the operator's drop as an error."""
    notices.passed(b"\0\x06\1\xff\xff\0")
    notices.put("hello")
    assert notices.frames() == b""
    notices.passed(update(Fragment.SINGLE))
    assert notices.frames() == drawn("hello")


def test_what_was_painted_over_is_drawn_again_and_what_was_not_is_not(notices):
    notices.put(REVOKED)
    notices.frames()
    notices.again()
    assert notices.frames() == b""
    notices.passed(update(Fragment.SINGLE))
    notices.again()
    assert notices.frames() == drawn(REVOKED)


def test_a_notice_waits_for_the_desktop_and_comes_back_when_it_changes_its_size(desk, notices):
    desk.active = False
    notices.put("soon")
    assert notices.frames() == b""
    desk.active = True
    assert notices.frames() == drawn("soon")
    desk.active = False
    notices.passed(b"\x03\x00\x00\x09\x02\xf0\x80\x21\x80")
    desk.width, desk.height, desk.active = 640, 480, True
    assert notices.frames() == drawn("soon", (640, 480))


def test_what_a_notice_covered_is_given_back_once(desk, notices):
    notices.put("one")
    notices.frames()
    there = banner.draw("one", *SIZE)
    (bared,) = notices.put("two")
    assert (bared.left, bared.top) == (there.left, there.top)
    assert (bared.right - bared.left + 1, bared.bottom - bared.top + 1) == (there.width, there.height)
    assert notices.take_away() == []  # it was never drawn
    notices.put("three")
    notices.frames()
    desk.width = 1024
    assert notices.take_away() == []  # that desktop is gone
    notices.passed(update(Fragment.SINGLE))
    notices.again()
    assert notices.frames() == b""


def test_frames_of_a_notice_are_whole(notices):
    notices.put("word " * 100)
    frames = notices.frames()
    assert b"".join(Framer().feed(frames)) == frames


def test_a_long_text_stands_longer_and_a_shut_gate_is_said_until_it_opens():
    assert standing_s(RESTORED) == 5.0
    assert standing_s("x" * 300) == 20.0
    assert standing_s(REVOKED) == math.inf
