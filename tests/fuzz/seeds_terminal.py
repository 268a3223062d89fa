"""Where campaigns against the decoder of terminals begin: sessions as programs of `atheris_terminal`, and sequences."""

from __future__ import annotations

from typing import Final

OUTPUT, ERROR, INPUT, RESIZE, PTY, OPEN, CLOSE, NOTICE, WAIT, AGAIN = range(10)

DICTIONARY: Final = (
    b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?47h", b"\x1b7", b"\x1b8", b"\x1b[2J", b"\x1b[H", b"\x1b[K", b"\x1b[3;9r", b"\x1b[?6h",
    b"\x1b[?7l", b"\x1b[4h", b"\x1b(0", b"\x0e", b"\x1bM", b"\x1bH", b"\x1b[3g", b"\x1b[9S", b"\x1b[9T", b"\x1b#8", b"\x1bc",
    b"\x1b[!p", b"\x1b[?69h\x1b[2;9s", b"\x1b[38;2;1;2;3m", b"\x1b[48;5;9m", b"\x1b[4:3m", b"\x1b]8;;http://a/\x07", b"\x1b]0;t\x07",
    b"\x1b]4;1;rgb:1/2/3\x07", b"\x1b]10;#aabbcc\x07", b"\x1b[?2026h", b"\x1bP1$r\x1b\\", b"\x1b_Ga=T,f=24,s=1,v=1;AAAA\x1b\\",
    b"\x1b[99b", b"\x1b[?3h", b"\x1b[?40h", b"\x1b[>1u", b"\x1b]133;A\x07", b"\x1b]52;c;QQ==\x07", "字".encode(), "e\u0301".encode(),
    "👩\u200d🚀".encode(), b"\xff", b"\xc2", b"\x1b[", b"\r\n",
)  # fmt: skip


def seeds() -> list[bytes]:
    """Give a session of each kind."""
    return [
        shell() + full_screen(),
        opened(1) + said(1, b"no terminal\n") + said(1, b"oh\n", ERROR) + closed(1),
        opened(1) + pty(1) + b"".join(said(1, word) for word in DICTIONARY),
        opened(1) + pty(1, 6) + opened(2) + pty(2, 3) + b"".join(said(1 + at % 2, word) + resized(1 + at % 2, at) for at, word in enumerate(DICTIONARY)),
        opened(3) + said(3, b"forwarded\x1b[2J") + bytes((NOTICE, 0)) + said(1, b"late"),
        opened(1) + pty(1) + said(1, b"\x1b]0;" + b"x" * 250) + bytes((AGAIN, 1, 15)) * 20 + said(1, b"\x07done"),
    ]  # fmt: skip


def shell() -> bytes:
    """A shell: echo, output that scrolls, a wait."""
    keys = b"".join(said(1, bytes((key,)), INPUT) + said(1, bytes((key,))) for key in b"ls\r")
    return (
        opened(1)
        + pty(1)
        + said(1, b"$ ")
        + keys
        + said(1, b"\x1b[34mfile\x1b[0m\r\n")
        + bytes((AGAIN, 1, 15, WAIT, 0, 1))
    )


def full_screen() -> bytes:
    """A program on the alternate screen, a new size, a block, and back."""
    inside = said(1, b"\x1b[?1049h\x1b[2J\x1b[Htop") + resized(1, 3) + bytes((NOTICE, 0, WAIT, 0, 1))
    return inside + said(1, b"\x1b[2;2H\x1b[7mrow\x1b[0m") + said(1, b"\x1b[?1049l") + closed(1)


def said(channel: int, data: bytes, kind: int = OUTPUT) -> bytes:
    """Output of a channel, or what else `kind` says."""
    return bytes((kind, channel, len(data))) + data


def opened(channel: int) -> bytes:
    """A channel opens."""
    return bytes((OPEN, channel))


def closed(channel: int) -> bytes:
    """A channel closes."""
    return bytes((CLOSE, channel))


def pty(channel: int, size: int = 0) -> bytes:
    """A channel gets a terminal; `size` is a number of SIZES."""
    return bytes((PTY, channel, size))


def resized(channel: int, size: int) -> bytes:
    """A terminal gets another size."""
    return bytes((RESIZE, channel, size))
