"""How many findings a session has, and how many channels of which type it opened."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add both columns; sessions that were there before have none."""
    op.add_column("sessions", sa.Column("findings", sa.Integer, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("channels", sa.JSON, nullable=False, server_default="{}"))
