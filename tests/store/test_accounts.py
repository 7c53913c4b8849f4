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
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from sextant.base.errors import BadRequest, Misconfigured, NotFound
from sextant.spec.policy import KeyPolicy, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.store.accounts import DEFAULT_TENANT, Accounts, publish
from sextant.store.accounts_schema import metadata


class Clock:
    ms = 1_795_000_000_000

    def __call__(self) -> int:
        self.ms += 1
        return self.ms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "accounts.db"


@pytest.fixture
def accounts(path: Path) -> Iterator[Accounts]:
    made = Accounts(path, Clock())
    made.migrate()
    yield made
    made.close()


def test_a_new_file_has_the_default_tenant_and_is_private(accounts: Accounts, path: Path) -> None:
    assert [tenant.id for tenant in accounts.list_tenants()] == [DEFAULT_TENANT]
    assert accounts.list_keys() == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_migrating_again_changes_nothing(accounts: Accounts, path: Path) -> None:
    record, _ = accounts.create_key(DEFAULT_TENANT, "laptop")
    before = accounts.policy_snapshot()
    accounts.migrate()
    again = Accounts(path)
    again.migrate()
    assert again.policy_snapshot() == before
    assert again.list_keys() == [record]


def test_the_migrations_make_exactly_the_declared_tables(accounts: Accounts) -> None:
    with accounts._engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


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


def test_keys_are_listed_oldest_first_and_revoked_ones_only_on_request(accounts: Accounts) -> None:
    first, _ = accounts.create_key(DEFAULT_TENANT, "first")
    second, _ = accounts.create_key(DEFAULT_TENANT, "second", expires_ms=1_900_000_000_000)
    revoked = accounts.revoke_key(first.id)
    assert revoked.revoked_ms > 0
    assert accounts.revoke_key(first.id) == revoked, "a second time changes nothing"
    assert accounts.list_keys() == [second]
    assert accounts.list_keys(with_revoked=True) == [revoked, second]


def test_the_snapshot_follows_every_change_with_a_higher_version(accounts: Accounts) -> None:
    seen = [accounts.policy_snapshot()]

    def changed() -> PolicySnapshot:
        seen.append(accounts.policy_snapshot())
        assert seen[-1].version > seen[-2].version
        return seen[-1]

    record, secret = accounts.create_key(DEFAULT_TENANT, "laptop", expires_ms=1_900_000_000_000)
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    assert changed().keys == (KeyPolicy(record.id, DEFAULT_TENANT, sha256, "laptop", 1_900_000_000_000),)
    accounts.create_tenant("acme", "Acme")
    assert TenantPolicy("acme", "Acme") in changed().tenants
    accounts.set_tenant_enabled("acme", False)
    assert TenantPolicy("acme", "Acme", enabled=False) in changed().tenants
    accounts.revoke_key(record.id)
    assert changed().keys == ()
    accounts.create_admin("root")
    accounts.revoke_key(record.id)
    assert accounts.policy_snapshot() == seen[-1], "no change, no version"


def test_mistakes_are_named(accounts: Accounts) -> None:
    with pytest.raises(NotFound, match="no tenant nobody"):
        accounts.create_key("nobody", "x")
    with pytest.raises(NotFound, match="no tenant nobody"):
        accounts.set_tenant_enabled("nobody", True)
    with pytest.raises(NotFound, match="no key key_x"):
        accounts.revoke_key("key_x")
    with pytest.raises(NotFound, match="no admin credential adm_x"):
        accounts.revoke_admin("adm_x")
    with pytest.raises(BadRequest, match="a tenant default already"):
        accounts.create_tenant(DEFAULT_TENANT)
    for name in ("", "  ", "x" * 201, "line\nbreak", "\x1b[31m"):
        with pytest.raises(BadRequest, match="printable"):
            accounts.create_key(DEFAULT_TENANT, name)
    for expires_ms in (-1, 1):
        with pytest.raises(BadRequest, match="not in the future"):
            accounts.create_key(DEFAULT_TENANT, "x", expires_ms=expires_ms)
    assert accounts.list_keys(with_revoked=True) == []


def test_an_admin_credential_is_verified_until_it_is_revoked(accounts: Accounts, path: Path) -> None:
    record, secret = accounts.create_admin("first")
    assert accounts.verify_admin(secret) == record
    assert accounts.list_admins() == [record]
    key = accounts.create_key(DEFAULT_TENANT, "x")[1]
    for wrong in ("", secret[:-1], secret.upper(), key, "\ud800"):
        assert accounts.verify_admin(wrong) is None
    assert secret.encode() not in path.read_bytes()
    accounts.revoke_admin(record.id)
    assert accounts.verify_admin(secret) is None
    assert accounts.list_admins() == []


def test_several_writers_wait_for_each_other(accounts: Accounts, path: Path) -> None:
    before = accounts.policy_snapshot().version

    def make(number: int) -> str:
        mine = Accounts(path)
        try:
            return mine.create_key(DEFAULT_TENANT, f"key {number}")[0].id
        finally:
            mine.close()

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(make, range(24)))
    assert {record.id for record in accounts.list_keys()} == set(ids)
    assert accounts.policy_snapshot().version == before + 24, "no change was lost"


def test_a_newer_schema_is_refused_and_left_alone(accounts: Accounts, path: Path) -> None:
    with accounts._engine.begin() as db:
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
