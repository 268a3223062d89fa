"""What a page prints is harmless, whatever a session holds; what a browser sends is read within bounds."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from proxyd.console.assets import Assets
from proxyd.console.forms import FORM_BYTES, BadForm, read_form
from proxyd.console.pages import Pages, lines
from proxyd.console.visit import local_path

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[31m\u202egnp.exe{{ 7*7 }}"


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages(Assets())


def test_a_page_escapes_and_shows_what_is_unseen(pages):
    text = pages.render("error.html", who=None, notice=EVIL, path="", title=EVIL, text=EVIL, ask="")
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4  # its title in the head too
    assert "\\x1b[31m\\u202egnp.exe{{ 7*7 }}" in text


def test_lines_are_kept_and_nothing_else(pages):
    assert str(lines("select 1\n\tfrom <b>\r\x00")) == "select 1\n\tfrom &lt;b&gt;\\r\\x00"


@pytest.mark.parametrize("path", ["/", "/sessions/abc?at=1", "/sessions/a/play?at=3#x"])
def test_local_paths_pass(path):
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/a\\b",
        "/a b",
        "/a\r\nb",
        "evil",
    ],
)
def test_other_paths_lead_home(path):
    assert local_path(path) == "/"


async def form(body: bytes, kind: str = "application/x-www-form-urlencoded"):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", kind.encode())]}
    return await read_form(Request(scope, receive))


async def test_forms_are_read():
    found = await form(b"a=1&b=+x+&a=2&secret=+p+&c=")
    assert (found.text("a"), found.text("b"), found.secret("secret"), found.text("none")) == (
        "2",
        "x",
        " p ",
        "",
    )
    assert found.all("a") == ["1", "2"]
    assert found.all("c") == []


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"a=" + b"x" * FORM_BYTES, "application/x-www-form-urlencoded", 413),
        (b"&".join(b"a=1" for _ in range(100)), "application/x-www-form-urlencoded", 400),
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"\xff=1", "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 415),
        (b"a=1", "text/plain", 415),
        (b"", "multipart/form-data; boundary=x", 415),
    ],
)
async def test_other_bodies_are_refused(body, kind, status):
    with pytest.raises(BadForm) as refused:
        await form(body, kind)
    assert refused.value.status == status


def test_what_others_wrote_ships_with_its_licence():
    assets = Assets()
    text = assets._named["licences.txt"].data.decode()
    for package in ("@xterm/xterm", "@msgpack/msgpack", "fzstd"):
        assert f"==== {package}\n" in text
    assert text.count("MIT License") + text.count("ISC License") + text.count("Permission to use") >= 2
