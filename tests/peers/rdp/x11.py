"""X displays: what they show, as pixels, and the keyboard and pointer of whoever sits before them.

xdotool acts through the XTEST extension, so a client program sees the same events as from real devices. What it types
is ASCII: other characters would need key codes it invents, which no RDP client knows (MS-RDPBCGR 2.2.8.1.1.3.1.1.1).
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import ne, sub
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.peers.process import Process, eventually

PROGRAMS = ("Xvfb", "setxkbmap", "xclip", "xdotool", "xwd", "xsetroot", "xterm")
INSTALLED = all(map(shutil.which, PROGRAMS))
SIZE = (1024, 768)
START_S = 30.0
OWNER_S = 3.0  # for whoever owns a selection to give it
ACT_S = 30.0  # the longest one xdotool or xwd may take on a busy machine
DUMPS = 5  # tries of xwd, each a few milliseconds in which no window may go
GONE = "BadWindow"  # X11/X.h
KEY_MS = 12  # between two keys: faster than a person, slow enough for clients that poll
XWD_HEADER = struct.Struct(">25I")  # XWDFileHeader, X11/XWDFile.h
XWD_COLOUR_BYTES = 12
Z_PIXMAP = 2
BGRX_BYTES = 4  # a pixel of a 24-bit display, least significant byte first
DARK, LIGHT = "#204060", "white"
TITLE = "target"  # of the terminal every server shows
TERMINAL = ("-title", TITLE, "-geometry", "100x40+20+20", "-fn", "fixed", "-bg", LIGHT, "-fg", "black", "+bc")
IN_TERMINAL = (300, 300)  # a place inside that terminal
FIRST_BUTTON = 1 << 8  # Button1Mask, X11/X.h
OPEN = """
import ctypes, sys
x11 = ctypes.CDLL("libX11.so.6")
x11.XOpenDisplay.restype = ctypes.c_void_p
x11.XDefaultRootWindow.restype = ctypes.c_ulong
display = ctypes.c_void_p(x11.XOpenDisplay(None))
assert display.value, "the display can't be opened"
"""
KEYMAP = f"""{OPEN}
keys = ctypes.create_string_buffer(32)
x11.XQueryKeymap(display, keys)
sys.stdout.buffer.write(keys.raw)
"""
POINTER = f"""{OPEN}
root, child = ctypes.c_ulong(), ctypes.c_ulong()
x, y, mask, near = (ctypes.c_int() for _ in range(4))
at = [ctypes.byref(one) for one in (root, child, x, y, near, near, mask)]
x11.XQueryPointer(display, ctypes.c_ulong(x11.XDefaultRootWindow(display)), *at)
print(x.value, y.value, mask.value)
"""


IMAGE = f"""{OPEN}
class Image(ctypes.Structure):  # the beginning of XImage, X11/Xlib.h
    _fields_ = [(name, ctypes.c_int) for name in ("width", "height", "xoffset", "format")]
    _fields_ += [("data", ctypes.c_void_p)]
    _fields_ += [(name, ctypes.c_int) for name in ("byte_order", "unit", "bit_order", "pad", "depth", "stride", "bits")]

x11.XGetImage.restype = ctypes.POINTER(Image)
width, height = map(int, sys.argv[1:])
root = ctypes.c_ulong(x11.XDefaultRootWindow(display))
image = x11.XGetImage(display, root, 0, 0, width, height, ctypes.c_ulong(-1 & (1 << 64) - 1), 2).contents
assert (image.bits, image.byte_order, image.stride) == (32, 0, 4 * width), (image.bits, image.byte_order, image.stride)
sys.stdout.buffer.write(ctypes.string_at(image.data, image.stride * height))
"""


class Picture(NamedTuple):
    """What a screen shows: three bytes a pixel (red, green, blue), rows from the top, nothing between them."""

    width: int
    height: int
    rgb: bytes

    @property
    def colours(self) -> int:
        """How many different colours are in it."""
        return len(set(zip(self.rgb[0::3], self.rgb[1::3], self.rgb[2::3], strict=True)))

    def differing(self, other: Picture) -> int:
        """Count the pixels that differ; AssertionError when the sizes do."""
        assert self[:2] == other[:2], f"{self[:2]} is not the size of {other[:2]}"
        if self.rgb == other.rgb:
            return 0
        planes = (map(ne, self.rgb[at::3], other.rgb[at::3]) for at in range(3))
        return sum(map(any, zip(*planes, strict=True)))

    def farthest(self, other: Picture) -> int:
        """How much one colour of one pixel differs at most, in levels of 255."""
        assert self[:2] == other[:2], f"{self[:2]} is not the size of {other[:2]}"
        return max(map(abs, map(sub, self.rgb, other.rgb)))

    def part(self, width: int, height: int) -> Picture:
        """Give its upper left part."""
        row = self.width * 3
        rows = (self.rgb[at : at + width * 3] for at in range(0, height * row, row))
        return Picture(width, height, b"".join(rows))

    def save(self, path: Path) -> None:
        """Write it as a portable pixmap, for a person to look at."""
        path.write_bytes(b"P6 %d %d 255\n" % (self.width, self.height) + self.rgb)


def _picture(dump: bytes) -> Picture:
    head = XWD_HEADER.unpack_from(dump)
    size, form, width, height, bits, stride, colours = (head[at] for at in (0, 2, 4, 5, 11, 12, 19))
    assert (form, bits) == (Z_PIXMAP, BGRX_BYTES * 8), f"not a 24-bit display: {head}"
    assert stride == width * BGRX_BYTES, f"rows with padding: {head}"
    pixels = dump[size + colours * XWD_COLOUR_BYTES :]
    assert len(pixels) == stride * height, f"{len(pixels)} bytes of pixels for {width}x{height}"
    return Picture(width, height, _rgb(pixels))


def _rgb(pixels: bytes) -> bytes:
    rgb = bytearray(3 * len(pixels) // BGRX_BYTES)
    for at in range(3):
        rgb[at::3] = pixels[2 - at :: BGRX_BYTES]
    return bytes(rgb)


def gradient(path: Path, width: int, height: int) -> None:
    """Write a picture of many colours as xwd does, for `xwud` to show."""
    name = b"gradient\0"
    fields = (XWD_HEADER.size + len(name), 7, Z_PIXMAP, 24, width, height, 0, 0, 32, 0, 32, 32, width * BGRX_BYTES,
              4, 0xFF0000, 0xFF00, 0xFF, 8, 256, 0, width, height, 0, 0, 0)  # fmt: skip
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            pixels += bytes((x * 255 // width, y * 255 // height, (x + y) % 256, 0))
    path.write_bytes(XWD_HEADER.pack(*fields) + name + pixels)


class Screen:
    """A display that runs: look at it, press its keys, move its pointer."""

    def __init__(self, number: int, authority: Path | None = None) -> None:
        self.number = number
        self._authority = authority

    @property
    def display(self) -> str:
        """The display's name, as $DISPLAY has it."""
        return f":{self.number}"

    @property
    def env(self) -> dict[str, str]:
        """What a program needs in its environment to show something here."""
        access = {"XAUTHORITY": str(self._authority)} if self._authority is not None else {}
        return {"DISPLAY": self.display, **access}

    def _run(self, *argv: str) -> bytes:
        done = subprocess.run(
            argv, env={**os.environ, **self.env}, capture_output=True, timeout=ACT_S, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stderr.decode(errors='replace')}"
        return done.stdout

    def picture(self) -> Picture:
        """Give what the display shows now, without the pointer."""
        dump = self._dump()
        if XWD_HEADER.unpack_from(dump)[11] == BGRX_BYTES * 8:
            return _picture(dump)
        width, height = map(int, self._run("xdotool", "getdisplaygeometry").split())  # FreeRDP 3's window: a
        pixels = self._run(
            sys.executable, "-c", IMAGE, str(width), str(height)
        )  # visual xwd reads in a way of its own
        return Picture(width, height, _rgb(pixels))

    def _dump(self) -> bytes:
        """Give xwd's dump of the display: it asks every window for its visual, and one that goes meanwhile ends it."""
        for left in reversed(range(DUMPS)):
            try:
                return self._run("xwd", "-root", "-silent")
            except AssertionError as error:
                if not left or GONE not in str(error):
                    raise
        raise AssertionError("no try was made")

    def colour(self, name: str) -> None:
        """Paint the root window, which also gives a display without a window manager something to show."""
        self._run("xsetroot", "-solid", name)

    def move(self, x: int, y: int) -> None:
        """Move the pointer."""
        self._run("xdotool", "mousemove", str(x), str(y))

    def click(self, x: int, y: int, button: int = 1) -> None:
        """Move the pointer there and click; without a window manager keys then go to the window below it."""
        self._run("xdotool", "mousemove", str(x), str(y), "click", str(button))

    def resize(self, window: str, width: int, height: int) -> None:
        """Give a window another size."""
        self._run("xdotool", "windowsize", "--sync", window, str(width), str(height))

    def drag(self, window: str, left: int, top: int) -> None:
        """Move a window."""
        self._run("xdotool", "windowmove", "--sync", window, str(left), str(top))

    def type(self, text: str) -> None:
        """Type printable ASCII as a person would, key by key."""
        assert text.isascii(), text
        assert text.isprintable(), text
        self._run("xdotool", "type", "--delay", str(KEY_MS), "--", text)

    def key(self, *names: str) -> None:
        """Press keys one after the other by their X names, as `Return`, `ctrl+c`."""
        self._run("xdotool", "key", "--delay", str(KEY_MS), "--", *names)

    def layout(self, name: str) -> None:
        """Give the keyboard another layout, by its X name, as `de`."""
        self._run("setxkbmap", name)

    def hold(self, name: str) -> None:
        """Press a key and leave it down."""
        self._run("xdotool", "keydown", name)

    def release(self, name: str) -> None:
        """Let a held key go."""
        self._run("xdotool", "keyup", name)

    def enter(self, line: str) -> None:
        """Type a line and Return."""
        self.type(line)
        self.key("Return")

    @contextmanager
    def offering(self, text: str, directory: Path) -> Iterator[None]:
        """Own the clipboard with a text while inside; `directory` keeps xclip's log."""
        kept = directory / f"clipboard{self.number}"
        kept.write_text(text)
        argv = ["xclip", "-quiet", "-selection", "clipboard", "-i", str(kept)]
        with Process(argv, log=directory / "xclip.log", env=self.env):
            yield

    def selected(self, selection: str = "clipboard") -> str:
        """Give the text that would be pasted, empty when there is none; asked of who owns it."""
        argv = ["xclip", "-selection", selection, "-t", "UTF8_STRING", "-o"]
        try:
            done = subprocess.run(
                argv, env={**os.environ, **self.env}, capture_output=True, timeout=OWNER_S, check=False
            )
        except subprocess.TimeoutExpired:  # its owner does not answer
            return ""
        return done.stdout.decode(errors="replace") if done.returncode == 0 else ""

    def button(self, *, down: bool) -> None:
        """Press the pointer's first button where it is, or let it go."""
        self._run("xdotool", "mousedown" if down else "mouseup", "1")

    def pointer(self) -> tuple[int, int, bool]:
        """Give where the pointer is and whether its first button is down, as the server itself has it."""
        x, y, mask = map(int, self._run(sys.executable, "-c", POINTER).split())
        return x, y, bool(mask & FIRST_BUTTON)

    def down(self) -> list[int]:
        """Give the codes of the keys that are down, as the server itself has it (XQueryKeymap)."""
        bits = self._run(sys.executable, "-c", KEYMAP)
        return [code for code in range(8 * len(bits)) if bits[code >> 3] >> (code & 7) & 1]

    def windows(self, name: str) -> list[str]:
        """Give the ids of the visible windows whose title matches a regular expression."""
        argv = ["xdotool", "search", "--onlyvisible", "--name", name]  # exits with 1 when there is none
        done = subprocess.run(
            argv, env={**os.environ, **self.env}, capture_output=True, text=True, timeout=ACT_S, check=False
        )
        return done.stdout.split()


class Xvfb(Screen):
    """A display of our own in memory: `with Xvfb(directory, (1024, 768)) as screen`; it picks a free number itself."""

    def __init__(self, directory: Path, size: tuple[int, int] = SIZE) -> None:
        super().__init__(-1)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.size = size
        self.process: Process | None = None

    def __enter__(self) -> Self:
        told = self.directory / "display"
        width, height = self.size
        argv = ["Xvfb", "-displayfd", "1", "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp",
                "-noreset"]  # fmt: skip
        with told.open("wb") as number:
            process = Process(argv, log=self.directory / "xvfb.log", stdout=number)
        self.process = process
        try:
            ready = lambda: not process.running or re.fullmatch(r"\d+\n", told.read_text())  # noqa: E731
            eventually("Xvfb names its display", ready, within_s=START_S)
            assert process.running, process.text()
        except BaseException:
            process.stop()
            raise
        self.number = int(told.read_text())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.stop()


def still(screen: Screen, *, for_s: float = 1.2, within_s: float = 2 * ACT_S) -> Picture:
    """Wait until a screen has shown the same for a while; gives it."""
    seen = [screen.picture()]
    since = [time.monotonic()]

    def rests() -> bool:
        now = screen.picture()
        if now != seen[0]:
            seen[0], since[0] = now, time.monotonic()
        return time.monotonic() - since[0] >= for_s

    eventually("a screen shows the same for a while", rests, within_s=within_s)
    return seen[0]


def same(one: Screen, other: Screen, *, within_s: float = ACT_S) -> Picture:
    """Wait until both show the same pixels; gives them, and a failure says how many differ."""
    last = ["nothing seen"]

    def alike() -> Picture | None:
        left, right = one.picture(), other.picture()
        if left == right:
            return left
        last[0] = f"{left[:2]} and {right[:2]}"
        if left[:2] == right[:2]:
            last[0] = f"{left.differing(right)} pixels of {left.width}x{left.height} differ"
        return None

    try:
        seen = eventually("two screens show the same", alike, within_s=within_s)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last[0]}") from None
    assert seen is not None
    return seen
