"""Watching a live desktop in the terminal: two pixels a character, as half blocks in true colour, scaled to the window.

Rule 1: nothing a session shows reaches the terminal but colours of half blocks that are written here.
Rule 2: only characters that changed are written; a window of another size, or a lost picture, is painted whole.
Rule 3: into a pipe nothing can be drawn: there is a sentence about it, and with --json a line for each change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from proxyd.cli_output import ID_SHOWN, clean
from proxyd.cli_view import TICK_SECONDS, View, Watching
from proxyd.errors import FormatError
from proxyd.recorder.sidecar import MAX_PAYLOAD, inflated
from proxyd.terminal import CLEAR

if TYPE_CHECKING:
    from proxyd.cli_app import Run
    from proxyd.control.client import Client, Stream
    from proxyd.terminal import Screen

UPPER_HALF: Final = "\N{UPPER HALF BLOCK}"
POINTER: Final = 3  # pixels of the terminal's picture around where it points
POINTER_COLOUR: Final = (255, 64, 64)
_SYNCHRONISED: Final = (b"\x1b[?2026h", b"\x1b[?2026l")  # terminals that know it show a picture at once

Cell = tuple[tuple[int, int, int], tuple[int, int, int]]


class Desktop:
    """What a live desktop shows, put together from what `look` sends."""

    def __init__(self) -> None:
        self.image: Image.Image | None = None
        self.pointer: tuple[int, int] | None = None

    def take(self, shown: Mapping[str, Any]) -> None:
        """Take a whole picture, or patches of the one before; raises FormatError."""
        try:
            width, height, whole = int(shown["width"]), int(shown["height"]), bool(shown["whole"])
            x, y, visible = shown["pointer"]
            self.pointer = (int(x), int(y)) if visible else None
            if whole:
                if width * height * 3 > MAX_PAYLOAD * 4:
                    raise FormatError("the daemon sent a picture of an impossible size")
                self.image = Image.new("RGB", (width, height)) if width and height else None
            for patch in shown["patches"]:
                self._put(patch)
        except (KeyError, TypeError, ValueError):
            raise FormatError("the daemon sent a picture this program can't read") from None

    def _put(self, patch: Mapping[str, Any]) -> None:
        if self.image is None:
            return
        size = int(patch["width"]), int(patch["height"])
        rgb = inflated(patch["rgb"], size[0] * size[1] * 3)
        self.image.paste(Image.frombytes("RGB", size, rgb), (int(patch["left"]), int(patch["top"])))

    def scaled(self, width: int, height: int) -> Image.Image | None:
        """Give the picture as large as fits into so many pixels, with the pointer on it; None while there is none."""
        if self.image is None:
            return None
        ratio = min(width / self.image.width, height / self.image.height, 1.0)
        size = max(1, round(self.image.width * ratio)), max(1, round(self.image.height * ratio))
        small = self.image.resize(size, Image.Resampling.BOX) if ratio < 1 else self.image.copy()
        if self.pointer is not None:
            self._point(small, ratio)
        return small

    def _point(self, small: Image.Image, ratio: float) -> None:
        assert self.pointer is not None  # noqa: S101 - asked before
        x, y = round(self.pointer[0] * ratio), round(self.pointer[1] * ratio)
        for step in range(POINTER):
            for place in ((x + step, y + step), (x, y + step)):
                if place[0] < small.width and place[1] < small.height:
                    small.putpixel(place, POINTER_COLOUR)


def cells_of(image: Image.Image) -> list[list[Cell]]:
    """Give a picture as rows of characters, each with the colour of its upper and its lower half."""
    if image.height % 2:
        even = Image.new("RGB", (image.width, image.height + 1))
        even.paste(image)
        image = even
    data, stride = image.tobytes(), image.width * 3
    pixels = [
        list(zip(*[iter(data[at : at + stride])] * 3, strict=True)) for at in range(0, len(data), stride)
    ]
    return [
        list(zip(upper, lower, strict=True)) for upper, lower in zip(pixels[::2], pixels[1::2], strict=True)
    ]


def written(cells: list[list[Cell]], before: list[list[Cell]]) -> bytes:
    """Write what differs from what was there (rule 2), if it was of the same size."""
    same = len(cells) == len(before) and all(map(lambda one, two: len(one) == len(two), cells, before))
    out = [] if same else [CLEAR.decode()]
    for row, line in enumerate(cells):
        known = before[row] if same else ()
        if same and line == known:
            continue
        at, colours = -1, None
        for column, cell in enumerate(line):
            if same and cell == known[column]:
                continue
            if column != at:
                out.append(f"\x1b[{row + 1};{column + 1}H")
            if cell != colours:
                (red, green, blue), (r, g, b) = cell
                out.append(f"\x1b[38;2;{red};{green};{blue};48;2;{r};{g};{b}m")
            out.append(UPPER_HALF)
            at, colours = column + 1, cell
    if not out:
        return b""
    return _SYNCHRONISED[0] + "".join(out).encode() + b"\x1b[0m" + _SYNCHRONISED[1]


class DesktopView(View):
    """A desktop on the operator's screen, with notes over it."""

    def __init__(self, screen: Screen, about: str) -> None:
        super().__init__(screen, about, None)
        self.desktop = Desktop()
        self._cells: list[list[Cell]] = []
        self._size = (0, 0)
        self._line = ""  # what the last row says

    def paint(self) -> None:
        """Paint the whole picture."""
        self._note = None
        self._cells, self._line = [], ""
        self.draw()

    def draw(self) -> None:
        """Write what changed; nothing while a note stands there that a person reads."""
        columns, rows = self.screen.size()
        if (columns, rows) != self._size:
            self._size, self._cells, self._line = (columns, rows), [], ""
        small = self.desktop.scaled(columns, 2 * (rows - 1))
        if small is None:
            return
        cells = cells_of(small)
        data = written(cells, self._cells)
        self._cells = cells
        if data:
            self.screen.write(data)

    def tick(self, status: str) -> None:
        """Keep the last row, and the title, true: who, what, how large it is."""
        image = self.desktop.image
        size = f"{image.width} x {image.height}" if image else "no picture yet"
        super().tick(f"{size}, {status}")
        line = f"{self._about} - {size}, {status}"
        if self._note is None and line != self._line:
            self._line = line
            self.screen.note(clean(line))


class Looking(Watching):
    """One operator's view of a live desktop."""

    def __init__(self, client: Client, session: str, about: Callable[[dict[str, Any]], str]) -> None:
        super().__init__(client, session, lambda screen, _, about: DesktopView(screen, about))
        self._about = about

    def show(self, stream: Stream, screen: Screen) -> dict[str, Any] | None:
        """Show the desktop until the session ends or the operator leaves: then None."""
        view: DesktopView | None = None
        blocked = False
        while not stream.ended:
            keys, readable = screen.keys(TICK_SECONDS, stream.fileno())
            for frame in stream.receive() if readable else ():
                if "meta" in frame:
                    view = DesktopView(screen, self._about(frame["session"]))
                blocked = bool(frame.get("blocked", blocked))
                if view is not None:
                    for shown in frame.get("shown", ()):
                        view.desktop.take(shown)
            if view is None:
                continue
            view.draw()
            if not all(self._obey(key, view) for key in keys):
                return None
            view.tick(f"{'input blocked' if blocked else 'live'} - ? for keys")
        return {"reason": "", "by": "", "error": ""} if view else None


def watch_desktop(run: Run, session: str) -> bool:
    """Show a live desktop; True when its session ended while it was shown. Raises ControlError, UsageError."""
    import click

    from proxyd.cli_app import who
    from proxyd.terminal import showing

    if not (run.output.json or sys.stdout.isatty()):  # before anybody is told that it is watched
        name = session[:ID_SHOWN]
        text = f"a pipe can't show a desktop: proxyctl screenshot {name} -o FILE draws it, --json tells what changes"
        raise click.UsageError(text)
    client = run.client()
    with client.stream("look", session=session) as stream:
        if not run.output.json:
            with showing() as screen:
                return screen is not None and Looking(client, session, who).show(stream, screen) is not None
        for frame in stream:
            for shown in frame.get("shown", ()):
                run.output.document(_brief(shown, blocked=bool(frame.get("blocked"))))
                sys.stdout.flush()
    return True


def _brief(shown: Mapping[str, Any], *, blocked: bool) -> dict[str, Any]:
    """Say what changed, without the pixels."""
    return {
        "at_us": shown["at_us"],
        "width": shown["width"],
        "height": shown["height"],
        "whole": shown["whole"],
        "blocked": blocked,
        "pointer": shown["pointer"],
        "areas": [[one["left"], one["top"], one["width"], one["height"]] for one in shown["patches"]],
    }
