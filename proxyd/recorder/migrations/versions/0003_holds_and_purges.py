"""Which recordings are held and why, and which are gone since when and why."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table, and add what a purge leaves of a session."""
    op.create_table(
        "holds",
        sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), primary_key=True),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("released_at", sa.Double),
        sa.Column("released_by", sa.Text),
    )
    op.add_column("sessions", sa.Column("purged_at", sa.Double))
    op.add_column("sessions", sa.Column("purged_why", sa.Text, nullable=False, server_default=""))
    op.create_index("sessions_ended_at", "sessions", ["ended_at"])
