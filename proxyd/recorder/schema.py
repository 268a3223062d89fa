"""The catalog's tables; how they came to be is in `migrations`."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

SCHEMA: Final = sa.MetaData()
SESSIONS: Final = sa.Table(
    "sessions",
    SCHEMA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("node", sa.Text),
    sa.Column("protocol", sa.Text),
    sa.Column("user", sa.Text),
    sa.Column("user_ip", sa.Text),
    sa.Column("target", sa.Text),
    sa.Column("host", sa.Text),
    sa.Column("login", sa.Text),
    sa.Column("how", sa.Text),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("state", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("by", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("size", sa.BigInteger),
    sa.Column("input_bytes", sa.BigInteger),
    sa.Column("output_bytes", sa.BigInteger),
    sa.Column("findings", sa.Integer),
    sa.Column("channels", sa.JSON),
    sa.Column("chain", sa.Text),
    sa.Column("path", sa.Text),
    sa.Column("purged_at", sa.Double),
    sa.Column("purged_why", sa.Text),
    sa.Column("stored_at", sa.Double),
    sa.Column("reviewed_at", sa.Double),
    sa.Column("reviewed_by", sa.Text),
)
BLOCKS: Final = sa.Table(
    "blocks",
    SCHEMA,
    sa.Column("user", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, primary_key=True),
    sa.Column("author", sa.Text),
    sa.Column("at", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("released_at", sa.Double),
    sa.Column("released_by", sa.Text),
)
HOLDS: Final = sa.Table(
    "holds",
    SCHEMA,
    sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), primary_key=True),
    sa.Column("author", sa.Text),
    sa.Column("at", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("released_at", sa.Double),
    sa.Column("released_by", sa.Text),
)
STORED: Final = sa.Table(
    "stored",
    SCHEMA,
    sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), primary_key=True),
    sa.Column("file", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger),
    sa.Column("at", sa.Double),
)
EXPORTS: Final = sa.Table(
    "exports",
    SCHEMA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("node", sa.Text),
    sa.Column("session", sa.Text, sa.ForeignKey("sessions.id")),
    sa.Column("who", sa.Text),
    sa.Column("form", sa.Text),
    sa.Column("path", sa.Text),
    sa.Column("state", sa.Text),
    sa.Column("queued_at", sa.Double),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("size", sa.BigInteger),
    sa.Column("duration_us", sa.BigInteger),
    sa.Column("sha256", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("person", sa.Text),
    sa.Column("address", sa.Text),
    sa.Column("settings", sa.Text),
    sa.Column("unattended", sa.Boolean),
    sa.Column("tries", sa.Integer),
    sa.Column("removed_at", sa.Double),
)
AUDITORS: Final = sa.Table(
    "auditors",
    SCHEMA,
    sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), primary_key=True),
    sa.Column("person", sa.Text, primary_key=True),
    sa.Column("author", sa.Text),
    sa.Column("at", sa.Double),
)
REQUESTS: Final = sa.Table(
    "requests",
    SCHEMA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("session", sa.Text, sa.ForeignKey("sessions.id")),
    sa.Column("person", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("justification", sa.Text),
    sa.Column("code", sa.Text),
    sa.Column("starts_at", sa.Double),
    sa.Column("ends_at", sa.Double),
    sa.Column("asked_at", sa.Double),
    sa.Column("needed", sa.Integer),
    sa.Column("via", sa.Text),
)
DECISIONS: Final = sa.Table(
    "decisions",
    SCHEMA,
    sa.Column("request", sa.Text, sa.ForeignKey("requests.id"), primary_key=True),
    sa.Column("person", sa.Text, primary_key=True),
    sa.Column("verdict", sa.Text, primary_key=True),
    sa.Column("at", sa.Double),
    sa.Column("comment", sa.Text),
    sa.Column("via", sa.Text),
)
FINDINGS: Final = sa.Table(
    "findings",
    SCHEMA,
    sa.Column("session", sa.Text, sa.ForeignKey("sessions.id"), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("at_us", sa.BigInteger),
    sa.Column("code", sa.Text),
    sa.Column("severity", sa.Text),
    sa.Column("text", sa.Text),
)
COMMENTS: Final = sa.Table(
    "comments",
    SCHEMA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("session", sa.Text, sa.ForeignKey("sessions.id")),
    sa.Column("person", sa.Text),
    sa.Column("via", sa.Text),
    sa.Column("at", sa.Double),
    sa.Column("at_us", sa.BigInteger),
    sa.Column("text", sa.Text),
    sa.Column("mark", sa.Text),
)
