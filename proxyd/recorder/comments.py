"""Comments on sessions and marks of review, kept in the catalog's database.

Rule 1: rows are only ever added; the catalog's row of a session says besides who reviewed it last, and when.
Rule 2: a mark is judged in the transaction that keeps it: of two at once the second sees the first.
Rule 3: a session has a bounded number of them: what reads all of them stays small.
Rule 4: every method may be called from any thread, and waits for storage: call it through `trio.to_thread`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

import sqlalchemy as sa

from proxyd.governance.comments import Comment, CommentRefused, Mark
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.schema import COMMENTS, SESSIONS

ID_BYTES: Final = 8
MAX_OF_SESSION: Final = 1000  # more than anyone reads; at their longest some two megabytes


class Comments:
    """What people said about sessions."""

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._database = catalog.database
        self._clock = clock

    def say(self, comment: Comment) -> Comment:
        """Keep a comment, under an id and with the time it gets here; `session` may be the beginning of an id.

        Raises NotFound, CommentRefused.
        """
        session = self._catalog.session(comment.session).id
        with self._database.write() as connection:
            locked = sa.select(SESSIONS).where(SESSIONS.c.id == session).with_for_update()
            row = connection.execute(locked).mappings().one()
            kept = replace(comment, id=secrets.token_hex(ID_BYTES), session=session, at=self._clock())
            lasted_us = round(((row["ended_at"] or kept.at) - row["started_at"]) * 1e6)
            kept.refuse(row["user"], lasted_us, None if row["reviewed_at"] is None else row["reviewed_by"])
            mine = COMMENTS.c.session == session
            if (connection.scalar(sa.select(sa.func.count()).where(mine)) or 0) >= MAX_OF_SESSION:
                raise CommentRefused(f"this session has {MAX_OF_SESSION} comments already")
            connection.execute(
                COMMENTS.insert().values(asdict(kept) | {"mark": kept.mark.value})
            )  # drivers keep enums by their names
            if kept.mark:
                done = kept.mark is Mark.REVIEWED
                state = {"reviewed_at": kept.at if done else None, "reviewed_by": kept.person if done else ""}
                connection.execute(SESSIONS.update().where(SESSIONS.c.id == session).values(state))
        return kept

    def of(self, session: str) -> list[Comment]:
        """List what was said of the session with this whole id, the oldest first."""
        query = (
            sa.select(COMMENTS).where(COMMENTS.c.session == session).order_by(COMMENTS.c.at, COMMENTS.c.id)
        )
        with self._database.read() as connection:
            rows = connection.execute(query.limit(MAX_OF_SESSION)).mappings()
            return [Comment(**(dict(row) | {"mark": Mark(row["mark"])})) for row in rows]
