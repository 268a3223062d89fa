"""What people say about sessions and their moments, who has reviewed which; and what was found in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the tables; no session that was there before is reviewed, and of its findings only the number is known."""
    op.create_table(
        "comments",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("via", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("at_us", sa.BigInteger),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("mark", sa.Text, nullable=False),
    )
    op.create_index("comments_session_at", "comments", ["session", "at"])
    op.add_column("sessions", sa.Column("reviewed_at", sa.Double))
    op.add_column("sessions", sa.Column("reviewed_by", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "findings",
        sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
