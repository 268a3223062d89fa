"""Characters that would act on whoever reads a text: how they are found, and how they are shown instead.

Rule 1: what `UNSAFE` finds moves a cursor, ends a line, begins an escape sequence or reorders what is around it; none
        of it ever reaches a terminal, a table or a spreadsheet.
Rule 2: `visible` hides nothing: each such character stands there as the escape a programmer would write.
"""

from __future__ import annotations

import json
import re
from typing import Any

# C0, DEL and C1; the Arabic letter mark, both direction marks, line and paragraph separators, embeddings, overrides
# and isolates (Unicode 3.12 to 4.3 of UAX 9); the byte order mark, which shows as nothing.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

UNSEEN = "(not shown on the screen)"  # stands for a line that was typed while the echo was off

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str, *, instead: str = "?") -> str:
    """Give what a peer said fit for one line of an error or a log: `instead` for each character that prints nothing."""
    return "".join(mark if mark.isprintable() else instead for mark in text)


def visible(text: str) -> str:
    r"""Write every unsafe character as its escape: \n, \x1b, \u202e. A backslash stays as it is."""
    return UNSAFE.sub(_escape, text)


def as_json(value: Any) -> str:
    """Write JSON on one line: unsafe characters stand there as the escapes JSON itself has, so that nothing changes."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
