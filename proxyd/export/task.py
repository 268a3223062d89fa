"""What the process that makes files is asked, and what it says it made; this imports nothing that reads a recording."""

from __future__ import annotations

import msgspec


class Task(msgspec.Struct, frozen=True):
    """What to make of a session of `protocol`: of its desktop, or of the terminal of `channel`, else the one it has.

    `width` and `height` are those of the largest picture, 0 when they are not known yet; `pause_us`: in a film pauses in
    which nothing happens take no longer; `speed`: it goes by so many times as fast, without sound; `half`: its pictures are
    half as wide and high.
    """

    form: str
    protocol: str
    duration_us: int
    started_ms: int  # since 1970
    keys: bool = False
    channel: int | None = None
    width: int = 0
    height: int = 0
    pause_us: int | None = None
    speed: int = 1
    half: bool = False


class Made(msgspec.Struct, frozen=True):
    """What is in the file."""

    pictures: int  # of a film; 0: nothing was shown
    width: int
    height: int
    sound: bool
    faults: int  # frames, rectangles and pieces of sound that could not be read
    blind: bool = False  # of a replay: what was shown came by a way that PyRDP does not know
    lasts_us: int = 0  # of a film: how long it is
