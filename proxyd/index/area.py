"""Parts of a picture."""

from __future__ import annotations

from typing import NamedTuple


class Area(NamedTuple):
    """A rectangle of a picture in pixels."""

    left: int
    top: int
    width: int
    height: int
