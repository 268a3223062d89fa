"""What reviewers say about a session: comments, some of them pinned to a moment, and whether it has been reviewed.

Rule 1: nothing that was said is changed or taken away; who thinks otherwise later says so in a new comment.
Rule 2: a session has been reviewed when the newest mark says so: who marked it, and when, follows from the same comment.
Rule 3: nobody marks a session of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxyd.errors import Denied


class CommentRefused(Denied):
    """A comment or a mark can't be made like that; the text says why."""


class Mark(StrEnum):
    """What a comment says of the session as a whole."""

    NONE = ""
    REVIEWED = "reviewed"
    REOPENED = "reopened"  # somebody has to look at it again


@dataclass(frozen=True, slots=True)
class Comment:
    """What `person` said at `at` (seconds since 1970) about a session (its whole id), or about its moment `at_us`.

    `via`: the operator that acted for them. Only one with a mark may have no text.
    """

    id: str
    session: str
    person: str
    at: float
    text: str
    at_us: int | None = None
    mark: Mark = Mark.NONE
    via: str = ""

    def refuse(self, user: str, lasted_us: int, reviewed_by: str | None) -> None:
        """Return if it may be made of a session of `user` that lasted so long. Raises CommentRefused.

        `reviewed_by`: who has marked it as reviewed, None: nobody.
        """
        if not (self.text or self.mark):
            raise CommentRefused("a comment needs a text")
        if self.at_us is not None and not 0 <= self.at_us <= lasted_us:
            raise CommentRefused(f"the session has no such moment: it lasted {lasted_us / 1e6:.1f} s")
        if self.mark and self.person == user:
            raise CommentRefused("nobody reviews a session of their own: this one is yours")
        if self.mark is Mark.REVIEWED and reviewed_by == self.person:
            raise CommentRefused("you have marked this session as reviewed already")
        if self.mark is Mark.REOPENED and reviewed_by is None:
            raise CommentRefused("this session is not marked as reviewed")
