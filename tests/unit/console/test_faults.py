"""What a fault of ours, an error of the daemon's and a browser that leaves become: a page that says no more than it may (ASVS 5.0, 16.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxyd import metrics
from proxyd.console.guard import HEADERS
from proxyd.control.client import Code, ControlError
from proxyd.errors import FormatError
from tests.fuzz.atheris_console import HOST, TOKEN, Place

SECRET = "a secret of ours, at /var/lib/proxyd"


@pytest.fixture(scope="module")
def place() -> Place:
    return Place()


async def ask(place: Place, path: str = "/blocked") -> tuple[int, dict[str, str], str]:
    """Ask for a page as the one who is signed in."""
    place.signed_in()
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = {"host": HOST, "cookie": f"__Host-proxyd={TOKEN}"}
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.1", 1),
        "server": (HOST, 443),
        "scheme": "https",
        "http_version": "1.1",
    }
    try:
        await place.app(scope, receive, send)
    except RuntimeError as error:  # starlette gives it to the server as well, once it is answered
        assert str(error) == SECRET
    named = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], named, b"".join(message.get("body", b"") for message in sent[1:]).decode()


async def test_a_fault_of_ours_says_nothing_of_itself(place, monkeypatch):
    async def call(*_: Any, **__: Any) -> dict[str, Any]:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(place.site.daemon, "call", call)
    before = metrics.CONSOLE.get_sample_value("proxyd_console_faults_total") or 0.0
    status, headers, text = await ask(place)
    assert status == 500
    assert SECRET not in text
    assert "RuntimeError" not in text
    assert "its log says which" in text
    assert metrics.CONSOLE.get_sample_value("proxyd_console_faults_total") == before + 1
    for name in HEADERS:
        assert headers[name] == HEADERS[name]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ControlError(Code.UNREACHABLE, "the daemon can't be reached: gone"), 503),
        (ControlError(Code.BUSY, "too many"), 503),
        (ControlError(Code.DENIED, "not for you"), 403),
        (ControlError(Code.INTERNAL, "the daemon met a fault of its own; its log says which"), 502),
        (FormatError("a torn recording"), 502),
    ],
)
async def test_what_the_daemon_says_is_a_page_of_its_status(place, monkeypatch, error, status):
    async def call(*_: Any, **__: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(place.site.daemon, "call", call)
    found, headers, text = await ask(place)
    assert found == status
    assert "<h1>" in text
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


async def test_without_a_daemon_the_console_stands(place):
    assert isinstance(place.site.daemon.path, Path)
    status, _, text = await ask(place)
    assert status == 503
    assert "can&#39;t be reached" in text
    assert str(place.site.daemon.path) not in text
