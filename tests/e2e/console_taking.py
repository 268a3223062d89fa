"""An export asked for, followed, taken and verified in a browser, as people do it; and what is in a film."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from proxyd.recorder.exported import manifest_of
from tests.peers.console import Console
from tests.peers.daemon import Proxyd

av = pytest.importorskip("av", reason="what makes films is not installed")
MADE_MS = 120_000  # on a busy machine


@contextmanager
def held_up(proxyd: Proxyd, session: str) -> Iterator[None]:
    """Hold the place in which films are made: what is asked for waits."""
    with closing(proxyd.client().stream("export-job", session=session, form="webm", path="/nowhere")) as job:
        frames: list[dict[str, Any]] = []
        while not any("go" in frame for frame in frames):
            frames += job.receive()
        yield


def ask(page: Page, console: Console, session: str, form: str, **chosen: str) -> str:
    """Ask for an export of a session with the form; `chosen`: of its lists, by their names. Gives its number."""
    page.goto(f"{console.url}/sessions/{session}")
    page.get_by_role("link", name="Generate video for download").click()
    page.locator("select[name=form]").select_option(form)
    for name, value in chosen.items():
        page.locator(f"select[name={name}]").select_option(value)
    page.get_by_role("button", name="Yes, generate it").click()
    expect(page.get_by_role("heading", name=f"{form} of")).to_be_visible()
    return page.url.rpartition("/")[2]


def take(page: Page, proxyd: Proxyd, directory: Path) -> Path:
    """Wait on its page until an export is ready, download it and its manifest; both are verified."""
    expect(page.locator("[role=status] .badge.ok")).to_have_text("ready", timeout=MADE_MS)
    with page.expect_download() as taking:
        page.get_by_role("link", name="Video download").click()
    file = directory / taking.value.suggested_filename
    taking.value.save_as(file)
    with page.expect_download() as taking:
        page.get_by_role("link", name="Manifest").click()
    taking.value.save_as(manifest_of(file))
    (report,) = proxyd.ctl("verify", str(file)).data["reports"]
    assert report["ok"]
    page.get_by_role("link", name="Verify").click()
    expect(page.get_by_text("Whole and unaltered")).to_be_visible()
    return file


@dataclass(frozen=True)
class Film:
    """What FFmpeg's libraries say of a film, every picture of it decoded."""

    seconds: float
    codecs: dict[str, str]  # by the kind of stream
    sizes: set[tuple[int, int]]  # of its pictures
    chapters: list[float]  # where they begin


def probed(path: Path) -> Film:
    """Read a film from its beginning to its end."""
    with av.open(path) as film:
        codecs = {
            one.type: one.codec_context.codec.canonical_name
            for one in (*film.streams.video, *film.streams.audio)
        }
        chapters = [float(one["start"] * one["time_base"]) for one in film.chapters()]
        sizes = {(frame.width, frame.height) for frame in film.decode(video=0)}
        return Film(film.duration / 1e6, codecs, sizes, chapters)
