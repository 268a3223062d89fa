"""Whom an export is for and how it is to be made, so that it can be begun again; and when its file was removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns; what there is, is for who asked for it."""
    for column in (
        sa.Column("person", sa.Text, nullable=False, server_default=""),
        sa.Column("address", sa.Text, nullable=False, server_default=""),
        sa.Column("settings", sa.Text, nullable=False, server_default="{}"),
        sa.Column("unattended", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("removed_at", sa.Double),
    ):
        op.add_column("exports", column)
    op.execute("UPDATE exports SET person = who")
    op.create_index("exports_person", "exports", ["person"])
