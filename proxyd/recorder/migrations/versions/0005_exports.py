"""Which files were made of which recordings, are being made, or were to be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "exports",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("form", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("queued_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("duration_us", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("sha256", sa.Text, nullable=False, server_default=""),
        sa.Column("error", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("exports_queued_at", "exports", ["queued_at"])
    op.create_index("exports_session", "exports", ["session"])
