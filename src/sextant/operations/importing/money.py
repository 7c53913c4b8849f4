"""Foreign prices and budgets in our units, exactly: decimals of dollars become integer billionths."""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from decimal import Decimal

from sextant.spec.policy import NANO, Price

MTOK = 1_000_000


def nano(amount: Decimal) -> int:
    """A decimal amount as billionths, half to even where it is finer than that."""
    return int((amount * NANO).to_integral_value(rounding=decimal.ROUND_HALF_EVEN))


def per_mtok_nano(per_token: Decimal) -> int:
    """A decimal price per token as billionths per million tokens."""
    return nano(per_token * MTOK)


def price_of(model: str, per_token: Mapping[str, Decimal], request: Decimal = Decimal(0)) -> Price:
    """A price of decimals per token: `input`, and where they differ `cached`, `output`, `reasoning`."""
    input_price = per_token.get("input", Decimal(0))
    output_price = per_token.get("output", input_price)
    return Price(
        model=model,
        input_nano_per_mtok=per_mtok_nano(input_price),
        cached_nano_per_mtok=per_mtok_nano(per_token.get("cached", input_price)),
        output_nano_per_mtok=per_mtok_nano(output_price),
        reasoning_nano_per_mtok=per_mtok_nano(per_token.get("reasoning", output_price)),
        request_nano=nano(request),
    )
