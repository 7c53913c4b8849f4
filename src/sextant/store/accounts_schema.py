"""Tables of the accounts database, and how it is opened.

SQLite keeps its rollback journal here, not a write-ahead log: the standard library is bound to the system's
SQLite, and Debian's 3.40 can corrupt a write-ahead log. Writes are rare (a key made, a key revoked), so the
journal's cost does not matter. PostgreSQL takes the same tables.
See docs/decisions/0005-accounts-keep-a-rollback-journal.md.

Columns named `limits`, `models`, `policy` and so on hold JSON of the nouns in `sextant.spec.policy`: they are
read whole and never searched. Rows of `price`, `audit` and `acceptance` are only ever added; triggers refuse
the rest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from sextant.base.errors import Misconfigured

BUSY_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5
_SESSION = (
    "-c tcp_keepalives_idle=4 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 -c tcp_user_timeout=8000"
)
"""The server gives up a host that was cut off, and with it the locks of its transaction: without, the others
wait for as long as the server's kernel keeps TCP, two hours. Linux asks a silent host until the user timeout
is over, which is less than the others wait for one answer (`bounded_connection.WAIT_MAX_S`)."""
READS = "sextant_reads"
"""Execution option of a transaction that only reads."""

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


def _id(name: str = "id", *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), primary_key=primary_key, nullable=False)


def _ms(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _json(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _name() -> sa.Column[str]:
    return sa.Column("name", sa.String(200), nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(create_constraint=False), nullable=False)


def _sha256(name: str = "sha256") -> sa.Column[str]:
    return sa.Column(name, sa.String(64), nullable=False, unique=True)


tenant = sa.Table(
    "tenant",
    metadata,
    _id(primary_key=True),
    _name(),
    _flag("enabled"),
    _ms("created_ms"),
    _id("tier"),
    _json("limits"),
    sa.Column("billing", sa.String(16), nullable=False),
    _id("plan"),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("time_zone", sa.String(64), nullable=False),
    _json("models"),
    _json("privacy"),
    _ms("deleted_ms"),
)

project = sa.Table(
    "project",
    metadata,
    _id(primary_key=True),
    sa.Column("tenant_id", sa.String(64), sa.ForeignKey("tenant.id"), nullable=False, index=True),
    _name(),
    _flag("enabled"),
    _ms("created_ms"),
    _json("limits"),
    _ms("deleted_ms"),
)

api_key = sa.Table(
    "api_key",
    metadata,
    _id(primary_key=True),
    sa.Column("tenant_id", sa.String(64), sa.ForeignKey("tenant.id"), nullable=False, index=True),
    _name(),
    _sha256(),
    sa.Column("hint", sa.String(16), nullable=False),
    _ms("created_ms"),
    _ms("expires_ms"),
    _ms("revoked_ms"),
    sa.Column("project_id", sa.String(64), sa.ForeignKey("project.id"), nullable=False, index=True),
    _json("models"),
    _json("endpoints"),
    _json("networks"),
    _json("limits"),
    sa.Column("previous_sha256", sa.String(64), nullable=True, unique=True),
    _ms("previous_until_ms"),
)

tier = sa.Table("tier", metadata, _id(primary_key=True), _json("policy"), _ms("changed_ms"))

price_plan = sa.Table(
    "price_plan",
    metadata,
    _id(primary_key=True),
    sa.Column("currency", sa.String(3), nullable=False),
    _json("volume"),
    sa.Column("package_factor_ppm", sa.Integer, nullable=False),
    _ms("created_ms"),
)

price = sa.Table(
    "price",
    metadata,
    _id(primary_key=True),
    sa.Column("plan_id", sa.String(64), sa.ForeignKey("price_plan.id"), nullable=False, index=True),
    sa.Column("model", sa.String(200), nullable=False),
    _ms("valid_from_ms"),
    _json("price"),
    _ms("created_ms"),
)

service_token = sa.Table(
    "service_token",
    metadata,
    _id(primary_key=True),
    _name(),
    _sha256(),
    _ms("created_ms"),
    _ms("expires_ms"),
    _ms("revoked_ms"),
)

person = sa.Table(
    "person",
    metadata,
    _id(primary_key=True),
    sa.Column("email", sa.String(254), nullable=False, unique=True),
    _name(),
    sa.Column("password_hash", sa.String(200), nullable=False),
    sa.Column("password_by", sa.String(80), nullable=False, server_default=""),
    _flag("enabled"),
    _ms("created_ms"),
)
"""`password_hash` is empty for those who have none and sign in elsewhere. `password_by` is the actor who gave
the first password that the present one goes back to, by changes that each needed the one before."""

role_grant = sa.Table(
    "role_grant",
    metadata,
    _id(primary_key=True),
    _id("subject_id"),
    sa.Column("role", sa.String(16), nullable=False),
    _id("tenant_id"),
    sa.Column("source", sa.String(16), nullable=False),
    _ms("created_ms"),
    sa.UniqueConstraint("subject_id", "role", "tenant_id", "source"),
)
"""Who may act as what where. `subject_id` is a person's or a service token's; an empty `tenant_id` means the
whole deployment; `source` is `local`, or `oidc` for what an identity provider's groups give."""

session = sa.Table(
    "session",
    metadata,
    _id(primary_key=True),
    sa.Column("person_id", sa.String(64), sa.ForeignKey("person.id"), nullable=False, index=True),
    _sha256(),
    sa.Column("kind", sa.String(8), nullable=False),
    _ms("created_ms"),
    _ms("seen_ms"),
    _ms("expires_ms"),
)

sign_in_guard = sa.Table(
    "sign_in_guard",
    metadata,
    sa.Column("name_sha256", sa.String(64), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    _ms("locked_until_ms"),
    _ms("changed_ms"),
)
"""Failed sign-ins by the hash of the name tried, whether or not there is such a person."""

oidc_identity = sa.Table(
    "oidc_identity",
    metadata,
    sa.Column("issuer", sa.String(300), primary_key=True),
    sa.Column("subject", sa.String(255), primary_key=True),
    sa.Column("person_id", sa.String(64), sa.ForeignKey("person.id"), nullable=False, index=True),
    _ms("created_ms"),
    sa.Column("vouched", sa.Boolean(create_constraint=False), nullable=False, server_default=sa.false()),
)
"""`vouched`: the provider said at the last sign-in that the person's address here is verified."""

invitation = sa.Table(
    "invitation",
    metadata,
    _id(primary_key=True),
    sa.Column("tenant_id", sa.String(64), nullable=False, index=True),
    sa.Column("email", sa.String(254), nullable=False),
    _name(),
    sa.Column("role", sa.String(16), nullable=False),
    _sha256(),
    sa.Column("invited_by", sa.String(80), nullable=False),
    sa.Column("password_by", sa.String(80), nullable=False),
    _ms("created_ms"),
    _ms("expires_ms"),
    _ms("redeemed_ms"),
    _ms("revoked_ms"),
)
"""A role for an address. `password_by` is what a first password set with it gets as its giver; empty: it may
set none, because whoever has the token has not shown to own the address."""

oidc_attempt = sa.Table(
    "oidc_attempt",
    metadata,
    sa.Column("state_sha256", sa.String(64), primary_key=True),
    sa.Column("nonce", sa.String(64), nullable=False),
    sa.Column("verifier", sa.String(128), nullable=False),
    _ms("expires_ms"),
)

site = sa.Table(
    "site",
    metadata,
    _id(primary_key=True),
    _name(),
    sa.Column("sha256", sa.String(64), nullable=True, unique=True),
    _ms("created_ms"),
    _ms("credential_ms"),
    _json("tenants"),
)
"""Who sends usage here. `tenants`: JSON of the site's tenants to those here; no `sha256`: no credential."""

sign_up = sa.Table(
    "sign_up",
    metadata,
    _id(primary_key=True),
    sa.Column("email", sa.String(254), nullable=False),
    sa.Column("mailbox_sha256", sa.String(64), nullable=False, index=True),
    _name(),
    sa.Column("language", sa.String(8), nullable=False),
    _sha256(),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False, index=True),
    _ms("expires_ms"),
    _ms("confirmed_ms"),
    _id("tenant_id"),
    sa.Column("credit_nano", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    _ms("credited_ms"),
)
"""A stranger's wish for a tenant. `sha256` is the mailed token's; `source` the address it was asked from;
this, e-mail and name are emptied after some days. The credit is owed from `confirmed_ms` to `credited_ms`."""

agreement = sa.Table(
    "agreement",
    metadata,
    sa.Column("version", sa.String(40), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    _ms("since_ms"),
)

acceptance = sa.Table(
    "acceptance",
    metadata,
    _id(primary_key=True),
    _id("tenant_id"),
    sa.Column("version", sa.String(40), sa.ForeignKey("agreement.version"), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    _id("person_id"),
    sa.Column("email", sa.String(254), nullable=False),
    _ms("accepted_ms"),
    sa.UniqueConstraint("tenant_id", "version"),
)
"""Who accepted an agreement for a tenant: only ever added."""

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _ms("at_ms"),
    _id("actor"),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("tenant_id", sa.String(64), nullable=False, index=True),
    sa.Column("target", sa.String(300), nullable=False),
    _json("detail"),
)

policy_version = sa.Table(
    "policy_version",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)
"""One row, id 1: raised by each change that the policy snapshot shows, and locked by every change."""


def open_accounts(url_or_path: str | os.PathLike[str]) -> sa.Engine:
    """An engine over a SQLite file (made with mode 0600 when it is missing) or a `postgresql://` URL. Raises
    Misconfigured."""
    text = str(url_or_path)
    if text.startswith(("postgresql:", "postgres:", "postgresql+psycopg:")):
        return _open_postgresql(text)
    return _open_sqlite(Path(text))


def _open_postgresql(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
    except sa.exc.ArgumentError:
        raise Misconfigured("the store's URL cannot be read; expected postgresql://USER@HOST/NAME") from None
    told = parsed.query.get("options", "")
    session = " ".join((told if isinstance(told, str) else " ".join(told), _SESSION)).strip()
    engine = sa.create_engine(
        parsed,
        pool_pre_ping=True,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "options": session},
        hide_parameters=True,
    )
    sa.event.listen(engine, "do_connect", _connect_bounded)
    return engine


def _connect_bounded(_dialect: Any, _record: Any, given: list[Any], named: dict[str, Any]) -> Any:
    from sextant.store.bounded_connection import BoundedConnection  # a start on SQLite needs no PostgreSQL

    return BoundedConnection.connect(*given, **named)


def _open_sqlite(path: Path) -> sa.Engine:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Misconfigured(f"cannot open the accounts {path}: {error.strerror}") from error
    engine = sa.create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True
    )
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    # The driver would begin transactions late and on its own terms; `_begin` does it instead.
    connection.isolation_level = None
    for pragma in ("journal_mode = DELETE", "synchronous = EXTRA", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: sa.Connection) -> None:
    """Takes the write lock at once, so that a read followed by a write cannot deadlock with another's."""
    reads = connection.get_execution_options().get(READS)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
