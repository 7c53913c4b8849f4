"""Strangers who sign up, the agreements of the deployment, and who accepted them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds to what is there."""
    op.create_table(
        "sign_up",
        _text("id", primary_key=True),
        _text("email", 254),
        _text("mailbox_sha256"),
        _text("name", 200),
        _text("language", 8),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        _text("source"),
        _number("created_ms"),
        _number("expires_ms"),
        _number("confirmed_ms"),
        _text("tenant_id"),
        _number("credit_nano"),
        _text("currency", 3),
        _number("credited_ms"),
    )
    op.create_index(op.f("ix_sign_up_mailbox_sha256"), "sign_up", ["mailbox_sha256"])
    op.create_index(op.f("ix_sign_up_created_ms"), "sign_up", ["created_ms"])
    op.create_table(
        "agreement",
        _text("version", 40, primary_key=True),
        _text("sha256"),
        sa.Column("text", sa.Text, nullable=False),
        _number("since_ms"),
    )
    op.create_table(
        "acceptance",
        _text("id", primary_key=True),
        _text("tenant_id"),
        sa.Column("version", sa.String(40), sa.ForeignKey("agreement.version"), nullable=False),
        _text("sha256"),
        _text("person_id"),
        _text("email", 254),
        _number("accepted_ms"),
        sa.UniqueConstraint("tenant_id", "version"),
    )
    _refuse_changes("acceptance")


def _text(name: str, length: int = 64, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), primary_key=primary_key, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _refuse_changes(table: str) -> None:
    """Rows of `table` are added and then stay as they are."""
    said = f"rows of {table} are only ever added"
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{said}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_stays() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{said}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_stays()"
    )
