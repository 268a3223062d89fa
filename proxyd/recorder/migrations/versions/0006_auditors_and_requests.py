"""Who audits which sessions, who asks to see them, and who decides."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "auditors",
        sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), primary_key=True),
        sa.Column("person", sa.Text, primary_key=True),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("justification", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("starts_at", sa.Double, nullable=False),
        sa.Column("ends_at", sa.Double, nullable=False),
        sa.Column("asked_at", sa.Double, nullable=False),
        sa.Column("needed", sa.Integer, nullable=False),
        sa.Column("via", sa.Text, nullable=False),
    )
    op.create_index("requests_session_person", "requests", ["session", "person"])
    op.create_index("requests_ends_at", "requests", ["ends_at"])
    op.create_table(
        "decisions",
        sa.Column("request", sa.Text, sa.ForeignKey("requests.id"), primary_key=True),
        sa.Column("person", sa.Text, primary_key=True),
        sa.Column("verdict", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("via", sa.Text, nullable=False),
    )
