"""Sites that send usage here: which tenant each of theirs is, and the credential that they send with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds to what is there."""
    op.create_table(
        "site",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True, unique=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("credential_ms", sa.BigInteger, nullable=False),
        sa.Column("tenants", sa.Text, nullable=False),
    )
