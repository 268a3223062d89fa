"""The clipboard of a display, as the programs on it use it: xclip owns it, or asks its owner."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from tests.peers.process import Process
from tests.peers.rdp.x11 import Screen

XCLIP = "xclip"
INSTALLED = shutil.which(XCLIP) is not None
TEXT, FILES = "UTF8_STRING", "text/uri-list"
ASK_S = 5.0  # an owner that does not answer for so long has nothing


@contextmanager
def copied(screen: Screen, log: Path, content: bytes, kind: str = TEXT) -> Iterator[None]:
    """Own the clipboard of a display with this content."""
    with TemporaryFile() as given:
        given.write(content)
        given.seek(0)
        argv = [XCLIP, "-selection", "clipboard", "-in", "-quiet", "-target", kind]
        with Process(argv, log=log, env=screen.env, stdin=given):
            yield


def pasted(screen: Screen, kind: str = TEXT) -> bytes:
    """Give what the clipboard of a display holds, nothing when its owner has none of that."""
    argv = [XCLIP, "-selection", "clipboard", "-out", "-target", kind]
    try:
        done = subprocess.run(
            argv, env={**os.environ, **screen.env}, capture_output=True, timeout=ASK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return b""
    return done.stdout if done.returncode == 0 else b""


def kinds(screen: Screen) -> list[str]:
    """Give what the clipboard of a display is offered as."""
    return pasted(screen, "TARGETS").decode().split()
