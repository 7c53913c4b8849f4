"""The prices of a One API or New API database: ratios of models, answers, caches and groups, as price plans.

One unit of quota is 1/500,000 dollar unless the option QuotaPerUnit says otherwise; a request costs (input +
cached x cache ratio + output x completion ratio) x model ratio x group ratio units. The source of both is in
`spec/data/importing.toml`.
"""

from __future__ import annotations

import decimal
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sextant.base.errors import BadDocument
from sextant.operations.importing.money import nano, price_of
from sextant.operations.importing.plan import CURRENCY, Note
from sextant.spec.policy import Price, PricePlan

_RATIOS = ("ModelRatio", "CompletionRatio", "CacheRatio", "GroupRatio", "ModelPrice")
OPTIONS_TOLD = 12
"""So many names of other options are listed; the rest are counted."""


class Prices:
    """The ratios that the options hold."""

    def __init__(self, options: Mapping[str, str], quota_per_usd: int, notes: list[Note]) -> None:
        self._notes = notes
        self._ratios = {name: _ratios(options.get(name, ""), name) for name in _RATIOS}
        self.quota_per_usd = Decimal(options.get("QuotaPerUnit") or quota_per_usd)
        if not self.quota_per_usd.is_finite() or self.quota_per_usd <= 0:
            raise BadDocument(f"option QuotaPerUnit: expected a number over 0, found {self.quota_per_usd}")
        others = sorted(set(options) - set(_RATIOS) - {"QuotaPerUnit"})
        if others:
            more = f" and {len(others) - OPTIONS_TOLD} more" if len(others) > OPTIONS_TOLD else ""
            said = f"settings of the program itself: {', '.join(others[:OPTIONS_TOLD])}{more}"
            notes.append(Note("left out", "options", said))

    def amount_nano(self, quota: int) -> int:
        """What so much quota is worth."""
        return nano(Decimal(quota) / self.quota_per_usd)

    def plan(self, group: str, models: tuple[str, ...]) -> PricePlan | None:
        """The prices of a group of users; None where the database states none of any model."""
        factor = self._ratios["GroupRatio"].get(group, Decimal(1))
        prices = [price for model in models if (price := self._price(model, factor)) is not None]
        if not prices:
            return None
        return PricePlan(plan_id(group), CURRENCY, tuple(prices))

    def note_unpriced(self, models: tuple[str, ...]) -> None:
        """Says which models have no price of their own, and which answers are priced as input."""
        priced = set(self._ratios["ModelRatio"]) | set(self._ratios["ModelPrice"])
        unpriced = [model for model in models if model not in priced]
        if unpriced:
            said = (
                f"of {', '.join(unpriced)}: the database states none (the program's built-in ratios are not "
                f"in it); they are refused until `sextant price set`"
            )
            self._notes.append(Note("left out", "prices", said))
        ratios = self._ratios["CompletionRatio"]
        equal = [model for model in models if model in self._ratios["ModelRatio"] and model not in ratios]
        if equal:
            said = f"no completion ratio of {', '.join(equal)} in the database: output costs as much as input"
            self._notes.append(Note("changed", "prices", said))

    def _price(self, model: str, factor: Decimal) -> Price | None:
        fixed = self._ratios["ModelPrice"].get(model)
        if fixed is not None:
            return price_of(model, {}, request=fixed * factor)
        ratio = self._ratios["ModelRatio"].get(model)
        if ratio is None:
            return None
        per_token = ratio * factor / self.quota_per_usd
        found = {
            "input": per_token,
            "output": per_token * self._ratios["CompletionRatio"].get(model, Decimal(1)),
            "cached": per_token * self._ratios["CacheRatio"].get(model, Decimal(1)),
        }
        return price_of(model, found)


def plan_id(group: str) -> str:
    """The id of a group's price plan."""
    return "one-api" if group == "default" else f"one-api-{group}"


def _ratios(text: str, name: str) -> dict[str, Decimal]:
    if not text:
        return {}
    try:
        tree: Any = json.loads(text, parse_float=Decimal, parse_int=Decimal)
        found = {str(model): Decimal(ratio) for model, ratio in dict(tree).items()}
    except (ValueError, TypeError, RecursionError, decimal.InvalidOperation):
        raise BadDocument(f"option {name}: expected JSON of names and numbers") from None
    wrong = next((model for model, ratio in found.items() if not ratio.is_finite() or ratio < 0), None)
    if wrong is not None:
        raise BadDocument(f"option {name}: the ratio of {wrong} is {found[wrong]}; expected 0 or more")
    return found
