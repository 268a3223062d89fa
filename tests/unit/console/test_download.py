"""Files on their way to a browser: which part of them, and what ends them early; and connections nothing moves on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from proxyd.console.download import Download, Span, span_of
from proxyd.console.patience import READ_SECONDS, Patient
from proxyd.control.client import Code, ControlError
from proxyd.control.fetching import RANGE_BYTES

pytestmark = pytest.mark.mission("M13")


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("", (0, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-900", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=100-", None),
        ("bytes=-0", None),
        ("bytes=20-10", (0, 100)),  # no range: RFC 9110 14.1.1
        ("bytes=0-1,5-6", (0, 100)),  # more than one: all of it, which is allowed
        ("items=0-1", (0, 100)),
        ("bytes=-", (0, 100)),
        ("bytes=a-b", (0, 100)),
        (f"bytes={'9' * 18}-", None),
        (f"bytes={'9' * 400}-", (0, 100)),
    ],
)
def test_a_range_is_what_it_says_or_all(asked: str, wanted: tuple[int, int] | None) -> None:
    assert span_of(asked, 100) == wanted


def test_of_a_file_that_is_another_by_now_all_is_given_and_of_none_nothing() -> None:
    assert span_of("bytes=10-19", 100, whole=True) == (0, 100)
    assert span_of("bytes=0-", 0) is None
    assert span_of("", 0) == (0, 0)


class Browser:
    """What an application sends."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    async def take(self, answer: Download) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        await answer({"type": "http"}, receive, self.send)  # type: ignore[arg-type]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def whole(self) -> bool:
        return self.messages[-1]["type"] == "http.response.body" and not self.messages[-1].get("more_body")


async def test_every_piece_is_allowed_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x"
    data = bytes(range(256)) * (10 * RANGE_BYTES // 1024)
    file.write_bytes(data)
    pieces: list[tuple[int, int]] = []

    async def allowed(start: int, length: int) -> None:
        pieces.append((start, length))

    browser, span = Browser(), Span(5, len(data) - 7)
    await browser.take(Download(file, span, len(data), {"etag": '"x"'}, allowed))
    assert browser.body == data[5:-7]
    assert browser.whole
    assert browser.messages[0]["status"] == 206
    headers = dict(browser.messages[0]["headers"])
    assert headers[b"content-range"] == f"bytes 5-{len(data) - 8}/{len(data)}".encode()
    assert headers[b"content-length"] == str(len(data) - 12).encode()
    assert [start for start, _ in pieces] == [5, 5 + RANGE_BYTES, 5 + 2 * RANGE_BYTES]


async def test_a_piece_that_may_not_be_given_ends_it_short(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"x" * (3 * RANGE_BYTES))

    async def allowed(start: int, _length: int) -> None:
        if start:
            raise ControlError(Code.DENIED, "not any more")

    browser = Browser()
    await browser.take(Download(file, Span(0, 3 * RANGE_BYTES), 3 * RANGE_BYTES, {}, allowed))
    assert len(browser.body) == RANGE_BYTES
    assert not browser.whole
    short = Browser()

    async def everything(_start: int, _length: int) -> None:
        file.write_bytes(b"x" * 10)

    await short.take(Download(file, Span(0, 3 * RANGE_BYTES), 3 * RANGE_BYTES, {}, everything))
    assert (short.body, short.whole) == (b"x" * 10, False)


async def test_a_link_in_a_files_place_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    (tmp_path / "x").symlink_to(secret)

    async def allowed(_start: int, _length: int) -> None:
        pass

    browser = Browser()
    with pytest.raises(ControlError, match="can't be read"):
        await browser.take(Download(tmp_path / "x", Span(0, 6), 6, {}, allowed))
    assert browser.messages == []


class Silent:
    """A connection on which nothing comes."""

    alpn = "http/1.1"

    async def send(self, _data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self, _size: int) -> bytes:
        await trio.sleep_forever()
        raise AssertionError


def test_a_connection_is_given_up_when_nothing_moves_in_either_direction() -> None:
    async def told() -> None:
        patient = Patient(Silent())
        assert patient.alpn == "http/1.1"
        began, sends = trio.current_time(), 5

        async def download() -> None:
            for _ in range(sends):
                await trio.sleep(READ_SECONDS - 1)
                await patient.send(b"x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(download)
            with pytest.raises(TimeoutError):
                await patient.receive(1)
        assert trio.current_time() - began == pytest.approx(sends * (READ_SECONDS - 1) + READ_SECONDS)
        with pytest.raises(TimeoutError):
            await Patient(Silent()).receive(1)

    trio.run(told, clock=MockClock(autojump_threshold=0))
