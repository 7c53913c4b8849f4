"""A One API or New API database as an import plan.

A user becomes a prepaid tenant with its balance, a user's tokens become keys of that tenant, a group of users
becomes a price plan. The programs keep tokens in plain; only their SHA-256 goes into the plan, so callers go
on using them. Neighbours: `one_api_channels.py`, `one_api_prices.py`.
Read against songquanpeng/one-api's and QuantumNous/new-api's `model/` folders.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable
from pathlib import Path

from sextant.base.errors import BadDocument
from sextant.operations.importing.catalogue import Catalogue
from sextant.operations.importing.fields import Fields
from sextant.operations.importing.one_api_channels import ENABLED, Channels
from sextant.operations.importing.one_api_prices import Prices, plan_id
from sextant.operations.importing.peers import peers
from sextant.operations.importing.plan import Ids, ImportPlan, Note, PlannedKey, PlannedTenant, key_id
from sextant.operations.importing.tables import Row, Tables, read_tables
from sextant.spec.policy import LimitRules, PricePlan

TABLES = ("channels", "tokens", "users", "options")
NEVER_S = -1
"""`expired_time` of a token that never expires."""
STATUS = {2: "disabled", 3: "expired", 4: "used up"}
_OTHERS = {
    "redemptions": "redemption codes; add money with `sextant balance top-up`",
    "top_ups": "the history of payments",
    "subscription_plans": "subscriptions",
    "user_subscriptions": "subscriptions",
    "midjourneys": "image jobs",
    "prefill_groups": "groups of the interface",
    "vendors": "names of the interface",
    "models": "names of the interface",
    "passkey_credentials": "people sign in anew",
    "two_fas": "people sign in anew",
}
NO_MODEL = "(no model)"
"""Stands where a list of models is empty and nothing is allowed; an empty list here allows everything."""
_USER_BOOKS = (
    "id",
    "used_quota",
    "request_count",
    "aff_code",
    "aff_count",
    "aff_quota",
    "aff_history",
    "inviter_id",
    "created_at",
    "updated_at",
    "last_login_at",
    "username",
)
_SIGN_IN = (
    "password",
    "email",
    "github_id",
    "wechat_id",
    "lark_id",
    "oidc_id",
    "linux_do_id",
    "telegram_id",
    "discord_id",
)
_TOKEN_BOOKS = (
    "id",
    "user_id",
    "created_time",
    "accessed_time",
    "used_quota",
    "created_at",
    "updated_at",
    "status",
)


def read_one_api(path: Path, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> ImportPlan:
    """The plan of a SQLite file or dump. Raises BadDocument when it is no such database."""
    tables = read_tables(path, frozenset([*TABLES, *_OTHERS]))
    if "tokens" not in tables or "users" not in tables:
        raise BadDocument(
            f"{path}: is no database of One API or New API: it has no tables `users` and `tokens`; name the "
            f"file one-api.db, or a dump of all tables"
        )
    return _Reader(path, tables, now_ms()).read()


class _Reader:
    def __init__(self, path: Path, tables: Tables, now_ms: int) -> None:
        self._path = path
        self._tables = tables
        self._now_ms = now_ms
        self._notes: list[Note] = []
        self._catalogue = Catalogue(self._notes)
        is_new = any("model_limits_enabled" in row for row in tables["tokens"]) or any(
            "channel_info" in row for row in tables.get("channels", [])
        )
        self._name = "New API" if is_new else "One API"
        known = peers().new_api if is_new else peers().one_api
        options = {str(row.get("key")): str(row.get("value") or "") for row in tables.get("options", [])}
        self._prices = Prices(options, peers().one_api.quota_per_usd, self._notes)
        self._channels = Channels(self._notes, self._catalogue, known)
        self._ids = Ids()
        self._tenants: dict[str, PlannedTenant] = {}
        self._groups: dict[str, str] = {}
        self._plans: dict[str, PricePlan] = {}
        self._keys: dict[str, PlannedKey] = {}

    def read(self) -> ImportPlan:
        self._channels.read(self._live("channels"))
        self._prices.note_unpriced(self._catalogue.names)
        for row in self._live("users"):
            self._user(Fields(row, f"user {row.get('id')} ({row.get('username')})", self._notes))
        for row in self._live("tokens"):
            self._token(Fields(row, f"token {row.get('id')} ({row.get('name')})", self._notes))
        for name, why in _OTHERS.items():
            if self._tables.get(name):
                self._notes.append(Note("left out", name, f"rows: {len(self._tables[name])}; {why}"))
        return ImportPlan(
            source=f"{self._name} {self._path.name}",
            document=self._catalogue.document(),
            tenants=tuple(self._tenants.values()),
            keys=tuple(self._keys.values()),
            plans=tuple(self._plans.values()),
            notes=tuple(self._notes),
            secrets=self._catalogue.secrets,
        )

    def _live(self, table: str) -> list[Row]:
        """The rows that are not deleted, oldest first. New API marks deleted rows and keeps them."""
        rows = [row for row in self._tables.get(table, []) if row.get("deleted_at") in (None, "")]
        return sorted(rows, key=lambda row: int(str(row.get("id") or 0)))

    def _user(self, user: Fields) -> None:
        number, username = user.text("id"), user.text("username")
        tenant_id = self._ids.of(username, number)
        group = user.text("group") or "default"
        quota = user.whole("quota") or 0
        status = user.whole("status") or ENABLED
        name = user.text("display_name") or username
        if status != ENABLED:
            user.note("disabled there; it and its tokens are not made here")
            user.items()
            return
        models = tuple(self._channels.by_group.get(group, {}))
        plan = self._plan(group)
        everyone = set(models) >= set(self._catalogue.names)
        if quota < 0:
            user.note(
                f"its balance is below zero by {-self._prices.amount_nano(quota) / 10**9:g} USD", "quota"
            )
        self._groups[number] = group
        self._tenants[number] = PlannedTenant(
            tenant_id,
            name,
            billing="prepaid" if plan else "free",
            plan=plan,
            models=() if everyone else self._catalogue.scope(models) or (NO_MODEL,),
            top_up_nano=max(0, self._prices.amount_nano(quota)) if plan else 0,
        )
        if not plan and quota > 0:
            user.note("its balance, since no model has a price here", "quota")
        if (user.whole("role") or 1) >= 10:
            user.note("an administrator there; give roles with `sextant user grant`", "role")
        for field in _SIGN_IN:
            user.leave(field, "people sign in anew; see `sextant user add`")
        user.leave("access_token", "a credential for One API's own interface")
        user.passes(*_USER_BOOKS)
        user.rest("has no equal here")

    def _plan(self, group: str) -> str:
        """The id of the group's plan; empty where nothing has a price."""
        if plan_id(group) not in self._plans:
            made = self._prices.plan(group, self._catalogue.names)
            if made is None:
                return ""
            self._plans[made.id] = made
        return plan_id(group)

    def _token(self, token: Fields) -> None:
        number, secret, name = token.text("user_id"), token.text("key"), token.text("name") or "unnamed"
        tenant = self._tenants.get(number)
        status = token.whole("status") or ENABLED
        expires_s = token.whole("expired_time")
        expires_ms = 0 if expires_s in (None, NEVER_S, 0) else int(expires_s or 0) * 1000
        networks = _networks(token.names("subnet") + token.names("allow_ips"))
        if not secret:
            refused = "it has no key"
        elif tenant is None:
            refused = "its user is disabled, deleted or missing"
        elif status != ENABLED:
            refused = f"{STATUS.get(status, 'not enabled')} there"
        elif 0 < expires_ms <= self._now_ms:
            refused = "expired"
        elif networks is None:
            refused = "the addresses that it may be used from cannot be read"
        else:
            refused = ""
        if refused or tenant is None:
            token.note(f"{refused}, so it is not made here")
            token.items()
            return
        full = secret if secret.startswith("sk-") else f"sk-{secret}"
        digest = hashlib.sha256(full.encode()).hexdigest()
        key = PlannedKey(
            id=key_id(digest),
            tenant_id=tenant.id,
            project_id="",
            name=name,
            sha256=digest,
            hint=f"{full[:7]}…{full[-4:]}",
            expires_ms=expires_ms,
            models=self._catalogue.scope(self._models(token)),
            networks=networks or (),
            limits=self._limits(token),
        )
        if digest in self._keys:
            token.note("the same key as another token's")
        self._keys.setdefault(digest, key)
        group = token.text("group")
        if group and group != self._groups[number]:
            token.note(f"group `{group}`: prices and models are those of the tenant here", "group")
        token.passes(*_TOKEN_BOOKS)
        token.rest("has no equal here")

    def _models(self, token: Fields) -> tuple[str, ...]:
        limited = token.names("model_limits")
        if token.flag("model_limits_enabled"):
            return limited or (NO_MODEL,)
        return token.names("models")

    def _limits(self, token: Fields) -> LimitRules:
        quota = token.whole("remain_quota") or 0
        if token.flag("unlimited_quota"):
            return LimitRules()
        left = max(0, self._prices.amount_nano(quota))
        token.changed(
            f"{left / 10**9:g} USD left for good becomes {left / 10**9:g} USD a calendar month; there is no "
            f"limit for good here, but the tenant's balance ends its use",
            "remain_quota",
        )
        return LimitRules(spend_nano_per_month=left)


def _networks(listed: tuple[str, ...]) -> tuple[str, ...] | None:
    """Addresses in CIDR notation; None when one cannot be read."""
    try:
        return tuple(str(ipaddress.ip_network(item, strict=False)) for item in listed)
    except ValueError:
        return None
