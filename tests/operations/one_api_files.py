"""Databases of One API and New API as those programs make them, small, for the tests of the importer.

The tables are those that GORM makes of the structs in songquanpeng/one-api's and QuantumNous/new-api's
`model/` folders (One API v0.6.10; New API after v0.8.5).
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

ONE_API_KEY = "OneApiKeyOfAlice0123456789abcdefghijklmnopqrstuv"
NEW_API_KEY = "NewApiKeyOfBob00123456789abcdefghijklmnopqrstuvw"
UPSTREAM_KEY = "sk-upstream-secret-0123456789"

_ONE_API = Path(__file__).with_name("one_api.sql")
_NEW_API_TOKENS = Path(__file__).with_name("new_api_tokens.sql")


def insert(db: sqlite3.Connection, table: str, **values: Any) -> None:
    """One row."""
    names = ", ".join(f"`{name}`" for name in values)
    marks = ", ".join("?" for _ in values)
    db.execute(f"INSERT INTO `{table}` ({names}) VALUES ({marks})", list(values.values()))


def write_one_api(path: Path) -> Path:
    """A One API database: two groups, three users, five tokens, four channels."""
    db = sqlite3.connect(path)
    db.executescript(_ONE_API.read_text())
    insert(
        db,
        "channels",
        type=36,
        key=UPSTREAM_KEY,
        name="deepseek",
        models="deepseek-chat,deepseek-reasoner",
        group="default,vip",
        model_mapping='{"deepseek-chat": "deepseek-v3"}',
        priority=5,
    )
    insert(
        db,
        "channels",
        type=1,
        key="sk-other\nsk-second",
        name="own vLLM",
        models="qwen3,deepseek-chat",
        group="vip",
        base_url="http://10.0.0.9:8000",
        system_prompt="Be brief.",
    )
    insert(db, "channels", type=14, key="sk-ant", name="claude", models="claude-sonnet-4-5")
    insert(db, "channels", type=1, key="sk-off", name="old", models="gpt-4", status=2)
    _users(db)
    options = {
        "ModelRatio": json.dumps({"deepseek-chat": 0.135, "qwen3": 0.5}),
        "CompletionRatio": json.dumps({"deepseek-chat": 4}),
        "GroupRatio": json.dumps({"default": 1, "vip": 0.8}),
        "SMTPServer": "smtp.example.com",
    }
    for key, value in options.items():
        insert(db, "options", key=key, value=value)
    insert(db, "redemptions", user_id=1, key="r" * 32, quota=100)
    db.commit()
    db.close()
    return path


def write_new_api(path: Path) -> Path:
    """A New API database: one user, tokens limited by model and address, one of them deleted."""
    db = sqlite3.connect(path)
    db.executescript(_ONE_API.read_text().replace("`tokens`", "`old_tokens`"))
    db.executescript(_NEW_API_TOKENS.read_text())
    insert(db, "channels", type=43, key=UPSTREAM_KEY, name="deepseek", models="deepseek-chat")
    insert(db, "users", username="bob", password="$2a$hash", quota=1_000_000, display_name="Bob Ltd, 研发")
    insert(
        db,
        "tokens",
        user_id=1,
        key=NEW_API_KEY,
        name="app",
        unlimited_quota=1,
        model_limits_enabled=1,
        model_limits="deepseek-chat",
        allow_ips="192.0.2.1\n198.51.100.0/24",
    )
    insert(db, "tokens", user_id=1, key="N" * 48, name="no models", unlimited_quota=1, model_limits_enabled=1)
    insert(
        db,
        "tokens",
        user_id=1,
        key="D" * 48,
        name="deleted",
        unlimited_quota=1,
        deleted_at="2026-01-01 00:00:00",
    )
    insert(db, "options", key="ModelRatio", value=json.dumps({"deepseek-chat": 0.14}))
    insert(db, "options", key="CacheRatio", value=json.dumps({"deepseek-chat": 0.1}))
    insert(db, "options", key="CompletionRatio", value=json.dumps({"deepseek-chat": 1.5}))
    db.commit()
    db.close()
    return path


def _users(db: sqlite3.Connection) -> None:
    """Those of One API, and their tokens."""
    insert(
        db,
        "users",
        username="root",
        password="$2a$hash",
        role=100,
        quota=0,
        display_name="Root User",
        group="vip",
    )
    insert(
        db,
        "users",
        username="alice",
        password="$2a$hash",
        email="alice@example.com",
        quota=2_500_000,
        group="vip",
        access_token="a" * 32,
    )
    insert(db, "users", username="mallory", password="$2a$hash", status=2, quota=500_000)
    insert(db, "users", username="carol", password="$2a$hash", quota=500_000)
    insert(
        db,
        "tokens",
        user_id=2,
        key=ONE_API_KEY,
        name="app",
        unlimited_quota=1,
        models="deepseek-chat",
        subnet="10.1.0.0/16,192.0.2.7",
    )
    insert(
        db,
        "tokens",
        user_id=2,
        key="L" * 48,
        name="limited",
        remain_quota=250_000,
        expired_time=4_102_444_800,
    )
    insert(db, "tokens", user_id=2, key="X" * 48, name="used up", status=4)
    insert(db, "tokens", user_id=3, key="M" * 48, name="mallory's", unlimited_quota=1)
    insert(
        db, "tokens", user_id=4, key="S" * 48, name="bad subnet", unlimited_quota=1, subnet="not an address"
    )
