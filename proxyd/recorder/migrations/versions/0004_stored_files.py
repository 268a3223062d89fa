"""Which files of which recordings are in the store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table, and note when the last file of a recording was acknowledged."""
    op.create_table(
        "stored",
        sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), primary_key=True),
        sa.Column("file", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.add_column("sessions", sa.Column("stored_at", sa.Double))
    op.create_index("sessions_stored_at", "sessions", ["stored_at"])
