"""Sessions, live and ended, and the list of blocked users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables and what the session list filters and sorts by."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("user_ip", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("login", sa.Text, nullable=False),
        sa.Column("how", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("by", sa.Text, nullable=False, server_default=""),
        sa.Column("error", sa.Text, nullable=False, server_default=""),
        sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("input_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("output_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("chain", sa.Text, nullable=False, server_default=""),
        sa.Column("path", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("sessions_started_at", "sessions", ["started_at"])
    op.create_index("sessions_user", "sessions", ["user", "started_at"])
    op.create_index("sessions_target", "sessions", ["target", "started_at"])
    op.create_index("sessions_state", "sessions", ["state", "started_at"])
    op.create_table(
        "blocks",
        sa.Column("user", sa.Text, primary_key=True),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("released_at", sa.Double),
        sa.Column("released_by", sa.Text),
    )
