"""The forms a recording can be exported to, by name; `export` writes some, a process of its own makes the others."""

from __future__ import annotations

from typing import Final

CASTS: Final = ("asciicast", "asciicast2")
FILMS: Final = ("webm", "mp4")
APART: Final = (*FILMS, "pyrdp")  # made by a process of their own: they take a place among the jobs
FORMS: Final = (*CASTS, "jsonl", "csv")
EVERY: Final = (*FORMS, *APART)
