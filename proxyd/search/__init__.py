"""Full-text search over what was derived of sessions."""

from typing import Final

SOURCES: Final = ("commands", "screen", "sql", "keys", "titles", "transfers", "findings")
"""Where text is found; the index has a column for each."""
