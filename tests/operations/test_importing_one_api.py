"""A One API or New API database as an import plan."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest
import yaml
from one_api_files import NEW_API_KEY, ONE_API_KEY, UPSTREAM_KEY, insert, write_new_api, write_one_api

from sextant.base.errors import BadDocument
from sextant.operations.importing import tables
from sextant.operations.importing.one_api import NO_MODEL, read_one_api
from sextant.operations.importing.plan import ImportPlan
from sextant.spec.document import parse_document
from sextant.spec.policy import NANO


def noted(plan: ImportPlan) -> dict[str, str]:
    return {note.where: note.said for note in plan.notes}


@pytest.fixture(name="one_api")
def _one_api(tmp_path: Path) -> Path:
    return write_one_api(tmp_path / "one-api.db")


def test_channels_become_a_document(one_api: Path) -> None:
    plan = read_one_api(one_api)
    served = {model.name: model.engine for model in parse_document(yaml.safe_dump(plan.document)).spec.models}
    assert list(served) == ["deepseek-chat", "deepseek-reasoner", "qwen3"]
    assert served["deepseek-chat"].base_url == "https://api.deepseek.com/v1"
    assert served["deepseek-chat"].upstream_model == "deepseek-v3"
    assert served["qwen3"].base_url == "http://10.0.0.9:8000/v1"
    said = noted(plan)
    assert "one endpoint a model" in said["channel 2 (own vLLM)"]
    assert "1 of its 2 keys" in said["channel 2 (own vLLM).key"]
    assert "no equal" in said["channel 2 (own vLLM).system_prompt"]
    assert "claude-sonnet-4-5" in said["channel 3 (claude)"]
    assert "switched off" in said["channel 4 (old)"]


def test_users_become_prepaid_tenants_with_their_money(one_api: Path) -> None:
    plan = read_one_api(one_api)
    tenants = {tenant.id: tenant for tenant in plan.tenants}
    assert list(tenants) == ["root", "alice", "carol"]
    assert tenants["alice"].top_up_nano == 5 * NANO
    assert (tenants["alice"].billing, tenants["alice"].plan) == ("prepaid", "one-api-vip")
    assert tenants["alice"].models == ()
    assert tenants["carol"].models == ("deepseek-chat", "deepseek-reasoner")
    assert "disabled" in noted(plan)["user 3 (mallory)"]


def test_ratios_become_prices(one_api: Path) -> None:
    plans = {plan.id: {price.model: price for price in plan.prices} for plan in read_one_api(one_api).plans}
    assert plans["one-api"]["deepseek-chat"].input_nano_per_mtok == 270_000_000
    assert plans["one-api"]["deepseek-chat"].output_nano_per_mtok == 1_080_000_000
    assert plans["one-api-vip"]["deepseek-chat"].input_nano_per_mtok == 216_000_000
    said = noted(read_one_api(one_api))
    unpriced = next(note.said for note in read_one_api(one_api).notes if note.where == "prices")
    assert "deepseek-reasoner" in unpriced
    assert "SMTPServer" in said["options"]


def test_callers_keep_their_keys_within_their_bounds(one_api: Path) -> None:
    plan = read_one_api(one_api)
    keys = {key.name: key for key in plan.keys}
    assert list(keys) == ["app", "limited"]
    assert keys["app"].sha256 == hashlib.sha256(f"sk-{ONE_API_KEY}".encode()).hexdigest()
    assert keys["app"].networks == ("10.1.0.0/16", "192.0.2.7/32")
    assert keys["app"].models == ("deepseek-chat",)
    assert keys["limited"].limits.spend_nano_per_month == NANO // 2
    assert keys["limited"].expires_ms == 4_102_444_800_000
    said = noted(plan)
    assert "for good" in said["token 2 (limited).remain_quota"]
    assert "used up" in said["token 3 (used up)"]
    assert "its user" in said["token 4 (mallory's)"]
    assert "addresses" in said["token 5 (bad subnet)"]


def test_no_secret_leaves(one_api: Path) -> None:
    plan = read_one_api(one_api)
    shown = json.dumps(plan.told()) + repr(plan)
    assert UPSTREAM_KEY not in shown
    assert ONE_API_KEY not in shown
    assert "$2a$hash" not in shown
    assert {secret.value for secret in plan.secrets} == {UPSTREAM_KEY, "sk-other"}


def test_new_api_is_told_apart(tmp_path: Path) -> None:
    plan = read_one_api(write_new_api(tmp_path / "new.db"))
    assert plan.source.startswith("New API")
    assert plan.document is not None
    assert plan.document["spec"]["models"][0]["engine"]["base_url"] == "https://api.deepseek.com/v1"
    keys = {key.name: key for key in plan.keys}
    assert list(keys) == ["app", "no models"]
    assert keys["app"].sha256 == hashlib.sha256(f"sk-{NEW_API_KEY}".encode()).hexdigest()
    assert keys["app"].networks == ("192.0.2.1/32", "198.51.100.0/24")
    assert keys["no models"].models == (NO_MODEL,)
    (price,) = plan.plans[0].prices
    assert (price.input_nano_per_mtok, price.cached_nano_per_mtok) == (280_000_000, 28_000_000)


MYSQL_DUMP = r"""-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)
DROP TABLE IF EXISTS `logs`;
CREATE TABLE `logs` (
  `id` bigint NOT NULL
) ENGINE=InnoDB;
INSERT INTO `logs` VALUES (1),(2);
CREATE TABLE `tokens` (
  `id` bigint NOT NULL AUTO_INCREMENT,
  `user_id` bigint DEFAULT NULL,
  `key` char(48) DEFAULT NULL,
  `name` varchar(191) DEFAULT NULL,
  `unlimited_quota` tinyint(1) DEFAULT '0',
  `expired_time` bigint DEFAULT '-1',
  PRIMARY KEY (`id`)
) ENGINE=InnoDB;
INSERT INTO `tokens` VALUES (1,1,'KKKK','it\'s (1), \"quoted\"; \\ and ''more''',1,-1),(2,1,'LLLL',NULL,1,-1);
INSERT INTO `users` (`id`, `username`, `quota`) VALUES (1,'王伟',1000000);
INSERT INTO `options` (`key`, `value`) VALUES ('ModelRatio','{\"m\": 1}');
"""


def test_a_mysql_dump(tmp_path: Path) -> None:
    dump = tmp_path / "one-api.sql"
    dump.write_text(MYSQL_DUMP)
    plan = read_one_api(dump)
    assert [key.name for key in plan.keys] == ["it's (1), \"quoted\"; \\ and 'more'", "unnamed"]
    (tenant,) = plan.tenants
    assert tenant.id
    assert tenant.id.isascii()
    assert tenant.name == "王伟"


def test_a_cut_off_dump_is_refused(tmp_path: Path) -> None:
    dump = tmp_path / "one-api.sql"
    dump.write_text(MYSQL_DUMP.replace("(2,1,'LLLL',NULL,1,-1);", "(2,1,'LL"))
    with pytest.raises(BadDocument, match="cannot be read near"):
        read_one_api(dump)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither a SQLite file"),
        (b"\x7fELF" + bytes(100), "neither a SQLite file"),
        (b"SQLite format 3\0" + bytes(200), "cannot be read as a SQLite database"),
        (b"[]", "found a list"),
        (b'{"a": ', "not valid JSON"),
        (b'{"tokens": [], "users": 5}', "expected a mapping of tables"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"tokens": []}', "no tables `users` and `tokens`"),
        (
            b'{"users": [{"id": 1, "username": "a", "quota": "lots"}], "tokens": []}',
            "quota: expected a number",
        ),
        (
            b'{"users": [], "tokens": [], "options": [{"key": "ModelRatio", "value": "{\\"m\\": -1}"}]}',
            "0 or more",
        ),
        (b'{"users": [], "tokens": [], "options": [{"key": "QuotaPerUnit", "value": "0"}]}', "over 0"),
    ],
)
def test_what_is_no_such_database_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "one-api.db"
    file.write_bytes(data)
    with pytest.raises(BadDocument) as caught:
        read_one_api(file)
    assert said in caught.value.message


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.db", tmp_path):
        with pytest.raises(BadDocument, match="cannot be read"):
            read_one_api(path)


def test_a_locked_file_says_what_to_do(one_api: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LOCKED_S", 0.05)
    writer = sqlite3.connect(one_api)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(BadDocument, match="stop the program"):
        read_one_api(one_api)
    writer.rollback()
    writer.close()
    assert read_one_api(one_api).tenants


def test_too_many_rows_are_refused(one_api: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_MAX", 3)
    with pytest.raises(BadDocument, match="more than 3 rows"):
        read_one_api(one_api)


def test_the_file_is_only_read(one_api: Path) -> None:
    before = one_api.read_bytes()
    read_one_api(one_api)
    assert one_api.read_bytes() == before
    assert [file.name for file in one_api.parent.iterdir()] == ["one-api.db"]


def test_an_unknown_column_is_told(one_api: Path) -> None:
    db = sqlite3.connect(one_api)
    db.execute("ALTER TABLE tokens ADD COLUMN daily_limit integer")
    insert(db, "tokens", user_id=2, key="Z" * 48, name="new", unlimited_quota=1, daily_limit=7)
    db.commit()
    db.close()
    assert "no equal" in noted(read_one_api(one_api))["token 6 (new).daily_limit"]
