"""An X display seen and touched within microseconds: one pixel, one key, one rectangle, by libX11 and libXtst.

xdotool and xwd start a process for each look, which takes longer than what is measured here. Rule: one thread uses it.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_uint, c_ulong, c_void_p
from types import TracebackType
from typing import Self

from tests.peers.rdp.x11 import Screen

ALL_PLANES = c_ulong(-1)
Z_PIXMAP = 2
DEPTH, PIXEL_BITS = 24, 32
KEYMAP_BYTES = 32
COLOURS = (0x000000, 0xF80000, 0x00F800, 0x0000F8, 0xF8F800, 0xF800F8, 0x00F8F8)
BRIGHT = 0x808080  # which of the three lights are on: whatever depth the colour came through
MARK = 32  # pixels: width and height of a marker
GLANCE_S = 0.0002  # between two looks at a screen whose server has other things to do


def _library() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    x, test = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXtst.so.6")
    for name, result, arguments in (
        ("XOpenDisplay", c_void_p, [c_char_p]), ("XCloseDisplay", c_int, [c_void_p]), ("XDefaultRootWindow", c_ulong, [c_void_p]),
        ("XGetImage", c_void_p, [c_void_p, c_ulong, c_int, c_int, c_uint, c_uint, c_ulong, c_int]), ("XGetPixel", c_ulong, [c_void_p, c_int, c_int]),
        ("XDestroyImage", c_int, [c_void_p]), ("XFlush", c_int, [c_void_p]), ("XSync", c_int, [c_void_p, c_int]),
        ("XQueryKeymap", c_int, [c_void_p, c_char_p]), ("XDefaultVisual", c_void_p, [c_void_p, c_int]), ("XDefaultGC", c_void_p, [c_void_p, c_int]),
        ("XCreateSimpleWindow", c_ulong, [c_void_p, c_ulong, c_int, c_int, c_uint, c_uint, c_uint, c_ulong, c_ulong]),
        ("XSetWindowBackground", c_int, [c_void_p, c_ulong, c_ulong]), ("XClearWindow", c_int, [c_void_p, c_ulong]),
        ("XMapRaised", c_int, [c_void_p, c_ulong]), ("XRaiseWindow", c_int, [c_void_p, c_ulong]), ("XMoveWindow", c_int, [c_void_p, c_ulong, c_int, c_int]),
        ("XDestroyWindow", c_int, [c_void_p, c_ulong]), ("XKeysymToKeycode", ctypes.c_ubyte, [c_void_p, c_ulong]),
        ("XCreateImage", c_void_p, [c_void_p, c_void_p, c_uint, c_int, c_int, c_char_p, c_uint, c_uint, c_int, c_int]), ("XFree", c_int, [c_void_p]),
        ("XPutImage", c_int, [c_void_p, c_ulong, c_void_p, c_void_p, c_int, c_int, c_int, c_int, c_uint, c_uint]),
    ):  # fmt: skip
        function = getattr(x, name)
        function.restype, function.argtypes = result, arguments
    test.XTestFakeKeyEvent.argtypes = [c_void_p, c_uint, c_int, c_ulong]
    return x, test


class Display:
    """A connection to a screen's server: `with Display(screen) as display`."""

    def __init__(self, screen: Screen) -> None:
        self._x, self._test = _library()
        self._screen = screen

    def __enter__(self) -> Self:
        kept = os.environ.get("XAUTHORITY")
        os.environ.update({name: value for name, value in self._screen.env.items() if name == "XAUTHORITY"})
        try:
            self._display = self._x.XOpenDisplay(self._screen.display.encode())
        finally:
            os.environ.pop("XAUTHORITY", None)
            if kept is not None:
                os.environ["XAUTHORITY"] = kept
        if not self._display:
            raise RuntimeError(f"the display {self._screen.display} does not answer")
        self._root = self._x.XDefaultRootWindow(self._display)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._x.XCloseDisplay(self._display)

    def sync(self) -> None:
        """Wait until the server has done what it was asked."""
        self._x.XSync(self._display, 0)

    def pixel(self, x: int, y: int) -> int:
        """Give which lights of a pixel are on, as BRIGHT has them."""
        image = self._x.XGetImage(self._display, self._root, x, y, 1, 1, ALL_PLANES, Z_PIXMAP)
        value = int(self._x.XGetPixel(image, 0, 0))
        self._x.XDestroyImage(image)
        return value & BRIGHT

    def until(self, x: int, y: int, colour: int, within_s: float) -> float:
        """Wait until a pixel has the colour; gives when it had."""
        return awaited(
            lambda: self.pixel(x, y) == colour & BRIGHT, f"a mark of {colour:06x}", within_s, GLANCE_S
        )

    def key(self, code: int, *, down: bool) -> None:
        """Press or release a key as a device would."""
        self._test.XTestFakeKeyEvent(self._display, code, int(down), 0)
        self._x.XFlush(self._display)

    def code(self, symbol: int) -> int:
        """Give the code of a key by its keysym; that of a character of Latin-1 is its own."""
        return int(self._x.XKeysymToKeycode(self._display, symbol))

    def is_down(self, code: int) -> bool:
        """Ask the server whether a key is down."""
        keys = ctypes.create_string_buffer(KEYMAP_BYTES)
        self._x.XQueryKeymap(self._display, keys)
        return bool(keys.raw[code >> 3] >> (code & 7) & 1)

    def until_key(self, code: int, *, down: bool, within_s: float) -> float:
        """Wait until a key is down, or up; gives when it was."""
        return awaited(lambda: self.is_down(code) == down, f"key {code}", within_s, 0.0)

    def window(self, x: int, y: int, width: int, height: int, colour: int = 0) -> int:
        """Show a window of one colour."""
        made = self._x.XCreateSimpleWindow(self._display, self._root, x, y, width, height, 0, 0, colour)
        self._x.XMapRaised(self._display, made)
        self.sync()
        return int(made)

    def fill(self, window: int, colour: int) -> None:
        """Paint a window, above all others."""
        self._x.XSetWindowBackground(self._display, window, colour)
        self._x.XRaiseWindow(self._display, window)
        self._x.XClearWindow(self._display, window)
        self.sync()

    def move(self, window: int, x: int, y: int) -> None:
        """Move a window, of another program's too."""
        self._x.XMoveWindow(self._display, window, x, y)
        self.sync()

    def destroy(self, window: int) -> None:
        """Take a window away."""
        self._x.XDestroyWindow(self._display, window)
        self.sync()

    def put(self, window: int, pixels: bytes, width: int, height: int) -> None:
        """Paint a picture of four bytes a pixel into a window."""
        visual, context = self._x.XDefaultVisual(self._display, 0), self._x.XDefaultGC(self._display, 0)
        image = self._x.XCreateImage(
            self._display, visual, DEPTH, Z_PIXMAP, 0, pixels, width, height, PIXEL_BITS, 0
        )
        self._x.XPutImage(self._display, window, context, image, 0, 0, 0, 0, width, height)
        self._x.XFree(image)  # the pixels are Python's
        self.sync()


def awaited(done: Callable[[], bool], what: str, within_s: float, glance_s: float) -> float:
    """Look until it is so; gives the moment."""
    deadline = time.perf_counter() + within_s
    while not done():
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{what} was not seen in {within_s:g} s")
        if glance_s:
            time.sleep(glance_s)
    return time.perf_counter()
