"""Tiers, projects, prices, people, roles and the audit trail; what was an admin credential becomes a service
token with the role `owner`.

The default tenant keeps what it had: no limits, nothing charged.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("price", "audit")


def upgrade() -> None:
    """Adds to what is there; no row is lost."""
    _tenants_and_projects()
    _keys()
    _prices()
    _budgets()
    _people()
    _sign_in()
    _audit()
    _admins_become_service_tokens()
    for table in APPEND_ONLY:
        _refuse_changes(table)


def _id(name: str = "id", *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), primary_key=primary_key, nullable=False)


def _ms(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _json(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _name() -> sa.Column[str]:
    return sa.Column("name", sa.String(200), nullable=False)


def _of(table: str) -> sa.Column[str]:
    return sa.Column(
        f"{table.removeprefix('price_')}_id",
        sa.String(64),
        sa.ForeignKey(f"{table}.id"),
        nullable=False,
        index=True,
    )


def _sha256() -> sa.Column[str]:
    return sa.Column("sha256", sa.String(64), nullable=False, unique=True)


def _tenants_and_projects() -> None:
    with op.batch_alter_table("tenant") as batch:
        batch.add_column(sa.Column("tier", sa.String(64), nullable=False, server_default="internal"))
        batch.add_column(_json("limits", "{}"))
        batch.add_column(sa.Column("billing", sa.String(16), nullable=False, server_default="free"))
        batch.add_column(sa.Column("plan", sa.String(64), nullable=False, server_default=""))
        batch.add_column(sa.Column("currency", sa.String(3), nullable=False, server_default="CNY"))
        batch.add_column(sa.Column("time_zone", sa.String(64), nullable=False, server_default="UTC"))
        batch.add_column(_json("models", "[]"))
        batch.add_column(_json("privacy", "{}"))
        batch.add_column(sa.Column("deleted_ms", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "project",
        _id(primary_key=True),
        _of("tenant"),
        _name(),
        sa.Column("enabled", sa.Boolean(create_constraint=False), nullable=False),
        _ms("created_ms"),
        _json("limits"),
        _ms("deleted_ms"),
    )
    op.execute(
        "INSERT INTO project (id, tenant_id, name, enabled, created_ms, limits, deleted_ms) "
        "SELECT id || '.default', id, 'Default', TRUE, created_ms, '{}', 0 FROM tenant"
    )


def _keys() -> None:
    with op.batch_alter_table("api_key") as batch:
        batch.add_column(sa.Column("project_id", sa.String(64), nullable=True))
        for column in ("models", "endpoints", "networks"):
            batch.add_column(_json(column, "[]"))
        batch.add_column(_json("limits", "{}"))
        batch.add_column(sa.Column("previous_sha256", sa.String(64), nullable=True))
        batch.add_column(sa.Column("previous_until_ms", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE api_key SET project_id = tenant_id || '.default'")
    with op.batch_alter_table("api_key") as batch:
        batch.alter_column("project_id", existing_type=sa.String(64), nullable=False)
        batch.create_foreign_key(op.f("fk_api_key_project_id"), "project", ["project_id"], ["id"])
        batch.create_unique_constraint(op.f("uq_api_key_previous_sha256"), ["previous_sha256"])
    op.create_index(op.f("ix_api_key_project_id"), "api_key", ["project_id"])


def _prices() -> None:
    op.create_table("tier", _id(primary_key=True), _json("policy"), _ms("changed_ms"))
    op.create_table(
        "price_plan",
        _id(primary_key=True),
        sa.Column("currency", sa.String(3), nullable=False),
        _json("volume"),
        sa.Column("package_factor_ppm", sa.Integer, nullable=False),
        _ms("created_ms"),
    )
    op.create_table(
        "price",
        _id(primary_key=True),
        _of("price_plan"),
        sa.Column("model", sa.String(200), nullable=False),
        _ms("valid_from_ms"),
        _json("price"),
        _ms("created_ms"),
    )


def _budgets() -> None:
    op.create_table(
        "budget",
        _id(primary_key=True),
        _of("tenant"),
        sa.Column("scope", sa.String(80), nullable=False),
        _name(),
        sa.Column("amount_nano", sa.BigInteger, nullable=False),
        sa.Column("thresholds", sa.String(200), nullable=False),
        sa.Column("webhook_url", sa.String(2000), nullable=False),
        sa.Column("webhook_secret", sa.String(200), nullable=False),
        _json("emails"),
        _ms("created_ms"),
    )
    op.create_table(
        "budget_alert",
        sa.Column(
            "budget_id", sa.String(64), sa.ForeignKey("budget.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("month", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("threshold", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("channel", sa.String(16), primary_key=True),
        _id("event_id"),
        sa.Column("spent_nano", sa.BigInteger, nullable=False),
        _ms("due_ms"),
        sa.Column("attempts", sa.Integer, nullable=False),
        _ms("told_ms"),
        sa.Column("problem", sa.String(500), nullable=False),
    )


def _people() -> None:
    op.create_table(
        "service_token",
        _id(primary_key=True),
        _name(),
        _sha256(),
        _ms("created_ms"),
        _ms("expires_ms"),
        _ms("revoked_ms"),
    )
    op.create_table(
        "person",
        _id(primary_key=True),
        sa.Column("email", sa.String(254), nullable=False, unique=True),
        _name(),
        sa.Column("password_hash", sa.String(200), nullable=False),
        sa.Column("password_by", sa.String(80), nullable=False, server_default=""),
        sa.Column("enabled", sa.Boolean(create_constraint=False), nullable=False),
        _ms("created_ms"),
    )
    op.create_table(
        "role_grant",
        _id(primary_key=True),
        _id("subject_id"),
        sa.Column("role", sa.String(16), nullable=False),
        _id("tenant_id"),
        sa.Column("source", sa.String(16), nullable=False),
        _ms("created_ms"),
        sa.UniqueConstraint("subject_id", "role", "tenant_id", "source"),
    )


def _sign_in() -> None:
    op.create_table(
        "session",
        _id(primary_key=True),
        _of("person"),
        _sha256(),
        sa.Column("kind", sa.String(8), nullable=False),
        _ms("created_ms"),
        _ms("seen_ms"),
        _ms("expires_ms"),
    )
    op.create_table(
        "sign_in_guard",
        sa.Column("name_sha256", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        _ms("locked_until_ms"),
        _ms("changed_ms"),
    )
    op.create_table(
        "oidc_identity",
        sa.Column("issuer", sa.String(300), primary_key=True),
        sa.Column("subject", sa.String(255), primary_key=True),
        _of("person"),
        _ms("created_ms"),
    )
    op.create_table(
        "oidc_attempt",
        sa.Column("state_sha256", sa.String(64), primary_key=True),
        sa.Column("nonce", sa.String(64), nullable=False),
        sa.Column("verifier", sa.String(128), nullable=False),
        _ms("expires_ms"),
    )


def _audit() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "audit",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        _ms("at_ms"),
        _id("actor"),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False, index=True),
        sa.Column("target", sa.String(300), nullable=False),
        _json("detail"),
    )


def _admins_become_service_tokens() -> None:
    op.execute(
        "INSERT INTO service_token (id, name, sha256, created_ms, expires_ms, revoked_ms) "
        "SELECT id, name, sha256, created_ms, 0, revoked_ms FROM admin_credential"
    )
    op.execute(
        "INSERT INTO role_grant (id, subject_id, role, tenant_id, source, created_ms) "
        "SELECT 'grant_' || id, id, 'owner', '', 'local', created_ms FROM admin_credential "
        "WHERE revoked_ms = 0"
    )
    op.drop_table("admin_credential")


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
