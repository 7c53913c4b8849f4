"""What a request costs: the price book that the ledger rates by and the governor reserves by.

Pure: a policy snapshot in, integers out. Flow 1 (serve), at admission (`most_nano`) and in the ledger process
(`rate`). Everything that does not depend on the request is worked out once a snapshot: which price of a model
holds when, what a token can cost at most. Amounts are exact until the one rounding at the end of a row.
Neighbours: `sextant.spec.policy` says what the nouns mean, `sextant.app.ledger_process` injects this.
"""

from __future__ import annotations

import datetime
import zoneinfo
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

import msgspec

from sextant.base.errors import Misconfigured
from sextant.spec.policy import PPM, Billing, OffPeak, Price, PricePlan, TenantPolicy, VolumeStep
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.usage import UNBILLED, UsageRow

MTOK = 1_000_000
"""Prices are per so many tokens."""
_COST_DIVISOR = MTOK * PPM * PPM
_MINUTE_MS = 60_000
"""No zone's clock jumps inside a minute of UTC (a test looks at every zone until 2037; a quarter of an hour
would not do: Antarctica/Casey has jumped at a minute past midnight)."""
_EVERY_OTHER = "*"


class Rated(msgspec.Struct, frozen=True, gc=False):
    """What one row costs. `list_nano` is that without volume steps and off-peak windows."""

    cost_nano: int
    list_nano: int
    currency: str


class LocalClock:
    """Days, months and minutes of one time zone, with the last minute remembered."""

    __slots__ = ("_last", "_zone")

    def __init__(self, time_zone: str) -> None:
        """Raises Misconfigured for a zone that the time zone database does not have."""
        try:
            self._zone = zoneinfo.ZoneInfo(time_zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise Misconfigured(
                f"there is no time zone {time_zone!r}; write one of the IANA database, as Asia/Shanghai"
            ) from error
        self._last = (-1, 0, 0, 0)

    def day_and_month(self, at_ms: int) -> tuple[int, int]:
        """The calendar day (20261122) and month (202611) of a moment."""
        minute = at_ms // _MINUTE_MS
        last = self._last
        if last[0] != minute:
            last = self._look_up(minute)
        return last[1], last[2]

    def minute(self, at_ms: int) -> int:
        """Minutes since midnight on the wall clock; 0 to 1439, whatever the clock did that day."""
        minute = at_ms // _MINUTE_MS
        last = self._last
        if last[0] != minute:
            last = self._look_up(minute)
        return last[3]

    def month_bounds_ms(self, month: int) -> tuple[int, int]:
        """First moment of the month (202611) and of the one after it. Raises ValueError for no month."""
        year, number = divmod(month, 100)
        first = datetime.datetime(year, number, 1, tzinfo=self._zone)
        after = datetime.datetime(year + number // 12, number % 12 + 1, 1, tzinfo=self._zone)
        return int(first.timestamp()) * 1000, int(after.timestamp()) * 1000

    def _look_up(self, minute: int) -> tuple[int, int, int, int]:
        local = datetime.datetime.fromtimestamp(minute * 60, self._zone)
        month = local.year * 100 + local.month
        # One assignment of a whole tuple, so that threads may share the clock.
        self._last = found = (minute, month * 100 + local.day, month, local.hour * 60 + local.minute)
        return found


class PriceBook:
    """The prices of one policy snapshot."""

    def __init__(self, policy: PolicySnapshot, on_stranger: Callable[[UsageRow], None] | None = None) -> None:
        """`on_stranger` is told of each row whose tenant the policy lacks. Raises Misconfigured when a
        tenant's plan is not in the snapshot, or a time zone does not exist."""
        self.version = policy.version
        self._on_stranger = on_stranger
        clocks: dict[str, LocalClock] = {}
        tariffs = {plan.id: _Tariff(plan, clocks) for plan in policy.plans}
        self._tenants = {tenant.id: _Customer(tenant, tariffs, clocks) for tenant in policy.tenants}
        self._stranger = _Customer(TenantPolicy(id="", name=""), tariffs, clocks)

    def rate(self, row: UsageRow, month_tokens_before: int) -> Rated:
        """What `row` costs after `month_tokens_before` tokens of its tenant's month. Zeros where nothing is
        charged: a free tenant or one without a plan, an outcome in `UNBILLED`, a model without a price."""
        customer = self._tenants.get(row.tenant_id)
        if customer is None:
            customer = self._stranger
            if self._on_stranger is not None:
                self._on_stranger(row)
        tariff = customer.tariff
        if tariff is None or row.outcome in UNBILLED:
            return customer.nothing
        rate = tariff.rate_at(row.model, row.started_ms)
        if rate is None:
            return customer.nothing
        price = rate.price
        # What an engine reports is not believed to add up: a part is never more than its whole.
        fresh, cached = row.input_tokens, row.cached_tokens
        spoken, reasoning = row.output_tokens, row.reasoning_tokens
        if cached > fresh:
            cached = fresh
        if reasoning > spoken:
            reasoning = spoken
        fresh -= cached
        spoken -= reasoning
        tokens = (
            cached * price.cached_nano_per_mtok
            + fresh * price.input_nano_per_mtok
            + reasoning * price.reasoning_nano_per_mtok
            + spoken * price.output_nano_per_mtok
        )
        request = price.request_nano * MTOK
        list_nano, rest = divmod(tokens + request, MTOK)
        if rest:
            list_nano = _rounded(tokens + request, MTOK)
        weighted = tokens * PPM
        if tariff.steps and month_tokens_before + row.input_tokens + row.output_tokens > tariff.first_line:
            parts = (
                (cached, price.cached_nano_per_mtok),
                (fresh, price.input_nano_per_mtok),
                (reasoning, price.reasoning_nano_per_mtok),
                (spoken, price.output_nano_per_mtok),
            )
            weighted = _stepped(parts, month_tokens_before, tariff.steps)
        elif not price.off_peak:
            return Rated(list_nano, list_nano, customer.currency)
        window_ppm = rate.window_ppm(row.started_ms)
        cost_nano = _rounded((weighted + request * PPM) * window_ppm, _COST_DIVISOR)
        return Rated(cost_nano, list_nano, customer.currency)

    def most_nano(
        self, tenant_id: str, model: str, input_tokens: int, output_tokens: int, at_ms: int
    ) -> int | None:
        """The most that a request started at `at_ms` can cost with at most so many tokens, whatever share of
        them is cached or reasoning, wherever the month's count stands: `rate` never says more. 0: free. None:
        the tenant is charged by a plan that says nothing of `model` at that time."""
        tariff = self._tenants.get(tenant_id, self._stranger).tariff
        if tariff is None:
            return 0
        rate = tariff.rate_at(model, at_ms)
        if rate is None:
            return None
        most = input_tokens * rate.most_input + output_tokens * rate.most_output + rate.most_request
        return -(-most // _COST_DIVISOR)

    def day_and_month(self, tenant_id: str, at_ms: int) -> tuple[int, int]:
        """The day (20261122) and month (202611) of a moment in the tenant's time zone."""
        return self._tenants.get(tenant_id, self._stranger).clock.day_and_month(at_ms)

    def billing(self, tenant_id: str) -> Billing:
        """How the tenant pays; a stranger is free."""
        return self._tenants.get(tenant_id, self._stranger).billing

    def currency(self, tenant_id: str) -> str:
        """What the tenant is charged in: its plan's currency, or its own where it has no plan."""
        return self._tenants.get(tenant_id, self._stranger).currency


_Timeline = tuple[list[int], list["_Rate | None"]]
"""Moments at which another price begins, and the prices before the first, between, and after the last."""


class _Rate:
    """One price with what can be said of it before any request is known."""

    __slots__ = ("_windows", "most_input", "most_output", "most_request", "price")

    def __init__(self, price: Price, steps: Sequence[VolumeStep], clocks: dict[str, LocalClock]) -> None:
        self.price = price
        self._windows = tuple((_clock(clocks, window.time_zone), window) for window in price.off_peak)
        step_ppm = max([PPM, *(step.factor_ppm for step in steps)])
        window_ppm = max([PPM, *(window.factor_ppm for window in price.off_peak)])
        token_ppm = step_ppm * window_ppm
        self.most_input = max(price.input_nano_per_mtok, price.cached_nano_per_mtok) * token_ppm
        self.most_output = max(price.output_nano_per_mtok, price.reasoning_nano_per_mtok) * token_ppm
        self.most_request = price.request_nano * MTOK * PPM * window_ppm

    def window_ppm(self, at_ms: int) -> int:
        """The factor of the first window that is open at `at_ms`."""
        for clock, window in self._windows:
            if _is_open(window, clock.minute(at_ms)):
                return window.factor_ppm
        return PPM


class _Tariff:
    """A plan, laid out so that a price is found by model and moment alone."""

    __slots__ = ("_others", "_rates", "_timelines", "currency", "first_line", "steps")

    def __init__(self, plan: PricePlan, clocks: dict[str, LocalClock]) -> None:
        self.currency = plan.currency
        self.steps = tuple(sorted(plan.volume, key=lambda step: step.over_tokens))
        self.first_line = self.steps[0].over_tokens if self.steps else 0
        self._rates = {price: _Rate(price, self.steps, clocks) for price in plan.prices}
        self._others = self._timeline(plan.prices, _EVERY_OTHER)
        self._timelines = {
            price.model: self._timeline(plan.prices, price.model)
            for price in plan.prices
            if price.model != _EVERY_OTHER
        }

    def rate_at(self, model: str, at_ms: int) -> _Rate | None:
        """The price of `model` for a request that started at `at_ms`."""
        starts, rates = self._timelines.get(model, self._others)
        return rates[bisect_right(starts, at_ms)]

    def _timeline(self, prices: Sequence[Price], model: str) -> _Timeline:
        concerned = [price for price in prices if price.model in (model, _EVERY_OTHER)]
        bounds = {at for price in concerned for at in (price.valid_from_ms, price.valid_until_ms)}
        starts = sorted(bounds)
        holding = [price_at(concerned, model, start) for start in starts]
        return starts, [None, *(None if price is None else self._rates[price] for price in holding)]


class _Customer:
    """A tenant as far as money goes."""

    __slots__ = ("billing", "clock", "currency", "nothing", "tariff")

    def __init__(
        self, tenant: TenantPolicy, tariffs: dict[str, _Tariff], clocks: dict[str, LocalClock]
    ) -> None:
        self.billing = tenant.billing
        self.clock = _clock(clocks, tenant.time_zone)
        self.tariff: _Tariff | None = None
        if tenant.plan and tenant.billing != "free":
            self.tariff = tariffs.get(tenant.plan)
            if self.tariff is None:
                raise Misconfigured(
                    f"tenant {tenant.id} is charged by the plan {tenant.plan!r}, which the policy lacks; "
                    f"it has {', '.join(tariffs) or 'none'}"
                )
        self.currency = self.tariff.currency if self.tariff else tenant.currency
        self.nothing = Rated(0, 0, self.currency)


def price_at(prices: Iterable[Price], model: str, at_ms: int) -> Price | None:
    """The price of `model` that holds at `at_ms`, None where none does: its own before the one for every
    other; of several the one that began last; of equals the one written last."""
    found: Price | None = None
    for price in prices:
        if price.model not in (model, _EVERY_OTHER):
            continue
        if at_ms < price.valid_from_ms or 0 < price.valid_until_ms <= at_ms:
            continue
        if found is None or _rank(price) >= _rank(found):
            found = price
    return found


def _rank(price: Price) -> tuple[bool, int]:
    return price.model != _EVERY_OTHER, price.valid_from_ms


def _stepped(parts: Sequence[tuple[int, int]], before: int, steps: Sequence[VolumeStep]) -> int:
    """The parts' amounts in nano times `MTOK` times `PPM`, each token at the factor of the last step that the
    month's count has passed when it comes."""
    factor_ppm = PPM
    ahead: list[VolumeStep] = []
    for step in steps:
        if step.over_tokens <= before:
            factor_ppm = step.factor_ppm
        else:
            ahead.append(step)
    total = 0
    for count, nano in parts:
        while ahead and before + count > ahead[0].over_tokens:
            step = ahead.pop(0)
            taken = step.over_tokens - before
            total += taken * nano * factor_ppm
            before, count = step.over_tokens, count - taken
            factor_ppm = step.factor_ppm
        total += count * nano * factor_ppm
        before += count
    return total


def _is_open(window: OffPeak, minute: int) -> bool:
    if window.from_minute <= window.until_minute:
        return window.from_minute <= minute < window.until_minute
    return minute >= window.from_minute or minute < window.until_minute


def _rounded(amount: int, divisor: int) -> int:
    """`amount / divisor`, half to even (both not negative)."""
    whole, rest = divmod(amount, divisor)
    twice = 2 * rest
    return whole + 1 if twice > divisor or (twice == divisor and whole & 1) else whole


def _clock(clocks: dict[str, LocalClock], time_zone: str) -> LocalClock:
    clock = clocks.get(time_zone)
    if clock is None:
        clock = clocks[time_zone] = LocalClock(time_zone)
    return clock
