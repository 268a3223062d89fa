"""Where the library is that decodes RDP's graphics pipeline: FreeRDP's, which the system has or has not.

Rule 1: it is looked for, never loaded: that is done by the process that reads recordings, and by no other.
Rule 2: a newer one goes before an older one, a place the administrator names (LD_LIBRARY_PATH) before the system's.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, Literal

NAMES: Final = ("libfreerdp3.so.3", "libfreerdp2.so.2")
PACKAGES: Final = "libfreerdp3-3 or libfreerdp2-2 (Debian, Ubuntu), freerdp-libs (Fedora)"
_SYSTEM: Final = ("/usr/local/lib", "/lib", "/usr/lib", "/usr/lib64", "/lib64")

Graphics = Literal["bitmap", "gfx", "avc420", "noavc"]
"""A policy. `bitmap`: no pipeline. `gfx`: all of it. `avc420`: H.264 at half the colour, or none. `noavc`: no H.264."""


@cache
def freerdp() -> Path | None:
    """Give the library's path as it was found first, None where there was none."""
    for name in NAMES:
        for place in _places(os.environ.get("LD_LIBRARY_PATH", "")):
            path = Path(place) / name
            if path.is_file():
                return path
    return None


def usable(graphics: Graphics) -> Graphics:
    """Give the policy of graphics that recordings can be read of here: `bitmap` where the library is missing."""
    return graphics if freerdp() is not None else "bitmap"


def _places(named: str) -> Iterator[str]:
    yield from filter(None, named.split(":"))
    yield str(sysconfig.get_config_var("LIBDIR") or "")
    triplet = sysconfig.get_config_var("MULTIARCH")
    for place in _SYSTEM:
        if triplet:
            yield f"{place}/{triplet}"
        yield place
