"""Limits and budgets of a LiteLLM row, as limits here; what has no equal becomes what comes closest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sextant.operations.importing.fields import Fields
from sextant.operations.importing.money import nano
from sextant.operations.importing.plan import Note, PlannedBudget
from sextant.spec.policy import LimitRules

_MONTHS = frozenset({"30d", "31d", "1mo", "1m", "monthly"})
_BOOKS = (
    "created_at",
    "created_by",
    "updated_at",
    "updated_by",
    "settings_updated_at",
    "last_active",
    "last_rotation_at",
    "rotation_count",
    "key_rotation_at",
    "budget_reset_at",
    "soft_budget_cooldown",
    "model_spend",
    "total_spend",
    "spend",
    "budget_id",
    "key_name",
)


class LimitReader:
    """Reads limits out of rows and the budgets they name; `alerts` are those of soft budgets."""

    def __init__(
        self, budgets: Sequence[Mapping[str, Any]], notes: list[Note], emails: tuple[str, ...]
    ) -> None:
        self._budgets = {str(row.get("budget_id")): row for row in budgets}
        self._notes = notes
        self._emails = emails
        self.alerts: list[PlannedBudget] = []

    def of(self, row: Fields, scope: str) -> LimitRules:
        """The row's own limits, then those of the budget it names."""
        budget = self._budgets.get(row.text("budget_id"))
        rows = [row] if budget is None else [row, Fields(budget, f"{row.where}, its budget", self._notes)]
        found: dict[str, Any] = {}
        for fields in rows:
            requests_per_min = fields.whole("rpm_limit")
            if requests_per_min is not None:
                found.setdefault("requests_per_s", requests_per_min / 60)
                found.setdefault("burst_requests", max(1, requests_per_min))
            for name, ours in (
                ("tpm_limit", "tokens_per_min"),
                ("tpd_limit", "tokens_per_day"),
                ("max_parallel_requests", "concurrent_requests"),
            ):
                value = fields.whole(name)
                if value is not None:
                    found.setdefault(ours, value)
            spend = self._spend(fields)
            if spend is not None:
                found.setdefault("spend_nano_per_month", spend)
            soft = fields.number("soft_budget")
            if soft is not None and self._emails:
                self.alerts.append(PlannedBudget(scope, nano(soft), self._emails))
            elif soft is not None:
                fields.note(f"an alert at {soft} USD needs somebody to tell: --email ADDRESS", "soft_budget")
        for fields in rows[1:]:
            finish(fields)
        return LimitRules(**found)

    def _spend(self, fields: Fields) -> int | None:
        """The limit of a month's spend that comes closest to a budget."""
        most, duration = fields.number("max_budget"), fields.text("budget_duration")
        spent = fields.number("spend") or Decimal(0)
        if most is None:
            return None
        if duration in _MONTHS:
            if duration != "1mo":
                fields.changed(f"{most} USD in {duration} becomes {most} USD a calendar month", "max_budget")
            return nano(most)
        if duration:
            days = _days(duration)
            if days is None:
                fields.note(
                    f"{most} USD in `{duration}`, a span not understood: nothing may be spent", "max_budget"
                )
                return 0
            monthly = nano(most) * max(1, math.floor(28 / days)) if days < 28 else nano(most)
            fields.changed(
                f"{most} USD in {duration} becomes {monthly / 10**9:g} USD a calendar month; there is no "
                f"other span here",
                "max_budget",
            )
            return monthly
        left = max(Decimal(0), most - spent)
        fields.changed(
            f"{most} USD for good, {left} USD of it left, becomes {left} USD a calendar month; there is no "
            f"limit for good here",
            "max_budget",
        )
        return nano(left)


def finish(row: Fields) -> None:
    """Passes over LiteLLM's own books, and tells of whatever else is left of a row."""
    row.passes(*_BOOKS, "max_budget", "budget_duration")
    row.leave("metadata", "LiteLLM's own settings and notes of whoever made it")
    row.rest("has no equal here")


def _days(duration: str) -> float | None:
    """Days of LiteLLM's way to write a span: `30s`, `30m`, `24h`, `7d`, `1w`, `1mo`."""
    found = re.fullmatch(r"(\d{1,6})(s|m|h|d|w|mo)", duration)
    if found is None or int(found.group(1)) == 0:
        return {"daily": 1.0, "weekly": 7.0}.get(duration)
    length = {"s": 1 / 86_400, "m": 1 / 1_440, "h": 1 / 24, "d": 1.0, "w": 7.0, "mo": 30.0}
    return int(found.group(1)) * length[found.group(2)]
