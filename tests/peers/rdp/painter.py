"""Something to look at: a program that paints on the display it is started on, by Xlib alone.

`gradient` shows one, `noise` what hardly compresses, `drag` moves a window about and leaves it; `busy` paints anew about once a
second until it is ended. What it shows is the same for the same seed.
"""

from __future__ import annotations

import ctypes
import random
import sys
import time
from ctypes import c_char_p, c_int, c_uint, c_ulong, c_void_p
from itertools import count

Z_PIXMAP = 2
PIXEL = 4  # bytes of a pixel of a 24-bit display
SIZE = (480, 320)
STEPS, STEP_S = 60, 0.015  # of a window that is dragged
PAUSE_S = (0.9, 1.6)  # between two pictures of `busy`
HOLD_S = 3600.0  # the test ends it before

x11 = ctypes.CDLL("libX11.so.6")
for name in ("XOpenDisplay", "XDefaultVisual", "XCreateGC", "XCreateImage"):
    getattr(x11, name).restype = c_void_p
for name in ("XDefaultRootWindow", "XCreateSimpleWindow", "XCreatePixmap"):
    getattr(x11, name).restype = c_ulong
display = c_void_p(x11.XOpenDisplay(None))
assert display.value, "the display can't be opened"
root = c_ulong(x11.XDefaultRootWindow(display))
visual, depth = c_void_p(x11.XDefaultVisual(display, 0)), c_uint(x11.XDefaultDepth(display, 0))


def gradient(width: int, height: int, turn: int) -> bytes:
    """Give pixels that run from one colour to another in both directions."""
    rows = []
    for y in range(height):
        blue = (255 * y // height + 40 * turn) & 0xFF
        row = bytearray(PIXEL * width)
        row[0::PIXEL] = bytes([blue]) * width
        row[1::PIXEL] = bytes((255 * x // width + 70 * turn) & 0xFF for x in range(width))
        row[2::PIXEL] = bytes((x + y + 90 * turn) & 0xFF for x in range(width))
        rows.append(bytes(row))
    return b"".join(rows)


class Window:
    """A window whose picture the server itself keeps."""

    def __init__(self, x: int, y: int) -> None:
        self._made = c_ulong(x11.XCreateSimpleWindow(display, root, x, y, *SIZE, 0, c_ulong(0), c_ulong(0)))
        self._context = c_void_p(x11.XCreateGC(display, self._made, c_ulong(0), None))
        x11.XMapRaised(display, self._made)

    def show(self, pixels: bytes) -> None:
        """Show a picture of SIZE."""
        width, height = SIZE
        pixmap = c_ulong(x11.XCreatePixmap(display, self._made, width, height, depth))
        kept = c_char_p(pixels)
        image = c_void_p(
            x11.XCreateImage(display, visual, depth, Z_PIXMAP, 0, kept, width, height, 32, PIXEL * width)
        )
        x11.XPutImage(display, pixmap, self._context, image, 0, 0, 0, 0, width, height)
        x11.XSetWindowBackgroundPixmap(display, self._made, pixmap)
        x11.XClearWindow(display, self._made)
        x11.XFreePixmap(display, pixmap)
        x11.XSync(display, c_int(0))

    def move(self, x: int, y: int) -> None:
        """Put the window there."""
        x11.XMoveWindow(display, self._made, x, y)
        x11.XSync(display, c_int(0))


def busy(window: Window, chance: random.Random) -> None:
    """Change something about once a second, for ever."""
    for turn in count():
        match chance.randrange(4):
            case 0:
                window.show(gradient(*SIZE, turn))
            case 1:
                window.show(chance.randbytes(PIXEL * SIZE[0] * SIZE[1]))
            case 2:
                window.move(chance.randrange(500), chance.randrange(400))
            case _:
                colour = c_ulong(chance.randrange(1 << 24))
                x11.XSetWindowBackground(display, root, colour)
                x11.XClearWindow(display, root)
                x11.XSync(display, c_int(0))
        time.sleep(chance.uniform(*PAUSE_S))


def main(what: str) -> None:
    """Paint, say so, and stay until ended."""
    chance = random.Random(what)
    window = Window(400, 300)
    window.show(gradient(*SIZE, 0))
    if what == "busy":
        print("painted", flush=True)
        busy(window, chance)
    if what == "noise":
        window.show(chance.randbytes(PIXEL * SIZE[0] * SIZE[1]))
    if what == "drag":
        for step in range(STEPS):
            window.move(8 * step, 5 * step % 400)
            time.sleep(STEP_S)
    print("painted", flush=True)
    time.sleep(HOLD_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
