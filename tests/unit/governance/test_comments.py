"""What may be said of a session, and by whom."""

from __future__ import annotations

import pytest

from proxyd.governance.comments import Comment, CommentRefused, Mark

LASTED = 60_000_000


def said(text: str = "look here", **fields: object) -> Comment:
    return Comment("", "s1", **({"person": "ann", "at": 0.0, "text": text} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("comment", "reviewed_by", "why"),
    [
        (said(""), None, "needs a text"),
        (said(at_us=LASTED + 1), None, "no such moment: it lasted 60.0 s"),
        (said(at_us=-1), None, "no such moment"),
        (said(person="alice", mark=Mark.REVIEWED), None, "a session of their own"),
        (said(person="alice", mark=Mark.REOPENED), "bob", "a session of their own"),
        (said(mark=Mark.REVIEWED), "ann", "already"),
        (said(mark=Mark.REOPENED), None, "not marked as reviewed"),
    ],
)
def test_what_is_refused(comment: Comment, reviewed_by: str | None, why: str) -> None:
    with pytest.raises(CommentRefused, match=why):
        comment.refuse("alice", LASTED, reviewed_by)


@pytest.mark.parametrize(
    ("comment", "reviewed_by"),
    [
        (said(), None),
        (said(at_us=0), "ann"),
        (said(at_us=LASTED), None),
        (said(person="alice"), None),  # who was there may explain
        (said("", mark=Mark.REVIEWED), None),
        (said("", mark=Mark.REVIEWED), "bob"),  # a second pair of eyes
        (said("", mark=Mark.REOPENED), "ann"),
    ],
)
def test_what_is_kept(comment: Comment, reviewed_by: str | None) -> None:
    comment.refuse("alice", LASTED, reviewed_by)
