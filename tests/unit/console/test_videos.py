"""The pages about exports: what they say of each, harmless whatever is in it, and what a file is called and may be read from."""

from __future__ import annotations

from typing import Any

import pytest
from unit.console.test_pages import EVIL

from proxyd.console.assets import Assets
from proxyd.console.pages import Pages
from proxyd.console.signin import SignIn
from proxyd.console.videos import FORMS, SORTS, STATES, _file_of, _name, listed
from proxyd.control.client import ControlError
from proxyd.recorder.forms import EVERY

pytestmark = pytest.mark.mission("M13")


def row(**more: Any) -> dict[str, Any]:
    """An export as the daemon tells of it."""
    plain = {
        "id": "ab" * 16, "node": "n", "session": "5e" * 16, "who": EVIL, "form": "webm", "path": EVIL, "state": "done",
        "queued_at": 1.0, "started_at": 2.0, "ended_at": 3.0, "size": 2_500_000, "duration_us": 90_000_000, "sha256": "cd" * 32,
        "error": "", "person": EVIL, "address": "", "settings": {"keys": True, "pause_s": 2.0, "speed": 4, "half": True}, "unattended": True, "tries": 0,
        "removed_at": None, "percent": 100, "goes_at": 9.0, "mine": True, "about": EVIL, "here": True,
    }  # fmt: skip
    return listed(plain | more)


def page(rows: list[dict[str, Any]], *, others: bool = True) -> str:
    given = dict.fromkeys(("state", "form", "person", "up"), EVIL) | {"sort": "queued_at"}
    return Pages(Assets()).render(
        "exports.html", who=SignIn("ann", "", 0, 0), notice="", path="/exports", rows=rows, given=given, states=STATES,
        forms=FORMS, sorts=SORTS, others=others, there=1, size=5, busy=any(one["busy"] for one in rows),
    )  # fmt: skip


def test_what_others_named_stays_text():
    text = page([row(), row(state="failed", error=EVIL)])
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5


def test_each_says_how_far_it_is_what_it_takes_and_how_long_it_is_kept():
    text = page([row(person="ann", about="alice on root@db1")])
    for said in (
        "ready",
        "2.5 MB",
        "1 min 30 s",
        "keys",
        "pauses 2.0 s",
        "4x",
        "half size",
        "alice on root@db1",
        "/file",
        "1970-01-01 00:00:09 UTC",
    ):
        assert said in text, said
    assert '<noscript><meta http-equiv="refresh"' not in text
    busy = page([row(state="running", percent=40, size=0, duration_us=0, ended_at=None, goes_at=None)])
    assert '<noscript><meta http-equiv="refresh"' in busy
    assert 'value="40"' in busy
    assert "/file" not in busy
    gone = page([row(removed_at=4.0)])
    assert "removed" in gone
    assert "/file" not in gone
    assert "/file" not in page([row(mine=False)])
    assert "/file" not in page([row(unattended=False)])
    assert "/file" not in page([row(here=False)])
    assert "begun again" in page([row(state="queued", tries=1)])


def test_every_form_has_a_sentence():
    assert set(FORMS) == set(EVERY)


def test_a_name_can_break_no_header_and_only_our_own_files_are_read():
    assert _name(row()) == "session-5e5e5e5e-1970-01-01.webm"
    assert _name(row(form="asciicast2")).endswith(".cast")
    assert str(_file_of(row(path="/x/y.webm"))) == "/x/y.webm"
    for other, why in (
        ({"unattended": False}, "elsewhere"),
        ({"state": "running"}, "not there"),
        ({"removed_at": 1.0}, "not there"),
        ({"here": False}, "on node n: download it in that node's console"),
    ):
        with pytest.raises(ControlError, match=why):
            _file_of(row(**other))
