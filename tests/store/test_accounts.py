"""Tenants, keys, admin credentials: made, listed, revoked, published; bad files and second writers."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from accounts_under_test import STORES, Clock, migrated_url, store_url
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from sextant.base.errors import BadRequest, Misconfigured, NotFound
from sextant.spec.policy import KeyPolicy, ProjectPolicy, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.store.accounts import DEFAULT_TENANT, Accounts, publish
from sextant.store.accounts_database import Page
from sextant.store.accounts_keys import KeyScope
from sextant.store.accounts_schema import __file__ as schema_file
from sextant.store.accounts_schema import open_accounts
from sextant.store.accounts_tenants import TenantChange
from sextant.store.budgets import budget


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "accounts.db"


@pytest.fixture
def accounts(path: Path) -> Iterator[Accounts]:
    made = Accounts(path, Clock())
    made.migrate()
    yield made
    made.close()


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Nothing is there yet, on SQLite and on PostgreSQL."""
    return store_url(request, tmp_path)


@pytest.fixture
def first(url: str) -> Iterator[Accounts]:
    """At their first start."""
    made = Accounts(url, Clock())
    made.migrate()
    yield made
    made.close()


@pytest.fixture(params=STORES)
def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Migrated accounts are there."""
    return migrated_url(request, tmp_path)


@pytest.fixture
def either(migrated: str) -> Iterator[Accounts]:
    """On SQLite and on PostgreSQL."""
    made = Accounts(migrated, Clock())
    yield made
    made.close()


def test_a_new_file_has_the_default_tenant_and_is_private(accounts: Accounts, path: Path) -> None:
    assert [tenant.id for tenant in accounts.list_tenants()] == [DEFAULT_TENANT]
    assert accounts.list_keys() == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_migrating_again_changes_nothing(first: Accounts, url: str) -> None:
    record, _ = first.create_key(DEFAULT_TENANT, "laptop")
    before = first.policy_snapshot()
    first.migrate()
    again = Accounts(url)
    again.migrate()
    assert again.policy_snapshot() == before
    assert again.list_keys() == [record]
    again.close()


def test_the_migrations_make_exactly_the_declared_tables(first: Accounts) -> None:
    with first.engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), budget.metadata) == []


def test_a_file_of_the_first_version_keeps_all_it_has(path: Path) -> None:
    """Keys go into their tenant's default project; admin credentials become owners' service tokens."""
    first_version(path)
    accounts = Accounts(path)
    accounts.migrate()
    assert [(one.id, one.tier, one.billing) for one in accounts.list_tenants()] == [
        ("acme", "internal", "free"),
        ("default", "internal", "free"),
    ]
    keys = {key.id: key for key in accounts.list_keys(with_revoked=True)}
    assert keys["key_1"].project_id == "default.default"
    assert (keys["key_2"].project_id, keys["key_2"].revoked_ms) == ("acme.default", 7)
    token = accounts.verify_service_token("sxadmin-old")
    assert token is not None
    assert [(grant.role, grant.tenant_id) for grant in token.grants] == [("owner", "")]
    assert accounts.verify_service_token("sxadmin-gone") is None
    policy = accounts.policy_snapshot()
    assert [key.sha256 for key in policy.keys] == ["a" * 64]
    assert {tier.id for tier in policy.tiers} >= {"internal", "free", "professional", "enterprise"}
    accounts.close()


def first_version(path: Path) -> None:
    """A file as the first version wrote it."""
    path.parent.mkdir()
    engine = open_accounts(path)
    config = Config()
    config.set_main_option("script_location", str(Path(schema_file).with_name("migrations")))
    with engine.begin() as db:
        config.attributes["connection"] = db
        command.upgrade(config, "0001")
        db.execute(sa.text("INSERT INTO tenant VALUES ('default', 'Default', 1, 1), ('acme', 'Acme', 0, 2)"))
        for values in (
            f"('key_1', 'default', 'first', '{'a' * 64}', 'sk-1…1', 3, 0, 0)",
            f"('key_2', 'acme', 'gone', '{'b' * 64}', 'sk-2…2', 4, 0, 7)",
        ):
            db.execute(sa.text(f"INSERT INTO api_key VALUES {values}"))
        for number, (secret, revoked_ms) in enumerate((("sxadmin-old", 0), ("sxadmin-gone", 8))):
            sha256 = hashlib.sha256(secret.encode()).hexdigest()
            db.execute(
                sa.text(
                    f"INSERT INTO admin_credential VALUES ('adm_{number}', 'a', '{sha256}', 5, {revoked_ms})"
                )
            )
    engine.dispose()


def test_a_key_is_shown_once_and_kept_as_a_hash(accounts: Accounts, path: Path) -> None:
    record, secret = accounts.create_key(DEFAULT_TENANT, "laptop")
    assert re.fullmatch(r"sk-[0-9a-z]{48}", secret)
    assert record.hint.startswith(secret[:7])
    assert record.hint.endswith(secret[-4:])
    assert len(record.hint) <= 16
    accounts.close()
    assert secret.encode() not in path.read_bytes()
    assert secret[3:].encode() not in path.read_bytes()
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in path.read_bytes()


def test_keys_are_listed_oldest_first_and_revoked_ones_only_on_request(either: Accounts) -> None:
    first, _ = either.create_key(DEFAULT_TENANT, "first")
    second, _ = either.create_key(DEFAULT_TENANT, "second", KeyScope(expires_ms=1_900_000_000_000))
    third, _ = either.create_key(DEFAULT_TENANT, "third")
    revoked = either.revoke_key(first.id)
    assert revoked.revoked_ms > 0
    assert either.revoke_key(first.id) == revoked, "a second time changes nothing"
    assert either.list_keys() == [second, third]
    assert either.list_keys(with_revoked=True) == [revoked, second, third]
    assert either.list_keys(Page(1)) == [second]
    assert either.list_keys(Page(5, second.id)) == [third]
    assert either.list_keys(Page(5, third.id)) == []


def test_the_snapshot_follows_every_change_with_a_higher_version(either: Accounts) -> None:
    seen = [either.policy_snapshot()]

    def changed() -> PolicySnapshot:
        seen.append(either.policy_snapshot())
        assert seen[-1].version > seen[-2].version
        assert seen[-1].version == either.policy_version()
        return seen[-1]

    until_ms = 1_900_000_000_000
    record, secret = either.create_key(DEFAULT_TENANT, "laptop", KeyScope(expires_ms=until_ms))
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    expected = KeyPolicy(record.id, DEFAULT_TENANT, sha256, "laptop", until_ms, "default.default")
    assert changed().keys == (expected,)
    either.create_tenant("acme", TenantChange(name="Acme"))
    assert TenantPolicy("acme", "Acme", tier="free") in changed().tenants
    assert ProjectPolicy("acme.default", "acme", "Default") in seen[-1].projects
    either.change_tenant("acme", TenantChange(enabled=False))
    assert TenantPolicy("acme", "Acme", enabled=False, tier="free") in changed().tenants
    either.revoke_key(record.id)
    assert changed().keys == ()
    either.create_service_token("root")
    either.revoke_key(record.id)
    assert either.policy_snapshot() == seen[-1], "no change, no version"


def test_mistakes_are_named(either: Accounts) -> None:
    with pytest.raises(NotFound, match="no tenant nobody"):
        either.create_key("nobody", "x")
    with pytest.raises(NotFound, match="no tenant nobody"):
        either.change_tenant("nobody", TenantChange(enabled=True))
    with pytest.raises(NotFound, match="no key key_x"):
        either.revoke_key("key_x")
    with pytest.raises(NotFound, match="no service token adm_x"):
        either.revoke_service_token("adm_x")
    with pytest.raises(BadRequest, match="a tenant default already"):
        either.create_tenant(DEFAULT_TENANT)
    for name in ("", "  ", "x" * 201, "line\nbreak", "\x1b[31m"):
        with pytest.raises(BadRequest, match="printable"):
            either.create_key(DEFAULT_TENANT, name)
    for expires_ms in (-1, 1):
        with pytest.raises(BadRequest, match="not in the future"):
            either.create_key(DEFAULT_TENANT, "x", KeyScope(expires_ms=expires_ms))
    assert either.list_keys(with_revoked=True) == []


def test_a_service_token_is_verified_until_it_is_revoked_or_expires(either: Accounts) -> None:
    record, secret = either.create_service_token("first")
    assert either.verify_service_token(secret) == record
    assert either.list_service_tokens() == [record]
    key = either.create_key(DEFAULT_TENANT, "x")[1]
    for wrong in ("", secret[:-1], secret.upper(), key, "\ud800"):
        assert either.verify_service_token(wrong) is None
    _, brief = either.create_service_token("brief", "operator", expires_ms=1_795_000_001_000)
    assert either.verify_service_token(brief) is not None
    either._now_ms = lambda: 1_795_000_001_000
    assert either.verify_service_token(brief) is None
    other, _ = either.create_service_token("second")
    either.revoke_service_token(record.id)
    assert either.verify_service_token(secret) is None
    with pytest.raises(BadRequest, match="without an owner"):
        either.revoke_service_token(other.id)


def test_several_writers_wait_for_each_other(either: Accounts, migrated: str) -> None:
    before = either.policy_snapshot().version

    def make(number: int) -> str:
        mine = Accounts(migrated)
        try:
            return mine.create_key(DEFAULT_TENANT, f"key {number}")[0].id
        finally:
            mine.close()

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(make, range(24)))
    assert {record.id for record in either.list_keys()} == set(ids)
    assert either.policy_snapshot().version == before + 24, "no change was lost"


def test_several_programs_may_migrate_at_once(url: str) -> None:
    def migrate(_: int) -> int:
        mine = Accounts(url)
        try:
            mine.migrate()
            return len(mine.list_tiers())
        finally:
            mine.close()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(migrate, range(4))) == {4}


def test_a_newer_schema_is_refused_and_left_alone(accounts: Accounts, path: Path) -> None:
    with accounts.engine.begin() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Misconfigured, match="written by a newer Sextant"):
        Accounts(path).migrate()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(Misconfigured, match="not a database"):
        Accounts(path).migrate()


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="cannot open the accounts"):
        Accounts(tmp_path / "file" / "accounts.db")


def test_the_file_keeps_a_rollback_journal(accounts: Accounts, path: Path) -> None:
    """The system's SQLite may be one that corrupts write-ahead logs."""
    accounts.create_key(DEFAULT_TENANT, "x")
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    db.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["accounts.db"]


def test_a_published_policy_is_private_whole_and_replaces_the_old_one(
    accounts: Accounts, tmp_path: Path
) -> None:
    target = tmp_path / "policy.json"
    publish(accounts.policy_snapshot(), target)
    accounts.create_key(DEFAULT_TENANT, "密钥")
    inode = target.stat().st_ino
    publish(accounts.policy_snapshot(), target)
    assert msgspec.json.decode(target.read_bytes(), type=PolicySnapshot) == accounts.policy_snapshot()
    assert target.stat().st_ino != inode, "renamed into place, not written over"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["policy.json"]


def test_a_publication_that_fails_leaves_the_old_file_and_no_litter(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "policy.json"
    publish(accounts.policy_snapshot(), target)
    before = target.read_bytes()
    accounts.create_key(DEFAULT_TENANT, "x")

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sextant.store.accounts.os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        publish(accounts.policy_snapshot(), target)
    assert target.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["policy.json"]


def test_books_have_an_id_that_lasts_and_differs(tmp_path: Path) -> None:
    ids = []
    for name, began_ms in (("one", 1000), ("two", 1001)):
        accounts = Accounts(tmp_path / name, lambda began_ms=began_ms: began_ms)  # type: ignore[misc]
        accounts.migrate()
        ids.append(accounts.store_id())
        accounts.migrate()
        accounts.create_key(DEFAULT_TENANT, "k")
        assert accounts.store_id() == ids[-1]
        accounts.close()
    assert len(set(ids)) == 2
